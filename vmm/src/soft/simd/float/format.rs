//! The two formats, and a value taken apart.

use super::super::mxcsr::Mxcsr;
use super::Arith;

/// A binary interchange format of IEEE 754. Values are handled as their bits, zero-extended.
pub(super) trait Format {
    /// Bits of the fraction field.
    const FRACTION: u32;
    /// Bits of the exponent field.
    const EXPONENT: u32;

    /// The fraction field.
    const FRACTION_MASK: u64 = (1 << Self::FRACTION) - 1;
    /// The sign bit.
    const SIGN: u64 = 1 << (Self::FRACTION + Self::EXPONENT);
    /// The largest value of the exponent field: infinities and NaNs.
    const EXPONENT_MAX: u64 = (1 << Self::EXPONENT) - 1;
    /// The bits of plus infinity.
    const INFINITY: u64 = Self::EXPONENT_MAX << Self::FRACTION;
    /// The bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRACTION - 1);
    /// What an invalid operation gives: the negative quiet NaN without payload ("real indefinite").
    const INDEFINITE: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;
    /// The largest exponent of a finite value.
    const EMAX: i32 = (1 << (Self::EXPONENT - 1)) - 1;
    /// The smallest exponent of a normal value.
    const EMIN: i32 = 1 - Self::EMAX;

    /// The host's own arithmetic. Not for minimum and maximum, and its NaNs are not to be used.
    fn host(op: Arith, a: u64, b: u64) -> u64;

    /// The rounding error of `sum = a + b`, as zero or not (Knuth's two-sum, which is exact unless something
    /// overflows).
    fn sum_is_exact(a: u64, b: u64, sum: u64) -> bool;

    /// The exponent field.
    fn exponent(bits: u64) -> u64 {
        bits >> Self::FRACTION & Self::EXPONENT_MAX
    }

    /// The value without its sign.
    fn magnitude(bits: u64) -> u64 {
        bits & (Self::SIGN - 1)
    }

    /// Any NaN.
    fn is_nan(bits: u64) -> bool {
        Self::magnitude(bits) > Self::INFINITY
    }

    /// A NaN whose use is invalid.
    fn is_signaling(bits: u64) -> bool {
        Self::is_nan(bits) && bits & Self::QUIET == 0
    }

    /// Not zero, and below the normal range.
    fn is_denormal(bits: u64) -> bool {
        Self::exponent(bits) == 0 && Self::magnitude(bits) != 0
    }

    /// The value as an operand: under DAZ a denormal is a zero of its sign.
    fn operand(bits: u64, control: Mxcsr) -> u64 {
        if control.denormals_are_zeros() && Self::is_denormal(bits) { bits & Self::SIGN } else { bits }
    }
}

/// binary32.
pub(super) enum Single {}

/// binary64.
pub(super) enum Double {}

impl Format for Single {
    const FRACTION: u32 = 23;
    const EXPONENT: u32 = 8;

    fn host(op: Arith, a: u64, b: u64) -> u64 {
        let (a, b) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
        let value = match op {
            Arith::Add => a + b,
            Arith::Sub => a - b,
            Arith::Mul => a * b,
            Arith::Div => a / b,
            Arith::Sqrt => b.sqrt(),
            Arith::Min | Arith::Max => f32::NAN,
        };
        value.to_bits().into()
    }

    fn sum_is_exact(a: u64, b: u64, sum: u64) -> bool {
        let [a, b, sum] = [a, b, sum].map(|bits| f32::from_bits(bits as u32));
        let b_part = sum - a;
        (a - (sum - b_part)) + (b - b_part) == 0.0
    }
}

impl Format for Double {
    const FRACTION: u32 = 52;
    const EXPONENT: u32 = 11;

    fn host(op: Arith, a: u64, b: u64) -> u64 {
        let (a, b) = (f64::from_bits(a), f64::from_bits(b));
        let value = match op {
            Arith::Add => a + b,
            Arith::Sub => a - b,
            Arith::Mul => a * b,
            Arith::Div => a / b,
            Arith::Sqrt => b.sqrt(),
            Arith::Min | Arith::Max => f64::NAN,
        };
        value.to_bits()
    }

    fn sum_is_exact(a: u64, b: u64, sum: u64) -> bool {
        let [a, b, sum] = [a, b, sum].map(f64::from_bits);
        let b_part = sum - a;
        (a - (sum - b_part)) + (b - b_part) == 0.0
    }
}

/// A value other than a NaN, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    /// Whether it is negative.
    pub(super) sign: bool,
    /// The rest.
    pub(super) kind: Kind,
}

/// The magnitude of a [`Number`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Zero.
    Zero,
    /// `significand / 2^63 * 2^exponent`, with bit 63 of the significand set.
    Finite {
        /// The exponent of bit 63.
        exponent: i32,
        /// Normalised, also for a denormal.
        significand: u64,
    },
    /// Infinity.
    Infinite,
}

impl Number {
    /// Takes bits apart that are not a NaN.
    pub(super) fn of<F: Format>(bits: u64) -> Self {
        let sign = bits & F::SIGN != 0;
        let fraction = bits & F::FRACTION_MASK;
        let kind = match F::exponent(bits) {
            0 if fraction == 0 => Kind::Zero,
            0 => {
                let up = fraction.leading_zeros();
                // A normal value of the smallest exponent would have its leading bit at FRACTION.
                let below = up.cast_signed() - (63 - F::FRACTION).cast_signed();
                Kind::Finite { exponent: F::EMIN - below, significand: fraction << up }
            }
            field if field == F::EXPONENT_MAX => Kind::Infinite,
            field => Kind::Finite {
                // At most eleven bits.
                exponent: field as i32 - F::EMAX,
                significand: (1 << F::FRACTION | fraction) << (63 - F::FRACTION),
            },
        };
        Number { sign, kind }
    }
}

/// `sign` as the sign bit of the format.
pub(super) fn sign_bit<F: Format>(sign: bool) -> u64 {
    if sign { F::SIGN } else { 0 }
}
