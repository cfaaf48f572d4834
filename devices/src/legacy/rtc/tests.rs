//! Register-level tests of the real-time clock. Names in quotes are sections of the MC146818 data sheet.

use proptest::prelude::*;

use super::*;
use crate::legacy::harness::{self, Op, Subject};

/// 2026-01-01 00:00:00 UTC, a Thursday.
const BASE: u64 = 1_767_225_600;
const TIME: [u8; 7] = [reg::HOUR, reg::MINUTE, reg::SECOND, reg::WEEKDAY, reg::DAY, reg::MONTH, reg::YEAR];

fn read(rtc: &mut Rtc, index: u8, now: Ns) -> u8 {
    rtc.write(INDEX, index, now);
    rtc.read(DATA, now)
}

fn write(rtc: &mut Rtc, index: u8, value: u8, now: Ns) {
    rtc.write(INDEX, index, now);
    rtc.write(DATA, value, now);
}

/// Hour, minute, second, weekday, day, month, year, century, as they stand in the registers.
fn time(rtc: &mut Rtc, now: Ns) -> [u8; 8] {
    let [hour, minute, second, weekday, day, month, year] = TIME.map(|index| read(rtc, index, now));
    [hour, minute, second, weekday, day, month, year, read(rtc, CENTURY, now)]
}

fn set_time(rtc: &mut Rtc, values: [u8; 7], now: Ns) {
    for (index, value) in TIME.into_iter().zip(values) {
        write(rtc, index, value, now);
    }
}

#[test]
fn registers_at_power_up() {
    let mut rtc = Rtc::new(BASE);
    assert_eq!(time(&mut rtc, 0), [0, 0, 0, 5, 1, 1, 0x26, 0x20]);
    assert_eq!([reg::A, reg::B, reg::C, reg::D].map(|index| read(&mut rtc, index, 0)), [0x26, 0x02, 0, 0x80]);
    assert_eq!(rtc.read(INDEX, 0), 0xff);
    assert_eq!((rtc.next_deadline(), rtc.irq()), (None, false));
}

#[test]
fn known_moments() {
    for (seconds, expected) in [
        (0, [0, 0, 0, 5, 1, 1, 0x70, 0x19]),
        (951_782_399, [0x23, 0x59, 0x59, 2, 0x28, 2, 0, 0x20]),
        (951_782_400, [0, 0, 0, 3, 0x29, 2, 0, 0x20]),
        (951_868_800, [0, 0, 0, 4, 1, 3, 0, 0x20]),
        (4_107_542_400, [0, 0, 0, 2, 1, 3, 0, 0x21]), // 2100 is no leap year
        (253_402_300_799, [0x23, 0x59, 0x59, 6, 0x31, 0x12, 0x99, 0x99]),
        (253_402_300_800, [0, 0, 0, 7, 1, 1, 0, 0]),
    ] {
        assert_eq!(time(&mut Rtc::new(seconds), 0), expected, "{seconds}");
        if let Some(before) = seconds.checked_sub(12_345_678_901) {
            assert_eq!(time(&mut Rtc::new(before), 12_345_678_901 * SECOND), expected, "{seconds}");
        }
    }
    assert_eq!(Rtc::new(u64::MAX).validate(0), Ok(()));
}

/// Day by day from 1970 through all of the calendar's 400 years.
#[test]
fn every_day_follows_the_one_before() {
    let format = Format { binary: true, hours_24: true };
    let (mut year, mut month, mut day) = (1970, 1, 1);
    for number in 0..146_097 {
        let time = Registers::from_unix(number * 86_400, format);
        let shown = (u64::from(time.century) * 100 + u64::from(time.year), time.month, time.day);
        assert_eq!(shown, (year, month, day));
        assert_eq!(u64::from(time.weekday), (number + 4) % 7 + 1);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 => 28 + u8::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        (year, month, day) = match (month, day) {
            (12, 31) => (year + 1, 1, 1),
            (_, day) if day == last => (year, month + 1, 1),
            (_, day) => (year, month, day + 1),
        };
    }
}

#[test]
fn seconds_are_those_of_virtual_time() {
    let mut rtc = Rtc::new(BASE + 86_398);
    assert_eq!(time(&mut rtc, SECOND - 1), [0x23, 0x59, 0x58, 5, 1, 1, 0x26, 0x20]);
    assert_eq!(time(&mut rtc, SECOND), [0x23, 0x59, 0x59, 5, 1, 1, 0x26, 0x20]);
    assert_eq!(time(&mut rtc, 2 * SECOND), [0, 0, 0, 6, 2, 1, 0x26, 0x20]);
    assert_eq!(time(&mut rtc, (2 + 7 * 86_400) * SECOND), [0, 0, 0, 6, 9, 1, 0x26, 0x20]);
}

