//! What each loss of a host meant for the clients, and why some of them waited longer than the pair itself needed.

use super::findings::{Findings, milliseconds};
use super::held::first_times;
use super::requests::{Asked, Table};
use super::{Evidence, Gap, LongRequest, Verdict};
use crate::load::capture::{Carries, HostCapture, Key, Seen};
use crate::load::event::{Loss, losses};
use crate::load::record::{Proto, Record};

/// How long after a loss a request still belongs to it.
const REACH_NS: u64 = 10_000_000_000;
/// Long requests told per loss.
const TOLD: usize = 20;

pub(super) fn judge(evidence: &Evidence<'_>, table: &Table, found: &mut Findings, verdict: &mut Verdict) {
    let losses = losses(evidence.events);
    for (number, loss) in losses.iter().enumerate() {
        let next = losses.get(number + 1).map_or(u64::MAX, |next| next.at);
        let until = next.min(loss.at.saturating_add(REACH_NS));
        let outstanding = table
            .0
            .values()
            .filter(|asked| asked.sent() <= loss.at && asked.answered().is_none_or(|at| at > loss.at))
            .count();
        verdict.outstanding_at_plugs.push(u64::try_from(outstanding).unwrap_or(u64::MAX));
        let when = found.moment(loss.at);
        if outstanding == 0 {
            found.say(
                "idle",
                format!(
                    "no request was outstanding at the {} of {} at {when}: it proves nothing",
                    loss.kind, loss.host
                ),
            );
        }
        let gap = measure(evidence, table, loss, until);
        if gap.first_frame_ns.is_none() {
            found.say(
                "silence",
                format!(
                    "after the {} of {} at {when}, {} never sent a frame of the guest",
                    loss.kind, loss.host, loss.survivor
                ),
            );
        }
        verdict.gaps.push(gap);
    }
}

fn measure(evidence: &Evidence<'_>, table: &Table, loss: &Loss<'_>, until: u64) -> Gap {
    let survivor = evidence.captures.iter().find(|capture| capture.host == loss.survivor);
    let mut spoken = survivor
        .into_iter()
        .flat_map(|capture| capture.left.iter())
        .filter(|seen| seen.source == evidence.guest_mac && (loss.at..until).contains(&seen.at));
    let first_frame = spoken.clone().next().map(|seen| seen.at - loss.at);
    let first_reply =
        spoken.find(|seen| matches!(seen.carries, Carries::Replies(_))).map(|seen| seen.at - loss.at);
    let mut under_way: Vec<(&Key, &Asked, u64)> = table
        .0
        .iter()
        .filter(|(_, asked)| asked.sent() < until && asked.answered().is_some_and(|at| at > loss.at))
        .filter_map(|(key, asked)| asked.took().map(|took| (key, asked, took)))
        .collect();
    under_way.sort_by_key(|(_, asked, took)| (std::cmp::Reverse(*took), asked.sent()));
    let witness = Witness::new(evidence, loss, survivor);
    let longer = under_way
        .iter()
        .take_while(|(_, _, took)| first_frame.is_none_or(|gap| *took > gap))
        .take(TOLD)
        .map(|(key, asked, took)| LongRequest {
            request: asked.name(key),
            took_ns: *took,
            explanation: witness.explain(key, asked),
        })
        .collect();
    Gap {
        kind: loss.kind.to_owned(),
        host: loss.host.to_owned(),
        survivor: loss.survivor.to_owned(),
        at: loss.at,
        first_frame_ns: first_frame,
        first_reply_ns: first_reply,
        longest_request_ns: under_way.first().map_or(0, |(_, _, took)| *took),
        longest_request: under_way.first().map(|(key, asked, _)| asked.name(key)).unwrap_or_default(),
        tcp_stall_ns: tcp_stall(table, loss.at, until),
        download_stall_ns: download_stall(evidence.records, loss.at, until),
        longer,
    }
}

