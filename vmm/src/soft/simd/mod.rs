//! MMX, SSE and SSE2: pure functions over `u128`, the same on every host.
//!
//! An interpreter asks [`form_of`] once, when it decodes: the [`Form`] says which operands the instruction has,
//! how many bytes of memory it touches, whether they must be aligned, and which unit must be usable. It then
//! fetches both operands, calls [`apply`] and stores what comes back. Nothing here knows of registers, memory
//! or the decoder's state, and nothing uses the host's vector unit by name, so a result cannot differ between
//! two hosts; the tests compare every form with the processor that runs them.
//!
//! Floating point is exact, flags and NaNs included: see [`float`]. The two instructions that the manual leaves
//! open, RCPPS and RSQRTPS, follow one formula ([`float::estimate`]).

mod bits;
mod float;
mod form;
mod integer;
mod mxcsr;
mod op;
mod shuffle;
mod swar;

#[cfg(test)]
mod tests;

pub(crate) use form::{Form, Operand, Unit, form_of};
pub(crate) use mxcsr::{Mxcsr, SimdFault};
pub(crate) use op::SimdOp;
pub(crate) use shuffle::sign_bytes;

/// Computes what the instruction writes to its destination.
///
/// `dst` is the destination's old value, `src` the source's, both zero-extended: a memory operand has as many
/// bytes as its [`Operand`] says, a register is given whole and the operation takes what it needs of it.
/// Of the result, the destination takes its size from bit 0 up. `imm` is 0 where there is none.
///
/// # Errors
/// The exception that the instruction raises. Nothing is written then but the flags in `mxcsr`.
pub(crate) fn apply(op: SimdOp, dst: u128, src: u128, imm: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    Ok(match op {
        SimdOp::Bits(op) => bits::apply(op, dst, src),
        SimdOp::Integer(op) => integer::apply(op, dst, src),
        SimdOp::Shift(op) => integer::shift(op, dst, src),
        SimdOp::Shuffle(op) => shuffle::apply(op, dst, src, imm),
        SimdOp::Arith(op, shape) => return float::arith(op, shape, dst, src, mxcsr),
        SimdOp::Compare(shape) => return float::compare(shape, dst, src, imm, mxcsr),
        SimdOp::CompareFlags(how) => return float::compare_flags(how, dst, src, mxcsr),
        SimdOp::Convert(op) => return float::convert(op, dst, src, mxcsr),
        SimdOp::Estimate(op) => float::estimate(op, dst, src),
        SimdOp::Ldmxcsr => {
            // A dword of memory: nothing above bit 31 can be set.
            *mxcsr = Mxcsr::new(src as u32)?;
            0
        }
        SimdOp::Stmxcsr => u128::from(mxcsr.bits()),
        SimdOp::Emms | SimdOp::Nothing => 0,
    })
}
