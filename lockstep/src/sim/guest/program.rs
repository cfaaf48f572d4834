//! The guest's program: counters with a disk log, and the background noise of an operating system.

use super::{Op, PAGES, SimGuest, disk_id};
use crate::log::{Effect, ExitKind, Page};
use crate::machine::PAGE_SIZE;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Bytes of a disk sector.
pub(crate) const SECTOR: usize = 512;
/// Log entries, one sector each.
pub(crate) const LOG_SECTORS: u64 = 384;
/// Sectors of the log that are read at once after a boot.
const LOG_PART: u64 = 32;
/// Size of the disk in sectors; those behind the log are scratch.
pub(crate) const SECTORS: u64 = 448;

const COUNTERS: u32 = 16;

// Where things lie in memory.
const HASH: usize = 0;
const ENTRIES: usize = 8;
const CHAIN: usize = 16;
const COUNTER_TABLE: usize = PAGE_SIZE;
const ENTRY_TABLE: usize = 2 * PAGE_SIZE;
const ENTRY_SIZE: usize = 32;
const SCRATCH_PAGE: u64 = 8;
const SCRATCH_PAGES: u64 = 24;
const NOISE_PAGE: usize = 40;

const PENDING: u32 = 1;
const DONE: u32 = 2;

/// A client's request, and with a value its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) client: u32,
    pub(crate) counter: u32,
    pub(crate) id: u64,
}

/// What the guest remembers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) request: Request,
    pub(crate) value: u64,
    pub(crate) state: u32,
}

impl Request {
    /// The frame that carries it.
    pub(crate) fn frame(self) -> Vec<u8> {
        encode(*b"TWRQ", self, 0)
    }

    /// Takes a reply apart.
    pub(crate) fn reply(frame: &[u8]) -> Option<(Request, u64)> {
        decode(*b"TWRP", frame)
    }
}

fn encode(magic: [u8; 4], request: Request, value: u64) -> Vec<u8> {
    let mut frame = magic.to_vec();
    frame.extend(request.client.to_le_bytes());
    frame.extend(request.counter.to_le_bytes());
    frame.extend(request.id.to_le_bytes());
    frame.extend(value.to_le_bytes());
    frame
}

fn decode(magic: [u8; 4], frame: &[u8]) -> Option<(Request, u64)> {
    let frame: &[u8; 28] = frame.try_into().ok()?;
    let word = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let request = Request { client: word(4), counter: word(8), id: long(12) };
    (frame[..4] == magic).then_some((request, long(20)))
}

/// "Address" of the storing instruction of a computing step.
pub(super) const RIP: u64 = 0x1000;
/// What a computing step mixes in.
const COMPUTED: u64 = 1;

fn mixed(old: u64, value: u64) -> u64 {
    (old ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) ^ old >> 7
}

impl SimGuest {
    pub(super) fn start(&mut self) {
        self.write(HASH, &1u64.to_le_bytes());
        self.regs.next_disk = LOG_SECTORS;
        self.regs.todo.push_back(read_log(0));
    }

    /// Everything that happens enters the hash, in order.
    pub(super) fn mix(&mut self, value: u64) {
        let new = mixed(self.read_u64(HASH), value);
        self.regs.hash = new;
        self.write(HASH, &new.to_le_bytes());
    }

    /// Page of the store that a computing step ends with.
    pub(super) fn next_store(&self) -> Page {
        let hash = mixed(self.read_u64(HASH), COMPUTED);
        (SCRATCH_PAGE + hash % SCRATCH_PAGES) as Page
    }

    pub(super) fn compute(&mut self) {
        self.mix(COMPUTED);
        let hash = self.regs.hash;
        let page = SCRATCH_PAGE + hash % SCRATCH_PAGES;
        let at = page as usize * PAGE_SIZE + (hash >> 32) as usize % (PAGE_SIZE / 8) * 8;
        self.write(at, &hash.to_le_bytes());
    }

    pub(crate) fn entries(&self) -> u32 {
        self.read_u32(ENTRIES)
    }

    /// The requests that the guest remembers.
    pub(crate) fn table(&self) -> Vec<Entry> {
        (0..self.entries()).map(|index| self.entry(index)).collect()
    }

    fn entry(&self, index: u32) -> Entry {
        let at = ENTRY_TABLE + index as usize * ENTRY_SIZE;
        let request =
            Request { client: self.read_u32(at), counter: self.read_u32(at + 4), id: self.read_u64(at + 8) };
        Entry { request, value: self.read_u64(at + 16), state: self.read_u32(at + 24) }
    }

