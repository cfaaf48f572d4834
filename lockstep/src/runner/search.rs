//! How long a place is looked for before the guest is stopped anywhere.
//!
//! The limit is guest run time, not wall-clock time, and adapts. Where landings come it is twice as long as the
//! slowest of the recent ones took, so that few are given up shortly before they come. Where none come (a loop that
//! dirties nothing new) waiting only delays what is due, so it shrinks; now and then one search is long, to notice
//! that places are back.

use crate::Ns;

/// The limit never gets shorter than this part of where it began,
const SHORTEST: u64 = 4;
/// nor longer than this multiple of it.
const LONGEST: u64 = 4;
/// One in so many searches in a row without a place is a long one.
const LONG_EVERY: u32 = 16;

/// A search that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// Host time at which it began.
    pub(super) since: Ns,
    /// The machine's run time then.
    ran: Ns,
    /// Run time that it may take.
    limit: Ns,
    /// Host time at which to look whether that is used up.
    pub(super) check_at: Ns,
}

/// Less than this is not worth another look, in nanoseconds.
const SLACK: Ns = 50_000;

impl Search {
    /// Whether it took all the run time that it has; if not, when to look again.
    pub(super) fn is_over(&mut self, run_time: Ns, now: Ns) -> bool {
        let used = run_time.saturating_sub(self.ran);
        self.check_at = now + self.limit.saturating_sub(used).max(SLACK);
        used >= self.limit
    }
}

/// The limit of the next search.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeekLimit {
    start: Ns,
    limit: Ns,
    failures: u32,
}

impl SeekLimit {
    pub(super) fn new(start: Ns) -> Self {
        SeekLimit { start, limit: start, failures: 0 }
    }

    pub(super) fn begin(&self, run_time: Ns, now: Ns) -> Search {
        let long = self.failures % LONG_EVERY == LONG_EVERY - 1;
        let limit = if long { self.start * LONGEST } else { self.limit };
        Search { since: now, ran: run_time, limit, check_at: now + limit }
    }

    /// A place came.
    pub(super) fn found(&mut self, search: &Search, run_time: Ns) {
        let wanted = run_time.saturating_sub(search.ran).saturating_mul(2);
        let wanted = wanted.clamp(self.start, self.start * LONGEST);
        self.failures = 0;
        if wanted >= self.limit {
            self.limit = wanted;
        } else {
            // Slowly back, so that one long search in a few is still waited for.
            self.limit -= (self.limit - wanted) / 64;
        }
    }

    /// None came.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.wrapping_add(1);
        self.limit = (self.limit / 2).max(self.start / SHORTEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Ns = 1_000_000;

    #[test]
    fn run_time_counts_and_not_the_wall_clock() {
        let limit = SeekLimit::new(MS);
        let mut search = limit.begin(100, 0);
        assert!(!search.is_over(100, 50 * MS), "the guest got no processor");
        assert_eq!(search.check_at, 51 * MS);
        assert!(!search.is_over(100 + MS / 2, 51 * MS));
        assert_eq!(search.check_at, 51 * MS + MS / 2);
        assert!(search.is_over(100 + MS, 52 * MS));
    }

    #[test]
    fn places_that_come_late_are_waited_for() {
        let mut limit = SeekLimit::new(MS);
        let search = limit.begin(0, 0);
        limit.found(&search, MS * 9 / 10);
        assert_eq!(limit.begin(0, 0).limit, MS * 18 / 10);
        for _ in 0..1000 {
            let search = limit.begin(0, 0);
            limit.found(&search, 10);
        }
        assert!(limit.begin(0, 0).limit < MS * 11 / 10, "back to where it began");
        limit.found(&search, 100 * MS);
        assert_eq!(limit.begin(0, 0).limit, 4 * MS, "never longer than that");
    }

    #[test]
    fn where_no_place_comes_searches_get_short_but_for_one_in_sixteen() {
        let mut limit = SeekLimit::new(MS);
        let lengths: Vec<Ns> = (0..32)
            .map(|_| {
                let search = limit.begin(0, 0);
                limit.failed();
                search.limit
            })
            .collect();
        assert_eq!(lengths[..4], [MS, MS / 2, MS / 4, MS / 4]);
        assert_eq!(lengths.iter().filter(|length| **length == 4 * MS).count(), 2);
    }
}
