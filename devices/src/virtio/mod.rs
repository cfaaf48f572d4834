//! Virtio devices over PCI (virtio 1.2 section 4.1), modern interface only.

mod blk;
mod chain;
mod msix;
mod net;
mod rng;
mod transport;

#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

use crate::pci::{BAR_SIZE, ConfigHeader, Identity, put};
use crate::state::{COUNT_MAX, Invalid};
use crate::{Effect, Memory, PlaceError};
pub(crate) use blk::Blk;
use chain::RingError;
pub(crate) use msix::Msi;
use msix::Msix;
pub(crate) use net::Net;
pub(crate) use rng::Rng;
use transport::{Request, Transport};

/// What one kind of device adds to the transport.
pub(crate) trait Device: Serialize + DeserializeOwned {
    /// Its PCI identity.
    const IDENTITY: Identity;
    /// Its number of MSI-X vectors.
    const VECTORS: u16;

    /// A transport in reset, with the device's queues and features.
    fn transport() -> Transport;
    /// The device configuration, as its driver reads it.
    fn config(&self) -> Vec<u8>;
    /// Works on a live queue. Whether chains were used.
    fn visit<M: Memory>(
        &mut self,
        index: u16,
        queue: &mut Queue,
        mem: &M,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, RingError>;
    /// The driver has reset the device.
    fn reset(&mut self);
    /// Checks a decoded value against a fresh device of the same configuration.
    fn validate(&self, fresh: &Self) -> Result<(), Invalid>;
}

/// What a device sends out of an access: effects for the world, messages for the local APIC.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) effects: Vec<Effect>,
    pub(crate) msis: Vec<Msi>,
}

/// Layout of BAR 0.
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const CONFIG: u64 = 0x1800;
const NOTIFY: u64 = 0x2000;
const TABLE: u64 = 0x3000;
const PENDING: u64 = 0x3800;
const END: u64 = BAR_SIZE as u64;
/// Bytes between the notification addresses of two queues.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Where capabilities are in configuration space.
const CAP_POINTER: usize = 0x34;
const CAP_COMMON: usize = 0x40;
const CAP_ISR: usize = 0x50;
const CAP_CONFIG: usize = 0x60;
const CAP_NOTIFY: usize = 0x70;
const CAP_WINDOW: usize = 0x84;
const CAP_MSIX: usize = 0x98;
/// The window's own registers: BAR, offset, length, data.
const WINDOW_BAR: usize = CAP_WINDOW + 4;
const WINDOW_OFFSET: usize = CAP_WINDOW + 8;
const WINDOW_LENGTH: usize = CAP_WINDOW + 12;
const WINDOW_DATA: usize = CAP_WINDOW + 16;
const MSIX_CONTROL: usize = CAP_MSIX + 2;
const MSIX_CONTROL_HIGH: usize = CAP_MSIX + 3;

/// The PCI configuration access capability (section 4.1.4.9): a window into the BAR for those who cannot
/// reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    bar: u8,
    offset: u32,
    length: u32,
}

impl Window {
    /// The offset into BAR 0 of an access of `len` bytes to the data register, if the window covers it.
    fn target(&self, offset: usize, len: usize) -> Option<u64> {
        let aligned = self.offset.is_multiple_of(self.length.max(1));
        let matches = self.bar == 0 && offset == WINDOW_DATA && self.length as usize == len;
        let inside = u64::from(self.offset) + len as u64 <= END;
        (aligned && matches && inside).then_some(u64::from(self.offset))
    }

    fn write(&mut self, offset: usize, value: u8) {
        match offset {
            WINDOW_BAR => self.bar = value,
            WINDOW_OFFSET..WINDOW_LENGTH => self.offset = replace(self.offset, offset - WINDOW_OFFSET, value),
            WINDOW_LENGTH..WINDOW_DATA => self.length = replace(self.length, offset - WINDOW_LENGTH, value),
            _ => {}
        }
    }
}

fn replace(old: u32, index: usize, value: u8) -> u32 {
    let mut bytes = old.to_le_bytes();
    bytes[index] = value;
    u32::from_le_bytes(bytes)
}

/// A virtio device as a PCI function.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "D: Device")]
pub(crate) struct VirtioPci<D> {
    header: ConfigHeader,
    window: Window,
    msix: Msix,
    transport: Transport,
    device: D,
    /// How often a driver's ring was found broken.
    broken_rings: u64,
}

