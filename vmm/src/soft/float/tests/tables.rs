//! The tables of SDM volume 2, and what volume 1 says of exceptions.

use super::super::unit::{Arith, Function, Layout, Memory, Ordering, Size, Unit};
use super::super::value::{F80, INTEGER};
use super::{register, unit};

const MASKED: u16 = 0x37f;
const INFINITY: F80 = F80 { sign_exp: 0x7fff, mant: INTEGER };
const ZERO: F80 = F80 { sign_exp: 0, mant: 0 };
const TWO: F80 = F80 { sign_exp: 0x4000, mant: INTEGER };
const HALF: F80 = F80 { sign_exp: 0x3ffe, mant: INTEGER };
const QUARTER: F80 = F80 { sign_exp: 0x3ffd, mant: INTEGER };
const ONE: F80 = F80::ONE;
const INVALID: F80 = F80::INDEFINITE;
const PI: F80 = F80 { sign_exp: 0x4000, mant: 0xc90f_daa2_2168_c235 };
const HALF_PI: F80 = F80 { sign_exp: 0x3fff, ..PI };
const QUARTER_PI: F80 = F80 { sign_exp: 0x3ffe, ..PI };
const THREE_QUARTERS_PI: F80 = F80 { sign_exp: 0x4000, mant: 0x96cb_e3f9_990e_91a8 };

fn minus(value: F80) -> F80 {
    value.negated()
}

/// Exception flags of the status word.
fn flags(unit: &Unit) -> u16 {
    unit.status() & 0x7f
}

/// `function` of ST(0) = `x` and ST(1) = `y`, whose result goes to ST(1), with its flags.
fn binary(function: Function, x: F80, y: F80) -> (F80, u16) {
    let mut unit = unit(MASKED, &[x, y]);
    unit.function(function);
    (register(&unit, 0).0, flags(&unit))
}

#[test]
fn fyl2x_follows_its_table() {
    let columns = [minus(INFINITY), minus(TWO), minus(ZERO), ZERO, HALF, ONE, TWO, INFINITY];
    // None: invalid. The rows for negative y are these with the other sign.
    let rows = [
        (ZERO, [None, None, None, None, Some(minus(ZERO)), Some(ZERO), Some(ZERO), None]),
        (TWO, {
            let (pole, low) = (Some(minus(INFINITY)), Some(minus(TWO)));
            [None, None, pole, pole, low, Some(ZERO), Some(TWO), Some(INFINITY)]
        }),
        (INFINITY, {
            let (low, high) = (Some(minus(INFINITY)), Some(INFINITY));
            [None, None, low, low, low, None, high, high]
        }),
    ];
    for (y, row) in rows {
        for (x, expected) in columns.into_iter().zip(row) {
            let (result, raised) = binary(Function::YLog2X, x, y);
            assert_eq!(result, expected.unwrap_or(INVALID), "{y:x?} log2 {x:x?}");
            assert_eq!(raised & 1 == 1, expected.is_none(), "{y:x?} log2 {x:x?}");
            assert_eq!(
                raised & 4 == 4,
                x.mant == 0 && y == TWO,
                "a pole is a zero divide: {y:x?} log2 {x:x?}"
            );
            let (opposite, _) = binary(Function::YLog2X, x, minus(y));
            assert_eq!(opposite, expected.map_or(INVALID, minus), "{y:x?} log2 {x:x?}, negated");
        }
    }
}

#[test]
fn fyl2xp1_follows_its_table() {
    let columns = [minus(QUARTER), minus(ZERO), ZERO, QUARTER];
    let rows = [
        (ZERO, [Some(minus(ZERO)), Some(minus(ZERO)), Some(ZERO), Some(ZERO)]),
        (INFINITY, [Some(minus(INFINITY)), None, None, Some(INFINITY)]),
    ];
    for (y, row) in rows {
        for (x, expected) in columns.into_iter().zip(row) {
            assert_eq!(binary(Function::YLog2XPlus1, x, y).0, expected.unwrap_or(INVALID), "{y:x?} {x:x?}");
            let opposite = expected.map_or(INVALID, minus);
            assert_eq!(binary(Function::YLog2XPlus1, x, minus(y)).0, opposite, "{y:x?} {x:x?}, negated");
        }
    }
    // Beyond the domain, our own choice.
    assert_eq!(binary(Function::YLog2XPlus1, ONE, TWO).0, TWO);
    assert_eq!(binary(Function::YLog2XPlus1, minus(ONE), TWO), (minus(INFINITY), 4));
    assert_eq!(binary(Function::YLog2XPlus1, minus(TWO), TWO), (INVALID, 1));
}

