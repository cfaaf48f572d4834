//! One host's copy of the disk: an overlay of uncommitted writes over a file, whose page cache is lost with
//! the power unless it was synced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::guest::{SECTOR, SECTORS};
use super::rng::Dice;
use crate::core::{DiskCommand, DiskReport};
use crate::log::Epoch;

/// Bytes that a fill copies at once.
const REGION: usize = 32 << 10;
const SIZE: usize = SECTORS as usize * SECTOR;

struct Write {
    epoch: Epoch,
    sector: u64,
    data: Vec<u8>,
}

#[derive(Default)]
struct Copying {
    now: BTreeSet<usize>,
    next: BTreeSet<usize>,
}

/// The disk and the thread that serves it.
pub(crate) struct SimDisk {
    durable: Vec<u8>,
    /// Written to the file and not synced, by sector.
    cache: BTreeMap<u64, Vec<u8>>,
    overlay: VecDeque<Write>,
    copying: Option<Copying>,
}

impl SimDisk {
    /// An empty disk.
    pub(crate) fn new() -> Self {
        SimDisk { durable: vec![0; SIZE], cache: BTreeMap::new(), overlay: VecDeque::new(), copying: None }
    }

    /// The process is gone; the kernel's page cache stays.
    pub(crate) fn process_died(&mut self) {
        self.overlay.clear();
        self.copying = None;
    }

    /// The power is gone: what was not synced survives in part, in any order.
    pub(crate) fn power_lost(&mut self, dice: &mut Dice) {
        self.process_died();
        for (sector, data) in std::mem::take(&mut self.cache) {
            if dice.chance(400) {
                self.put(sector, &data);
            }
        }
    }

    fn put(&mut self, sector: u64, data: &[u8]) {
        let at = sector as usize * SECTOR;
        self.durable[at..at + data.len()].copy_from_slice(data);
    }

    /// A sector as it would be found after a loss of power that takes all that may be taken.
    pub(crate) fn durable_sector(&self, sector: u64) -> &[u8] {
        let at = sector as usize * SECTOR;
        &self.durable[at..at + SECTOR]
    }

    /// Content of the durable part, for a checker.
    pub(crate) fn durable(&self) -> Vec<u8> {
        self.durable.clone()
    }

    /// Obeys one command.
    pub(crate) fn obey(&mut self, command: DiskCommand) -> Option<DiskReport> {
        match command {
            DiskCommand::Read { disk, id, sector, len } => {
                let data = self.read(sector, len as usize, true);
                return Some(DiskReport::Read { disk, id, ok: true, data });
            }
            DiskCommand::Write { epoch, sector, data, .. } => {
                self.overlay.push_back(Write { epoch, sector, data });
            }
            DiskCommand::Commit { epoch, sync } => return self.commit(epoch, sync),
            DiskCommand::Discard { epoch } => self.overlay.retain(|write| write.epoch != epoch),
            DiskCommand::CopyStart => {
                let now = (0..SIZE.div_ceil(REGION)).collect();
                self.copying = Some(Copying { now, next: BTreeSet::new() });
            }
            DiskCommand::CopyNext => return Some(self.copy_next()),
            DiskCommand::CopyStop => self.copying = None,
            DiskCommand::Load { offset, len, data, .. } => {
                let data = if data.is_empty() { vec![0; len as usize] } else { data };
                self.write_file(offset / SECTOR as u64, &data);
            }
            DiskCommand::Sync => {
                self.sync();
                return Some(DiskReport::Synced { ok: true });
            }
        }
        None
    }

    fn read(&self, sector: u64, len: usize, with_overlay: bool) -> Vec<u8> {
        let mut out = self.durable[sector as usize * SECTOR..][..len].to_vec();
        let end = sector + (len / SECTOR) as u64;
        for (at, data) in self.cache.range(sector..end) {
            out[(at - sector) as usize * SECTOR..][..SECTOR].copy_from_slice(data);
        }
        for write in self.overlay.iter().filter(|_| with_overlay) {
            for (at, data) in (write.sector..).zip(write.data.chunks(SECTOR)) {
                if (sector..end).contains(&at) {
                    out[(at - sector) as usize * SECTOR..][..SECTOR].copy_from_slice(data);
                }
            }
        }
        out
    }

    fn commit(&mut self, epoch: Epoch, sync: bool) -> Option<DiskReport> {
        let count = self.overlay.iter().rposition(|write| write.epoch <= epoch).map_or(0, |last| last + 1);
        let writes: Vec<_> = self.overlay.drain(..count).collect();
        for write in writes {
            self.write_file(write.sector, &write.data);
        }
        sync.then(|| {
            self.sync();
            DiskReport::Durable { epoch, ok: true }
        })
    }

    fn write_file(&mut self, sector: u64, data: &[u8]) {
        for (at, data) in (sector..).zip(data.chunks(SECTOR)) {
            self.cache.insert(at, data.to_vec());
            if let Some(copying) = &mut self.copying {
                copying.next.insert(at as usize * SECTOR / REGION);
            }
        }
    }

    fn sync(&mut self) {
        for (sector, data) in std::mem::take(&mut self.cache) {
            self.put(sector, &data);
        }
    }

    fn copy_next(&mut self) -> DiskReport {
        let Some(copying) = &mut self.copying else { return DiskReport::PassDone { left: 0 } };
        let Some(region) = copying.now.pop_first() else {
            copying.now = std::mem::take(&mut copying.next);
            return DiskReport::PassDone { left: copying.now.len() as u32 };
        };
        let offset = region * REGION;
        let len = REGION.min(SIZE - offset);
        let mut data = self.read((offset / SECTOR) as u64, len, false);
        if data.iter().all(|byte| *byte == 0) {
            data.clear();
        }
        DiskReport::Part { disk: 0, offset: offset as u64, len: len as u32, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &mut SimDisk, epoch: Epoch, sector: u64, byte: u8) {
        disk.obey(DiskCommand::Write { epoch, disk: 0, sector, data: vec![byte; SECTOR] });
    }

    #[test]
    fn power_takes_what_was_not_synced_and_nothing_else() {
        let mut disk = SimDisk::new();
        write(&mut disk, 1, 3, 7);
        assert_eq!(
            disk.obey(DiskCommand::Commit { epoch: 1, sync: true }),
            Some(DiskReport::Durable { epoch: 1, ok: true })
        );
        for sector in 10..60 {
            write(&mut disk, 2, sector, 9);
        }
        disk.obey(DiskCommand::Commit { epoch: 2, sync: false });
        disk.power_lost(&mut Dice::new(1, 1));
        assert_eq!(disk.durable_sector(3), [7; SECTOR]);
        let left = (10..60).filter(|sector| disk.durable_sector(*sector) == [9; SECTOR]).count();
        assert!((1..50).contains(&left), "{left} of 50 survived");
    }

    #[test]
    fn reads_see_the_overlay_and_copies_do_not() {
        let mut disk = SimDisk::new();
        write(&mut disk, 1, 0, 5);
        assert_eq!(disk.read(0, SECTOR, true), [5; SECTOR]);
        disk.obey(DiskCommand::CopyStart);
        assert!(
            matches!(disk.obey(DiskCommand::CopyNext), Some(DiskReport::Part { data, .. }) if data.is_empty())
        );
        disk.obey(DiskCommand::Discard { epoch: 1 });
        assert_eq!(disk.read(0, SECTOR, true), [0; SECTOR]);
    }
}
