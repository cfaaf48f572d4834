//! A disk image: a file (or block device) of whole sectors that one process at a time may have.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::sys;

/// Size of a sector in bytes.
pub const SECTOR: u64 = 512;

/// Why a disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("Cannot open disk image {}: {error}. It must exist and be writable", path.display())]
    Open {
        /// Path of the image.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// Another process has it.
    #[error("Disk image {} is in use by another process: stop it, or give this host an image of its own", .0.display())]
    InUse(PathBuf),
    /// Empty, or not a whole number of sectors.
    #[error("Disk image {} has {size} bytes: it must be a raw image of one or more whole 512-byte sectors; `truncate -s` changes its size", path.display())]
    Size {
        /// Path of the image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

/// An open and locked disk image.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    file: File,
    size: u64,
    /// Written since the last successful [`Disk::sync`]. True at first: an earlier process may have left
    /// unflushed data.
    unsynced: bool,
}

impl Disk {
    /// Opens and locks an image. The lock goes with the process.
    ///
    /// # Errors
    /// [`DiskError`], which says what to do.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let failed = |error| DiskError::Open { path: path.to_owned(), error };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Not the metadata's length: that of a block device is 0.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 || size % SECTOR != 0 {
            return Err(DiskError::Size { path: path.to_owned(), size });
        }
        Ok(Self::of(path, file, size))
    }

    fn of(path: &Path, file: File, size: u64) -> Self {
        Disk { path: path.to_owned(), file, size, unsynced: true }
    }

    /// An image that can only be read: each write fails.
    #[cfg(test)]
    pub(super) fn broken(path: &Path) -> Self {
        let file = File::open(path).expect("open");
        let size = file.metadata().expect("metadata").len();
        Self::of(path, file, size)
    }

    /// Path of the image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.size / SECTOR
    }

    /// Whether these bytes lie inside the image.
    pub(super) fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }

    /// Byte offset of a sector, when `len` bytes from there are whole sectors of the image.
    pub(super) fn offset(&self, sector: u64, len: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        (len.is_multiple_of(SECTOR) && self.contains(offset, len)).then_some(offset)
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// Whether a whole range is a hole of the file, and so reads as zeroes.
    pub(super) fn is_hole(&self, offset: u64, len: u64) -> bool {
        match sys::next_data(&self.file, offset) {
            Ok(found) => found.is_none_or(|found| found >= offset + len),
            // Only a short cut: who cannot tell reads.
            Err(_) => false,
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.unsynced = true;
        self.file.write_all_at(data, offset)
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_locked_and_must_be_whole_sectors() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("disk.img");
        assert!(matches!(Disk::open(&path), Err(DiskError::Open { .. })));
        std::fs::write(&path, vec![0; 1000]).expect("write");
        assert!(matches!(Disk::open(&path), Err(DiskError::Size { size: 1000, .. })));
        std::fs::write(&path, vec![0; 1024]).expect("write");
        let disk = Disk::open(&path).expect("open");
        assert_eq!(disk.sectors(), 2);
        assert!(matches!(Disk::open(&path), Err(DiskError::InUse(_))));
        drop(disk);
        Disk::open(&path).expect("free again");
    }

    #[test]
    fn requests_outside_the_image_are_seen() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("disk.img");
        std::fs::write(&path, vec![0; 1024]).expect("write");
        let disk = Disk::open(&path).expect("open");
        assert_eq!(disk.offset(1, 512), Some(512));
        assert_eq!(disk.offset(2, 0), Some(1024));
        for (sector, len) in [(1, 1024), (2, 512), (0, 100), (u64::MAX, 512), (u64::MAX / 512, 512)] {
            assert_eq!(disk.offset(sector, len), None, "{sector} {len}");
        }
    }
}
