//! Moves and logic: no lanes, no flags.

const LOW32: u128 = u32::MAX as u128;
const LOW64: u128 = u64::MAX as u128;

/// What becomes of a destination `d` and a source `s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitsOp {
    /// `s`.
    Copy,
    /// The low quadword of `s`, zeros above (MOVQ between registers).
    Low64,
    /// The high quadword of `s`, zeros above (MOVHPS to memory).
    High64,
    /// `d` with the low dword of `s` (MOVSS between registers).
    MergeLow32,
    /// `d` with the low quadword of `s` (MOVSD between registers, MOVLPS).
    MergeLow64,
    /// `d` with the low quadword of `s` in its high quadword (MOVHPS, MOVLHPS).
    MergeHigh64,
    /// `d` with the high quadword of `s` in its low quadword (MOVHLPS).
    HighToLow,
    /// `d & s`.
    And,
    /// `!d & s`.
    AndNot,
    /// `d | s`.
    Or,
    /// `d ^ s`.
    Xor,
}

pub(super) fn apply(op: BitsOp, d: u128, s: u128) -> u128 {
    match op {
        BitsOp::Copy => s,
        BitsOp::Low64 => s & LOW64,
        BitsOp::High64 => s >> 64,
        BitsOp::MergeLow32 => d & !LOW32 | s & LOW32,
        BitsOp::MergeLow64 => d & !LOW64 | s & LOW64,
        BitsOp::MergeHigh64 => d & LOW64 | s << 64,
        BitsOp::HighToLow => d & !LOW64 | s >> 64,
        BitsOp::And => d & s,
        BitsOp::AndNot => !d & s,
        BitsOp::Or => d | s,
        BitsOp::Xor => d ^ s,
    }
}
