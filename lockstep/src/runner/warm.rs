//! Which pages to protect again at a landing, so that the next one is near.
//!
//! A landing needs a page that is still clean; an epoch runs out of them. Pages that were seen to be written
//! again and again are the ones whose next store comes soon.

use std::collections::BTreeMap;

use crate::log::Page;

/// Pages that are protected at one landing, to begin with: each costs a fault on both sides.
const PROTECT_MIN: usize = 16;
/// Most of them, when landings did not come.
const PROTECT_MAX: usize = 64;
/// A page must have been written in so many of the recent intervals.
const SEEN_MIN: u32 = 2;
/// Most pages that are remembered.
const KNOWN_MAX: usize = 4096;

/// Pages by the number of intervals between landings in which they were written, lately.
#[derive(Debug)]
pub(super) struct Warm {
    seen: BTreeMap<Page, u32>,
    landings: u32,
    /// So many are protected at most.
    protect: usize,
}

impl Default for Warm {
    fn default() -> Self {
        Warm { seen: BTreeMap::new(), landings: 0, protect: PROTECT_MIN }
    }
}

impl Warm {
    /// The pages to protect at a landing on `at`, of those that were written since they were protected, in the order
    /// of their first stores.
    pub(super) fn choose(&mut self, open: &[Page], at: Page) -> Vec<Page> {
        self.landings += 1;
        if self.landings.is_multiple_of(16) {
            self.age();
            self.protect = (self.protect - 1).max(PROTECT_MIN);
        }
        for page in open {
            if self.seen.len() < KNOWN_MAX || self.seen.contains_key(page) {
                *self.seen.entry(*page).or_default() += 1;
            }
        }
        let warm = |page: &Page| *page != at && self.seen.get(page).is_some_and(|seen| *seen >= SEEN_MIN);
        let warm: Vec<_> = open.iter().copied().filter(warm).collect();
        // Evenly out of the order: some will be stored to soon and some late, whenever the next place is looked for.
        let count = warm.len().min(self.protect);
        let mut chosen: Vec<_> = (0..count).map(|nth| warm[nth * warm.len() / count]).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    /// No landing came: more pages are protected at the next ones.
    pub(super) fn failed(&mut self) {
        self.protect = (self.protect * 2).min(PROTECT_MAX);
    }

    /// What was seen long ago counts less.
    fn age(&mut self) {
        self.seen.retain(|_, seen| {
            *seen /= 2;
            *seen > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_are_written_again_are_chosen() {
        let mut warm = Warm::default();
        assert_eq!(warm.choose(&[5, 9], 7), Vec::<Page>::new());
        assert_eq!(warm.choose(&[9, 11], 7), vec![9]);
        assert_eq!(warm.choose(&[9, 11], 9), vec![11], "never the page of the waiting store");
    }

    #[test]
    fn what_was_seen_long_ago_is_forgotten() {
        let mut warm = Warm::default();
        warm.choose(&[5], 0);
        warm.choose(&[5], 0);
        for _ in 0..64 {
            warm.choose(&[], 0);
        }
        assert_eq!(warm.choose(&[5], 0), Vec::<Page>::new());
    }

    #[test]
    fn they_lie_evenly_in_the_order_of_their_stores() {
        let mut warm = Warm::default();
        // A loop over pages 1 to 63, which is at 40.
        let order: Vec<Page> = (41..64).chain(1..40).collect();
        warm.choose(&order, 40);
        let chosen = warm.choose(&order, 40);
        assert_eq!(chosen.len(), PROTECT_MIN);
        let soon = chosen.iter().filter(|page| **page > 40).count();
        assert!((5..=7).contains(&soon), "{soon} of {chosen:?} come before the loop begins again");
    }

    #[test]
    fn never_more_than_the_limit() {
        let mut warm = Warm::default();
        let many: Vec<Page> = (1..100).collect();
        warm.choose(&many, 0);
        assert_eq!(warm.choose(&many, 0).len(), PROTECT_MIN);
        (0..9).for_each(|_| warm.failed());
        assert_eq!(warm.choose(&many, 0).len(), PROTECT_MAX);
        (0..2000).for_each(|_| drop(warm.choose(&many, 0)));
        assert_eq!(warm.choose(&many, 0).len(), PROTECT_MIN, "not for ever");
    }
}
