//! Register-level tests of the interval timer. Names in quotes are sections of the 8254 data sheet.

use proptest::prelude::*;

use super::mode::Mode;
use super::*;
use crate::legacy::harness::{self, Op, Subject};

/// A time at which this pulse was the last one.
fn at(pulse: Ticks) -> Ns {
    time_of(pulse)
}

/// A timer whose counter 2, gate open, was programmed at pulse 0: the control word's low six bits, the count.
fn counter_2(control: u8, count: u16) -> Pit {
    let mut pit = Pit::new();
    pit.write(SYSTEM_CONTROL, GATE_2, 0);
    program(&mut pit, 2, control, count, 0);
    pit
}

fn program(pit: &mut Pit, counter: u8, control: u8, count: u16, now: Ns) {
    pit.write(CONTROL, (counter << 6) | 0x30 | control, now);
    write_count(pit, counter, count, now);
}

fn write_count(pit: &mut Pit, counter: u8, count: u16, now: Ns) {
    count.to_le_bytes().into_iter().for_each(|byte| pit.write(COUNTER_0 + u16::from(counter), byte, now));
}

fn count(pit: &mut Pit, counter: u8, now: Ns) -> u16 {
    pit.write(CONTROL, counter << 6, now);
    let port = COUNTER_0 + u16::from(counter);
    u16::from_le_bytes([pit.read(port, now), pit.read(port, now)])
}

fn out_2(pit: &mut Pit, now: Ns) -> bool {
    pit.read(SYSTEM_CONTROL, now) & OUT_2 != 0
}

/// OUT of counter 2 at consecutive pulses, as a picture.
fn wave(pit: &mut Pit, pulses: std::ops::Range<Ticks>) -> String {
    pulses.map(|pulse| if out_2(pit, at(pulse)) { '#' } else { '_' }).collect()
}

/// The counting element of counter 2 at consecutive pulses.
fn counts(pit: &mut Pit, pulses: std::ops::Range<Ticks>) -> Vec<u16> {
    pulses.map(|pulse| count(pit, 2, at(pulse))).collect()
}

#[test]
fn pulses_do_not_drift() {
    assert_eq!(pulse_at(SECOND), 1_193_182);
    assert_eq!(pulse_at(SECOND - 1), 1_193_181);
    // A hundred years, exact to the pulse.
    let century = 3_155_760_000;
    assert_eq!(pulse_at(century * SECOND), (century * FREQUENCY) as Ticks);
    for pulse in [1, 2, 1_193_182, 1 << 52] {
        assert_eq!(pulse_at(time_of(pulse)), pulse);
        assert_eq!(pulse_at(time_of(pulse) - 1), pulse - 1);
    }
    assert!(pulse_at(Ns::MAX) < 1 << 55);
}

#[test]
fn modes_have_their_numbers() {
    assert_eq!(
        (0..8).map(|bits| Mode::from_bits(bits).number()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5, 2, 3]
    );
}

/// "Mode 0": OUT is low until the count is through, N + 1 pulses after the write.
#[test]
fn mode_0() {
    let mut pit = counter_2(0x00, 4);
    assert_eq!(wave(&mut pit, 0..9), "_____####");
    let mut pit = counter_2(0x00, 4);
    assert_eq!(counts(&mut pit, 0..7), [4, 4, 3, 2, 1, 0, 0xffff]);
    // The gate holds the count, and OUT stays.
    let mut pit = counter_2(0x00, 4);
    pit.write(SYSTEM_CONTROL, 0, at(3));
    assert_eq!(counts(&mut pit, 3..6), [2, 2, 2]);
    pit.write(SYSTEM_CONTROL, GATE_2, at(10));
    assert_eq!(wave(&mut pit, 10..14), "__##");
    // The first byte of a new count stops it.
    pit.write(COUNTER_2, 3, at(20));
    assert_eq!(wave(&mut pit, 20..22), "__");
    pit.write(COUNTER_2, 0, at(30));
    assert_eq!(wave(&mut pit, 30..36), "____##");
    // A count that is written while the gate is low counts from the gate's rise.
    pit.write(SYSTEM_CONTROL, 0, at(40));
    write_count(&mut pit, 2, 2, at(40));
    pit.write(SYSTEM_CONTROL, GATE_2, at(50));
    assert_eq!(wave(&mut pit, 50..54), "__##");
}

