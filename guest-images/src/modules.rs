//! Kernel modules and what they depend on. A package has no modules.dep (the kernel's installation makes it), so the
//! modules themselves are asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The modules of one kernel, by name.
#[derive(Clone, Debug)]
pub(crate) struct Modules(BTreeMap<String, PathBuf>);

impl Modules {
    /// Finds all modules below a directory.
    pub(crate) fn scan(directory: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut left = vec![directory.to_owned()];
        while let Some(directory) = left.pop() {
            let unreadable = || format!("cannot read {}", directory.display());
            for entry in fs::read_dir(&directory).with_context(unreadable)? {
                let entry = entry.with_context(unreadable)?;
                let path = entry.path();
                if entry.file_type().with_context(unreadable)?.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko")
                    && let Some(name) = path.file_stem()
                {
                    found.insert(plain(&name.to_string_lossy()), path);
                }
            }
        }
        Ok(Self(found))
    }

    /// Names and files of the wanted module and of all that it depends on, in an order in which they can be loaded.
    ///
    /// # Errors
    /// There is no such module (perhaps it is built in), or a file cannot be read.
    pub(crate) fn in_order(&self, wanted: &str) -> Result<Vec<(String, PathBuf)>> {
        let mut order = Vec::new();
        self.visit(&plain(wanted), &mut Vec::new(), &mut order)?;
        Ok(order)
    }

    fn visit(&self, name: &str, above: &mut Vec<String>, order: &mut Vec<(String, PathBuf)>) -> Result<()> {
        // A circle cannot be loaded; the kernel says so better than we.
        if order.iter().any(|(done, _)| done == name) || above.iter().any(|begun| begun == name) {
            return Ok(());
        }
        let path = self.0.get(name).with_context(|| format!("the kernel's package has no module {name}"))?;
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        above.push(name.to_owned());
        for needed in dependencies(&bytes) {
            self.visit(&needed, above, order)?;
        }
        above.pop();
        order.push((name.to_owned(), path.clone()));
        Ok(())
    }
}

/// A dash in a file's name is an underscore in the module's.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// What the `depends=` entry of a module's `.modinfo` says (strings that end with NUL).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, depends: &str) {
        let file = directory.join(format!("{name}.ko"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("\u{7f}ELF\0license=GPL\0depends={depends}\0name=x\0")).unwrap();
    }

    fn names(modules: &Modules, wanted: &str) -> Vec<String> {
        modules.in_order(wanted).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "net/virtio_net", "virtio-ring,virtio,net_failover");
        write(root.path(), "net/net_failover", "failover");
        write(root.path(), "net/core/failover", "");
        write(root.path(), "virtio/virtio", "");
        write(root.path(), "virtio/virtio_ring", "virtio");
        write(root.path(), "kvm/kvm-amd", "kvm");
        write(root.path(), "kvm/kvm", "");
        let modules = Modules::scan(root.path()).unwrap();
        assert_eq!(
            names(&modules, "virtio_net"),
            ["virtio", "virtio_ring", "failover", "net_failover", "virtio_net"]
        );
        assert_eq!(names(&modules, "kvm-amd"), ["kvm", "kvm_amd"]);
        let missing = modules.in_order("ext4").unwrap_err().to_string();
        assert!(missing.contains("ext4"), "{missing}");
    }

    #[test]
    fn a_circle_ends() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a", "b");
        write(root.path(), "b", "a");
        assert_eq!(names(&Modules::scan(root.path()).unwrap(), "a"), ["b", "a"]);
    }
}
