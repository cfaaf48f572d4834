//! Which pages to protect again at a landing, so that the next one is near.
//!
//! A landing needs a page that is still clean; an epoch runs out of them. Pages that were seen to be written
//! again and again are the ones whose next store comes soon.

use std::collections::BTreeMap;

use crate::log::Page;

/// Most pages that are protected at one landing: each costs a fault on both sides.
const PROTECT_MAX: usize = 16;
/// A page must have been written in so many of the recent intervals.
const SEEN_MIN: u32 = 2;
/// Most pages that are remembered.
const KNOWN_MAX: usize = 4096;

/// Pages by the number of intervals between landings in which they were written, lately.
#[derive(Debug, Default)]
pub(super) struct Warm {
    seen: BTreeMap<Page, u32>,
    landings: u32,
}

impl Warm {
    /// The pages to protect at a landing on `at`, of those that were written since they were protected.
    pub(super) fn choose(&mut self, open: &[Page], at: Page) -> Vec<Page> {
        self.landings += 1;
        if self.landings.is_multiple_of(16) {
            self.age();
        }
        for page in open {
            if self.seen.len() < KNOWN_MAX || self.seen.contains_key(page) {
                *self.seen.entry(*page).or_default() += 1;
            }
        }
        let warm = |page: &Page| *page != at && self.seen.get(page).is_some_and(|seen| *seen >= SEEN_MIN);
        let mut chosen: Vec<_> = open.iter().copied().filter(warm).collect();
        chosen.sort_unstable();
        chosen.dedup();
        // The ones that were stored to least recently come round first in a loop over many pages.
        chosen.truncate(PROTECT_MAX);
        chosen
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
    fn never_more_than_the_limit() {
        let mut warm = Warm::default();
        let many: Vec<Page> = (1..100).collect();
        warm.choose(&many, 0);
        assert_eq!(warm.choose(&many, 0).len(), PROTECT_MAX);
    }
}
