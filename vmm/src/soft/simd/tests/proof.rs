//! Every form, on the same operands, here and on the host's processor.

use iced_x86::{Code, MemorySize};

use super::super::{Form, Operand, SimdOp, form_of};
use super::corpus::{DOUBLES, SINGLES, Seeded};
use super::model;
use super::native::{End, Native, OPERAND, State};
use super::table::{codes, instruction};

/// What differs between processors, and so is defined here and tested elsewhere ([`super::estimate`]).
fn is_ours(op: SimdOp) -> bool {
    matches!(op, SimdOp::Estimate(_))
}

/// Whether MXCSR matters.
fn is_floating(op: SimdOp) -> bool {
    matches!(op, SimdOp::Arith(..) | SimdOp::Compare(_) | SimdOp::CompareFlags(_) | SimdOp::Convert(_))
}

pub(super) fn random_state(seeded: &mut Seeded, mxcsr: u32) -> State {
    let mut state = State::new(mxcsr);
    state.xmm = std::array::from_fn(|_| seeded.operand());
    state.mm = std::array::from_fn(|_| seeded.operand() as u64);
    state.gpr = std::array::from_fn(|_| seeded.operand() as u64);
    if seeded.below(2) == 0 {
        // Counts of shifts that do something.
        state.xmm[1] = seeded.below(70).into();
        state.mm[1] = seeded.below(70);
    }
    for part in state.memory.chunks_exact_mut(16) {
        part.copy_from_slice(&seeded.operand().to_le_bytes());
    }
    if seeded.below(2) == 0 {
        state.memory[OPERAND..OPERAND + 8].copy_from_slice(&seeded.below(70).to_le_bytes());
    }
    state
}

/// One execution on both sides.
fn compare(native: &Native, code: Code, form: &Form, imm: u8, skew: usize, before: &State) {
    let (mut here, mut there) = (before.clone(), before.clone());
    let (end, entered) = model::run(&mut here, form, imm, skew);
    let native_end = native.run(&mut there, skew);
    let native_entered = there.entered_mmx();
    let there = there.visible();
    // No manual says what becomes of the x87 tags if the instruction faults.
    let same = end == native_end && here == there && (end != End::Completed || entered == native_entered);
    assert!(
        same,
        "{code:?} imm {imm:#x} skew {skew} {form:x?}\nbefore    {before:x?}\nhere      {here:x?} {end:?} \
         MMX {entered}\nprocessor {there:x?} {native_end:?} MMX {native_entered}"
    );
}

/// Runs a body for each form, each with its own seed.
fn for_each_form(
    seed: u64,
    wanted: fn(&Form) -> bool,
    mut body: impl FnMut(&mut Native, &mut Seeded, Code, bool, &Form),
) {
    let mut native = Native::new();
    let mut forms = 0;
    for code in codes() {
        for memory in [false, true] {
            if instruction(code, memory, 0).is_none() {
                continue;
            }
            let form = form_of(code, memory).unwrap_or_else(|| panic!("{code:?} has no form"));
            if wanted(&form) && !is_ours(form.op) {
                forms += 1;
                body(&mut native, &mut Seeded::new(seed ^ code as u64), code, memory, &form);
            }
        }
    }
    assert!(forms > 0, "the table has forms of this kind");
}

/// A value with its sign and the opposite one.
fn signs(bits: u64, sign: u64) -> [u64; 2] {
    [bits, bits | sign]
}

