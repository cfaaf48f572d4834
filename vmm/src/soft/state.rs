//! The processor's registers, and what an instruction can end in.

use super::flags::{self, Lazy};
use super::float::Unit as Fpu;
use super::op::{CS, FLAT, HIGH, Op, SS};
use super::pages::Pages;
use super::simd::{Form, Mxcsr};
use super::tlb::Tlb;
use crate::table::cpuid::{Leaf, Vendor};
use crate::vcpu::{Answer, Segment, VmExit};

/// Why an instruction did not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trap {
    /// An exception of class fault: nothing was changed, RIP is that of the instruction.
    Fault(Fault),
    /// The instruction needs the outside; [`Cpu::exit`] says what for. It is started anew with the answer.
    Exit,
    /// The processor shuts down.
    Shutdown,
}

/// An exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) vector: u8,
    pub(super) code: Option<u32>,
}

/// What most functions here return.
pub(super) type Run<T = ()> = Result<T, Trap>;

/// Exception vectors (SDM volume 3 table 7-1).
pub(super) mod vector {
    pub(crate) const DE: u8 = 0;
    pub(crate) const DB: u8 = 1;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
}

/// #UD
pub(super) const UNDEFINED: Trap = Trap::Fault(Fault { vector: vector::UD, code: None });
/// #GP(0)
pub(super) const PROTECTION: Trap = fault(vector::GP, 0);

/// A fault with an error code.
pub(super) const fn fault(vector: u8, code: u32) -> Trap {
    Trap::Fault(Fault { vector, code: Some(code) })
}

/// A fault without one.
pub(super) const fn plain_fault(vector: u8) -> Trap {
    Trap::Fault(Fault { vector, code: None })
}

/// How code is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// 64-bit mode.
    Long,
    /// Compatibility mode, 32-bit code segment.
    Compat32,
    /// Compatibility mode, 16-bit code segment.
    Compat16,
}

/// CR0
pub(super) mod cr0 {
    pub(crate) const PE: u64 = 1;
    pub(crate) const MP: u64 = 1 << 1;
    pub(crate) const EM: u64 = 1 << 2;
    pub(crate) const TS: u64 = 1 << 3;
    pub(crate) const ET: u64 = 1 << 4;
    pub(crate) const NE: u64 = 1 << 5;
    pub(crate) const WP: u64 = 1 << 16;
    pub(crate) const AM: u64 = 1 << 18;
    pub(crate) const NW: u64 = 1 << 29;
    pub(crate) const CD: u64 = 1 << 30;
    pub(crate) const PG: u64 = 1 << 31;
}

/// CR4: what profile v1 has.
pub(super) mod cr4 {
    pub(crate) const TSD: u64 = 1 << 2;
    pub(crate) const DE: u64 = 1 << 3;
    pub(crate) const PSE: u64 = 1 << 4;
    pub(crate) const PAE: u64 = 1 << 5;
    pub(crate) const MCE: u64 = 1 << 6;
    pub(crate) const PGE: u64 = 1 << 7;
    pub(crate) const OSFXSR: u64 = 1 << 9;
    pub(crate) const OSXMMEXCPT: u64 = 1 << 10;
    pub(crate) const KNOWN: u64 = TSD | DE | PSE | PAE | MCE | PGE | OSFXSR | OSXMMEXCPT;
}

/// EFER
pub(super) mod efer {
    pub(crate) const SCE: u64 = 1;
    pub(crate) const LME: u64 = 1 << 8;
    pub(crate) const LMA: u64 = 1 << 10;
    pub(crate) const NXE: u64 = 1 << 11;
}

/// Places in [`Cpu::msrs`], the order of [`crate::table::msrs::SAVED`].
pub(super) mod msr {
    pub(crate) const SYSENTER_CS: usize = 0;
    pub(crate) const SYSENTER_ESP: usize = 1;
    pub(crate) const SYSENTER_EIP: usize = 2;
    pub(crate) const PAT: usize = 3;
    pub(crate) const STAR: usize = 4;
    pub(crate) const LSTAR: usize = 5;
    pub(crate) const CSTAR: usize = 6;
    pub(crate) const SFMASK: usize = 7;
    pub(crate) const KERNEL_GS_BASE: usize = 8;
}

