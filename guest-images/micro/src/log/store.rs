//! The log as a state machine: one job for the disk at a time, nothing waits.

use super::SECTOR;
use super::format::{
    FIRST, Header, Kind, MAX_BATCH, MAX_BLOCK, PART, Place, Superblock, batch_sectors, counter_sectors,
    encode_counters, encode_records,
};
use crate::ledger::{COUNTERS, Ledger, Recent, Record};
use alloc::{vec, vec::Vec};
use core::fmt;

/// Smallest disk in sectors: 1 MiB.
const SMALLEST: u64 = 2048;
/// Largest half in sectors (32 MiB): what a boot has to read is bounded.
const LARGEST_HALF: u64 = 64 * 1024;

/// A disk that answers at once: what is needed to open the log.
pub trait Disk {
    /// Size in sectors.
    fn sectors(&self) -> u64;
    /// Reads whole sectors. False if the disk fails.
    fn read(&mut self, sector: u64, out: &mut [u8]) -> bool;
    /// Writes whole sectors durably. False if the disk fails.
    fn write(&mut self, sector: u64, data: &[u8]) -> bool;
}

/// Why a disk's log cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The disk has fewer than 2048 sectors.
    TooSmall,
    /// The disk reported an error.
    Io,
    /// The disk holds something else: it must be blank before the first boot.
    Foreign,
    /// The disk is smaller than when the log was made.
    Shrunk,
    /// A sound block has impossible content.
    Corrupt,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSmall => "disk: smaller than 1 MiB, give it at least 2048 sectors",
            Self::Io => "disk: reading or writing failed",
            Self::Foreign => "disk: holds no counter log, give a disk of zeros",
            Self::Shrunk => "disk: smaller than its log",
            Self::Corrupt => "disk: a block of the log names a counter that does not exist",
        })
    }
}

/// What the disk is to do next with the bytes handed out with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// First sector to write.
    pub sector: u64,
    /// Flush after writing; the job is finished when the flush is.
    pub flush: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing in flight.
    Ready,
    /// A batch in flight.
    Batch,
    /// The other half is being filled: a part of the snapshot is in flight, or the next one is due.
    Snapshot { rest: Recent, look: Option<Record>, in_flight: bool },
    /// The snapshot is durable: the superblock that makes it count is due, or in flight.
    Publish { in_flight: bool },
}

/// The open log.
#[derive(Debug)]
pub struct Store {
    root: Superblock,
    /// Next free sector of the active half.
    position: u64,
    next: Place,
    state: State,
}

impl Store {
    /// How often the guest has booted from this disk, this time included.
    pub fn boots(&self) -> u64 {
        self.root.boots
    }

    /// Whether requests may be counted now. Not while a snapshot is taken: it must be of one moment.
    pub fn accepts(&self) -> bool {
        matches!(self.state, State::Ready | State::Batch)
    }

    /// The next job, if one is due and none is in flight; its bytes are put into `out`. `batch` holds at most
    /// [`MAX_BATCH`] records which the ledger has counted already and which are not durable yet.
    pub fn next_job(&mut self, batch: &[Record], ledger: &Ledger, out: &mut Vec<u8>) -> Option<Job> {
        if matches!(self.state, State::Ready) && !batch.is_empty() {
            let end = self.root.start() + self.root.half;
            if self.position + batch_sectors(batch.len()) <= end {
                let sum = encode_records(out, self.next, Kind::Batch, batch);
                self.state = State::Batch;
                return Some(Job { sector: self.append(sum, out.len()), flush: true });
            }
            // The snapshot takes the batch along.
            return Some(self.begin_snapshot(ledger, out));
        }
        match &mut self.state {
            State::Snapshot { rest, look, in_flight: in_flight @ false } => {
                let part: Vec<Record> = look
                    .take()
                    .into_iter()
                    .chain(core::iter::from_fn(|| rest.next(ledger)))
                    .take(PART)
                    .collect();
                *look = rest.next(ledger);
                *in_flight = true;
                let flush = look.is_none();
                let sum = encode_records(out, self.next, Kind::Remembered, &part);
                Some(Job { sector: self.append(sum, out.len()), flush })
            }
            State::Publish { in_flight: in_flight @ false } => {
                *in_flight = true;
                self.root.encode(out);
                Some(Job { sector: self.root.place(), flush: true })
            }
            _ => None,
        }
    }

    /// The job in flight is done. True if the last batch is durable now.
    pub fn finished(&mut self) -> bool {
        match &mut self.state {
            State::Ready => false,
            State::Batch | State::Publish { .. } => {
                self.state = State::Ready;
                true
            }
            State::Snapshot { look, in_flight, .. } => {
                *in_flight = false;
                if look.is_none() {
                    self.state = State::Publish { in_flight: false };
                }
                false
            }
        }
    }

    fn append(&mut self, sum: u32, bytes: usize) -> u64 {
        let sector = self.position;
        self.position += (bytes / SECTOR) as u64;
        self.next = Place { number: self.next.number + 1, chain: sum, ..self.next };
        sector
    }

