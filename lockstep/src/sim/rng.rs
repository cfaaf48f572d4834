//! The one source of chance: everything that a seed decides is drawn from here.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A stream of decisions, the same for the same seed and name.
#[derive(Clone, Debug)]
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    /// Streams of different names are independent, so that one more draw in one part of the world does not
    /// change every other part.
    pub(crate) fn new(seed: u64, name: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(name);
        Dice(rng)
    }

    /// A number in `low..=high`.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// True in `per_mille` of 1,000 cases.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.0.random_range(0..1000) < per_mille
    }

    /// An index below `len`.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    /// 128 random bits.
    pub(crate) fn id(&mut self) -> u128 {
        self.0.random()
    }

    /// 64 random bits.
    pub(crate) fn word(&mut self) -> u64 {
        self.0.random()
    }
}
