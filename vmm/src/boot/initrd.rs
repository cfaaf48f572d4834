//! The initial file system: as high in memory as kernel and memory allow, so that it is in nobody's way.

use std::fs::File;
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress};

use crate::PAGE_SIZE;
use crate::error::BootError;
use crate::memory::Ram;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initrd {
    /// First byte.
    pub start: u32,
    /// Bytes.
    pub bytes: u32,
}

/// Loads it between `low` and the end of memory.
pub(super) fn load(
    ram: &Ram,
    path: &Path,
    header: &setup_header,
    low: u64,
    memory_end: u64,
) -> Result<Initrd, BootError> {
    let wrong = |reason| BootError::Initrd { path: path.to_path_buf(), reason };
    let mut file = File::open(path).map_err(|error| wrong(format!("{error}: check the path")))?;
    let about = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if !about.is_file() {
        return Err(wrong("it is not a regular file: give a cpio archive, compressed or not".into()));
    }
    let limit = memory_end.min(u64::from(header.initrd_addr_max) + 1);
    let initrd = place(about.len(), low, limit).map_err(wrong)?;
    let bytes = initrd.bytes as usize;
    ram.read_exact_volatile_from(GuestAddress(u64::from(initrd.start)), &mut file, bytes)
        .map_err(|error| wrong(format!("it cannot be read ({error}): copy it again")))?;
    Ok(initrd)
}

/// The highest page at which so many bytes end before `limit`.
fn place(bytes: u64, low: u64, limit: u64) -> Result<Initrd, String> {
    if bytes == 0 {
        return Err("it is empty: copy it again, or start the guest without".into());
    }
    let page = PAGE_SIZE as u64;
    let start = limit.checked_sub(bytes).map(|start| start / page * page).filter(|start| *start >= low);
    let narrow = start.and_then(|start| u32::try_from(start).ok()).zip(u32::try_from(bytes).ok());
    narrow.map(|(start, bytes)| Initrd { start, bytes }).ok_or_else(|| {
        format!(
            "it has {} MiB, {} are free between {low:#x} and {limit:#x}: give the guest more memory",
            bytes.div_ceil(1 << 20),
            limit.saturating_sub(low) >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_in_the_last_page_that_is_free() {
        assert_eq!(place(1, 0, 0x10_0000), Ok(Initrd { start: 0xf_f000, bytes: 1 }));
        assert_eq!(place(4096, 0, 0x10_0000), Ok(Initrd { start: 0xf_f000, bytes: 4096 }));
        assert_eq!(place(4097, 0, 0x10_0000), Ok(Initrd { start: 0xf_e000, bytes: 4097 }));
        assert_eq!(place(4097, 0xf_e000, 0x10_0000), Ok(Initrd { start: 0xf_e000, bytes: 4097 }));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(place(4097, 0xf_f000, 0x10_0000).is_err());
        assert!(place(u64::MAX, 0, 0x10_0000).is_err());
        assert!(place(0, 0, 0x10_0000).is_err());
        assert!(place(4096, 0, 1 << 40).is_err(), "its address has 32 bits");
    }
}
