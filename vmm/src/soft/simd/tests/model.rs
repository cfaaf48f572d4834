//! The smallest interpreter that can use the table: what [`super::native`] does, with [`apply`].

use super::super::{Form, Mxcsr, Operand, SimdFault, SimdOp, Unit, apply, sign_bytes};
use super::native::{End, OPERAND, State};

/// Executes the form; true beside its end if the x87 registers were taken for MMX.
pub(super) fn run(state: &mut State, form: &Form, imm: u8, skew: usize) -> (End, bool) {
    let enters = matches!(form.unit, Unit::Mmx | Unit::Both) && form.op != SimdOp::Emms;
    if form.aligned && !skew.is_multiple_of(16) {
        return (End::Protection, false);
    }
    let at = OPERAND + skew;
    let dst = fetch(state, form.dst, 0, imm, at);
    // The only operand of LDMXCSR stands first and is the source.
    let src = fetch(state, form.src, 1, imm, at);
    let mut mxcsr = Mxcsr::new(state.mxcsr).expect("the corpus has valid values");
    let result = apply(form.op, dst, src, imm, &mut mxcsr);
    state.mxcsr = mxcsr.bits();
    match result {
        Ok(result) => {
            store(state, form.dst, result, at);
            (End::Completed, enters)
        }
        Err(SimdFault::FloatingPoint) => (End::FloatingPoint, enters),
        Err(SimdFault::Reserved) => (End::Protection, enters),
    }
}

fn fetch(state: &State, operand: Operand, number: usize, imm: u8, at: usize) -> u128 {
    match operand {
        Operand::Xmm => state.xmm[number],
        Operand::Mm => state.mm[number].into(),
        Operand::R32 => u128::from(state.gpr[number] as u32),
        Operand::R64 => state.gpr[number].into(),
        Operand::Memory(bytes) => {
            let mut value = [0; 16];
            value[..usize::from(bytes)].copy_from_slice(&state.memory[at..at + usize::from(bytes)]);
            u128::from_le_bytes(value)
        }
        Operand::Immediate => imm.into(),
        // COMISS reads its first operand, an XMM register.
        Operand::Flags => state.xmm[number],
        Operand::Masked(_) | Operand::None => 0,
    }
}

fn store(state: &mut State, operand: Operand, result: u128, at: usize) {
    let bytes = result.to_le_bytes();
    match operand {
        Operand::Xmm => state.xmm[0] = result,
        Operand::Mm => state.mm[0] = result as u64,
        Operand::R32 => state.gpr[0] = u64::from(result as u32),
        Operand::R64 => state.gpr[0] = result as u64,
        Operand::Memory(size) => {
            let size = usize::from(size);
            state.memory[at..at + size].copy_from_slice(&bytes[..size]);
        }
        Operand::Masked(size) => {
            let mask = if size == 8 { state.mm[2].into() } else { state.xmm[2] };
            for i in (0..usize::from(size)).filter(|i| sign_bytes(mask) >> i & 1 != 0) {
                state.memory[at + i] = bytes[i];
            }
        }
        Operand::Flags => state.flags = result as u64,
        Operand::Immediate | Operand::None => {}
    }
}
