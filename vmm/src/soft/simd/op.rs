//! The operations, by what they compute. One operation serves every form that differs in operands only.

use super::bits::BitsOp;
use super::float::{Arith, ConvertOp, EstimateOp, FlagsOp, Shape};
use super::integer::{IntegerOp, ShiftOp};
use super::shuffle::ShuffleOp;

/// What [`super::apply`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SimdOp {
    /// Moves and logic on whole registers.
    Bits(BitsOp),
    /// Arithmetic on integer lanes.
    Integer(IntegerOp),
    /// Shifts of integer lanes and of whole registers.
    Shift(ShiftOp),
    /// Lanes that change places: unpack, pack, shuffle, insert, extract, masks.
    Shuffle(ShuffleOp),
    /// Floating-point arithmetic, minimum and maximum included.
    Arith(Arith, Shape),
    /// CMPPS and its like: a mask per lane, the predicate in the immediate.
    Compare(Shape),
    /// COMISS and its like. The result is ZF, PF and CF in their places in RFLAGS; OF, SF and AF are cleared.
    CompareFlags(FlagsOp),
    /// Between integers, single and double precision.
    Convert(ConvertOp),
    /// RCPPS, RSQRTPS.
    Estimate(EstimateOp),
    /// Loads MXCSR from the source.
    Ldmxcsr,
    /// Gives MXCSR.
    Stmxcsr,
    /// Empties the x87 tag word, which is the interpreter's.
    Emms,
    /// Fences and prefetches: one vCPU without a cache has nothing to order or to fetch.
    Nothing,
}