/// "Time, Calendar, and Alarm Data Modes".
#[test]
fn formats() {
    for (b, hours) in [
        (0x02, [0x00, 0x01, 0x12, 0x13, 0x23]),
        (0x06, [0, 1, 12, 13, 23]),
        (0x00, [0x12, 0x01, 0x92, 0x81, 0x91]),
        (0x04, [12, 1, 0x80 | 12, 0x80 | 1, 0x80 | 11]),
    ] {
        for (hour, expected) in [0, 1, 12, 13, 23].into_iter().zip(hours) {
            let mut rtc = Rtc::new(BASE);
            write(&mut rtc, reg::B, b, 0);
            // The bytes stay when the format changes, so the hour is written anew.
            write(&mut rtc, reg::HOUR, hours[0], 0);
            assert_eq!(read(&mut rtc, reg::HOUR, hour * 3600 * SECOND), expected, "B {b:#x}, {hour} h");
        }
    }
    let mut rtc = Rtc::new(BASE);
    write(&mut rtc, reg::B, 0x06, 0);
    set_time(&mut rtc, [23, 59, 59, 7, 31, 12, 49], 0);
    write(&mut rtc, CENTURY, 20, 0);
    assert_eq!(time(&mut rtc, SECOND), [0, 0, 0, 1, 1, 1, 50, 20]);
}

/// The SET bit holds updates back; the seconds themselves go on.
#[test]
fn setting_the_clock() {
    let mut rtc = Rtc::new(BASE);
    write(&mut rtc, reg::B, 0x82, SECOND / 4);
    set_time(&mut rtc, [0x11, 0x22, 0x33, 4, 5, 6, 0x27], SECOND / 4);
    assert_eq!(time(&mut rtc, 10 * SECOND), [0x11, 0x22, 0x33, 4, 5, 6, 0x27, 0x20]);
    write(&mut rtc, reg::B, 0x02, 10 * SECOND + SECOND / 2);
    assert_eq!(read(&mut rtc, reg::SECOND, 11 * SECOND - 1), 0x33);
    assert_eq!(read(&mut rtc, reg::SECOND, 11 * SECOND), 0x34);
    assert_eq!(read(&mut rtc, reg::C, 11 * SECOND) & UPDATE, UPDATE);
}

/// "Divider Control": the first update comes half a second after the reset ends.
#[test]
fn divider_reset() {
    let mut rtc = Rtc::new(BASE);
    write(&mut rtc, reg::B, 0x52, 0);
    write(&mut rtc, reg::A, 0x76, SECOND / 4);
    assert_eq!(rtc.next_deadline(), None);
    assert_eq!(read(&mut rtc, reg::SECOND, 5 * SECOND), 0);
    assert_eq!(read(&mut rtc, reg::C, 5 * SECOND), 0xc0, "the periods before the reset");
    let release = 5 * SECOND + 123;
    write(&mut rtc, reg::A, 0x20, release);
    assert_eq!(rtc.next_deadline(), Some(release + SECOND / 2));
    assert_eq!(read(&mut rtc, reg::SECOND, release + SECOND / 2 - 1), 0);
    assert_eq!(read(&mut rtc, reg::SECOND, release + SECOND / 2), 1);
    assert_eq!(rtc.next_deadline(), None, "the interrupt is pending");
    assert_eq!(read(&mut rtc, reg::C, release + SECOND / 2), 0x90);
    assert_eq!(rtc.next_deadline(), Some(release + SECOND / 2 + SECOND));
}

#[test]
fn another_rate_does_not_move_the_seconds() {
    let mut rtc = Rtc::new(BASE);
    write(&mut rtc, reg::B, 0x12, 0);
    write(&mut rtc, reg::A, 0x2f, SECOND / 3);
    assert_eq!(rtc.next_deadline(), Some(SECOND));
    write(&mut rtc, reg::B, 0x42, SECOND / 3);
    assert!(rtc.irq(), "periods of the rate before");
    read(&mut rtc, reg::C, SECOND / 3);
    assert_eq!(rtc.next_deadline(), Some(SECOND / 2));
}

/// "Update Cycle".
#[test]
fn update_in_progress() {
    let mut rtc = Rtc::new(BASE);
    assert_eq!(read(&mut rtc, reg::A, SECOND - UPDATE_IN_PROGRESS - 1), 0x26);
    assert_eq!(read(&mut rtc, reg::A, SECOND - UPDATE_IN_PROGRESS), 0xa6);
    assert_eq!(read(&mut rtc, reg::A, SECOND - 1), 0xa6);
    assert_eq!(read(&mut rtc, reg::A, SECOND), 0x26);
    write(&mut rtc, reg::A, 0xa6, SECOND);
    assert_eq!(read(&mut rtc, reg::A, SECOND), 0x26, "cannot be written");
    write(&mut rtc, reg::B, 0x82, SECOND);
    assert_eq!(read(&mut rtc, reg::A, 2 * SECOND - 1), 0x26);
}

