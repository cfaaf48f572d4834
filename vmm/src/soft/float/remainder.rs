//! FPREM and FPREM1 (SDM volume 2).

use std::ops::ControlFlow;

use super::env::Env;
use super::operand::{Outcome, denormal, invalid, nan2};
use super::round::{Unrounded, to_register};
use super::value::{F80, Kind};

/// How the quotient becomes an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotient {
    /// FPREM: toward zero.
    Truncated,
    /// FPREM1, the remainder of IEEE 754: to nearest, ties to even.
    Nearest,
}

/// What a step of the division says about its quotient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The remainder is reached; the three low bits of the quotient.
    Complete(u8),
    /// One more step is needed: C2.
    Partial,
}

/// One step of `a` modulo `b`. Without a result, or for operands that are no numbers, nothing is said about
/// the quotient.
pub(super) fn rem(env: &mut Env, a: F80, b: F80, how: Quotient) -> (Outcome, Option<Progress>) {
    let kinds = match nan2(env, a, b) {
        ControlFlow::Break(outcome) => return (outcome, None),
        ControlFlow::Continue(kinds) => kinds,
    };
    if kinds.0 == Kind::Infinity || kinds.1 == Kind::Zero {
        return (invalid(env), None);
    }
    if denormal(env, &[kinds.0, kinds.1]) {
        return (None, None);
    }
    if kinds.0 == Kind::Zero {
        return (Some(a), Some(Progress::Complete(0)));
    }
    if kinds.1 == Kind::Infinity {
        return (Some(a.canonical()), Some(Progress::Complete(0)));
    }
    let difference = a.parts().0 - b.parts().0;
    if difference >= 64 {
        let bits = difference & 31 | 32;
        return (Some(partial(env, a, b, bits)), Some(Progress::Partial));
    }
    let (result, quotient) = complete(env, a, b, difference, how);
    (Some(result), Some(Progress::Complete(quotient)))
}

/// The number itself, by way of the rounding that may report an underflow.
fn exact(env: &mut Env, a: F80) -> F80 {
    let (exp, mant) = a.parts();
    to_register(env, Unrounded::exact(a.negative(), exp, mant), 64)
}

/// `rest` in units of the last bit of a number with this exponent.
fn pack(env: &mut Env, neg: bool, exp: i32, rest: u128) -> F80 {
    if rest == 0 {
        return F80::zero(neg);
    }
    to_register(env, Unrounded::normalised(neg, exp + 64, rest), 64)
}

/// Takes the first `bits` (at most 63) bits of the quotient off.
fn partial(env: &mut Env, a: F80, b: F80, bits: i32) -> F80 {
    let ((a_exp, x), (_, y)) = (a.parts(), b.parts());
    let rest = (u128::from(x) << bits) % u128::from(y);
    pack(env, a.negative(), a_exp - bits, rest)
}

fn complete(env: &mut Env, a: F80, b: F80, difference: i32, how: Quotient) -> (F80, u8) {
    let ((_, x), (exp, y)) = (a.parts(), b.parts());
    let (x, y) = (u128::from(x), u128::from(y));
    let neg = a.negative();
    let (quotient, rest) = match difference {
        0.. => ((x << difference) / y, (x << difference) % y),
        // Below half of the divisor, or not to be rounded up: it is its own remainder.
        _ if how == Quotient::Truncated || difference < -1 || x <= y => return (exact(env, a), 0),
        // Between half of the divisor and all of it, in units of half its last bit.
        _ => return (pack(env, !neg, exp - 1, 2 * y - x), 1),
    };
    let up = how == Quotient::Nearest && (2 * rest > y || 2 * rest == y && quotient & 1 == 1);
    let (neg, rest, quotient) = if up { (!neg, y - rest, quotient + 1) } else { (neg, rest, quotient) };
    (pack(env, neg, exp, rest), (quotient & 7) as u8)
}
