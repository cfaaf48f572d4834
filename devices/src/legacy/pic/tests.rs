//! Register-level tests of the interrupt controllers. Names in quotes are sections of the 8259A data sheet.

use proptest::prelude::*;

use super::*;
use crate::legacy::harness::{self, Op, Subject};

const NON_SPECIFIC_EOI: u8 = 0x20;
const SPECIFIC_EOI: u8 = 0x60;
const READ_IRR: u8 = 0x0a;
const READ_ISR: u8 = 0x0b;
const POLL: u8 = 0x0c;

/// Initialised as Linux and BIOSes do, ICW4 as given, nothing masked.
fn initialised(master_icw4: u8, slave_icw4: u8) -> Pic {
    let mut pic = Pic::new();
    for (command, data, words) in [
        (MASTER_COMMAND, MASTER_DATA, [0x30, 0x04, master_icw4]),
        (SLAVE_COMMAND, SLAVE_DATA, [0x38, 0x02, slave_icw4]),
    ] {
        pic.write(command, 0x11);
        words.into_iter().for_each(|word| pic.write(data, word));
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_line(irq, true);
    pic.set_line(irq, false);
}

fn register(pic: &mut Pic, command: u16, which: u8) -> u8 {
    pic.write(command, which);
    pic.read(command)
}

#[test]
fn nothing_is_delivered_before_initialisation() {
    let mut pic = Pic::new();
    (0..16).for_each(|irq| pic.set_line(irq, true));
    assert!(!pic.output());
    assert_eq!((pic.read(MASTER_DATA), pic.read(SLAVE_DATA)), (0xff, 0xff));
}

#[test]
fn initialisation_takes_the_words_that_icw1_announced() {
    for (icw1, words, vector) in [
        (0x11, &[0x47, 0x04, 0x01][..], 0x41), // the low three bits of ICW2 do not count
        (0x10, &[0x48, 0x04], 0x49),           // without ICW4
        (0x13, &[0x50, 0x01], 0x51),           // single: without ICW3
        (0x12, &[0x58], 0x59),
    ] {
        let mut pic = Pic::new();
        pic.write(MASTER_COMMAND, icw1);
        words.iter().for_each(|word| pic.write(MASTER_DATA, *word));
        pic.write(MASTER_DATA, 0xfd);
        assert_eq!(pic.read(MASTER_DATA), 0xfd, "{icw1:#x}");
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), vector, "{icw1:#x}");
    }
}

#[test]
fn icw1_forgets_edges_masks_and_what_is_in_service() {
    let mut pic = initialised(1, 1);
    pic.write(MASTER_ELCR, 0x20);
    pic.set_line(5, true);
    pic.set_line(3, true);
    pic.acknowledge();
    pic.set_line(4, true);
    pic.write(MASTER_DATA, 0xff);
    pic.write(MASTER_COMMAND, READ_ISR);
    pic.write(MASTER_COMMAND, 0x11);
    assert_eq!(pic.read(MASTER_COMMAND), 0x20, "the level-triggered request stays, and the IRR is read");
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_ISR), 0);
    [0x30, 0x04, 0x01].into_iter().for_each(|word| pic.write(MASTER_DATA, word));
    assert_eq!(pic.read(MASTER_DATA), 0);
    pic.set_line(4, true);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_IRR), 0x20, "input 4 stayed high: no edge");
}

#[test]
fn fully_nested_mode() {
    let mut pic = initialised(1, 1);
    pulse(&mut pic, 4);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x34);
    pulse(&mut pic, 4);
    pulse(&mut pic, 5);
    assert!(!pic.output(), "the same and a lower one wait");
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_IRR), 0x30);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x31);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_ISR), 0x12);
    pic.write(MASTER_COMMAND, NON_SPECIFIC_EOI);
    assert_eq!(pic.read(MASTER_COMMAND), 0x10, "the highest one ended");
    assert!(!pic.output());
    pic.write(MASTER_COMMAND, NON_SPECIFIC_EOI);
    assert_eq!(pic.acknowledge(), 0x34);
    pic.write(MASTER_COMMAND, SPECIFIC_EOI | 4);
    assert_eq!(pic.acknowledge(), 0x35);
}

#[test]
fn the_mask_holds_requests_and_does_not_drop_them() {
    let mut pic = initialised(1, 1);
    pic.write(MASTER_DATA, 0x10);
    pulse(&mut pic, 4);
    assert!(!pic.output());
    pic.write(MASTER_DATA, 0);
    assert_eq!(pic.acknowledge(), 0x34);
}

