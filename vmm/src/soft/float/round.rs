//! Rounding, overflow and underflow (SDM volume 1 sections 4.8.4, 8.5.4 to 8.5.6).

use super::env::{Env, Rounding, flag};
use super::value::{BIAS, EXPONENT_MAX, F80, INTEGER};

/// What unmasked overflow subtracts from a register's exponent, and unmasked underflow adds.
const WRAP: i32 = 24576;

/// A value other than zero, on its way to a format: `mant / 2^127 * 2^(exp - 16383)`, bit 127 of the
/// significand set. Bit 0 also stands for whatever lies below it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unrounded {
    pub(super) neg: bool,
    pub(super) exp: i32,
    pub(super) mant: u128,
}

impl Unrounded {
    /// From a significand that may begin with zero bits but is not all zero; `exp` is bit 127's.
    pub(super) fn normalised(neg: bool, exp: i32, mant: u128) -> Unrounded {
        debug_assert!(mant != 0);
        let shift = mant.leading_zeros();
        Unrounded { neg, exp: exp - shift as i32, mant: mant << shift }
    }

    /// From a register's exponent and significand.
    pub(super) fn exact(neg: bool, exp: i32, mant: u64) -> Unrounded {
        Unrounded { neg, exp, mant: u128::from(mant) << 64 }
    }
}

/// A format to round to.
struct Format {
    /// Bits of the significand.
    bits: u32,
    /// What its exponent field adds.
    bias: i32,
    /// Exponent field of infinities.
    top: i32,
    /// A register, in which an unmasked result is kept with another exponent.
    register: bool,
}

/// Shifts right; what falls off sets bit 0.
pub(super) fn jam(mant: u128, shift: u32) -> u128 {
    match shift {
        0 => mant,
        1..128 => mant >> shift | u128::from(mant << (128 - shift) != 0),
        _ => u128::from(mant != 0),
    }
}

/// A significand cut to fewer bits.
pub(super) struct Cut {
    /// The first 64 bits, those beyond the format's zero.
    pub(super) mant: u64,
    /// It was rounded up to the next power of two, of which this is the significand.
    pub(super) carry: bool,
    /// Something was cut off.
    pub(super) inexact: bool,
    /// It was rounded away from zero.
    pub(super) up: bool,
}

/// Keeps the first `bits` (1 to 64) of the 128.
pub(super) fn cut(mant: u128, bits: u32, rounding: Rounding, neg: bool) -> Cut {
    let unit = 1_u128 << (128 - bits);
    let rest = mant & (unit - 1);
    let kept = mant - rest;
    let half = unit >> 1;
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && kept & unit != 0,
        Rounding::Down => neg && rest != 0,
        Rounding::Up => !neg && rest != 0,
        Rounding::Zero => false,
    };
    let (sum, carry) = if up { kept.overflowing_add(unit) } else { (kept, false) };
    Cut { mant: if carry { INTEGER } else { (sum >> 64) as u64 }, carry, inexact: rest != 0, up }
}

/// Rounds to exponent field and significand; without the integer bit it is a denormal or zero. `None`: memory
/// is not written.
fn fit(env: &mut Env, value: Unrounded, format: &Format) -> Option<(i32, u64)> {
    let rounding = env.rounding();
    let whole = cut(value.mant, format.bits, rounding, value.neg);
    let exp = value.exp - BIAS + format.bias + i32::from(whole.carry);
    if exp >= format.top {
        return overflow(env, value.neg, exp, &whole, format);
    }
    if exp >= 1 {
        if whole.inexact {
            env.inexact(whole.up);
        }
        return Some((exp, whole.mant));
    }
    // Tiny, and that after rounding: a value that rounds up to the smallest normal number is none.
    if !env.masked(flag::UNDERFLOW) {
        env.raise(flag::UNDERFLOW);
        return format.register.then(|| wrapped(env, exp + WRAP, &whole));
    }
    let shift = 1 - (value.exp - BIAS + format.bias);
    let small = cut(jam(value.mant, shift.unsigned_abs()), format.bits, rounding, value.neg);
    if small.inexact {
        env.raise(flag::UNDERFLOW);
        env.inexact(small.up);
    }
    Some((1, small.mant))
}

fn overflow(env: &mut Env, neg: bool, exp: i32, whole: &Cut, format: &Format) -> Option<(i32, u64)> {
    if !env.masked(flag::OVERFLOW) {
        env.raise(flag::OVERFLOW);
        return format.register.then(|| wrapped(env, exp - WRAP, whole));
    }
    env.raise(flag::OVERFLOW);
    let infinite = match env.rounding() {
        Rounding::Nearest => true,
        Rounding::Down => neg,
        Rounding::Up => !neg,
        Rounding::Zero => false,
    };
    env.inexact(infinite);
    if infinite {
        return Some((format.top, INTEGER));
    }
    Some((format.top - 1, u64::MAX << (64 - format.bits)))
}

/// The unmasked response of a register. FSCALE alone can still be out of range, and gives infinity or zero
/// then.
fn wrapped(env: &mut Env, exp: i32, whole: &Cut) -> (i32, u64) {
    let in_range = (1..EXPONENT_MAX).contains(&exp);
    if whole.inexact || !in_range {
        env.inexact(if in_range { whole.up } else { exp > 0 });
    }
    match exp {
        EXPONENT_MAX.. => (EXPONENT_MAX, INTEGER),
        1.. => (exp, whole.mant),
        _ => (0, 0),
    }
}

/// Rounds to a register, with `bits` of significand.
pub(super) fn to_register(env: &mut Env, value: Unrounded, bits: u32) -> F80 {
    let format = Format { bits, bias: BIAS, top: EXPONENT_MAX, register: true };
    // A register always gets a result.
    let (exp, mant) = fit(env, value, &format).unwrap_or((0, 0));
    F80::pack(value.neg, exp, mant)
}

/// Rounds to single precision. `None`: an unmasked exception keeps it from memory.
pub(super) fn to_f32(env: &mut Env, value: Unrounded) -> Option<u32> {
    let (exp, mant) = fit(env, value, &Format { bits: 24, bias: 127, top: 0xff, register: false })?;
    let exp = if mant & INTEGER == 0 { 0 } else { exp };
    Some(u32::from(value.neg) << 31 | (exp as u32) << 23 | (mant << 1 >> 41) as u32)
}

/// Rounds to double precision. `None`: an unmasked exception keeps it from memory.
pub(super) fn to_f64(env: &mut Env, value: Unrounded) -> Option<u64> {
    let (exp, mant) = fit(env, value, &Format { bits: 53, bias: 1023, top: 0x7ff, register: false })?;
    let exp = if mant & INTEGER == 0 { 0 } else { exp };
    Some(u64::from(value.neg) << 63 | (exp as u64) << 52 | mant << 1 >> 12)
}