/// Shadow of STI, as in [`crate::vcpu::Events`].
pub(super) const SHADOW_STI: u8 = 2;
/// Shadow of MOV SS.
pub(super) const SHADOW_SS: u8 = 1;

/// Everything of the processor but its cache of decoded code.
pub(super) struct Cpu {
    /// RAX to R15 in the order of the encoding, then a zero and the block's address; see [`super::op`].
    pub(super) regs: [u64; 32],
    pub(super) rip: u64,
    pub(super) lazy: Lazy,
    /// RFLAGS without the arithmetic flags.
    pub(super) control_flags: u64,
    /// Bases as addresses are computed with them: of CS to DS zero in 64-bit mode. Then [`super::op::FLAT`].
    pub(super) bases: [u64; 8],
    /// By number in the encoding.
    pub(super) segments: [Segment; 6],
    pub(super) task: Segment,
    pub(super) local: Segment,
    pub(super) gdt: (u64, u16),
    pub(super) idt: (u64, u16),
    pub(super) cr0: u64,
    pub(super) cr2: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    pub(super) cr8: u64,
    pub(super) efer: u64,
    pub(super) apic_base: u64,
    /// DR0 to DR3, DR6, DR7.
    pub(super) debug: [u64; 6],
    pub(super) msrs: [u64; 9],
    pub(super) xmm: [u128; 16],
    pub(super) mxcsr: Mxcsr,
    pub(super) fpu: Fpu,
    /// Current privilege level.
    pub(super) cpl: u8,
    pub(super) mode: Mode,
    /// Bits of the stack pointer that count.
    pub(super) stack_mask: u64,
    /// No interrupt before the next instruction is done.
    pub(super) shadow: u8,
    /// The shadow that begins after this instruction.
    pub(super) new_shadow: u8,
    pub(super) nmi_masked: bool,
    /// Exception that was accepted and not delivered (only ever from a saved state).
    pub(super) queued_exception: Option<Fault>,
    /// External interrupt to be delivered before the next instruction.
    pub(super) queued_interrupt: Option<u8>,
    /// Instructions retired; see [`super`] for what counts.
    pub(super) count: u64,
    pub(super) tlb: Tlb,
    pub(super) pages: Pages,
    /// The running block must end after this instruction.
    pub(super) attention: bool,
    /// DR7 has an enabled breakpoint: data accesses and instruction addresses are compared.
    pub(super) watching: bool,
    /// User mode's unaligned accesses fault.
    pub(super) alignment: bool,
    /// Either of the two: no access may go the fast way.
    pub(super) careful: bool,
    /// The access under way is the processor's own, to its tables.
    pub(super) implicit: bool,
    /// Breakpoints that data accesses of the instruction met, as in DR6.
    pub(super) watched: u64,
    /// What [`Trap::Exit`] is for.
    pub(super) exit: Option<VmExit>,
    /// Exit to be made now that the instruction is done.
    pub(super) after_exit: Option<VmExit>,
    /// Answers to the instruction's exits so far, and how many of them it used since it was started anew.
    pub(super) answers: Vec<Answer>,
    pub(super) answers_used: usize,
    /// Why the machine cannot go on: the guest wants a mode that is not implemented.
    pub(super) unsupported: Option<&'static str>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) vendor: Vendor,
    /// SIMD instructions that were decoded so far.
    pub(super) forms: Vec<Form>,
}

impl Cpu {
    /// A general register, zero-extended.
    #[inline]
    pub(super) fn reg(&self, register: u8, size: u8) -> u64 {
        if register >= HIGH {
            return self.regs[usize::from(register & 3)] >> 8 & 0xff;
        }
        self.regs[usize::from(register & 31)] & flags::MASK[usize::from(size & 3)]
    }

