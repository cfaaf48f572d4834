//! Linux's boot parameters, as far as a small guest wants them (Linux `Documentation/arch/x86/zero-page.rst`
//! and `boot.rst`): the memory map and the command line.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::error::BootError;
use crate::memory::Ram;
use crate::table::layout::{BOOT_PARAMS, COMMAND_LINE, COMMAND_LINE_MAX};

/// Number of entries of the memory map, one byte.
const E820_ENTRIES: u64 = 0x1e8;
/// The memory map: entries of start u64, bytes u64, kind u32.
const E820_TABLE: u64 = 0x2d0;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const BOOT_FLAG: u64 = 0x1fe;
const HEADER: u64 = 0x202;
const TYPE_OF_LOADER: u64 = 0x210;
const CMD_LINE_PTR: u64 = 0x228;
const CMDLINE_SIZE: u64 = 0x238;
/// Between these two lies what an old PC keeps for its BIOS and its display.
const LOW_END: u64 = 0x9_fc00;
const HIGH_START: u64 = 0x10_0000;

/// Writes zero page and command line.
pub(super) fn write(ram: &Ram, command_line: &str) -> Result<(), BootError> {
    let text = command_line.as_bytes();
    if text.len() >= COMMAND_LINE_MAX {
        return Err(BootError::CommandLineTooLong { got: text.len(), max: COMMAND_LINE_MAX - 1 });
    }
    if text.contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    fill(ram, text).map_err(|error| BootError::Memory(error.to_string()))
}

fn fill(ram: &Ram, text: &[u8]) -> Result<(), GuestMemoryError> {
    let put = |at: u64, bytes: &[u8]| ram.write_slice(bytes, GuestAddress(BOOT_PARAMS + at));
    ram.write_slice(text, GuestAddress(COMMAND_LINE))?;
    put(BOOT_FLAG, &0xaa55_u16.to_le_bytes())?;
    put(HEADER, b"HdrS")?;
    put(TYPE_OF_LOADER, &[0xff])?;
    let command_line = u32::try_from(COMMAND_LINE).unwrap_or(0);
    put(CMD_LINE_PTR, &command_line.to_le_bytes())?;
    let length = u32::try_from(text.len()).unwrap_or(0);
    put(CMDLINE_SIZE, &length.to_le_bytes())?;
    let memory_end = ram.last_addr().0 + 1;
    let map = [
        (0, LOW_END, E820_RAM),
        (LOW_END, HIGH_START - LOW_END, E820_RESERVED),
        (HIGH_START, memory_end.saturating_sub(HIGH_START), E820_RAM),
    ];
    for (at, (start, bytes, kind)) in (E820_TABLE..).step_by(20).zip(map) {
        put(at, &start.to_le_bytes())?;
        put(at + 8, &bytes.to_le_bytes())?;
        put(at + 16, &kind.to_le_bytes())?;
    }
    put(E820_ENTRIES, &[3])
}
