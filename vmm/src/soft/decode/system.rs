//! String, input/output, control and system instructions.

use iced_x86::{Code as C, Instruction, Mnemonic as M, OpKind};

use super::super::op::{Kind, LAST, MEMORY, Op, REP, REPNE};
use super::operand::{general, immediate, segment, size, string_memory};
use super::{control, last};

/// See [`super::integer::translate`].
pub(super) fn translate(instr: &Instruction, op: &mut Op) -> Option<()> {
    string(instr, op)
        .or_else(|| interrupt(instr, op))
        .or_else(|| tables(instr, op))
        .or_else(|| plain(instr, op))
}

/// `aux` is 1 if the operand at rDI is the destination, else it is the source at rSI; both are at most one
/// segment away from flat. The instruction ends its block, because it may be cut short.
fn string(instr: &Instruction, op: &mut Op) -> Option<()> {
    let (kind, register) = match instr.code() {
        C::Movsb_m8_m8 | C::Movsw_m16_m16 | C::Movsd_m32_m32 | C::Movsq_m64_m64 => (Kind::Movs, 6),
        C::Stosb_m8_AL | C::Stosw_m16_AX | C::Stosd_m32_EAX | C::Stosq_m64_RAX => (Kind::Stos, 7),
        C::Lodsb_AL_m8 | C::Lodsw_AX_m16 | C::Lodsd_EAX_m32 | C::Lodsq_RAX_m64 => (Kind::Lods, 6),
        C::Scasb_AL_m8 | C::Scasw_AX_m16 | C::Scasd_EAX_m32 | C::Scasq_RAX_m64 => (Kind::Scas, 7),
        C::Cmpsb_m8_m8 | C::Cmpsw_m16_m16 | C::Cmpsd_m32_m32 | C::Cmpsq_m64_m64 => (Kind::Cmps, 6),
        C::Insb_m8_DX | C::Insw_m16_DX | C::Insd_m32_DX => (Kind::Ins, 7),
        C::Outsb_DX_m8 | C::Outsw_DX_m16 | C::Outsd_DX_m32 => (Kind::Outs, 6),
        _ => return port(instr, op),
    };
    string_memory(instr, op, register);
    op.size = instr.memory_size().size().trailing_zeros() as u8;
    op.flags &= !MEMORY;
    if matches!(kind, Kind::Scas | Kind::Cmps) {
        // Both prefixes repeat.
    } else if op.flags & REPNE != 0 {
        op.flags = op.flags & !REPNE | REP;
    }
    control(op, kind)
}

/// IN and OUT: the port is DX (`aux` = 1) or `imm`.
fn port(instr: &Instruction, op: &mut Op) -> Option<()> {
    let (kind, data, port) = match instr.mnemonic() {
        M::In => (Kind::In, 0, 1),
        M::Out => (Kind::Out, 1, 0),
        _ => return None,
    };
    op.size = size(instr, data)?;
    match immediate(instr, port) {
        Some(number) => op.imm = number & 0xff,
        None => op.aux = 1,
    }
    last(op, kind)
}

fn interrupt(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.size = match instr.code() {
        C::Iretw | C::Retfw | C::Retfw_imm16 => 1,
        C::Iretd | C::Retfd | C::Retfd_imm16 => 2,
        _ => 3,
    };
    match instr.mnemonic() {
        M::Int => {
            op.imm = immediate(instr, 0)? & 0xff;
            control(op, Kind::Int)
        }
        M::Int3 => control(op, Kind::Int3),
        M::Int1 => control(op, Kind::Int1),
        M::Into => control(op, Kind::Into),
        M::Bound => {
            op.d = general(instr.op0_register())?.0;
            op.size = general(instr.op0_register())?.1;
            op.kind = Kind::Bound;
            Some(())
        }
        M::Iret | M::Iretd | M::Iretq => control(op, Kind::Iret),
        M::Retf => {
            op.imm = if instr.op_count() > 0 { immediate(instr, 0)? } else { 0 };
            control(op, Kind::RetFar)
        }
        M::Syscall => control(op, Kind::Syscall),
        M::Sysret | M::Sysretq => {
            op.size = if instr.code() == C::Sysretq { 3 } else { 2 };
            control(op, Kind::Sysret)
        }
        M::Sysenter => control(op, Kind::Sysenter),
        M::Sysexit | M::Sysexitq => {
            op.size = if instr.code() == C::Sysexitq { 3 } else { 2 };
            control(op, Kind::Sysexit)
        }
        _ => None,
    }
}

/// Far jumps and calls: direct ones have the selector in `disp`, the offset in `imm`.
pub(super) fn far(instr: &Instruction, op: &mut Op) -> Option<()> {
    let jump = instr.mnemonic() == M::Jmp;
    if op.flags & MEMORY != 0 {
        op.size = match instr.memory_size().size() {
            4 => 1,
            6 => 2,
            _ => 3,
        };
        return control(op, if jump { Kind::JmpFarM } else { Kind::CallFarM });
    }
    op.disp = i64::from(instr.far_branch_selector());
    if instr.op0_kind() == OpKind::FarBranch16 {
        op.size = 1;
        op.imm = i64::from(instr.far_branch16());
    } else {
        op.size = 2;
        op.imm = i64::from(instr.far_branch32());
    }
    control(op, if jump { Kind::JmpFar } else { Kind::CallFar })
}

