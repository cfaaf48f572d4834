//! The guest's landings: its computing steps are native code whose stores can be stopped at; everything else it
//! does is like a kernel that is emulated, and only opens pages.

use super::SimGuest;
use super::program::RIP;
use crate::log::Page;
use crate::machine::{Landing, Stop};

/// What the machine looks for while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Search {
    #[default]
    Nothing,
    /// Any first store to a clean page.
    Any,
    /// The first store to this page.
    For(Landing),
    /// That store came from elsewhere.
    Missed,
}

/// Which pages are clean, and what is looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Stores {
    /// A bit per page that was written since it was protected.
    open: u64,
    /// The page of the store that the guest stands before: it stays open, or the guest would never get on.
    waiting: u64,
    search: Search,
    first_stores: u64,
}

impl Stores {
    /// A new search protects its page.
    pub(super) fn search(&mut self, search: Search) {
        if let Search::For(landing) = search
            && self.search != search
        {
            self.open &= !(1 << landing.page);
            self.open |= self.waiting;
        }
        self.search = search;
    }

    /// Something was stored.
    pub(super) fn open(&mut self, page: usize) {
        let clean = self.open & (1 << page) == 0;
        if let Search::For(landing) = self.search
            && landing.page as usize == page
            && clean
        {
            self.search = Search::Missed;
        }
        self.first_stores += u64::from(clean);
        self.open |= 1 << page;
        self.waiting &= !(1 << page);
    }

    pub(super) fn is_missed(&self) -> bool {
        self.search == Search::Missed
    }

    pub(super) fn protect(&mut self, pages: &[Page]) {
        for page in pages {
            self.open &= !(1 << page);
        }
        self.open |= self.waiting;
    }

    pub(super) fn protect_all(&mut self) {
        self.open = self.waiting;
    }

    pub(super) fn first_stores(&self) -> u64 {
        self.first_stores
    }

    pub(super) fn open_pages(&self) -> Vec<Page> {
        (0..super::PAGES).filter(|page| self.open & (1 << page) != 0).collect()
    }

    /// The store that comes next: whether the machine stops before it, and where.
    fn lands(&mut self, page: Page) -> Option<Landing> {
        let clean = self.open & (1 << page) == 0;
        let landing = Landing { page, rip: RIP };
        let stops = match self.search {
            Search::Any => clean,
            Search::For(wanted) => clean && wanted == landing,
            Search::Nothing | Search::Missed => false,
        };
        if !stops {
            return None;
        }
        self.first_stores += 1;
        // The waiting store is let through at the next entry.
        self.open |= 1 << page;
        self.waiting |= 1 << page;
        self.search = Search::Nothing;
        Some(landing)
    }
}

impl SimGuest {
    /// Whether the machine stops before the next computing step.
    pub(super) fn lands(&mut self) -> Option<Stop> {
        let page = self.next_store();
        self.stores.lands(page).map(|landing| {
            self.look = true;
            Stop::Landing(landing)
        })
    }
}
