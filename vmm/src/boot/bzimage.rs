//! Linux kernels as distributions have them: bzImage, started at its 64-bit entry (Linux
//! `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol").

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::{self, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress};

use crate::memory::Ram;
use crate::table::layout::HIGH_START;

/// Where the setup header begins in the file, and in the zero page.
const HEADER: u64 = 0x1f1;
/// Where its mark is in the file.
pub(super) const MARK_AT: usize = 0x202;
pub(super) const MARK: [u8; 4] = *b"HdrS";
/// Version 2.12: the first that tells of the 64-bit entry.
const VERSION: u16 = 0x020c;
/// The 64-bit entry is this far behind the start of the kernel.
const ENTRY: u64 = 0x200;
const SECTOR: u64 = 512;
/// Sectors of a setup header that says nothing.
const SETUP_SECTORS: u8 = 4;
/// The header counts the kernel's size in these.
const PARAGRAPH: u64 = 16;

/// A kernel in memory.
pub(super) struct Loaded {
    /// The first instruction.
    pub entry: u64,
    /// First address that the kernel does not use before it knows the memory map.
    pub end: u64,
    /// Its setup header, to be completed and handed back.
    pub header: setup_header,
}

/// Loads a kernel. The error says what is wrong with the file.
pub(super) fn load(ram: &Ram, file: &mut File, memory_end: u64) -> Result<Loaded, String> {
    let mut header = header(file)?;
    check(&header, file)?;
    let (start, end) = place(&header, memory_end)?;
    BzImage::load(ram, Some(GuestAddress(start)), file, None)
        .map_err(|error| format!("{error}: give an intact bzImage of a Linux kernel for x86-64"))?;
    header.code32_start = u32::try_from(start).map_err(|_| "its start has no 32-bit address")?;
    Ok(Loaded { entry: start + ENTRY, end, header })
}

fn header(file: &mut File) -> Result<setup_header, String> {
    let mut header = setup_header::default();
    file.seek(SeekFrom::Start(HEADER))
        .and_then(|_| file.read_exact(header.as_mut_slice()))
        .map_err(|error| format!("its setup header cannot be read ({error}): give an intact bzImage"))?;
    Ok(header)
}

fn check(header: &setup_header, file: &File) -> Result<(), String> {
    let (version, flags, load) = (header.version, header.xloadflags, header.loadflags);
    if version < VERSION || flags & bootparam::XLF_KERNEL_64 == 0 {
        return Err(format!(
            "it has no 64-bit entry (boot protocol {}.{:02}): give a Linux kernel for x86-64 of version 3.8 or newer",
            version >> 8,
            version & 0xff
        ));
    }
    if load & bootparam::LOADED_HIGH == 0 {
        return Err("it is a zImage: give a bzImage".into());
    }
    let size = file.metadata().map_err(|error| format!("its size cannot be read ({error})"))?.len();
    let sectors = if header.setup_sects == 0 { SETUP_SECTORS } else { header.setup_sects };
    let want = (u64::from(sectors) + 1) * SECTOR + u64::from(header.syssize) * PARAGRAPH;
    if size < want {
        return Err(format!("it is truncated: {size} bytes of {want}: copy it again"));
    }
    // The file is loaded as a whole: what a signature appends may be a little, not a second kernel.
    if size > want + u64::from(header.init_size) {
        return Err(format!("it has {size} bytes, its header tells of {want}: give an intact bzImage"));
    }
    Ok(())
}

/// Start and end of the memory that the kernel runs in: where it prefers to be, or lower if that is beyond the
/// guest's memory and the kernel can be moved.
fn place(header: &setup_header, memory_end: u64) -> Result<(u64, u64), String> {
    let (preferred, size) = (header.pref_address, u64::from(header.init_size));
    let alignment = u64::from(header.kernel_alignment);
    let fits = |start: &u64| start.checked_add(size).is_some_and(|end| end <= memory_end);
    let moved = (header.relocatable_kernel != 0 && alignment.is_power_of_two())
        .then(|| HIGH_START.next_multiple_of(alignment));
    let candidates = [Some(preferred).filter(|start| *start >= HIGH_START), moved];
    let start = candidates.into_iter().flatten().find(fits).ok_or_else(|| {
        format!(
            "it wants {} MiB from address {preferred:#x} on, guest memory ends at {memory_end:#x}: \
             give the guest more memory",
            size.div_ceil(1 << 20)
        )
    })?;
    Ok((start, start + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(preferred: u64, relocatable: u8) -> setup_header {
        setup_header {
            pref_address: preferred,
            init_size: 32 << 20,
            kernel_alignment: 2 << 20,
            relocatable_kernel: relocatable,
            ..Default::default()
        }
    }

    #[test]
    fn a_kernel_is_where_it_prefers_to_be_or_lower() {
        assert_eq!(place(&header(16 << 20, 1), 256 << 20), Ok((16 << 20, 48 << 20)));
        assert_eq!(place(&header(16 << 20, 1), 40 << 20), Ok((2 << 20, 34 << 20)));
        assert!(place(&header(16 << 20, 0), 40 << 20).is_err(), "it cannot be moved");
        assert!(place(&header(16 << 20, 1), 33 << 20).is_err(), "it fits nowhere");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(place(&header(0, 0), 256 << 20).is_err(), "below 1 MiB are the boot structures");
        assert!(place(&header(u64::MAX, 0), 256 << 20).is_err());
        let unaligned = setup_header { kernel_alignment: 3, ..header(u64::MAX, 1) };
        assert!(place(&unaligned, 256 << 20).is_err());
        let huge = setup_header { kernel_alignment: 1 << 31, ..header(u64::MAX, 1) };
        assert!(place(&huge, 256 << 20).is_err());
    }
}