/// "Mode 1": low for N pulses after each trigger.
#[test]
fn mode_1() {
    let mut pit = counter_2(0x02, 3);
    assert_eq!(wave(&mut pit, 0..5), "#####", "the gate must rise");
    let trigger = |pit: &mut Pit, pulse| {
        pit.write(SYSTEM_CONTROL, 0, at(pulse));
        pit.write(SYSTEM_CONTROL, GATE_2, at(pulse));
    };
    trigger(&mut pit, 10);
    assert_eq!(wave(&mut pit, 10..16), "#___##");
    trigger(&mut pit, 20);
    pit.write(SYSTEM_CONTROL, 0, at(21));
    write_count(&mut pit, 2, 5, at(21));
    assert_eq!(wave(&mut pit, 21..26), "___##", "neither the gate's fall nor a new count shortens it");
    trigger(&mut pit, 30);
    assert_eq!(wave(&mut pit, 31..37), "_____#");
    trigger(&mut pit, 40);
    trigger(&mut pit, 44);
    assert_eq!(wave(&mut pit, 45..51), "_____#", "triggered again");
}

/// "Mode 2": low for one pulse in N.
#[test]
fn mode_2() {
    let mut pit = counter_2(0x04, 3);
    assert_eq!(wave(&mut pit, 0..10), "###_##_##_");
    let mut pit = counter_2(0x04, 3);
    assert_eq!(counts(&mut pit, 1..8), [3, 2, 1, 3, 2, 1, 3]);
    // "Writing a new count while counting does not affect the current counting sequence."
    let mut pit = counter_2(0x04, 3);
    write_count(&mut pit, 2, 5, at(2));
    assert_eq!(wave(&mut pit, 2..15), "#_####_####_#");
    // The gate's fall raises OUT, its rise loads again.
    pit.write(SYSTEM_CONTROL, 0, at(16));
    assert_eq!(wave(&mut pit, 16..24), "########");
    pit.write(SYSTEM_CONTROL, GATE_2, at(30));
    assert_eq!(wave(&mut pit, 30..41), "#####_####_");
}

/// "Mode 3": half high, half low; one pulse longer high if N is odd.
#[test]
fn mode_3() {
    let mut pit = counter_2(0x06, 4);
    assert_eq!(wave(&mut pit, 1..11), "##__##__##");
    let mut pit = counter_2(0x06, 4);
    assert_eq!(counts(&mut pit, 1..7), [4, 2, 4, 2, 4, 2]);
    let mut pit = counter_2(0x06, 5);
    assert_eq!(wave(&mut pit, 1..12), "###__###__#");
    let mut pit = counter_2(0x06, 5);
    assert_eq!(counts(&mut pit, 1..7), [4, 2, 0, 4, 2, 4]);
    // A new count begins with the next half.
    let mut pit = counter_2(0x06, 8);
    write_count(&mut pit, 2, 4, at(2));
    assert_eq!(wave(&mut pit, 2..14), "###__##__##_");
    let mut pit = counter_2(0x06, 8);
    write_count(&mut pit, 2, 4, at(6));
    write_count(&mut pit, 2, 2, at(7));
    assert_eq!(wave(&mut pit, 7..14), "__#_#_#");
}

/// "Mode 4": low for one pulse when the count is through.
#[test]
fn mode_4() {
    let mut pit = counter_2(0x08, 3);
    assert_eq!(wave(&mut pit, 0..8), "####_###");
    write_count(&mut pit, 2, 3, at(10));
    write_count(&mut pit, 2, 2, at(12));
    assert_eq!(wave(&mut pit, 12..18), "###_##", "a new count starts it again");
    write_count(&mut pit, 2, 3, at(20));
    pit.write(SYSTEM_CONTROL, 0, at(22));
    pit.write(SYSTEM_CONTROL, GATE_2, at(30));
    assert_eq!(wave(&mut pit, 30..35), "##_##");
}

