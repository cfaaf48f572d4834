//! Addition, subtraction, multiplication, division, square root, rounding to an integer.

use std::ops::ControlFlow;

use super::env::{Env, Rounding};
use super::operand::{Outcome, denormal, invalid, nan1, nan2, zero_divide};
use super::round::{Unrounded, jam, to_register};
use super::value::{BIAS, F80, Kind};

/// `a + b`, or `a - b` (SDM volume 2 "FADD", "FSUB").
pub(super) fn add(env: &mut Env, a: F80, b: F80, subtract: bool) -> Outcome {
    let kinds = match nan2(env, a, b) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kinds) => kinds,
    };
    let b = if subtract { b.negated() } else { b };
    if kinds == (Kind::Infinity, Kind::Infinity) && a.negative() != b.negative() {
        return invalid(env);
    }
    if denormal(env, &[kinds.0, kinds.1]) {
        return None;
    }
    Some(match kinds {
        (Kind::Infinity, _) => a,
        (_, Kind::Infinity) => b,
        (Kind::Zero, Kind::Zero) if a.negative() == b.negative() => a,
        (Kind::Zero, Kind::Zero) => F80::zero(env.rounding() == Rounding::Down),
        (Kind::Zero, _) => renew(env, b),
        (_, Kind::Zero) => renew(env, a),
        _ => sum(env, a, b),
    })
}

/// A number rounded to the precision in force.
fn renew(env: &mut Env, a: F80) -> F80 {
    let (exp, mant) = a.parts();
    let bits = env.precision();
    to_register(env, Unrounded::exact(a.negative(), exp, mant), bits)
}

/// The sum of two numbers other than zero.
fn sum(env: &mut Env, a: F80, b: F80) -> F80 {
    let (large, small) = if a.parts() >= b.parts() { (a, b) } else { (b, a) };
    let ((exp, x), (small_exp, y)) = (large.parts(), small.parts());
    // One bit is left free for the carry. The larger one has 63 zero bits below it, so that a bit 0 which
    // stands for more is far below any that counts.
    let x = u128::from(x) << 63;
    let y = jam(u128::from(y) << 63, exp.abs_diff(small_exp));
    let mant = if large.negative() == small.negative() { x + y } else { x - y };
    if mant == 0 {
        return F80::zero(env.rounding() == Rounding::Down);
    }
    let bits = env.precision();
    to_register(env, Unrounded::normalised(large.negative(), exp + 1, mant), bits)
}

/// `a * b` (SDM volume 2 "FMUL").
pub(super) fn mul(env: &mut Env, a: F80, b: F80) -> Outcome {
    let kinds = match nan2(env, a, b) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kinds) => kinds,
    };
    let neg = a.negative() != b.negative();
    if matches!(kinds, (Kind::Infinity, Kind::Zero) | (Kind::Zero, Kind::Infinity)) {
        return invalid(env);
    }
    if denormal(env, &[kinds.0, kinds.1]) {
        return None;
    }
    Some(match kinds {
        (Kind::Infinity, _) | (_, Kind::Infinity) => F80::infinity(neg),
        (Kind::Zero, _) | (_, Kind::Zero) => F80::zero(neg),
        _ => {
            let ((a_exp, x), (b_exp, y)) = (a.parts(), b.parts());
            let product = u128::from(x) * u128::from(y);
            let bits = env.precision();
            to_register(env, Unrounded::normalised(neg, a_exp + b_exp - BIAS + 1, product), bits)
        }
    })
}

/// `a / b` (SDM volume 2 "FDIV").
pub(super) fn div(env: &mut Env, a: F80, b: F80) -> Outcome {
    let kinds = match nan2(env, a, b) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kinds) => kinds,
    };
    let neg = a.negative() != b.negative();
    match kinds {
        (Kind::Infinity, Kind::Infinity) | (Kind::Zero, Kind::Zero) => return invalid(env),
        (Kind::Normal | Kind::Denormal, Kind::Zero) => return zero_divide(env, neg),
        _ => {}
    }
    if denormal(env, &[kinds.0, kinds.1]) {
        return None;
    }
    Some(match kinds {
        (Kind::Infinity, _) => F80::infinity(neg),
        (_, Kind::Infinity) | (Kind::Zero, _) => F80::zero(neg),
        _ => {
            let ((a_exp, x), (b_exp, y)) = (a.parts(), b.parts());
            let bits = env.precision();
            let exp = a_exp - b_exp + BIAS;
            to_register(env, Unrounded::normalised(neg, exp, quotient(x, y)), bits)
        }
    })
}

/// `x / y * 2^127` for two significands: at least 127 bits of it, bit 0 stands for the rest.
fn quotient(x: u64, y: u64) -> u128 {
    let y = u128::from(y);
    let dividend = u128::from(x) << 63;
    let low = (dividend % y) << 64;
    ((dividend / y) << 64) | (low / y) | u128::from(low % y != 0)
}

/// Square root (SDM volume 2 "FSQRT").
pub(super) fn sqrt(env: &mut Env, a: F80) -> Outcome {
    let kind = match nan1(env, a) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kind) => kind,
    };
    match kind {
        Kind::Zero => return Some(a),
        _ if a.negative() => return invalid(env),
        Kind::Infinity => return Some(a),
        _ => {}
    }
    if denormal(env, &[kind]) {
        return None;
    }
    let (exp, mant) = a.parts();
    // The exponent is halved, so it must be even: an odd one gives the significand its bit.
    let power = exp - BIAS;
    let radicand = u128::from(mant) << (63 + (power & 1));
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    // The next bit of the root is set when the rest exceeds the root; a tie would need a fraction.
    let below = u128::from(rest > root) << 63 | u128::from(rest != 0);
    let value = Unrounded { neg: false, exp: (power >> 1) + BIAS, mant: root << 64 | below };
    let bits = env.precision();
    Some(to_register(env, value, bits))
}
