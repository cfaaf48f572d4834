//! The two cascaded 8259A interrupt controllers with the edge/level registers of the PIIX and its successors
//! (Intel 8259A data sheet, order number 231468; 82371SB (PIIX3) data sheet, "Interrupt Controller").
//!
//! Inputs 0 to 7 are the master's, 8 to 15 the slave's, whose output is wired to the master's input 2. This
//! wiring is fixed, so ICW3 is taken and changes nothing. Both are in 8086 mode whatever ICW4 says of it.
//!
//! Two deliberate differences from the data sheet:
//! - A request on an edge-triggered input stays until it is acknowledged, even if the input falls before; the
//!   chip would forget it and give the default vector 7. Virtual time goes on in steps, and a timer's pulse
//!   that began and ended within one step must not be lost. KVM and QEMU do the same.
//! - The processor's two acknowledge cycles are one step, in which no request goes away. So the default vector
//!   7 comes only when the processor acknowledges although nothing is requested. The slave's, known as IRQ15,
//!   needs a request that goes away between the two cycles, and is never seen.

mod chip;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::state::Invalid;
use chip::Chip;

pub(crate) const MASTER_COMMAND: u16 = 0x20;
pub(crate) const MASTER_DATA: u16 = 0x21;
pub(crate) const SLAVE_COMMAND: u16 = 0xa0;
pub(crate) const SLAVE_DATA: u16 = 0xa1;
/// ELCR1 and ELCR2: a set bit makes the input level-triggered.
pub(crate) const MASTER_ELCR: u16 = 0x4d0;
pub(crate) const SLAVE_ELCR: u16 = 0x4d1;

/// The master's input from the slave.
const CASCADE: u8 = 2;
/// Inputs that can be made level-triggered: not the timer, the keyboard, the cascade, the clock and the
/// coprocessor (PIIX3 data sheet, "ELCR1" and "ELCR2").
const MASTER_ELCR_MASK: u8 = 0xf8;
const SLAVE_ELCR_MASK: u8 = 0xde;

/// Both controllers. Invariant: the master's input 2 is requested exactly while the slave asks for service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pic {
    master: Chip,
    slave: Chip,
}

impl Pic {
    /// Both controllers before initialisation, with every input masked. (The data sheet leaves that state
    /// open.)
    pub(crate) fn new() -> Self {
        Pic { master: Chip::new(), slave: Chip::new() }
    }

    /// IN of a byte.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            MASTER_COMMAND => self.master.read_command(1 << CASCADE),
            MASTER_DATA => self.master.read_data(1 << CASCADE),
            SLAVE_COMMAND => self.slave.read_command(0),
            SLAVE_DATA => self.slave.read_data(0),
            MASTER_ELCR => self.master.level_triggered(),
            SLAVE_ELCR => self.slave.level_triggered(),
            _ => 0xff,
        };
        // A read can be a poll, which acknowledges.
        self.cascade();
        value
    }

    /// OUT of a byte.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        match port {
            MASTER_COMMAND => self.master.write_command(value),
            MASTER_DATA => self.master.write_data(value),
            SLAVE_COMMAND => self.slave.write_command(value),
            SLAVE_DATA => self.slave.write_data(value),
            MASTER_ELCR => self.master.set_level_triggered(value & MASTER_ELCR_MASK),
            SLAVE_ELCR => self.slave.set_level_triggered(value & SLAVE_ELCR_MASK),
            _ => {}
        }
        self.cascade();
    }

    /// Input `irq` (0 to 15) now has this level. Input 2 is the slave's, and numbers above 15 do not exist:
    /// both are ignored.
    pub(crate) fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(irq, level),
            8..16 => self.slave.set_line(irq - 8, level),
            _ => {}
        }
        self.cascade();
    }

    /// The INTR line: whether the processor is asked to acknowledge.
    pub(crate) fn output(&self) -> bool {
        self.master.pending(1 << CASCADE).is_some()
    }

    /// The processor acknowledges: the vector of the request with the highest priority, which is in service
    /// from now on. The master's default vector if there is none.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let (irq, vector) = self.master.acknowledge(1 << CASCADE);
        let vector = if irq == Some(CASCADE) { self.slave.acknowledge(0).1 } else { vector };
        self.cascade();
        vector
    }

    /// The wire from the slave's output to the master's input.
    fn cascade(&mut self) {
        self.master.follow(CASCADE, self.slave.pending(0).is_some());
    }

    /// Checks what decoding cannot: that this is a state which the pins and registers can reach.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        // The chips come first: the slave's output is only defined for a valid one.
        if self.master.is_valid(MASTER_ELCR_MASK)
            && self.slave.is_valid(SLAVE_ELCR_MASK)
            && self.master.follows(CASCADE, self.slave.pending(0).is_some())
        {
            Ok(())
        } else {
            Err(Invalid("an interrupt controller (8259A) holds an impossible value"))
        }
    }
}
