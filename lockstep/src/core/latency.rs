//! Where the time of an output goes, as quantiles that take little memory.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::Ns;

/// Steps per doubling: quantiles are right to about 4 %.
const STEPS: u64 = 16;

/// A distribution of durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    buckets: BTreeMap<u64, u64>,
    count: u64,
}

impl Quantiles {
    /// Adds one duration.
    pub fn add(&mut self, ns: Ns) {
        *self.buckets.entry(bucket(ns)).or_default() += 1;
        self.count += 1;
    }

    /// The duration that `permille` of all do not exceed, in nanoseconds.
    #[must_use]
    pub fn quantile(&self, permille: u64) -> Ns {
        let rank = (self.count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return upper(*bucket);
            }
        }
        0
    }
}

/// Buckets are linear below [`STEPS`], then `STEPS` per power of two.
fn bucket(ns: Ns) -> u64 {
    if ns < STEPS {
        return ns;
    }
    let shift = u64::from(ns.ilog2()) - u64::from(STEPS.ilog2());
    (shift + 1) * STEPS + (ns >> shift) - STEPS
}

/// The largest value of a bucket.
fn upper(bucket: u64) -> Ns {
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let first = (bucket % STEPS + STEPS) << shift;
    first + (1 << shift) - 1
}

impl Serialize for Quantiles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Quantiles", 3)?;
        out.serialize_field("count", &self.count)?;
        out.serialize_field("p50", &(self.quantile(500) / 1000))?;
        out.serialize_field("p99", &(self.quantile(990) / 1000))?;
        out.end()
    }
}

/// The parts of an output's wait for its acknowledgement; microseconds in the status document.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct OutputLatency {
    /// From the first output of an epoch to its seal.
    pub landing: Quantiles,
    /// What the secondary still had to replay when the seal arrived, its own seal included.
    pub replay: Quantiles,
    /// From there to its acknowledgement: next to nothing, unless something had to be repaired.
    pub compare: Quantiles,
    /// The rest of the time between seal and acknowledgement: the link, and threads waking up.
    pub link: Quantiles,
    /// From the first output to the release.
    pub total: Quantiles,
    /// In a guest without exits: from something being due (an event, a mark, an output's seal) to the landing that was
    /// found for it.
    pub due_to_landed: Quantiles,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_values() {
        let mut last = 0;
        for ns in (0..5000).chain([1 << 20, (1 << 20) + 1, 123_456_789, u64::MAX >> 1]) {
            let found = bucket(ns);
            assert!(found >= last || ns < 5000, "buckets are in order");
            last = found;
            assert!(upper(found) >= ns, "{ns} lies in a bucket that ends at {}", upper(found));
            assert!(upper(found) - ns <= ns / STEPS, "{ns} is told as {}", upper(found));
        }
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut quantiles = Quantiles::default();
        (1..=1000).for_each(|ns| quantiles.add(ns * 1000));
        let (median, tail) = (quantiles.quantile(500), quantiles.quantile(990));
        assert!((500_000..=531_250).contains(&median), "{median}");
        assert!((990_000..=1_051_875).contains(&tail), "{tail}");
        assert_eq!(Quantiles::default().quantile(500), 0);
    }
}
