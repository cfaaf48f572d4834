//! Register-level tests of the local APIC.

use super::*;

fn write(apic: &mut Lapic, offset: u64, value: u32, now: Ns) {
    apic.write(offset, &value.to_le_bytes(), now);
}

fn read(apic: &mut Lapic, offset: u64, now: Ns) -> u32 {
    let mut data = [0; 4];
    apic.read(offset, &mut data, now);
    u32::from_le_bytes(data)
}

fn enabled() -> Lapic {
    let mut apic = Lapic::new();
    write(&mut apic, reg::SVR, 0x1ff, 0);
    apic
}

fn fixed_to(destination: u64, logical: bool) -> u64 {
    BASE | (destination << 12) | (u64::from(logical) << 2)
}

#[test]
fn registers_after_power_up() {
    let mut apic = Lapic::new();
    assert_eq!(read(&mut apic, reg::ID, 0), 0);
    assert_eq!(read(&mut apic, reg::VERSION, 0), 0x0005_0014);
    assert_eq!(read(&mut apic, reg::DFR, 0), 0xffff_ffff);
    assert_eq!(read(&mut apic, reg::SVR, 0), 0xff);
    for lvt in (reg::LVT_TIMER..=reg::LVT_ERROR).step_by(16) {
        let lint0 = lvt == reg::LVT_TIMER + 0x30;
        assert_eq!(read(&mut apic, lvt, 0), if lint0 { 0x700 } else { LVT_MASKED });
    }
    assert!(apic.takes_external());
    assert_eq!(apic.validate(0), Ok(()));
}

#[test]
fn lint0_passes_the_8259a_on_in_ext_int_mode() {
    let mut apic = enabled();
    let lint0 = reg::LVT_TIMER + 0x30;
    for (entry, taken) in [(0x700, true), (0x1_0700, false), (0x8700, true), (0x400, false), (0x30, false)] {
        write(&mut apic, lint0, entry, 0);
        assert_eq!(apic.takes_external(), taken, "{entry:#x}");
    }
    write(&mut apic, lint0, 0x700, 0);
    write(&mut apic, reg::SVR, 0xff, 0);
    assert!(!apic.takes_external(), "software-disabled: every entry is masked");
}

#[test]
fn the_end_of_a_level_interrupt_is_announced() {
    let mut apic = enabled();
    assert!(apic.msi(fixed_to(0, false), 0x41 | (1 << 15) | (1 << 14)));
    assert!(apic.msi(fixed_to(0, false), 0x51));
    assert!(!apic.msi(fixed_to(1, false), 0x61), "another processor");
    apic.accept();
    assert_eq!(apic.write(reg::EOI, &[0; 4], 0), None, "an edge interrupt");
    apic.accept();
    assert_eq!(apic.write(reg::EOI, &[0; 2], 0), None, "only words are written");
    assert_eq!(apic.write(reg::EOI, &[0; 4], 0), Some(0x41));
    assert_eq!(apic.write(reg::EOI, &[0; 4], 0), None, "nothing is in service");
}

#[test]
fn software_disabled_apic_masks_its_lvt_and_takes_nothing() {
    let mut apic = Lapic::new();
    write(&mut apic, reg::LVT_TIMER, 0x40, 0);
    assert_eq!(read(&mut apic, reg::LVT_TIMER, 0), 0x40 | LVT_MASKED);
    apic.msi(fixed_to(0, false), 0x41);
    write(&mut apic, reg::SVR, 0x1ff, 0);
    assert_eq!(apic.pending(), None);
    write(&mut apic, reg::LVT_TIMER, 0x40, 0);
    assert_eq!(read(&mut apic, reg::LVT_TIMER, 0), 0x40);
}

#[test]
fn higher_priority_class_interrupts_and_eoi_uncovers_the_lower() {
    let mut apic = enabled();
    apic.msi(fixed_to(0, false), 0x41);
    assert_eq!(apic.accept(), Some(0x41));
    apic.msi(fixed_to(0, false), 0x4f);
    assert_eq!(apic.pending(), None, "same class waits");
    apic.msi(fixed_to(0, false), 0x51);
    assert_eq!(apic.accept(), Some(0x51));
    assert_eq!(read(&mut apic, reg::PPR, 0), 0x50);
    assert_eq!(read(&mut apic, reg::ISR + 0x20, 0), (1 << 1) | (1 << 17));
    assert_eq!(read(&mut apic, reg::IRR + 0x20, 0), 1 << 15);
    write(&mut apic, reg::EOI, 0, 0);
    assert_eq!(apic.pending(), None, "0x41 is still in service");
    write(&mut apic, reg::EOI, 0, 0);
    assert_eq!(apic.accept(), Some(0x4f));
}

