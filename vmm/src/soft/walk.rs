//! The page walk: four levels (SDM volume 3 section 5.5).

use super::state::{Cpu, Run, Trap, cr0, cr4, efer, fault, vector};
use super::tlb::Rights;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Address bits of an entry: the machine has 40 physical address bits.
const ADDRESS: u64 = 0xff_ffff_f000;
/// Bits 40 to 51 are reserved.
const RESERVED: u64 = 0x000f_ff00_0000_0000;

/// Bits of a page fault's error code.
const CODE_PRESENT: u32 = 1;
const CODE_WRITE: u32 = 1 << 1;
const CODE_USER: u32 = 1 << 2;
const CODE_RESERVED: u32 = 1 << 3;
const CODE_FETCH: u32 = 1 << 4;

/// What memory is accessed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Fetch,
}

/// A translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Translation {
    /// Physical address of the 4 KiB page.
    pub(super) page: u64,
    pub(super) rights: Rights,
}

/// What the levels above the page allow together.
struct Levels {
    writable: bool,
    user: bool,
    execute: bool,
}

impl Cpu {
    /// Translates a linear address, sets accessed and dirty bits, or faults.
    pub(super) fn walk(&mut self, address: u64, access: Access, user: bool) -> Run<Translation> {
        let mut table = self.cr3 & ADDRESS;
        let mut levels = Levels { writable: true, user: true, execute: true };
        // The entries used, to mark them accessed once the access is known to be allowed.
        let mut used = [(0, 0); 4];
        for level in (0..4).rev() {
            let at = table + (address >> (12 + 9 * level) & 511) * 8;
            // Page tables in device space read as ones, which is a reserved bit.
            let entry: u64 = self.pages.ram.load(at).unwrap_or(u64::MAX);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(address, access, user, 0));
            }
            let large = level > 0 && entry & LARGE != 0;
            if self.is_reserved(entry, level, large) {
                return Err(self.page_fault(address, access, user, CODE_PRESENT | CODE_RESERVED));
            }
            levels.writable &= entry & WRITABLE != 0;
            levels.user &= entry & USER != 0;
            levels.execute &= entry & NO_EXECUTE == 0;
            used[level as usize] = (at, entry);
            if level == 0 || large {
                let rights = self.rights(&levels, entry, large, user);
                self.check(address, access, user, rights)?;
                let dirty = self.mark(&used[level as usize..], access == Access::Write);
                let mask = (1u64 << (12 + 9 * level)) - 1;
                let page = (entry & ADDRESS & !mask) | (address & mask & !0xfff);
                return Ok(Translation { page, rights: Rights { write: rights.write && dirty, ..rights } });
            }
            table = entry & ADDRESS;
        }
        Err(self.page_fault(address, access, user, 0))
    }

    fn is_reserved(&self, entry: u64, level: u32, large: bool) -> bool {
        let no_execute = self.efer & efer::NXE == 0 && entry & NO_EXECUTE != 0;
        // Bit 7 of the top level; the address bits below a large page's size but for PAT in bit 12.
        let size = match (level, large) {
            (3, true) => true,
            (_, true) => entry & ((1u64 << (12 + 9 * level)) - 1) & !0x1fff != 0,
            _ => false,
        };
        entry & RESERVED != 0 || no_execute || size
    }

    fn rights(&self, levels: &Levels, entry: u64, large: bool, user: bool) -> Rights {
        let allowed = levels.user || !user;
        let write = levels.writable || (!user && self.cr0 & cr0::WP == 0);
        Rights {
            read: allowed,
            write: allowed && write,
            execute: allowed && levels.execute,
            global: entry & GLOBAL != 0 && self.cr4 & cr4::PGE != 0,
            large,
        }
    }

    fn check(&mut self, address: u64, access: Access, user: bool, rights: Rights) -> Run {
        let allowed = match access {
            Access::Read => rights.read,
            Access::Write => rights.write,
            Access::Fetch => rights.execute,
        };
        if allowed { Ok(()) } else { Err(self.page_fault(address, access, user, CODE_PRESENT)) }
    }

    /// Sets the accessed bits of all levels, and the page's dirty bit for a store. Whether that is set now.
    fn mark(&mut self, used: &[(u64, u64)], write: bool) -> bool {
        let mut dirty = false;
        for (number, &(at, entry)) in used.iter().enumerate().rev() {
            let leaf = number == 0;
            let wanted = entry | ACCESSED | if leaf && write { DIRTY } else { 0 };
            if wanted != entry {
                self.pages.store(at, wanted);
            }
            dirty = wanted & DIRTY != 0;
        }
        dirty
    }

    /// Sets CR2 and makes the fault.
    fn page_fault(&mut self, address: u64, access: Access, user: bool, code: u32) -> Trap {
        self.cr2 = address;
        let kind = match access {
            Access::Read => 0,
            Access::Write => CODE_WRITE,
            Access::Fetch if self.efer & efer::NXE != 0 => CODE_FETCH,
            Access::Fetch => 0,
        };
        fault(vector::PF, code | kind | if user { CODE_USER } else { 0 })
    }
}
