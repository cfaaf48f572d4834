//! Every instruction, on the same states as the host's x87: all of the state must come out alike.
//!
//! What the processor executes is decoded and executed on the unit.

use iced_x86::{Decoder, DecoderOptions};

use super::super::unit::Layout;
use super::super::value::{BIAS, F80};
use super::super::{Effect, Operand, Operation, Unit};
use super::corpus::Seeded;
use super::native::{Machine, Native, genuine_intel, native};

/// The same instruction on the unit.
type Soft = fn(&mut Unit, &mut Machine);

struct Instruction {
    name: &'static str,
    native: Native,
    /// In place of the decoded operation.
    soft: Option<Soft>,
}

macro_rules! instructions {
    ($($text:literal,)*) => {
        &[$(Instruction { name: $text, native: native!($text), soft: None }),*]
    };
}

macro_rules! special {
    ($text:literal => $soft:expr) => {
        Instruction { name: $text, native: native!($text), soft: Some($soft) }
    };
}

const ARITHMETIC: &[Instruction] = instructions! {
    "fadd st, st(1)",
    "fsub st, st(1)",
    "fsubr st, st(1)",
    "fmul st, st(1)",
    "fdiv st, st(1)",
    "fdivr st, st(1)",
    "fsqrt",
    "fprem",
    "fprem1",
    "frndint",
    "fscale",
    "fxtract",
};

const MOVES: &[Instruction] = instructions! {
    "fadd st(1), st",
    "faddp st(1), st",
    "fmulp st(1), st",
    ".byte 0xde, 0xe9",
    ".byte 0xde, 0xe1",
    ".byte 0xde, 0xf9",
    ".byte 0xde, 0xf1",
    "fadd dword ptr [rdi]",
    "fsubr qword ptr [rdi]",
    "fmul dword ptr [rdi]",
    "fdiv qword ptr [rdi]",
    "fdivr dword ptr [rdi]",
    "fiadd word ptr [rdi]",
    "fidiv dword ptr [rdi]",
    "fcom st(1)",
    "fcompp",
    "fucomp st(1)",
    "fucompp",
    "fcomp qword ptr [rdi]",
    "fcom dword ptr [rdi]",
    "ficomp word ptr [rdi]",
    "ficom dword ptr [rdi]",
    "fcomi st, st(1)",
    "fcomip st, st(1)",
    "fucomi st, st(1)",
    "fucomip st, st(1)",
    "ftst",
    "fxam",
    "fchs",
    "fabs",
    "fxch st(1)",
    "ffree st(1)",
    "ffreep st(1)",
    "fincstp",
    "fdecstp",
    "fcmovb st, st(1)",
    "fcmovnu st, st(1)",
    "fnop",
    "fninit",
    "fnclex",
    "fnstcw [rdi]",
    "fnstsw [rdi]",
    "fldcw [rdi]",
    "fld st(2)",
    "fst st(3)",
    "fstp st(1)",
    "fld1",
    "fldz",
    "fldl2t",
    "fldl2e",
    "fldpi",
    "fldlg2",
    "fldln2",
    "fld dword ptr [rdi]",
    "fld qword ptr [rdi]",
    "fld tbyte ptr [rdi]",
    "fild word ptr [rdi]",
    "fild dword ptr [rdi]",
    "fild qword ptr [rdi]",
    "fbld tbyte ptr [rdi]",
    "fst dword ptr [rdi]",
    "fstp qword ptr [rdi]",
    "fstp tbyte ptr [rdi]",
    "fist word ptr [rdi]",
    "fistp dword ptr [rdi]",
    "fistp qword ptr [rdi]",
    "fbstp tbyte ptr [rdi]",
    "fisttp word ptr [rdi]",
    "fisttp dword ptr [rdi]",
    "fisttp qword ptr [rdi]",
    "fcom st(2)",
    "fcomp st(1)",
    "fucom st(1)",
    "fsub dword ptr [rdi]",
    "fdivr qword ptr [rdi]",
    "fimul word ptr [rdi]",
    "fisub dword ptr [rdi]",
    "fisubr word ptr [rdi]",
    "fidivr word ptr [rdi]",
    "fadd qword ptr [rdi]",
    "fst qword ptr [rdi]",
    "fstp dword ptr [rdi]",
    "fist dword ptr [rdi]",
    "fistp word ptr [rdi]",
    "fnstsw ax",
    "fwait",
    "fcmovnb st, st(1)",
    "fcmove st, st(1)",
    "fcmovne st, st(1)",
    "fcmovbe st, st(1)",
    "fcmovnbe st, st(1)",
    "fcmovu st, st(1)",
    "fsub st(1), st",
    "fsubr st(1), st",
    "fdiv st(2), st",
    "fdivr st(2), st",
    "fmul st(1), st",
    ".byte 0xd9, 0xd9",
    ".byte 0xdc, 0xd1",
    ".byte 0xdc, 0xd9",
    ".byte 0xdd, 0xc9",
    ".byte 0xde, 0xd1",
    ".byte 0xdf, 0xc9",
    ".byte 0xdf, 0xd1",
    ".byte 0xdf, 0xd9",
    ".byte 0xdb, 0xe0",
    ".byte 0xdb, 0xe1",
    ".byte 0xdb, 0xe4",
};

