//! The virtio-pci transport (virtio 1.2, 4.1) and the split virtqueue (2.7), as a driver sees them.

use crate::cpu::Mmio;
use crate::pci::{Capability, Function};
use alloc::alloc::{Layout, alloc_zeroed};
use core::sync::atomic::{AtomicU16, Ordering, fence};

const CAPABILITY_COMMON: u8 = 1;
const CAPABILITY_NOTIFY: u8 = 2;
const CAPABILITY_DEVICE: u8 = 4;

const STATUS_ACKNOWLEDGE: u8 = 1;
const STATUS_DRIVER: u8 = 2;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;

const NO_VECTOR: u16 = 0xFFFF;
/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;

/// Registers of the common configuration.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(super) const DEVICE_FEATURE: usize = 4;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(super) const DRIVER_FEATURE: usize = 12;
    pub(super) const CONFIG_VECTOR: usize = 16;
    pub(super) const STATUS: usize = 20;
    pub(super) const QUEUE_SELECT: usize = 22;
    pub(super) const QUEUE_SIZE: usize = 24;
    pub(super) const QUEUE_VECTOR: usize = 26;
    pub(super) const QUEUE_ENABLE: usize = 28;
    pub(super) const QUEUE_NOTIFY_OFFSET: usize = 30;
    pub(super) const QUEUE_TABLES: usize = 32;
}

/// Zeroed memory that lives as long as the program: physical and virtual address are the same.
pub fn dma(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, 4096).expect("a size of ours");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    assert!(!memory.is_null(), "virtio: out of memory");
    memory
}

/// A virtio device during its start.
#[derive(Debug)]
pub struct Device {
    name: &'static str,
    common: Mmio,
    notify: Capability,
    /// The device's own configuration.
    pub config: Mmio,
}

impl Device {
    /// Finds the device, resets it and agrees on the features: `features` and "version 1", all of them needed.
    pub fn start(name: &'static str, id: u32, features: u64, vectors: &[u8]) -> Self {
        let missing = |what: &str| -> ! { panic!("{name}: {what} missing") };
        let function = Function::find(id).unwrap_or_else(|| missing("device"));
        function.enable();
        let memory = |kind| function.virtio(kind).and_then(Capability::memory);
        let common = memory(CAPABILITY_COMMON).unwrap_or_else(|| missing("common configuration"));
        let config = memory(CAPABILITY_DEVICE).unwrap_or_else(|| missing("device configuration"));
        let notify = function.virtio(CAPABILITY_NOTIFY).unwrap_or_else(|| missing("notification area"));
        let msix = function.msix().and_then(|msix| msix.enable_msix(vectors));
        msix.unwrap_or_else(|| missing("MSI-X"));

        common.write(common::STATUS, 0_u8);
        let reset = (0..1000).any(|_| common.read::<u8>(common::STATUS) == 0);
        assert!(reset, "{name}: does not reset");
        common.write(common::STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        let wanted = features | VERSION_1;
        for half in 0..2_u32 {
            let wanted = (wanted >> (32 * half)) as u32;
            common.write(common::DEVICE_FEATURE_SELECT, half);
            let offered: u32 = common.read(common::DEVICE_FEATURE);
            assert!(
                offered & wanted == wanted,
                "{name}: offers features {offered:#x}, {wanted:#x} are needed"
            );
            common.write(common::DRIVER_FEATURE_SELECT, half);
            common.write(common::DRIVER_FEATURE, wanted);
        }
        common.write(common::STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
        let status: u8 = common.read(common::STATUS);
        assert!(status & STATUS_FEATURES_OK != 0, "{name}: refuses the features");
        common.write(common::CONFIG_VECTOR, NO_VECTOR);
        Self { name, common, notify, config }
    }

    /// Sets up a queue with at most `size` (a power of two) descriptors; `entry` of the MSI-X table tells of used
    /// buffers, `None` for never.
    pub fn queue(&self, index: u16, size: u16, entry: Option<u16>) -> Queue {
        let common = self.common;
        common.write(common::QUEUE_SELECT, index);
        let most: u16 = common.read(common::QUEUE_SIZE);
        assert!(most > 0, "{}: queue {index} is missing", self.name);
        let size = size.min(most);
        common.write(common::QUEUE_SIZE, size);
        let vector = entry.unwrap_or(NO_VECTOR);
        common.write(common::QUEUE_VECTOR, vector);
        assert!(common.read::<u16>(common::QUEUE_VECTOR) == vector, "{}: vector refused", self.name);
        let offset: u16 = common.read(common::QUEUE_NOTIFY_OFFSET);
        let multiplier = self.notify.read(16);
        let notify = self.notify.memory().map(|area| area.at(usize::from(offset) * multiplier as usize));
        let notify = notify.unwrap_or_else(|| panic!("{}: notification area missing", self.name));

        let queue = Queue::new(index, size, notify);
        let tables = [queue.descriptors.addr(), queue.available.addr(), queue.used.addr()];
        for (n, &table) in tables.iter().enumerate() {
            common.write(common::QUEUE_TABLES + 8 * n, table as u32);
            common.write(common::QUEUE_TABLES + 8 * n + 4, 0_u32);
        }
        common.write(common::QUEUE_ENABLE, 1_u16);
        queue
    }

    /// All queues are set up: the device may work.
    pub fn ready(&self) {
        let status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        self.common.write(common::STATUS, status);
    }
}

/// A piece of a request.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Memory that the device reads.
    pub fn input(memory: *const u8, length: usize) -> Self {
        Self { address: memory.expose_provenance() as u64, length: length as u32, flags: 0, next: 0 }
    }

    /// Memory that the device writes.
    pub fn output(memory: *mut u8, length: usize) -> Self {
        Self { flags: 2, ..Self::input(memory, length) }
    }

    /// Goes on at another descriptor.
    pub fn then(self, next: u16) -> Self {
        Self { flags: self.flags | 1, next, ..self }
    }
}

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// A split virtqueue. Its tables are shared with the device, hence the volatile accesses.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    size: u16,
    notify: Mmio,
    descriptors: *mut Descriptor,
    /// flags, index, ring of heads.
    available: *mut u16,
    /// flags, index, ring of (head, length).
    used: *mut u16,
    next_available: u16,
    next_used: u16,
    interrupts: bool,
}

