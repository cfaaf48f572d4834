//! Recipes that build the guests used in tests, drills and benchmarks.
//!
//! A recipe builds once and keeps the result under `target/guests`, named by a digest of what went into it or of
//! itself: a guest that is there is current, one that is not is built. The same inputs give the same bytes.

mod cache;
mod cpio;
mod deb;
mod debian;
mod ext4;
mod initramfs;
mod kernel;
mod mini;
mod modules;
mod recipe;

use std::path::PathBuf;

pub use debian::{client_key, debian};
pub use ext4::file_system;
pub use initramfs::Initramfs;
pub use kernel::{Kernel, cloud_kernel};
pub use mini::mini;
pub use recipe::{MicroOptions, chaos, micro};

/// A Linux guest, ready for direct boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxImage {
    /// The kernel: a bzImage.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
    /// The kernel's command line. More words may be added.
    pub cmdline: String,
    /// What the guest expects as /dev/vda, /dev/vdb and so on.
    pub disks: Vec<Disk>,
}

/// A disk of a guest, as it is before the first boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What it is for: a short word.
    pub name: &'static str,
    /// A raw image, to be copied: it is shared by all runs and never written.
    pub template: PathBuf,
}
