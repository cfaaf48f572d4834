//! FSCALE, FXTRACT and FRNDINT (SDM volume 2).

use std::ops::ControlFlow;

use super::env::{Env, flag};
use super::operand::{Outcome, denormal, invalid, nan1, nan2, zero_divide};
use super::round::{Unrounded, cut, jam, to_register};
use super::value::{BIAS, F80, INTEGER, Kind};

/// `a * 2^b`, `b` rounded toward zero.
pub(super) fn scale(env: &mut Env, a: F80, b: F80) -> Outcome {
    let kinds = match nan2(env, a, b) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kinds) => kinds,
    };
    match kinds {
        (Kind::Infinity, Kind::Infinity) if b.negative() => return invalid(env),
        (Kind::Zero, Kind::Infinity) if !b.negative() => return invalid(env),
        _ => {}
    }
    if denormal(env, &[kinds.0, kinds.1]) {
        return None;
    }
    Some(match kinds {
        // No rounding here: a denormal that is scaled by zero is no underflow.
        (Kind::Infinity | Kind::Zero, _) | (_, Kind::Zero) => a.canonical(),
        (_, Kind::Infinity) if b.negative() => F80::zero(a.negative()),
        (_, Kind::Infinity) => F80::infinity(a.negative()),
        _ => {
            let (exp, mant) = a.parts();
            to_register(env, Unrounded::exact(a.negative(), exp + power(b), mant), 64)
        }
    })
}

/// The integer part of a finite number other than zero, or one of its sign that is far beyond every exponent.
fn power(b: F80) -> i32 {
    let (exp, mant) = b.parts();
    let magnitude = match exp - BIAS {
        ..0 => 0,
        low @ 0..=17 => (mant >> (63 - low)) as i32,
        _ => 1 << 18,
    };
    if b.negative() { -magnitude } else { magnitude }
}

/// Exponent and significand of a number, in this order: what ST(0) becomes and what is pushed.
pub(super) fn extract(env: &mut Env, a: F80) -> Option<(F80, F80)> {
    let kind = match nan1(env, a) {
        ControlFlow::Break(outcome) => return outcome.map(|nan| (nan, nan)),
        ControlFlow::Continue(kind) => kind,
    };
    match kind {
        Kind::Infinity => return Some((F80::infinity(false), a)),
        Kind::Zero => return zero_divide(env, true).map(|exponent| (exponent, a)),
        _ => {}
    }
    if denormal(env, &[kind]) {
        return None;
    }
    let (exp, mant) = a.parts();
    let significand = F80 { sign_exp: 0x3fff, mant }.with_sign(a.negative());
    Some((from_integer(exp < BIAS, u64::from(exp.abs_diff(BIAS))), significand))
}

/// An integer as a register has it; zero is never negative.
pub(super) fn from_integer(neg: bool, magnitude: u64) -> F80 {
    if magnitude == 0 {
        return F80::zero(false);
    }
    let shift = magnitude.leading_zeros();
    F80::pack(neg, BIAS + 63 - shift as i32, magnitude << shift)
}

/// `a` rounded to an integer.
pub(super) fn round(env: &mut Env, a: F80) -> Outcome {
    let kind = match nan1(env, a) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kind) => kind,
    };
    if matches!(kind, Kind::Infinity | Kind::Zero) {
        return Some(a);
    }
    if denormal(env, &[kind]) {
        return None;
    }
    if a.parts().0 >= BIAS + 63 {
        return Some(a);
    }
    let rounding = env.rounding();
    let integer = cut(fixed(a), 64, rounding, a.negative());
    if integer.inexact {
        env.inexact(integer.up);
    }
    let result = from_integer(false, integer.mant);
    Some(result.with_sign(a.negative()))
}

/// The magnitude of a finite number below 2^64 in units of 2^-64; bit 0 stands for the rest.
pub(super) fn fixed(a: F80) -> u128 {
    let (exp, mant) = a.parts();
    debug_assert!(exp <= BIAS + 63 && mant & INTEGER != 0);
    jam(u128::from(mant) << 64, (BIAS + 63 - exp).unsigned_abs())
}

/// Reports that a store of `a` is invalid; whether memory then gets the format's indefinite value.
pub(super) fn indefinite(env: &mut Env) -> bool {
    !env.stops(flag::INVALID)
}
