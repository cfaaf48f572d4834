//! How interrupts get from the devices to the processor.
//!
//! | source | I/O APIC pin |
//! |---|---|
//! | ISA interrupt n | n |
//! | SCI (ACPI), level, high while asserted | 9 |
//! | INTA of PCI slot s, level, low while asserted | 16 + s modulo 4 |

use super::Platform;
use crate::ioapic;

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

    /// The interrupt vector that the processor would take now, if its interrupt flag allowed.
    pub fn pending_interrupt(&self) -> Option<u8> {
        self.lapic.pending()
    }

    /// The processor takes the pending interrupt: it is in service until the guest writes EOI.
    pub fn accept_interrupt(&mut self) -> Option<u8> {
        self.lapic.accept()
    }
}