const IMAGES: &[Instruction] = instructions! {
    "fnstenv [rdi]",
    ".byte 0x66; fnstenv [rdi]",
    "fldenv [rdi]",
    ".byte 0x66; fldenv [rdi]",
    "fnsave [rdi]",
    ".byte 0x66; fnsave [rdi]",
    "frstor [rdi]",
    ".byte 0x66; frstor [rdi]",
};

const TRANSCENDENTAL: &[Instruction] = instructions! {
    "f2xm1",
    "fyl2x",
    "fpatan",
};

/// Defined from `sqrt(1/2) - 1` to `1 - sqrt(1/2)`.
const NEAR_ONE: &[Instruction] = instructions! {
    "fyl2xp1",
};

/// Only Intel's manual says with which π the argument is reduced.
const TRIGONOMETRIC: &[Instruction] = instructions! {
    "fptan",
    "fsin",
    "fcos",
    "fsincos",
};

/// What is not x87's own, but works on its registers.
const SHARED: &[Instruction] = &[
    special!("emms" => |unit, _| unit.leave_mmx()),
    special!("movq mm1, [rdi]" => |unit, machine| {
        unit.enter_mmx();
        unit.set_mmx(1, u64::from_le_bytes(std::array::from_fn(|at| machine.memory[at])));
    }),
    special!("movq [rdi], mm3" => |unit, machine| {
        unit.enter_mmx();
        machine.memory[..8].copy_from_slice(&unit.mmx(3).to_le_bytes());
    }),
    // What is not x87's is cleared: the mask of MXCSR, and all from the XMM registers on.
    special!(
        "fxsave64 [rdi]; mov dword ptr [rdi + 28], 0; mov ecx, 44; 2: mov qword ptr [rdi + 8 * rcx + 152], 0; loop 2b"
            => |unit, machine| {
            machine.memory[28..32].fill(0);
            machine.memory[160..].fill(0);
            unit.save(&mut machine.memory);
        }
    ),
    special!("fxrstor64 [rdi]" => |unit, machine| unit.restore(&machine.memory)),
];

/// Status bits that the manual leaves undefined somewhere and whose value here is Intel's.
const CONDITIONS: u16 = 0x4700;

/// How exactly the state must agree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreement {
    Exact,
    /// Registers within one unit in the last place. C1, which says how the last place was rounded, is not
    /// compared.
    Close,
}

/// Orders like the value, neighbours by one apart.
fn key(value: F80) -> i128 {
    let magnitude = i128::from(value.sign_exp & 0x7fff) << 63 | i128::from(value.mant << 1 >> 1);
    if value.negative() { -magnitude } else { magnitude }
}

fn word(machine: &Machine, at: usize) -> u16 {
    u16::from_le_bytes([machine.image[at], machine.image[at + 1]])
}

fn register(machine: &Machine, i: usize) -> F80 {
    F80::from_bytes(std::array::from_fn(|at| machine.image[28 + 10 * i + at]))
}

fn agree(how: Agreement, native: &Machine, soft: &Machine) -> bool {
    if how == Agreement::Exact || native == soft {
        return native == soft;
    }
    let near = (0..8).all(|i| (key(register(native, i)) - key(register(soft, i))).abs() <= 1);
    // A tag tells normal numbers from others; what is empty still has to agree.
    let empty = |machine: &Machine| word(machine, 8) & word(machine, 8) >> 1 & 0x5555;
    near && native.memory == soft.memory
        && native.ax == soft.ax
        && word(native, 0) == word(soft, 0)
        && (word(native, 4) ^ word(soft, 4)) & !0x0200 == 0
        && empty(native) == empty(soft)
}