/// MOV from and to control, debug and segment registers.
pub(super) fn mov(instr: &Instruction, op: &mut Op) -> Option<()> {
    let (first, second) = (instr.op0_register(), instr.op1_register());
    let memory = op.flags & MEMORY != 0;
    if let Some(number) = segment(first) {
        op.aux = number;
        op.size = 1;
        if !memory {
            op.d = general(second)?.0;
        }
        return last(op, Kind::MovToSeg);
    }
    if let Some(number) = segment(second) {
        op.aux = number;
        op.size = 1;
        if !memory {
            (op.d, op.size) = general(first)?;
        }
        op.kind = Kind::MovFromSeg;
        return Some(());
    }
    let (register, special, kinds) = if first.is_cr() || first.is_dr() {
        (second, first, [Kind::MovToCr, Kind::MovToDr])
    } else {
        (first, second, [Kind::MovFromCr, Kind::MovFromDr])
    };
    (op.d, op.size) = general(register)?;
    op.aux = special.number() as u8;
    if !special.is_cr() && !special.is_dr() {
        return None;
    }
    last(op, if special.is_cr() { kinds[0] } else { kinds[1] })
}

/// Descriptor tables and selectors: one operand, a register `d` or memory.
fn tables(instr: &Instruction, op: &mut Op) -> Option<()> {
    let kind = match instr.mnemonic() {
        M::Lgdt => Kind::Lgdt,
        M::Lidt => Kind::Lidt,
        M::Sgdt => Kind::Sgdt,
        M::Sidt => Kind::Sidt,
        M::Lldt => Kind::Lldt,
        M::Ltr => Kind::Ltr,
        M::Sldt => Kind::Sldt,
        M::Str => Kind::Str,
        M::Smsw => Kind::Smsw,
        M::Lmsw => Kind::Lmsw,
        M::Verr => Kind::Verr,
        M::Verw => Kind::Verw,
        M::Lar => Kind::Lar,
        M::Lsl => Kind::Lsl,
        M::Arpl => Kind::Arpl,
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => return load_far(instr, op),
        _ => return None,
    };
    op.size = 1;
    if matches!(kind, Kind::Lar | Kind::Lsl | Kind::Arpl) {
        if instr.op0_kind() == OpKind::Register {
            (op.d, op.size) = general(instr.op0_register())?;
        }
        if instr.op1_kind() == OpKind::Register {
            op.s = general(instr.op1_register())?.0;
        }
    } else if instr.op0_kind() == OpKind::Register {
        (op.d, op.size) = general(instr.op0_register())?;
    }
    last(op, kind)
}

fn load_far(instr: &Instruction, op: &mut Op) -> Option<()> {
    (op.d, op.size) = general(instr.op0_register())?;
    op.aux = match instr.mnemonic() {
        M::Les => 0,
        M::Lss => 2,
        M::Lds => 3,
        M::Lfs => 4,
        _ => 5,
    };
    last(op, Kind::LoadFar)
}

fn plain(instr: &Instruction, op: &mut Op) -> Option<()> {
    let kind = match instr.mnemonic() {
        M::Cli => Kind::Cli,
        M::Sti => Kind::Sti,
        M::Hlt => Kind::Hlt,
        M::Cpuid => Kind::Cpuid,
        M::Rdmsr => Kind::Rdmsr,
        M::Wrmsr => Kind::Wrmsr,
        M::Rdtsc => Kind::Rdtsc,
        M::Clts => Kind::Clts,
        M::Invlpg => Kind::Invlpg,
        M::Wbinvd | M::Invd => Kind::Privileged,
        M::Swapgs => Kind::Swapgs,
        M::Fxsave | M::Fxsave64 => Kind::Fxsave,
        M::Fxrstor | M::Fxrstor64 => Kind::Fxrstor,
        M::Pushf | M::Popf => return flags(op, instr, 1),
        M::Pushfd | M::Popfd => return flags(op, instr, 2),
        M::Pushfq | M::Popfq => return flags(op, instr, 3),
        _ => return None,
    };
    op.size = if matches!(instr.mnemonic(), M::Fxsave64 | M::Fxrstor64) { 3 } else { 2 };
    last(op, kind)
}

fn flags(op: &mut Op, instr: &Instruction, size: u8) -> Option<()> {
    op.size = size;
    let push = matches!(instr.mnemonic(), M::Pushf | M::Pushfd | M::Pushfq);
    op.kind = if push { Kind::Pushf } else { Kind::Popf };
    if !push {
        op.flags |= LAST;
    }
    Some(())
}
