//! General-purpose instructions.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

use super::super::op::{Kind, LAST, MEMORY, Op};
use super::operand::{general, immediate, is_immediate, size};
use super::{control, last, relative};

/// `d`, `s`: registers by place; a memory operand leaves its place free.
pub(super) fn translate(instr: &Instruction, op: &mut Op) -> Option<()> {
    if let Some(row) = alu_row(instr.mnemonic()) {
        return alu(instr, op, row);
    }
    match instr.mnemonic() {
        M::Mov => mov(instr, op),
        M::Movzx => widen(instr, op, [Kind::MovzxR, Kind::MovzxM]),
        M::Movsx | M::Movsxd => widen(instr, op, [Kind::MovsxR, Kind::MovsxM]),
        M::Lea => {
            (op.d, op.size) = general(instr.op0_register())?;
            op.kind = Kind::Lea;
            Some(())
        }
        M::Push | M::Pop => push_pop(instr, op),
        M::Test => test(instr, op),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr => shift(instr, op),
        M::Shld | M::Shrd => double_shift(instr, op),
        M::Imul => imul(instr, op),
        M::Jmp | M::Call | M::Ret => branch(instr, op),
        _ => unary(instr, op)
            .or_else(|| binary(instr, op))
            .or_else(|| conditional(instr, op))
            .or_else(|| simple(instr, op)),
    }
}

#[rustfmt::skip]
fn alu_row(mnemonic: M) -> Option<[Kind; 5]> {
    use Kind as K;
    Some(match mnemonic {
        M::Add => [K::AddRR, K::AddRM, K::AddMR, K::AddRI, K::AddMI],
        M::Or => [K::OrRR, K::OrRM, K::OrMR, K::OrRI, K::OrMI],
        M::Adc => [K::AdcRR, K::AdcRM, K::AdcMR, K::AdcRI, K::AdcMI],
        M::Sbb => [K::SbbRR, K::SbbRM, K::SbbMR, K::SbbRI, K::SbbMI],
        M::And => [K::AndRR, K::AndRM, K::AndMR, K::AndRI, K::AndMI],
        M::Sub => [K::SubRR, K::SubRM, K::SubMR, K::SubRI, K::SubMI],
        M::Xor => [K::XorRR, K::XorRM, K::XorMR, K::XorRI, K::XorMI],
        M::Cmp => [K::CmpRR, K::CmpRM, K::CmpMR, K::CmpRI, K::CmpMI],
        _ => return None,
    })
}

/// Two operands; the kind by their form.
fn alu(instr: &Instruction, op: &mut Op, row: [Kind; 5]) -> Option<()> {
    op.size = size(instr, 0)?;
    let [rr, rm, mr, ri, mi] = row;
    let memory_first = instr.op_kind(0) == OpKind::Memory;
    if !memory_first {
        op.d = general(instr.op0_register())?.0;
    }
    op.kind = match instr.op_kind(1) {
        OpKind::Memory => rm,
        OpKind::Register => {
            op.s = general(instr.op1_register())?.0;
            if memory_first { mr } else { rr }
        }
        _ => {
            op.imm = immediate(instr, 1)?;
            if memory_first { mi } else { ri }
        }
    };
    Some(())
}

fn mov(instr: &Instruction, op: &mut Op) -> Option<()> {
    if size(instr, 0).is_none() || (instr.op_kind(1) == OpKind::Register && size(instr, 1).is_none()) {
        // A control, debug or segment register.
        return super::system::mov(instr, op);
    }
    alu(instr, op, [Kind::MovRR, Kind::MovRM, Kind::MovMR, Kind::MovRI, Kind::MovMI])
}

fn widen(instr: &Instruction, op: &mut Op, [register, memory]: [Kind; 2]) -> Option<()> {
    (op.d, op.size) = general(instr.op0_register())?;
    op.aux = size(instr, 1)?;
    if op.flags & MEMORY != 0 {
        op.kind = memory;
    } else {
        op.s = general(instr.op1_register())?.0;
        op.kind = register;
    }
    Some(())
}

fn push_pop(instr: &Instruction, op: &mut Op) -> Option<()> {
    let push = instr.mnemonic() == M::Push;
    let bytes = instr.stack_pointer_increment().unsigned_abs();
    op.size = bytes.trailing_zeros() as u8;
    match instr.op_kind(0) {
        OpKind::Memory => op.kind = if push { Kind::PushM } else { Kind::PopM },
        OpKind::Register => {
            if let Some(number) = super::operand::segment(instr.op0_register()) {
                op.d = number;
                return last(op, if push { Kind::PushSeg } else { Kind::PopSeg });
            }
            op.d = general(instr.op0_register())?.0;
            op.kind = if push { Kind::PushR } else { Kind::PopR };
        }
        _ => {
            op.imm = immediate(instr, 0)?;
            op.kind = Kind::PushI;
        }
    }
    Some(())
}

