use super::*;
use crate::wire::{Request, splitmix64};
use std::collections::BTreeMap;

/// A disk with a volatile cache: what was not flushed may be lost, sector by sector.
struct Memory {
    durable: Vec<u8>,
    cached: BTreeMap<u64, [u8; SECTOR]>,
}

impl Memory {
    fn new(sectors: usize) -> Self {
        Self { durable: vec![0; sectors * SECTOR], cached: BTreeMap::new() }
    }

    fn put(&mut self, sector: u64, data: &[u8]) {
        for (n, chunk) in (sector..).zip(data.chunks(SECTOR)) {
            self.cached.insert(n, chunk.try_into().unwrap());
        }
    }

    fn flush(&mut self) {
        for (sector, data) in std::mem::take(&mut self.cached) {
            self.durable[sector as usize * SECTOR..][..SECTOR].copy_from_slice(&data);
        }
    }

    /// Power goes: a random part of the cache had reached the disk.
    fn crash(&mut self, seed: u64) {
        self.cached.retain(|&sector, _| splitmix64(seed ^ sector) & 1 == 0);
        self.flush();
    }
}

impl Disk for Memory {
    fn sectors(&self) -> u64 {
        (self.durable.len() / SECTOR) as u64
    }
    fn read(&mut self, sector: u64, out: &mut [u8]) -> bool {
        for (n, chunk) in (sector..).zip(out.chunks_mut(SECTOR)) {
            let durable = &self.durable[n as usize * SECTOR..][..SECTOR];
            chunk.copy_from_slice(self.cached.get(&n).map_or(durable, |data| data));
        }
        true
    }
    fn write(&mut self, sector: u64, data: &[u8]) -> bool {
        self.put(sector, data);
        self.flush();
        true
    }
}

/// A client with consecutive ids, a guest, and a disk that loses power now and then.
struct World {
    disk: Memory,
    store: Store,
    ledger: Ledger,
    acked: Vec<Record>,
}

impl World {
    fn new(sectors: usize) -> Self {
        let mut disk = Memory::new(sectors);
        let (store, ledger) = open(&mut disk).unwrap();
        Self { disk, store, ledger, acked: Vec::new() }
    }

    /// The records of these requests; what was known already is acknowledged at once.
    fn count(&mut self, ids: std::ops::Range<u64>) -> Vec<Record> {
        let mut fresh = Vec::new();
        for id in ids {
            let request = Request { client: (id % 5) as u32, id, counter: (id % 7) as u32 };
            match self.ledger.find(request.client, id) {
                Some(record) => self.acked.push(record),
                None => fresh.push(self.ledger.apply(&request)),
            }
        }
        fresh
    }

    /// Runs jobs until the batch is durable, or stops after `jobs` of them without the last one's flush.
    fn run(&mut self, batch: &[Record], jobs: usize) -> bool {
        let mut bytes = Vec::new();
        for left in (0..jobs).rev() {
            let Some(job) = self.store.next_job(batch, &self.ledger, &mut bytes) else {
                panic!("no job is due")
            };
            assert_eq!(self.store.next_job(batch, &self.ledger, &mut Vec::new()), None);
            self.disk.put(job.sector, &bytes);
            if left == 0 {
                return false;
            }
            if job.flush {
                self.disk.flush();
            }
            if self.store.finished() {
                self.acked.extend(batch);
                return true;
            }
        }
        false
    }

    fn reboot(&mut self) {
        (self.store, self.ledger) = open(&mut self.disk).unwrap();
    }

    fn check(&self) {
        for record in self.acked.iter().rev().take(1000) {
            assert_eq!(self.ledger.find(record.client, record.id), Some(*record));
        }
    }
}

#[test]
fn acknowledged_requests_survive_power_loss_at_any_job() {
    let mut world = World::new(2048);
    let (mut id, mut crashes, mut snapshots) = (0_u64, 0, 0);
    for round in 0..6000_u64 {
        let dice = splitmix64(round);
        let size = 1 + dice % 40;
        let batch = world.count(id..id + size);
        let epoch = world.store.root.epoch;
        let jobs = if dice >> 8 & 1 == 0 { 1 + (dice >> 16 & 3) as usize } else { 100 };
        if batch.is_empty() || world.run(&batch, jobs) {
            id += size;
            assert!(world.store.accepts());
        } else {
            // The client heard nothing and asks again after the reboot.
            crashes += 1;
            world.disk.crash(dice);
            world.reboot();
            world.check();
        }
        snapshots += u64::from(world.store.root.epoch > epoch);
    }
    world.reboot();
    world.check();
    assert!(crashes > 500 && snapshots > 10, "{crashes} crashes, {snapshots} snapshots");
    if cfg!(not(feature = "double-apply")) {
        // Every id up to here was counted exactly once, whatever was repeated.
        let total: u64 = world.ledger.counters().iter().sum();
        let tail = (id..id + 40).filter(|&id| world.ledger.find((id % 5) as u32, id).is_some()).count();
        assert_eq!(total, id + tail as u64);
    }
}

#[test]
fn a_snapshot_holds_everything_where_there_is_room() {
    let mut world = World::new(64 * 1024);
    for batch in 0..2600_u64 {
        let records = world.count(batch * 256..batch * 256 + 256);
        assert!(world.run(&records, 1000));
    }
    assert!(world.store.root.epoch > 1);
    let before: Vec<Record> = all(&world.ledger);
    world.reboot();
    assert_eq!(before.len(), 5 * crate::ledger::IDS);
    assert_eq!(all(&world.ledger), before);
}

fn all(ledger: &Ledger) -> Vec<Record> {
    let mut recent = ledger.recent(usize::MAX);
    std::iter::from_fn(|| recent.next(ledger)).collect()
}

#[test]
fn boots_are_counted_and_a_lost_superblock_is_replaced_by_the_other() {
    let mut disk = Memory::new(2048);
    for boots in 1..=5 {
        assert_eq!(open(&mut disk).unwrap().0.boots(), boots);
    }
    // Boot 5 was update 5, in sector 1.
    disk.durable[SECTOR + 20] ^= 1;
    assert_eq!(open(&mut disk).unwrap().0.boots(), 5);
}

#[test]
fn unusable_disks_are_refused() {
    assert_eq!(open(&mut Memory::new(2047)).unwrap_err(), OpenError::TooSmall);
    let mut foreign = Memory::new(2048);
    foreign.durable[3] = 1;
    assert_eq!(open(&mut foreign).unwrap_err(), OpenError::Foreign);
    let mut large = Memory::new(4096);
    open(&mut large).unwrap();
    large.durable.truncate(2048 * SECTOR);
    assert_eq!(open(&mut large).unwrap_err(), OpenError::Shrunk);
}

#[test]
fn arbitrary_blocks_never_panic() {
    let mut clean = World::new(2048);
    for batch in 0..20_u64 {
        let records = clean.count(batch * 30..batch * 30 + 30);
        assert!(clean.run(&records, 9));
    }
    for seed in 0..2000_u64 {
        let mut disk = Memory { durable: clean.disk.durable.clone(), cached: BTreeMap::new() };
        let at = FIRST as usize * SECTOR + (splitmix64(seed) % (40 * SECTOR as u64)) as usize;
        disk.durable[at] ^= 1 << (seed % 8);
        let (_, ledger) = open(&mut disk).unwrap();
        // A damaged block ends the log; what came before it is intact.
        for record in all(&ledger) {
            assert_eq!(clean.ledger.find(record.client, record.id), Some(record));
        }
    }
}
