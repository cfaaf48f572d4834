//! Floating point as SSE does it: results, NaNs and MXCSR flags to the bit.
//!
//! The reference is an integer implementation, generic over the two formats ([`format`], [`round`],
//! [`soft`]). In front of it stands the host's own arithmetic for the common case ([`fast`]): plain control,
//! normal operands, normal result. There IEEE 754 leaves nothing open but the inexact flag, which is computed,
//! and only as long as the guest has not already got it.

mod compare;
mod convert;
mod estimate;
mod fast;
mod format;
mod round;
mod soft;

pub(crate) use compare::FlagsOp;
pub(super) use compare::{compare, compare_flags};
pub(crate) use convert::ConvertOp;
pub(super) use convert::convert;
pub(crate) use estimate::EstimateOp;
pub(super) use estimate::estimate;

use super::integer::{dwords, from_dwords, from_qwords, qwords};
use super::mxcsr::{Mxcsr, SimdFault};
use format::{Double, Format, Single};

/// The operation on each lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arith {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    /// Of the source alone.
    Sqrt,
}

/// Which lanes of the register take part; the others keep the destination's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Four single.
    Ps,
    /// Two double.
    Pd,
    /// The lowest single.
    Ss,
    /// The lowest double.
    Sd,
}

pub(super) fn arith(op: Arith, shape: Shape, d: u128, s: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let control = *mxcsr;
    let mut flags = 0;
    let result = lanes(
        shape,
        d,
        s,
        |d, s| lane::<Single>(op, d, s, control),
        |d, s| lane::<Double>(op, d, s, control),
        &mut flags,
    );
    mxcsr.raise(flags)?;
    Ok(result)
}

/// One lane: its bits and its flags.
fn lane<F: Format>(op: Arith, d: u64, s: u64, control: Mxcsr) -> (u64, u32) {
    match op {
        Arith::Min => compare::min_max::<F>(false, d, s, control),
        Arith::Max => compare::min_max::<F>(true, d, s, control),
        _ => match fast::arith::<F>(op, d, s, control) {
            Some(done) => done,
            None => soft::arith::<F>(op, d, s, control),
        },
    }
}

/// Applies a function to the lanes that the shape names and collects their flags.
fn lanes(
    shape: Shape,
    d: u128,
    s: u128,
    single: impl Fn(u64, u64) -> (u64, u32),
    double: impl Fn(u64, u64) -> (u64, u32),
    flags: &mut u32,
) -> u128 {
    let mut one = |(bits, raised): (u64, u32)| {
        *flags |= raised;
        bits
    };
    match shape {
        Shape::Ps => {
            let (d, s) = (dwords(d), dwords(s));
            from_dwords(std::array::from_fn(|i| one(single(d[i].into(), s[i].into())) as u32))
        }
        Shape::Pd => {
            let (d, s) = (qwords(d), qwords(s));
            from_qwords(std::array::from_fn(|i| one(double(d[i], s[i]))))
        }
        Shape::Ss => {
            let low = one(single(d as u32 as u64, s as u32 as u64));
            d & !u128::from(u32::MAX) | u128::from(low)
        }
        Shape::Sd => d & !u128::from(u64::MAX) | u128::from(one(double(d as u64, s as u64))),
    }
}
