//! From bytes to micro-operations.
//!
//! iced decodes; what profile v1 does not have becomes an operation that raises #UD. F3 before BSF and BSR means
//! nothing without BMI1 and LZCNT, and the decoder is told so.

mod integer;
mod operand;
mod system;

use std::collections::BTreeMap;

use iced_x86::{Code, CpuidFeature, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::op::{CONTROL, FLAT, Kind, LAST, MEMORY, Op, REP, REPNE, ZERO};
use super::simd::{Form, Operand, form_of};
use super::state::Mode;

/// Longest instruction.
pub(super) const LENGTH_MAX: usize = 15;

/// What came of a few bytes.
pub(super) enum Decoded {
    /// One instruction.
    Op(Op),
    /// The bytes end inside of it.
    Short,
    /// It is longer than 15 bytes: #GP(0).
    TooLong,
}

/// Knows the SIMD forms met so far; they stand in [`super::state::Cpu::forms`].
#[derive(Default)]
pub(super) struct Forms(BTreeMap<(u16, bool), i64>);

impl Forms {
    /// The number of a form. The table has at most a row per instruction of the machine.
    fn number(&mut self, table: &mut Vec<Form>, code: Code, memory: bool, form: Form) -> i64 {
        *self.0.entry((code as u16, memory)).or_insert_with(|| {
            table.push(form);
            table.len() as i64 - 1
        })
    }
}

/// Decodes the instruction at `rip`, which lies `offset` bytes into the block at `block`.
pub(super) fn decode(
    bytes: &[u8],
    mode: Mode,
    block: u64,
    offset: u8,
    forms: &mut Forms,
    table: &mut Vec<Form>,
) -> Decoded {
    const OPTIONS: u32 =
        DecoderOptions::NO_MPFX_0FBC | DecoderOptions::NO_MPFX_0FBD | DecoderOptions::NO_WBNOINVD;
    let bitness = match mode {
        Mode::Long => 64,
        Mode::Compat32 => 32,
        Mode::Compat16 => 16,
    };
    let window = &bytes[..bytes.len().min(LENGTH_MAX)];
    let rip = block.wrapping_add(u64::from(offset));
    let mut decoder = Decoder::with_ip(bitness, window, rip, OPTIONS);
    let instr = decoder.decode();
    if instr.is_invalid() {
        return match decoder.last_error() {
            DecoderError::NoMoreBytes if bytes.len() >= LENGTH_MAX => Decoded::TooLong,
            DecoderError::NoMoreBytes => Decoded::Short,
            _ => Decoded::Op(undefined(offset)),
        };
    }
    let mut op = start(&instr, block, offset, mode);
    if !is_known(&instr) || translate(&instr, &mut op, forms, table).is_none() {
        op = Op { length: op.length, ..undefined(offset) };
    }
    Decoded::Op(op)
}

/// An instruction that does not exist; its length does not matter.
fn undefined(offset: u8) -> Op {
    Op {
        kind: Kind::Undefined,
        size: 0,
        length: 1,
        offset,
        d: 0,
        s: 0,
        base: ZERO,
        index: ZERO,
        scale: 0,
        segment: FLAT,
        flags: LAST,
        aux: 0,
        disp: 0,
        imm: 0,
    }
}

/// What every instruction has: length, prefixes, memory operand.
fn start(instr: &Instruction, block: u64, offset: u8, mode: Mode) -> Op {
    let mut op = Op { length: instr.len() as u8, flags: 0, ..undefined(offset) };
    if instr.has_rep_prefix() {
        op.flags |= REP;
    }
    if instr.has_repne_prefix() {
        op.flags |= REPNE;
    }
    if (0..instr.op_count()).any(|at| instr.op_kind(at) == OpKind::Memory) {
        op.flags |= MEMORY;
        operand::memory(instr, &mut op, block, mode);
    }
    op
}

/// Whether the profile has the instruction.
fn is_known(instr: &Instruction) -> bool {
    use CpuidFeature as F;
    let features = instr.cpuid_features();
    features.iter().all(|feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL8086_ONLY
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CPUID
                | F::CX8
                | F::CMOV
                | F::FPU
                | F::FPU287
                | F::FPU387
                | F::MMX
                | F::SSE
                | F::SSE2
                | F::FXSR
                | F::SYSCALL
                | F::SEP
                | F::MSR
                | F::PAUSE
                | F::MULTIBYTENOP
                | F::CLFSH
                | F::TSC
                | F::CET_IBT
                | F::PREFETCHW
                | F::MPX
        )
    })
}

