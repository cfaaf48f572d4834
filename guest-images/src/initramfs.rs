//! An initial file system: busybox, kernel modules, some programs, and a script as its first process.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::{cache, deb};

/// Where busybox lies, in the package and in the archive.
const BUSYBOX: &str = "bin/busybox";

/// What every first process does first.
const BEGIN: &str = "#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
";

/// An initial file system in the making.
#[derive(Clone, Debug)]
pub struct Initramfs {
    archive: Archive,
    script: String,
}

impl Initramfs {
    /// Begins with Debian's static busybox, all its commands in `/bin`, and `/dev`, `/proc` and `/sys` mounted.
    ///
    /// # Errors
    /// The package cannot be fetched.
    pub fn new() -> Result<Self> {
        let busybox = deb::fetch("busybox-static")?.tree.join(BUSYBOX);
        let mut archive = Archive::default();
        // The kernel opens it for the first process, before anything is mounted.
        archive.device("/dev/console", 5, 1);
        for directory in ["/proc", "/sys", "/tmp", "/root"] {
            archive.directory(directory);
        }
        for command in deb::run(Command::new(&busybox).arg("--list"))?.split_whitespace() {
            archive.link(&format!("/bin/{command}"), "busybox");
        }
        let mut made = Self { archive, script: BEGIN.to_owned() };
        made.copy(BUSYBOX, &busybox)?;
        Ok(made)
    }

    /// Loads modules, and before each those that it depends on. A module may have options: `"kvm_amd npt=1"`.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub fn load(&mut self, kernel: &Kernel, wanted: &[&str]) -> Result<()> {
        for word in wanted {
            let (wanted, options) = word.split_once(' ').unwrap_or((word, ""));
            for (name, path) in kernel.modules.in_order(wanted)? {
                let inside = format!("/modules/{name}.ko");
                if !self.archive.has(&inside) {
                    self.copy(&inside, &path)?;
                    let options = if name == wanted { options } else { "" };
                    self.run(&format!("insmod {inside} {options}"));
                }
            }
        }
        Ok(())
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        self.archive.file(path, permissions, data.to_vec());
    }

    /// Adds a program of this machine, with its dynamic linker and libraries at the places where it looks for them.
    ///
    /// # Errors
    /// The program or a library of it cannot be read.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        self.copy(path, source)?;
        for library in libraries(source)? {
            if !self.archive.has(&library) {
                self.copy(&library, Path::new(&library))?;
            }
        }
        Ok(())
    }

    /// Adds lines to the first process's script. It must not end.
    pub fn run(&mut self, lines: &str) {
        self.script.push_str(lines);
        self.script.push('\n');
    }

    /// Keeps the result as `NAME-DIGEST.initrd` and returns the path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self, name: &str) -> Result<PathBuf> {
        self.archive.file("/init", 0o755, self.script.into_bytes());
        cache::keep(name, "initrd", &self.archive.encode()?)
    }

    fn copy(&mut self, inside: &str, source: &Path) -> Result<()> {
        let failed = || format!("cannot read {}", source.display());
        let permissions = fs::metadata(source).with_context(failed)?.permissions().mode() & 0o555;
        self.archive.file(inside, permissions, fs::read(source).with_context(failed)?);
        Ok(())
    }
}

/// The files that a program is linked with; none if it is static.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output();
    let output = output.context("cannot run ldd, of Debian's package libc-bin")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    if refused.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    anyhow::ensure!(output.status.success(), "ldd {} failed: {}", program.display(), refused.trim());
    listed(&text).with_context(|| format!("{} lacks a library", program.display()))
}

/// The paths in ldd's output; `Err` names the first library that it did not find.
fn listed(text: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in text.lines() {
        let found = line.split_once("=>").map_or(line, |(_, found)| found);
        anyhow::ensure!(!found.contains("not found"), "{}", line.trim());
        // A line without a path is the kernel's own library.
        if let Some(path) = found.split_whitespace().next().filter(|word| word.starts_with('/')) {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x0)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0)\n\t/lib64/ld-linux-x86-64.so.2 (0x0)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(listed(text).unwrap(), expected);
        let missing = listed("\tlibz.so.1 => not found\n").unwrap_err().to_string();
        assert!(missing.contains("libz.so.1"), "{missing}");
    }
}
