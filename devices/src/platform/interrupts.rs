//! How interrupts get from the devices to the processor.
//!
//! | source | I/O APIC pin |
//! |---|---|
//! | ISA interrupt n | n |
//! | SCI (ACPI), level, high while asserted | 9 |
//! | INTA of PCI slot s, level, low while asserted | 16 + s modulo 4 |

use super::Platform;
use crate::{Memory, ioapic};

/// The ISA interrupt of the ACPI fixed hardware.
const SCI: u32 = 9;

impl Platform {
    /// What an access or a stimulus has caused among the interrupt controllers.
    pub(super) fn settle(&mut self) {
        for message in self.out.msis.drain(..) {
            self.lapic.msi(message.addr, message.data);
        }
        let isa = u32::from(self.pm.interrupt()) << SCI;
        let pci = self.functions.intx();
        self.ioapic.update(isa | (pci.pins << ioapic::PCI_PIN), &mut self.lapic);
    }

    /// The guest writes the local APIC's page.
    pub(super) fn lapic_write(&mut self, offset: u64, data: &[u8]) {
        if let Some(vector) = self.lapic.write(offset, data, self.now) {
            self.ioapic.end_of_interrupt(vector);
        }
    }

    /// To be called before each entry into the guest, after [`accept_interrupt`](Self::accept_interrupt): offers
    /// the guest to end the interrupt in service by a write to its own memory.
    pub fn before_entry<M: Memory>(&mut self, mem: &M) {
        if self.lapic.ends_silently() {
            self.pv_eoi.offer(mem);
        }
    }

    /// To be called after each exit of the guest, before anything else is done with devices or memory: takes
    /// that offer back, and ends the interrupt if the guest has used it.
    pub fn after_exit<M: Memory>(&mut self, mem: &M) {
        if self.pv_eoi.take_back(mem) {
            self.end_interrupt();
        }
    }

    fn end_interrupt(&mut self) {
        if let Some(vector) = self.lapic.end_of_interrupt() {
            self.ioapic.end_of_interrupt(vector);
            self.settle();
        }
    }

    /// The interrupt vector that the processor would take now, if its interrupt flag allowed.
    pub fn pending_interrupt(&self) -> Option<u8> {
        self.lapic.pending()
    }

    /// The processor takes the pending interrupt: it is in service until the guest writes EOI.
    pub fn accept_interrupt(&mut self) -> Option<u8> {
        self.lapic.accept()
    }
}