#[test]
fn the_slave_comes_through_input_2() {
    let mut pic = initialised(1, 1);
    pulse(&mut pic, 12);
    pulse(&mut pic, 8);
    pulse(&mut pic, 3);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_IRR), 0x0c);
    assert_eq!(pic.acknowledge(), 0x38);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_ISR), 0x04);
    assert_eq!(register(&mut pic, SLAVE_COMMAND, READ_ISR), 0x01);
    pic.write(SLAVE_COMMAND, NON_SPECIFIC_EOI);
    assert!(!pic.output(), "input 2 is still in service");
    pic.write(MASTER_COMMAND, SPECIFIC_EOI | 2);
    assert_eq!(pic.acknowledge(), 0x3c);
    pic.write(SLAVE_COMMAND, NON_SPECIFIC_EOI);
    pic.write(MASTER_COMMAND, NON_SPECIFIC_EOI);
    assert_eq!(pic.acknowledge(), 0x33);
}

#[test]
fn a_masked_slave_withdraws_its_request() {
    let mut pic = initialised(1, 1);
    pulse(&mut pic, 12);
    pic.write(SLAVE_DATA, 0x10);
    assert!(!pic.output());
    pic.write(SLAVE_DATA, 0);
    assert_eq!(pic.acknowledge(), 0x3c);
}

/// "The Special Fully Nested Mode".
#[test]
fn special_fully_nested_master_lets_a_higher_slave_request_through() {
    for (icw4, through) in [(0x01, false), (0x11, true)] {
        let mut pic = initialised(icw4, 1);
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), 0x3c);
        pulse(&mut pic, 3);
        assert!(!pic.output(), "lower than the slave");
        pulse(&mut pic, 13);
        assert!(!pic.output(), "lower within the slave");
        pulse(&mut pic, 9);
        assert_eq!(pic.output(), through);
        if through {
            assert_eq!(pic.acknowledge(), 0x39);
        }
    }
}

/// "Automatic Rotation" and "Specific Rotation".
#[test]
fn rotation() {
    let mut pic = initialised(1, 1);
    let both = |pic: &mut Pic| {
        pulse(pic, 3);
        pulse(pic, 6);
        let first = pic.acknowledge();
        pic.write(MASTER_COMMAND, 0xa0); // rotate on non-specific EOI
        let second = pic.acknowledge();
        pic.write(MASTER_COMMAND, 0xa0);
        (first, second)
    };
    assert_eq!(both(&mut pic), (0x33, 0x36));
    assert_eq!(both(&mut pic), (0x33, 0x36), "6 ended last and is the lowest");
    pic.write(MASTER_COMMAND, 0xc0 | 3); // set priority: 3 is the lowest
    assert_eq!(both(&mut pic), (0x36, 0x33));
    pic.write(MASTER_COMMAND, 0xc0 | 7);
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x35);
    pic.write(MASTER_COMMAND, 0xe0 | 5); // rotate on specific EOI
    assert_eq!(both(&mut pic), (0x36, 0x33));
    // An end of nothing rotates nothing.
    pic.write(MASTER_COMMAND, 0xc0 | 7);
    pic.write(MASTER_COMMAND, 0xa0);
    assert_eq!(both(&mut pic), (0x33, 0x36));
}

/// "Automatic End of Interrupt (AEOI) Mode".
#[test]
fn automatic_end_and_its_rotation() {
    let mut pic = initialised(0x03, 1);
    let both = |pic: &mut Pic| {
        pulse(pic, 3);
        pulse(pic, 6);
        (pic.acknowledge(), pic.acknowledge())
    };
    assert_eq!(both(&mut pic), (0x33, 0x36));
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_ISR), 0);
    pic.write(MASTER_COMMAND, 0x80); // rotate in automatic mode: set
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x33);
    assert_eq!(both(&mut pic), (0x36, 0x33));
    pic.write(MASTER_COMMAND, 0x00); // clear
    pulse(&mut pic, 6);
    pic.acknowledge();
    assert_eq!(both(&mut pic), (0x36, 0x33), "3 is still the lowest");
}

/// "Special Mask Mode".
#[test]
fn special_mask_mode() {
    let mut pic = initialised(1, 1);
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    pic.write(MASTER_DATA, 0x02);
    assert!(!pic.output());
    pic.write(MASTER_COMMAND, 0x68); // set special mask
    assert_eq!(pic.acknowledge(), 0x36);
    pic.write(MASTER_COMMAND, NON_SPECIFIC_EOI);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_ISR), 0x02, "the masked one does not end this way");
    pulse(&mut pic, 7);
    pic.write(MASTER_COMMAND, 0x48); // reset special mask
    assert!(!pic.output());
}

