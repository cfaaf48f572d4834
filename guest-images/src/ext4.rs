//! An ext4 image from a directory, the same bytes for the same content.
//!
//! `mke2fs -d` keeps the times at which the files were made and read here. They are evened out afterwards, in the inodes
//! themselves (Documentation/filesystems/ext4: super.rst, group_descr.rst, inodes.rst). The checksums of metadata are off, so
//! that a changed inode needs no other change.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::deb;

/// No file is younger (seconds since 1970): the beginning of 2024.
pub(crate) const EPOCH: u32 = 1_704_067_200;
/// Same identity for every image: a guest sees one at a time, by the device's name.
const UUID: &str = "7477696e-7275-6e00-8000-000000000001";
const HASH_SEED: &str = "7477696e-7275-6e00-8000-000000000002";

const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xEF53;
/// Bit of the incompatible features: descriptors of groups have 64 bytes.
const WIDE: u32 = 0x80;
/// Bit of the read-only compatible features: metadata has checksums.
const CHECKSUMS: u32 = 0x400;

/// What becomes the root directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// A copy of this directory.
    Tree(&'a Path),
    /// An empty directory of this user and group.
    Empty(u32, u32),
}

/// Makes an image of so many bytes. Zeros take no space.
pub(crate) fn make(image: &Path, bytes: u64, content: Content<'_>) -> Result<()> {
    File::create(image)
        .and_then(|file| file.set_len(bytes))
        .with_context(|| format!("cannot create {}", image.display()))?;
    let mut mke2fs = Command::new("mke2fs");
    let path = std::env::var("PATH").unwrap_or_default();
    mke2fs.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("E2FSPROGS_FAKE_TIME", EPOCH.to_string());
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-U", UUID]);
    let mut extended = format!("hash_seed={HASH_SEED},lazy_itable_init=0,lazy_journal_init=0");
    match content {
        Content::Tree(tree) => {
            mke2fs.arg("-d").arg(tree);
        }
        Content::Empty(user, group) => extended += &format!(",root_owner={user}:{group}"),
    }
    deb::run(mke2fs.args(["-E", &extended]).arg(image))?;
    even_out(image)
}

/// Makes an ext4 image of so many bytes that holds a copy of the directory `tree`, the same bytes for the same content: a
/// way to hand many or large files to a machine. Holes in files and zeros take no space.
///
/// # Errors
/// mke2fs (of Debian's package e2fsprogs) is missing or fails: perhaps the image is too small.
pub fn file_system(image: &Path, bytes: u64, tree: &Path) -> Result<()> {
    make(image, bytes, Content::Tree(tree))
}

/// What must be known of a file system to find its inodes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    block: u64,
    groups: u64,
    inodes_per_group: u64,
    inode: u64,
    descriptor: u64,
    /// Where the descriptors begin, in bytes.
    descriptors: u64,
}

impl Layout {
    fn read(file: &File) -> Result<Self> {
        let mut bytes = [0; 1024];
        file.read_exact_at(&mut bytes, SUPERBLOCK)?;
        ensure!(half(&bytes, 0x38) == MAGIC, "mke2fs has made no ext4 file system");
        ensure!(word(&bytes, 0x64) & CHECKSUMS == 0, "mke2fs has made checksums although told not to");
        let block = 1024_u64 << word(&bytes, 0x18).min(6);
        let inodes_per_group = u64::from(word(&bytes, 0x28)).max(1);
        let wide = word(&bytes, 0x60) & WIDE != 0;
        Ok(Self {
            block,
            groups: u64::from(word(&bytes, 0)).div_ceil(inodes_per_group),
            inodes_per_group,
            inode: u64::from(half(&bytes, 0x58)),
            descriptor: if wide { u64::from(half(&bytes, 0xFE)) } else { 32 },
            descriptors: (u64::from(word(&bytes, 0x14)) + 1) * block,
        })
    }

    /// Where the inodes of a group begin, in bytes.
    fn table(&self, file: &File, group: u64) -> Result<u64> {
        let mut bytes = [0; 64];
        let length = usize::try_from(self.descriptor)?.min(bytes.len());
        file.read_exact_at(&mut bytes[..length], self.descriptors + group * self.descriptor)?;
        Ok((u64::from(word(&bytes, 8)) | u64::from(word(&bytes, 0x28)) << 32) * self.block)
    }
}

/// Every inode was made, changed and read when its content was last modified, and not after [`EPOCH`].
fn even_out(image: &Path) -> Result<()> {
    let failed = || format!("cannot change {}", image.display());
    let file = OpenOptions::new().read(true).write(true).open(image).with_context(failed)?;
    let layout = Layout::read(&file).with_context(failed)?;
    let size = usize::try_from(layout.inode)?;
    ensure!(size >= 160, "mke2fs has made inodes of {size} bytes");
    let mut table = vec![0; size * usize::try_from(layout.inodes_per_group)?];
    for group in 0..layout.groups {
        let start = layout.table(&file, group).with_context(failed)?;
        file.read_exact_at(&mut table, start).with_context(failed)?;
        let before = table.clone();
        table.chunks_exact_mut(size).for_each(settle);
        // Nothing is written where nothing lies: the image stays sparse.
        if table != before {
            file.write_all_at(&table, start).with_context(failed)?;
        }
    }
    Ok(())
}

/// `i_mode` at 0, the times of access, change and modification at 8, 12 and 16; their fractions at 0x84, 0x8C and 0x88, that of
/// creation at 0x94, creation at 0x90.
fn settle(inode: &mut [u8]) {
    if half(inode, 0) == 0 {
        return;
    }
    let time = word(inode, 16).min(EPOCH);
    for at in [8, 12, 16, 0x90] {
        inode[at..at + 4].copy_from_slice(&time.to_le_bytes());
    }
    for at in [0x84, 0x88, 0x8C, 0x94] {
        inode[at..at + 4].fill(0);
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};

    const SIZE: u64 = 16 << 20;

    fn tree(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name.repeat(1000)).unwrap();
        }
        // One file is older than the epoch: its time is content.
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(root.join(names[0])).unwrap().set_modified(old).unwrap();
    }

    fn image(names: &[&str], old: usize) -> Vec<u8> {
        let work = tempfile::tempdir().unwrap();
        let (root, image) = (work.path().join("tree"), work.path().join("image"));
        let mut ordered = names.to_vec();
        ordered.swap(0, old);
        tree(&root, &ordered);
        make(&image, SIZE, Content::Tree(&root)).unwrap();
        fs::read(image).unwrap()
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_whenever_and_in_whatever_order_it_was_made() {
        let names = ["a/b/c", "a/d", "z", "a/b/e", "q/r"];
        let backwards = ["q/r", "a/b/e", "z", "a/d", "a/b/c"];
        let first = image(&names, 0);
        assert!(first == image(&backwards, 4), "the images differ");
        assert!(first != image(&names, 1), "the age of a file is content");
    }

    #[test]
    fn an_empty_image_belongs_to_whom_it_was_made_for() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("image");
        make(&path, SIZE, Content::Empty(100, 102)).unwrap();
        let file = File::open(&path).unwrap();
        let layout = Layout::read(&file).unwrap();
        let mut inode = [0; 256];
        // The root directory is inode 2 and inodes are counted from 1; user and group stand at 2 and 0x18.
        file.read_exact_at(&mut inode, layout.table(&file, 0).unwrap() + layout.inode).unwrap();
        assert_eq!((half(&inode, 2), half(&inode, 0x18), word(&inode, 16)), (100, 102, EPOCH));
    }
}