#[test]
fn task_priority_holds_back() {
    let mut apic = enabled();
    apic.msi(fixed_to(0, false), 0x41);
    write(&mut apic, reg::TPR, 0x40, 0);
    assert_eq!(apic.pending(), None);
    assert_eq!(read(&mut apic, reg::PPR, 0), 0x40);
    write(&mut apic, reg::TPR, 0x3f, 0);
    assert_eq!(apic.pending(), Some(0x41));
}

#[test]
fn messages_reach_only_this_processor() {
    let mut apic = enabled();
    write(&mut apic, reg::LDR, 0x0100_0000, 0);
    let vector = |apic: &mut Lapic, addr, data| {
        apic.msi(addr, data);
        let vector = apic.accept();
        write(apic, reg::EOI, 0, 0);
        vector
    };
    assert_eq!(vector(&mut apic, fixed_to(0, false), 0x41), Some(0x41));
    assert_eq!(vector(&mut apic, fixed_to(0xff, false), 0x41), Some(0x41));
    assert_eq!(vector(&mut apic, fixed_to(1, true), 0x41), Some(0x41));
    assert_eq!(vector(&mut apic, fixed_to(1, true), 0x141), Some(0x41), "lowest priority");
    assert_eq!(vector(&mut apic, fixed_to(1, false), 0x41), None, "another processor");
    assert_eq!(vector(&mut apic, fixed_to(2, true), 0x41), None, "another logical processor");
    assert_eq!(vector(&mut apic, fixed_to(0, false), 0x441), None, "NMI");
    assert_eq!(vector(&mut apic, 0x1000, 0x41), None, "a memory address");
    assert_eq!(vector(&mut apic, fixed_to(0, false) | (1 << 32), 0x41), None, "above 4 GiB");
    // Cluster model: cluster 1, second processor.
    write(&mut apic, reg::DFR, 0x0fff_ffff, 0);
    write(&mut apic, reg::LDR, 0x1200_0000, 0);
    assert_eq!(vector(&mut apic, fixed_to(0x12, true), 0x41), Some(0x41));
    assert_eq!(vector(&mut apic, fixed_to(0x11, true), 0x41), None);
    assert_eq!(vector(&mut apic, fixed_to(0x22, true), 0x41), None);
}

#[test]
fn trigger_mode_is_recorded() {
    let mut apic = enabled();
    apic.msi(fixed_to(0, false), 0x41 | (1 << 15) | (1 << 14));
    assert_eq!(read(&mut apic, reg::TMR + 0x20, 0), 1 << 1);
    apic.msi(fixed_to(0, false), 0x41);
    assert_eq!(read(&mut apic, reg::TMR + 0x20, 0), 0);
}

#[test]
fn commands_to_self() {
    let mut apic = enabled();
    for (low, expected) in [
        (0x0004_0041, Some(0x41)), // self
        (0x0008_0042, Some(0x42)), // all, self included
        (0x000c_0043, None),       // all others
        (0x0000_0044, Some(0x44)), // physical 0
        (0x0004_0445, None),       // NMI
    ] {
        write(&mut apic, reg::ICR_HIGH, 0, 0);
        write(&mut apic, reg::ICR_LOW, low, 0);
        assert_eq!(apic.accept(), expected, "{low:#x}");
        write(&mut apic, reg::EOI, 0, 0);
    }
    write(&mut apic, reg::ICR_HIGH, 0x0100_0000, 0);
    write(&mut apic, reg::ICR_LOW, 0x41, 0);
    assert_eq!(apic.accept(), None, "physical 1");
    assert_eq!(read(&mut apic, reg::ICR_HIGH, 0), 0x0100_0000);
}

#[test]
fn errors_are_collected_until_esr_is_written() {
    let mut apic = enabled();
    write(&mut apic, reg::LVT_ERROR, 0xfe, 0);
    write(&mut apic, reg::ICR_LOW, 0x0004_0005, 0);
    assert_eq!(apic.accept(), Some(0xfe));
    apic.msi(fixed_to(0, false), 0x03);
    assert_eq!(read(&mut apic, 0x40, 0), 0);
    assert_eq!(read(&mut apic, reg::ESR, 0), 0);
    write(&mut apic, reg::ESR, 0, 0);
    assert_eq!(read(&mut apic, reg::ESR, 0), ESR_SEND_ILLEGAL | ESR_RECEIVE_ILLEGAL | ESR_ILLEGAL_REGISTER);
    write(&mut apic, reg::ESR, 0, 0);
    assert_eq!(read(&mut apic, reg::ESR, 0), 0);
}

