//! Requests and replies by name: lost, duplicated, broken, wrong; one boot and a clock that goes forward.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::findings::{Findings, milliseconds};
use crate::load::capture::Key;
use crate::load::record::{Proto, Record};

/// A reply as far as the rules need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) at: u64,
    pub(super) value: u64,
    pub(super) boot: u64,
    pub(super) uptime: u64,
}

/// One request with all that happened to it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) worker: u32,
    pub(super) proto: Proto,
    pub(super) counter: u32,
    /// Moments of the attempts, in order.
    pub(super) sends: Vec<u64>,
    /// Replies, in order.
    pub(super) answers: Vec<Answer>,
}

impl Asked {
    pub(super) fn sent(&self) -> u64 {
        self.sends.first().copied().unwrap_or(u64::MAX)
    }

    pub(super) fn answered(&self) -> Option<u64> {
        self.answers.first().map(|answer| answer.at)
    }

    /// From the first attempt to the first reply.
    pub(super) fn took(&self) -> Option<u64> {
        self.answered().map(|at| at.saturating_sub(self.sent()))
    }

    /// For people.
    pub(super) fn name(&self, key: &Key) -> String {
        let proto = if self.proto == Proto::Tcp { "tcp" } else { "udp" };
        format!("{proto} request {} of worker {} (client {:#x})", key.1, self.worker, key.0)
    }
}

/// All requests by name.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) BTreeMap<Key, Asked>);

impl Table {
    /// Reads the records; what is wrong with the records themselves is judged on the way.
    pub(super) fn build(records: &[Record], found: &mut Findings, verdict: &mut Verdict) -> Self {
        let mut table = Self::default();
        let mut sorted: Vec<&Record> = records.iter().collect();
        sorted.sort_by_key(|record| super::findings::record_time(record));
        for record in &sorted {
            table.add_send(record, verdict);
        }
        let mut ends = 0;
        let mut workers = 0;
        let mut owners = BTreeMap::new();
        let mut downloaded = BTreeMap::new();
        for record in &sorted {
            match record {
                Record::Reply { .. } => table.add_reply(record, found, verdict),
                Record::Start { w, counters, .. } => {
                    workers += 1;
                    check_owners(*w, counters, &mut owners, found);
                }
                Record::Down { w, bytes, .. } => drop(downloaded.insert(*w, *bytes)),
                Record::Wrong { at, w, offset, bytes, what } => {
                    verdict.wrong_bytes += *bytes;
                    let when = found.moment(*at);
                    found.say(
                        "wrong bytes",
                        format!("{what}: {bytes} bytes from offset {offset} of worker {w} at {when}"),
                    );
                }
                Record::Broken { at, w, why } => {
                    verdict.broken += 1;
                    let when = found.moment(*at);
                    found.say("broken", format!("the connection of worker {w} died at {when}: {why}"));
                }
                Record::End { .. } => ends += 1,
                _ => {}
            }
        }
        verdict.download_bytes = downloaded.values().sum();
        table.judge_idle(records, &downloaded, found);
        if ends == 0 || workers == 0 {
            found.say("records", "the client's records have no end: it died, or its file was cut".to_owned());
        }
        table
    }

    fn add_send(&mut self, record: &Record, verdict: &mut Verdict) {
        let Record::Send { at, w, proto, client, id, counter, .. } = record else { return };
        let asked = self.0.entry((*client, *id)).or_insert_with(|| Asked {
            worker: *w,
            proto: *proto,
            counter: *counter,
            sends: Vec::new(),
            answers: Vec::new(),
        });
        if asked.sends.is_empty() {
            verdict.requests += 1;
        } else {
            verdict.resends += 1;
        }
        asked.sends.push(*at);
    }

    fn add_reply(&mut self, record: &Record, found: &mut Findings, verdict: &mut Verdict) {
        let Record::Reply { at, client, id, counter, value, boot, uptime, .. } = record else { return };
        let key = (*client, *id);
        match self.0.get_mut(&key) {
            Some(asked) if asked.counter == *counter && asked.sent() <= *at => {
                asked.answers.push(Answer { at: *at, value: *value, boot: *boot, uptime: *uptime });
            }
            Some(asked) => {
                verdict.wrong_bytes += 64;
                let (name, when) = (asked.name(&key), found.moment(*at));
                found.say(
                    "wrong bytes",
                    format!(
                        "the reply to {name} at {when} names counter {counter}, or came before the request"
                    ),
                );
            }
            None => {
                verdict.wrong_bytes += 64;
                let when = found.moment(*at);
                found.say(
                    "wrong bytes",
                    format!("a reply at {when} to request {id} of client {client:#x}, which was never sent"),
                );
            }
        }
    }

