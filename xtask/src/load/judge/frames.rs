//! Frames of the guest on the hosts' LAN ports: who speaks for it, and what is said twice.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::{Evidence, Verdict};
use crate::load::capture::{Carries, Seen};
use crate::load::event::{Owners, losses};

/// How long after a takeover the new primary may repeat what the old one had sent.
const REPEAT_NS: u64 = 5_000_000_000;
/// How long frames of a killed process may still be on their way out of its host (a crash leaves the links up).
const LEAVING_NS: u64 = 1_000_000_000;

pub(super) fn judge(evidence: &Evidence<'_>, found: &mut Findings, verdict: &mut Verdict) {
    let mut frames: Vec<(&str, &Seen)> = evidence
        .captures
        .iter()
        .flat_map(|capture| capture.left.iter().map(|seen| (capture.host.as_str(), seen)))
        .filter(|(_, seen)| seen.source == evidence.guest_mac)
        .collect();
    frames.sort_by_key(|(_, seen)| seen.at);
    judge_repeats(evidence, &frames, found, verdict);
    judge_voices(evidence, &frames, found, verdict);
    let answered =
        evidence.records.iter().any(|record| matches!(record, crate::load::record::Record::Reply { .. }));
    let captured = frames.iter().any(|(_, seen)| matches!(seen.carries, Carries::Replies(_)));
    if !evidence.captures.is_empty() && answered && !captured {
        found.say(
            "captures",
            "the client had replies, but no capture shows one: they cannot be trusted".to_owned(),
        );
    }
}

/// Byte-identical repeats of another host's frame. The same host's own repeats are its guest's TCP at work.
fn judge_repeats(
    evidence: &Evidence<'_>,
    frames: &[(&str, &Seen)],
    found: &mut Findings,
    verdict: &mut Verdict,
) {
    let losses = losses(evidence.events);
    let mut senders: BTreeMap<u128, Vec<&str>> = BTreeMap::new();
    for (host, seen) in frames {
        if seen.carries == Carries::Announcement {
            continue;
        }
        let before = senders.entry(seen.hash).or_default();
        if before.iter().any(|sender| sender != host) {
            verdict.repeated_frames += 1;
            let allowed = losses
                .iter()
                .any(|loss| loss.survivor == *host && (loss.at..loss.at + REPEAT_NS).contains(&seen.at));
            if !allowed {
                verdict.repeated_without_takeover += 1;
                let when = found.moment(seen.at);
                found.say(
                    "repeated",
                    format!("{host} repeated a frame of {} at {when} without a takeover", before[0]),
                );
            }
        }
        if !before.contains(host) {
            before.push(host);
        }
    }
}

/// At any moment one host speaks for the guest: the one that the events name.
fn judge_voices(
    evidence: &Evidence<'_>,
    frames: &[(&str, &Seen)],
    found: &mut Findings,
    verdict: &mut Verdict,
) {
    let owners = Owners::new(evidence.events);
    if owners.is_empty() {
        return;
    }
    let losses = losses(evidence.events);
    for (host, seen) in frames {
        let leaving = || {
            losses.iter().any(|loss| {
                loss.kind == "crash"
                    && loss.host == *host
                    && (loss.at..loss.at + LEAVING_NS).contains(&seen.at)
            })
        };
        if owners.at(seen.at) != Some(*host) && !leaving() {
            verdict.foreign_frames += 1;
            let when = found.moment(seen.at);
            let owner = owners.at(seen.at).unwrap_or("nobody");
            found.say(
                "two voices",
                format!("{host} sent a frame of the guest at {when} while {owner} ran it"),
            );
        }
    }
}