#[test]
fn update_ended_interrupt() {
    let mut rtc = Rtc::new(BASE);
    rtc.advance(SECOND);
    assert!(!rtc.irq());
    write(&mut rtc, reg::B, 0x12, SECOND);
    assert!(rtc.irq(), "the flag was there, now it is enabled");
    assert_eq!(read(&mut rtc, reg::C, SECOND), 0xd0, "a second has 1,024 periods too");
    assert!(!rtc.irq());
    assert_eq!(read(&mut rtc, reg::C, SECOND), 0);
    assert_eq!(rtc.next_deadline(), Some(2 * SECOND));
    rtc.advance(2 * SECOND);
    assert!(rtc.irq());
    write(&mut rtc, reg::B, 0x92, 2 * SECOND);
    assert!(!rtc.irq(), "SET disables it");
    assert_eq!(read(&mut rtc, reg::B, 2 * SECOND), 0x82);
}

#[test]
fn alarms() {
    // The time is 12:34:56 at first; the alarm in hours, minutes, seconds and how long it takes.
    for (b, alarm, until) in [
        (0x22, [0x12, 0x34, 0x57], Some(1)),
        (0x22, [0x12, 0x34, 0x56], Some(86_400)),
        (0x22, [0x12, 0x34, 0x55], Some(86_399)),
        (0x22, [0x13, 0x00, 0x00], Some(25 * 60 + 4)),
        (0x22, [0xff, 0xc0, 0xfe], Some(1)),
        (0x22, [0xff, 0xff, 0x10], Some(14)),
        (0x22, [0xff, 0x34, 0xff], Some(1)),
        (0x22, [0xff, 0x33, 0x00], Some(58 * 60 + 4)),
        (0x22, [0x00, 0xff, 0xff], Some(11 * 3600 + 25 * 60 + 4)),
        (0x22, [0x24, 0x00, 0x00], None),
        (0x22, [0xff, 0xff, 0x60], None),
        (0x22, [0xff, 0xff, 0x0a], None),
        (0x20, [0x92, 0x35, 0x00], Some(4)),
        (0x20, [0x12, 0x35, 0x00], Some(12 * 3600 + 4)),
    ] {
        let mut rtc = Rtc::new(BASE + 12 * 3600 + 34 * 60 + 56);
        write(&mut rtc, reg::B, b, 0);
        if b == 0x20 {
            write(&mut rtc, reg::HOUR, 0x92, 0);
        }
        for (index, value) in [reg::HOUR_ALARM, reg::MINUTE_ALARM, reg::SECOND_ALARM].into_iter().zip(alarm) {
            write(&mut rtc, index, value, 0);
        }
        assert_eq!(rtc.next_deadline(), until.map(|until| until * SECOND), "{b:#x} {alarm:x?}");
        let Some(until) = until else {
            rtc.advance(1_000_000 * SECOND);
            assert!(!rtc.irq(), "{alarm:x?}");
            continue;
        };
        rtc.advance(until * SECOND - 1);
        assert!(!rtc.irq(), "{alarm:x?}");
        rtc.advance(until * SECOND);
        assert!(rtc.irq(), "{alarm:x?}");
        assert_eq!(read(&mut rtc, reg::C, until * SECOND) & (C_INTERRUPT | ALARM), C_INTERRUPT | ALARM);
    }
}

/// "Periodic Interrupt Rate and Square Wave Output Frequency".
#[test]
fn periodic_rates() {
    let rates = [256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2];
    for (rate, per_second) in (1..).zip(rates) {
        let mut rtc = Rtc::new(BASE);
        write(&mut rtc, reg::A, 0x20 | rate, 0);
        write(&mut rtc, reg::B, 0x42, 0);
        for period in 1..=3 * per_second {
            let deadline = rtc.next_deadline().expect("periodic");
            assert_eq!(deadline, (period * SECOND).div_ceil(per_second), "rate {rate}");
            rtc.advance(deadline - 1);
            assert!(!rtc.irq());
            rtc.advance(deadline);
            assert!(rtc.irq());
            read(&mut rtc, reg::C, deadline);
        }
    }
    let mut rtc = Rtc::new(BASE);
    write(&mut rtc, reg::A, 0x20, 0);
    write(&mut rtc, reg::B, 0x42, 0);
    assert_eq!(rtc.next_deadline(), None);
    rtc.advance(100 * SECOND);
    assert!(!rtc.irq());
}