    fn set_entry(&mut self, index: u32, entry: Entry) {
        let Request { client, counter, id } = entry.request;
        let mut bytes = Vec::with_capacity(ENTRY_SIZE);
        bytes.extend(client.to_le_bytes());
        bytes.extend(counter.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes.extend(entry.value.to_le_bytes());
        bytes.extend(entry.state.to_le_bytes());
        self.write(ENTRY_TABLE + index as usize * ENTRY_SIZE, &bytes);
    }

    /// What must be durable before this flush may complete: sectors of the log with their content.
    pub(crate) fn covered_by_flush(&self, id: u64) -> Option<Vec<(u64, Vec<u8>)>> {
        let flush = |effect: &Effect| matches!(effect, Effect::DiskFlush { id: flush, .. } if *flush == id);
        let (_, entries) = self.regs.pending.iter().find(|(effect, _)| flush(effect))?;
        let mut chain = 0;
        let sectors = (0..*entries).map(|index| {
            let (sector, next) = log_sector(&self.entry(index), chain);
            chain = next;
            (u64::from(index), sector)
        });
        Some(sectors.collect())
    }

    /// Appends the entry to memory, and gives its sector.
    fn append(&mut self, request: Request, value: u64, state: u32) -> Vec<u8> {
        let index = self.entries();
        let entry = Entry { request, value, state };
        self.set_entry(index, entry);
        let at = COUNTER_TABLE + (request.counter % COUNTERS) as usize * 8;
        self.write(at, &value.to_le_bytes());
        let chain = u128::from_le_bytes(self.read(CHAIN));
        let (sector, next) = log_sector(&entry, chain);
        self.write(CHAIN, &next.to_le_bytes());
        self.write(ENTRIES, &(index + 1).to_le_bytes());
        sector
    }

    /// Interrupts are handled before anything else goes on.
    pub(super) fn handle(&mut self) {
        self.regs.handling = true;
        let mut ops = Vec::new();
        while let Some(frame) = self.regs.received.pop_front() {
            self.mix(xxh3_64(&frame));
            self.frame(&frame, &mut ops);
        }
        while let Some((id, ok, data)) = self.regs.completed.pop_front() {
            self.mix(id ^ xxh3_64(&data));
            self.completed(id, ok, &data, &mut ops);
        }
        if std::mem::take(&mut self.regs.timer_fired) {
            self.mix(self.regs.now);
            ops.push(Op::Exit(ExitKind::Mmio));
        }
        ops.push(Op::Return);
        for op in ops.into_iter().rev() {
            self.regs.todo.push_front(op);
        }
    }

    fn frame(&mut self, frame: &[u8], ops: &mut Vec<Op>) {
        if frame == b"OFF!" && self.regs.recovered {
            ops.push(Op::Out(Effect::PowerOff));
            return;
        }
        let Some((request, 0)) = decode(*b"TWRQ", frame) else { return };
        if !self.regs.recovered {
            return;
        }
        if let Some(entry) = self.table().into_iter().find(|entry| entry.request == request) {
            if entry.state == DONE {
                ops.push(Op::Out(reply(request, entry.value)));
            }
            return;
        }
        if u64::from(self.entries()) >= LOG_SECTORS {
            return;
        }
        let at = COUNTER_TABLE + (request.counter % COUNTERS) as usize * 8;
        let value = self.read_u64(at) + 1;
        let sector = u64::from(self.entries());
        let data = self.append(request, value, PENDING);
        ops.push(Op::Out(Effect::DiskWrite { disk: 0, sector, data }));
        ops.push(Op::Compute(1 + (self.regs.hash % 8) as u32));
        let id = self.disk_request();
        ops.push(Op::Flush { id, covers: self.entries() });
    }

    fn disk_request(&mut self) -> u64 {
        self.regs.next_disk += 1;
        self.regs.next_disk
    }

    fn completed(&mut self, id: u64, ok: bool, data: &[u8], ops: &mut Vec<Op>) {
        let Some(at) = self.regs.pending.iter().position(|(effect, _)| disk_id(effect) == Some(id)) else {
            return;
        };
        let (effect, entries) = self.regs.pending.remove(at);
        if !ok {
            return;
        }
        if matches!(effect, Effect::DiskRead { .. }) && id < LOG_SECTORS {
            let next = id + LOG_PART;
            if self.recover(data) && next < LOG_SECTORS {
                ops.push(read_log(next));
            } else {
                self.regs.recovered = true;
            }
        }
        if matches!(effect, Effect::DiskFlush { .. }) {
            for index in 0..entries {
                let entry = self.entry(index);
                if entry.state == PENDING {
                    self.set_entry(index, Entry { state: DONE, ..entry });
                    ops.push(Op::Out(reply(entry.request, entry.value)));
                }
            }
        }
    }

    /// After a boot: the log as far as its chain holds. Whether this part held to its end.
    fn recover(&mut self, data: &[u8]) -> bool {
        for sector in data.chunks(SECTOR) {
            let Some((request, value)) = sector.get(..28).and_then(|entry| decode(*b"TWLG", entry)) else {
                return false;
            };
            let chain = u128::from_le_bytes(self.read(CHAIN));
            let (expected, _) = log_sector(&Entry { request, value, state: DONE }, chain);
            if expected != sector {
                return false;
            }
            self.append(request, value, DONE);
        }
        true
    }

    /// Nothing is left to do: the hash decides what comes next.
    pub(super) fn plan(&mut self) {
        self.mix(2);
        let hash = self.regs.hash;
        if self.regs.deadline.is_none() {
            self.regs.todo.push_back(Op::Timer(1_000_000 + hash % 12_000_000));
        }
        let amount = (hash >> 16) as u32;
        match hash % 100 {
            0..6 => self.regs.todo.push_back(Op::Compute(1 + amount % 20)),
            6..9 if self.noise.busy => self.regs.todo.push_back(Op::Compute(200 + amount % 1500)),
            9..12 => self.regs.todo.push_back(Op::Exit(ExitKind::Pio)),
            12..14 => self.regs.todo.push_back(Op::Exit(ExitKind::Msr)),
            14..20 => self.read_something(amount),
            20..24 => self.write_something(amount),
            24..26 => self.regs.todo.push_back(Op::Out(Effect::Console(hash.to_le_bytes().to_vec()))),
            26..30 if self.noise.memory => self.regs.todo.push_back(Op::Noise(0)),
            30..34 if self.noise.sided => self.regs.todo.push_back(Op::Noise(1)),
            34..36 if self.noise.effects => self.regs.todo.push_back(Op::Noise(2)),
            36..38 if self.noise.control => self.regs.todo.push_back(Op::Noise(3)),
            _ => self.regs.todo.push_back(Op::Halt),
        }
    }

    fn read_something(&mut self, amount: u32) {
        let id = self.disk_request();
        let sector = u64::from(amount) % (SECTORS - 4);
        self.regs.todo.push_back(Op::Out(Effect::DiskRead { disk: 0, id, sector, len: 4 * 512 }));
    }

    fn write_something(&mut self, amount: u32) {
        let data = self.regs.hash.to_le_bytes().repeat(SECTOR / 8);
        let sector = LOG_SECTORS + u64::from(amount) % (SECTORS - LOG_SECTORS);
        self.regs.todo.push_back(Op::Out(Effect::DiskWrite { disk: 0, sector, data }));
    }

    /// Reads what differs from host to host, as a time stamp counter does.
    pub(super) fn suffer(&mut self, kind: u8) {
        let value = self.host.word();
        let page = NOISE_PAGE + (self.regs.hash % 4) as usize;
        match kind {
            0 => self.write(page * PAGE_SIZE, &value.to_le_bytes()),
            1 if value.is_multiple_of(2) => {
                let page = PAGES as usize - 1 - (self.regs.hash % 3) as usize;
                self.write(page * PAGE_SIZE + 8, &value.to_le_bytes());
            }
            2 => {
                let effect = match self.regs.hash % 3 {
                    0 => Effect::Console(value.to_le_bytes().to_vec()),
                    1 => Effect::Frame { nic: 0, frame: value.to_le_bytes().to_vec() },
                    _ => {
                        let data = value.to_le_bytes().repeat(SECTOR / 8);
                        let sector = LOG_SECTORS + value % (SECTORS - LOG_SECTORS);
                        Effect::DiskWrite { disk: 0, sector, data }
                    }
                };
                self.regs.todo.push_back(Op::Out(effect));
            }
            3 => {
                for _ in 0..value % 3 {
                    self.regs.todo.push_back(Op::Exit(ExitKind::Pio));
                }
            }
            _ => {}
        }
    }
}

/// Reads a part of the log after a boot; the request's id is its first sector.
fn read_log(sector: u64) -> Op {
    let len = (LOG_PART * SECTOR as u64) as u32;
    Op::Out(Effect::DiskRead { disk: 0, id: sector, sector, len })
}

fn reply(request: Request, value: u64) -> Effect {
    Effect::Frame { nic: 0, frame: encode(*b"TWRP", request, value) }
}

/// A log entry's sector, and the chain value that the next one continues.
fn log_sector(entry: &Entry, chain: u128) -> (Vec<u8>, u128) {
    let mut sector = encode(*b"TWLG", entry.request, entry.value);
    sector.extend(chain.to_le_bytes());
    sector.resize(SECTOR, 0);
    let next = xxh3_128(&sector);
    (sector, next)
}
