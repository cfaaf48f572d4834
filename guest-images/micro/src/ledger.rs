//! What the counter service remembers: the counters, and for each client its most recent requests.
//!
//! Memory is bounded: [`CLIENTS`] clients (the one that has counted nothing for longest makes room) with [`IDS`]
//! requests each. Everything here follows from the order of the requests alone.

use crate::wire::{Request, splitmix64};
use alloc::{boxed::Box, vec, vec::Vec};

/// Number of counters.
pub const COUNTERS: usize = 1024;
/// Clients whose requests are remembered.
pub const CLIENTS: usize = 64;
/// Requests remembered for each client.
pub const IDS: usize = 4096;

/// A request that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who asked.
    pub client: u32,
    /// Which counter moved.
    pub counter: u32,
    /// The client's number for the request.
    pub id: u64,
    /// The counter right after it.
    pub value: u64,
}

/// Counters and remembered requests.
#[derive(Debug)]
pub struct Ledger {
    counters: Box<[u64]>,
    clients: Vec<Client>,
    /// Counted requests so far: the order in which clients were last active.
    clock: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { counters: vec![0; COUNTERS].into(), clients: Vec::with_capacity(CLIENTS), clock: 0 }
    }
}

impl Ledger {
    /// The record of an earlier request, if it is still remembered.
    pub fn find(&self, client: u32, id: u64) -> Option<Record> {
        self.clients.iter().find(|known| known.number == client)?.find(id)
    }

    /// Counts a request that [`find`](Self::find) does not know.
    pub fn apply(&mut self, request: &Request) -> Record {
        let counter = &mut self.counters[request.counter as usize];
        *counter = counter.wrapping_add(steps(request));
        let record =
            Record { client: request.client, counter: request.counter, id: request.id, value: *counter };
        self.remember(record);
        record
    }

    /// Takes over a record as the log tells it. False if it names a counter that does not exist.
    pub fn replay(&mut self, record: Record) -> bool {
        let Some(counter) = self.counters.get_mut(record.counter as usize) else { return false };
        *counter = record.value;
        self.remember(record);
        true
    }

    /// Remembers a request without moving a counter.
    pub fn remember(&mut self, record: Record) {
        self.clock += 1;
        let clock = self.clock;
        let client = self.client(record.client);
        client.active = clock;
        client.push(record);
    }

    fn client(&mut self, number: u32) -> &mut Client {
        let index = match self.clients.iter().position(|known| known.number == number) {
            Some(index) => index,
            None if self.clients.len() < CLIENTS => {
                self.clients.push(Client::new(number));
                self.clients.len() - 1
            }
            None => {
                let idle = self.clients.iter().enumerate().min_by_key(|(_, known)| known.active);
                let index = idle.map_or(0, |(index, _)| index);
                self.clients[index].forget(number);
                index
            }
        };
        &mut self.clients[index]
    }

    /// All counters.
    pub fn counters(&self) -> &[u64] {
        &self.counters
    }

    /// All counters, to be set by a snapshot.
    pub fn counters_mut(&mut self) -> &mut [u64] {
        &mut self.counters
    }

    /// The remembered requests that fit into `budget` records, fairly shared among the clients. Replayed by
    /// [`remember`](Self::remember) in this order they give the same memory.
    pub fn recent(&self, budget: usize) -> Recent {
        let mut order: Vec<usize> = (0..self.clients.len()).collect();
        order.sort_by_key(|&index| self.clients[index].active);
        let limit = budget / order.len().max(1);
        Recent { order, limit, client: 0, taken: 0 }
    }
}

/// How often a request counts: once. In the guest that is broken on purpose, about one in 20 counts twice.
fn steps(request: &Request) -> u64 {
    let twice = cfg!(feature = "double-apply")
        && splitmix64(u64::from(request.client) ^ request.id).is_multiple_of(20);
    1 + u64::from(twice)
}

/// A walk over the remembered requests, in pieces.
#[derive(Debug)]
pub struct Recent {
    order: Vec<usize>,
    limit: usize,
    client: usize,
    taken: usize,
}

impl Recent {
    /// The next record. The ledger must not change during the walk.
    pub fn next(&mut self, ledger: &Ledger) -> Option<Record> {
        while let Some(&index) = self.order.get(self.client) {
            let client = &ledger.clients[index];
            let (count, limit) = (client.kept.len(), self.limit.min(client.kept.len()));
            if self.taken < limit {
                self.taken += 1;
                return Some(client.record(client.slot(count - limit + self.taken - 1)));
            }
            (self.client, self.taken) = (self.client + 1, 0);
        }
        None
    }
}

const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Kept {
    id: u64,
    value: u64,
    counter: u32,
}

/// One client: a ring of its requests, and chains through it by the low bits of the id, so that consecutive ids
/// touch neighbouring memory.
#[derive(Debug)]
struct Client {
    number: u32,
    active: u64,
    kept: Vec<Kept>,
    oldest: usize,
    heads: Box<[u16]>,
    next: Vec<u16>,
}

impl Client {
    fn new(number: u32) -> Self {
        let heads = vec![NONE; IDS].into();
        Self { number, active: 0, kept: Vec::new(), oldest: 0, heads, next: Vec::new() }
    }