    fn begin_snapshot(&mut self, ledger: &Ledger, out: &mut Vec<u8>) -> Job {
        let root = &mut self.root;
        (root.update, root.epoch, root.active) = (root.update + 1, root.epoch + 1, 1 - root.active);
        self.position = root.start();
        self.next = Place { epoch: root.epoch, number: 0, chain: 0 };
        // At most half of the half, so that the log gets room; every part wastes less than a sector.
        let room = root.half / 2 - counter_sectors(COUNTERS) - root.half / 256;
        let mut rest = ledger.recent(room as usize * SECTOR / size_of::<Record>());
        let look = rest.next(ledger);
        let flush = look.is_none();
        self.state = State::Snapshot { rest, look, in_flight: true };
        let sum = encode_counters(out, self.next, ledger.counters());
        Job { sector: self.append(sum, out.len()), flush }
    }
}

/// Opens the log, makes it on a blank disk, and counts the boot.
///
/// # Errors
/// See [`OpenError`].
pub fn open(disk: &mut impl Disk) -> Result<(Store, Ledger), OpenError> {
    if disk.sectors() < SMALLEST {
        return Err(OpenError::TooSmall);
    }
    let mut root = root(disk)?;
    let (position, next, ledger) = replay(disk, &root)?;
    (root.update, root.boots) = (root.update + 1, root.boots + 1);
    let mut sector = Vec::new();
    root.encode(&mut sector);
    if !disk.write(root.place(), &sector) {
        return Err(OpenError::Io);
    }
    Ok((Store { root, position, next, state: State::Ready }, ledger))
}

fn root(disk: &mut impl Disk) -> Result<Superblock, OpenError> {
    let mut sectors = [0; 2 * SECTOR];
    if !disk.read(0, &mut sectors) {
        return Err(OpenError::Io);
    }
    let (one, two) = sectors.split_at(SECTOR);
    let newest =
        Superblock::decode(one).into_iter().chain(Superblock::decode(two)).max_by_key(|sb| sb.update);
    match newest {
        Some(root) if root.half < (SMALLEST - FIRST) / 2 => Err(OpenError::Foreign),
        Some(root) if root.half > (disk.sectors() - FIRST) / 2 => Err(OpenError::Shrunk),
        Some(root) => Ok(root),
        None if sectors.iter().any(|&byte| byte != 0) => Err(OpenError::Foreign),
        None => {
            let half = ((disk.sectors() - FIRST) / 2).min(LARGEST_HALF);
            Ok(Superblock { update: 0, boots: 0, epoch: 1, half, active: 0 })
        }
    }
}

/// Reads the active half up to the first block that is not sound.
fn replay(disk: &mut impl Disk, root: &Superblock) -> Result<(u64, Place, Ledger), OpenError> {
    let end = root.start() + root.half;
    let mut window = Window { start: 0, bytes: Vec::new(), end };
    let mut place = Place { epoch: root.epoch, number: 0, chain: 0 };
    let (mut position, mut ledger) = (root.start(), Ledger::default());
    while position < end {
        let sector = window.get(disk, position, 1)?;
        let Some(header) = Header::decode(sector, place) else { break };
        let Some(sectors) = header.sectors().filter(|&sectors| position + sectors <= end) else { break };
        let block = window.get(disk, position, sectors)?;
        if !header.sound(block) {
            break;
        }
        take(&header, block, &mut ledger)?;
        position += sectors;
        place = Place { number: place.number + 1, chain: header.sum, ..place };
    }
    Ok((position, place, ledger))
}

fn take(header: &Header, block: &[u8], ledger: &mut Ledger) -> Result<(), OpenError> {
    match header.kind {
        Kind::Counters => {
            ledger.counters_mut().iter_mut().zip(header.counters(block)).for_each(|(to, from)| *to = from);
        }
        Kind::Remembered => header.records(block).for_each(|record| ledger.remember(record)),
        Kind::Batch => {
            if !header.records(block).all(|record| ledger.replay(record)) {
                return Err(OpenError::Corrupt);
            }
        }
    }
    Ok(())
}

/// The part of the half that was read last: large reads, small steps.
struct Window {
    start: u64,
    bytes: Vec<u8>,
    end: u64,
}

impl Window {
    fn get(&mut self, disk: &mut impl Disk, sector: u64, count: u64) -> Result<&[u8], OpenError> {
        let held = self.start + (self.bytes.len() / SECTOR) as u64;
        if sector < self.start || sector + count > held {
            let sectors = ((MAX_BLOCK / SECTOR) as u64).min(self.end - sector);
            self.bytes = vec![0; sectors as usize * SECTOR];
            self.start = sector;
            if !disk.read(sector, &mut self.bytes) {
                return Err(OpenError::Io);
            }
        }
        Ok(&self.bytes[(sector - self.start) as usize * SECTOR..][..count as usize * SECTOR])
    }
}

// A batch must fit into the log that the smallest disk's snapshot leaves.
const _: () = assert!(MAX_BATCH * size_of::<Record>() < (SMALLEST as usize / 8) * SECTOR);

#[cfg(test)]
mod tests;