impl<D: Device> VirtioPci<D> {
    /// The function at `slot`, as firmware leaves it.
    pub(crate) fn new(slot: u8, device: D) -> Self {
        VirtioPci {
            header: ConfigHeader::new(slot),
            window: Window::default(),
            msix: Msix::new(D::VECTORS),
            transport: D::transport(),
            device,
            broken_rings: 0,
        }
    }

    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    pub(crate) fn broken_rings(&self) -> u64 {
        self.broken_rings
    }

    /// The offset into BAR 0 that a memory access means, if it means this function.
    pub(crate) fn decode(&self, addr: u64, len: usize) -> Option<u64> {
        self.header.decode(addr, len)
    }

    /// Whether an interrupt waits that MSI-X does not carry.
    fn intx_waits(&self) -> bool {
        self.transport.has_interrupt() && !self.msix.enabled()
    }

    /// Whether the function asserts its interrupt pin (PCI 3.0 section 6.2.2, virtio 1.2 section 4.1.4.5).
    pub(crate) fn intx(&self) -> bool {
        self.intx_waits() && self.header.intx_enabled()
    }

    fn config_image(&self) -> [u8; 256] {
        // Revision 1: a device without the legacy interface (section 4.1.2.1).
        let mut image = D::IDENTITY.image(1);
        self.header.draw(&mut image, self.intx_waits());
        put(&mut image, CAP_POINTER, &[CAP_COMMON as u8]);
        capability(&mut image, CAP_COMMON, CAP_ISR, 16, 1, COMMON, 0x40);
        capability(&mut image, CAP_ISR, CAP_CONFIG, 16, 3, ISR, 1);
        capability(&mut image, CAP_CONFIG, CAP_NOTIFY, 16, 4, CONFIG, 0x100);
        capability(&mut image, CAP_NOTIFY, CAP_WINDOW, 20, 2, NOTIFY, 0x1000);
        put(&mut image, CAP_NOTIFY + 16, &NOTIFY_MULTIPLIER.to_le_bytes());
        capability(
            &mut image,
            CAP_WINDOW,
            CAP_MSIX,
            20,
            5,
            u64::from(self.window.offset),
            self.window.length,
        );
        put(&mut image, WINDOW_BAR, &[self.window.bar]);
        put(&mut image, CAP_MSIX, &[0x11, 0]);
        put(&mut image, MSIX_CONTROL, &self.msix.control().to_le_bytes());
        put(&mut image, CAP_MSIX + 4, &(TABLE as u32).to_le_bytes());
        put(&mut image, CAP_MSIX + 8, &(PENDING as u32).to_le_bytes());
        image
    }

