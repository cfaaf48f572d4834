//! Writes that the pair has not committed yet, in layers of one epoch each.
//!
//! Layers are kept in the order in which their writes arrived: a disk's logical content depends on the
//! order of requests only, whatever numbers the epochs have.

use std::collections::{BTreeMap, VecDeque};

use lockstep::log::Epoch;

use super::image::SECTOR;

/// Non-overlapping pieces: first sector and data of whole sectors.
pub(super) type Extents = BTreeMap<u64, Vec<u8>>;

/// The uncommitted writes of one epoch.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) epoch: Epoch,
    /// Per disk.
    pub(super) disks: BTreeMap<u8, Extents>,
    /// Bytes in all pieces.
    bytes: u64,
}

/// All layers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    layers: VecDeque<Layer>,
}

fn end(start: u64, data: &[u8]) -> u64 {
    start + data.len() as u64 / SECTOR
}

/// Length in bytes of so many sectors of a piece in memory.
fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR).expect("pieces in memory fit the address space")
}

/// Puts a write over the older pieces. Returns by how many bytes the pieces grew.
fn insert(extents: &mut Extents, sector: u64, data: Vec<u8>) -> u64 {
    let stop = end(sector, &data);
    if stop == sector {
        return 0;
    }
    let mut covered = 0;
    let reaching_in = extents.range(..sector).next_back().map(|(&start, old)| (start, end(start, old)));
    if let Some((start, old_end)) = reaching_in.filter(|&(_, old_end)| old_end > sector) {
        let old = extents.get_mut(&start).expect("found just now");
        let tail = old.split_off(bytes(sector - start));
        covered += old_end.min(stop) - sector;
        if old_end > stop {
            extents.insert(stop, tail[bytes(stop - sector)..].to_vec());
        }
    }
    while let Some((&start, _)) = extents.range(sector..stop).next() {
        let mut old = extents.remove(&start).expect("found just now");
        covered += end(start, &old).min(stop) - start;
        if end(start, &old) > stop {
            extents.insert(stop, old.split_off(bytes(stop - start)));
        }
    }
    extents.insert(sector, data);
    (stop - sector - covered) * SECTOR
}

/// Copies the pieces that lie in `out`, which begins at byte `offset` of the disk.
fn copy_into(extents: &Extents, offset: u64, out: &mut [u8]) {
    let stop = offset + out.len() as u64;
    // The piece before the range may reach into it; pieces do not overlap, so no earlier one can.
    let first = extents.range(..offset.div_ceil(SECTOR)).next_back();
    let inside = extents.range(offset.div_ceil(SECTOR)..stop.div_ceil(SECTOR));
    for (&sector, data) in first.into_iter().chain(inside) {
        let start = sector * SECTOR;
        let (from, to) = (start.max(offset), (start + data.len() as u64).min(stop));
        if from < to {
            let part = |at: u64, base: u64| usize::try_from(at - base).expect("inside a piece");
            out[part(from, offset)..part(to, offset)]
                .copy_from_slice(&data[part(from, start)..part(to, start)]);
        }
    }
}

impl Overlay {
    /// A write of whole sectors.
    pub(super) fn write(&mut self, epoch: Epoch, disk: u8, sector: u64, data: Vec<u8>) {
        if self.layers.back().is_none_or(|layer| layer.epoch != epoch) {
            self.layers.push_back(Layer { epoch, ..Layer::default() });
        }
        let layer = self.layers.back_mut().expect("there is one now");
        layer.bytes += insert(layer.disks.entry(disk).or_default(), sector, data);
    }

    /// Overwrites `out` with what the layers hold of it.
    pub(super) fn read(&self, disk: u8, offset: u64, out: &mut [u8]) {
        for layer in &self.layers {
            if let Some(extents) = layer.disks.get(&disk) {
                copy_into(extents, offset, out);
            }
        }
    }

    /// Takes what a commit of this epoch covers, in order: everything up to the last layer of this or an
    /// earlier epoch. An older layer with a higher number goes along, so that the order of writes holds.
    pub(super) fn take_up_to(&mut self, epoch: Epoch) -> impl Iterator<Item = Layer> {
        let count = self.layers.iter().rposition(|layer| layer.epoch <= epoch).map_or(0, |last| last + 1);
        self.layers.drain(..count)
    }

    /// Drops the writes of one epoch.
    pub(super) fn discard(&mut self, epoch: Epoch) {
        self.layers.retain(|layer| layer.epoch != epoch);
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sectors(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|&value| [value; 512]).collect()
    }

    #[test]
    fn a_write_in_the_middle_leaves_both_ends() {
        let mut extents = Extents::new();
        insert(&mut extents, 10, sectors(&[1, 2, 3, 4]));
        insert(&mut extents, 11, sectors(&[9, 8]));
        let starts: Vec<u64> = extents.keys().copied().collect();
        assert_eq!(starts, [10, 11, 13]);
        let mut out = vec![0; 6 * 512];
        copy_into(&extents, 9 * 512, &mut out);
        assert_eq!(out, sectors(&[0, 1, 9, 8, 4, 0]));
    }

    #[test]
    fn overwritten_bytes_are_not_counted_twice() {
        let mut overlay = Overlay::default();
        overlay.write(1, 0, 4, sectors(&[1, 1, 1]));
        overlay.write(1, 0, 3, sectors(&[2, 2]));
        assert_eq!(overlay.bytes(), 4 * 512);
        overlay.write(2, 0, 3, sectors(&[3]));
        assert_eq!(overlay.bytes(), 5 * 512);
        overlay.discard(2);
        assert_eq!(overlay.bytes(), 4 * 512);
    }

    #[test]
    fn a_commit_keeps_the_order_of_writes() {
        let mut overlay = Overlay::default();
        for epoch in [7, 8, 0, 1, 2] {
            overlay.write(epoch, 0, 0, sectors(&[u8::try_from(epoch).expect("small")]));
        }
        let taken: Vec<Epoch> = overlay.take_up_to(1).map(|layer| layer.epoch).collect();
        assert_eq!(taken, [7, 8, 0, 1]);
        assert_eq!(overlay.take_up_to(1).count(), 0);
        assert_eq!(overlay.take_up_to(2).count(), 1);
    }
}
