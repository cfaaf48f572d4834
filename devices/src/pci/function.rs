//! The type 0 configuration header (PCI 3.0 section 6.1) with one 32-bit memory BAR.

use serde::{Deserialize, Serialize};

use crate::state::Invalid;

/// Size of BAR 0 in bytes, and its alignment.
pub(crate) const BAR_SIZE: u32 = 0x4000;

/// Where BAR 0 of a slot is before the guest moves it.
pub(crate) fn bar_address(slot: u8) -> u32 {
    0xfeb0_0000 + u32::from(slot) * BAR_SIZE
}

/// The read-only identity of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    /// Base class in the high byte, subclass in the low one.
    pub(crate) class: u16,
    /// Subsystem device; the subsystem vendor is the vendor.
    pub(crate) subsystem: u16,
}

impl Identity {
    /// The 256 bytes of configuration space, with no capability and no BAR.
    pub(crate) fn image(&self, revision: u8) -> [u8; 256] {
        let mut image = [0; 256];
        put(&mut image, 0x00, &self.vendor.to_le_bytes());
        put(&mut image, 0x02, &self.device.to_le_bytes());
        put(&mut image, 0x08, &[revision]);
        put(&mut image, 0x0a, &self.class.to_le_bytes());
        if self.subsystem != 0 {
            put(&mut image, 0x2c, &self.vendor.to_le_bytes());
            put(&mut image, 0x2e, &self.subsystem.to_le_bytes());
        }
        image
    }
}

/// Writes bytes into an image; what lies beyond its end is dropped.
pub(crate) fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    for (target, byte) in image.iter_mut().skip(offset).zip(bytes) {
        *target = *byte;
    }
}

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CACHE_LINE: usize = 0x0c;
const BAR0: usize = 0x10;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// Every function uses INTA.
const INTA: u8 = 1;

/// The ISA interrupt of a slot's INTA, which the Interrupt Line register names: 10 or 11, shared as firmware
/// for the 440FX shares them (by the pin that the slot's INTA is rotated to).
pub(crate) fn isa_line(slot: u8) -> u8 {
    [10, 10, 11, 11][usize::from(slot.wrapping_sub(1) % 4)]
}

/// Status bits: there is a list of capabilities; an INTx interrupt waits.
const CAPABILITIES: u16 = 1 << 4;
const INTERRUPT_STATUS: u16 = 1 << 3;

const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;
const COMMAND_WRITABLE: u16 = MEMORY_SPACE | BUS_MASTER | INTX_DISABLE;

/// The writable part of a function's header.
///
/// Bus mastering is a bit to read back: clearing it does not stop the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfigHeader {
    command: u16,
    cache_line: u8,
    bar0: u32,
    interrupt_line: u8,
}

impl ConfigHeader {
    /// As firmware leaves it: BAR and interrupt line assigned, memory space and bus mastering on.
    pub(crate) fn new(slot: u8) -> Self {
        ConfigHeader {
            command: MEMORY_SPACE | BUS_MASTER,
            cache_line: 0,
            bar0: bar_address(slot),
            interrupt_line: isa_line(slot),
        }
    }

    /// Whether the driver lets the function use its interrupt pin.
    pub(crate) fn intx_enabled(&self) -> bool {
        self.command & INTX_DISABLE == 0
    }

    /// Fills in the header's registers; `interrupt` says whether an INTx interrupt waits.
    pub(crate) fn draw(&self, image: &mut [u8; 256], interrupt: bool) {
        let status = if interrupt { CAPABILITIES | INTERRUPT_STATUS } else { CAPABILITIES };
        put(image, STATUS, &status.to_le_bytes());
        put(image, INTERRUPT_PIN, &[INTA]);
        put(image, COMMAND, &self.command.to_le_bytes());
        put(image, CACHE_LINE, &[self.cache_line]);
        put(image, BAR0, &self.bar0.to_le_bytes());
        put(image, INTERRUPT_LINE, &[self.interrupt_line]);
    }

    /// One byte is written. A BAR keeps its low bits zero, so that writing all ones reads back the size.
    pub(crate) fn write(&mut self, offset: usize, value: u8) {
        match offset {
            COMMAND..0x06 => {
                self.command = replace_u16(self.command, offset - COMMAND, value) & COMMAND_WRITABLE;
            }
            CACHE_LINE => self.cache_line = value,
            BAR0..0x14 => {
                let mut bytes = self.bar0.to_le_bytes();
                bytes[offset - BAR0] = value;
                self.bar0 = u32::from_le_bytes(bytes) & !(BAR_SIZE - 1);
            }
            INTERRUPT_LINE => self.interrupt_line = value,
            _ => {}
        }
    }

    /// The offset into BAR 0 of an access of `len` bytes at `addr`, if the function decodes it.
    pub(crate) fn decode(&self, addr: u64, len: usize) -> Option<u64> {
        let offset = addr.checked_sub(u64::from(self.bar0))?;
        let inside = offset.checked_add(len as u64)? <= u64::from(BAR_SIZE);
        (inside && self.command & MEMORY_SPACE != 0).then_some(offset)
    }

    /// Checks a decoded value.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        if self.command & !COMMAND_WRITABLE == 0 && self.bar0 & (BAR_SIZE - 1) == 0 {
            Ok(())
        } else {
            Err(Invalid("a PCI configuration header holds an impossible value"))
        }
    }
}

fn replace_u16(old: u16, index: usize, value: u8) -> u16 {
    let mut bytes = old.to_le_bytes();
    bytes[index] = value;
    u16::from_le_bytes(bytes)
}
