//! The disk (virtio 1.2 section 5.2): reads, writes, flushes and its name.
//!
//! A write's payload is copied, and the write completed, within the guest access that submits it: for the
//! guest the disk has a volatile write cache, which the FLUSH feature announces. Reads and flushes wait for
//! [`Stimulus::DiskDone`](crate::Stimulus::DiskDone). Where a read's data go is remembered: the ring and its
//! descriptors are never read again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_queue::Queue;

use super::Device;
use super::chain::{Chain, RingError, Segment, Visit, gather, push_used, scatter, total};
use super::transport::{QUEUE_MAX, Transport};
use crate::pci::{Identity, put};
use crate::state::{COUNT_MAX, Invalid};
use crate::{Effect, Memory, PlaceError};

/// The only queue.
pub(crate) const QUEUE: u16 = 0;
const SECTOR: u64 = 512;
/// Largest payload of a request in bytes; larger ones fail with an I/O error.
const PAYLOAD_MAX: u64 = 1 << 20;
/// Bytes of the header: type, reserved, sector.
const HEADER: u64 = 16;
/// Data buffers in a request of a driver that heeds our limits: with header and status two such requests fill
/// the queue.
const SEGMENTS_MAX: u32 = QUEUE_MAX as u32 / 2 - 2;
/// Bytes in each of them: the largest request has 1,008 KiB.
const SEGMENT_BYTES_MAX: u32 = 8192;
const _: () = assert!(SEGMENTS_MAX as u64 * SEGMENT_BYTES_MAX as u64 <= PAYLOAD_MAX);

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IO_ERROR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// A request that waits for the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    head: u16,
    /// Descriptors that the chain occupies.
    descriptors: u16,
    /// The buffer of one byte for the status.
    status: Segment,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Read { sector: u64, len: u32, data: Vec<Segment> },
    Flush,
}

/// The disk's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blk {
    disk: u8,
    /// Size in sectors.
    capacity: u64,
    next_id: u64,
    /// Requests by their number. The ring bounds them: chains in here hold at most a queue of descriptors.
    waiting: BTreeMap<u64, Waiting>,
}

/// A request as the driver framed it (section 5.2.6): the first 16 readable bytes are the header, the last
/// writable byte is the status, whatever the buffers' limits.
struct Request {
    kind: u32,
    sector: u64,
    head: u16,
    descriptors: u16,
    /// Header and payload of a write.
    readable: Vec<Segment>,
    /// Bytes of payload after the header.
    out_len: u64,
    /// Room for data of a read, without the status.
    data: Vec<Segment>,
    status: Segment,
}

impl Request {
    fn parse<M: Memory>(mem: &M, chain: Chain) -> Result<Self, RingError> {
        let descriptors = chain.descriptors() as u16;
        let Chain { head, readable, writable: mut data } = chain;
        let out_len = total(&readable).checked_sub(HEADER).ok_or(RingError::Framing)?;
        let mut header = [0; HEADER as usize];
        put(&mut header, 0, &gather(mem, &readable, 0, HEADER as usize)?);
        let last = data.last_mut().ok_or(RingError::Framing)?;
        last.len -= 1;
        let status = Segment { addr: last.addr + u64::from(last.len), len: 1 };
        data.retain(|segment| segment.len != 0);
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        Ok(Request {
            kind: u32::from_le_bytes([a, b, c, d]),
            sector: u64::from_le_bytes(sector),
            head,
            descriptors,
            readable,
            out_len,
            data,
            status,
        })
    }
}

impl Blk {
    pub(crate) fn new(disk: u8, capacity: u64) -> Self {
        Blk { disk, capacity, next_id: 0, waiting: BTreeMap::new() }
    }

