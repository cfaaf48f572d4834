//! RCPPS and RSQRTPS. The manual bounds their error (1.5 / 2^12, relative) and leaves the bits to the processor,
//! and processors differ; the pair must not. So both are defined here, in integers:
//!
//! With `m` the significand as an integer from 2^23 up to 2^24, for the reciprocal, or up to 2^25, where an odd
//! exponent makes it twice as large, for the reciprocal root:
//!
//! - `rcp   = floor((2^36 + floor(m / 2)) / m) / 2^13`, the reciprocal of `m / 2^23` to 13 bits;
//! - `rsqrt = floor((isqrt(floor(2^51 / m)) + 1) / 2) / 2^13`, its reciprocal root to 13 bits;
//!
//! scaled by the exponent. The error is at most 2^-13. No flag is raised and MXCSR is not read: a denormal
//! operand is a zero, a result below the normal range is a zero (SDM, RCPPS and RSQRTPS).

use super::super::integer::{dwords, from_dwords};
use super::format::{Format, Kind, Number, Single, sign_bit};

/// Which estimate, of which lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EstimateOp {
    Rcpps,
    Rcpss,
    Rsqrtps,
    Rsqrtss,
}

/// From here on a reciprocal is a zero: 1.11111111110100000000001b * 2^125 (SDM, RCPPS).
const RECIPROCAL_IS_TINY: u64 = (125 + 127) << 23 | 0x7F_E801;

pub(in super::super) fn estimate(op: EstimateOp, d: u128, s: u128) -> u128 {
    let lanes = dwords(s);
    let merge = |low: u32| d & !u128::from(u32::MAX) | u128::from(low);
    match op {
        EstimateOp::Rcpps => from_dwords(lanes.map(|lane| special(lane, reciprocal))),
        EstimateOp::Rsqrtps => from_dwords(lanes.map(|lane| special(lane, reciprocal_root))),
        EstimateOp::Rcpss => merge(special(lanes[0], reciprocal)),
        EstimateOp::Rsqrtss => merge(special(lanes[0], reciprocal_root)),
    }
}

/// Answers everything but normal values.
fn special(lane: u32, of_normal: fn(bool, i32, u64, u64) -> u64) -> u32 {
    let bits = u64::from(lane);
    let sign = sign_bit::<Single>(bits & Single::SIGN != 0);
    let result = if Single::is_nan(bits) {
        bits | Single::QUIET
    } else if Single::exponent(bits) == 0 {
        sign | Single::INFINITY
    } else {
        match Number::of::<Single>(bits).kind {
            Kind::Finite { exponent, significand } => {
                of_normal(sign != 0, exponent, significand >> 40, Single::magnitude(bits))
            }
            // A root of minus infinity is as invalid as one of minus one.
            Kind::Zero | Kind::Infinite => of_normal(sign != 0, i32::MAX, 1 << 23, Single::INFINITY),
        }
    };
    // Bits of a single.
    result as u32
}

fn reciprocal(sign: bool, exponent: i32, m: u64, magnitude: u64) -> u64 {
    let sign = sign_bit::<Single>(sign);
    if magnitude >= RECIPROCAL_IS_TINY {
        return sign;
    }
    sign | scaled(((1 << 36) + m / 2) / m, -exponent)
}

fn reciprocal_root(sign: bool, exponent: i32, m: u64, magnitude: u64) -> u64 {
    if sign {
        return Single::INDEFINITE;
    }
    if magnitude == Single::INFINITY {
        return 0;
    }
    let odd = exponent & 1;
    let root = ((1_u64 << 51) / (m << odd)).isqrt();
    scaled(root.div_ceil(2), -((exponent - odd) / 2))
}

/// `value / 2^13 * 2^exponent` for 2^12 <= value <= 2^13, a normal result.
fn scaled(value: u64, exponent: i32) -> u64 {
    let (value, exponent) = if value >> 13 == 0 { (value << 1, exponent - 1) } else { (value, exponent) };
    // The callers leave exponents from -126 to 126.
    let field = u64::from((exponent + Single::EMAX).cast_unsigned());
    field << Single::FRACTION | value << 10 & Single::FRACTION_MASK
}
