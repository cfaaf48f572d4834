//! The table of forms against the decoder's own.

use iced_x86::{Code, CpuidFeature, Instruction, MemorySize, OpCodeOperandKind, OpKind, Register};

use super::super::{Form, Operand, SimdOp, form_of};

/// Every code of MMX, SSE and SSE2.
pub(super) fn codes() -> impl Iterator<Item = Code> {
    Code::values().filter(|code| {
        let wanted = [CpuidFeature::MMX, CpuidFeature::SSE, CpuidFeature::SSE2];
        code.cpuid_features().iter().any(|feature| wanted.contains(feature))
    })
}

/// The instruction with a register or a memory operand, if it has one of this kind; its register operands are
/// numbered as [`super::native::State`] says. And whether an immediate belongs to it.
pub(super) fn instruction(code: Code, memory: bool, imm: u8) -> Option<(Instruction, bool)> {
    use OpCodeOperandKind as Kind;
    let info = code.op_code();
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let (mut has_memory, mut has_immediate) = (false, false);
    for n in 0..info.op_count() {
        let in_memory = match info.op_kind(n) {
            Kind::mem | Kind::seg_rDI => true,
            Kind::xmm_or_mem | Kind::mm_or_mem | Kind::r32_or_mem | Kind::r64_or_mem => memory,
            _ => false,
        };
        has_memory |= in_memory;
        let register = match info.op_kind(n) {
            Kind::seg_rDI => {
                instruction.set_op_kind(n, OpKind::MemorySegRDI);
                continue;
            }
            Kind::imm8 => {
                instruction.set_op_kind(n, OpKind::Immediate8);
                instruction.set_immediate8(imm);
                has_immediate = true;
                continue;
            }
            _ if in_memory => {
                instruction.set_op_kind(n, OpKind::Memory);
                instruction.set_memory_base(Register::RDI);
                continue;
            }
            Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_or_mem => Register::XMM0,
            Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem => Register::MM0,
            Kind::r32_reg | Kind::r32_or_mem => Register::EAX,
            Kind::r64_reg | Kind::r64_or_mem => Register::RAX,
            other => panic!("{code:?} has an operand of a new kind, {other:?}"),
        };
        instruction.set_op_register(n, register + n);
    }
    (has_memory == memory).then_some((instruction, has_immediate))
}

/// Whether the form's operand is what the decoder says of operand `n`.
fn agrees(operand: Operand, instruction: &Instruction, n: u32) -> bool {
    if n >= instruction.op_count() {
        return operand == Operand::None;
    }
    let bytes = instruction.memory_size().size();
    match (instruction.op_kind(n), operand) {
        (OpKind::Register, Operand::Xmm) => instruction.op_register(n).is_xmm(),
        // The flags stand in the place of the first value that is compared.
        (OpKind::Register, Operand::Flags) => instruction.op_register(n).is_xmm() && n == 0,
        (OpKind::Register, Operand::Mm) => instruction.op_register(n).is_mm(),
        (OpKind::Register, Operand::R32) => instruction.op_register(n).is_gpr32(),
        (OpKind::Register, Operand::R64) => instruction.op_register(n).is_gpr64(),
        (OpKind::Memory, Operand::Memory(size)) => bytes == usize::from(size),
        (OpKind::MemorySegRDI, Operand::Masked(size)) => bytes == usize::from(size),
        (OpKind::Immediate8, Operand::Immediate) => true,
        // Some other instruction's immediate goes to `apply` beside its operands.
        (OpKind::Immediate8, Operand::None) => true,
        _ => false,
    }
}

#[test]
fn every_code_has_a_form_that_agrees_with_the_decoder() {
    let mut forms = 0;
    for code in codes() {
        for memory in [false, true] {
            let Some((instruction, _)) = instruction(code, memory, 0) else { continue };
            let form = form_of(code, memory).unwrap_or_else(|| panic!("{code:?} has no form"));
            forms += 1;
            let Form { op, dst, src, aligned, .. } = form;
            match op {
                SimdOp::Nothing => assert_eq!((dst, src), (Operand::None, Operand::None), "{code:?}"),
                SimdOp::Ldmxcsr => assert!(agrees(src, &instruction, 0), "{code:?} {form:?}"),
                _ => {
                    assert!(agrees(dst, &instruction, 0), "{code:?} {form:?}");
                    assert!(agrees(src, &instruction, 1), "{code:?} {form:?}");
                }
            }
            if aligned {
                assert_eq!(instruction.memory_size().size(), 16, "{code:?} is aligned");
            }
        }
    }
    assert!(forms > 500, "only {forms} forms: the decoder lists fewer codes than MMX, SSE and SSE2 have");
}

#[test]
fn what_is_no_such_code_has_no_form() {
    let ours: Vec<Code> = codes().collect();
    for code in Code::values().filter(|code| !ours.contains(code)) {
        for memory in [false, true] {
            assert_eq!(form_of(code, memory), None, "{code:?} belongs to another extension");
        }
    }
    assert_eq!(Instruction::new().memory_size(), MemorySize::Unknown);
}
