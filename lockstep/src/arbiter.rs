//! The generation record and its compare-and-swap (design invariant I4).
//!
//! One record per pair. Each change is an attempt with an id of its own, and names the attempt that it
//! replaces: a retry is idempotent, and two hosts can never both win.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Unique id of one attempt to change the record. 0 stands for "there is no record yet".
pub type AttemptId = u128;

/// Longest name of a pair or host, in bytes.
pub const NAME_MAX: usize = 64;
/// Most replicas that a record can name.
pub const IN_SYNC_MAX: usize = 8;

/// Who owns the pair.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Record {
    /// Grows by one at each takeover and each going alone.
    pub generation: u64,
    /// The host that is live.
    pub holder: String,
    /// The attempt that wrote this record.
    #[serde(with = "hex_id")]
    pub attempt: AttemptId,
    /// Hosts whose replicas are in sync: only they are eligible. Sorted.
    pub in_sync: Vec<String>,
    /// The guest was shut down: no survivor revives it.
    pub stopped: bool,
}

/// A question to the arbiter.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// What does the record say?
    Read {
        /// Name of the pair.
        pair: String,
    },
    /// Replace the record whose attempt is `expect` (0: none yet) by `new`.
    Swap {
        /// Name of the pair.
        pair: String,
        /// The attempt that must be in force.
        expect: AttemptId,
        /// The record to write.
        new: Record,
    },
}

/// The arbiter's answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// The record as it stands.
    Current(Option<Record>),
    /// The swap took place, now or at an earlier try of the same attempt.
    Won(Record),
    /// Another record is in force.
    Lost(Option<Record>),
    /// The question was malformed.
    Refused(String),
}

/// The records of all pairs: the witness's whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    pairs: BTreeMap<String, Record>,
}

impl Records {
    /// The record of a pair.
    #[must_use]
    pub fn get(&self, pair: &str) -> Option<&Record> {
        self.pairs.get(pair)
    }

    /// Answers a question. The second value says whether the records changed and must be made durable
    /// *before* the answer is sent.
    pub fn answer(&mut self, ask: &Ask) -> (Answer, bool) {
        match ask {
            Ask::Read { pair } => (Answer::Current(self.pairs.get(pair).cloned()), false),
            Ask::Swap { pair, expect, new } => self.swap(pair, *expect, new),
        }
    }

    fn swap(&mut self, pair: &str, expect: AttemptId, new: &Record) -> (Answer, bool) {
        if let Err(why) = check(pair, new) {
            return (Answer::Refused(why), false);
        }
        let current = self.pairs.get(pair);
        if let Some(record) = current.filter(|record| record.attempt == new.attempt) {
            return (Answer::Won(record.clone()), false);
        }
        if current.map_or(0, |record| record.attempt) != expect {
            return (Answer::Lost(current.cloned()), false);
        }
        let old = current.map_or(0, |record| record.generation);
        if new.generation != old && new.generation != old + 1 {
            let why = format!("generation {} cannot follow {old}", new.generation);
            return (Answer::Refused(why), false);
        }
        self.pairs.insert(pair.to_owned(), new.clone());
        (Answer::Won(new.clone()), true)
    }
}

fn check(pair: &str, new: &Record) -> Result<(), String> {
    let name_ok = |name: &str| !name.is_empty() && name.len() <= NAME_MAX;
    if !name_ok(pair) || !name_ok(&new.holder) || !new.in_sync.iter().all(|name| name_ok(name)) {
        return Err(format!("names must have 1 to {NAME_MAX} bytes"));
    }
    if new.in_sync.len() > IN_SYNC_MAX {
        return Err(format!("a record names at most {IN_SYNC_MAX} replicas"));
    }
    if new.attempt == 0 {
        return Err("attempt id 0 is reserved for \"no record\"".to_owned());
    }
    if !new.in_sync.is_sorted() || !new.in_sync.contains(&new.holder) {
        return Err("the replicas must be sorted and contain the holder".to_owned());
    }
    Ok(())
}

mod hex_id {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(generation: u64, holder: &str, attempt: AttemptId) -> Record {
        Record { generation, holder: holder.into(), attempt, in_sync: vec![holder.into()], stopped: false }
    }

    fn swap(expect: AttemptId, new: Record) -> Ask {
        Ask::Swap { pair: "p".into(), expect, new }
    }

    #[test]
    fn only_one_of_two_contenders_wins() {
        let mut records = Records::default();
        assert_eq!(records.answer(&swap(0, record(1, "a", 10))), (Answer::Won(record(1, "a", 10)), true));
        assert_eq!(records.answer(&swap(10, record(2, "b", 20))), (Answer::Won(record(2, "b", 20)), true));
        let (answer, changed) = records.answer(&swap(10, record(2, "a", 30)));
        assert_eq!(answer, Answer::Lost(Some(record(2, "b", 20))));
        assert!(!changed);
    }

    #[test]
    fn a_retry_is_idempotent() {
        let mut records = Records::default();
        records.answer(&swap(0, record(1, "a", 10)));
        assert_eq!(records.answer(&swap(0, record(1, "a", 10))), (Answer::Won(record(1, "a", 10)), false));
    }

    #[test]
    fn a_generation_cannot_be_skipped_or_go_back() {
        let mut records = Records::default();
        assert!(matches!(records.answer(&swap(0, record(3, "a", 10))).0, Answer::Refused(_)));
        records.answer(&swap(0, record(1, "a", 10)));
        records.answer(&swap(10, record(2, "a", 11)));
        assert!(matches!(records.answer(&swap(11, record(1, "a", 12))).0, Answer::Refused(_)));
    }

    #[test]
    fn a_malformed_record_is_refused() {
        let mut records = Records::default();
        let mut bad = record(1, "a", 10);
        bad.in_sync = vec!["b".into()];
        assert!(matches!(records.answer(&swap(0, bad)).0, Answer::Refused(_)));
        assert!(matches!(records.answer(&swap(0, record(1, "a", 0))).0, Answer::Refused(_)));
        assert!(records.get("p").is_none());
    }
}