    /// A worker that never had an answer has shown nothing.
    fn judge_idle(&self, records: &[Record], downloaded: &BTreeMap<u32, u64>, found: &mut Findings) {
        let served: BTreeSet<u32> =
            self.0.values().filter(|asked| !asked.answers.is_empty()).map(|asked| asked.worker).collect();
        for record in records {
            let Record::Start { w, proto, .. } = record else { continue };
            let bytes = downloaded.get(w).copied().unwrap_or(0);
            let idle = if *proto == Proto::Download { bytes == 0 } else { !served.contains(w) };
            if idle {
                found.say("idle", format!("worker {w} never had an answer: it proves nothing"));
            }
        }
    }

    /// Lost requests and doubled effects.
    pub(super) fn judge_answers(&self, fresh: bool, found: &mut Findings, verdict: &mut Verdict) {
        let mut counters: BTreeMap<u32, Vec<(&Key, &Asked)>> = BTreeMap::new();
        for (key, asked) in &self.0 {
            if asked.answers.is_empty() {
                verdict.lost += 1;
                let (name, when) = (asked.name(key), found.moment(asked.sent()));
                found.say("lost", format!("{name}, sent at {when}, was never answered"));
            }
            if asked.answers.iter().any(|answer| answer.value != asked.answers[0].value) {
                verdict.duplicated += 1;
                found.say("duplicated", format!("{} has two results", asked.name(key)));
            }
            counters.entry(asked.counter).or_default().push((key, asked));
        }
        for (counter, mut requests) in counters {
            requests.sort_by_key(|(key, asked)| (asked.sent(), key.1));
            judge_counter(counter, &requests, fresh, found, verdict);
        }
    }

    /// One boot id; an uptime that never goes back and does go on.
    pub(super) fn judge_guest(&self, found: &mut Findings) {
        let answers = || self.0.values().flat_map(|asked| asked.answers.iter());
        let boots: BTreeSet<u64> = answers().map(|answer| answer.boot).collect();
        if boots.len() > 1 {
            let names: Vec<String> = boots.iter().map(|boot| format!("{boot:016x}")).collect();
            found.say("reboot", format!("the guest was started again: boot ids {}", names.join(", ")));
        }
        self.judge_uptime(found);
        let spans = answers().fold(None, |span: Option<(Answer, Answer)>, answer| {
            let (mut first, mut last) = span.unwrap_or((*answer, *answer));
            first = if answer.at < first.at { *answer } else { first };
            last = if answer.at > last.at { *answer } else { last };
            Some((first, last))
        });
        if let Some((first, last)) = spans
            && last.at - first.at > 1_000_000_000
            && last.uptime <= first.uptime
        {
            let span = milliseconds(last.at - first.at);
            found.say("uptime", format!("the guest's uptime did not grow within {span}"));
        }
    }

    /// No reply may show an uptime below one that the client had seen before it sent the request.
    fn judge_uptime(&self, found: &mut Findings) {
        let mut seen: Vec<(u64, u64)> = self
            .0
            .values()
            .flat_map(|asked| asked.answers.iter().map(|answer| (answer.at, answer.uptime)))
            .collect();
        seen.sort_unstable();
        let mut asked: Vec<(&Key, &Asked)> = self.0.iter().collect();
        asked.sort_by_key(|(_, asked)| asked.sent());
        let mut seen = seen.into_iter().peekable();
        let mut floor = 0;
        for (key, asked) in asked {
            while let Some((_, uptime)) = seen.next_if(|(at, _)| *at <= asked.sent()) {
                floor = floor.max(uptime);
            }
            let least = asked.answers.iter().map(|answer| answer.uptime).min();
            if let Some(least) = least.filter(|least| *least < floor) {
                let (name, back) = (asked.name(key), milliseconds(floor - least));
                found.say(
                    "uptime",
                    format!("the guest's clock went back by {back} before it answered {name}"),
                );
            }
        }
    }
}

/// A counter belongs to one worker: else its values prove nothing.
fn check_owners(worker: u32, counters: &[u32], owners: &mut BTreeMap<u32, u32>, found: &mut Findings) {
    for counter in counters {
        if let Some(other) = owners.insert(*counter, worker) {
            found.say("records", format!("counter {counter} is used by workers {other} and {worker}"));
        }
    }
}

/// The values of a counter must count its requests, one by one. A request without a reply may have counted or not.
fn judge_counter(
    counter: u32,
    requests: &[(&Key, &Asked)],
    fresh: bool,
    found: &mut Findings,
    verdict: &mut Verdict,
) {
    let mut before = fresh.then_some(0_u64);
    let mut unknown = 0_u64;
    for (key, asked) in requests {
        let Some(answer) = asked.answers.first() else {
            unknown += 1;
            continue;
        };
        if let Some(before) = before {
            let least = before.saturating_add(1);
            let name = asked.name(key);
            let values = format!("counter {counter} went from {before} to {} with {name}", answer.value);
            if answer.value > least.saturating_add(unknown) {
                verdict.duplicated += 1;
                found.say("duplicated", format!("{values}: an effect happened twice"));
            } else if answer.value < least {
                verdict.lost += 1;
                found.say("lost", format!("{values}: an acknowledged effect is gone"));
            }
        }
        before = Some(answer.value);
        unknown = 0;
    }
}
