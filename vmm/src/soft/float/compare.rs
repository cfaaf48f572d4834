//! Comparison and classification.

use std::cmp::Ordering as Order;

use super::env::{Env, flag};
use super::operand::denormal;
use super::value::{F80, Kind};

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// The first is less.
    Less,
    /// Zeros of either sign are equal.
    Equal,
    /// The first is greater.
    Greater,
    /// One is a NaN.
    Unordered,
}

/// Compares (SDM volume 2 "FCOM", "FUCOM"). A quiet NaN is invalid only where `ordered`. The relation is
/// reported even where an unmasked exception keeps the instruction from its pop.
pub(super) fn compare(env: &mut Env, a: F80, b: F80, ordered: bool) -> Relation {
    let kinds = [a.kind(), b.kind()];
    let any = |kind| kinds.contains(&kind);
    let quiet = any(Kind::Quiet);
    if any(Kind::Unsupported) || any(Kind::Signalling) || ordered && quiet {
        env.raise(flag::INVALID);
        return Relation::Unordered;
    }
    if quiet {
        return Relation::Unordered;
    }
    denormal(env, &kinds);
    match key(a).cmp(&key(b)) {
        Order::Less => Relation::Less,
        Order::Equal => Relation::Equal,
        Order::Greater => Relation::Greater,
    }
}

/// Orders like the value. A pseudo-denormal is the normal number that it equals.
fn key(a: F80) -> i128 {
    let magnitude = match a.kind() {
        Kind::Zero => 0,
        Kind::Infinity => i128::MAX,
        _ => {
            let (exp, mant) = a.parts();
            // A denormal's exponent is above -64.
            i128::from(exp + 64) << 64 | i128::from(mant)
        }
    };
    if a.negative() { -magnitude } else { magnitude }
}

/// C3, C2 and C0 of FXAM for a register in use (SDM volume 2 "FXAM"), as the bits 2, 1 and 0.
pub(super) fn examine(a: F80) -> u8 {
    match a.kind() {
        Kind::Unsupported => 0b000,
        Kind::Quiet | Kind::Signalling => 0b001,
        Kind::Normal => 0b010,
        Kind::Infinity => 0b011,
        Kind::Zero => 0b100,
        Kind::Denormal => 0b110,
    }
}
