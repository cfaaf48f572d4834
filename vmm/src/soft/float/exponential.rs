//! F2XM1 (SDM volume 2).

use std::ops::ControlFlow;

use super::env::Env;
use super::operand::{Outcome, denormal, nan1};
use super::value::{BIAS, F80, Kind};
use super::wide::Wide;

/// The first power of the exponential series beyond 128 bits: `ln(2)^33 / 34!` is below 2^-140.
const TERMS: u32 = 34;

/// `2^a - 1` for `a` from -1 to 1.
///
/// Beyond that the manual leaves the result open; here it is `a` itself, and inexact, as processors give it, but
/// for minus infinity, which gives -1.
pub(super) fn exp2_minus_1(env: &mut Env, a: F80) -> Outcome {
    let kind = match nan1(env, a) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kind) => kind,
    };
    match kind {
        Kind::Zero => return Some(a),
        Kind::Infinity => return Some(if a.negative() { F80::ONE.negated() } else { a }),
        _ => {}
    }
    if denormal(env, &[kind]) {
        return None;
    }
    let half = F80 { sign_exp: 0xbffe, ..F80::ONE };
    Some(match a.parts() {
        _ if a == F80::ONE.negated() => {
            env.inexact(false);
            half
        }
        (exp, _) if exp >= BIAS => {
            env.inexact(false);
            a
        }
        _ => {
            let power = Wide::of(a).mul(Wide::LN_2);
            let inner = |sum: Wide, k| Wide::ONE.add(power.div_small(k).mul(sum));
            power.mul((2..=TERMS).rev().fold(Wide::ONE, inner)).to_register(env)
        }
    })
}
