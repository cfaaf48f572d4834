//! Which pages were written, as far as the ring told.

/// A set of page numbers.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(pages: u32) -> Self {
        Bits(vec![0; pages.div_ceil(64) as usize])
    }

    fn has(&self, page: u32) -> bool {
        self.0.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Sets or clears a bit; true if that changed it.
    fn put(&mut self, page: u32, value: bool) -> bool {
        let Some(word) = self.0.get_mut(page as usize / 64) else { return false };
        let before = *word;
        if value {
            *word |= 1 << (page % 64);
        } else {
            *word &= !(1 << (page % 64));
        }
        *word != before
    }
}

/// Two sets, for two questions: what the epoch wrote, and what the guest may write unnoticed.
#[derive(Debug)]
pub(super) struct Books {
    pages: u32,
    /// Pushed since the log was last taken.
    logged: Bits,
    /// Pushed since they were last protected. Only a page that is *not* in it can be landed on: its next push
    /// is the first store to it. KVM may push a page that is in it again (a second mapping of it, an emulated
    /// store), and such a push marks no first store.
    open: Bits,
    /// How often a clean page was pushed.
    first_stores: u64,
    /// The open pages in the order in which they became so.
    order: Vec<u32>,
    /// Page tables that were met since the log was last taken. The processor dirties them at moments of its
    /// own and needs them to get on: they are no place to land on, and not to be protected for one.
    tables: Bits,
}

impl Books {
    /// For a guest with this many pages, all of them clean.
    pub(super) fn new(pages: u32) -> Self {
        Books {
            pages,
            logged: Bits::new(pages),
            open: Bits::new(pages),
            first_stores: 0,
            order: Vec::new(),
            tables: Bits::new(pages),
        }
    }

    /// A page was pushed; true if it was clean until now.
    pub(super) fn push(&mut self, page: u32) -> bool {
        self.logged.put(page, true);
        let was_clean = self.open.put(page, true);
        if was_clean {
            self.order.push(page);
            self.first_stores += 1;
        }
        was_clean
    }

    /// Any page may have been pushed.
    pub(super) fn push_all(&mut self) {
        for page in 0..self.pages {
            self.push(page);
        }
    }

    /// Whether the guest may write the page unnoticed.
    pub(super) fn is_open(&self, page: u32) -> bool {
        self.open.has(page)
    }

    /// Pages were protected.
    pub(super) fn protected(&mut self, pages: &[u32]) {
        for page in pages {
            self.open.put(*page, false);
        }
        let open = &self.open;
        self.order.retain(|page| open.has(*page));
    }

    /// Pages that the guest may write unnoticed, in the order of their first stores.
    pub(super) fn open_pages(&self) -> &[u32] {
        &self.order
    }

    /// How often a clean page was written, since the beginning.
    pub(super) fn first_stores(&self) -> u64 {
        self.first_stores
    }

    /// These pages are page tables.
    pub(super) fn note_tables(&mut self, pages: &[u32]) {
        for page in pages {
            self.tables.put(*page, true);
        }
    }

    /// Whether the page was met as a page table.
    pub(super) fn is_table(&self, page: u32) -> bool {
        self.tables.has(page)
    }

    /// Takes the log as a bitmap. Pages that are still open begin the next one: a store to them will not be
    /// told of.
    pub(super) fn take_log(&mut self) -> Vec<u64> {
        self.tables = Bits::new(self.pages);
        std::mem::replace(&mut self.logged.0, self.open.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_clean_once_and_logged_until_taken() {
        let mut books = Books::new(130);
        assert!(books.push(129));
        assert!(books.push(3));
        assert!(!books.push(129), "an open page is not clean");
        assert_eq!(books.open_pages(), [129, 3]);
        assert_eq!(books.first_stores(), 2);
        books.protected(&[129]);
        assert_eq!(books.open_pages(), [3]);
        assert!(books.push(129), "a protected page is clean again");
        books.protected(&[129]);
        books.note_tables(&[5]);
        assert!(books.is_table(5) && !books.is_table(3));
        assert_eq!(books.take_log(), [1 << 3, 0, 1 << 1]);
        assert!(!books.is_table(5), "what is a table may be none in the next epoch");
        assert_eq!(books.take_log(), [1 << 3, 0, 0], "an open page is in every log");
        assert!(!books.push(4000), "a page that does not exist is nothing");
        books.push_all();
        assert_eq!(books.open_pages().len(), 130);
        assert_eq!(books.take_log(), [u64::MAX, u64::MAX, 3]);
    }
}
