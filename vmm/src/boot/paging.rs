//! The first page tables: 4 GiB, linear = physical, pages of 2 MiB, for the supervisor alone or
//! for everybody.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::Ram;
use crate::table::layout::PAGE_TABLES;

const TABLE: u64 = 4096;
/// Present, writable (SDM volume 3 section 4.5).
const LINK: u64 = 0x3;
/// Present, writable, accessed, dirty, 2 MiB page. Accessed and dirty are set beforehand: a processor that
/// sets them itself may do so early on one host and late on the other.
const LARGE_PAGE: u64 = 0xe3;

/// Added to both: user mode may use it.
const USER: u64 = 0x4;

/// Writes one top level, one second level and four third level tables.
pub(super) fn write(ram: &Ram, user: bool) -> Result<(), GuestMemoryError> {
    let rights = if user { USER } else { 0 };
    let put = |at: u64, value: u64| ram.write_slice(&value.to_le_bytes(), GuestAddress(at));
    let (second, third) = (PAGE_TABLES + TABLE, PAGE_TABLES + 2 * TABLE);
    put(PAGE_TABLES, second | LINK | rights | 0x20)?;
    for gib in 0..4 {
        put(second + gib * 8, (third + gib * TABLE) | LINK | rights | 0x20)?;
    }
    for page in 0..4 * 512 {
        put(third + page * 8, page << 21 | LARGE_PAGE | rights)?;
    }
    Ok(())
}
