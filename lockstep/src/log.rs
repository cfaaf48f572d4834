//! Events, positions and effects: the vocabulary of the log (design: invariants I2 and I3).

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::Ns;

/// One nondeterministic input, as the log carries it. Bulk data is named by id: frames were sent early,
/// and every host reads its own disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Event {
    /// Guest virtual time advances to this many nanoseconds.
    Time(Ns),
    /// An input frame, sent early under this id.
    Frame(FrameId),
    /// A disk request is complete. `hash` is XXH3-128 of what a read returned, 0 for a flush.
    DiskDone {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
        /// Whether the request succeeded.
        ok: bool,
        /// XXH3-128 of the data read.
        hash: u128,
    },
}

/// Number of an input frame, counted by the host that took it from its tap.
pub type FrameId = u64;

/// Kind of a deterministic exit. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum ExitKind {
    /// Port input or output.
    Pio,
    /// Access to a device's memory.
    Mmio,
    /// Access to a filtered model-specific register.
    Msr,
    /// The guest halted.
    Halt,
    /// The interrupt window that was requested at a known position opened.
    Window,
}

/// Where in the guest's execution something belongs (design section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Place {
    /// After the `exits`-th deterministic exit was answered and completed, before the next instruction.
    Exit {
        /// Deterministic exits since the fill or the last repair.
        exits: u64,
        /// Kind of that exit.
        kind: ExitKind,
    },
    /// At the first store to a page that is clean since the last common position.
    Landing {
        /// Deterministic exits before it.
        exits: u64,
        /// Guest page number of the store.
        page: u64,
        /// Address of the storing instruction.
        rip: u64,
    },
    /// After this many retired instructions.
    Count(u64),
    /// Stopped anywhere after the `exits`-th exit: only ever the end of an epoch.
    Async {
        /// Deterministic exits before it.
        exits: u64,
    },
}

/// A place with its number in the order of announced positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Position {
    /// Announced positions since the fill; order and marks use this alone.
    pub index: u64,
    /// How to find it.
    pub place: Place,
    /// How many pages were first written between the position before and this one, as the primary counted: a hint
    /// of how long a secondary need not look. Processors may differ by a few.
    pub dirtied: u32,
}

/// Number of an epoch since the fill, from 1.
pub type Epoch = u64;

/// Guest page number (4 KiB pages).
pub type Page = u32;

/// What one side computed when it sealed an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealDigest {
    /// vCPU and device state.
    pub machine: u128,
    /// XXH3-128 over the sorted (page, digest) of the pages whose digest differs from the last commit's.
    pub memory_root: u128,
}

/// The end of an epoch, as the primary states it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Seal {
    /// Which epoch ends.
    pub epoch: Epoch,
    /// State digests.
    pub digest: SealDigest,
    /// Digest of the ordered list of the epoch's effects.
    pub effects: u128,
}

/// One entry of the log. The secondary obeys entries strictly in order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LogItem {
    /// Run to this position and stop there: a mark.
    RunTo(Position),
    /// Place this event here.
    Place(Event),
    /// At a landing: these pages count as clean again on both sides, so that the next landing is near.
    Protect(Vec<Page>),
    /// The epoch ends here, before any event that follows.
    Seal(Seal),
}

/// What the guest wants from the world, in order of occurrence.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Effect {
    /// A frame leaves through this interface.
    Frame {
        /// Index of the interface.
        nic: u8,
        /// The Ethernet frame without FCS.
        frame: Vec<u8>,
    },
    /// A read was submitted.
    DiskRead {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
        /// First 512-byte sector.
        sector: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A write was submitted and is complete for the guest (volatile cache).
    DiskWrite {
        /// Index of the disk.
        disk: u8,
        /// First 512-byte sector.
        sector: u64,
        /// The payload, copied when it was submitted.
        data: Vec<u8>,
    },
    /// Everything written before must become durable; waits for its completion event.
    DiskFlush {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
    },
    /// Bytes for the console.
    Console(Vec<u8>),
    /// The guest asked for a reset.
    Reset,
    /// The guest powered itself off.
    PowerOff,
}

impl Effect {
    /// Whether the outside would notice it: it waits for the acknowledgement, and forces a seal soon.
    #[must_use]
    pub fn is_output(&self) -> bool {
        !matches!(self, Effect::DiskRead { .. } | Effect::DiskWrite { .. })
    }

    /// Bytes of payload that a queue must hold for it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Effect::Frame { frame, .. } => frame.len(),
            Effect::DiskWrite { data, .. } => data.len(),
            Effect::Console(bytes) => bytes.len(),
            Effect::DiskRead { .. } | Effect::DiskFlush { .. } | Effect::Reset | Effect::PowerOff => 0,
        }
    }
}

/// Running digest of the ordered effects of one epoch.
///
/// Each effect enters as its kind, its numbers (little endian), and length and XXH3-128 of its payload.
#[derive(Clone, Default)]
pub struct EffectsDigest {
    hasher: Xxh3,
}

impl EffectsDigest {
    /// Adds the next effect.
    pub fn add(&mut self, effect: &Effect) {
        match effect {
            Effect::Frame { nic, frame } => self.entry(1, [u64::from(*nic), 0, 0], frame),
            Effect::DiskRead { disk, id, sector, len } => {
                self.entry(2, [u64::from(*disk), *id, *sector], &len.to_le_bytes());
            }
            Effect::DiskWrite { disk, sector, data } => {
                self.entry(3, [u64::from(*disk), *sector, 0], data);
            }
            Effect::DiskFlush { disk, id } => self.entry(4, [u64::from(*disk), *id, 0], &[]),
            Effect::Console(bytes) => self.entry(5, [0; 3], bytes),
            Effect::Reset => self.entry(6, [0; 3], &[]),
            Effect::PowerOff => self.entry(7, [0; 3], &[]),
        }
    }

    fn entry(&mut self, kind: u8, numbers: [u64; 3], payload: &[u8]) {
        self.hasher.update(&[kind]);
        for number in numbers {
            self.hasher.update(&number.to_le_bytes());
        }
        self.hasher.update(&(payload.len() as u64).to_le_bytes());
        self.hasher.update(&xxh3_128(payload).to_le_bytes());
    }

    /// The digest of what was added so far.
    #[must_use]
    pub fn finish(&self) -> u128 {
        self.hasher.digest128()
    }
}

impl std::fmt::Debug for EffectsDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EffectsDigest({:032x})", self.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(effects: &[Effect]) -> u128 {
        let mut digest = EffectsDigest::default();
        for effect in effects {
            digest.add(effect);
        }
        digest.finish()
    }

    #[test]
    fn order_kind_and_boundaries_matter() {
        let a = Effect::Frame { nic: 0, frame: vec![1, 2] };
        let b = Effect::Frame { nic: 0, frame: vec![3] };
        assert_ne!(digest(&[a.clone(), b.clone()]), digest(&[b.clone(), a.clone()]));
        assert_ne!(
            digest(&[Effect::Frame { nic: 0, frame: vec![1, 2, 3] }]),
            digest(&[a.clone(), b]),
            "two frames are not one long frame"
        );
        assert_ne!(digest(&[Effect::Console(vec![1, 2])]), digest(std::slice::from_ref(&a)));
        assert_eq!(digest(std::slice::from_ref(&a)), digest(&[a]));
    }
}
