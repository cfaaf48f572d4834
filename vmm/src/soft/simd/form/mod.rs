//! The table of instruction forms: what an interpreter has to know to fetch, check and store.
//!
//! One row per iced `Code`, in three parts ([`moves`], [`integer`], [`floating`]); where a code stands for both
//! a register and a memory operand, the row depends on which it is.

mod floating;
mod integer;
mod moves;

use iced_x86::Code;

use super::SimdOp;

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// There is none.
    None,
    /// An XMM register. As a destination it takes all 16 bytes of the result.
    Xmm,
    /// An MMX register, the 64-bit significand of an x87 register. A write sets the 16 bits above to ones.
    Mm,
    /// A general register, 32 bits. A write clears the upper half.
    R32,
    /// A general register, 64 bits.
    R64,
    /// Memory, this many bytes. As a destination it is only written.
    Memory(u8),
    /// The bytes at rDI, this many, each stored only if the highest bit of its byte in the mask is set
    /// ([`super::sign_bytes`] of operand 2, a register as the source is). Nothing may fault for a byte that is
    /// not stored: the manual leaves that open.
    Masked(u8),
    /// The immediate, zero-extended.
    Immediate,
    /// The first operand is an XMM register, which is only read. The result replaces all the arithmetic flags (CF,
    /// PF, AF, ZF, SF, OF), each in its place.
    Flags,
}

/// Which registers the instruction belongs to, and so which states forbid it. Checked in this order, before any
/// operand is touched (SDM volume 3, 14.1 and volume 2, tables 2-25 and on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// None: never forbidden.
    None,
    /// MMX: #UD if CR0.EM, #NM if CR0.TS, #MF if an x87 exception is pending. The instruction sets the x87 top
    /// of stack to 0 and all tags to valid; EMMS sets them to empty.
    Mmx,
    /// SSE: #UD if CR0.EM or not CR4.OSFXSR, #NM if CR0.TS.
    Sse,
    /// Both, with the checks and the effects of both.
    Both,
}

/// An instruction, as far as its operation does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// What is computed.
    pub(crate) op: SimdOp,
    /// The instruction's first operand, read (unless it is memory) and written.
    pub(crate) dst: Operand,
    /// The second operand; for LDMXCSR, the only one.
    pub(crate) src: Operand,
    /// Which unit it needs.
    pub(crate) unit: Unit,
    /// Whether the memory operand must be aligned to its 16 bytes: #GP(0) if it is not.
    pub(crate) aligned: bool,
}

/// The form of an MMX, SSE or SSE2 instruction, `memory` saying whether one of its operands is in memory.
/// `None` for every other instruction.
pub(crate) fn form_of(code: Code, memory: bool) -> Option<Form> {
    moves::form_of(code, memory)
        .or_else(|| integer::form_of(code, memory))
        .or_else(|| floating::form_of(code, memory))
}

impl Form {
    fn new(op: SimdOp, dst: Operand, src: Operand, unit: Unit) -> Self {
        Form { op, dst, src, unit, aligned: false }
    }

    /// `xmm, xmm` or `xmm, m128`, aligned.
    fn packed(op: SimdOp, memory: bool) -> Self {
        let form = Form::sse(op, Operand::Xmm, either(memory, Operand::Xmm, 16));
        Form { aligned: memory, ..form }
    }

    /// `mm, mm` or `mm, m64`.
    fn mmx(op: SimdOp, memory: bool) -> Self {
        Form::new(op, Operand::Mm, either(memory, Operand::Mm, 8), Unit::Mmx)
    }

    /// `xmm, xmm` or `xmm, m` of so many bytes, not aligned.
    fn low(op: SimdOp, memory: bool, bytes: u8) -> Self {
        Form::sse(op, Operand::Xmm, either(memory, Operand::Xmm, bytes))
    }

    fn sse(op: SimdOp, dst: Operand, src: Operand) -> Self {
        Form::new(op, dst, src, Unit::Sse)
    }
}

/// The register, or memory of so many bytes.
fn either(memory: bool, register: Operand, bytes: u8) -> Operand {
    if memory { Operand::Memory(bytes) } else { register }
}
