//! The network card (virtio 1.2 section 5.1): one pair of queues, no offloads, buffers never merged.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_queue::Queue;

use super::Device;
use super::chain::{RingError, Visit, gather, scatter, total};
use super::transport::Transport;
use crate::pci::Identity;
use crate::state::{COUNT_MAX, Invalid};
use crate::{Effect, Memory};

pub(super) const RX: u16 = 0;
const TX: u16 = 1;
/// Bytes of the header in front of each frame (section 5.1.6).
const HEADER: usize = 12;
/// Lengths of an Ethernet frame without its checksum, for an MTU of 1500.
const FRAME_BYTES: std::ops::RangeInclusive<usize> = 14..=1514;
/// Frames that wait for receive buffers; more are dropped.
const BACKLOG_FRAMES: usize = 64;

/// The network card's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Net {
    nic: u8,
    mac: [u8; 6],
    /// Frames that arrived while the driver had no buffer on offer.
    backlog: VecDeque<Vec<u8>>,
    /// Frames dropped on the way to the guest.
    rx_dropped: u64,
    /// Frames dropped on the way from the guest.
    tx_dropped: u64,
}

impl Net {
    pub(crate) fn new(nic: u8, mac: [u8; 6]) -> Self {
        Net { nic, mac, backlog: VecDeque::new(), rx_dropped: 0, tx_dropped: 0 }
    }

    /// Frames dropped: to the guest, and from it.
    pub(crate) fn dropped(&self) -> (u64, u64) {
        (self.rx_dropped, self.tx_dropped)
    }

    /// A frame arrives for the guest. Whether it waits for delivery: not if it has no lawful length, if the
    /// driver is not up, or if too many wait already.
    pub(crate) fn arrive(&mut self, frame: &[u8], up: bool) -> bool {
        let taken = up && FRAME_BYTES.contains(&frame.len()) && self.backlog.len() < BACKLOG_FRAMES;
        if taken {
            self.backlog.push_back(frame.to_vec());
        } else {
            self.rx_dropped += 1;
        }
        taken
    }

    /// Moves waiting frames into receive buffers. A buffer too small for its frame goes back empty, and the
    /// frame is lost: a driver must offer room for the largest one (section 5.1.6.3.1).
    fn deliver<M: Memory>(&mut self, queue: &mut Queue, mem: &M) -> Result<bool, RingError> {
        let mut visit = Visit::new(queue, mem, 0)?;
        let mut used = false;
        while let Some(frame) = self.backlog.front() {
            let Some(chain) = visit.next_chain()? else { break };
            let mut packet = vec![0; HEADER];
            packet[10] = 1; // num_buffers
            packet.extend_from_slice(frame);
            let fits = total(&chain.writable) >= packet.len() as u64;
            if fits {
                scatter(mem, &chain.writable, &packet)?;
            } else {
                self.rx_dropped += 1;
            }
            visit.push_used(chain.head, if fits { packet.len() as u32 } else { 0 })?;
            self.backlog.pop_front();
            used = true;
        }
        Ok(used)
    }

    fn transmit<M: Memory>(
        &mut self,
        queue: &mut Queue,
        mem: &M,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, RingError> {
        let mut visit = Visit::new(queue, mem, 0)?;
        let mut used = false;
        while let Some(chain) = visit.next_chain()? {
            let len = total(&chain.readable).saturating_sub(HEADER as u64) as usize;
            if FRAME_BYTES.contains(&len) {
                let frame = gather(mem, &chain.readable, HEADER as u64, len)?;
                effects.push(Effect::Frame { nic: self.nic, frame });
            } else {
                self.tx_dropped += 1;
            }
            visit.push_used(chain.head, 0)?;
            used = true;
        }
        Ok(used)
    }
}

impl Device for Net {
    const IDENTITY: Identity = Identity { vendor: 0x1af4, device: 0x1041, class: 0x0200, subsystem: 0x40 };
    const VECTORS: u16 = 3;

    fn transport() -> Transport {
        Transport::new(2, &[VIRTIO_NET_F_MAC])
    }

    fn config(&self) -> Vec<u8> {
        self.mac.to_vec()
    }

    fn visit<M: Memory>(
        &mut self,
        index: u16,
        queue: &mut Queue,
        mem: &M,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, RingError> {
        match index {
            RX => self.deliver(queue, mem),
            TX => self.transmit(queue, mem, effects),
            _ => Ok(false),
        }
    }

    fn reset(&mut self) {
        self.backlog.clear();
    }

    fn validate(&self, fresh: &Self) -> Result<(), Invalid> {
        let frames_ok = self.backlog.iter().all(|frame| FRAME_BYTES.contains(&frame.len()));
        let same_card = self.nic == fresh.nic && self.mac == fresh.mac;
        let counts_ok = self.rx_dropped <= COUNT_MAX && self.tx_dropped <= COUNT_MAX;
        if frames_ok && counts_ok && same_card && self.backlog.len() <= BACKLOG_FRAMES {
            Ok(())
        } else {
            Err(Invalid("a network card's state is impossible"))
        }
    }
}
