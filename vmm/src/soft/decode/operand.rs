//! Operands.

use iced_x86::{Instruction, OpKind, Register};

use super::super::op::{ADDRESS16, ADDRESS32, BLOCK, DS, ES, FLAT, FLAT_STACK, FS, GS, HIGH, Op, SS, ZERO};
use super::super::state::Mode;

/// Number and size (0 for a byte to 3) of a general register.
pub(super) fn general(register: Register) -> Option<(u8, u8)> {
    use Register as R;
    if matches!(register, R::AH | R::CH | R::DH | R::BH) {
        return Some((HIGH + (register as u8 - R::AH as u8), 0));
    }
    let size = match register.size() {
        _ if !register.is_gpr() => return None,
        1 => 0,
        2 => 1,
        4 => 2,
        _ => 3,
    };
    Some((register.full_register().number() as u8, size))
}

/// Number of a segment register.
pub(super) fn segment(register: Register) -> Option<u8> {
    register.is_segment_register().then(|| register.number() as u8)
}

/// Where data of an instruction is: in 64-bit mode only FS and GS are segments.
fn data_segment(register: Register, long: bool) -> u8 {
    let number = segment(register).unwrap_or(DS);
    match number {
        FS | GS => number,
        SS if long => FLAT_STACK,
        _ if long => FLAT,
        _ => number,
    }
}

/// Fills in the memory operand.
pub(super) fn memory(instr: &Instruction, op: &mut Op, block: u64, mode: Mode) {
    let (base, index) = (instr.memory_base(), instr.memory_index());
    let number = |register| general(register).map_or(ZERO, |(number, _)| number);
    op.base = number(base);
    op.index = number(index);
    op.scale = instr.memory_index_scale().trailing_zeros() as u8;
    op.disp = instr.memory_displacement64().cast_signed();
    if instr.is_ip_rel_memory_operand() {
        op.base = BLOCK;
        op.disp = super::relative(instr.memory_displacement64(), block);
    }
    let width = [base, index].into_iter().find(|register| *register != Register::None).map(Register::size);
    let bytes = width.unwrap_or_else(|| instr.memory_displ_size() as usize);
    let long = mode == Mode::Long;
    op.flags |= match bytes {
        2 => ADDRESS16,
        8 => 0,
        4 => ADDRESS32,
        _ if long => 0,
        _ => ADDRESS32,
    };
    // A displacement alone is as wide as addresses are; what is 1 or 4 bytes in the code is extended.
    if width.is_none() && long && bytes != 4 {
        op.flags &= !ADDRESS32;
    }
    op.segment = data_segment(instr.memory_segment(), long);
}

/// The address of a string operand in rSI or rDI (6 or 7): its width and segment, by the kind of operand.
pub(super) fn string_memory(instr: &Instruction, op: &mut Op, register: u8) {
    op.base = register;
    let long = instr.code_size() == iced_x86::CodeSize::Code64;
    op.segment = if register == 7 { ES } else { segment(instr.memory_segment()).unwrap_or(DS) };
    if long {
        op.segment = if register == 7 { FLAT } else { data_segment(instr.memory_segment(), true) };
    }
    for at in 0..instr.op_count() {
        match instr.op_kind(at) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => op.flags |= ADDRESS16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => op.flags |= ADDRESS32,
            _ => {}
        }
    }
    if instr.op_kind(0) == OpKind::MemorySegRDI || instr.op_kind(0) == OpKind::MemorySegEDI {
        // MASKMOVQ's can be overridden.
        op.segment = data_segment(instr.memory_segment(), long);
    }
}

/// An immediate, sign-extended as the instruction has it.
pub(super) fn immediate(instr: &Instruction, at: u32) -> Option<i64> {
    is_immediate(instr.op_kind(at)).then(|| instr.immediate(at).cast_signed())
}

/// Whether it is one.
pub(super) fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// Size (0 for a byte) of an operand's register or memory.
pub(super) fn size(instr: &Instruction, at: u32) -> Option<u8> {
    match instr.op_kind(at) {
        OpKind::Register => general(instr.op_register(at)).map(|(_, size)| size),
        OpKind::Memory => match instr.memory_size().size() {
            1 => Some(0),
            2 => Some(1),
            4 => Some(2),
            8 => Some(3),
            16 => Some(4),
            _ => None,
        },
        _ => None,
    }
}
