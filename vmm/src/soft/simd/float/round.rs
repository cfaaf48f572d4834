//! Rounding: the one place where a result meets a format.

use super::super::mxcsr::{Mxcsr, OE, PE, Rounding, UE};
use super::format::{Format, sign_bit};

/// Drops `bits` low bits of a significand and rounds what is left; true if anything was lost.
///
/// The lowest bit of `value` may stand for any number of lost bits ("sticky"), if at least two are dropped.
pub(super) fn drop_bits(sign: bool, value: u64, bits: u32, rounding: Rounding) -> (u64, bool) {
    let (kept, rest, half) = match bits {
        0 => return (value, false),
        1..64 => (value >> bits, value & ((1 << bits) - 1), 1 << (bits - 1)),
        64 => (0, value, 1 << 63),
        // Less than half of the last place, whatever it is: as one of the 64.
        _ => (0, u64::from(value != 0), 1 << 63),
    };
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    };
    // What is kept has at most 63 bits.
    (kept + u64::from(up), rest != 0)
}

/// `significand / 2^63 * 2^exponent` in the format: the bits and the flags. The significand has bit 63 set, and
/// its lowest bit may be sticky.
///
/// Tininess is detected after rounding (SDM volume 1, 4.9.1.5). An unmasked overflow or underflow faults: the bits
/// are not used then.
pub(super) fn round<F: Format>(sign: bool, exponent: i32, significand: u64, control: Mxcsr) -> (u64, u32) {
    let rounding = control.rounding();
    let drop = 63 - F::FRACTION;
    let (kept, inexact) = drop_bits(sign, significand, drop, rounding);
    let carried = kept >> (F::FRACTION + 1) != 0;
    let rounded_exponent = exponent + i32::from(carried);
    let precision = if inexact { PE } else { 0 };
    if exponent < F::EMIN {
        if rounded_exponent < F::EMIN && !control.masked(UE) {
            // Told of an underflow, the guest learns of inexactness only if the significand was rounded.
            return (sign_bit::<F>(sign), UE | precision);
        }
        return below_normal::<F>(sign, exponent, significand, rounded_exponent < F::EMIN, control);
    }
    if rounded_exponent > F::EMAX {
        return overflow::<F>(sign, precision, control);
    }
    // From 1 to EXPONENT_MAX - 1. A carry leaves a fraction of zero.
    let field = u64::from((rounded_exponent + F::EMAX).cast_unsigned());
    (sign_bit::<F>(sign) | field << F::FRACTION | kept & F::FRACTION_MASK, precision)
}

/// The result's exponent is too small for a normal value, at least before rounding. If it is so after rounding
/// too (`tiny`), underflow is masked.
fn below_normal<F: Format>(
    sign: bool,
    exponent: i32,
    significand: u64,
    tiny: bool,
    control: Mxcsr,
) -> (u64, u32) {
    if tiny && control.flush_to_zero() {
        return (sign_bit::<F>(sign), UE | PE);
    }
    let drop = 63 - F::FRACTION + (F::EMIN - exponent).cast_unsigned();
    // Rounded up to the smallest normal value, the bits are that value's.
    let (kept, inexact) = drop_bits(sign, significand, drop, control.rounding());
    // An exact tiny result is no underflow, as long as underflow is masked.
    let flags = match (inexact, tiny) {
        (true, true) => UE | PE,
        (true, false) => PE,
        (false, _) => 0,
    };
    (sign_bit::<F>(sign) | kept, flags)
}

/// The rounded result has no place in the format.
fn overflow<F: Format>(sign: bool, precision: u32, control: Mxcsr) -> (u64, u32) {
    let to_infinity = match control.rounding() {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    let magnitude = if to_infinity { F::INFINITY } else { F::INFINITY - 1 };
    // Told of an overflow, the guest learns of inexactness only if the significand was rounded too.
    let flags = if control.masked(OE) { OE | PE } else { OE | precision };
    (sign_bit::<F>(sign) | magnitude, flags)
}
