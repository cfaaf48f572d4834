//! The disk under the log: a block device or a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use micro_guest::log::{self, SECTOR};

/// An open disk.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    sectors: u64,
}

impl Disk {
    /// Opens it for reading and writing.
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        // The size of a block device is where its end is.
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR as u64;
        Ok(Self { file, sectors })
    }

    /// Writes whole sectors, and makes everything durable if asked to.
    pub(crate) fn put(&self, sector: u64, data: &[u8], flush: bool) -> io::Result<()> {
        self.file.write_all_at(data, sector * SECTOR as u64)?;
        if flush { self.file.sync_data() } else { Ok(()) }
    }
}

impl log::Disk for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, sector: u64, out: &mut [u8]) -> bool {
        self.file.read_exact_at(out, sector * SECTOR as u64).is_ok()
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> bool {
        self.put(sector, data, true).is_ok()
    }
}
