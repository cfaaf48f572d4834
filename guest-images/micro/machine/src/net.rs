//! The network card: virtio-net (virtio 1.2, 5.1) as a smoltcp device.

use crate::virtio::{Descriptor, Device, Queue, dma};
use alloc::vec::Vec;
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// PCI device number of a network card.
pub const ID: u32 = 0x1041;
/// VIRTIO_NET_F_MAC.
const MAC: u64 = 1 << 5;
const QUEUE: u16 = 128;
/// Each frame has a buffer of its own: header and frame, one after the other.
const BUFFER: usize = 2048;
/// struct virtio_net_hdr; all zero when no offload is agreed on.
const HEADER: usize = 12;
const LARGEST_FRAME: usize = 1514;

/// The card.
#[derive(Debug)]
pub struct Nic {
    mac: [u8; 6],
    receive: Receiver,
    transmit: Transmitter,
}

impl Nic {
    /// Starts the card. Frames received interrupt with this vector.
    pub fn start(vector: u8) -> Self {
        let device = Device::start("net", ID, MAC, &[vector]);
        let mac = core::array::from_fn(|n| device.config.read(n));
        let receive = Receiver::new(device.queue(0, QUEUE, Some(0)));
        let transmit = Transmitter::new(device.queue(1, QUEUE, None));
        device.ready();
        let mut nic = Self { mac, receive, transmit };
        nic.receive.queue.notify();
        nic
    }

    /// The card's address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Lets the device see what was queued: at most two exits.
    pub fn flush(&mut self) {
        if core::mem::take(&mut self.receive.starved) {
            self.receive.queue.notify();
        }
        self.transmit.flush();
    }

    /// Prepares for sleep: frames interrupt from now on. False if one is waiting already.
    pub fn may_sleep(&mut self) -> bool {
        self.receive.queue.interrupts(true);
        !self.receive.queue.has_used()
    }

    /// After sleep: frames are fetched, not announced.
    pub fn awake(&mut self) {
        self.receive.queue.interrupts(false);
    }
}

/// A buffer of a queue's arena.
fn buffer(arena: *mut u8, index: u16) -> *mut u8 {
    arena.wrapping_add(usize::from(index) * BUFFER)
}

#[derive(Debug)]
struct Receiver {
    queue: Queue,
    arena: *mut u8,
    /// The device had no buffer left: it will not look for new ones by itself.
    starved: bool,
}

impl Receiver {
    fn new(mut queue: Queue) -> Self {
        let arena = dma(usize::from(queue.size()) * BUFFER);
        for index in 0..queue.size() {
            queue.describe(index, Descriptor::output(buffer(arena, index), BUFFER));
            queue.publish(index);
        }
        Self { queue, arena, starved: false }
    }
}

#[derive(Debug)]
struct Transmitter {
    queue: Queue,
    arena: *mut u8,
    /// Buffers that are not with the device. The last one returned is used first: fewer pages change.
    free: Vec<u16>,
    queued: bool,
}

impl Transmitter {
    fn new(queue: Queue) -> Self {
        let arena = dma(usize::from(queue.size()) * BUFFER);
        let free = (0..queue.size()).rev().collect();
        Self { queue, arena, free, queued: false }
    }

    fn flush(&mut self) {
        if core::mem::take(&mut self.queued) {
            self.queue.notify();
            self.reap();
        }
    }

    fn reap(&mut self) {
        while let Some((index, _)) = self.queue.take_used() {
            self.free.push(index);
        }
        // In order again: those at the end of the list are at the start of the arena.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Makes sure that a buffer is free.
    fn available(&mut self) -> bool {
        if self.free.is_empty() {
            self.flush();
        }
        if self.free.is_empty() {
            self.reap();
        }
        !self.free.is_empty()
    }
}

impl phy::Device for Nic {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Slot<'_>)> {
        if !self.receive.queue.has_used() || !self.transmit.available() {
            return None;
        }
        let (index, written) = self.receive.queue.take_used()?;
        let length = written.saturating_sub(HEADER).min(LARGEST_FRAME);
        Some((Received { receiver: &mut self.receive, index, length }, Slot { sender: &mut self.transmit }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Slot<'_>> {
        self.transmit.available().then_some(Slot { sender: &mut self.transmit })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LARGEST_FRAME;
        capabilities
    }
}

/// A frame in its buffer; the buffer goes back to the device afterwards.
#[derive(Debug)]
pub struct Received<'a> {
    receiver: &'a mut Receiver,
    index: u16,
    length: usize,
}

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let frame = buffer(self.receiver.arena, self.index).wrapping_add(HEADER);
        // SAFETY: the device returned the buffer and gets it back only when `self` is dropped; the length was cut
        // to what fits.
        f(unsafe { core::slice::from_raw_parts(frame, self.length) })
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        self.receiver.starved |= self.receiver.queue.publish(self.index);
    }
}

/// Room for a frame to send.
#[derive(Debug)]
pub struct Slot<'a> {
    sender: &'a mut Transmitter,
}

impl phy::TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let sender = self.sender;
        let index = sender.free.pop().expect("a slot is given out when a buffer is free");
        let start = buffer(sender.arena, index);
        assert!(length <= LARGEST_FRAME, "net: frame of {length} bytes");
        // SAFETY: the buffer is free, hence ours alone, and larger than header and frame. The header stays zero.
        let result = f(unsafe { core::slice::from_raw_parts_mut(start.wrapping_add(HEADER), length) });
        sender.queue.describe(index, Descriptor::input(start, HEADER + length));
        sender.queue.publish(index);
        sender.queued = true;
        result
    }
}