fn test(instr: &Instruction, op: &mut Op) -> Option<()> {
    alu(instr, op, [Kind::TestRR, Kind::TestMR, Kind::TestMR, Kind::TestRI, Kind::TestMI])
}

/// `d` or memory; the count is CL (`s` = 1) or `imm`. `aux` is the operation's number in the encoding.
fn shift(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.aux = match instr.mnemonic() {
        M::Rol => 0,
        M::Ror => 1,
        M::Rcl => 2,
        M::Rcr => 3,
        M::Shr => 5,
        M::Sar => 7,
        _ => 4,
    };
    first(instr, op)?;
    count(instr, op, 1)?;
    op.kind = Kind::Shift;
    Some(())
}

fn double_shift(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.kind = if instr.mnemonic() == M::Shld { Kind::Shld } else { Kind::Shrd };
    first(instr, op)?;
    count(instr, op, 2)?;
    op.aux = op.s;
    op.s = general(instr.op1_register())?.0;
    Some(())
}

fn count(instr: &Instruction, op: &mut Op, at: u32) -> Option<()> {
    if is_immediate(instr.op_kind(at)) {
        op.imm = immediate(instr, at)?;
        op.s = 0;
    } else {
        op.s = 1;
    }
    Some(())
}

/// The first operand: register `d` or memory.
fn first(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.size = size(instr, 0)?;
    if instr.op_kind(0) == OpKind::Register {
        op.d = general(instr.op0_register())?.0;
    }
    Some(())
}

fn imul(instr: &Instruction, op: &mut Op) -> Option<()> {
    first(instr, op)?;
    if instr.op_count() == 1 {
        op.kind = Kind::Imul1;
        return Some(());
    }
    if instr.op_kind(1) == OpKind::Register {
        op.s = general(instr.op1_register())?.0;
    }
    op.kind = Kind::Imul2;
    if instr.op_count() == 3 {
        op.imm = immediate(instr, 2)?;
        op.kind = Kind::Imul3;
    }
    Some(())
}

