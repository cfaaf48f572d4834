//! Arithmetic in integers: the reference.

use super::super::mxcsr::{DE, IE, Mxcsr, Rounding, ZE};
use super::Arith;
use super::format::{Format, Kind, Number, sign_bit};
use super::round::round;

/// The result and the flags of one lane. Not for minimum and maximum, which are comparisons.
pub(super) fn arith<F: Format>(op: Arith, d: u64, s: u64, control: Mxcsr) -> (u64, u32) {
    // A square root has one operand.
    let d = if op == Arith::Sqrt { s } else { d };
    if F::is_nan(d) || F::is_nan(s) {
        return nan::<F>(d, s);
    }
    let (d, s) = (F::operand(d, control), F::operand(s, control));
    let denormal = if F::is_denormal(d) || F::is_denormal(s) { DE } else { 0 };
    let (a, b) = (Number::of::<F>(d), Number::of::<F>(s));
    let (bits, flags) = match op {
        Arith::Add => add::<F>(a, b, control),
        Arith::Sub => add::<F>(a, Number { sign: !b.sign, ..b }, control),
        Arith::Mul => mul::<F>(a, b, control),
        Arith::Div => div::<F>(a, b, control),
        Arith::Sqrt => sqrt::<F>(b, control),
        Arith::Min | Arith::Max => (F::INDEFINITE, IE),
    };
    // Neither an invalid operation nor a division by zero looks at denormals (SDM volume 1, 4.9.2).
    (bits, if flags & (IE | ZE) == 0 { flags | denormal } else { flags })
}

/// A NaN among the operands: the first of them, made quiet (SDM volume 1, table 4-7).
fn nan<F: Format>(d: u64, s: u64) -> (u64, u32) {
    let first = if F::is_nan(d) { d } else { s };
    let invalid = F::is_signaling(d) || F::is_signaling(s);
    (first | F::QUIET, if invalid { IE } else { 0 })
}

fn invalid<F: Format>() -> (u64, u32) {
    (F::INDEFINITE, IE)
}

fn infinity<F: Format>(sign: bool) -> (u64, u32) {
    (sign_bit::<F>(sign) | F::INFINITY, 0)
}

fn zero<F: Format>(sign: bool) -> (u64, u32) {
    (sign_bit::<F>(sign), 0)
}

/// Rounds `value / 2^127 * 2^exponent`, `value` not being zero.
fn round_wide<F: Format>(sign: bool, exponent: i32, value: u128, control: Mxcsr) -> (u64, u32) {
    let up = value.leading_zeros();
    let value = value << up;
    let significand = (value >> 64) as u64 | u64::from(value as u64 != 0);
    round::<F>(sign, exponent - up.cast_signed(), significand, control)
}

fn add<F: Format>(a: Number, b: Number, control: Mxcsr) -> (u64, u32) {
    // What is left of x - x.
    let cancelled = control.rounding() == Rounding::Down;
    match (a.kind, b.kind) {
        (Kind::Infinite, Kind::Infinite) if a.sign != b.sign => invalid::<F>(),
        (Kind::Infinite, _) => infinity::<F>(a.sign),
        (_, Kind::Infinite) => infinity::<F>(b.sign),
        (Kind::Zero, Kind::Zero) => zero::<F>(if a.sign == b.sign { a.sign } else { cancelled }),
        (Kind::Finite { exponent, significand }, Kind::Zero) => {
            round::<F>(a.sign, exponent, significand, control)
        }
        (Kind::Zero, Kind::Finite { exponent, significand }) => {
            round::<F>(b.sign, exponent, significand, control)
        }
        (Kind::Finite { exponent: ea, significand: sa }, Kind::Finite { exponent: eb, significand: sb }) => {
            let ((sign, exponent, large), (other, lower, small)) = if (ea, sa) >= (eb, sb) {
                ((a.sign, ea, sa), (b.sign, eb, sb))
            } else {
                ((b.sign, eb, sb), (a.sign, ea, sa))
            };
            // Two bits of room above, 62 below; what falls out at the end is kept as a sticky bit.
            let (large, small) = (u128::from(large) << 62, u128::from(small) << 62);
            let distance = (exponent - lower).cast_unsigned().min(127);
            let lost = small & ((1 << distance) - 1) != 0;
            let small = small >> distance | u128::from(lost);
            let sum = if sign == other { large + small } else { large - small };
            if sum == 0 {
                return zero::<F>(cancelled);
            }
            round_wide::<F>(sign, exponent + 2, sum, control)
        }
    }
}

fn mul<F: Format>(a: Number, b: Number, control: Mxcsr) -> (u64, u32) {
    let sign = a.sign != b.sign;
    match (a.kind, b.kind) {
        (Kind::Infinite, Kind::Zero) | (Kind::Zero, Kind::Infinite) => invalid::<F>(),
        (Kind::Infinite, _) | (_, Kind::Infinite) => infinity::<F>(sign),
        (Kind::Zero, _) | (_, Kind::Zero) => zero::<F>(sign),
        (Kind::Finite { exponent: ea, significand: sa }, Kind::Finite { exponent: eb, significand: sb }) => {
            round_wide::<F>(sign, ea + eb + 1, u128::from(sa) * u128::from(sb), control)
        }
    }
}

fn div<F: Format>(a: Number, b: Number, control: Mxcsr) -> (u64, u32) {
    let sign = a.sign != b.sign;
    match (a.kind, b.kind) {
        (Kind::Infinite, Kind::Infinite) | (Kind::Zero, Kind::Zero) => invalid::<F>(),
        (Kind::Infinite, _) => infinity::<F>(sign),
        (_, Kind::Infinite) | (Kind::Zero, _) => zero::<F>(sign),
        (_, Kind::Zero) => (sign_bit::<F>(sign) | F::INFINITY, ZE),
        (Kind::Finite { exponent: ea, significand: sa }, Kind::Finite { exponent: eb, significand: sb }) => {
            // A quotient of 62 or 63 bits, more than any format keeps, and the sticky bit below it.
            let (dividend, divisor) = (u128::from(sa) << 62, u128::from(sb));
            let quotient = (dividend / divisor) << 1 | u128::from(!dividend.is_multiple_of(divisor));
            // 1 / 1 gives 2^63.
            round_wide::<F>(sign, ea - eb + 64, quotient, control)
        }
    }
}

fn sqrt<F: Format>(b: Number, control: Mxcsr) -> (u64, u32) {
    match b.kind {
        Kind::Zero => zero::<F>(b.sign),
        _ if b.sign => invalid::<F>(),
        Kind::Infinite => infinity::<F>(false),
        Kind::Finite { exponent, significand } => {
            // An even exponent, a square of 127 or 128 bits, a root of 64 and the sticky bit below it.
            let odd = exponent & 1;
            let square = u128::from(significand) << (63 + odd);
            let root = square.isqrt();
            let wide = root << 1 | u128::from(root * root != square);
            round_wide::<F>(false, (exponent - odd) / 2 + 63, wide, control)
        }
    }
}