#[test]
fn fpatan_follows_its_table() {
    let columns = [minus(INFINITY), minus(ONE), minus(ZERO), ZERO, ONE, INFINITY];
    let rows = [
        (ZERO, [PI, PI, PI, ZERO, ZERO, ZERO]),
        (ONE, [PI, THREE_QUARTERS_PI, HALF_PI, HALF_PI, QUARTER_PI, ZERO]),
        (INFINITY, [THREE_QUARTERS_PI, HALF_PI, HALF_PI, HALF_PI, HALF_PI, QUARTER_PI]),
    ];
    for (y, row) in rows {
        for (x, expected) in columns.into_iter().zip(row) {
            let (result, raised) = binary(Function::ArcTangent, x, y);
            assert_eq!((result, raised & 0x1f), (expected, 0), "{y:x?} by {x:x?}");
            let (opposite, _) = binary(Function::ArcTangent, x, minus(y));
            assert_eq!(opposite, minus(expected), "{y:x?} by {x:x?}, negated");
        }
    }
}

#[test]
fn a_trigonometric_function_does_nothing_from_2_to_the_63_on() {
    let limit = F80 { sign_exp: 0x403e, mant: INTEGER };
    for function in [Function::Sine, Function::Cosine, Function::Tangent, Function::SineCosine] {
        let mut there = unit(MASKED, &[limit]);
        there.function(function);
        assert_eq!(register(&there, 0).0, limit, "{function:?}");
        assert_eq!(there.status(), 0x400, "C2 and nothing else: {function:?}");

        let below = F80 { sign_exp: 0x403d, mant: u64::MAX };
        let mut there = unit(MASKED, &[below]);
        there.function(function);
        assert_ne!(register(&there, 0).0, below, "{function:?}");
        assert_eq!(there.status() & 0x47f, 0x20, "{function:?}");

        let mut there = unit(MASKED, &[INFINITY]);
        there.function(function);
        assert_eq!((register(&there, 0).0, flags(&there)), (INVALID, 1), "{function:?}");
    }
}

#[test]
fn the_larger_significand_of_two_nans_wins() {
    let nan = |neg, mant| F80 { sign_exp: 0x7fff, mant: INTEGER | mant }.with_sign(neg);
    const QUIET: u64 = 1 << 62;
    let cases = [
        // Quiet against signalling, whatever their significands.
        (nan(false, QUIET), nan(true, QUIET - 1), nan(false, QUIET), 1),
        (nan(false, QUIET - 1), nan(true, QUIET), nan(true, QUIET), 1),
        // Two of a kind.
        (nan(false, QUIET | 1), nan(true, QUIET | 2), nan(true, QUIET | 2), 0),
        (nan(false, 7), nan(true, 6), nan(false, QUIET | 7), 1),
        (nan(true, QUIET | 5), nan(false, QUIET | 5), nan(false, QUIET | 5), 0),
        // Against a number, and a denormal goes unnoticed.
        (nan(true, 1), F80 { sign_exp: 0, mant: 1 }, nan(true, QUIET | 1), 1),
        // An encoding without meaning beats them all.
        (nan(false, QUIET), F80 { sign_exp: 0x4000, mant: 1 }, INVALID, 1),
    ];
    for (a, b, expected, raised) in cases {
        let mut unit = unit(MASKED, &[a, b]);
        unit.arith(Arith::Mul, 0, 1, false);
        assert_eq!((register(&unit, 0).0, flags(&unit)), (expected, raised), "{a:x?} {b:x?}");
    }
}

#[test]
fn unmasked_overflow_moves_a_registers_exponent_and_leaves_memory() {
    let large = F80 { sign_exp: 0x7ffe, mant: u64::MAX };
    let mut unit = unit(MASKED & !8, &[large, TWO]);
    unit.arith(Arith::Mul, 0, 1, false);
    assert_eq!(register(&unit, 0).0, F80 { sign_exp: 0x7fff - 24576, mant: u64::MAX });
    assert_eq!(unit.status() & 0xff, 0x88, "overflow and its summary; the product is exact");
    assert!(unit.pending());

    unit.clear_exceptions();
    unit.load(Memory::F80(large.to_bytes()));
    let top = unit.status() & 0x3800;
    assert_eq!(unit.store(Size::F64, true), None);
    assert_eq!(unit.status() & 0x3800, top, "no pop");
    assert_eq!(register(&unit, 0), (large, false));
    assert!(unit.pending());
    unit.set_control(MASKED);
    assert!(!unit.pending(), "a mask takes the summary back");
}

#[test]
fn an_exception_before_the_operation_stops_it_when_unmasked() {
    let denormal = F80 { sign_exp: 0, mant: 1 };
    for (masks, a, b, raised) in [(0x37e, minus(INFINITY), INFINITY, 1), (0x37d, ONE, denormal, 2)] {
        let mut unit = unit(masks, &[a, b]);
        unit.arith(Arith::Add, 1, 0, true);
        assert_eq!((register(&unit, 0).0, register(&unit, 1).0), (a, b));
        assert_eq!(flags(&unit), raised);
        assert!(unit.pending());
    }
    let mut unit = unit(MASKED & !4, &[ZERO, ONE]);
    unit.arith(Arith::Div, 1, 0, true);
    assert_eq!(register(&unit, 1), (ONE, false));
    assert_eq!(flags(&unit), 4);
}