/// Forgets the pointers, which are not kept, and on another maker's processor what is Intel's choice.
fn comparable(mut machine: Machine, intel: bool) -> Machine {
    machine.image[12..28].fill(0);
    if !intel {
        let status = word(&machine, 4) & !CONDITIONS;
        machine.image[4..6].copy_from_slice(&status.to_le_bytes());
    }
    machine
}

fn describe(machine: &Machine) -> String {
    let registers: Vec<String> = (0..8)
        .map(|i| register(machine, i))
        .map(|value| format!("{:04x}:{:016x}", value.sign_exp, value.mant))
        .collect();
    let [control, status, tags] = [0, 4, 8].map(|at| word(machine, at));
    format!(
        "control {control:04x} status {status:04x} tags {tags:04x} ax {:04x} memory {:02x?} {}",
        machine.ax,
        &machine.memory[..28],
        registers.join(" ")
    )
}

/// The operation that these bytes are.
fn decoded(code: &[u8]) -> Operation {
    let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
    assert_eq!(instruction.len(), code.len(), "one instruction: {code:02x?}");
    let stack_register = |at| {
        let register = instruction.op_register(at);
        if register.is_st() { register.number() as u8 } else { 0 }
    };
    // One of two is ST(0).
    let i = (0..instruction.op_count()).map(stack_register).max().unwrap_or(0);
    Operation::of(instruction.code(), i).unwrap_or_else(|| panic!("no operation: {code:02x?}"))
}

fn execute(operation: Operation, unit: &mut Unit, machine: &mut Machine) {
    let operand = std::array::from_fn(|at| machine.memory[at]);
    let [_, ah] = machine.ax.to_le_bytes();
    let (carry, parity, zero) = (ah & 1 != 0, ah & 4 != 0, ah & 0x40 != 0);
    let holds = match operation.condition() {
        Some(2) => carry,
        Some(3) => !carry,
        Some(4) => zero,
        Some(5) => !zero,
        Some(6) => carry || zero,
        Some(7) => !(carry || zero),
        Some(10) => parity,
        Some(11) => !parity,
        _ => false,
    };
    match (operation.execute(unit, &operand, holds), operation.operand()) {
        (Effect::None, _) => {}
        (Effect::Write(bytes), Operand::Write(size)) => {
            machine.memory[..size].copy_from_slice(&bytes[..size]);
        }
        (Effect::Write(_), operand) => panic!("{operation:?} writes, but its operand is {operand:?}"),
        // LAHF comes after.
        (Effect::Ax(status), _) => machine.ax = status & 0xff | machine.ax & 0xff00,
        (Effect::Flags(flags), _) => {
            let flags = u8::from(flags.carry) | u8::from(flags.parity) << 2 | u8::from(flags.zero) << 6;
            machine.ax = machine.ax & 0xff | u16::from(flags | 2) << 8;
        }
    }
}

fn run(instruction: &Instruction, code: &[u8], machine: &mut Machine) {
    let mut unit = Unit::reset();
    unit.load_state(Layout::Long, &machine.image);
    match instruction.soft {
        Some(soft) => soft(&mut unit, machine),
        None => execute(decoded(code), &mut unit, machine),
    }
    machine.image = unit.store_state(Layout::Long);
}

fn check(instructions: &[Instruction], cases: u32, how: Agreement, prepare: fn(&mut Seeded, &mut Machine)) {
    let intel = genuine_intel();
    for (seed, instruction) in (1..).zip(instructions) {
        let mut seeded = Seeded(seed);
        for _ in 0..cases {
            let mut before = seeded.machine(intel);
            prepare(&mut seeded, &mut before);
            let (mut native, mut soft) = (before.clone(), before.clone());
            let code = (instruction.native)(&mut native);
            run(instruction, code, &mut soft);
            let (native, soft) = (comparable(native, intel), comparable(soft, intel));
            assert!(
                agree(how, &native, &soft),
                "{}\nbefore {}\nnative {}\nsoft   {}",
                instruction.name,
                describe(&before),
                describe(&native),
                describe(&soft)
            );
        }
    }
}

#[test]
fn arithmetic_is_the_processors() {
    check(ARITHMETIC, 100_000, Agreement::Exact, |_, _| {});
}

#[test]
fn moves_and_comparisons_are_the_processors() {
    check(MOVES, 20_000, Agreement::Exact, |seeded, machine| {
        if seeded.below(2) == 0 {
            machine.memory[..10].copy_from_slice(&seeded.value(BIAS).to_bytes());
        } else if seeded.below(3) == 0 {
            // Exponents of single and double precision that are special.
            for (at, bytes) in [(2, [0, 0x80, 0x7f, 0xff]), (6, [0, 0xf0, 0x7f, 0xff])] {
                machine.memory[at] = seeded.of(&bytes);
                machine.memory[at + 1] = seeded.of(&[0, 0x80, 0x7f, 0xff]);
            }
        }
    });
}

