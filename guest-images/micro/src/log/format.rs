//! Superblock and blocks as bytes (little endian).

use super::SECTOR;
use crate::ledger::Record;
use alloc::vec::Vec;

/// Largest block in bytes.
pub const MAX_BLOCK: usize = 64 * 1024;
/// Most records in a batch.
pub const MAX_BATCH: usize = 256;
/// Sectors before the first half.
pub(super) const FIRST: u64 = 8;
/// Records of a snapshot that go into one block.
pub(super) const PART: usize = (MAX_BLOCK - HEADER) / RECORD;

const HEADER: usize = 40;
const RECORD: usize = 24;
const SUPER_MAGIC: &[u8; 8] = b"TWRNLOG1";
const BLOCK_MAGIC: &[u8; 4] = b"TWLB";

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..][..4].iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// The root of the log. The copy with the higher `update` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) update: u64,
    pub(super) boots: u64,
    pub(super) epoch: u64,
    /// Sectors in each half.
    pub(super) half: u64,
    /// Which half is active: 0 or 1.
    pub(super) active: u64,
}

impl Superblock {
    /// Magic, five fields, CRC-32 of all before it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend(SUPER_MAGIC);
        for field in [self.update, self.boots, self.epoch, self.half, self.active] {
            out.extend(field.to_le_bytes());
        }
        out.extend(crc32fast::hash(out).to_le_bytes());
        out.resize(SECTOR, 0);
    }

    pub(super) fn decode(sector: &[u8]) -> Option<Self> {
        let field = |n: usize| long(sector, 8 + 8 * n);
        let sound = &sector[..8] == SUPER_MAGIC && word(sector, 48) == crc32fast::hash(&sector[..48]);
        let superblock =
            Self { update: field(0), boots: field(1), epoch: field(2), half: field(3), active: field(4) };
        (sound && superblock.active <= 1).then_some(superblock)
    }

    /// The sector that this update is written to.
    pub(super) fn place(&self) -> u64 {
        self.update % 2
    }

    /// First sector of the active half.
    pub(super) fn start(&self) -> u64 {
        FIRST + self.active * self.half
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All counters: the start of a snapshot.
    Counters = 1,
    /// Requests that are remembered, from the snapshot.
    Remembered = 2,
    /// Requests that were counted, in order.
    Batch = 3,
}

/// A block's place in the log. `chain` is the checksum of the block before, 0 for the first of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: u64,
    pub(super) number: u64,
    pub(super) chain: u32,
}

/// Bytes that a block of `count` records takes on disk.
pub(super) fn batch_sectors(count: usize) -> u64 {
    (HEADER + count * RECORD).div_ceil(SECTOR) as u64
}

/// Bytes that a block of `count` counters takes on disk.
pub(super) fn counter_sectors(count: usize) -> u64 {
    (HEADER + count * 8).div_ceil(SECTOR) as u64
}

pub(super) fn encode_counters(out: &mut Vec<u8>, place: Place, counters: &[u64]) -> u32 {
    begin(out, place, Kind::Counters, counters.len());
    counters.iter().for_each(|counter| out.extend(counter.to_le_bytes()));
    finish(out)
}

pub(super) fn encode_records(out: &mut Vec<u8>, place: Place, kind: Kind, records: &[Record]) -> u32 {
    begin(out, place, kind, records.len());
    for record in records {
        out.extend(record.client.to_le_bytes());
        out.extend(record.counter.to_le_bytes());
        out.extend(record.id.to_le_bytes());
        out.extend(record.value.to_le_bytes());
    }
    finish(out)
}

/// Magic, checksum (later), kind, count, epoch, number, chain, zero.
fn begin(out: &mut Vec<u8>, place: Place, kind: Kind, count: usize) {
    out.clear();
    out.extend(BLOCK_MAGIC);
    out.extend([0; 4]);
    out.extend((kind as u32).to_le_bytes());
    out.extend((count as u32).to_le_bytes());
    out.extend(place.epoch.to_le_bytes());
    out.extend(place.number.to_le_bytes());
    out.extend(place.chain.to_le_bytes());
    out.extend([0; 4]);
}

/// Pads to whole sectors and sets the checksum, which covers everything after itself.
fn finish(out: &mut Vec<u8>) -> u32 {
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    let sum = crc32fast::hash(&out[8..]);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// A block's header, not yet verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) sum: u32,
    count: usize,
}

impl Header {
    /// Reads the header at the start of `sector`; `None` if no block of this place can begin there.
    pub(super) fn decode(sector: &[u8], place: Place) -> Option<Self> {
        let kind = match word(sector, 8) {
            1 => Kind::Counters,
            2 => Kind::Remembered,
            3 => Kind::Batch,
            _ => return None,
        };
        let found = Place { epoch: long(sector, 16), number: long(sector, 24), chain: word(sector, 32) };
        let header = Self { kind, sum: word(sector, 4), count: word(sector, 12) as usize };
        (&sector[..4] == BLOCK_MAGIC && found == place && header.sectors().is_some()).then_some(header)
    }

    /// The block's size; `None` if it would be larger than any block.
    pub(super) fn sectors(&self) -> Option<u64> {
        let item = if self.kind == Kind::Counters { 8 } else { RECORD };
        let bytes = self.count.checked_mul(item)?.checked_add(HEADER)?;
        (bytes <= MAX_BLOCK).then(|| bytes.div_ceil(SECTOR) as u64)
    }

    /// Whether these whole sectors are what was written.
    pub(super) fn sound(&self, block: &[u8]) -> bool {
        crc32fast::hash(&block[8..]) == self.sum
    }

    /// The counters of a counter block.
    pub(super) fn counters<'a>(&self, block: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
        block[HEADER..][..self.count * 8].chunks_exact(8).map(|item| long(item, 0))
    }

    /// The records of any other block.
    pub(super) fn records<'a>(&self, block: &'a [u8]) -> impl Iterator<Item = Record> + 'a {
        block[HEADER..][..self.count * RECORD].chunks_exact(RECORD).map(|item| Record {
            client: word(item, 0),
            counter: word(item, 4),
            id: long(item, 8),
            value: long(item, 16),
        })
    }
}