/// Turns the instruction into an operation; `None`: it does not exist in the machine.
fn translate(instr: &Instruction, op: &mut Op, forms: &mut Forms, table: &mut Vec<Form>) -> Option<()> {
    let memory = op.flags & MEMORY != 0;
    if let Some(form) = form_of(instr.code(), memory) {
        return simd(instr, op, form, forms.number(table, instr.code(), memory, form));
    }
    if instr.code() == Code::Emms || is_x87(instr) {
        return x87(instr, op);
    }
    integer::translate(instr, op).or_else(|| system::translate(instr, op))
}

/// The register numbers go to `d` and `s`, as the form says; `aux` holds neither.
fn simd(instr: &Instruction, op: &mut Op, form: Form, number: i64) -> Option<()> {
    op.kind = Kind::Simd;
    let mut registers = (0..instr.op_count())
        .filter(|&at| instr.op_kind(at) == OpKind::Register)
        .map(|at| instr.op_register(at).number() as u8);
    let is_register = |operand| matches!(operand, Operand::Xmm | Operand::Mm | Operand::R32 | Operand::R64);
    if let Operand::Masked(_) = form.dst {
        // Operands: what is at rDI (not a register to iced), the source, the mask.
        op.s = registers.next()?;
        op.aux = registers.next()?;
        operand::string_memory(instr, op, 7);
    } else {
        if matches!(form.dst, Operand::Flags) {
            // COMISS: the first operand is read.
            op.d = registers.next()?;
        } else if is_register(form.dst) {
            op.d = registers.next()?;
        }
        if is_register(form.src) {
            op.s = registers.next()?;
        }
    }
    let has_byte = (0..instr.op_count()).any(|at| instr.op_kind(at) == OpKind::Immediate8);
    op.imm = number << 8 | if has_byte { i64::from(instr.immediate8()) } else { 0 };
    Some(())
}

fn is_x87(instr: &Instruction) -> bool {
    let x87 = |feature: &CpuidFeature| {
        matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387)
    };
    instr.cpuid_features().iter().any(x87)
}

/// The code itself is kept in `imm`; `s` is the stack register, if there is one.
fn x87(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.kind = Kind::X87;
    op.imm = instr.code() as i64;
    for at in 0..instr.op_count() {
        if instr.op_kind(at) == OpKind::Register && instr.op_register(at).is_st() {
            let number = instr.op_register(at).number() as u8;
            if at == 0 {
                op.d = number;
            } else {
                op.s = number;
            }
        }
    }
    Some(())
}

/// A branch target relative to the start of the block.
fn relative(target: u64, block: u64) -> i64 {
    target.wrapping_sub(block).cast_signed()
}

/// Marks an operation that sets RIP.
fn control(op: &mut Op, kind: Kind) -> Option<()> {
    op.kind = kind;
    op.flags |= CONTROL | LAST;
    Some(())
}

/// Marks an operation after which nothing of the block may run.
fn last(op: &mut Op, kind: Kind) -> Option<()> {
    op.kind = kind;
    op.flags |= LAST;
    Some(())
}

/// Whether the decoder calls it a hint.
fn is_hint(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Nop
            | M::Pause
            | M::Endbr64
            | M::Endbr32
            | M::Reservednop
            | M::Prefetchw
            | M::Prefetch
            | M::Clflush
            | M::Bndmov
            | M::Bndmk
            | M::Bndcl
            | M::Bndcu
            | M::Bndcn
            | M::Bndldx
            | M::Bndstx
    )
}
