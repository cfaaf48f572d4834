//! The judge: decides from outside what happened to the clients of a pair.
//!
//! Inputs are the client's records, the captures on the outside of the hosts' LAN ports and the drill's events; all
//! three carry `CLOCK_MONOTONIC` nanoseconds of one machine. Every rule fails closed: evidence that is missing is a
//! violation, not a pass.

mod findings;
mod frames;
mod gaps;
mod generation;
mod held;
mod rates;
mod requests;
#[cfg(test)]
mod scene;

use serde::{Deserialize, Serialize};

pub use generation::{epoch_share, grew_by_one};

use super::capture::HostCapture;
use super::event::DrillEvent;
use super::record::Record;
use findings::Findings;
use requests::Table;

/// What there is to judge by.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The client's records.
    pub records: &'a [Record],
    /// One capture per host that was ever part of the pair.
    pub captures: &'a [HostCapture],
    /// What was done to the pair.
    pub events: &'a [DrillEvent],
    /// The guest's MAC address.
    pub guest_mac: [u8; 6],
    /// Whether all counters were 0 when the client began: then the first values are checked too.
    pub fresh_counters: bool,
}

/// The judgement. Times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// No violation.
    pub ok: bool,
    /// Requests that were sent for the first time.
    pub requests: u64,
    /// Further attempts of UDP requests.
    pub resends: u64,
    /// Bytes that downloads received.
    pub download_bytes: u64,
    /// Requests without a reply, and acknowledged effects that vanished.
    pub lost: u64,
    /// Effects that happened twice, and requests with two results.
    pub duplicated: u64,
    /// Connections that died.
    pub broken: u64,
    /// Bytes that must not be.
    pub wrong_bytes: u64,
    /// Replies that left before the link could have carried an acknowledgement.
    pub released_early: u64,
    /// Frames that one host repeated of another, byte by byte.
    pub repeated_frames: u64,
    /// Of those, frames that no takeover explains.
    pub repeated_without_takeover: u64,
    /// Frames of the guest from a host that did not run it.
    pub foreign_frames: u64,
    /// Per loss of a host: requests outstanding at that moment.
    pub outstanding_at_plugs: Vec<u64>,
    /// Requests judged per hold or round-trip window.
    pub held_requests: Vec<u64>,
    /// Per loss of a host: how long whom.
    pub gaps: Vec<Gap>,
    /// Per window: the client's rates.
    pub rates: Vec<Rate>,
    /// Everything that is wrong, in sentences.
    pub violations: Vec<String>,
}

/// The effect of one loss of a host. Durations in nanoseconds, counted from the cut or kill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// `plug` or `crash`.
    pub kind: String,
    /// The host that died.
    pub host: String,
    /// The host that went on.
    pub survivor: String,
    /// The moment of the cut or kill.
    pub at: u64,
    /// Until the survivor's first frame with the guest's address.
    pub first_frame_ns: Option<u64>,
    /// Until the survivor's first reply of a counter.
    pub first_reply_ns: Option<u64>,
    /// The longest request that was under way.
    pub longest_request_ns: u64,
    /// Which one that was.
    pub longest_request: String,
    /// The longest time between two replies on a TCP connection.
    pub tcp_stall_ns: u64,
    /// The longest wait of a download.
    pub download_stall_ns: u64,
    /// Requests that took longer than the gap itself (the longest twenty), each with its reason.
    pub longer: Vec<LongRequest>,
}

/// A request that took longer than the pair's own gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongRequest {
    /// Which one.
    pub request: String,
    /// From its first attempt to its reply, in nanoseconds.
    pub took_ns: u64,
    /// Why, as far as records and captures tell.
    pub explanation: Option<String>,
}

/// What the client got in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The window's name.
    pub window: String,
    /// Its length in seconds.
    pub seconds: f64,
    /// Requests answered per second.
    pub replies_per_s: f64,
    /// The least that was asked for.
    pub min_per_s: f64,
    /// Bytes downloaded per second.
    pub download_bytes_per_s: f64,
    /// Median latency of the requests answered in it, in nanoseconds.
    pub median_ns: u64,
    /// 99th percentile of the latency, in nanoseconds.
    pub p99_ns: u64,
}

/// Judges a drill.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let mut found = Findings::new(evidence);
    let mut verdict = Verdict::default();
    let table = Table::build(evidence.records, &mut found, &mut verdict);
    table.judge_answers(evidence.fresh_counters, &mut found, &mut verdict);
    table.judge_guest(&mut found);
    frames::judge(evidence, &mut found, &mut verdict);
    held::judge(evidence, &table, &mut found, &mut verdict);
    gaps::judge(evidence, &table, &mut found, &mut verdict);
    rates::judge(evidence, &table, &mut found, &mut verdict);
    generation::judge(evidence.events, &mut found);
    verdict.violations = found.into_sentences();
    verdict.ok = verdict.violations.is_empty();
    verdict
}
