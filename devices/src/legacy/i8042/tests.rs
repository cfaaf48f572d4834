//! Register-level tests of the keyboard controller.

use proptest::prelude::*;

use super::*;
use crate::legacy::harness::{self, Op, Subject};

/// Sends a command; returns the answer, which must come.
fn ask(chip: &mut I8042, command: u8) -> u8 {
    assert_eq!(chip.write(COMMAND, command), None);
    assert_eq!(chip.read(COMMAND) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL, "{command:#x}");
    let answer = chip.read(DATA);
    assert_eq!(chip.read(COMMAND) & STATUS_OUTPUT_FULL, 0, "{command:#x}");
    answer
}

/// Sends a command with a byte.
fn tell(chip: &mut I8042, command: u8, byte: u8) -> Option<Effect> {
    assert_eq!(chip.write(COMMAND, command), None);
    chip.write(DATA, byte)
}

#[test]
fn after_power_up() {
    let mut chip = I8042::new();
    assert_eq!([DATA, COMMAND, PORT_92, 0x61].map(|port| chip.read(port)), [0, 0x14, 0x02, 0xff]);
    assert_eq!(ask(&mut chip, 0x20), 0x74);
    assert!(!chip.keyboard_irq() && !chip.aux_irq());
}

#[test]
fn tests_and_ports_pass() {
    let mut chip = I8042::new();
    tell(&mut chip, 0x60, 0x00);
    assert_eq!(chip.read(COMMAND), 0x10);
    assert_eq!(ask(&mut chip, 0xaa), 0x55);
    assert_eq!(chip.read(COMMAND), 0x1c, "tested; the last write was a command");
    assert_eq!([0xab, 0xa9, 0xc0].map(|command| ask(&mut chip, command)), [0x00, 0x00, 0x80]);
}

#[test]
fn command_byte() {
    let mut chip = I8042::new();
    tell(&mut chip, 0x60, 0xff);
    assert_eq!(ask(&mut chip, 0x20), 0x77);
    tell(&mut chip, 0x60, 0x00);
    for (command, expected) in [(0xa7, 0x20), (0xad, 0x30), (0xa8, 0x10), (0xae, 0x00)] {
        assert_eq!(chip.write(COMMAND, command), None);
        assert_eq!(ask(&mut chip, 0x20), expected, "{command:#x}");
    }
}

#[test]
fn no_device_answers_with_a_time_out() {
    let mut chip = I8042::new();
    tell(&mut chip, 0x60, 0x33);
    assert_eq!(chip.write(DATA, 0xff), None);
    assert!(chip.keyboard_irq() && !chip.aux_irq());
    assert_eq!((chip.read(COMMAND), chip.read(DATA)), (0x51, 0xfe));
    assert!(!chip.keyboard_irq());
    assert_eq!(chip.read(COMMAND), 0x10);
    assert_eq!(ask(&mut chip, 0x20), 0x23, "the byte enabled the keyboard's port");

    tell(&mut chip, 0xd4, 0xf2);
    assert!(chip.aux_irq() && !chip.keyboard_irq());
    assert_eq!((chip.read(COMMAND), chip.read(DATA)), (0x71, 0xfe));
    assert_eq!(ask(&mut chip, 0x20), 0x03);
    chip.write(DATA, 0xf2);
    assert_eq!(chip.read(COMMAND), 0x51, "only one byte is the mouse's");
}

/// By this Linux tests whether the mouse's port and its interrupt exist.
#[test]
fn bytes_are_looped_back() {
    let mut chip = I8042::new();
    tell(&mut chip, 0xd3, 0x5a);
    assert!(!chip.aux_irq(), "not enabled");
    assert_eq!((chip.read(COMMAND), chip.read(DATA)), (0x35, 0x5a));
    tell(&mut chip, 0x60, 0x03);
    tell(&mut chip, 0xd3, 0xa5);
    assert!(chip.aux_irq() && !chip.keyboard_irq());
    tell(&mut chip, 0xd2, 0x11);
    assert!(chip.keyboard_irq() && !chip.aux_irq(), "replaced");
    assert_eq!((chip.read(COMMAND), chip.read(DATA)), (0x11, 0x11));
    assert_eq!(chip.read(DATA), 0x11, "the byte stays");
}

