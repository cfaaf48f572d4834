//! What operands do before an operation begins (SDM volume 1 sections 4.8.3.5, 8.5.1 and 8.5.2).
//!
//! The order is the manual's (section 4.9.2): unsupported encodings and signalling NaNs, quiet NaNs, invalid
//! combinations and zero divide (the operation's own), denormals.

use std::ops::ControlFlow;

use super::env::{Env, flag};
use super::value::{F80, Kind};

/// A result in a register. `None`: an unmasked exception leaves the destination as it was.
pub(super) type Outcome = Option<F80>;

/// The invalid-operation exception and its masked response.
pub(super) fn invalid(env: &mut Env) -> Outcome {
    if env.stops(flag::INVALID) { None } else { Some(F80::INDEFINITE) }
}

/// The zero-divide exception; its masked response is an infinity.
pub(super) fn zero_divide(env: &mut Env, neg: bool) -> Outcome {
    if env.stops(flag::ZERO_DIVIDE) { None } else { Some(F80::infinity(neg)) }
}

/// Settles an operation on NaNs and unsupported encodings.
pub(super) fn nan1(env: &mut Env, a: F80) -> ControlFlow<Outcome, Kind> {
    match a.kind() {
        Kind::Unsupported => ControlFlow::Break(invalid(env)),
        Kind::Signalling if env.stops(flag::INVALID) => ControlFlow::Break(None),
        Kind::Signalling | Kind::Quiet => ControlFlow::Break(Some(a.quieted())),
        kind => ControlFlow::Continue(kind),
    }
}

/// The same for two operands: a NaN beats a number, a quiet NaN a signalling one, the larger significand the
/// smaller, and at last the positive the negative (table 4-7).
pub(super) fn nan2(env: &mut Env, a: F80, b: F80) -> ControlFlow<Outcome, (Kind, Kind)> {
    let kinds = (a.kind(), b.kind());
    if kinds.0 == Kind::Unsupported || kinds.1 == Kind::Unsupported {
        return ControlFlow::Break(invalid(env));
    }
    if (kinds.0 == Kind::Signalling || kinds.1 == Kind::Signalling) && env.stops(flag::INVALID) {
        return ControlFlow::Break(None);
    }
    let first = match (kinds.0, kinds.1) {
        (Kind::Quiet, Kind::Signalling) => true,
        (Kind::Signalling, Kind::Quiet) => false,
        _ if !b.is_nan() && !a.is_nan() => return ControlFlow::Continue(kinds),
        _ if !b.is_nan() => true,
        _ if !a.is_nan() => false,
        _ => {
            let (x, y) = (a.quieted().mant, b.quieted().mant);
            x > y || x == y && !a.negative()
        }
    };
    ControlFlow::Break(Some(if first { a } else { b }.quieted()))
}

/// The denormal-operand exception, if any of these is one; whether it stops the operation.
pub(super) fn denormal(env: &mut Env, kinds: &[Kind]) -> bool {
    let any = kinds.contains(&Kind::Denormal) || env.narrow_denormal();
    any && env.stops(flag::DENORMAL)
}