#[test]
fn the_rest_is_memory() {
    let mut rtc = Rtc::new(BASE);
    for index in 14..128 {
        write(&mut rtc, index, index ^ 0x55, 0);
    }
    write(&mut rtc, reg::C, 0xff, 0);
    write(&mut rtc, reg::D, 0x00, 0);
    for index in (14..128).filter(|index| *index != CENTURY) {
        assert_eq!(read(&mut rtc, 0x80 | index, 100 * SECOND), index ^ 0x55, "{index}");
    }
    assert_eq!(read(&mut rtc, reg::C, 100 * SECOND), PERIODIC | UPDATE);
    assert_eq!(read(&mut rtc, reg::D, 100 * SECOND), 0x80);
}

#[test]
fn impossible_times_become_the_nearest_possible() {
    let mut rtc = Rtc::new(BASE);
    set_time(&mut rtc, [0x99, 0x99, 0xff, 0, 0x31, 0x02, 0x26], 0);
    assert_eq!(time(&mut rtc, 0)[..3], [0x99, 0x99, 0xff], "as written until the next second");
    assert_eq!(time(&mut rtc, SECOND), [0, 0, 0, 2, 4, 3, 0x26, 0x20]);
}

#[test]
fn impossible_states_are_refused() {
    let good = Rtc::new(BASE);
    assert_eq!(good.validate(0), Ok(()));
    for damage in [
        |rtc: &mut Rtc| rtc.now = 1,
        |rtc: &mut Rtc| rtc.next_second = None,
        |rtc: &mut Rtc| rtc.next_second = Some(0),
        |rtc: &mut Rtc| rtc.next_second = Some(SECOND + 1),
        |rtc: &mut Rtc| rtc.index = 128,
        |rtc: &mut Rtc| rtc.set(reg::A, 0x76),
        |rtc: &mut Rtc| rtc.set(reg::A, 0xa6),
        |rtc: &mut Rtc| rtc.set(reg::B, 0x92),
        |rtc: &mut Rtc| rtc.set(reg::C, 0x80),
        |rtc: &mut Rtc| rtc.set(reg::D, 0),
    ] {
        let mut rtc = good.clone();
        damage(&mut rtc);
        assert!(rtc.validate(0).is_err(), "{rtc:?}");
    }
}

impl Subject for Rtc {
    fn apply(&mut self, op: &Op, now: Ns) -> String {
        let value = match op {
            Op::Read(port) => self.read(*port, now),
            Op::Write(port, value) => {
                self.write(*port, *value, now);
                0
            }
            // So that the registers are met more often than by chance.
            Op::Line(index, _) => {
                self.write(INDEX, *index, now);
                0
            }
            Op::Wait(_) => {
                self.advance(now);
                0
            }
            Op::Acknowledge | Op::Receive(_) => 0,
        };
        let deadline = self.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > now), "{deadline:?} at {now}");
        format!("{value} {} {deadline:?}", self.irq())
    }

    fn check(&self, now: Ns) -> Result<(), Invalid> {
        self.validate(now)
    }
}

const PORTS: &[u16] = &[INDEX, DATA, DATA, 0x72];

proptest! {
    #[test]
    fn a_restored_clock_goes_on_alike(ops in harness::lives(PORTS), cut: usize) {
        harness::goes_on_alike(Rtc::new(BASE), &ops, cut);
    }

    #[test]
    fn damaged_states_are_refused_or_harmless(
        ops in harness::lives(PORTS), cut: usize, damage in harness::damage(),
    ) {
        harness::damage_is_refused_or_harmless(Rtc::new(BASE), &ops, cut, &damage);
    }

    /// Adding to what the registers show is adding to the time.
    #[test]
    fn registers_hold_the_whole_time(
        start in 0u64..253_402_300_800, later in 0u64..1 << 33, binary: bool, hours_24: bool,
    ) {
        let format = Format { binary, hours_24 };
        let added = Registers::from_unix(start, format).later(later, format);
        prop_assert_eq!(added, Registers::from_unix(start + later, format));
    }

    /// When time is placed makes no difference to what comes out, and the line rises at a deadline only.
    #[test]
    fn steps_do_not_matter(
        registers in proptest::collection::vec((0u8..12, any::<u8>()), 0..12),
        steps in proptest::collection::vec(1u64..100_000_000_000, 1..20),
    ) {
        let mut coarse = Rtc::new(BASE);
        for (index, value) in registers {
            write(&mut coarse, index, value, 0);
        }
        let mut fine = coarse.clone();
        let mut now = 0;
        for step in steps {
            now += step;
            let (before, deadline) = (fine.irq(), fine.next_deadline());
            fine.advance(now);
            prop_assert_eq!(before || deadline.is_some_and(|deadline| deadline <= now), fine.irq());
        }
        coarse.advance(now);
        prop_assert_eq!(fine, coarse);
    }
}
