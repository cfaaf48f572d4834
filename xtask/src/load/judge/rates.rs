//! What the client got in each window.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::requests::Table;
use super::{Evidence, Rate, Verdict};
use crate::load::event::DrillEvent;
use crate::load::record::Record;

pub(super) fn judge(evidence: &Evidence<'_>, table: &Table, found: &mut Findings, verdict: &mut Verdict) {
    for event in evidence.events {
        let DrillEvent::Window { name, from, to, min_per_s } = event else { continue };
        let rate = measure(evidence.records, table, name, (*from, *to), *min_per_s);
        if rate.replies_per_s < *min_per_s {
            found.say(
                "rate",
                format!(
                    "window `{name}`: {:.0} replies per second, at least {min_per_s:.0} were asked for",
                    rate.replies_per_s
                ),
            );
        }
        verdict.rates.push(rate);
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates for people: 52 bits are plenty")]
fn measure(records: &[Record], table: &Table, name: &str, span: (u64, u64), min_per_s: f64) -> Rate {
    let (from, to) = span;
    let mut took: Vec<u64> = table
        .0
        .values()
        .filter(|asked| asked.answered().is_some_and(|at| (from..to).contains(&at)))
        .filter_map(super::requests::Asked::took)
        .collect();
    took.sort_unstable();
    let seconds = to.saturating_sub(from) as f64 / 1e9;
    let per_second = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
    Rate {
        window: name.to_owned(),
        seconds,
        replies_per_s: per_second(u64::try_from(took.len()).unwrap_or(u64::MAX)),
        min_per_s,
        download_bytes_per_s: per_second(downloaded(records, from, to)),
        median_ns: percentile(&took, 50),
        p99_ns: percentile(&took, 99),
    }
}

/// Bytes between the first and the last progress record of each worker in the span.
fn downloaded(records: &[Record], from: u64, to: u64) -> u64 {
    let mut spans: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for record in records {
        if let Record::Down { at, w, bytes } = record
            && (from..to).contains(at)
        {
            let span = spans.entry(*w).or_insert((*bytes, *bytes));
            *span = (span.0.min(*bytes), span.1.max(*bytes));
        }
    }
    spans.values().map(|(first, last)| last - first).sum()
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0)
}
