//! Conversion from and to the formats of memory (SDM volume 2 "FLD", "FST", "FILD", "FIST", "FBLD", "FBSTP").
//!
//! To memory, `None` means that an unmasked exception keeps the operand as it was. No store reports a denormal.

use super::env::{Env, Rounding, flag};
use super::round::{Unrounded, cut, to_f32, to_f64};
use super::scale::{fixed, from_integer, indefinite};
use super::value::{BIAS, EXPONENT_MAX, F80, INTEGER, Kind};

/// Eighteen digits of nines.
const BCD_MAX: u64 = 999_999_999_999_999_999;
/// The packed BCD indefinite value.
const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// An exponent field and fraction widened. Whether it was a denormal comes with it; a signalling NaN remains
/// one.
fn widen(neg: bool, exp: i32, fraction: u64, bias: i32, top: i32) -> (F80, bool) {
    match exp {
        0 if fraction == 0 => (F80::zero(neg), false),
        0 => {
            let shift = fraction.leading_zeros();
            (F80::pack(neg, BIAS - bias + 1 - shift as i32, fraction << shift), true)
        }
        _ if exp == top => (F80::pack(neg, EXPONENT_MAX, fraction | INTEGER), false),
        _ => (F80::pack(neg, exp - bias + BIAS, fraction | INTEGER), false),
    }
}

/// Single precision, exactly, and whether it is a denormal of its format.
pub(super) fn from_f32(bits: u32) -> (F80, bool) {
    widen(bits >> 31 != 0, (bits >> 23 & 0xff) as i32, u64::from(bits & 0x7f_ffff) << 40, 127, 0xff)
}

/// Double precision, exactly, and whether it is a denormal of its format.
pub(super) fn from_f64(bits: u64) -> (F80, bool) {
    widen(bits >> 63 != 0, (bits >> 52 & 0x7ff) as i32, bits << 12 >> 1, 1023, 0x7ff)
}

/// FLD of a widened operand: a NaN becomes quiet, a denormal is reported. What has 80 bits is taken as it is.
pub(super) fn loaded(env: &mut Env, (value, narrow_denormal): (F80, bool), extended: bool) -> Option<F80> {
    if extended {
        return Some(value);
    }
    // The one operation that goes on after an unmasked denormal: it has done its work by then.
    if narrow_denormal {
        env.raise(flag::DENORMAL);
    }
    match value.kind() {
        Kind::Signalling if env.stops(flag::INVALID) => None,
        Kind::Signalling => Some(value.quieted()),
        _ => Some(value),
    }
}

/// An integer, exactly.
pub(super) fn from_i64(value: i64) -> F80 {
    from_integer(value < 0, value.unsigned_abs())
}

/// Packed decimal. Digits above nine count as what they are: the manual leaves them open.
pub(super) fn from_bcd(bytes: [u8; 10]) -> F80 {
    let digits = bytes[..9].iter().rev().flat_map(|byte| [byte >> 4, byte & 15]);
    // At most 15 in each of 18 digits: below 2^64.
    let magnitude = digits.fold(0, |sum, digit| sum * 10 + u64::from(digit));
    from_integer(false, magnitude).with_sign(bytes[9] & 0x80 != 0)
}

/// What a store does with a value that is no number other than zero.
enum Special {
    Bits { exp_ones: bool, fraction: u64 },
    Indefinite,
    Number(i32, u64),
}

fn special(env: &mut Env, a: F80) -> Option<Special> {
    Some(match a.kind() {
        Kind::Zero => Special::Bits { exp_ones: false, fraction: 0 },
        Kind::Infinity => Special::Bits { exp_ones: true, fraction: 0 },
        Kind::Unsupported if indefinite(env) => Special::Indefinite,
        Kind::Unsupported => return None,
        Kind::Signalling if !indefinite(env) => return None,
        Kind::Signalling | Kind::Quiet => {
            Special::Bits { exp_ones: true, fraction: a.quieted().mant & !INTEGER }
        }
        Kind::Normal | Kind::Denormal => {
            let (exp, mant) = a.parts();
            Special::Number(exp, mant)
        }
    })
}

/// Single precision.
pub(super) fn store_f32(env: &mut Env, a: F80) -> Option<u32> {
    let sign = u32::from(a.negative()) << 31;
    match special(env, a)? {
        Special::Bits { exp_ones, fraction } => {
            Some(sign | if exp_ones { 0x7f80_0000 } else { 0 } | (fraction >> 40) as u32)
        }
        Special::Indefinite => Some(0xffc0_0000),
        Special::Number(exp, mant) => to_f32(env, Unrounded::exact(a.negative(), exp, mant)),
    }
}

/// Double precision.
pub(super) fn store_f64(env: &mut Env, a: F80) -> Option<u64> {
    let sign = u64::from(a.negative()) << 63;
    match special(env, a)? {
        Special::Bits { exp_ones, fraction } => {
            Some(sign | if exp_ones { 0x7ff0_0000_0000_0000 } else { 0 } | fraction >> 11)
        }
        Special::Indefinite => Some(0xfff8_0000_0000_0000),
        Special::Number(exp, mant) => to_f64(env, Unrounded::exact(a.negative(), exp, mant)),
    }
}

/// The magnitude of `a` rounded to an integer, if it is at most `limit`. Reports nothing but inexactness.
fn integer(env: &mut Env, a: F80, truncate: bool, limit: u64) -> Option<u64> {
    match a.kind() {
        Kind::Zero => return Some(0),
        Kind::Normal | Kind::Denormal if a.parts().0 <= BIAS + 63 => {}
        _ => return None,
    }
    let rounding = if truncate { Rounding::Zero } else { env.rounding() };
    let rounded = cut(fixed(a), 64, rounding, a.negative());
    if rounded.mant > limit {
        return None;
    }
    if rounded.inexact {
        env.inexact(rounded.up);
    }
    Some(rounded.mant)
}

/// A signed integer of `bits` bits (16, 32 or 64). Out of range it is invalid, and the integer indefinite.
pub(super) fn store_int(env: &mut Env, a: F80, bits: u32, truncate: bool) -> Option<i64> {
    let lowest = 1_u64 << (bits - 1);
    let limit = if a.negative() { lowest } else { lowest - 1 };
    match integer(env, a, truncate, limit) {
        Some(magnitude) if a.negative() => Some(0_i64.wrapping_sub_unsigned(magnitude)),
        Some(magnitude) => Some(magnitude as i64),
        None => indefinite(env).then_some(i64::MIN >> (64 - bits)),
    }
}

/// Packed decimal.
pub(super) fn store_bcd(env: &mut Env, a: F80) -> Option<[u8; 10]> {
    let Some(mut rest) = integer(env, a, false, BCD_MAX) else {
        return indefinite(env).then_some(BCD_INDEFINITE);
    };
    let mut bytes = [0; 10];
    for byte in &mut bytes[..9] {
        *byte = (rest % 10 + rest / 10 % 10 * 16) as u8;
        rest /= 100;
    }
    bytes[9] = u8::from(a.negative()) << 7;
    Some(bytes)
}
