//! Register-level tests of the I/O APIC.

use super::*;

const EDGE: u64 = 0;
const PCI: u64 = LEVEL | LOW_POLARITY;

fn write(chip: &mut Ioapic, register: u8, value: u32) {
    chip.write(SELECT, &[register]);
    chip.write(WINDOW, &value.to_le_bytes());
}

fn read(chip: &mut Ioapic, register: u8) -> u32 {
    chip.write(SELECT, &u32::from(register).to_le_bytes());
    let mut data = [0; 4];
    chip.read(WINDOW, &mut data);
    u32::from_le_bytes(data)
}

fn set(chip: &mut Ioapic, pin: u8, entry: u64) {
    write(chip, reg::TABLE + pin * 2 + 1, (entry >> 32) as u32);
    write(chip, reg::TABLE + pin * 2, entry as u32);
}

fn pair() -> (Ioapic, Lapic) {
    let mut lapic = Lapic::new();
    lapic.write(0xf0, &0x1ffu32.to_le_bytes(), 0);
    (Ioapic::new(), lapic)
}

/// Takes the local APIC's interrupt and ends it, as the platform does.
fn serve(chip: &mut Ioapic, lapic: &mut Lapic) -> Option<u8> {
    let vector = lapic.accept();
    if let Some(ended) = lapic.write(0xb0, &[0; 4], 0) {
        chip.end_of_interrupt(ended);
    }
    vector
}

#[test]
fn registers_after_power_up() {
    let mut chip = Ioapic::new();
    assert_eq!(read(&mut chip, reg::ID), 0x0100_0000);
    assert_eq!(read(&mut chip, reg::VERSION), 0x0017_0011);
    assert_eq!(read(&mut chip, reg::ARBITRATION), 0x0100_0000);
    for pin in 0..24 {
        assert_eq!(read(&mut chip, 0x10 + pin * 2), 0x0001_0000);
        assert_eq!(read(&mut chip, 0x11 + pin * 2), 0);
    }
    assert_eq!((read(&mut chip, 0x40), read(&mut chip, 0x0f)), (0, 0));
}

#[test]
fn what_can_be_written() {
    let mut chip = Ioapic::new();
    for register in 0..=u8::MAX {
        write(&mut chip, register, u32::MAX);
    }
    assert_eq!(read(&mut chip, reg::ID), 0x0f00_0000);
    assert_eq!(read(&mut chip, reg::VERSION), VERSION);
    assert_eq!(read(&mut chip, reg::ARBITRATION), 0x0f00_0000, "the identifier's copy");
    assert_eq!(read(&mut chip, 0x3e), 0x0001_afff, "no delivery status, no remote IRR");
    assert_eq!(read(&mut chip, 0x3f), 0xff00_0000);
}

#[test]
fn accesses_of_other_widths() {
    let mut chip = Ioapic::new();
    read(&mut chip, reg::VERSION);
    let mut wide = [0xaa; 8];
    chip.read(WINDOW, &mut wide);
    assert_eq!(wide, [0x11, 0, 0x17, 0, 0, 0, 0, 0]);
    let mut byte = [0];
    chip.read(WINDOW + 2, &mut byte);
    assert_eq!(byte, [0x17]);
    chip.read(SELECT, &mut byte);
    assert_eq!(byte, [reg::VERSION]);
    chip.read(0x20, &mut byte);
    assert_eq!(byte, [0]);
    chip.write(SELECT, &[reg::ID]);
    for (offset, data) in [(WINDOW, &[0xff, 0xff][..]), (WINDOW + 1, &[0xff; 4]), (0x40, &[0xff; 4])] {
        chip.write(offset, data);
    }
    assert_eq!(read(&mut chip, reg::ID), 0x0100_0000, "only whole words reach the window");
}

#[test]
fn an_edge_is_sent_once_and_lost_while_masked() {
    let (mut chip, mut lapic) = pair();
    chip.update(1 << 4, &mut lapic);
    set(&mut chip, 4, EDGE | 0x31);
    chip.update(1 << 4, &mut lapic);
    assert_eq!(lapic.pending(), None, "the edge came while the pin was masked");
    chip.update(0, &mut lapic);
    chip.update(1 << 4, &mut lapic);
    assert_eq!(serve(&mut chip, &mut lapic), Some(0x31));
    chip.update(1 << 4, &mut lapic);
    assert_eq!(lapic.pending(), None, "no second edge");
}

