//! The disk: virtio-blk (virtio 1.2, 5.2). One job at a time: a write, a flush after it, or a read.

use core::ptr;
use machine::apic::vector;
use machine::cpu;
use machine::virtio::{Descriptor, Device, Queue, dma};
use micro_guest::log::{self, MAX_BLOCK, SECTOR};

const ID: u32 = 0x1042;
/// VIRTIO_BLK_F_FLUSH.
const FLUSH: u64 = 1 << 9;
const QUEUE: u16 = 16;

const TYPE_READ: u32 = 0;
const TYPE_WRITE: u32 = 1;
const TYPE_FLUSH: u32 = 4;

/// Where a job's requests begin in the descriptor table.
const TRANSFER: u16 = 0;
const BARRIER: u16 = 3;

/// struct virtio_blk_req without its data, and our own page for both requests of a job.
#[repr(C)]
struct Request {
    kind: u32,
    reserved: u32,
    sector: u64,
    status: u8,
}

/// What the device has not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    Nothing,
    /// A read or a write, and perhaps the flush that was queued behind it.
    Transfer {
        then_flush: bool,
    },
    /// A flush alone.
    Flush,
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Disk {
    queue: Queue,
    sectors: u64,
    requests: *mut Request,
    data: *mut u8,
    flight: Flight,
}

impl Disk {
    /// Starts the disk.
    pub(crate) fn start() -> Self {
        let device = Device::start("disk", ID, FLUSH, &[vector::DISK]);
        let capacity: [u32; 2] = [device.config.read(0), device.config.read(4)];
        let queue = device.queue(0, QUEUE, Some(0));
        assert!(queue.size() >= 8, "disk: queue too small");
        device.ready();
        let sectors = u64::from(capacity[0]) | u64::from(capacity[1]) << 32;
        Self { queue, sectors, requests: dma(4096).cast(), data: dma(MAX_BLOCK), flight: Flight::Nothing }
    }

    /// Writes whole sectors, at most [`MAX_BLOCK`] bytes, and flushes if asked to. One exit.
    ///
    /// The flush is queued right behind the write, and the device takes requests in order and completes a write
    /// as it takes it; were a flush ever completed first, it would be repeated.
    pub(crate) fn write(&mut self, sector: u64, data: &[u8], flush: bool) {
        assert!(self.flight == Flight::Nothing && data.len() <= MAX_BLOCK);
        // SAFETY: the buffer is that large and no request uses it.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.data, data.len()) }
        self.transfer(TYPE_WRITE, sector, Descriptor::input(self.data, data.len()));
        if flush {
            self.barrier();
        }
        self.flight = Flight::Transfer { then_flush: flush };
        self.queue.notify();
    }

    fn transfer(&mut self, kind: u32, sector: u64, data: Descriptor) {
        let (header, status) = self.request(0, kind, sector);
        self.queue.describe(TRANSFER, header.then(TRANSFER + 1));
        self.queue.describe(TRANSFER + 1, data.then(TRANSFER + 2));
        self.queue.describe(TRANSFER + 2, status);
        self.queue.publish(TRANSFER);
    }

    fn barrier(&mut self) {
        let (header, status) = self.request(1, TYPE_FLUSH, 0);
        self.queue.describe(BARRIER, header.then(BARRIER + 1));
        self.queue.describe(BARRIER + 1, status);
        self.queue.publish(BARRIER);
    }

    fn request(&mut self, index: usize, kind: u32, sector: u64) -> (Descriptor, Descriptor) {
        let request = self.requests.wrapping_add(index);
        // SAFETY: the page holds both requests, and this one is not in flight.
        unsafe { request.write_volatile(Request { kind, reserved: 0, sector, status: 0xFF }) }
        let status = request.cast::<u8>().wrapping_add(core::mem::offset_of!(Request, status));
        (Descriptor::input(request.cast(), 16), Descriptor::output(status, 1))
    }

    /// Takes answers. True when the job is finished.
    pub(crate) fn poll(&mut self) -> bool {
        while let Some((head, _)) = self.queue.take_used() {
            let request = self.requests.wrapping_add(usize::from(head == BARRIER));
            // SAFETY: the page holds both requests; the device is done with this one.
            let status = unsafe { (&raw const (*request).status).read_volatile() };
            assert!(status == 0, "disk: request failed with status {status}");
            self.flight = match (self.flight, head) {
                (Flight::Transfer { then_flush: false }, TRANSFER) | (Flight::Flush, BARRIER) => {
                    self.flight = Flight::Nothing;
                    return true;
                }
                (Flight::Transfer { then_flush: true }, TRANSFER) => Flight::Flush,
                (Flight::Transfer { then_flush: true }, BARRIER) => {
                    // Too early to count for the write.
                    self.barrier();
                    self.queue.notify();
                    self.flight
                }
                (flight, head) => panic!("disk: answer {head} during {flight:?}"),
            };
        }
        false
    }

    /// Prepares for sleep: answers interrupt from now on. False if one is waiting already.
    pub(crate) fn may_sleep(&mut self) -> bool {
        self.queue.interrupts(self.flight != Flight::Nothing);
        !self.queue.has_used()
    }

    /// After sleep: answers are fetched, not announced.
    pub(crate) fn awake(&mut self) {
        self.queue.interrupts(false);
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight == Flight::Nothing
    }

    /// Sleeps until the job is finished: for the start, when there is nothing else to do.
    fn wait(&mut self) {
        while !self.poll() {
            cpu::Pending::take();
            if self.may_sleep() {
                cpu::idle();
            }
            self.awake();
        }
    }
}

impl log::Disk for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, sector: u64, out: &mut [u8]) -> bool {
        for (n, piece) in out.chunks_mut(MAX_BLOCK).enumerate() {
            let sector = sector + (n * (MAX_BLOCK / SECTOR)) as u64;
            self.transfer(TYPE_READ, sector, Descriptor::output(self.data, piece.len()));
            self.flight = Flight::Transfer { then_flush: false };
            self.queue.notify();
            self.wait();
            // SAFETY: the device is done with the buffer, which is at least as large as the piece.
            unsafe { ptr::copy_nonoverlapping(self.data, piece.as_mut_ptr(), piece.len()) }
        }
        true
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> bool {
        Disk::write(self, sector, data, true);
        self.wait();
        true
    }
}
