//! Linux's boot parameters (Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`): the setup header, the
//! memory map, the command line, and where the rest is.

use linux_loader::loader::bootparam::{
    CAN_USE_HEAP, LOADED_HIGH, boot_e820_entry, boot_params, setup_header,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

use super::initrd::Initrd;
use crate::error::BootError;
use crate::memory::Ram;
use crate::table::layout::{BOOT_PARAMS, COMMAND_LINE, COMMAND_LINE_MAX, HIGH_START, LOW_END};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MARK: u32 = u32::from_le_bytes(*b"HdrS");
/// A boot loader without a number of its own.
const TYPE_OF_LOADER: u8 = 0xff;

/// What the page tells.
pub(super) struct Contents<'a> {
    /// The kernel's setup header. A kernel without one gets the few fields that boot loaders fill in.
    pub header: Option<setup_header>,
    /// The command line.
    pub command_line: &'a str,
    /// The initial file system.
    pub initrd: Option<Initrd>,
    /// Address of the ACPI root pointer.
    pub acpi: u64,
    /// First address after memory.
    pub memory_end: u64,
}

/// Writes zero page and command line.
pub(super) fn write(ram: &Ram, contents: &Contents<'_>) -> Result<(), BootError> {
    let text = contents.command_line.as_bytes();
    let limit = contents.header.map_or(u32::MAX, |header| header.cmdline_size);
    let max = usize::try_from(limit).unwrap_or(usize::MAX).min(COMMAND_LINE_MAX - 1);
    if text.len() > max {
        return Err(BootError::CommandLineTooLong { got: text.len(), max });
    }
    if text.contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    fill(ram, contents, text).map_err(|error| BootError::Memory(error.to_string()))
}

fn fill(ram: &Ram, contents: &Contents<'_>, text: &[u8]) -> Result<(), GuestMemoryError> {
    ram.write_slice(text, GuestAddress(COMMAND_LINE))?;
    let mut header = contents.header.unwrap_or_else(|| setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MARK,
        cmdline_size: u32::try_from(text.len()).unwrap_or(0),
        ..Default::default()
    });
    header.type_of_loader = TYPE_OF_LOADER;
    header.loadflags &= !CAN_USE_HEAP;
    header.cmd_line_ptr = u32::try_from(COMMAND_LINE).unwrap_or(0);
    if let Some(initrd) = contents.initrd {
        (header.ramdisk_image, header.ramdisk_size) = (initrd.start, initrd.bytes);
    }
    let mut page = boot_params { hdr: header, acpi_rsdp_addr: contents.acpi, ..Default::default() };
    let map = [
        (0, LOW_END, E820_RAM),
        (LOW_END, HIGH_START, E820_RESERVED),
        (HIGH_START, contents.memory_end.max(HIGH_START), E820_RAM),
    ];
    for (entry, (start, end, kind)) in page.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: start, size: end - start, r#type: kind };
    }
    page.e820_entries = u8::try_from(map.len()).unwrap_or(0);
    ram.write_slice(page.as_slice(), GuestAddress(BOOT_PARAMS))
}

/// The structure is taken from a newer protocol than some kernels', but the bits are where they were.
const _: () = assert!(size_of::<boot_params>() == 4096 && LOADED_HIGH == 1);
