//! How interrupts get from the devices to the processor.
//!
//! | source | 8259A input | I/O APIC pin |
//! |---|---|---|
//! | 8259A pair's output, for ExtINT | | 0 |
//! | 8254 counter 0, a pulse for each rise | 0 | 2 |
//! | ISA interrupts 1 and 12: keyboard controller | 1, 12 | 1, 12 |
//! | ISA interrupt 4: 16550A at 0x3F8 | 4 | 4 |
//! | ISA interrupt 8: real-time clock | 8 | 8 |
//! | ISA interrupt 9: SCI (ACPI), level | 9 | 9, high while asserted |
//! | INTA of PCI slot s, level | 10 or 11, as the Interrupt Line register says | 16 + s modulo 4, low while asserted |
//!
//! The 8259A pair's output reaches the processor by LINT0 of the local APIC, or by pin 0 of the I/O APIC. What
//! the local APIC itself has goes first.

use super::Platform;
use crate::{Memory, ioapic};

/// The interval timer's ISA interrupt, and its pin at the I/O APIC.
const TIMER: u8 = 0;
const TIMER_PIN: u32 = 2;
/// The keyboard controller's ISA interrupts.
const KEYBOARD: u32 = 1;
const MOUSE: u32 = 12;
/// The serial port's ISA interrupt.
const SERIAL: u32 = 4;
/// The real-time clock's ISA interrupt.
const CLOCK: u32 = 8;
/// The ISA interrupt of the ACPI fixed hardware.
const SCI: u32 = 9;

impl Platform {
    /// What an access or a stimulus has caused among the interrupt controllers.
    pub(super) fn settle(&mut self) {
        for message in self.out.msis.drain(..) {
            self.lapic.msi(message.addr, message.data);
        }
        let chips = [
            (self.keyboard.keyboard_irq(), KEYBOARD),
            (self.uart.irq(), SERIAL),
            (self.rtc.irq(), CLOCK),
            (self.pm.interrupt(), SCI),
            (self.keyboard.aux_irq(), MOUSE),
        ];
        let isa = chips.iter().fold(0, |lines, (asserted, irq)| lines | (u16::from(*asserted) << irq));
        let pci = self.functions.intx();
        for irq in 0..16 {
            self.pic.set_line(irq, (isa | pci.isa) >> irq & 1 != 0);
        }
        if self.pit.take_rise() {
            self.pulse_timer();
        }
        let pic = u32::from(self.pic.output()) << ioapic::PIC_PIN;
        let pins = u32::from(isa) | pic | (pci.pins << ioapic::PCI_PIN);
        self.ioapic.update(pins, &mut self.lapic);
    }

    /// Counter 0's output has risen, and may be low again: both controllers see an edge.
    fn pulse_timer(&mut self) {
        self.pic.set_line(TIMER, true);
        self.pic.set_line(TIMER, false);
        let others = self.ioapic.asserted();
        self.ioapic.update(others | (1 << TIMER_PIN), &mut self.lapic);
        self.ioapic.update(others, &mut self.lapic);
    }

    /// Whether the 8259A pair asks the processor for its attention, and is heard.
    fn external_waits(&self) -> bool {
        self.pic.output() && (self.lapic.takes_external() || self.ioapic.passes_external())
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
        // Asking the 8259A pair for its vector is an acknowledgement: here a copy is asked.
        self.lapic.pending().or_else(|| self.external_waits().then(|| self.pic.clone().acknowledge()))
    }

    /// The processor takes the pending interrupt: it is in service until the guest ends it.
    pub fn accept_interrupt(&mut self) -> Option<u8> {
        let vector = match self.lapic.accept() {
            Some(vector) => vector,
            None if self.external_waits() => self.pic.acknowledge(),
            None => return None,
        };
        self.settle();
        Some(vector)
    }
}