    /// Effects of the requests that wait for the world, in the order of submission.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = Effect> {
        self.waiting.iter().map(|(id, waiting)| self.effect(*id, waiting))
    }

    fn effect(&self, id: u64, waiting: &Waiting) -> Effect {
        match waiting.kind {
            Kind::Read { sector, len, .. } => Effect::DiskRead { disk: self.disk, id, sector, len },
            Kind::Flush => Effect::DiskFlush { disk: self.disk, id },
        }
    }

    fn held(&self) -> usize {
        self.waiting.values().map(|waiting| usize::from(waiting.descriptors)).sum()
    }

    /// Whether sectors exist and the length is a lawful one.
    fn in_range(&self, sector: u64, len: u64) -> bool {
        let end = sector.checked_add(len / SECTOR);
        len != 0
            && len.is_multiple_of(SECTOR)
            && len <= PAYLOAD_MAX
            && end.is_some_and(|end| end <= self.capacity)
    }

    /// Carries out a request. Whether it is complete: its status, and the bytes written before that.
    fn execute<M: Memory>(
        &mut self,
        request: &Request,
        mem: &M,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<(u8, u32)>, RingError> {
        match request.kind {
            VIRTIO_BLK_T_IN => {
                let len = total(&request.data);
                if !self.in_range(request.sector, len) {
                    return Ok(Some((IO_ERROR, 0)));
                }
                let data = request.data.clone();
                self.wait(request, Kind::Read { sector: request.sector, len: len as u32, data }, effects);
                Ok(None)
            }
            VIRTIO_BLK_T_OUT => {
                if !self.in_range(request.sector, request.out_len) {
                    return Ok(Some((IO_ERROR, 0)));
                }
                let data = gather(mem, &request.readable, HEADER, request.out_len as usize)?;
                effects.push(Effect::DiskWrite { disk: self.disk, sector: request.sector, data });
                Ok(Some((OK, 0)))
            }
            VIRTIO_BLK_T_FLUSH => {
                self.wait(request, Kind::Flush, effects);
                Ok(None)
            }
            VIRTIO_BLK_T_GET_ID => {
                let mut name = [0; VIRTIO_BLK_ID_BYTES as usize];
                put(&mut name, 0, format!("twinrun-disk{}", self.disk).as_bytes());
                if total(&request.data) < name.len() as u64 {
                    return Ok(Some((IO_ERROR, 0)));
                }
                scatter(mem, &request.data, &name)?;
                Ok(Some((OK, name.len() as u32)))
            }
            _ => Ok(Some((UNSUPPORTED, 0))),
        }
    }

    fn wait(&mut self, request: &Request, kind: Kind, effects: &mut Vec<Effect>) {
        let id = self.next_id;
        self.next_id += 1;
        let waiting =
            Waiting { head: request.head, descriptors: request.descriptors, status: request.status, kind };
        effects.push(self.effect(id, &waiting));
        self.waiting.insert(id, waiting);
    }

    /// Checks a completion before it has any effect. Whether its request still waits: it does not when the
    /// driver has reset the device meanwhile.
    pub(crate) fn check_done(&self, id: u64, ok: bool, data: &[u8]) -> Result<bool, PlaceError> {
        if id >= self.next_id {
            return Err(PlaceError::UnknownRequest { disk: self.disk, id });
        }
        let Some(waiting) = self.waiting.get(&id) else { return Ok(false) };
        let want = match waiting.kind {
            Kind::Read { len, .. } if ok => len,
            Kind::Read { .. } | Kind::Flush => 0,
        };
        if data.len() == want as usize {
            Ok(true)
        } else {
            Err(PlaceError::WrongLength { disk: self.disk, id, want, got: data.len() })
        }
    }

    /// Drops a request without an answer to the driver, whose ring is broken.
    pub(crate) fn abandon(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    /// Completes a checked request. Whether a chain was used.
    pub(crate) fn done<M: Memory>(
        &mut self,
        id: u64,
        ok: bool,
        data: &[u8],
        queue: &mut Queue,
        mem: &M,
    ) -> Result<bool, RingError> {
        let Some(waiting) = self.waiting.remove(&id) else { return Ok(false) };
        if let Kind::Read { data: room, .. } = &waiting.kind {
            scatter(mem, room, data)?;
        }
        scatter(mem, &[waiting.status], &[if ok { OK } else { IO_ERROR }])?;
        push_used(queue, mem, waiting.head, data.len() as u32 + 1)?;
        Ok(true)
    }
}

impl Device for Blk {
    const IDENTITY: Identity = Identity { vendor: 0x1af4, device: 0x1042, class: 0x0180, subsystem: 0x40 };
    const VECTORS: u16 = 2;

    fn transport() -> Transport {
        Transport::new(1, &[VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX])
    }

    /// Capacity, then size_max, then seg_max (section 5.2.4).
    fn config(&self) -> Vec<u8> {
        let mut image = vec![0; 16];
        put(&mut image, 0, &self.capacity.to_le_bytes());
        put(&mut image, 8, &SEGMENT_BYTES_MAX.to_le_bytes());
        put(&mut image, 12, &SEGMENTS_MAX.to_le_bytes());
        image
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
            if self.waiting.values().any(|waiting| waiting.head == chain.head) {
                return Err(RingError::Reused);
            }
            let request = Request::parse(mem, chain)?;
            if let Some((status, written)) = self.execute(&request, mem, effects)? {
                scatter(mem, &[request.status], &[status])?;
                visit.push_used(request.head, written + 1)?;
                used = true;
            }
        }
        Ok(used)
    }

    /// Requests in flight are forgotten; their numbers are never used again.
    fn reset(&mut self) {
        self.waiting.clear();
    }

    fn validate(&self, fresh: &Self) -> Result<(), Invalid> {
        let waiting_ok = self.waiting.iter().all(|(id, waiting)| {
            let kind_ok = match &waiting.kind {
                Kind::Read { sector, len, data } => {
                    let segments_ok = data.iter().all(|segment| segment.len != 0);
                    segments_ok
                        && data.len() <= usize::from(waiting.descriptors)
                        && total(data) == u64::from(*len)
                        && self.in_range(*sector, u64::from(*len))
                }
                Kind::Flush => true,
            };
            kind_ok && *id < self.next_id && waiting.descriptors >= 2 && waiting.status.len == 1
        });
        let heads: std::collections::BTreeSet<u16> = self.waiting.values().map(|w| w.head).collect();
        let bounded = self.next_id <= COUNT_MAX
            && self.held() <= usize::from(QUEUE_MAX)
            && heads.len() == self.waiting.len()
            && heads.iter().all(|head| *head < QUEUE_MAX);
        if waiting_ok && bounded && self.disk == fresh.disk && self.capacity == fresh.capacity {
            Ok(())
        } else {
            Err(Invalid("a disk's state is impossible"))
        }
    }
}
