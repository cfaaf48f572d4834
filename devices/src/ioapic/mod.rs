//! The I/O APIC: an 82093AA with 24 pins (datasheet order number 290566), at its usual address.
//!
//! A pin's wire carries a voltage; the entry's polarity bit says which one means "asserted". The wires of PCI
//! interrupts are low while asserted, those of ISA interrupts high. Messages reach the local APIC at once,
//! so the delivery status bit is never seen set. There is no EOI register: this version (0x11) learns of the
//! end of a level interrupt from the local APIC alone.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::lapic::{self, Lapic};
use crate::state::Invalid;

/// Guest-physical address of the registers.
pub(crate) const BASE: u64 = 0xfec0_0000;
/// Size of the register page in bytes.
pub(crate) const SIZE: u64 = 0x1000;
/// Number of pins.
pub(crate) const PINS: usize = 24;
/// Pin on which the 8259A pair's output arrives.
pub(crate) const PIC_PIN: usize = 0;
/// First of the four pins of PCI interrupts.
pub(crate) const PCI_PIN: usize = 16;

/// Pins whose wire is low while the interrupt is asserted: 16 to 23.
const ACTIVE_LOW: u32 = 0x00ff_0000;
const ALL_PINS: u32 = (1 << PINS) - 1;

/// Offsets into the page (section 3.1).
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

/// Register numbers (section 3.2).
mod reg {
    pub(super) const ID: u8 = 0x00;
    pub(super) const VERSION: u8 = 0x01;
    pub(super) const ARBITRATION: u8 = 0x02;
    pub(super) const TABLE: u8 = 0x10;
    pub(super) const TABLE_END: u8 = 0x40;
}

/// Version 0x11, highest entry 23.
const VERSION: u32 = 0x0017_0011;
/// The identifier that firmware gives: the first processor's has 0.
const FIRST_ID: u8 = 1;

/// Bits of a redirection entry (section 3.2.4).
const DELIVERY_MODE: u64 = 0b111 << 8;
const LOGICAL: u64 = 1 << 11;
const LOW_POLARITY: u64 = 1 << 13;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// All but delivery status and remote IRR, which the chip writes.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
const EXT_INT: u64 = 0b111 << 8;

/// The I/O APIC's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ioapic {
    select: u8,
    id: u8,
    table: [u64; PINS],
    /// One bit per pin: the device asserts its interrupt.
    asserted: u32,
}

impl Ioapic {
    /// The state as firmware leaves it: an identifier, and every entry masked.
    pub(crate) fn new() -> Self {
        Ioapic { select: 0, id: FIRST_ID, table: [MASKED; PINS], asserted: 0 }
    }

    /// Reads the register page. What is no register reads as zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let (register, value) = match offset & !0xf {
            SELECT => (SELECT, u32::from(self.select)),
            WINDOW => (WINDOW, self.read_register()),
            _ => (offset, 0),
        };
        let bytes = value.to_le_bytes();
        for (at, byte) in ((offset - register) as usize..).zip(data) {
            *byte = bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes a register: the select register by its low byte, the window by 32 bits; others have no effect.
    /// What an unmasked entry has waiting is sent by the next [`update`](Self::update).
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, [low, ..]) => self.select = *low,
            (WINDOW, [a, b, c, d]) => self.write_register(u32::from_le_bytes([*a, *b, *c, *d])),
            _ => {}
        }
    }

    fn read_register(&self) -> u32 {
        match self.select {
            reg::ID | reg::ARBITRATION => u32::from(self.id) << 24,
            reg::VERSION => VERSION,
            reg::TABLE..reg::TABLE_END => {
                let (pin, shift) = self.selected();
                (self.table[pin] >> shift) as u32
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) {
        match self.select {
            reg::ID => self.id = (value >> 24) as u8 & 0xf,
            reg::TABLE..reg::TABLE_END => {
                let (pin, shift) = self.selected();
                let half = 0xffff_ffff << shift;
                let entry = &mut self.table[pin];
                *entry = (*entry & (!half | !WRITABLE)) | ((u64::from(value) << shift) & WRITABLE);
                // Remote IRR has a meaning for level interrupts only. Linux relies on this to end one here.
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                }
            }
            _ => {}
        }
    }

    /// Pin and shift of the half of a redirection entry that the select register names.
    fn selected(&self) -> (usize, u32) {
        let index = self.select - reg::TABLE;
        (usize::from(index / 2), u32::from(index % 2) * 32)
    }

    /// The pins whose devices assert them, as of the last [`update`](Self::update).
    pub(crate) fn asserted(&self) -> u32 {
        self.asserted
    }

    /// Whether the wire has the voltage that the entry calls asserted.
    fn is_active(&self, pin: usize) -> bool {
        let high = ((self.asserted ^ ACTIVE_LOW) >> pin) & 1 != 0;
        high != (self.table[pin] & LOW_POLARITY != 0)
    }

    /// The devices now assert these pins. Sends what follows from that, and what an earlier write to the table
    /// or the end of an interrupt has set free.
    ///
    /// An edge on a masked pin is lost. A level that the local APIC does not accept is tried again next time.
    pub(crate) fn update(&mut self, asserted: u32, lapic: &mut Lapic) {
        let changed = self.asserted ^ asserted;
        self.asserted = asserted;
        for pin in 0..PINS {
            let entry = self.table[pin];
            let wanted = match entry & (MASKED | LEVEL | REMOTE_IRR) {
                0 => (changed >> pin) & 1 != 0,
                LEVEL => true,
                _ => false,
            };
            if wanted && self.is_active(pin) && send(entry, lapic) && entry & LEVEL != 0 {
                self.table[pin] |= REMOTE_IRR;
            }
        }
    }

    /// The local APIC announces the end of the interrupt with this vector (section 3.2.4, remote IRR). A pin
    /// that is still asserted is sent again by the next [`update`](Self::update).
    pub(crate) fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.table {
            if *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
            }
        }
    }

    /// Whether pin 0 passes the 8259A pair's interrupt on: the processor then asks that pair for the vector.
    pub(crate) fn passes_external(&self) -> bool {
        self.table[PIC_PIN] & (MASKED | DELIVERY_MODE) == EXT_INT && self.is_active(PIC_PIN)
    }

    /// Checks a decoded value.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        let entry_ok = |entry: &u64| {
            entry & !(WRITABLE | REMOTE_IRR) == 0 && (entry & REMOTE_IRR == 0 || entry & LEVEL != 0)
        };
        if self.id <= 0xf && self.asserted & !ALL_PINS == 0 && self.table.iter().all(entry_ok) {
            Ok(())
        } else {
            Err(Invalid("an I/O APIC register holds an impossible value"))
        }
    }
}

/// Sends an entry's message. Whether the local APIC accepted it.
fn send(entry: u64, lapic: &mut Lapic) -> bool {
    let destination = entry >> 56;
    let logical = u64::from(entry & LOGICAL != 0);
    let level = if entry & LEVEL == 0 { 0 } else { 0b11 << 14 };
    let data = (entry & (DELIVERY_MODE | 0xff)) as u32 | level;
    lapic.msi(lapic::BASE | (destination << 12) | (logical << 2), data)
}