/// "Poll Command".
#[test]
fn poll_acknowledges() {
    let mut pic = initialised(1, 1);
    pic.write(MASTER_COMMAND, POLL);
    assert_eq!(pic.read(MASTER_COMMAND), 0);
    pulse(&mut pic, 5);
    pulse(&mut pic, 10);
    pic.write(MASTER_COMMAND, POLL);
    assert_eq!(pic.read(MASTER_DATA), 0x82, "either port answers");
    pic.write(SLAVE_COMMAND, POLL);
    assert_eq!(pic.read(SLAVE_COMMAND), 0x82);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_IRR), 0x20, "the slave's output is low again");
    assert_eq!(register(&mut pic, SLAVE_COMMAND, READ_ISR), 0x04);
    assert_eq!(pic.read(MASTER_DATA), 0, "one read only");
}

#[test]
fn edge_and_level_triggered_inputs() {
    let mut pic = initialised(1, 1);
    pic.set_line(5, true);
    pic.set_line(5, true);
    assert_eq!(pic.acknowledge(), 0x35);
    pic.write(MASTER_COMMAND, NON_SPECIFIC_EOI);
    assert!(!pic.output(), "one edge, one interrupt");
    pic.set_line(5, false);

    pic.write(MASTER_ELCR, 0xff);
    pic.write(SLAVE_ELCR, 0xff);
    assert_eq!((pic.read(MASTER_ELCR), pic.read(SLAVE_ELCR)), (0xf8, 0xde));
    pic.set_line(5, true);
    assert_eq!(pic.acknowledge(), 0x35);
    pic.write(MASTER_COMMAND, NON_SPECIFIC_EOI);
    assert_eq!(pic.acknowledge(), 0x35, "as long as it is high");
    pic.set_line(5, false);
    pic.write(MASTER_COMMAND, NON_SPECIFIC_EOI);
    assert!(!pic.output());
    pic.set_line(11, true);
    assert!(pic.output());
    pic.set_line(11, false);
    assert!(!pic.output(), "gone before it was acknowledged");
}

#[test]
fn changing_the_trigger_mode() {
    let mut pic = initialised(1, 1);
    pic.write(MASTER_DATA, 0xff);
    pic.set_line(5, true);
    pic.write(MASTER_ELCR, 0x20);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_IRR), 0x20);
    pic.write(MASTER_ELCR, 0);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_IRR), 0, "an edge must come first");
    pic.set_line(5, false);
    pic.set_line(5, true);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_IRR), 0x20);
}

/// "Interrupt Sequence": without a request the vector is that of input 7, and nothing is in service.
#[test]
fn default_vectors() {
    let mut pic = initialised(1, 1);
    assert_eq!(pic.acknowledge(), 0x37);
    assert_eq!(register(&mut pic, MASTER_COMMAND, READ_ISR), 0);
    assert_eq!(pic.slave.acknowledge(0), (None, 0x3f));
    assert_eq!(register(&mut pic, SLAVE_COMMAND, READ_ISR), 0);
}

#[test]
fn inputs_that_do_not_exist_are_ignored() {
    let mut pic = initialised(1, 1);
    let before = pic.clone();
    for irq in [2, 16, 255] {
        pic.set_line(irq, true);
    }
    assert_eq!(pic, before);
}

#[test]
fn impossible_states_are_refused() {
    let good = initialised(1, 1);
    assert_eq!(good.validate(), Ok(()));
    for damage in [
        |pic: &mut Pic| pic.slave.set_line(0, true),
        |pic: &mut Pic| pic.slave.set_level_triggered(0x01),
        |pic: &mut Pic| pic.master.set_level_triggered(0x04),
        |pic: &mut Pic| pic.master.set_line(CASCADE, true),
    ] {
        let mut pic = good.clone();
        damage(&mut pic);
        assert!(pic.validate().is_err(), "{pic:?}");
    }
}

impl Subject for Pic {
    fn apply(&mut self, op: &Op, _now: crate::Ns) -> String {
        let value = match op {
            Op::Read(port) => self.read(*port),
            Op::Acknowledge => self.acknowledge(),
            Op::Write(port, value) => {
                self.write(*port, *value);
                0
            }
            Op::Line(irq, level) => {
                self.set_line(*irq, *level);
                0
            }
            Op::Wait(_) | Op::Receive(_) => 0,
        };
        format!("{value} {}", self.output())
    }

    fn check(&self, _now: crate::Ns) -> Result<(), Invalid> {
        self.validate()
    }
}

const PORTS: &[u16] =
    &[MASTER_COMMAND, MASTER_DATA, SLAVE_COMMAND, SLAVE_DATA, MASTER_ELCR, SLAVE_ELCR, 0x22];

proptest! {
    #[test]
    fn restored_controllers_go_on_alike(ops in harness::lives(PORTS), cut: usize) {
        harness::goes_on_alike(Pic::new(), &ops, cut);
    }

    #[test]
    fn damaged_states_are_refused_or_harmless(
        ops in harness::lives(PORTS), cut: usize, damage in harness::damage(),
    ) {
        harness::damage_is_refused_or_harmless(Pic::new(), &ops, cut, &damage);
    }
}
