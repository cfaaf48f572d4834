//! FYL2X and FYL2XP1 (SDM volume 2).

use std::ops::ControlFlow;

use super::env::{Env, flag};
use super::operand::{Outcome, denormal, invalid, nan2, zero_divide};
use super::round::{Unrounded, to_register};
use super::value::{BIAS, F80, Kind};
use super::wide::Wide;

/// Terms of the series of the area tangent: its argument's square is below 2^-5, so 27 terms pass 2^-130.
const TERMS: u32 = 27;
/// The square root of 2, as the significand of a register.
const SQRT_2: u64 = 0xb504_f333_f9de_6484;

/// `y * log2(x)`.
pub(super) fn y_log2_x(env: &mut Env, x: F80, y: F80) -> Outcome {
    let (of_x, of_y) = match nan2(env, x, y) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kinds) => kinds,
    };
    let one = x == F80::ONE;
    match (of_x, of_y) {
        (Kind::Zero, Kind::Zero) => return invalid(env),
        (Kind::Zero, Kind::Infinity) => return Some(F80::infinity(!y.negative())),
        (Kind::Zero, _) => return zero_divide(env, !y.negative()),
        _ if x.negative() => return invalid(env),
        (Kind::Infinity, Kind::Zero) => return invalid(env),
        (_, Kind::Infinity) if one => return invalid(env),
        _ => {}
    }
    if denormal(env, &[of_x, of_y]) {
        return None;
    }
    let neg = y.negative() != below_one(x);
    Some(match (of_x, of_y) {
        (Kind::Infinity, _) | (_, Kind::Infinity) => F80::infinity(neg),
        (_, Kind::Zero) => F80::zero(neg),
        _ if one => F80::zero(neg),
        _ => product(env, y, &log2(Wide::of(x))),
    })
}

/// `y * log2(x + 1)`.
///
/// The manual leaves `x` beyond `1 - sqrt(1/2)` in magnitude open: here the function goes on, and is invalid
/// below -1.
pub(super) fn y_log2_x_plus_1(env: &mut Env, x: F80, y: F80) -> Outcome {
    let (of_x, of_y) = match nan2(env, x, y) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kinds) => kinds,
    };
    match (of_x, of_y) {
        (Kind::Infinity, _) if x.negative() => return invalid(env),
        (Kind::Infinity, Kind::Zero) | (Kind::Zero, Kind::Infinity) => return invalid(env),
        _ => {}
    }
    if denormal(env, &[of_x, of_y]) {
        return None;
    }
    let neg = x.negative() != y.negative();
    Some(match (of_x, of_y) {
        (Kind::Infinity, _) | (_, Kind::Infinity) => F80::infinity(neg),
        (Kind::Zero, _) | (_, Kind::Zero) => F80::zero(neg),
        _ => {
            let x = Wide::of(x);
            // Up to a quarter the sum with one would lose bits of x, and its exponent would be none.
            if x.exp < -2 {
                return Some(product(env, y, &Log2 { whole: 0, rest: series(x, x.add(Wide::integer(2))) }));
            }
            let sum = x.add(Wide::ONE);
            if sum.mant == 0 {
                return zero_divide(env, !y.negative());
            }
            if sum.neg {
                return invalid(env);
            }
            product(env, y, &log2(sum))
        }
    })
}

/// Whether a positive number is less than one.
fn below_one(x: F80) -> bool {
    x.sign_exp < F80::ONE.sign_exp
}

/// A binary logarithm.
struct Log2 {
    whole: i32,
    /// Zero exactly when the argument was a power of two.
    rest: Wide,
}

/// Of a number above zero.
fn log2(x: Wide) -> Log2 {
    // Around one, so that nothing cancels when the exponent is added.
    let up = x.mant >> 64 >= u128::from(SQRT_2);
    let whole = x.exp + i32::from(up);
    let m = Wide { exp: if up { -1 } else { 0 }, ..x };
    Log2 { whole, rest: series(m.sub(Wide::ONE), m.add(Wide::ONE)) }
}

/// `log2((1 + s) / (1 - s))` for `s` the quotient of these, at most 0.18 in magnitude.
fn series(numerator: Wide, denominator: Wide) -> Wide {
    let s = numerator.div(denominator);
    let square = s.mul(s);
    let inner = |sum: Wide, k| Wide::ONE.div_small(2 * k + 1).add(square.mul(sum));
    let sum = (0..TERMS).rev().fold(Wide::ZERO, inner);
    s.mul(sum).mul(Wide::LOG2_E).scaled(1)
}

fn product(env: &mut Env, y: F80, log: &Log2) -> F80 {
    let y = Wide::of(y);
    let whole = y.mul(Wide::integer(log.whole));
    if log.rest.mant != 0 {
        return y.mul(Wide::integer(log.whole).add(log.rest)).to_register(env);
    }
    // An integer times y: 80 bits at most, all of them there. It counts as inexact, as it does in processors.
    env.inexact(false);
    let value = Unrounded { neg: whole.neg, exp: whole.exp + BIAS, mant: whole.mant };
    let result = to_register(env, value, 64);
    if result.kind() == Kind::Denormal {
        env.raise(flag::UNDERFLOW);
    }
    result
}
