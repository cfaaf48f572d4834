//! FPATAN (SDM volume 2).

use std::ops::ControlFlow;

use super::env::Env;
use super::operand::{Outcome, denormal, nan2};
use super::value::{F80, Kind};
use super::wide::Wide;

/// Arc tangents of 0/8 to 8/8.
const EIGHTHS: [Wide; 9] = [
    Wide::ZERO,
    Wide::positive(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef7),
    Wide::positive(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e5),
    Wide::positive(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::positive(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::positive(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3747),
    Wide::positive(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9e),
    Wide::positive(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    Wide::positive(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];
/// Terms of the series: its argument is at most 1/16, so 17 terms pass 2^-130.
const TERMS: u32 = 17;

/// The angle of the point (`x`, `y`), from -π to π.
pub(super) fn arctan(env: &mut Env, y: F80, x: F80) -> Outcome {
    let (of_y, of_x) = match nan2(env, y, x) {
        ControlFlow::Break(outcome) => return outcome,
        ControlFlow::Continue(kinds) => kinds,
    };
    if denormal(env, &[of_x, of_y]) {
        return None;
    }
    let pi = Wide::HALF_PI.scaled(1);
    let angle = match (of_y, of_x) {
        (Kind::Infinity, Kind::Infinity) => {
            let quarter = Wide::HALF_PI.scaled(-1);
            if x.negative() { pi.sub(quarter) } else { quarter }
        }
        (Kind::Zero, _) | (_, Kind::Infinity) if x.negative() => pi,
        (Kind::Zero, _) | (_, Kind::Infinity) => return Some(F80::zero(y.negative())),
        (_, Kind::Zero) | (Kind::Infinity, _) => Wide::HALF_PI,
        _ => {
            let (y, x) = (Wide { neg: false, ..Wide::of(y) }, Wide::of(x));
            let right = Wide { neg: false, ..x };
            let first = if (y.exp, y.mant) > (right.exp, right.mant) {
                Wide::HALF_PI.sub(below_one(right.div(y)))
            } else {
                below_one(y.div(right))
            };
            if x.neg { pi.sub(first) } else { first }
        }
    };
    Some(Wide { neg: y.negative(), ..angle }.to_register(env))
}

/// The arc tangent of a number from 0 (exclusive) to 1.
fn below_one(tangent: Wide) -> Wide {
    if tangent.exp < -60 {
        return tangent.just_below();
    }
    // The nearest eighth, and the arc tangent of what is beyond it.
    let eighths = match tangent.exp {
        ..-4 => 0,
        exp => ((tangent.mant >> (123 - exp)) as usize).div_ceil(2),
    };
    let base = Wide::integer(eighths as i32).scaled(-3);
    let beyond = tangent.sub(base).div(Wide::ONE.add(tangent.mul(base)));
    let square = beyond.mul(beyond);
    let inner = |sum: Wide, k| Wide::ONE.div_small(2 * k + 1).sub(square.mul(sum));
    let series = beyond.mul((0..TERMS).rev().fold(Wide::ZERO, inner));
    EIGHTHS[eighths].add(series)
}
