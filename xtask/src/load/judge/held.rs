//! The causal checks of the output rule. While the link carries nothing (a hold) or is slow (a long round trip), no
//! acknowledgement can exist for a request that was delivered after its begin; so no reply to it may leave.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::{Findings, milliseconds};
use super::requests::Table;
use super::{Evidence, Verdict};
use crate::load::capture::{Carries, HostCapture, Key, Seen};
use crate::load::event::{DrillEvent, Owners};

/// Fewer requests within a window prove nothing.
const LEAST_REQUESTS: usize = 10;

/// A span in which answers need at least a known time.
#[derive(Clone, Copy)]
enum Window {
    /// Nothing crosses the link from `from` to `to`.
    Hold { from: u64, to: u64 },
    /// A round trip takes `rtt` from `from` to `to`.
    Slow { from: u64, to: u64, rtt: u64 },
}

impl Window {
    fn of(event: &DrillEvent) -> Option<Self> {
        match event {
            DrillEvent::Hold { from, to } => Some(Self::Hold { from: *from, to: *to }),
            DrillEvent::Rtt { from, to, us } => {
                Some(Self::Slow { from: *from, to: *to, rtt: us.saturating_mul(1000) })
            }
            _ => None,
        }
    }

    /// The earliest moment at which an answer to a request of moment `asked` may be seen; `None` when the window says
    /// nothing about it.
    fn earliest(&self, asked: u64) -> Option<u64> {
        match *self {
            Self::Hold { from, to } => (from..to).contains(&asked).then_some(to),
            Self::Slow { from, to, rtt } => {
                let earliest = asked.saturating_add(rtt);
                (asked >= from && earliest <= to).then_some(earliest)
            }
        }
    }

    fn name(&self, found: &Findings) -> String {
        match *self {
            Self::Hold { from, to } => {
                format!("the hold of {} at {}", milliseconds(to.saturating_sub(from)), found.moment(from))
            }
            Self::Slow { from, rtt, .. } => {
                format!("the round trip of {} from {} on", milliseconds(rtt), found.moment(from))
            }
        }
    }
}

pub(super) fn judge(evidence: &Evidence<'_>, table: &Table, found: &mut Findings, verdict: &mut Verdict) {
    let owners = Owners::new(evidence.events);
    for window in evidence.events.iter().filter_map(Window::of) {
        let (Window::Hold { from, .. } | Window::Slow { from, .. }) = window;
        let primary = owners.at(from);
        let capture = evidence.captures.iter().find(|capture| Some(capture.host.as_str()) == primary);
        let mut early = BTreeSet::new();
        match capture {
            Some(capture) => judge_capture(window, capture, table, found, verdict, &mut early),
            None => {
                let name = window.name(found);
                found.say(
                    "hold",
                    format!("{name} cannot be judged: no event names the primary, or its capture is missing"),
                );
            }
        }
        judge_records(window, table, found, &mut early);
        verdict.released_early += u64::try_from(early.len()).unwrap_or(u64::MAX);
    }
}

/// Requests and replies as they passed the primary's port.
fn judge_capture(
    window: Window,
    capture: &HostCapture,
    table: &Table,
    found: &mut Findings,
    verdict: &mut Verdict,
    early: &mut BTreeSet<Key>,
) {
    let requests = first_times(&capture.delivered, requests_of);
    let replies = first_times(&capture.left, replies_of);
    let mut judged = 0_usize;
    for (key, delivered) in &requests {
        // Another program's requests have no records to judge by.
        let Some((earliest, asked)) = window.earliest(*delivered).zip(table.0.get(key)) else { continue };
        judged += 1;
        let (who, name) = (asked.name(key), window.name(found));
        if let Some(left) = replies.get(key).filter(|left| **left < earliest) {
            early.insert(*key);
            let by = milliseconds(earliest - left);
            found.say(
                "released early",
                format!("the reply to {who} left {} {by} too early for {name}", capture.host),
            );
        }
        if asked.answers.is_empty() {
            found.say("hold", format!("{who}, delivered in {name}, has no answer"));
        }
    }
    verdict.held_requests.push(u64::try_from(judged).unwrap_or(u64::MAX));
    if judged < LEAST_REQUESTS {
        let name = window.name(found);
        found.say("hold", format!("only {judged} requests were delivered in {name}: {LEAST_REQUESTS} are needed to prove anything"));
    }
}

/// The client's own clock says the same with less sharpness: delivery is after sending, arrival after leaving.
fn judge_records(window: Window, table: &Table, found: &mut Findings, early: &mut BTreeSet<Key>) {
    for (key, asked) in &table.0 {
        let Some((earliest, answered)) = window.earliest(asked.sent()).zip(asked.answered()) else {
            continue;
        };
        if answered < earliest && early.insert(*key) {
            let (who, name) = (asked.name(key), window.name(found));
            found.say(
                "released early",
                format!("the client had its answer to {who} before it could be: {name}"),
            );
        }
    }
}

fn requests_of(seen: &Seen) -> &[Key] {
    if let Carries::Requests(keys) = &seen.carries { keys } else { &[] }
}

fn replies_of(seen: &Seen) -> &[Key] {
    if let Carries::Replies(keys) = &seen.carries { keys } else { &[] }
}

/// When each message was first seen.
pub(super) fn first_times(frames: &[Seen], keys_of: fn(&Seen) -> &[Key]) -> BTreeMap<Key, u64> {
    let mut first = BTreeMap::new();
    for seen in frames {
        for key in keys_of(seen) {
            first.entry(*key).or_insert(seen.at);
        }
    }
    first
}