    /// Writes a general register: four bytes clear the upper half, one and two leave the rest alone.
    #[inline]
    pub(super) fn set_reg(&mut self, register: u8, size: u8, value: u64) {
        const KEEP: [u64; 4] = [!0xff, !0xffff, 0, 0];
        if register >= HIGH {
            let slot = &mut self.regs[usize::from(register & 3)];
            *slot = *slot & !0xff00 | (value & 0xff) << 8;
            return;
        }
        let slot = &mut self.regs[usize::from(register & 31)];
        let size = usize::from(size & 3);
        *slot = *slot & KEEP[size] | value & flags::MASK[size];
    }

    /// The offset of an instruction's memory operand in its segment.
    #[inline]
    pub(super) fn offset(&self, op: &Op) -> u64 {
        let base = self.regs[usize::from(op.base & 31)];
        let index = self.regs[usize::from(op.index & 31)];
        let sum = base.wrapping_add(index << (op.scale & 3)).wrapping_add(op.disp.cast_unsigned());
        if op.flags & (super::op::ADDRESS32 | super::op::ADDRESS16) == 0 {
            sum
        } else if op.flags & super::op::ADDRESS32 != 0 {
            sum & 0xffff_ffff
        } else {
            sum & 0xffff
        }
    }

    /// RIP of the instruction after this one.
    #[inline]
    pub(super) fn after(&self, op: &Op) -> u64 {
        self.regs[usize::from(super::op::BLOCK)].wrapping_add(u64::from(op.offset) + u64::from(op.length))
    }

    /// Whether a linear address has 48 significant bits (SDM volume 1 section 3.3.7.1).
    pub(super) fn is_canonical(address: u64) -> bool {
        (address << 16).cast_signed() >> 16 == address.cast_signed()
    }

    /// RFLAGS.
    pub(super) fn rflags(&self) -> u64 {
        self.control_flags & !flags::ARITHMETIC | self.lazy.bits() | 2
    }

    /// Sets RFLAGS.
    pub(super) fn set_rflags(&mut self, value: u64) {
        self.lazy.set_bits(value);
        self.control_flags = value & !flags::ARITHMETIC & !(1 << 3 | 1 << 5 | 1 << 15) & 0x3f_ffff | 2;
        self.refresh_care();
    }

    /// Recomputes what is derived from segments and control registers.
    pub(super) fn refresh(&mut self) {
        let (code, stack) = (self.segments[usize::from(CS)], self.segments[usize::from(SS)]);
        self.cpl = (code.selector & 3) as u8;
        self.mode = match (code.access >> 13 & 1, code.access >> 14 & 1) {
            (1, _) => Mode::Long,
            (_, 1) => Mode::Compat32,
            _ => Mode::Compat16,
        };
        let long = self.mode == Mode::Long;
        self.stack_mask = match (long, stack.access >> 14 & 1) {
            (true, _) => u64::MAX,
            (_, 1) => 0xffff_ffff,
            _ => 0xffff,
        };
        for (number, segment) in self.segments.iter().enumerate() {
            let flat = long && number < 4;
            self.bases[number] = if flat { 0 } else { segment.base };
        }
        self.bases[usize::from(FLAT)] = 0;
        self.refresh_care();
        self.attention = true;
    }

    fn refresh_care(&mut self) {
        self.watching = self.debug[5] & 0xff != 0;
        self.alignment = self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.control_flags & flags::AC != 0;
        self.careful = self.watching || self.alignment;
    }

    /// Whether an external interrupt could be taken.
    pub(super) fn ready_for_interrupt(&self) -> bool {
        self.control_flags & flags::IF != 0
            && self.shadow == 0
            && self.queued_interrupt.is_none()
            && self.queued_exception.is_none()
    }

    /// I/O privilege level.
    pub(super) fn iopl(&self) -> u8 {
        (self.control_flags >> 12 & 3) as u8
    }

    /// #GP(0) unless the kernel runs.
    pub(super) fn need_kernel(&self) -> Run {
        if self.cpl == 0 { Ok(()) } else { Err(PROTECTION) }
    }
}
