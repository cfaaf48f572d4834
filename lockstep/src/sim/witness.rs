//! The witness: the shipping records behind a network that loses questions and answers.

use super::world::{Event, HOSTS, MS, PAIR, US, World};
use crate::Ns;
use crate::arbiter::{Answer, Ask, Records};
use crate::codec;
use crate::core::Input;

/// How long one question may take.
const ASK_LIMIT: Ns = 400 * MS;

/// The witness and the ways to it.
#[derive(Default)]
pub(crate) struct Witness {
    pub(crate) records: Records,
    /// How many faults keep it away from everybody, and from this host.
    pub(crate) down: u32,
    pub(crate) cut: [u32; HOSTS],
    /// Per mille of questions that are executed late, and of answers that are lost.
    pub(crate) late: u64,
    /// Questions of each host that are under way.
    pub(crate) under_way: [u32; HOSTS],
    pub(crate) lost: u64,
}

impl World {
    /// The replicas that hold everything: those that the record names, or, when it was written by an attempt
    /// that a held pair has withdrawn, those of the record before it.
    pub(crate) fn in_sync(&self) -> Vec<String> {
        let Some(record) = self.witness.records.get(PAIR) else { return Vec::new() };
        let withdrew = self.hosts.iter().find(|host| host.local.withdrawn.contains(&record.attempt));
        let before = withdrew.and_then(|host| host.local.record.clone());
        before.as_ref().filter(|record| !record.in_sync.is_empty()).unwrap_or(record).in_sync.clone()
    }

    fn witness_reachable(&self, host: usize) -> bool {
        self.witness.down == 0 && self.witness.cut[host] == 0
    }

    pub(crate) fn ask(&mut self, host: usize, ticket: u64, ask: &Ask) {
        let life = self.hosts[host].life;
        self.hosts[host].asks.insert(ticket);
        self.schedule(self.now + ASK_LIMIT, Event::AskLimit { host, life, ticket });
        let delay = if self.dice.net.chance(self.witness.late) {
            self.dice.net.range(100 * MS, 2_500 * MS)
        } else {
            self.dice.net.range(200 * US, 4 * MS)
        };
        let bytes = codec::encode(ask);
        self.note(&bytes);
        self.witness.under_way[host] += 1;
        self.schedule(self.now + delay, Event::Asked { host, life, ticket, bytes });
    }

    /// The question arrives. Its sender may be dead by now.
    pub(crate) fn asked(&mut self, host: usize, life: u32, ticket: u64, bytes: &[u8]) {
        self.witness.under_way[host] -= 1;
        if !self.witness_reachable(host) {
            return;
        }
        let ask: Ask = match codec::decode(bytes) {
            Ok(ask) => ask,
            Err(error) => return self.violate("failed", format!("a question cannot be read: {error}")),
        };
        let before = self.witness.records.get(PAIR).cloned();
        let (answer, changed) = self.witness.records.answer(&ask);
        if changed && let Ask::Swap { new, .. } = &ask {
            self.record_changed(before.as_ref(), new);
        }
        self.trace(|world| format!("witness: {} asks {ask:?}: {answer:?}", world.hosts[host].name));
        if let Answer::Refused(why) = &answer {
            self.violate("failed", format!("the witness refused a question: {why}"));
        }
        if self.dice.net.chance(self.witness.lost) {
            return;
        }
        let at = self.now + self.dice.net.range(200 * US, 5 * MS);
        self.schedule(at, Event::Answered { host, life, ticket, answer });
    }

    pub(crate) fn answered(&mut self, host: usize, ticket: u64, answer: Option<Answer>) {
        if answer.is_some() && !self.witness_reachable(host) {
            return;
        }
        if self.hosts[host].asks.remove(&ticket) {
            self.step(host, Input::Arbiter { ticket, answer });
        }
    }
}