/// "Mode 5": as mode 4, started by the gate.
#[test]
fn mode_5() {
    let mut pit = counter_2(0x0a, 3);
    assert_eq!(wave(&mut pit, 0..6), "######");
    pit.write(SYSTEM_CONTROL, 0, at(10));
    pit.write(SYSTEM_CONTROL, GATE_2, at(10));
    pit.write(SYSTEM_CONTROL, 0, at(11));
    assert_eq!(wave(&mut pit, 11..16), "###_#");
}

#[test]
fn the_largest_counts() {
    let mut pit = counter_2(0x00, 0);
    assert_eq!(counts(&mut pit, 1..3), [0, 0xffff]);
    assert!(!out_2(&mut pit, at(0x1_0000)));
    assert!(out_2(&mut pit, at(0x1_0001)));
    let mut pit = counter_2(0x01, 0);
    assert_eq!(counts(&mut pit, 1..3), [0, 0x9999]);
    assert!(!out_2(&mut pit, at(10_000)));
    assert!(out_2(&mut pit, at(10_001)));
    assert_eq!(counts(&mut pit, 10_001..10_003), [0, 0x9999], "wraps in decimal");
}

#[test]
fn decimal_counts() {
    let mut pit = counter_2(0x05, 0x1000);
    assert_eq!(counts(&mut pit, 1..4), [0x1000, 0x0999, 0x0998]);
    assert_eq!(count(&mut pit, 2, at(1000)), 0x0001);
    assert_eq!(count(&mut pit, 2, at(1001)), 0x1000);
}

/// A count of 1 is illegal in these modes: no wave, and no deadline either.
#[test]
fn a_count_of_1_makes_no_wave() {
    for mode in [0x04, 0x06] {
        let mut pit = Pit::new();
        program(&mut pit, 0, mode, 1, 0);
        assert_eq!(pit.next_deadline(), None);
        pit.advance(at(100));
        assert!(pit.out_0() && !pit.take_rise());
        write_count(&mut pit, 0, 10, at(100));
        assert_eq!(pit.next_deadline(), Some(at(111)));
    }
}

#[test]
fn one_byte_access() {
    let mut pit = counter_2(0x04, 0x0302);
    pit.write(CONTROL, 0x94, at(10)); // low byte
    pit.write(COUNTER_2, 0x20, at(10));
    assert_eq!((pit.read(COUNTER_2, at(11)), pit.read(COUNTER_2, at(12))), (0x20, 0x1f));
    pit.write(CONTROL, 0xa4, at(20)); // high byte
    pit.write(COUNTER_2, 0x20, at(20));
    assert_eq!((pit.read(COUNTER_2, at(21)), pit.read(COUNTER_2, at(22))), (0x20, 0x1f));
}

/// "Counter Latch Command": the first latch stays until both bytes are read.
#[test]
fn a_latched_count_waits() {
    let mut pit = counter_2(0x04, 0x1234);
    pit.write(CONTROL, 0x80, at(1));
    pit.write(CONTROL, 0x80, at(5));
    assert_eq!(pit.read(COUNTER_2, at(9)), 0x34);
    assert_eq!(pit.read(COUNTER_2, at(0x35)), 0x12);
    assert_eq!(pit.read(COUNTER_2, at(0x36)), 0xff, "the running count, 0x11ff");
    assert_eq!(pit.read(COUNTER_2, at(0x36)), 0x11);
}

