//! x87 instructions in a guest: operands in registers and memory, across a page, flags, AX, whole states.

use std::arch::global_asm;

use crate::guest::{between, memory, user_elf};
use crate::{booted, run_to};

/// More than the stub and the program before its last loop have.
const LENGTH: u64 = 20_000;

global_asm!(
    ".pushsection .rodata.twinrun_test_x87, \"a\"",
    ".global twinrun_x87, twinrun_x87_end",
    "twinrun_x87:",
    "fninit",
    "mov edi, 0x300100",
    // The sum of 1 to 10, divided by 4: 13.75.
    "fldz",
    "mov ecx, 10",
    "2: mov [rdi], ecx",
    "fiadd dword ptr [rdi]",
    "loop 2b",
    "mov dword ptr [rdi], 4",
    "fidiv dword ptr [rdi]",
    "fst qword ptr [rdi + 8]",
    // Above 13 and rounded to even: 14.
    "mov word ptr [rdi], 13",
    "fild word ptr [rdi]",
    "fcomip st, st(1)",
    "setb byte ptr [rdi + 16]",
    "fistp word ptr [rdi + 18]",
    // 7 modulo 3 is 1, the quotient 2: C3.
    "fld1",
    "fadd st, st",
    "fld1",
    "faddp st(1), st",
    "fld1",
    "fadd st, st(1)",
    "fadd st, st(1)",
    "fprem",
    "fnstsw ax",
    "mov [rdi + 20], ax",
    "fistp dword ptr [rdi + 24]",
    "fstp st(0)",
    // The sine of a quarter turn, to a place that lies across two pages.
    "fldpi",
    "fld1",
    "fchs",
    "fxch st(1)",
    "fscale",
    "fsin",
    "fstp tbyte ptr [0x300ffb]",
    "fstp st(0)",
    // A move by condition, and a state saved and loaded again.
    "fld1",
    "fldz",
    "cmp edi, edi",
    "fcmove st, st(1)",
    "fnsave [0x300200]",
    "fnstsw [rdi + 32]",
    "frstor [0x300200]",
    "fnstsw [rdi + 34]",
    "fistp qword ptr [rdi + 40]",
    "mov dword ptr [rdi + 60], 0x600d",
    "3: jmp 3b",
    "twinrun_x87_end:",
    ".popsection",
);

unsafe extern "C" {
    static twinrun_x87: u8;
    static twinrun_x87_end: u8;
}

#[test]
fn a_program_of_x87_instructions_computes() {
    let code = between(&raw const twinrun_x87, &raw const twinrun_x87_end);
    let mut vm = booted("x87", &user_elf(code));
    run_to(&mut vm, LENGTH);
    let pages = memory(&vm);
    let results = &pages[0x300][0x100..];
    assert_eq!(results[60..62], [0x0d, 0x60], "the program is through");
    assert_eq!(results[8..16], 13.75_f64.to_le_bytes());
    assert_eq!(results[16], 1, "13 is below");
    assert_eq!(results[18..20], 14_i16.to_le_bytes());
    assert_eq!(u16::from_le_bytes([results[20], results[21]]) & 0x4700, 0x4000, "quotient 2");
    assert_eq!(results[24..28], 1_i32.to_le_bytes());
    assert_eq!(results[32..34], [0, 0], "FNSAVE begins anew");
    assert_eq!(results[35] & 0x38, 0x30, "the top after two pushes");
    assert_eq!(results[40..48], 1_i64.to_le_bytes());
    let mut sine = pages[0x300][0xffb..].to_vec();
    sine.extend(&pages[0x301][..5]);
    assert_eq!(sine, [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
}
