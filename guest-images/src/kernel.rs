//! Debian's kernel for virtual machines, unmodified.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::deb;
use crate::modules::Modules;

/// The meta package, and how the packages that it stands for are called.
const META: (&str, &str) = ("linux-image-cloud-amd64", "linux-image-");

/// A kernel and its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// What `uname -r` will say.
    pub release: String,
    pub(crate) modules: Modules,
}

/// Fetches the kernel of `linux-image-cloud-amd64`, unless it is there already.
///
/// # Errors
/// apt is missing or cannot fetch the package.
pub fn cloud_kernel() -> Result<Kernel> {
    let tree = deb::fetch(&deb::depends(META.0, META.1)?)?.tree;
    let boot = tree.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let release = entries
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .with_context(|| format!("{} holds no vmlinuz", boot.display()))?;
    let modules = Modules::scan(&tree.join("lib/modules").join(&release))?;
    Ok(Kernel { image: boot.join(format!("vmlinuz-{release}")), release, modules })
}