fn branch(instr: &Instruction, op: &mut Op) -> Option<()> {
    let target = instr.op_count() > 0;
    let near = matches!(instr.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    op.size = stack_size(instr);
    match instr.mnemonic() {
        M::Ret => {
            op.imm = if target { immediate(instr, 0)? } else { 0 };
            control(op, if target { Kind::RetImm } else { Kind::Ret })
        }
        _ if target && near => {
            op.imm = relative(instr.near_branch64(), block_start(instr, op));
            control(op, if instr.mnemonic() == M::Jmp { Kind::Jmp } else { Kind::Call })
        }
        jump => {
            let far = matches!(instr.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
                || instr.is_jmp_far_indirect()
                || instr.is_call_far_indirect();
            if far {
                return super::system::far(instr, op);
            }
            op.size = size(instr, 0)?;
            if instr.op0_kind() == OpKind::Register {
                op.d = general(instr.op0_register())?.0;
            }
            control(op, if jump == M::Jmp { Kind::JmpRm } else { Kind::CallRm })
        }
    }
}

/// Size of what a near branch pushes or pops, and of the RIP that it sets.
fn stack_size(instr: &Instruction) -> u8 {
    use iced_x86::Code as C;
    match instr.code() {
        C::Retnw | C::Retnw_imm16 | C::Call_rel16 | C::Jmp_rel16 | C::Jmp_rel8_16 => 1,
        C::Retnd | C::Retnd_imm16 | C::Call_rel32_32 | C::Jmp_rel32_32 | C::Jmp_rel8_32 => 2,
        _ => 3,
    }
}

fn block_start(instr: &Instruction, op: &Op) -> u64 {
    instr.ip().wrapping_sub(u64::from(op.offset))
}

fn unary(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.kind = match instr.mnemonic() {
        M::Inc => Kind::Inc,
        M::Dec => Kind::Dec,
        M::Not => Kind::Not,
        M::Neg => Kind::Neg,
        M::Mul => Kind::Mul,
        M::Div => Kind::Div,
        M::Idiv => Kind::Idiv,
        M::Bswap => Kind::Bswap,
        _ => return None,
    };
    first(instr, op)
}

fn binary(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.kind = match instr.mnemonic() {
        M::Bt => Kind::Bt,
        M::Bts => Kind::Bts,
        M::Btr => Kind::Btr,
        M::Btc => Kind::Btc,
        M::Bsf => Kind::Bsf,
        M::Bsr => Kind::Bsr,
        M::Xchg => Kind::Xchg,
        M::Xadd => Kind::Xadd,
        M::Cmpxchg => Kind::Cmpxchg,
        M::Cmpxchg8b => Kind::Cmpxchg8b,
        _ => return None,
    };
    if op.kind == Kind::Cmpxchg8b {
        return Some(());
    }
    first(instr, op)?;
    match instr.op_kind(1) {
        OpKind::Register => op.s = general(instr.op1_register())?.0,
        OpKind::Memory => {}
        _ => {
            op.imm = immediate(instr, 1)?;
            op.aux = 1;
        }
    }
    // XCHG of a register with memory, either way round.
    if instr.op_kind(0) == OpKind::Register && instr.op_kind(1) == OpKind::Memory {
        op.s = op.d;
    }
    Some(())
}

/// Jcc, SETcc, CMOVcc and the counting jumps.
fn conditional(instr: &Instruction, op: &mut Op) -> Option<()> {
    let near = matches!(instr.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    if instr.op_count() > 0 && near {
        let kind = match instr.mnemonic() {
            M::Loop => Kind::Loop,
            M::Loope => Kind::Loope,
            M::Loopne => Kind::Loopne,
            M::Jcxz | M::Jecxz | M::Jrcxz => Kind::Jrcxz,
            _ => Kind::Jcc,
        };
        op.aux = if kind == Kind::Jcc { condition(instr)? } else { counter_size(instr) };
        op.imm = relative(instr.near_branch64(), block_start(instr, op));
        op.size = match instr.op0_kind() {
            OpKind::NearBranch16 => 1,
            OpKind::NearBranch32 => 2,
            _ => 3,
        };
        return control(op, kind);
    }
    op.aux = condition(instr)?;
    first(instr, op)?;
    if instr.op_count() == 1 {
        op.kind = Kind::Setcc;
        return Some(());
    }
    if instr.op_kind(1) == OpKind::Register {
        op.s = general(instr.op1_register())?.0;
    }
    op.kind = Kind::Cmov;
    Some(())
}

fn condition(instr: &Instruction) -> Option<u8> {
    (instr.condition_code() as u8).checked_sub(1)
}

/// Size of the counter of LOOP and JRCXZ: the address size.
fn counter_size(instr: &Instruction) -> u8 {
    use iced_x86::Code as C;
    match instr.code() {
        C::Jcxz_rel8_16
        | C::Jcxz_rel8_32
        | C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX => 1,
        C::Jrcxz_rel8_16
        | C::Jrcxz_rel8_64
        | C::Loop_rel8_16_RCX
        | C::Loop_rel8_64_RCX
        | C::Loope_rel8_16_RCX
        | C::Loope_rel8_64_RCX
        | C::Loopne_rel8_16_RCX
        | C::Loopne_rel8_64_RCX => 3,
        _ => 2,
    }
}

fn simple(instr: &Instruction, op: &mut Op) -> Option<()> {
    let (kind, size) = match instr.mnemonic() {
        mnemonic if super::is_hint(mnemonic) => (Kind::Nop, 0),
        M::Cbw => (Kind::Cbw, 1),
        M::Cwde => (Kind::Cbw, 2),
        M::Cdqe => (Kind::Cbw, 3),
        M::Cwd => (Kind::Cwd, 1),
        M::Cdq => (Kind::Cwd, 2),
        M::Cqo => (Kind::Cwd, 3),
        M::Sahf => (Kind::Sahf, 0),
        M::Lahf => (Kind::Lahf, 0),
        M::Clc => (Kind::Clc, 0),
        M::Stc => (Kind::Stc, 0),
        M::Cmc => (Kind::Cmc, 0),
        M::Cld => (Kind::Cld, 0),
        M::Std => (Kind::Std, 0),
        M::Leave | M::Enter => return frame(instr, op),
        M::Xlatb => return xlat(instr, op),
        M::Aaa => (Kind::Aaa, 0),
        M::Aas => (Kind::Aas, 0),
        M::Daa => (Kind::Daa, 0),
        M::Das => (Kind::Das, 0),
        M::Salc => (Kind::Salc, 0),
        M::Aam | M::Aad => {
            op.imm = immediate(instr, 0)?;
            (if instr.mnemonic() == M::Aam { Kind::Aam } else { Kind::Aad }, 0)
        }
        M::Pushad => (Kind::Pusha, 2),
        M::Pusha => (Kind::Pusha, 1),
        M::Popad => (Kind::Popa, 2),
        M::Popa => (Kind::Popa, 1),
        _ => return None,
    };
    (op.kind, op.size) = (kind, size);
    Some(())
}

fn frame(instr: &Instruction, op: &mut Op) -> Option<()> {
    use iced_x86::Code as C;
    op.size = match instr.code() {
        C::Leavew | C::Enterw_imm16_imm8 => 1,
        C::Leaved | C::Enterd_imm16_imm8 => 2,
        _ => 3,
    };
    if instr.mnemonic() == M::Leave {
        op.kind = Kind::Leave;
    } else {
        op.imm = i64::from(instr.immediate16());
        op.aux = instr.immediate8_2nd() & 31;
        op.kind = Kind::Enter;
    }
    op.flags |= LAST;
    Some(())
}

/// The address is rBX + AL, which no other operand has: AL is added when it runs.
fn xlat(instr: &Instruction, op: &mut Op) -> Option<()> {
    op.kind = Kind::Xlat;
    op.index = super::super::op::ZERO;
    op.base = general(instr.memory_base()).or_else(|| general(Register::RBX))?.0;
    Some(())
}