/// "Read-Back Command": status first, then the count.
#[test]
fn read_back() {
    let mut pit = counter_2(0x04, 0x1234);
    program(&mut pit, 0, 0x00, 0x0010, 0);
    pit.write(CONTROL, 0xc0 | 0b1010, at(1)); // both, of counters 2 and 0
    pit.write(CONTROL, 0xc0 | 0b1010, at(7)); // ignored
    assert_eq!(pit.read(COUNTER_2, at(8)), 0xb4, "OUT, two bytes, mode 2");
    assert_eq!(pit.read(COUNTER_2, at(8)), 0x34);
    assert_eq!(pit.read(COUNTER_2, at(8)), 0x12);
    assert_eq!(pit.read(COUNTER_0, at(8)), 0x30, "OUT low, two bytes, mode 0");
    assert_eq!(pit.read(COUNTER_0, at(8)), 0x10);
    assert_eq!(pit.read(COUNTER_0, at(8)), 0x00);
    pit.write(CONTROL, 0xe0 | 0b1000, at(9));
    assert_eq!(pit.read(COUNTER_2, at(9)), 0xb4);
    pit.write(CONTROL, 0xd0 | 0b1000, at(9));
    assert_eq!(pit.read(COUNTER_2, at(9)), 0x2c);
}

/// The null count bit: a written count is not in the counting element yet.
#[test]
fn null_count() {
    let mut pit = Pit::new();
    pit.write(SYSTEM_CONTROL, GATE_2, 0);
    let null = |pit: &mut Pit, pulse| {
        pit.write(CONTROL, 0xe0 | 0b1000, at(pulse));
        pit.read(COUNTER_2, at(pulse)) & 0x40 != 0
    };
    pit.write(CONTROL, 0xb4, 0);
    assert!(null(&mut pit, 1));
    write_count(&mut pit, 2, 10, at(2));
    assert!(null(&mut pit, 2));
    assert!(!null(&mut pit, 3));
    write_count(&mut pit, 2, 20, at(5));
    assert!(null(&mut pit, 12));
    assert!(!null(&mut pit, 13), "the period ended");
}

#[test]
fn irq0_rises_once_in_each_period() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0x04, 11_932, 0);
    assert!(!pit.take_rise());
    for period in 1..=300 {
        let deadline = pit.next_deadline().expect("a rate generator goes on");
        assert_eq!(deadline, at(1 + period * 11_932));
        pit.advance(deadline - 1);
        assert!(!pit.take_rise());
        pit.advance(deadline);
        assert!(pit.take_rise() && pit.out_0() && !pit.take_rise());
    }
    // Many periods in one step are one rise, and the phase stays.
    pit.advance(at(1 + 11_932 * 1_000_000 + 5));
    assert!(pit.take_rise() && !pit.take_rise());
    assert_eq!(pit.next_deadline(), Some(at(1 + 11_932 * 1_000_001)));
}

#[test]
fn irq0_of_a_square_wave_and_of_single_shots() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0x06, 100, 0);
    pit.advance(at(60));
    assert!(!pit.out_0() && !pit.take_rise());
    assert_eq!(pit.next_deadline(), Some(at(101)));
    // The new count begins with the next half, at 101.
    write_count(&mut pit, 0, 10, at(60));
    assert_eq!(pit.next_deadline(), Some(at(101)));
    pit.advance(at(101));
    assert_eq!(pit.next_deadline(), Some(at(111)));
    // Now in a high half: the low one that follows is of the new count.
    write_count(&mut pit, 0, 40, at(103));
    assert_eq!(pit.next_deadline(), Some(at(106 + 20)));
    pit.take_rise();

    for (mode, rise) in [(0x00, 201 + 50), (0x08, 201 + 51)] {
        let mut pit = pit.clone();
        program(&mut pit, 0, mode, 50, at(200));
        pit.take_rise();
        assert_eq!(pit.next_deadline(), Some(at(rise)));
        pit.advance(at(100_000));
        assert!(pit.take_rise() && pit.out_0());
        assert_eq!(pit.next_deadline(), None);
    }
    for mode in [0x02, 0x0a] {
        let mut pit = pit.clone();
        program(&mut pit, 0, mode, 50, at(200));
        pit.advance(at(100_000));
        assert_eq!(pit.next_deadline(), None, "its gate never rises");
    }
}

#[test]
fn a_control_word_can_raise_out() {
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x30, 0);
    assert!(!pit.out_0() && !pit.take_rise());
    pit.write(CONTROL, 0x34, 0);
    assert!(pit.out_0() && pit.take_rise());
}

