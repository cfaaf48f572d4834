//! Register-level tests of the ACPI fixed hardware.

use super::*;

fn read<const N: usize>(pm: &Pm, offset: usize, now: Ns) -> [u8; N] {
    let mut data = [0xaa; N];
    pm.read(offset, &mut data, now);
    data
}

fn read16(pm: &Pm, offset: usize) -> u16 {
    u16::from_le_bytes(read(pm, offset, 0))
}

fn timer(now: Ns) -> u32 {
    u32::from_le_bytes(read(&Pm::default(), TIMER, now))
}

#[test]
fn the_timer_counts_24_bits_without_drift() {
    assert_eq!(timer(0), 0);
    assert_eq!((timer(279), timer(280)), (0, 1), "a tick is 279.4 ns");
    assert_eq!(timer(1_000_000_000), 3_579_545);
    assert_eq!(timer(3600 * 1_000_000_000), ((3600 * 3_579_545u64) & 0xff_ffff) as u32);
    assert_eq!(read::<1>(&Pm::default(), TIMER + 3, 1 << 62), [0], "the high byte is not implemented");
    let pm = Pm::default();
    assert_eq!(read::<1>(&pm, TIMER + 2, 1_000_000_000), [0x36]);
}

#[test]
fn the_carry_is_a_status_that_software_clears() {
    let mut pm = Pm::default();
    let half = (1u128 << 23) * 1_000_000_000;
    let edge = half.div_ceil(3_579_545) as Ns;
    pm.advance(0, edge - 1);
    assert_eq!(read16(&pm, STATUS), 0);
    pm.advance(edge - 1, edge);
    assert_eq!(read16(&pm, STATUS), 1);
    pm.write(STATUS, &[0xfe, 0xff]);
    assert_eq!(read16(&pm, STATUS), 1, "only its own bit clears it");
    pm.write(STATUS, &[1]);
    assert_eq!(read16(&pm, STATUS), 0);
    pm.advance(edge, 1 << 61);
    assert_eq!(read16(&pm, STATUS), 1, "many carries are one");
}

#[test]
fn the_carry_interrupts_at_its_deadline() {
    let mut pm = Pm::default();
    assert_eq!(pm.next_deadline(0), None, "not enabled");
    pm.write(ENABLE, &[1, 0]);
    let deadline = pm.next_deadline(0).unwrap();
    assert_eq!(ticks(deadline), 1 << 23);
    assert_eq!(ticks(deadline - 1), (1 << 23) - 1);
    assert_eq!(pm.next_deadline(deadline - 1), Some(deadline));
    pm.advance(0, deadline);
    assert!(pm.interrupt());
    assert_eq!(pm.next_deadline(deadline), None, "the interrupt is asserted already");
    pm.write(STATUS, &[1]);
    assert!(!pm.interrupt());
    assert_eq!(ticks(pm.next_deadline(deadline).unwrap()), 2 << 23);
}

#[test]
fn the_power_button_interrupts_when_enabled() {
    let mut pm = Pm::default();
    pm.press_button();
    assert_eq!((read16(&pm, STATUS), pm.interrupt()), (0x100, false));
    pm.write(ENABLE, &0x0100u16.to_le_bytes());
    assert!(pm.interrupt());
    pm.write(STATUS + 1, &[1]);
    assert_eq!((read16(&pm, STATUS), pm.interrupt()), (0, false));
}

#[test]
fn what_can_be_written() {
    let mut pm = Pm::default();
    assert!(!pm.write(STATUS, &[0xff; 4]));
    assert_eq!(read::<4>(&pm, STATUS, 0), [0, 0, 0x21, 0x07]);
    assert!(!pm.write(CONTROL, &[0xff, 0xff]), "sleep type 7");
    assert_eq!(read16(&pm, CONTROL), 0x1c03, "GBL_RLS and SLP_EN read as zero");
    pm.write(CONTROL, &[0, 0]);
    assert_eq!(read16(&pm, CONTROL), 1, "SCI_EN stays");
    pm.write(CONTROL + 2, &[0xff; 6]);
    assert_eq!(read::<8>(&pm, CONTROL, 0), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(pm.validate(), Ok(()));
}

#[test]
fn soft_off_is_sleep_type_0_with_sleep_enable() {
    assert!(Pm::default().write(CONTROL, &0x2000u16.to_le_bytes()));
    assert!(Pm::default().write(CONTROL, &0x2001u16.to_le_bytes()));
    assert!(Pm::default().write(CONTROL + 1, &[0x20]), "by bytes");
    assert!(!Pm::default().write(CONTROL, &0x3400u16.to_le_bytes()), "sleep type 5");
    assert!(!Pm::default().write(CONTROL, &0x0000u16.to_le_bytes()));
    assert!(!Pm::default().write(CONTROL, &[0x20]), "bit 5 of the low byte");
    assert!(!Pm::default().write(ENABLE, &0x2000u16.to_le_bytes()));
}

#[test]
fn impossible_states() {
    for bad in [
        Pm { status: 0x20, ..Pm::default() },
        Pm { enable: 2, ..Pm::default() },
        Pm { control: 1, ..Pm::default() },
    ] {
        assert!(bad.validate().is_err());
    }
}
