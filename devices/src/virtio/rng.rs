//! The entropy device (virtio 1.2 section 5.4): the driver offers buffers, the world fills them.
//!
//! Where the bytes of a waiting request go is remembered: the ring and its descriptors are never read again.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

use super::Device;
use super::chain::{RingError, Segment, Visit, push_used, scatter, total};
use super::transport::{QUEUE_MAX, Transport};
use crate::pci::Identity;
use crate::state::Invalid;
use crate::{Effect, Memory, PlaceError};

/// The only queue.
pub(super) const QUEUE: u16 = 0;
/// The device fills at most this many bytes of a request; the driver asks again for more.
const BYTES_MAX: u32 = 256;

/// A request that waits for the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    head: u16,
    /// Descriptors that the chain occupies.
    descriptors: u16,
    /// The first buffers of the chain, as many as the bytes need.
    room: Vec<Segment>,
}

impl Waiting {
    /// Bytes that the request takes.
    fn len(&self) -> u32 {
        total(&self.room).min(u64::from(BYTES_MAX)) as u32
    }
}

/// The entropy device's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rng {
    /// Requests in the order of submission. The ring bounds them.
    waiting: VecDeque<Waiting>,
}

impl Rng {
    /// Effects of the requests that wait for the world, in the order of submission.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = Effect> {
        self.waiting.iter().map(|waiting| Effect::Entropy { len: waiting.len() })
    }

    fn held(&self) -> usize {
        self.waiting.iter().map(|waiting| usize::from(waiting.descriptors)).sum()
    }

    /// Checks an answer before it has any effect. Whether a request waits for it: it does not when the driver
    /// has reset the device meanwhile.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<bool, PlaceError> {
        if bytes.is_empty() || bytes.len() > BYTES_MAX as usize {
            return Err(PlaceError::EntropyLength { got: bytes.len(), limit: BYTES_MAX });
        }
        Ok(!self.waiting.is_empty())
    }

    /// Drops the oldest request without an answer to the driver, whose ring is broken.
    pub(super) fn abandon(&mut self) {
        self.waiting.pop_front();
    }

    /// Answers the oldest request with checked bytes; those that it has no room for are dropped.
    pub(super) fn answer<M: Memory>(
        &mut self,
        bytes: &[u8],
        queue: &mut Queue,
        mem: &M,
    ) -> Result<bool, RingError> {
        let Some(waiting) = self.waiting.pop_front() else { return Ok(false) };
        let fitting = &bytes[..bytes.len().min(waiting.len() as usize)];
        scatter(mem, &waiting.room, fitting)?;
        push_used(queue, mem, waiting.head, fitting.len() as u32)?;
        Ok(true)
    }
}

/// The first buffers that together have room for `bytes` bytes, or all.
fn first_buffers(buffers: Vec<Segment>, bytes: u64) -> Vec<Segment> {
    let mut have = 0;
    let enough = |segment: &Segment| {
        let wanted = have < bytes;
        have += u64::from(segment.len);
        wanted
    };
    buffers.into_iter().take_while(enough).collect()
}

impl Device for Rng {
    const IDENTITY: Identity = Identity { vendor: 0x1af4, device: 0x1044, class: 0x00ff, subsystem: 0x40 };
    const VECTORS: u16 = 2;

    fn transport() -> Transport {
        Transport::new(1, &[])
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn visit<M: Memory>(
        &mut self,
        _index: u16,
        queue: &mut Queue,
        mem: &M,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, RingError> {
        let mut visit = Visit::new(queue, mem, self.held())?;
        let mut used = false;
        while let Some(chain) = visit.next_chain()? {
            if self.waiting.iter().any(|waiting| waiting.head == chain.head) {
                return Err(RingError::Reused);
            }
            let (head, descriptors) = (chain.head, chain.descriptors() as u16);
            let room = first_buffers(chain.writable, u64::from(BYTES_MAX));
            if room.is_empty() {
                visit.push_used(head, 0)?;
                used = true;
            } else {
                let waiting = Waiting { head, descriptors, room };
                effects.push(Effect::Entropy { len: waiting.len() });
                self.waiting.push_back(waiting);
            }
        }
        Ok(used)
    }

    /// Requests in flight are forgotten.
    fn reset(&mut self) {
        self.waiting.clear();
    }

    fn validate(&self, _fresh: &Self) -> Result<(), Invalid> {
        let waiting_ok = self.waiting.iter().all(|waiting| {
            !waiting.room.is_empty()
                && waiting.room.iter().all(|segment| segment.len != 0)
                && waiting.room.len() <= usize::from(waiting.descriptors)
                && waiting.head < QUEUE_MAX
                && first_buffers(waiting.room.clone(), u64::from(BYTES_MAX)) == waiting.room
        });
        let heads: std::collections::BTreeSet<u16> = self.waiting.iter().map(|w| w.head).collect();
        let bounded = self.held() <= usize::from(QUEUE_MAX) && heads.len() == self.waiting.len();
        if waiting_ok && bounded { Ok(()) } else { Err(Invalid("the entropy device's state is impossible")) }
    }
}
