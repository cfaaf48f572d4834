//! The CPU job: a computation that never waits, for a guest that is busy while it serves.
//!
//! It goes in steps of about a microsecond (floating point and an integer hash) and in rounds of 2 to 256 steps, how
//! many is up to the hash. At the end of a round one word of the next page of a work area is changed. What comes
//! out depends on the seed, the size of the area and the number of rounds alone, never on when the steps are made.

use crate::wire::{Progress, splitmix64};
use alloc::vec::Vec;

/// The largest work area, in pages of 4 KiB.
pub const MAX_PAGES: usize = 1024;

/// Turns of a step's inner loop.
const TURNS: u32 = 256;
const WORDS: usize = 512;
/// Words of a page that are ever changed: few, so that a round soon meets what an earlier one left.
const USED: u64 = 8;

#[derive(Clone, Debug)]
#[repr(align(4096))]
struct Page([u64; WORDS]);

/// A job and how far it has come.
#[derive(Debug)]
pub struct Job {
    area: Vec<Page>,
    /// After so many rounds it is over; `None`: never.
    rounds: Option<u64>,
    done: Progress,
    hash: u64,
    values: [f64; 4],
    /// Steps that are left of this round.
    steps: u32,
}

impl Job {
    /// A job with a work area of so many pages, 1 to [`MAX_PAGES`].
    pub fn new(seed: u64, pages: usize, rounds: Option<u64>) -> Self {
        let hash = splitmix64(seed);
        let area = alloc::vec![Page([0; WORDS]); pages.clamp(1, MAX_PAGES)];
        let done = Progress { rounds: 0, hash };
        Self { area, rounds, done, hash, values: [0.2, 0.4, 0.6, 0.7], steps: steps(hash) }
    }

    /// How many rounds are done, and the hash at the end of the last one.
    pub fn progress(&self) -> Progress {
        self.done
    }

    /// Whether all rounds are done.
    pub fn is_over(&self) -> bool {
        self.rounds.is_some_and(|rounds| self.done.rounds >= rounds)
    }

    /// Computes until it is over, or `stop` (asked after every step) says true.
    pub fn run(&mut self, mut stop: impl FnMut() -> bool) {
        while !self.is_over() {
            self.step();
            if stop() {
                break;
            }
        }
    }

    fn step(&mut self) {
        (self.values, self.hash) = compute(self.values, self.hash);
        self.steps -= 1;
        if self.steps == 0 {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let page = (self.done.rounds % self.area.len() as u64) as usize;
        let cell = &mut self.area[page].0[(self.hash % USED) as usize * (WORDS / USED as usize)];
        // What lay there counts: memory that differs comes to light.
        self.hash = splitmix64(self.hash ^ *cell);
        *cell = self.hash;
        self.steps = steps(self.hash);
        self.done = Progress { rounds: self.done.rounds + 1, hash: self.hash };
    }
}

/// Length of the round after this hash: short and long ones are equally frequent, most of the time goes to the long.
fn steps(hash: u64) -> u32 {
    2 << (hash >> 61)
}

/// Four logistic maps, which stay between 0 and 1 and never settle, and a hash that takes them in.
fn compute(mut values: [f64; 4], mut hash: u64) -> ([f64; 4], u64) {
    for turn in 0..TURNS {
        for value in &mut values {
            *value = 3.9375 * *value * (1.0 - *value);
        }
        hash = (hash.rotate_left(23) ^ u64::from(turn)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    let folded = values.iter().fold(hash, |hash, value| hash.rotate_left(13) ^ value.to_bits());
    (values, folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(mut job: Job, every: u64) -> Progress {
        let mut asked = 0_u64;
        while !job.is_over() {
            job.run(|| {
                asked += 1;
                asked.is_multiple_of(every)
            });
        }
        job.progress()
    }

    #[test]
    fn interruptions_do_not_change_the_result() {
        let job = || Job::new(5, 8, Some(40));
        let whole = end(job(), u64::MAX);
        assert_eq!(whole.rounds, 40);
        for every in [1, 3, 50] {
            assert_eq!(end(job(), every), whole);
        }
    }

    #[test]
    fn seed_area_and_rounds_decide() {
        let results = [(5, 8, 40), (6, 8, 40), (5, 9, 40), (5, 8, 41)]
            .map(|(seed, pages, rounds)| end(Job::new(seed, pages, Some(rounds)), u64::MAX));
        for (n, result) in results.iter().enumerate() {
            assert!(results[..n].iter().all(|other| other.hash != result.hash), "{results:?}");
        }
    }

    #[test]
    fn every_page_of_the_area_is_written_and_the_values_stay_alive() {
        let mut job = Job::new(1, 16, Some(16));
        job.run(|| false);
        assert!(job.area.iter().all(|page| page.0.iter().filter(|&&word| word != 0).count() == 1));
        assert!(job.values.iter().all(|value| (0.0..1.0).contains(value)), "{:?}", job.values);
        let before = job.values;
        job.rounds = None;
        job.run(|| true);
        assert!(job.values.iter().zip(before).all(|(now, before)| *now != before));
    }

    #[test]
    fn a_changed_byte_of_the_area_shows() {
        let mut sound = Job::new(1, 4, Some(2000));
        let mut flipped = Job::new(1, 4, Some(2000));
        flipped.area[2].0.iter_mut().for_each(|word| *word ^= 1 << 40);
        sound.run(|| false);
        flipped.run(|| false);
        assert_ne!(sound.progress().hash, flipped.progress().hash);
    }

    #[test]
    fn a_job_of_no_rounds_is_over() {
        assert!(Job::new(0, 0, Some(0)).is_over());
        assert!(!Job::new(0, 0, None).is_over());
    }
}