    /// Reads configuration space.
    pub(crate) fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        if let Some(at) = self.window.target(offset, data.len()) {
            return self.bar_read(at, data);
        }
        let image = self.config_image();
        for (byte, value) in data.iter_mut().zip(image.iter().skip(offset)) {
            *byte = *value;
        }
    }

    /// Writes configuration space.
    pub(crate) fn config_write<M: Memory>(&mut self, offset: usize, data: &[u8], mem: &M, out: &mut Output) {
        if let Some(at) = self.window.target(offset, data.len()) {
            return self.bar_write(at, data, mem, out);
        }
        for (at, value) in (offset..).zip(data) {
            match at {
                CAP_WINDOW..CAP_MSIX => self.window.write(at, *value),
                MSIX_CONTROL..=MSIX_CONTROL_HIGH => {
                    self.msix.write_control(at - MSIX_CONTROL, *value, &mut out.msis);
                }
                _ => self.header.write(at, *value),
            }
        }
    }

    /// Reads BAR 0.
    pub(crate) fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..ISR => self.transport.read(offset - COMMON, data),
            ISR => {
                if let Some(first) = data.first_mut() {
                    *first = self.transport.take_isr();
                }
            }
            CONFIG..NOTIFY => {
                let config = self.device.config();
                for (at, byte) in (offset - CONFIG..).zip(data) {
                    *byte = config.get(at as usize).copied().unwrap_or(0);
                }
            }
            TABLE..PENDING => self.msix.read_table(offset - TABLE, data),
            PENDING..END => self.msix.read_pending(offset - PENDING, data),
            _ => {}
        }
    }

    /// Writes BAR 0.
    pub(crate) fn bar_write<M: Memory>(&mut self, offset: u64, data: &[u8], mem: &M, out: &mut Output) {
        match offset {
            COMMON..ISR => match self.transport.write(offset - COMMON, data, &mut self.msix) {
                Request::Reset => self.device.reset(),
                Request::Nothing => {}
            },
            NOTIFY..TABLE => {
                let multiplier = u64::from(NOTIFY_MULTIPLIER);
                let queue = (offset - NOTIFY) / multiplier;
                if (offset - NOTIFY).is_multiple_of(multiplier) {
                    self.visit(queue as u16, mem, out);
                }
            }
            TABLE..PENDING => self.msix.write_table(offset - TABLE, data, &mut out.msis),
            _ => {}
        }
    }

    fn visit<M: Memory>(&mut self, index: u16, mem: &M, out: &mut Output) {
        if let Some(queue) = self.transport.live_queue(index) {
            let result = self.device.visit(index, queue, mem, &mut out.effects);
            self.conclude(index, result, mem, out);
        }
    }

    /// The end of work on a queue: an interrupt, or a demand for reset.
    fn conclude<M: Memory>(
        &mut self,
        index: u16,
        result: Result<bool, RingError>,
        mem: &M,
        out: &mut Output,
    ) {
        match result {
            Ok(true) => self.transport.interrupt_queue(index, mem, &mut self.msix, &mut out.msis),
            Ok(false) => {}
            Err(_) => {
                self.broken_rings += 1;
                self.transport.demand_reset(&mut self.msix, &mut out.msis);
            }
        }
    }

    /// Checks a decoded value against a fresh function of the same configuration.
    pub(crate) fn validate(&self, fresh: &Self) -> Result<(), Invalid> {
        if self.broken_rings > COUNT_MAX {
            return Err(Invalid("a count of broken rings is too large"));
        }
        self.header.validate()?;
        self.msix.validate(D::VECTORS)?;
        self.transport.validate(&fresh.transport, &self.msix)?;
        self.device.validate(&fresh.device)
    }
}

impl VirtioPci<Net> {
    /// A frame arrives for the guest.
    pub(crate) fn receive<M: Memory>(&mut self, frame: &[u8], mem: &M, out: &mut Output) {
        if self.device.arrive(frame, self.transport.is_up()) {
            self.visit(net::RX, mem, out);
        }
    }
}

impl VirtioPci<Blk> {
    /// The world has done a request.
    pub(crate) fn done<M: Memory>(
        &mut self,
        id: u64,
        ok: bool,
        data: &[u8],
        mem: &M,
        out: &mut Output,
    ) -> Result<(), PlaceError> {
        if !self.device.check_done(id, ok, data)? {
            return Ok(());
        }
        let Some(queue) = self.transport.live_queue(blk::QUEUE) else {
            self.device.abandon(id);
            return Ok(());
        };
        let result = self.device.done(id, ok, data, queue, mem);
        self.conclude(blk::QUEUE, result, mem, out);
        Ok(())
    }
}

impl VirtioPci<Rng> {
    /// The world gives random bytes.
    pub(crate) fn answer<M: Memory>(
        &mut self,
        bytes: &[u8],
        mem: &M,
        out: &mut Output,
    ) -> Result<(), PlaceError> {
        if !self.device.check(bytes)? {
            return Ok(());
        }
        let Some(queue) = self.transport.live_queue(rng::QUEUE) else {
            self.device.abandon();
            return Ok(());
        };
        let result = self.device.answer(bytes, queue, mem);
        self.conclude(rng::QUEUE, result, mem, out);
        Ok(())
    }
}

/// Draws a virtio capability (section 4.1.4): `len` bytes at `at`, of type `kind`, for a structure in BAR 0.
fn capability(image: &mut [u8; 256], at: usize, next: usize, len: u8, kind: u8, offset: u64, length: u32) {
    put(image, at, &[0x09, next as u8, len, kind, 0, 0, 0, 0]);
    put(image, at + 8, &(offset as u32).to_le_bytes());
    put(image, at + 12, &length.to_le_bytes());
}