/// The longest time without a reply on one TCP connection, of those times that overlap the span.
fn tcp_stall(table: &Table, from: u64, until: u64) -> u64 {
    let mut replies: Vec<(u32, u64)> = table
        .0
        .values()
        .filter(|asked| asked.proto == Proto::Tcp)
        .filter_map(|asked| asked.answered().map(|at| (asked.worker, at)))
        .collect();
    replies.sort_unstable();
    replies
        .windows(2)
        .filter(|pair| pair[0].0 == pair[1].0 && pair[0].1 < until && pair[1].1 > from)
        .map(|pair| pair[1].1 - pair[0].1)
        .max()
        .unwrap_or(0)
}

fn download_stall(records: &[Record], loss: u64, until: u64) -> u64 {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Stall { from, at, .. } if *from < until && *at > loss => Some(at - from),
            _ => None,
        })
        .max()
        .unwrap_or(0)
}

/// What the captures say about single requests around a loss.
struct Witness<'a> {
    loss: &'a Loss<'a>,
    /// First deliveries to the host that died.
    reached_dead: std::collections::BTreeMap<Key, u64>,
    /// First replies that left the host that died.
    left_dead: std::collections::BTreeMap<Key, u64>,
    survivor: Option<&'a HostCapture>,
}

impl<'a> Witness<'a> {
    fn new(evidence: &Evidence<'a>, loss: &'a Loss<'a>, survivor: Option<&'a HostCapture>) -> Self {
        let dead = evidence.captures.iter().find(|capture| capture.host == loss.host);
        let times = |frames: Option<&Vec<Seen>>| {
            frames.map(|frames| first_times(frames, keys_of)).unwrap_or_default()
        };
        Self {
            loss,
            reached_dead: times(dead.map(|capture| &capture.delivered)),
            left_dead: times(dead.map(|capture| &capture.left)),
            survivor,
        }
    }

    /// Why a request took as long as it did: where it or its reply was lost, and who sent it again when.
    fn explain(&self, key: &Key, asked: &Asked) -> Option<String> {
        let answered = asked.answered()?;
        let after = |at: u64| milliseconds(at.saturating_sub(self.loss.at));
        let fate = self.fate(key, asked);
        let again =
            asked.sends.iter().rev().find(|at| **at < answered).copied().unwrap_or_else(|| asked.sent());
        if again > asked.sent() {
            return Some(format!(
                "{fate}; the client sent it again after {} and had the answer {} later",
                milliseconds(again - asked.sent()),
                milliseconds(answered - again)
            ));
        }
        let survivor = self.survivor?;
        let moment = |frames: &[Seen]| {
            let begin = frames.partition_point(|seen| seen.at <= self.loss.at);
            let mut until = frames[begin..].iter().take_while(|seen| seen.at <= answered);
            until.find(|seen| keys_of(seen).contains(key)).map(|seen| seen.at)
        };
        if let Some(delivered) = moment(&survivor.delivered) {
            let sender = if asked.proto == Proto::Tcp && asked.sent() < self.loss.at {
                "the client's TCP sent it again, and it"
            } else {
                "it"
            };
            return Some(format!(
                "{fate}; {sender} reached {} {} after the loss",
                survivor.host,
                after(delivered)
            ));
        }
        let left = moment(&survivor.left)?;
        Some(format!("{fate}; {} sent the reply {} after the loss", survivor.host, after(left)))
    }

    fn fate(&self, key: &Key, asked: &Asked) -> String {
        let host = self.loss.host;
        if asked.sent() >= self.loss.at {
            return format!("it was sent after the loss of {host}");
        }
        let before = |times: &std::collections::BTreeMap<Key, u64>| {
            times.get(key).is_some_and(|at| *at <= self.loss.at)
        };
        if before(&self.left_dead) {
            format!("its reply had left {host} and was lost on the way")
        } else if before(&self.reached_dead) {
            format!("it had reached {host}, and no reply had left")
        } else {
            format!("it was lost on the way to {host}")
        }
    }
}

fn keys_of(seen: &Seen) -> &[Key] {
    match &seen.carries {
        Carries::Requests(keys) | Carries::Replies(keys) => keys,
        _ => &[],
    }
}
