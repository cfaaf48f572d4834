//! The translation cache.
//!
//! A stale entry is something the guest can see, so the geometry is part of the machine: two tables (one for
//! user mode, one for the kernel), direct mapped by the low bits of the page number, filled with everything
//! that the page tables allowed at that walk. Device pages are never in it. It is emptied by CR3 writes (global
//! entries stay), by what the manual says, and whenever the machine's state is set.

/// Entries of each of the two tables.
pub(crate) const ENTRIES: usize = 1024;
/// Tables: kernel, user.
pub(crate) const TABLES: usize = 2;
/// A tag that no page has.
const NONE: u64 = 1;

/// One translation. A tag is the page's linear address, or [`NONE`] if that access is not allowed.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) read: u64,
    pub(super) write: u64,
    pub(super) execute: u64,
    /// Physical address of the page.
    pub(super) page: u64,
}

/// What a page may be used for, for one privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) execute: bool,
    pub(super) global: bool,
    /// The translation is of more than 4 KiB.
    pub(super) large: bool,
}

const EMPTY: Entry = Entry { read: NONE, write: NONE, execute: NONE, page: 0 };

/// The translation cache of one vCPU.
pub(super) struct Tlb {
    entries: Box<[[Entry; ENTRIES]; TABLES]>,
    global: Box<[[bool; ENTRIES]; TABLES]>,
    /// Linear addresses between which pieces of large pages lie.
    large: Option<(u64, u64)>,
}

fn index(address: u64) -> usize {
    (address >> 12) as usize % ENTRIES
}

impl Tlb {
    pub(super) fn new() -> Self {
        Tlb {
            entries: Box::new([[EMPTY; ENTRIES]; TABLES]),
            global: Box::new([[false; ENTRIES]; TABLES]),
            large: None,
        }
    }

    /// The entry where a translation of this address would be.
    #[inline]
    pub(super) fn entry(&self, user: bool, address: u64) -> &Entry {
        &self.entries[usize::from(user)][index(address)]
    }

    /// Enters the page of a linear address.
    pub(super) fn fill(&mut self, user: bool, address: u64, page: u64, rights: Rights) {
        let linear = address & !0xfff;
        let tag = |allowed| if allowed { linear } else { NONE };
        self.entries[usize::from(user)][index(address)] = Entry {
            read: tag(rights.read),
            write: tag(rights.write),
            execute: tag(rights.execute),
            page: page & !0xfff,
        };
        self.global[usize::from(user)][index(address)] = rights.global;
        if rights.large {
            let (low, high) = self.large.unwrap_or((linear, linear));
            self.large = Some((low.min(linear), high.max(linear)));
        }
    }

    /// Empties it.
    pub(super) fn flush_all(&mut self) {
        for table in self.entries.iter_mut() {
            table.fill(EMPTY);
        }
        self.large = None;
    }

    /// Empties it of everything that is not global.
    pub(super) fn flush_local(&mut self) {
        for (table, global) in self.entries.iter_mut().zip(self.global.iter()) {
            for (entry, global) in table.iter_mut().zip(global) {
                if !global {
                    *entry = EMPTY;
                }
            }
        }
    }

    /// INVLPG. All of a large page goes, and with it, because pieces are not told apart, everything.
    pub(super) fn flush_page(&mut self, address: u64) {
        let near = |at: u64| at & !0x3fff_ffff;
        if self.large.is_some_and(|(low, high)| (near(low)..=high | 0x3fff_ffff).contains(&address)) {
            self.flush_all();
            return;
        }
        for table in self.entries.iter_mut() {
            table[index(address)] = EMPTY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Rights = Rights { read: true, write: true, execute: true, global: false, large: false };

    #[test]
    fn flushes_take_what_they_say() {
        let mut tlb = Tlb::new();
        tlb.fill(false, 0x1234, 0x8000, ALL);
        tlb.fill(false, 0x2345, 0x9000, Rights { global: true, ..ALL });
        tlb.flush_local();
        assert_eq!(tlb.entry(false, 0x1000).read, NONE);
        assert_eq!(tlb.entry(false, 0x2000).read, 0x2000);
        tlb.flush_page(0x2fff);
        assert_eq!(tlb.entry(false, 0x2000).read, NONE);
    }

    #[test]
    fn a_large_page_goes_as_a_whole() {
        let mut tlb = Tlb::new();
        tlb.fill(true, 0x20_1000, 0x40_1000, Rights { large: true, ..ALL });
        tlb.flush_page(0x3f_f000);
        assert_eq!(tlb.entry(true, 0x20_1000).read, NONE);
    }
}
