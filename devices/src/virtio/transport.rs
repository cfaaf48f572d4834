//! The common configuration structure of virtio over PCI (virtio 1.2 section 4.1.4.3), the device status
//! (section 2.1), feature negotiation (section 2.2) and the interrupts of queues and configuration.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::msix::{Msi, Msix, NO_VECTOR};
use crate::Memory;
use crate::pci::put;
use crate::state::{self, Invalid};

/// The largest queue that a driver may ask for, in descriptors.
pub(crate) const QUEUE_MAX: u16 = 256;
/// Size of the common configuration structure in bytes.
const COMMON_SIZE: usize = 0x40;

const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;

const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;

/// A virtqueue and the MSI-X vector of its interrupt.
#[derive(Debug, Serialize, Deserialize)]
struct VirtQueue {
    #[serde(with = "state::queue")]
    ring: Queue,
    vector: u16,
}

/// What a write to the common configuration asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Nothing beyond the register.
    Nothing,
    /// The driver has reset the device.
    Reset,
}

/// The transport's registers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Transport {
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    isr: u8,
    queues: Vec<VirtQueue>,
}

impl Transport {
    /// A device in reset with `queues` queues, offering these features (bit numbers) and VERSION_1.
    pub(crate) fn new(queues: u16, features: &[u32]) -> Self {
        let ring = || Queue::new(QUEUE_MAX).expect("256 is a power of two");
        let queue = || VirtQueue { ring: ring(), vector: NO_VECTOR };
        Transport {
            offered: features.iter().fold(1 << VIRTIO_F_VERSION_1, |bits, feature| bits | (1 << feature)),
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            isr: 0,
            queues: (0..queues).map(|_| queue()).collect(),
        }
    }

    fn reset(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.status = 0;
        self.queue_select = 0;
        self.isr = 0;
        for queue in &mut self.queues {
            queue.ring.reset();
            queue.vector = NO_VECTOR;
        }
    }

    /// The queue's ring, if the driver is up, the queue enabled, and no reset is demanded.
    pub(crate) fn live_queue(&mut self, index: u16) -> Option<&mut Queue> {
        let up = self.is_up();
        let queue = self.queues.get_mut(usize::from(index)).filter(|queue| up && queue.ring.ready())?;
        Some(&mut queue.ring)
    }

    /// Whether the driver has brought the device up, and neither side has given up.
    pub(crate) fn is_up(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK
    }