#[test]
fn every_pair_of_corners_gives_what_it_gives_on_the_processor() {
    let singles: Vec<u64> = SINGLES.iter().flat_map(|bits| signs((*bits).into(), 1 << 31)).collect();
    let doubles: Vec<u64> = DOUBLES.iter().flat_map(|bits| signs(*bits, 1 << 63)).collect();
    let in_registers = |form: &Form| is_floating(form.op) && form.src == Operand::Xmm;
    for_each_form(5, in_registers, |native, _, code, memory, form| {
        let (loaded, has_immediate) = instruction(code, memory, 0).expect("the form exists");
        let corners = match loaded.memory_size() {
            MemorySize::Float32 => &singles,
            MemorySize::Float64 => &doubles,
            // Packed forms do to each lane what the scalar ones do to one.
            _ => return,
        };
        for imm in if has_immediate { 0..8 } else { 0..1 } {
            let (loaded, _) = instruction(code, memory, imm).expect("the form exists");
            native.load(&loaded);
            for (d, s) in corners.iter().flat_map(|d| corners.iter().map(move |s| (*d, *s))) {
                // Each rounding, and in turn neither, either, or both of DAZ and FTZ.
                for (rounding, zeros) in [(0, 0), (0, 0x8040), (1, 0x40), (2, 0x8000), (3, 0)] {
                    let mut state = State::new(0x1F80 | rounding << 13 | zeros);
                    state.xmm = [d.into(), s.into(), 0];
                    compare(native, code, form, imm, 0, &state);
                }
            }
        }
    });
}

/// Tries a form with `rounds` states; where it has an immediate, with sixteen of them.
fn try_form(
    native: &mut Native,
    seeded: &mut Seeded,
    code: Code,
    memory: bool,
    form: &Form,
    rounds: u32,
    unmasked: bool,
) {
    let (_, has_immediate) = instruction(code, memory, 0).expect("the caller has looked");
    let immediates: u32 = if has_immediate { 32 } else { 1 };
    for n in 0..immediates {
        let imm = if !has_immediate {
            0
        } else if n < 16 {
            n as u8
        } else {
            seeded.next() as u8
        };
        let (loaded, _) = instruction(code, memory, imm).expect("the caller has looked");
        native.load(&loaded);
        for _ in 0..rounds.div_ceil(immediates) {
            let mxcsr = seeded.mxcsr(unmasked);
            let mut state = random_state(seeded, mxcsr);
            if form.op == SimdOp::Ldmxcsr {
                // Bit 17 is reserved in the guest; AMD's processors have a mode there (APM volume 1, 4.2.2).
                state.memory[OPERAND + 2] &= !2;
                if seeded.below(2) == 0 {
                    // No reserved bits, which completely random values hardly ever are without.
                    state.memory[OPERAND + 2..OPERAND + 4].fill(0);
                }
            }
            compare(native, code, form, imm, 0, &state);
        }
    }
}

#[test]
fn integer_forms_do_what_the_processor_does() {
    for_each_form(
        1,
        |form| !is_floating(form.op),
        |native, seeded, code, memory, form| {
            try_form(native, seeded, code, memory, form, 2_000, true);
        },
    );
}

#[test]
fn floating_forms_do_what_the_processor_does() {
    for_each_form(
        2,
        |form| is_floating(form.op),
        |native, seeded, code, memory, form| {
            try_form(native, seeded, code, memory, form, 20_000, false);
        },
    );
}

#[test]
fn unmasked_exceptions_fault_as_on_the_processor() {
    for_each_form(
        3,
        |form| is_floating(form.op),
        |native, seeded, code, memory, form| {
            try_form(native, seeded, code, memory, form, 5_000, true);
        },
    );
}

#[test]
fn alignment_is_asked_for_where_the_processor_asks() {
    let in_memory = |form: &Form| form.op != SimdOp::Nothing;
    for_each_form(4, in_memory, |native, seeded, code, memory, form| {
        let (loaded, _) = instruction(code, memory, 0).expect("the form exists");
        native.load(&loaded);
        for skew in if memory { 0..16 } else { 0..1 } {
            let mut state = random_state(seeded, 0x1F80);
            // LDMXCSR has its own reasons for #GP.
            state.memory[OPERAND..].fill(0);
            compare(native, code, form, 0, skew, &state);
        }
    });
}
