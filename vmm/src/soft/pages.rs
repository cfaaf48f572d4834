//! What is known of each page: which 64-byte lines were written, and which hold decoded code.
//!
//! A store looks at one word, `known`: its line's bit is set if another store to the line can change nothing
//! that is tracked. For a page with decoded code that word is always zero, so every store to it comes here.
//! None of this can be seen by the guest; only what is dirty is part of the machine's interface.

use super::memory::{GuestRam, Plain};

/// No block.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// One page. A bit per line of 64 bytes.
#[derive(Clone, Copy)]
pub(super) struct Page {
    /// Lines to which a store needs no care.
    known: u64,
    /// Lines written since the log was taken.
    dirty: u64,
    /// Lines that decoded blocks were made from.
    code: u64,
    /// First block of the page in the cache, or [`NO_BLOCK`].
    pub(super) blocks: u32,
}

/// Guest memory with its log.
pub(super) struct Pages {
    /// Memory itself, for reading; stores go by the methods here.
    pub(super) ram: GuestRam,
    pages: Vec<Page>,
    /// Pages with a dirty line, in the order of their first stores.
    dirty: Vec<u32>,
    /// Stores to lines with code, that the block cache was not told of yet: page and lines.
    pub(super) stale: Vec<(u32, u64)>,
}

impl Pages {
    pub(super) fn new(ram: GuestRam) -> Self {
        let empty = Page { known: 0, dirty: 0, code: 0, blocks: NO_BLOCK };
        let count = ram.bytes().div_ceil(4096) as usize;
        Pages { ram, pages: vec![empty; count], dirty: Vec::new(), stale: Vec::new() }
    }

    /// Stores at a physical address, inside one page; `false` outside of memory.
    #[inline]
    pub(super) fn store<T: Plain>(&mut self, at: u64, value: T) -> bool {
        let done = self.ram.store(at, value);
        if done {
            self.touch(at, size_of::<T>() as u64);
        }
        done
    }

    /// Records a store of 1 to 64 bytes inside one page.
    #[inline]
    fn touch(&mut self, at: u64, bytes: u64) {
        let lines = 1 << (at >> 6 & 63) | 1 << (at.wrapping_add(bytes - 1) >> 6 & 63);
        self.note((at >> 12) as usize, lines);
    }

    #[inline]
    fn note(&mut self, page: usize, lines: u64) {
        if self.pages.get(page).is_some_and(|entry| entry.known & lines != lines) {
            self.note_new(page, lines);
        }
    }

    #[cold]
    fn note_new(&mut self, page: usize, lines: u64) {
        let entry = &mut self.pages[page];
        if entry.dirty == 0 {
            self.dirty.push(page as u32);
        }
        entry.dirty |= lines;
        if entry.code == 0 {
            entry.known = entry.dirty;
        } else if entry.code & lines != 0 {
            self.stale.push((page as u32, lines & entry.code));
        }
    }

    /// Records a store to any number of bytes inside one page.
    pub(super) fn touch_range(&mut self, at: u64, bytes: u64) {
        if bytes != 0 {
            self.note((at >> 12) as usize, lines_of(at, bytes));
        }
    }

    /// Somebody else wrote the page.
    pub(super) fn written_outside(&mut self, page: u32) {
        self.note(page as usize, u64::MAX);
    }

    /// Takes the written pages with their lines, in the order of their first stores.
    pub(super) fn take_dirty(&mut self) -> Vec<(u32, u64)> {
        let list = std::mem::take(&mut self.dirty);
        list.into_iter()
            .map(|page| {
                let entry = &mut self.pages[page as usize];
                entry.known = 0;
                (page, std::mem::take(&mut entry.dirty))
            })
            .collect()
    }

    /// Number of pages.
    pub(super) fn count(&self) -> usize {
        self.pages.len()
    }

    /// A page's first block.
    pub(super) fn blocks(&self, page: u32) -> u32 {
        self.pages.get(page as usize).map_or(NO_BLOCK, |entry| entry.blocks)
    }

    /// The page now has this first block, and code in these lines in all.
    pub(super) fn set_code(&mut self, page: u32, blocks: u32, code: u64) {
        if let Some(entry) = self.pages.get_mut(page as usize) {
            entry.blocks = blocks;
            entry.code = code;
            entry.known = if code == 0 { entry.dirty } else { 0 };
        }
    }

    /// Lines of the page with decoded code.
    pub(super) fn code(&self, page: u32) -> u64 {
        self.pages.get(page as usize).map_or(0, |entry| entry.code)
    }
}

/// The lines of one page that `bytes` (not 0) at `at` lie in.
pub(super) fn lines_of(at: u64, bytes: u64) -> u64 {
    let first = at >> 6 & 63;
    let last = (at & 4095).saturating_add(bytes - 1).min(4095) >> 6;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cover_exactly_the_bytes() {
        for (at, bytes) in [(0, 1), (63, 1), (63, 2), (0x1fc0, 64), (0x2000, 4096), (100, 1000)] {
            let expected = (at..at + bytes).fold(0u64, |lines, byte| lines | 1 << (byte >> 6 & 63));
            assert_eq!(lines_of(at, bytes), expected, "{bytes} at {at:#x}");
        }
    }
}