#[test]
fn system_control_port() {
    let mut pit = Pit::new();
    pit.write(SYSTEM_CONTROL, 0xff, 0);
    assert_eq!(pit.read(SYSTEM_CONTROL, 0), 0x0f | OUT_2);
    assert_eq!(pit.read(SYSTEM_CONTROL, at(18)), 0x0f | OUT_2 | REFRESH);
    assert_eq!(pit.read(SYSTEM_CONTROL, at(36)), 0x0f | OUT_2);
    assert_eq!(pit.read(CONTROL, at(36)), 0xff);
}

#[test]
fn impossible_states_are_refused() {
    let good = counter_2(0x04, 10);
    assert_eq!(good.validate(0), Ok(()));
    for damage in [
        |pit: &mut Pit| pit.pulse = 1,
        |pit: &mut Pit| pit.pulse = -1,
        |pit: &mut Pit| pit.system_control = 0x11,
        |pit: &mut Pit| pit.system_control = 0,
        |pit: &mut Pit| pit.channels[0].set_gate(false, 0),
    ] {
        let mut pit = good.clone();
        damage(&mut pit);
        assert!(pit.validate(0).is_err(), "{pit:?}");
    }
}

impl Subject for Pit {
    fn apply(&mut self, op: &Op, now: Ns) -> String {
        let value = match op {
            Op::Read(port) => self.read(*port, now),
            Op::Write(port, value) => {
                self.write(*port, *value, now);
                0
            }
            Op::Wait(_) => {
                self.advance(now);
                0
            }
            Op::Line(..) | Op::Acknowledge | Op::Receive(_) => 0,
        };
        let deadline = self.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > now), "{deadline:?} at {now}");
        format!("{value} {} {} {deadline:?}", self.out_0(), self.take_rise())
    }

    fn check(&self, now: Ns) -> Result<(), Invalid> {
        self.validate(now)
    }
}

const PORTS: &[u16] = &[0x40, 0x41, 0x42, 0x43, 0x43, 0x61];

proptest! {
    #[test]
    fn restored_timers_go_on_alike(ops in harness::lives(PORTS), cut: usize) {
        harness::goes_on_alike(Pit::new(), &ops, cut);
    }

    #[test]
    fn damaged_states_are_refused_or_harmless(
        ops in harness::lives(PORTS), cut: usize, damage in harness::damage(),
    ) {
        harness::damage_is_refused_or_harmless(Pit::new(), &ops, cut, &damage);
    }

    /// Rises are where OUT, looked at pulse by pulse, goes from low to high, also when a new count is waiting.
    #[test]
    fn rises_are_those_of_the_wave(
        mode in 0u8..8, first in 1u16..12, second in 1u16..12, when in 0i64..30,
    ) {
        let mut pit = Pit::new();
        program(&mut pit, 0, mode << 1, first, 0);
        pit.take_rise();
        let mut before = pit.out_0();
        for pulse in 1..80 {
            let announced = pit.next_deadline() == Some(at(pulse));
            pit.advance(at(pulse));
            let rose = !before && pit.out_0();
            prop_assert_eq!(announced, rose, "pulse {}", pulse);
            prop_assert_eq!(pit.take_rise(), rose, "pulse {}", pulse);
            if pulse == when {
                write_count(&mut pit, 0, second, at(pulse));
                pit.take_rise();
            }
            before = pit.out_0();
        }
    }

    /// When time is placed makes no difference to what comes out.
    #[test]
    fn steps_do_not_matter(
        mode in 0u8..8, first in 1u16..300, second in 1u16..300, steps in proptest::collection::vec(1i64..200, 1..20),
    ) {
        let mut coarse = Pit::new();
        program(&mut coarse, 0, mode << 1, first, 0);
        write_count(&mut coarse, 0, second, at(5));
        let mut fine = coarse.clone();
        let mut pulse = 5;
        for step in steps {
            pulse += step;
            fine.advance(at(pulse));
        }
        coarse.advance(at(pulse));
        prop_assert_eq!(fine, coarse);
    }
}