#[test]
fn a_level_is_sent_again_after_its_end_while_it_stays() {
    let (mut chip, mut lapic) = pair();
    set(&mut chip, 17, PCI | 0x41);
    chip.update(0, &mut lapic);
    assert_eq!(lapic.pending(), None, "an idle PCI wire is high");
    chip.update(1 << 17, &mut lapic);
    assert_eq!(read(&mut chip, 0x32), 0x0000_e041, "remote IRR");
    assert_eq!(serve(&mut chip, &mut lapic), Some(0x41));
    assert_eq!(read(&mut chip, 0x32), 0x0000_a041);
    chip.update(1 << 17, &mut lapic);
    assert_eq!(lapic.accept(), Some(0x41));
    chip.update(0, &mut lapic);
    chip.update(1 << 17, &mut lapic);
    assert_eq!(lapic.pending(), None, "the interrupt has not ended");
    chip.update(0, &mut lapic);
    chip.end_of_interrupt(0x42);
    assert_eq!(read(&mut chip, 0x32), 0x0000_e041, "another vector's end");
    chip.end_of_interrupt(0x41);
    chip.update(0, &mut lapic);
    assert_eq!((read(&mut chip, 0x32), lapic.pending()), (0x0000_a041, None));
}

#[test]
fn a_masked_level_waits_for_its_unmasking() {
    let (mut chip, mut lapic) = pair();
    set(&mut chip, 9, LEVEL | MASKED | 0x51);
    chip.update(1 << 9, &mut lapic);
    assert_eq!(lapic.pending(), None);
    set(&mut chip, 9, LEVEL | 0x51);
    chip.update(1 << 9, &mut lapic);
    assert_eq!(lapic.pending(), Some(0x51));
}

#[test]
fn polarity_chooses_the_voltage() {
    let (mut chip, mut lapic) = pair();
    set(&mut chip, 9, LEVEL | LOW_POLARITY | 0x51);
    chip.update(0, &mut lapic);
    assert_eq!(serve(&mut chip, &mut lapic), Some(0x51), "an idle ISA wire is low");
    set(&mut chip, 9, LEVEL | LOW_POLARITY | MASKED | 0x51);
    set(&mut chip, 5, LOW_POLARITY | 0x61);
    chip.update(1 << 5, &mut lapic);
    assert_eq!(lapic.pending(), None, "a rising wire is no edge here");
    chip.update(0, &mut lapic);
    assert_eq!(lapic.pending(), Some(0x61));
}

#[test]
fn turning_an_entry_to_edge_ends_its_interrupt() {
    let (mut chip, mut lapic) = pair();
    set(&mut chip, 16, PCI | 0x41);
    chip.update(1 << 16, &mut lapic);
    set(&mut chip, 16, MASKED | 0x41);
    set(&mut chip, 16, PCI | MASKED | 0x41);
    assert_eq!(read(&mut chip, 0x30), 0x0001_a041);
}

#[test]
fn a_level_is_tried_until_the_local_apic_takes_it() {
    let (mut chip, mut lapic) = (Ioapic::new(), Lapic::new());
    set(&mut chip, 16, PCI | 0x41);
    chip.update(1 << 16, &mut lapic);
    assert_eq!(read(&mut chip, 0x30) & 0x4000, 0, "software-disabled: not accepted");
    lapic.write(0xf0, &0x1ffu32.to_le_bytes(), 0);
    chip.update(1 << 16, &mut lapic);
    assert_eq!(lapic.pending(), Some(0x41));
}

#[test]
fn destinations_and_delivery_modes() {
    for (entry, accepted) in [
        (0x0000_0000_0000_0041, true),
        (0xff00_0000_0000_0041, true),
        (0x0000_0000_0000_0141, true),  // lowest priority
        (0x0100_0000_0000_0841, true),  // logical 1
        (0x0200_0000_0000_0841, false), // logical 2
        (0x0100_0000_0000_0041, false), // physical 1
        (0x0000_0000_0000_0441, false), // NMI
        (0x0000_0000_0000_0241, false), // SMI
        (0x0000_0000_0000_0741, false), // ExtINT names no vector
    ] {
        let (mut chip, mut lapic) = pair();
        lapic.write(0xd0, &0x0100_0000u32.to_le_bytes(), 0);
        set(&mut chip, 4, entry);
        chip.update(1 << 4, &mut lapic);
        assert_eq!(lapic.pending().is_some(), accepted, "{entry:#x}");
    }
}

#[test]
fn pin_0_passes_the_8259a_on() {
    let (mut chip, mut lapic) = pair();
    chip.update(1, &mut lapic);
    assert!(!chip.passes_external(), "masked");
    set(&mut chip, 0, EXT_INT);
    assert!(chip.passes_external());
    chip.update(0, &mut lapic);
    assert!(!chip.passes_external());
}

#[test]
fn impossible_states() {
    let good = Ioapic::new();
    assert_eq!(good.validate(), Ok(()));
    for damage in [
        |chip: &mut Ioapic| chip.id = 16,
        |chip: &mut Ioapic| chip.asserted = 1 << 24,
        |chip: &mut Ioapic| chip.table[3] |= REMOTE_IRR,
        |chip: &mut Ioapic| chip.table[3] |= 1 << 12,
    ] {
        let mut bad = good.clone();
        damage(&mut bad);
        assert!(bad.validate().is_err());
    }
}