impl Queue {
    fn new(index: u16, size: u16, notify: Mmio) -> Self {
        // One page is enough for the rings of up to 256 entries; 4 KiB more for as many descriptors.
        assert!(size <= 256 && size.is_power_of_two());
        let rings = dma(4096);
        // The used ring starts at 1024: after 6 + 2 * 256 bytes of the other, aligned to 4.
        let used = rings.wrapping_add(1024).cast();
        let (descriptors, available) = (dma(4096).cast(), rings.cast());
        let mut queue = Self {
            index,
            size,
            notify,
            descriptors,
            available,
            used,
            next_available: 0,
            next_used: 0,
            interrupts: true,
        };
        queue.interrupts(false);
        queue
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Writes a descriptor that no request in flight uses.
    pub fn describe(&mut self, index: u16, descriptor: Descriptor) {
        assert!(index < self.size);
        // SAFETY: the table has `size` entries, and the device does not look at this one now.
        unsafe { self.descriptors.add(usize::from(index)).write_volatile(descriptor) }
    }

    /// Hands the chain that starts at `head` to the device. True if the device may have run out of requests just
    /// before, so that it waits to be told even if it usually does not need to be.
    pub fn publish(&mut self, head: u16) -> bool {
        let slot = usize::from(self.next_available % self.size);
        // SAFETY: the ring has `size` entries, after flags and index.
        unsafe { self.available.add(2 + slot).write_volatile(head) }
        let before = self.next_available;
        self.next_available = before.wrapping_add(1);
        // SAFETY: the index is the second word of the ring, and lives as long as the program.
        unsafe { AtomicU16::from_ptr(self.available.add(1)) }.store(self.next_available, Ordering::Release);
        fence(Ordering::SeqCst);
        self.used_index() == before
    }

    /// Tells the device that there are new requests, unless it does not want to know. An exit.
    pub fn notify(&mut self) {
        fence(Ordering::SeqCst);
        // SAFETY: the flags are the first word of the used ring.
        let flags = unsafe { self.used.read_volatile() };
        if flags & NO_NOTIFY == 0 {
            self.notify.write(0, self.index);
        }
    }

    fn used_index(&self) -> u16 {
        // SAFETY: the index is the second word of the ring, and lives as long as the program.
        unsafe { AtomicU16::from_ptr(self.used.add(1)) }.load(Ordering::Acquire)
    }

    /// Whether a request is done and not yet taken.
    pub fn has_used(&self) -> bool {
        self.used_index() != self.next_used
    }

    /// Takes the next request that is done: its head, and how many bytes the device wrote.
    pub fn take_used(&mut self) -> Option<(u16, usize)> {
        if !self.has_used() {
            return None;
        }
        let slot = usize::from(self.next_used % self.size);
        self.next_used = self.next_used.wrapping_add(1);
        // SAFETY: the ring has `size` entries of two 32-bit words, after flags and index.
        let [head, length] = unsafe { self.used.add(2).cast::<[u32; 2]>().add(slot).read_volatile() };
        assert!(head < u32::from(self.size), "virtio: queue {} returned {head}", self.index);
        Some((head as u16, length as usize))
    }

    /// Whether used buffers interrupt: only worth it while nobody looks anyway. After switching on, look again.
    pub fn interrupts(&mut self, on: bool) {
        if on != self.interrupts {
            self.interrupts = on;
            // SAFETY: the flags are the first word of the available ring.
            unsafe { self.available.write_volatile(if on { 0 } else { NO_INTERRUPT }) }
            fence(Ordering::SeqCst);
        }
    }
}