#[test]
fn images_are_the_processors() {
    let prepare: fn(&mut Seeded, &mut Machine) = |seeded, machine| {
        for chunk in machine.memory.as_chunks_mut::<8>().0 {
            *chunk = seeded.next().to_le_bytes();
        }
        // The pointers are not compared; MXCSR stays as it is.
        machine.memory[6..28].fill(0);
        machine.memory[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        let tags = seeded.next().to_le_bytes();
        machine.memory[8..10].copy_from_slice(&tags[..2]);
    };
    check(IMAGES, 20_000, Agreement::Exact, prepare);
    check(SHARED, 20_000, Agreement::Exact, prepare);
}

/// Gives ST(0) an exponent below that of 1/4, where every function is defined; special values remain.
fn small(seeded: &mut Seeded, machine: &mut Machine) {
    let mut value = register(machine, 0);
    // Next to this one it depends on the last place whether there is an underflow.
    if value.mant == 1 << 63 && value.sign_exp & 0x7fff <= 1 {
        value.mant += 2;
    }
    if !matches!(value.sign_exp & 0x7fff, 0 | 0x7fff) {
        value.sign_exp = value.sign_exp & 0x8000 | (BIAS as u16 - 3 - seeded.below(70) as u16);
    }
    machine.image[28..38].copy_from_slice(&value.to_bytes());
}

/// The same for every other case.
fn often_small(seeded: &mut Seeded, machine: &mut Machine) {
    let value = register(machine, 0);
    if seeded.below(2) == 0 || value.mant == 1 << 63 {
        small(seeded, machine);
    }
}

#[test]
fn transcendentals_are_within_a_unit_of_the_processors() {
    check(TRANSCENDENTAL, 20_000, Agreement::Close, often_small);
    check(NEAR_ONE, 20_000, Agreement::Close, small);
    if genuine_intel() {
        check(TRIGONOMETRIC, 20_000, Agreement::Close, often_small);
    }
}

/// States after `cases` cases of each instruction, on the unit alone.
fn digest(instructions: &[Instruction], cases: u32) -> u64 {
    let mut digest = xxhash_rust::xxh3::Xxh3::new();
    for (seed, instruction) in (1..).zip(instructions) {
        let mut seeded = Seeded(seed);
        for _ in 0..cases {
            let mut machine = seeded.machine(true);
            let code = (instruction.native)(&mut machine.clone());
            run(instruction, code, &mut machine);
            digest.update(&machine.image);
            digest.update(&machine.memory[..16]);
            digest.update(&machine.ax.to_le_bytes());
        }
    }
    digest.digest()
}

#[test]
fn results_are_the_same_everywhere() {
    // Not to be updated but for an error that the other tests show.
    let groups = [ARITHMETIC, MOVES, TRANSCENDENTAL, NEAR_ONE, TRIGONOMETRIC];
    assert_eq!(
        groups.map(|group| format!("{:016x}", digest(group, 2000))),
        ["28b5b8a6584d8fe8", "6bd827c2e4e0b48c", "8c30b82b11460159", "10eab8ff22c04237", "50135afc5d9813aa"]
    );
}

#[test]
fn every_instruction_is_an_operation() {
    use iced_x86::{Code, CpuidFeature};
    // Two instructions to a decoder: FWAIT and another.
    let none = [
        Code::Fstenv_m14byte,
        Code::Fstenv_m28byte,
        Code::Fstcw_m2byte,
        Code::Feni,
        Code::Fdisi,
        Code::Fclex,
        Code::Finit,
        Code::Fsetpm,
        Code::Fsave_m94byte,
        Code::Fsave_m108byte,
        Code::Fstsw_m2byte,
        Code::Fstsw_AX,
    ];
    let x87 = |code: &Code| {
        let features = code.cpuid_features();
        [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387]
            .iter()
            .any(|one| features.contains(one))
    };
    let missing: Vec<Code> =
        Code::values().filter(x87).filter(|code| Operation::of(*code, 1).is_none()).collect();
    assert_eq!(missing, none);

    for code in Code::values() {
        if let Some(operation) = Operation::of(code, 1) {
            // Among the mnemonics the N means that it does not wait; FNOP is not one of those.
            let waits = code == Code::Fnop || !format!("{code:?}").starts_with("Fn");
            assert_eq!(operation.waits(), waits, "{code:?}");
        }
    }
}
