//! The micro-operation: one guest instruction in 32 bytes.

/// Index of a general register that reads as zero: no base, no index.
pub(super) const ZERO: u8 = 16;
/// Index of the register that holds the address of the running block's first instruction. Addresses and
/// targets relative to RIP are kept relative to it, because one physical page can be mapped at many addresses.
pub(super) const BLOCK: u8 = 17;
/// AH, CH, DH, BH are this plus 0 to 3.
pub(super) const HIGH: u8 = 24;

/// Segment registers in the order of the instruction encoding.
pub(super) const ES: u8 = 0;
/// Code.
pub(super) const CS: u8 = 1;
/// Stack.
pub(super) const SS: u8 = 2;
/// Data.
pub(super) const DS: u8 = 3;
/// Extra, with a base in 64-bit mode.
pub(super) const FS: u8 = 4;
/// Extra, with a base in 64-bit mode.
pub(super) const GS: u8 = 5;
/// No segment: 64-bit mode's flat data.
pub(super) const FLAT: u8 = 6;
/// As [`FLAT`], but a bad address is a stack fault.
pub(super) const FLAT_STACK: u8 = 7;

/// The operand is in memory.
pub(super) const MEMORY: u8 = 1;
/// The effective address has 32 bits.
pub(super) const ADDRESS32: u8 = 2;
/// REP or REPE.
pub(super) const REP: u8 = 4;
/// REPNE.
pub(super) const REPNE: u8 = 8;
/// The effective address has 16 bits.
pub(super) const ADDRESS16: u8 = 16;
/// The instruction sets RIP itself, and ends its block.
pub(super) const CONTROL: u8 = 32;
/// Nothing of the block may follow.
pub(super) const LAST: u8 = 64;

/// One instruction.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Op {
    pub(super) kind: Kind,
    /// Operand size: 0 for a byte to 3 for eight, 4 for sixteen.
    pub(super) size: u8,
    /// Bytes of the instruction.
    pub(super) length: u8,
    /// Bytes from the start of its block.
    pub(super) offset: u8,
    /// First register.
    pub(super) d: u8,
    /// Second register.
    pub(super) s: u8,
    /// The address is base + (index << scale) + disp, in this segment.
    pub(super) base: u8,
    pub(super) index: u8,
    pub(super) scale: u8,
    pub(super) segment: u8,
    pub(super) flags: u8,
    /// What `kind` leaves open: a condition, a register's number, another size.
    pub(super) aux: u8,
    pub(super) disp: i64,
    pub(super) imm: i64,
}

/// What an instruction does. R, M, I: register, memory, immediate operands, destination first. Kinds without
/// them look at [`MEMORY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[rustfmt::skip]
pub(super) enum Kind {
    AddRR, AddRM, AddMR, AddRI, AddMI,
    OrRR, OrRM, OrMR, OrRI, OrMI,
    AdcRR, AdcRM, AdcMR, AdcRI, AdcMI,
    SbbRR, SbbRM, SbbMR, SbbRI, SbbMI,
    AndRR, AndRM, AndMR, AndRI, AndMI,
    SubRR, SubRM, SubMR, SubRI, SubMI,
    XorRR, XorRM, XorMR, XorRI, XorMI,
    CmpRR, CmpRM, CmpMR, CmpRI, CmpMI,
    TestRR, TestMR, TestRI, TestMI,
    MovRR, MovRM, MovMR, MovRI, MovMI,
    /// `aux` is the source's size.
    MovzxR, MovzxM, MovsxR, MovsxM,
    Lea, PushR, PushI, PopR,
    /// `aux` is the condition, `imm` the target.
    Jcc, Jmp, Call, Ret, Cmov, Nop,
    // From here on not in the first match.
    PushM, PopM, JmpRm, CallRm, RetImm, Loop, Loopne, Loope, Jrcxz, Setcc,
    Inc, Dec, Not, Neg, Shift, Shld, Shrd, Mul, Imul1, Imul2, Imul3, Div, Idiv,
    Bt, Bts, Btr, Btc, Bsf, Bsr, Bswap, Xchg, Xadd, Cmpxchg, Cmpxchg8b,
    Cbw, Cwd, Lahf, Sahf, Clc, Stc, Cmc, Cld, Std, Cli, Sti, Pushf, Popf, Leave, Enter, Xlat,
    Movs, Stos, Lods, Scas, Cmps, Ins, Outs, In, Out,
    Int, Int3, Int1, Into, Bound, Iret, Hlt, Cpuid, Rdmsr, Wrmsr, Rdtsc,
    Lgdt, Lidt, Sgdt, Sidt, Lldt, Ltr, Sldt, Str, Smsw, Lmsw, Verr, Verw, Lar, Lsl,
    MovFromCr, MovToCr, MovFromDr, MovToDr, Clts, Invlpg, Privileged,
    Syscall, Sysret, Sysenter, Sysexit, Swapgs,
    MovToSeg, MovFromSeg, PushSeg, PopSeg, LoadFar, JmpFar, CallFar, RetFar,
    JmpFarM, CallFarM, Pusha, Popa, Aaa, Aas, Daa, Das, Aam, Aad, Salc, Arpl,
    /// Row `imm >> 8` of the table of forms, immediate byte `imm & 255`.
    Simd, Fxsave, Fxrstor, X87,
    Undefined,
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_operation_has_32_bytes() {
        assert_eq!(size_of::<super::Op>(), 32);
    }
}
