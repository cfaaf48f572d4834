//! Descriptor chains of the split ring (virtio 1.2 section 2.7), read with distrust.
//!
//! The ring's own bookkeeping is virtio-queue's. Chains are walked here, because its iterator ends silently
//! where a chain is broken, and follows indirect tables even when they were not negotiated.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, Permissions};

use std::sync::atomic::Ordering;

use crate::Memory;

/// What a driver did wrong. The device then demands a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum RingError {
    #[error("a part of the ring lies outside of memory")]
    RingOutsideMemory,
    #[error("the available index jumped by more than the queue's size")]
    IndexJump,
    #[error("a descriptor index is outside of the table")]
    DescriptorIndex,
    #[error("more descriptors are in use than the queue has: a loop, or chains that share them")]
    TooManyDescriptors,
    #[error("an indirect descriptor without the feature")]
    Indirect,
    #[error("a readable buffer after a writable one")]
    Order,
    #[error("a buffer of zero bytes, or one outside of memory")]
    Buffer,
    #[error("a request is too short for its header or its status")]
    Framing,
    #[error("a chain that the device still owns was offered again")]
    Reused,
}

/// A buffer in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// Guest-physical address.
    pub(crate) addr: u64,
    /// Length in bytes, not zero.
    pub(crate) len: u32,
}

/// Sum of the segments' lengths in bytes.
pub(crate) fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// A chain taken from the available ring. Every buffer has been checked to lie in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Index of the first descriptor: the chain's name in the used ring.
    pub(crate) head: u16,
    /// Buffers that the device reads.
    pub(crate) readable: Vec<Segment>,
    /// Buffers that the device writes.
    pub(crate) writable: Vec<Segment>,
}

impl Chain {
    /// How many descriptors the chain occupies.
    pub(crate) fn descriptors(&self) -> usize {
        self.readable.len() + self.writable.len()
    }
}

/// Takes chains for one visit to the ring.
///
/// The budget is the number of descriptors that a lawful driver can still have on offer: the queue's size,
/// less those that the device holds. It ends loops, and bounds what one visit costs.
pub(crate) struct Visit<'a, M> {
    queue: &'a mut Queue,
    mem: &'a M,
    budget: usize,
}

impl<'a, M: Memory> Visit<'a, M> {
    /// Starts a visit; `held` descriptors are in the device's hands already.
    pub(crate) fn new(queue: &'a mut Queue, mem: &'a M, held: usize) -> Result<Self, RingError> {
        if !queue.is_valid(mem) {
            return Err(RingError::RingOutsideMemory);
        }
        let budget = usize::from(queue.size()).saturating_sub(held);
        Ok(Visit { queue, mem, budget })
    }

    /// The next available chain, or nothing when the driver has offered no more.
    pub(crate) fn next_chain(&mut self) -> Result<Option<Chain>, RingError> {
        let mem = self.mem;
        let offered =
            self.queue.avail_idx(mem, Ordering::Acquire).map_err(|_| RingError::RingOutsideMemory)?.0;
        match offered.wrapping_sub(self.queue.next_avail()) {
            0 => return Ok(None),
            n if n > self.queue.size() => return Err(RingError::IndexJump),
            _ => {}
        }
        let head = self.queue.pop_descriptor_chain(mem).ok_or(RingError::RingOutsideMemory)?.head_index();
        self.walk(head).map(Some)
    }

    fn walk(&mut self, head: u16) -> Result<Chain, RingError> {
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut index = head;
        loop {
            self.budget = self.budget.checked_sub(1).ok_or(RingError::TooManyDescriptors)?;
            let descriptor = self.descriptor(index)?;
            let segment = Segment { addr: descriptor.addr().0, len: descriptor.len() };
            self.check_buffer(segment, descriptor.is_write_only())?;
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(RingError::Order);
            }
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
    }

    fn descriptor(&self, index: u16) -> Result<Descriptor, RingError> {
        if index >= self.queue.size() {
            return Err(RingError::DescriptorIndex);
        }
        // `is_valid` has checked that the whole table lies in memory: the sum cannot overflow.
        let addr = self.queue.desc_table() + u64::from(index) * size_of::<Descriptor>() as u64;
        let descriptor: Descriptor =
            self.mem.read_obj(GuestAddress(addr)).map_err(|_| RingError::RingOutsideMemory)?;
        if descriptor.refers_to_indirect_table() { Err(RingError::Indirect) } else { Ok(descriptor) }
    }

    fn check_buffer(&self, segment: Segment, write: bool) -> Result<(), RingError> {
        let access = if write { Permissions::Write } else { Permissions::Read };
        let inside = self.mem.check_range(GuestAddress(segment.addr), segment.len as usize, access);
        if segment.len != 0 && inside { Ok(()) } else { Err(RingError::Buffer) }
    }

    /// Gives a chain back with `written` bytes in it.
    pub(crate) fn push_used(&mut self, head: u16, written: u32) -> Result<(), RingError> {
        push_used(self.queue, self.mem, head, written)
    }
}

/// Gives a chain back outside of a visit.
pub(crate) fn push_used<M: Memory>(
    queue: &mut Queue,
    mem: &M,
    head: u16,
    written: u32,
) -> Result<(), RingError> {
    queue.add_used(mem, head, written).map_err(|_| RingError::RingOutsideMemory)
}

/// Reads up to `len` bytes from `skip` bytes into the buffers.
pub(crate) fn gather<M: Memory>(
    mem: &M,
    segments: &[Segment],
    skip: u64,
    len: usize,
) -> Result<Vec<u8>, RingError> {
    let mut bytes = Vec::with_capacity(len);
    let mut skip = skip;
    for segment in segments {
        let here = u64::from(segment.len).saturating_sub(skip).min((len - bytes.len()) as u64) as usize;
        if here > 0 {
            let start = bytes.len();
            bytes.resize(start + here, 0);
            mem.read_slice(&mut bytes[start..], GuestAddress(segment.addr + skip))
                .map_err(|_| RingError::Buffer)?;
        }
        skip = skip.saturating_sub(u64::from(segment.len));
    }
    Ok(bytes)
}

/// Writes bytes from the beginning of the buffers on; what does not fit is dropped.
pub(crate) fn scatter<M: Memory>(mem: &M, segments: &[Segment], bytes: &[u8]) -> Result<(), RingError> {
    let mut rest = bytes;
    for segment in segments {
        let (here, later) = rest.split_at(rest.len().min(segment.len as usize));
        mem.write_slice(here, GuestAddress(segment.addr)).map_err(|_| RingError::Buffer)?;
        rest = later;
    }
    Ok(())
}