    fn forget(&mut self, number: u32) {
        self.number = number;
        self.kept.clear();
        self.next.clear();
        self.oldest = 0;
        self.heads.fill(NONE);
    }

    fn record(&self, slot: usize) -> Record {
        let Kept { id, value, counter } = self.kept[slot];
        Record { client: self.number, counter, id, value }
    }

    /// Where the `n`-th oldest request lies.
    fn slot(&self, n: usize) -> usize {
        (self.oldest + n) % self.kept.len()
    }

    fn find(&self, id: u64) -> Option<Record> {
        let mut slot = self.heads[bucket(id)];
        while slot != NONE {
            if self.kept[usize::from(slot)].id == id {
                return Some(self.record(usize::from(slot)));
            }
            slot = self.next[usize::from(slot)];
        }
        None
    }

    fn push(&mut self, record: Record) {
        let kept = Kept { id: record.id, value: record.value, counter: record.counter };
        let slot = if self.kept.len() < IDS {
            self.kept.push(kept);
            self.next.push(NONE);
            self.kept.len() - 1
        } else {
            let slot = self.oldest;
            self.unlink(slot);
            self.kept[slot] = kept;
            self.oldest = (slot + 1) % IDS;
            slot
        };
        let head = &mut self.heads[bucket(record.id)];
        self.next[slot] = *head;
        *head = slot as u16;
    }

    fn unlink(&mut self, slot: usize) {
        let after = self.next[slot];
        let head = bucket(self.kept[slot].id);
        if usize::from(self.heads[head]) == slot {
            self.heads[head] = after;
            return;
        }
        let mut at = self.heads[head];
        while at != NONE {
            if usize::from(self.next[usize::from(at)]) == slot {
                self.next[usize::from(at)] = after;
                return;
            }
            at = self.next[usize::from(at)];
        }
    }
}

fn bucket(id: u64) -> usize {
    (id % IDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn request(client: u32, id: u64) -> Request {
        Request { client, id, counter: (id % 3) as u32 }
    }

    #[cfg(not(feature = "double-apply"))]
    #[test]
    fn each_request_counts_once_and_is_found_again() {
        let mut ledger = Ledger::default();
        for id in 0..100 {
            assert_eq!(ledger.find(1, id), None);
            let record = ledger.apply(&request(1, id));
            assert_eq!(record.value, id / 3 + 1);
            assert_eq!(ledger.find(1, id), Some(record));
            assert_eq!(ledger.find(2, id), None);
        }
        assert_eq!(ledger.counters()[..4], [34, 33, 33, 0]);
    }

    #[cfg(feature = "double-apply")]
    #[test]
    fn the_broken_guest_counts_some_requests_twice() {
        let mut ledger = Ledger::default();
        for id in 0..1000 {
            ledger.apply(&request(1, id));
        }
        let twice = ledger.counters().iter().sum::<u64>() - 1000;
        assert!((20..100).contains(&twice), "{twice}");
    }

    #[test]
    fn memory_holds_the_last_ids_whatever_their_bits() {
        let mut ledger = Ledger::default();
        let mut model: BTreeMap<u64, Record> = BTreeMap::new();
        // Ids that share buckets: long chains, unlinked at the head, in the middle and at the end.
        let ids: Vec<u64> = (0..3 * IDS as u64).map(|n| (splitmix64(n) >> 20 & !0xFFF) | (n % 5)).collect();
        for (n, &id) in ids.iter().enumerate() {
            model.insert(id, ledger.apply(&request(9, id)));
            if n >= IDS {
                model.remove(&ids[n - IDS]);
            }
        }
        for &id in &ids {
            assert_eq!(ledger.find(9, id), model.get(&id).copied());
        }
        assert_eq!(model.len(), IDS);
    }

    #[test]
    fn the_client_that_was_idle_longest_makes_room() {
        let mut ledger = Ledger::default();
        for client in 0..CLIENTS as u32 {
            ledger.apply(&request(client, 1));
        }
        ledger.apply(&request(0, 2));
        ledger.apply(&request(1000, 1));
        assert!(ledger.find(0, 1).is_some());
        assert_eq!(ledger.find(1, 1), None);
        assert!(ledger.find(1000, 1).is_some());
    }

    #[test]
    fn recent_requests_rebuild_the_memory() {
        let mut ledger = Ledger::default();
        for n in 0..20_000_u64 {
            ledger.apply(&request((n % 3) as u32 + n as u32 / 15_000, n));
        }
        let walk = |ledger: &Ledger, budget| {
            let mut recent = ledger.recent(budget);
            core::iter::from_fn(|| recent.next(ledger)).collect::<Vec<_>>()
        };
        let mut copy = Ledger::default();
        walk(&ledger, usize::MAX).into_iter().for_each(|record| copy.remember(record));
        assert_eq!(walk(&copy, usize::MAX), walk(&ledger, usize::MAX));
        let some = walk(&ledger, 40);
        assert_eq!(some.len(), 40);
        assert!(some.iter().any(|record| record.id == 19_999));
    }
}