    /// Reads bytes of the common configuration.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        for (at, byte) in (offset..).zip(data) {
            *byte = image.get(at as usize).copied().unwrap_or(0);
        }
    }

    fn image(&self) -> [u8; COMMON_SIZE] {
        let mut image = [0; COMMON_SIZE];
        put(&mut image, 0x00, &self.device_feature_select.to_le_bytes());
        put(&mut image, 0x04, &half(self.offered, self.device_feature_select).to_le_bytes());
        put(&mut image, 0x08, &self.driver_feature_select.to_le_bytes());
        put(&mut image, 0x0c, &half(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(&mut image, 0x10, &self.config_vector.to_le_bytes());
        put(&mut image, 0x12, &(self.queues.len() as u16).to_le_bytes());
        put(&mut image, 0x14, &[self.status]);
        // 0x15 is the configuration generation: the device configuration never changes, so it stays 0.
        put(&mut image, 0x16, &self.queue_select.to_le_bytes());
        // A queue that does not exist reads as size 0 (section 4.1.4.3.1).
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(&mut image, 0x18, &queue.ring.size().to_le_bytes());
            put(&mut image, 0x1a, &queue.vector.to_le_bytes());
            put(&mut image, 0x1c, &u16::from(queue.ring.ready()).to_le_bytes());
            put(&mut image, 0x1e, &self.queue_select.to_le_bytes());
            put(&mut image, 0x20, &queue.ring.desc_table().to_le_bytes());
            put(&mut image, 0x28, &queue.ring.avail_ring().to_le_bytes());
            put(&mut image, 0x30, &queue.ring.used_ring().to_le_bytes());
        }
        image
    }

    /// Writes a register. Only accesses of the register's own width count, or halves of a 64-bit register
    /// (section 4.1.3.1); others have no effect.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], msix: &mut Msix) -> Request {
        let Some(value) = word(data) else { return Request::Nothing };
        match (offset, data.len()) {
            (0x00, 4) => self.device_feature_select = value as u32,
            (0x08, 4) => self.driver_feature_select = value as u32,
            (0x0c, 4) => self.write_driver_features(value as u32),
            (0x10, 2) => self.config_vector = msix.checked_vector(value as u16),
            (0x14, 1) => return self.write_status(value as u8, msix),
            (0x16, 2) => self.queue_select = value as u16,
            (0x18..0x38, _) => self.write_queue(offset, data.len(), value, msix),
            _ => {}
        }
        Request::Nothing
    }

    fn write_driver_features(&mut self, value: u32) {
        // After FEATURES_OK the choice is final (section 3.1.1).
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_feature_select {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | value,
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | (value << 32),
            _ => {}
        }
    }

    /// The device status. Writing zero resets; otherwise bits are only added. FEATURES_OK is kept only for a
    /// subset of the offer with VERSION_1, and DRIVER_OK only after it.
    fn write_status(&mut self, value: u8, msix: &mut Msix) -> Request {
        if value == 0 {
            self.reset();
            msix.clear_pending();
            return Request::Reset;
        }
        let mut status = self.status | (value & (ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED));
        if !self.features_acceptable() {
            status &= !FEATURES_OK;
        }
        if status & FEATURES_OK == 0 {
            status &= !DRIVER_OK;
        }
        self.status = status;
        Request::Nothing
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn write_queue(&mut self, offset: u64, len: usize, value: u64, msix: &Msix) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        if (offset, len) == (0x1a, 2) {
            queue.vector = msix.checked_vector(value as u16);
        }
        // An enabled queue stays as it is until the device is reset.
        if queue.ring.ready() {
            return;
        }
        let ring = &mut queue.ring;
        // A size that is no power of two and a misaligned address are refused: the register keeps its value.
        let refused = match (offset, len) {
            (0x18, 2) => ring.try_set_size(value as u16),
            (0x1c, 2) => {
                ring.set_ready(value == 1);
                Ok(())
            }
            (0x20 | 0x24, 4) | (0x20, 8) => {
                ring.try_set_desc_table_address(address(ring.desc_table(), offset - 0x20, len, value))
            }
            (0x28 | 0x2c, 4) | (0x28, 8) => {
                ring.try_set_avail_ring_address(address(ring.avail_ring(), offset - 0x28, len, value))
            }
            (0x30 | 0x34, 4) | (0x30, 8) => {
                ring.try_set_used_ring_address(address(ring.used_ring(), offset - 0x30, len, value))
            }
            _ => Ok(()),
        };
        drop(refused);
    }

    /// Reads the ISR status, which clears it (section 4.1.4.5).
    pub(crate) fn take_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    /// Whether an interrupt waits to be read from the ISR status.
    pub(crate) fn has_interrupt(&self) -> bool {
        self.isr != 0
    }

    /// Tells the driver that chains of a queue were used, unless it wants no interrupt (section 2.7.7).
    pub(crate) fn interrupt_queue<M: Memory>(
        &mut self,
        index: u16,
        mem: &M,
        msix: &mut Msix,
        msis: &mut Vec<Msi>,
    ) {
        let Some(queue) = self.queues.get(usize::from(index)) else { return };
        // The ring was just used: its flags are readable.
        let flags: u16 = mem.read_obj(GuestAddress(queue.ring.avail_ring())).map_or(0, u16::from_le);
        if u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT != 0 {
            return;
        }
        if msix.enabled() {
            msix.fire(queue.vector, msis);
        } else {
            self.isr |= ISR_QUEUE;
        }
    }

    /// The device can go on no longer (section 2.1.2): it leaves the rings alone until it is reset.
    pub(crate) fn demand_reset(&mut self, msix: &mut Msix, msis: &mut Vec<Msi>) {
        self.status |= NEEDS_RESET;
        self.isr |= ISR_CONFIG;
        msix.fire(self.config_vector, msis);
    }

    /// Checks a decoded value against a fresh transport of the same device.
    pub(crate) fn validate(&self, fresh: &Transport, msix: &Msix) -> Result<(), Invalid> {
        let vector_ok = |vector| msix.checked_vector(vector) == vector;
        let status_ok =
            self.status & !(ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | NEEDS_RESET | FAILED) == 0
                && (self.status & DRIVER_OK == 0 || self.status & FEATURES_OK != 0)
                && (self.status & FEATURES_OK == 0 || self.features_acceptable());
        let queues_ok = self.queues.len() == fresh.queues.len()
            && self.queues.iter().all(|q| q.ring.max_size() == QUEUE_MAX && vector_ok(q.vector));
        let rest_ok = self.offered == fresh.offered
            && vector_ok(self.config_vector)
            && self.isr & !(ISR_QUEUE | ISR_CONFIG) == 0;
        if status_ok && queues_ok && rest_ok {
            Ok(())
        } else {
            Err(Invalid("a virtio transport register holds an impossible value"))
        }
    }
}

/// The low (0) or high (1) half of a feature set; other halves are empty.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// A little-endian word of 1, 2, 4 or 8 bytes.
fn word(data: &[u8]) -> Option<u64> {
    if !matches!(data.len(), 1 | 2 | 4 | 8) {
        return None;
    }
    let mut bytes = [0; 8];
    put(&mut bytes, 0, data);
    Some(u64::from_le_bytes(bytes))
}

/// Replaces the half (or all) of a 64-bit address that a write of `len` bytes at `shift` means.
fn address(old: u64, shift: u64, len: usize, value: u64) -> GuestAddress {
    GuestAddress(match (shift, len) {
        (_, 8) => value,
        (0, _) => (old & !0xffff_ffff) | (value & 0xffff_ffff),
        _ => (old & 0xffff_ffff) | (value << 32),
    })
}
