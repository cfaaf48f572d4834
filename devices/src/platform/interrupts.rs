//! How interrupts get from the devices to the processor.

use super::Platform;

impl Platform {
    /// What an access or a stimulus has caused among the interrupt controllers.
    pub(super) fn settle(&mut self) {
        for message in self.out.msis.drain(..) {
            self.lapic.msi(message.addr, message.data);
        }
        self.ioapic.update(0, &mut self.lapic);
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
