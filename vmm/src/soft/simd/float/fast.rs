//! The common case on the host's own arithmetic.
//!
//! Under plain control, with operands that are zero or normal and a result that is normal, add, subtract,
//! multiply, divide and square root have one result (IEEE 754, 5.4.1) and can raise nothing but "inexact". The
//! binades at both ends of the normal range are left to [`super::soft`]: the lowest because a tiny result may
//! have been rounded up into it, the highest because an intermediate of the exactness test may overflow.

use super::super::mxcsr::{Mxcsr, PE};
use super::Arith;
use super::format::Format;

/// The result and the flags of one lane, if this is the common case.
pub(super) fn arith<F: Format>(op: Arith, d: u64, s: u64, control: Mxcsr) -> Option<(u64, u32)> {
    let d = if op == Arith::Sqrt { s } else { d };
    if !control.is_plain() || !is_plain::<F>(d) || !is_plain::<F>(s) {
        return None;
    }
    let result = F::host(op, d, s);
    if !is_plain::<F>(result) || F::exponent(result) == 1 {
        return None;
    }
    if F::magnitude(result) == 0 {
        // A sum is zero only if it is exact; a product also if it is too small.
        let exact = match op {
            Arith::Add | Arith::Sub | Arith::Sqrt => true,
            Arith::Mul => F::magnitude(d) == 0 || F::magnitude(s) == 0,
            Arith::Div => F::magnitude(d) == 0,
            Arith::Min | Arith::Max => false,
        };
        return exact.then_some((result, 0));
    }
    if control.knows_inexact() || is_exact::<F>(op, d, s, result) {
        return Some((result, 0));
    }
    Some((result, PE))
}

/// Zero, or normal and not in the highest binade.
fn is_plain<F: Format>(bits: u64) -> bool {
    let exponent = F::exponent(bits);
    exponent.wrapping_sub(1) < F::EXPONENT_MAX - 2 || F::magnitude(bits) == 0
}

/// Whether a normal result was not rounded.
fn is_exact<F: Format>(op: Arith, d: u64, s: u64, result: u64) -> bool {
    let significand = |bits: u64| u128::from(bits & F::FRACTION_MASK | 1 << F::FRACTION);
    match op {
        Arith::Add => F::sum_is_exact(d, s, result),
        Arith::Sub => F::sum_is_exact(d, s ^ F::SIGN, result),
        Arith::Mul => {
            let product = significand(d) * significand(s);
            let length = 128 - product.leading_zeros() - product.trailing_zeros();
            length <= F::FRACTION + 1
        }
        // The result is within half a unit of the true one. If the odd parts of both sides agree they differ
        // by a power of two, so by none.
        Arith::Div => odd_part(significand(result) * significand(s)) == odd_part(significand(d)),
        Arith::Sqrt => odd_part(significand(result) * significand(result)) == odd_part(significand(s)),
        Arith::Min | Arith::Max => false,
    }
}

/// A value that is not zero, without its factors of two.
fn odd_part(value: u128) -> u128 {
    value >> value.trailing_zeros()
}
