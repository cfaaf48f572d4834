//! Comparisons, and minimum and maximum, which are comparisons that return an operand.

use std::cmp::Ordering;

use super::super::mxcsr::{DE, IE, Mxcsr, SimdFault};
use super::format::{Double, Format, Single};
use super::{Shape, lanes};

/// Which comparison sets the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagsOp {
    /// COMISS: every NaN is invalid.
    Comiss,
    /// COMISD.
    Comisd,
    /// UCOMISS: signaling NaNs only.
    Ucomiss,
    /// UCOMISD.
    Ucomisd,
}

const CARRY: u128 = 1 << 0;
const PARITY: u128 = 1 << 2;
const ZERO: u128 = 1 << 6;

/// The order of two values, none if one is a NaN; and the flags, `quiet` saying whether quiet NaNs raise none.
fn order<F: Format>(quiet: bool, d: u64, s: u64, control: Mxcsr) -> (Option<Ordering>, u32) {
    if F::is_nan(d) || F::is_nan(s) {
        let invalid = !quiet || F::is_signaling(d) || F::is_signaling(s);
        return (None, if invalid { IE } else { 0 });
    }
    let (d, s) = (F::operand(d, control), F::operand(s, control));
    let flags = if F::is_denormal(d) || F::is_denormal(s) { DE } else { 0 };
    (Some(key::<F>(d).cmp(&key::<F>(s))), flags)
}

/// An integer that orders as the value does; both zeros are 0.
fn key<F: Format>(bits: u64) -> i64 {
    let magnitude = F::magnitude(bits).cast_signed();
    if bits & F::SIGN == 0 { magnitude } else { -magnitude }
}

/// MIN and MAX: the source, unless the destination is strictly beyond it.
pub(super) fn min_max<F: Format>(max: bool, d: u64, s: u64, control: Mxcsr) -> (u64, u32) {
    let wanted = if max { Ordering::Greater } else { Ordering::Less };
    let (order, flags) = order::<F>(false, d, s, control);
    let result = if order == Some(wanted) { d } else { s };
    (F::operand(result, control), flags)
}

/// CMPPS and its like. Bits 3 to 7 of the immediate are ignored.
pub(in super::super) fn compare(
    shape: Shape,
    d: u128,
    s: u128,
    imm: u8,
    mxcsr: &mut Mxcsr,
) -> Result<u128, SimdFault> {
    let control = *mxcsr;
    let mut flags = 0;
    let result = lanes(
        shape,
        d,
        s,
        |d, s| {
            let (holds, flags) = predicate::<Single>(imm, d, s, control);
            (if holds { u64::from(u32::MAX) } else { 0 }, flags)
        },
        |d, s| {
            let (holds, flags) = predicate::<Double>(imm, d, s, control);
            (if holds { u64::MAX } else { 0 }, flags)
        },
        &mut flags,
    );
    mxcsr.raise(flags)?;
    Ok(result)
}

fn predicate<F: Format>(imm: u8, d: u64, s: u64, control: Mxcsr) -> (bool, u32) {
    // Equal, less, less or equal, unordered; from 4 on their negations. "Less" is invalid for any NaN.
    let which = imm & 3;
    let (order, flags) = order::<F>(which == 0 || which == 3, d, s, control);
    let holds = match which {
        0 => order == Some(Ordering::Equal),
        1 => order == Some(Ordering::Less),
        2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        _ => order.is_none(),
    };
    (holds != (imm & 4 != 0), flags)
}

/// COMISS and its like: ZF, PF and CF in their places.
pub(in super::super) fn compare_flags(
    op: FlagsOp,
    d: u128,
    s: u128,
    mxcsr: &mut Mxcsr,
) -> Result<u128, SimdFault> {
    let single = (u64::from(d as u32), u64::from(s as u32));
    let double = (d as u64, s as u64);
    let (order, flags) = match op {
        FlagsOp::Comiss => order::<Single>(false, single.0, single.1, *mxcsr),
        FlagsOp::Ucomiss => order::<Single>(true, single.0, single.1, *mxcsr),
        FlagsOp::Comisd => order::<Double>(false, double.0, double.1, *mxcsr),
        FlagsOp::Ucomisd => order::<Double>(true, double.0, double.1, *mxcsr),
    };
    mxcsr.raise(flags)?;
    Ok(match order {
        None => ZERO | PARITY | CARRY,
        Some(Ordering::Less) => CARRY,
        Some(Ordering::Equal) => ZERO,
        Some(Ordering::Greater) => 0,
    })
}
