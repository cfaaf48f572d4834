//! Sentences about what is wrong, a few per rule, the rest counted.

use std::collections::BTreeMap;

use super::Evidence;
use crate::load::record::Record;

/// Sentences kept per rule.
const PER_RULE: u64 = 5;

/// What the rules found so far.
pub(super) struct Findings {
    /// The first record's time: sentences count seconds from it.
    begin: u64,
    sentences: Vec<(&'static str, String)>,
    per_rule: BTreeMap<&'static str, u64>,
}

impl Findings {
    pub(super) fn new(evidence: &Evidence<'_>) -> Self {
        let begin = evidence.records.iter().map(record_time).min().unwrap_or(0);
        Self { begin, sentences: Vec::new(), per_rule: BTreeMap::new() }
    }

    /// Notes a violation of `rule`.
    pub(super) fn say(&mut self, rule: &'static str, sentence: String) {
        let count = self.per_rule.entry(rule).or_insert(0);
        *count += 1;
        if *count <= PER_RULE {
            self.sentences.push((rule, sentence));
        }
    }

    /// A moment for a sentence, in seconds since the client's first record.
    pub(super) fn moment(&self, at: u64) -> String {
        let (sign, distance) = if at >= self.begin { ("", at - self.begin) } else { ("-", self.begin - at) };
        format!("{sign}{}.{:03} s", distance / 1_000_000_000, distance / 1_000_000 % 1000)
    }

    pub(super) fn into_sentences(mut self) -> Vec<String> {
        for (rule, count) in self.per_rule {
            if count > PER_RULE {
                self.sentences.push((rule, format!("… and {} more", count - PER_RULE)));
            }
        }
        self.sentences.into_iter().map(|(rule, sentence)| format!("{rule}: {sentence}")).collect()
    }
}

/// A duration for a sentence.
pub(super) fn milliseconds(ns: u64) -> String {
    format!("{}.{} ms", ns / 1_000_000, ns / 100_000 % 10)
}

/// When a record was made.
pub(super) fn record_time(record: &Record) -> u64 {
    match record {
        Record::Start { at, .. }
        | Record::Send { at, .. }
        | Record::Reply { at, .. }
        | Record::Down { at, .. }
        | Record::Stall { at, .. }
        | Record::Wrong { at, .. }
        | Record::Broken { at, .. }
        | Record::Mark { at, .. }
        | Record::End { at, .. } => *at,
    }
}