#[test]
fn one_shot_timer_fires_once_at_its_deadline() {
    let mut apic = enabled();
    write(&mut apic, reg::DIVIDE, 0b0011, 0); // by 16
    write(&mut apic, reg::LVT_TIMER, 0x30, 0);
    write(&mut apic, reg::INITIAL_COUNT, 1000, 500);
    assert_eq!(apic.next_deadline(), Some(16_500));
    assert_eq!(read(&mut apic, reg::CURRENT_COUNT, 500), 1000);
    assert_eq!(read(&mut apic, reg::CURRENT_COUNT, 500 + 160), 990);
    apic.advance(16_499);
    assert_eq!(apic.pending(), None);
    assert_eq!(read(&mut apic, reg::CURRENT_COUNT, 16_499), 1);
    apic.advance(16_500);
    assert_eq!(apic.accept(), Some(0x30));
    assert_eq!(read(&mut apic, reg::CURRENT_COUNT, 16_500), 0);
    assert_eq!(apic.next_deadline(), None);
    write(&mut apic, reg::EOI, 0, 0);
    apic.advance(1 << 61);
    assert_eq!(apic.pending(), None);
}

#[test]
fn every_divisor() {
    for (code, divisor) in [
        (0b0000, 2),
        (0b0001, 4),
        (0b0010, 8),
        (0b0011, 16),
        (0b1000, 32),
        (0b1001, 64),
        (0b1010, 128),
        (0b1011, 1),
    ] {
        let mut apic = enabled();
        write(&mut apic, reg::DIVIDE, code, 0);
        write(&mut apic, reg::LVT_TIMER, 0x30, 0);
        write(&mut apic, reg::INITIAL_COUNT, 10, 0);
        assert_eq!(apic.next_deadline(), Some(10 * divisor), "code {code:#06b}");
    }
}

#[test]
fn periodic_timer_keeps_its_phase_over_a_long_gap() {
    let mut apic = enabled();
    write(&mut apic, reg::DIVIDE, 0b1011, 0);
    write(&mut apic, reg::LVT_TIMER, 0x30 | LVT_PERIODIC, 0);
    write(&mut apic, reg::INITIAL_COUNT, 7, 0);
    apic.advance(7);
    assert_eq!(apic.accept(), Some(0x30));
    assert_eq!(apic.next_deadline(), Some(14));
    write(&mut apic, reg::EOI, 0, 0);
    let late = 1 << 61;
    apic.advance(late);
    assert_eq!(apic.accept(), Some(0x30));
    assert_eq!(apic.next_deadline(), Some(late / 7 * 7 + 7));
}

#[test]
fn masked_timer_runs_silently() {
    let mut apic = enabled();
    write(&mut apic, reg::DIVIDE, 0b1011, 0);
    write(&mut apic, reg::LVT_TIMER, 0x30 | LVT_MASKED, 0);
    write(&mut apic, reg::INITIAL_COUNT, 100, 0);
    assert_eq!(apic.next_deadline(), None);
    assert_eq!(read(&mut apic, reg::CURRENT_COUNT, 40), 60);
    apic.advance(100);
    write(&mut apic, reg::LVT_TIMER, 0x30, 0);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn changing_the_divisor_keeps_the_count_and_zero_stops() {
    let mut apic = enabled();
    write(&mut apic, reg::DIVIDE, 0b1011, 0);
    write(&mut apic, reg::LVT_TIMER, 0x30, 0);
    write(&mut apic, reg::INITIAL_COUNT, 100, 0);
    write(&mut apic, reg::DIVIDE, 0b0000, 50);
    assert_eq!(read(&mut apic, reg::CURRENT_COUNT, 50), 50);
    assert_eq!(apic.next_deadline(), Some(150));
    write(&mut apic, reg::INITIAL_COUNT, 0, 60);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn only_aligned_words_are_written() {
    let mut apic = enabled();
    apic.write(reg::TPR, &[0x40], 0);
    apic.write(reg::TPR + 4, &[0x40, 0, 0, 0], 0);
    apic.write(reg::TPR, &[0x40, 0, 0, 0, 0, 0, 0, 0], 0);
    assert_eq!(read(&mut apic, reg::TPR, 0), 0);
    let mut wide = [0xaa; 8];
    apic.read(reg::VERSION, &mut wide, 0);
    assert_eq!(wide, [0x14, 0, 5, 0, 0, 0, 0, 0]);
}