#[test]
fn ways_to_reset() {
    for command in 0xf0..=0xff {
        let expected = (command & 1 == 0).then_some(Effect::Reset);
        assert_eq!(I8042::new().write(COMMAND, command), expected, "{command:#x}");
    }
    assert_eq!(tell(&mut I8042::new(), 0xd1, 0x02), Some(Effect::Reset));
    assert_eq!(tell(&mut I8042::new(), 0xd1, 0x03), None);
    assert_eq!(I8042::new().write(PORT_92, 0x01), Some(Effect::Reset));
    assert_eq!(I8042::new().write(PORT_92, 0xfe), None);
}

#[test]
fn the_a20_bit() {
    let mut chip = I8042::new();
    assert_eq!(ask(&mut chip, 0xd0), 0xcf);
    let ways: [fn(&mut I8042, bool); 3] = [
        |chip, on| {
            tell(chip, 0xd1, if on { 0xdf } else { 0xdd });
        },
        |chip, on| {
            chip.write(PORT_92, if on { 0x02 } else { 0x00 });
        },
        |chip, on| {
            chip.write(COMMAND, if on { 0xdf } else { 0xdd });
        },
    ];
    for switch in ways {
        switch(&mut chip, false);
        assert_eq!((ask(&mut chip, 0xd0), chip.read(PORT_92)), (0xcd, 0x00));
        switch(&mut chip, true);
        assert_eq!((ask(&mut chip, 0xd0), chip.read(PORT_92)), (0xcf, 0x02));
    }
}

#[test]
fn output_port_shows_the_output_buffer() {
    let mut chip = I8042::new();
    tell(&mut chip, 0xd2, 1);
    assert_eq!(ask(&mut chip, 0xd0), 0xdf);
    tell(&mut chip, 0xd3, 1);
    assert_eq!(ask(&mut chip, 0xd0), 0xef);
}

#[test]
fn a_command_abandons_the_one_before() {
    let mut chip = I8042::new();
    chip.write(COMMAND, 0x60);
    chip.write(COMMAND, 0xaa);
    chip.write(DATA, 0x00);
    assert_eq!((chip.read(COMMAND), chip.read(DATA)), (0x55, 0xfe));
}

#[test]
fn impossible_states_are_refused() {
    let good = I8042::new();
    assert_eq!(good.validate(), Ok(()));
    for damage in [
        |chip: &mut I8042| chip.command_byte = 0x80,
        |chip: &mut I8042| chip.command_byte = 0x08,
        |chip: &mut I8042| chip.output = Output::Aux { time_out: true },
    ] {
        let mut chip = good.clone();
        damage(&mut chip);
        assert!(chip.validate().is_err(), "{chip:?}");
    }
}

impl Subject for I8042 {
    fn apply(&mut self, op: &Op, _now: crate::Ns) -> String {
        let (value, effect) = match op {
            Op::Read(port) => (self.read(*port), None),
            Op::Write(port, value) => (0, self.write(*port, *value)),
            Op::Line(..) | Op::Acknowledge | Op::Wait(_) | Op::Receive(_) => (0, None),
        };
        format!("{value} {effect:?} {} {}", self.keyboard_irq(), self.aux_irq())
    }

    fn check(&self, _now: crate::Ns) -> Result<(), Invalid> {
        self.validate()
    }
}

const PORTS: &[u16] = &[DATA, COMMAND, PORT_92, 0x61];

proptest! {
    #[test]
    fn a_restored_controller_goes_on_alike(ops in harness::lives(PORTS), cut: usize) {
        harness::goes_on_alike(I8042::new(), &ops, cut);
    }

    #[test]
    fn damaged_states_are_refused_or_harmless(
        ops in harness::lives(PORTS), cut: usize, damage in harness::damage(),
    ) {
        harness::damage_is_refused_or_harmless(I8042::new(), &ops, cut, &damage);
    }

    /// No probe waits: each byte for a device is answered.
    #[test]
    fn every_byte_for_a_device_is_answered(ops in harness::lives(PORTS), byte: u8, aux: bool) {
        let mut chip = I8042::new();
        for op in &ops {
            chip.apply(op, 0);
        }
        chip.write(COMMAND, if aux { 0xd4 } else { 0xae });
        chip.write(DATA, byte);
        prop_assert_eq!(chip.read(COMMAND) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
        prop_assert_eq!(chip.read(DATA), 0xfe);
    }
}
