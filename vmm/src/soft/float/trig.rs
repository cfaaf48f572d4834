//! FSIN, FCOS, FSINCOS and FPTAN (SDM volume 2).

use std::ops::ControlFlow;

use super::env::Env;
use super::operand::{Outcome, denormal, invalid, nan1};
use super::value::{BIAS, F80, Kind};
use super::wide::Wide;

/// π in units of 2^-64: the 66 bits with which the x87 reduces arguments (SDM volume 1 section 8.3.8).
const PI_66: u128 = 0x3_243f_6a88_85a3_08d3;
/// The exponent from which on there is no reduction: C2.
const TOO_LARGE: i32 = BIAS + 63;
/// Where the factorials of the two series end: `(π/4)^33 / 33!` is below 2^-130.
const END: u32 = 36;

/// Exponent of angles whose square is lost beside one.
const TINY: i32 = -60;

/// A trigonometric function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trig {
    Sin,
    Cos,
    Tan,
}

/// Whether an argument is beyond 2^63: the instruction then sets C2 and does nothing.
pub(super) fn too_large(a: F80) -> bool {
    a.kind() == Kind::Normal && a.parts().0 >= TOO_LARGE
}

/// The function of an argument that is not [`too_large`].
pub(super) fn trig(env: &mut Env, function: Trig, a: F80) -> Outcome {
    let kind = match nan1(env, a) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kind) => kind,
    };
    match kind {
        Kind::Infinity => return invalid(env),
        Kind::Zero if function == Trig::Cos => return Some(F80::ONE),
        Kind::Zero => return Some(a),
        _ => {}
    }
    if denormal(env, &[kind]) {
        return None;
    }
    let (quarter, angle) = reduce(a);
    let turned = quarter & 1 != 0;
    let result = match function {
        Trig::Sin | Trig::Cos => {
            let quarter = quarter + u32::from(function == Trig::Cos);
            let result = if turned == (function == Trig::Cos) { sin(angle) } else { cos(angle) };
            if quarter & 2 != 0 { result.negated() } else { result }
        }
        // Too small for the series to tell: just above the angle, which bit 0 will say, and just below its
        // reciprocal.
        Trig::Tan if !turned && angle.exp < TINY => angle,
        Trig::Tan if turned && angle.exp < TINY => Wide::ONE.div(angle).just_below().negated(),
        Trig::Tan if turned => cos(angle).div(sin(angle)).negated(),
        Trig::Tan => sin(angle).div(cos(angle)),
    };
    Some(result.to_register(env))
}

/// The quarter turn that is nearest, modulo four, and what remains: at most π/4 in magnitude, never zero, and
/// exact.
fn reduce(a: F80) -> (u32, Wide) {
    let whole = Wide::of(a);
    if whole.exp < -2 {
        return (0, whole);
    }
    // In units of 2^-65, in which half of π is an integer.
    let (exp, mant) = a.parts();
    let units = u128::from(mant) << (exp - BIAS + 2);
    let (turns, rest) = (units / PI_66, units % PI_66);
    let up = 2 * rest > PI_66;
    let rest = if up { PI_66 - rest } else { rest };
    let angle = Wide::new(a.negative() != up, 127 - 65, rest);
    let turns = (turns % 4) as u32 + u32::from(up);
    // Turning back by so many is turning forth by what is missing to four.
    let turns = if a.negative() { 8 - turns } else { turns };
    (turns & 3, angle)
}

/// Of at most π/4.
fn sin(angle: Wide) -> Wide {
    if angle.exp < TINY {
        return angle.just_below();
    }
    angle.mul(alternating(angle, 3))
}

/// Of at most π/4.
fn cos(angle: Wide) -> Wide {
    alternating(angle, 2)
}

/// `1 - x²/(k(k-1)) (1 - x²/((k+2)(k+1)) (1 - ...))`, `k` the first factorial.
fn alternating(angle: Wide, first: u32) -> Wide {
    let square = angle.mul(angle);
    let inner = |sum: Wide, k: u32| Wide::ONE.sub(square.div_small(k * (k - 1)).mul(sum));
    (first..END).step_by(2).rev().fold(Wide::ONE, inner)
}
