//! The unit against the processor that runs the tests, and against fixed results that are the same everywhere.

mod corpus;
mod golden;
mod native;
mod proof;
mod tables;

use super::unit::{Function, Layout, STATE_SIZE, Unit};
use super::value::F80;

/// A unit with this control word and these registers, ST(0) first; the others are empty.
fn unit(control: u16, registers: &[F80]) -> Unit {
    let mut image = [0; STATE_SIZE];
    image[..2].copy_from_slice(&control.to_le_bytes());
    let tags = u16::MAX.checked_shl(2 * registers.len() as u32).unwrap_or(0);
    image[8..10].copy_from_slice(&tags.to_le_bytes());
    for (place, value) in image[28..].as_chunks_mut::<10>().0.iter_mut().zip(registers) {
        *place = value.to_bytes();
    }
    let mut unit = Unit::reset();
    unit.load_state(Layout::Long, &image);
    unit
}

/// ST(i), and whether it is empty.
fn register(unit: &Unit, i: usize) -> (F80, bool) {
    let image = unit.clone().store_state(Layout::Long);
    let value = F80::from_bytes(std::array::from_fn(|at| image[28 + 10 * i + at]));
    let physical = (usize::from(unit.status() >> 11 & 7) + i) % 8;
    let tags = u16::from_le_bytes([image[8], image[9]]);
    (value, tags >> (2 * physical) & 3 == 3)
}

#[test]
fn transcendentals_are_correctly_rounded() {
    let value = |(sign_exp, mant): golden::Bits| F80 { sign_exp, mant };
    for (function, x, y, nearest, toward_zero) in golden::GOLDEN {
        for (rounding, expected) in [(0, nearest), (3, toward_zero)] {
            let mut unit = unit(0x37f | rounding << 10, &[value(x), value(y)]);
            unit.function(function);
            let pushed = usize::from(function == Function::Tangent);
            assert_eq!(register(&unit, pushed).0, value(expected), "{function:?} of {x:x?}, {y:x?}");
            assert_eq!(unit.status() & 0xff, 0x20, "{function:?} of {x:x?} is inexact and nothing else");
            let up = toward_zero != nearest && rounding == 0;
            assert_eq!(unit.status() >> 9 & 1 == 1, up, "C1: {function:?} of {x:x?}, {y:x?}");
        }
    }
}