#[test]
fn the_stack_overflows_and_underflows() {
    let mut full = unit(MASKED, &[ONE; 8]);
    full.load(Memory::I16(5));
    assert_eq!(register(&full, 0).0, INVALID);
    assert_eq!(full.status() & 0x27f, 0x241, "invalid, stack fault, C1 for overflow");

    let mut empty = unit(MASKED, &[]);
    empty.arith(Arith::Add, 0, 1, false);
    assert_eq!(register(&empty, 0), (INVALID, false));
    assert_eq!(empty.status() & 0x27f, 0x41, "invalid, stack fault, C1 clear for underflow");

    let mut empty = unit(MASKED, &[]);
    let stored = empty.store(Size::I32 { truncate: false }, true).expect("the masked response");
    assert_eq!(stored.bytes(), i32::MIN.to_le_bytes());
    empty.compare(Ordering::Ordered, 0, 0);
    assert_eq!(empty.status() & 0x4500, 0x4500, "unordered");

    let mut unmasked = unit(MASKED & !1, &[ONE; 8]);
    let before = unmasked.clone();
    unmasked.load(Memory::I16(5));
    assert_eq!(register(&unmasked, 0), register(&before, 0));
    assert_eq!(unmasked.status() & 0x3800, before.status() & 0x3800);
    assert!(unmasked.pending());
}

#[test]
fn a_partial_remainder_gets_there_in_steps() {
    let huge = F80 { sign_exp: 0x7ffe, mant: u64::MAX };
    let mut unit = unit(MASKED, &[huge, F80 { sign_exp: 0x4000, mant: 0xc000_0000_0000_0000 }]);
    let mut steps = 0;
    loop {
        unit.function(Function::Remainder);
        steps += 1;
        if unit.status() & 0x400 == 0 {
            break;
        }
        assert!(steps < 600, "each step takes at least 32 bits of 16384 away");
    }
    // (2^64 - 1) * 2^16320 is a multiple of three.
    assert_eq!(register(&unit, 0).0, ZERO);
    assert_eq!(unit.status() & 0x3f, 0, "exact");
    // 7 = 2 * 3 + 1, and 8 = 3 * 3 - 1 to nearest.
    for (function, dividend, rest, quotient) in
        [(Function::Remainder, 7, ONE, 2), (Function::RemainderNearest, 8, minus(ONE), 3)]
    {
        let mut unit = unit_of_integers(dividend, 3);
        unit.function(function);
        assert_eq!(register(&unit, 0).0, rest, "{function:?}");
        let status = unit.status();
        let bits = status >> 9 & 1 | status >> 14 << 1 & 2 | status >> 8 << 2 & 4;
        assert_eq!(bits, quotient, "{function:?}");
    }
}

fn unit_of_integers(st0: i32, st1: i32) -> Unit {
    let mut unit = Unit::reset();
    unit.load(Memory::I32(st1));
    unit.load(Memory::I32(st0));
    unit
}

#[test]
fn decimals_go_there_and_back() {
    let digits = [0x90, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0x80];
    let mut unit = Unit::reset();
    unit.load(Memory::Bcd(digits));
    let integer = unit.clone().store(Size::I64 { truncate: false }, false).expect("in range");
    assert_eq!(integer.bytes(), (-1_234_567_890_i64).to_le_bytes());
    assert_eq!(unit.store(Size::Bcd, true).expect("in range").bytes(), digits);
    unit.load(Memory::I64(1_000_000_000_000_000_000));
    let too_long = unit.store(Size::Bcd, true).expect("the masked response");
    assert_eq!(too_long.bytes(), [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff]);
    assert_eq!(flags(&unit), 1);
}

#[test]
fn pointers_are_kept_as_loaded() {
    let mut image = [0; super::super::STATE_SIZE];
    for (at, byte) in (0..).zip(&mut image[12..28]) {
        *byte = at + 1;
    }
    image[8..12].fill(0xff);
    let mut unit = Unit::reset();
    unit.load_environment(Layout::Long, &image);
    unit.load(Memory::I16(1));
    let stored = unit.clone().store_environment(Layout::Long);
    // Five bits beside the opcode are reserved; so is the upper half of the last field.
    assert_eq!(stored[12..19], image[12..19]);
    assert_eq!(stored[19], image[19] & 7);
    assert_eq!(stored[20..26], image[20..26]);
    let mut long = [0; super::super::FXSAVE_SIZE];
    unit.save(&mut long);
    assert_eq!(long[8..12], image[12..16], "instruction pointer");
    unit.init();
    unit.save(&mut long);
    assert_eq!(long[6..24], [0; 18], "FNINIT forgets them");
}
