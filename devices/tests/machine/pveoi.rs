//! The end of interrupts in the guest's memory.

use crate::driver::{APIC, MEMORY_BYTES, Machine, Memory};

const MSR: u32 = 0x4b56_4d04;
const WORD: u64 = 0x3000;
/// In-service register of vectors 0x40 to 0x5f.
const ISR: u64 = APIC + 0x120;

fn up() -> Machine {
    let mut machine = Machine::new();
    machine.enable_apic();
    machine.platform.msr_write(MSR, WORD | 1, &machine.mem).unwrap();
    machine
}

impl Machine {
    /// Vector 0x41 by an interrupt command to this processor, taken.
    fn serve(&mut self) {
        self.send(0x41);
        assert_eq!(self.platform.accept_interrupt(), Some(0x41));
    }

    fn send(&mut self, vector: u32) {
        self.write(APIC + 0x300, &(0x0004_0000 | vector).to_le_bytes());
    }

    fn enter(&mut self) -> u8 {
        self.platform.before_entry(&self.mem);
        self.bytes(WORD, 1)[0]
    }

    fn exit(&mut self) {
        self.platform.after_exit(&self.mem);
    }
}

#[test]
fn the_guest_ends_an_interrupt_by_clearing_the_bit() {
    let mut machine = up();
    assert_eq!(machine.enter(), 0, "nothing is in service");
    machine.exit();
    machine.serve();
    assert_eq!(machine.enter(), 1);
    machine.poke(WORD, &[0]);
    machine.exit();
    assert_eq!(machine.read32(ISR), 0);
    assert_eq!(machine.enter(), 0);
}

#[test]
fn an_unused_offer_is_taken_back() {
    let mut machine = up();
    machine.serve();
    machine.poke(WORD, &[0x80]);
    assert_eq!(machine.enter(), 1);
    machine.poke(WORD, &[0x81]);
    machine.exit();
    assert_eq!(machine.bytes(WORD, 1), [0x80], "other bits are the guest's");
    assert_eq!(machine.read32(ISR), 2);
    machine.exit();
    assert_eq!(machine.read32(ISR), 2, "an exit without an offer ends nothing");
    machine.write(APIC + 0xb0, &[0; 4]);
    assert_eq!(machine.read32(ISR), 0);
}

#[test]
fn no_offer_while_another_interrupt_waits() {
    let mut machine = up();
    machine.serve();
    machine.send(0x42);
    assert_eq!(machine.enter(), 0, "its end would let 0x42 in");
}

#[test]
fn no_offer_for_a_level_interrupt() {
    let mut machine = up();
    machine.ioapic_write(0x10 + 9 * 2, (1 << 15) | (1 << 13) | 0x41);
    assert_eq!(machine.platform.accept_interrupt(), Some(0x41), "an idle wire that is called low");
    assert_eq!(machine.enter(), 0, "the I/O APIC must hear of its end");
}

#[test]
fn no_offer_when_disabled_or_outside_of_memory() {
    for value in [WORD, MEMORY_BYTES as u64 | 1, !3 | 1] {
        let mut machine = up();
        machine.platform.msr_write(MSR, value, &machine.mem).unwrap();
        machine.serve();
        assert_eq!(machine.enter(), 0);
        machine.exit();
        assert_eq!(machine.read32(ISR), 2);
    }
}

#[test]
fn the_register() {
    let mut machine = up();
    assert_eq!(machine.platform.msr_read(MSR), Some(WORD | 1));
    assert_eq!(machine.platform.msr_write(MSR, WORD | 2, &machine.mem), None, "not a multiple of 4");
    assert_eq!(machine.platform.msr_read(MSR), Some(WORD | 1));
}

#[test]
fn an_offer_is_part_of_the_saved_state_and_its_writes_are_seen() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let dirty = |mem: &Memory| mem.iter().next().unwrap().bitmap().dirty_at(WORD as usize);
    let mut machine = up();
    machine.serve();
    assert!(!dirty(&machine.mem));
    assert_eq!(machine.enter(), 1);
    assert!(dirty(&machine.mem));
    let mut twin = machine.twin();
    twin.poke(WORD, &[0]);
    twin.exit();
    assert_eq!(twin.read32(ISR), 0);
}
