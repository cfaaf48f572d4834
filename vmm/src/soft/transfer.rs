//! Transfers between segments and privilege levels: far branches, IRET, the system call instructions.

use super::fault::Cause;
use super::flags::{self, AC, ARITHMETIC, DF, ID, IF, IOPL, MASK, NT, RF, TF, VM};
use super::op::{CS, Kind, Op, SS};
use super::segment::{BIG, Descriptor, LONG, is_null, named};
use super::state::{Cpu, Fault, Mode, PROTECTION, Run, UNDEFINED, efer, msr, vector};
use super::walk::Access;
use crate::table::cpuid::Vendor;
use crate::vcpu::Segment;

/// Access rights of the flat segments that the system call instructions load.
const KERNEL_CODE: u32 = 0xa09b;
const KERNEL_DATA: u32 = 0xc093;
const USER_CODE: u32 = 0xa0fb;
const USER_CODE_32: u32 = 0xc0fb;
const USER_DATA: u32 = 0xc0f3;
/// RFLAGS bits that SYSRET restores (SDM volume 2, SYSRET).
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

impl Cpu {
    /// INT n, INT3, INT1, INTO.
    pub(super) fn software_interrupt(&mut self, op: &Op) -> Run {
        let next = self.after(op);
        let (number, cause) = match op.kind {
            Kind::Int3 => (vector::BP, Cause::Software),
            // No privilege check (SDM volume 2, INT1).
            Kind::Int1 => (vector::DB, Cause::Other),
            Kind::Into if !self.lazy.overflow() => {
                self.rip = next;
                return Ok(());
            }
            Kind::Into => (vector::OF, Cause::Software),
            _ => (op.imm as u8, Cause::Software),
        };
        self.deliver(Fault { vector: number, code: None }, cause, next)
    }

    pub(super) fn interrupt_return(&mut self, op: &Op) -> Run {
        let size = op.size;
        if self.control_flags & NT != 0 {
            return Err(PROTECTION);
        }
        let bytes = 1u64 << size;
        let rip = self.peek(size, 0)?;
        let selector = self.peek(size, bytes)? as u16;
        let new_flags = self.peek(size, 2 * bytes)?;
        let descriptor = self.return_code(selector)?;
        let level = (selector & 3) as u8;
        let long = descriptor.access() & LONG != 0;
        // 64-bit code always finds a stack pointer there.
        let stack = if self.mode == Mode::Long || level > self.cpl {
            let pointer = self.peek(size, 3 * bytes)?;
            let stack = self.peek(size, 4 * bytes)? as u16;
            Some((pointer, self.return_stack(stack, level, long)?))
        } else {
            None
        };
        check_offset(descriptor, rip)?;
        let old_level = self.cpl;
        let descriptor = self.mark_accessed(selector, descriptor)?;
        self.return_flags(new_flags, size);
        self.set_code(descriptor, selector, level);
        self.rip = rip;
        match stack {
            Some((pointer, segment)) => {
                self.segments[usize::from(SS)] = segment;
                self.refresh();
                self.set_stack_pointer(pointer);
            }
            None => self.set_stack_pointer(self.regs[4].wrapping_add(3 * bytes)),
        }
        self.refresh();
        if level > old_level {
            self.drop_privileged_segments();
        }
        self.nmi_masked = false;
        Ok(())
    }

    /// The code segment that a return goes to.
    fn return_code(&mut self, selector: u16) -> Run<Descriptor> {
        if is_null(selector) {
            return Err(PROTECTION);
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        let level =
            if descriptor.is_conforming() { descriptor.dpl() <= rpl } else { descriptor.dpl() == rpl };
        let both = descriptor.access() & (LONG | BIG) == LONG | BIG;
        if !descriptor.is_code() || rpl < self.cpl || !level || both {
            return Err(named(vector::GP, selector));
        }
        if !descriptor.is_present() {
            return Err(named(vector::NP, selector));
        }
        Ok(descriptor)
    }

    fn return_stack(&mut self, selector: u16, level: u8, long: bool) -> Run<Segment> {
        if is_null(selector) {
            if !long || level == 3 || (selector & 3) as u8 != level {
                return Err(PROTECTION);
            }
            return Ok(Segment { base: 0, limit: 0, selector, access: 1 << 16 });
        }
        self.stack_descriptor(selector, level, vector::GP, vector::SS)
    }

    /// The flags that IRET may change at this privilege level.
    fn return_flags(&mut self, value: u64, size: u8) {
        let mut changed = ARITHMETIC | TF | DF | NT | RF | AC | ID;
        if self.cpl <= self.iopl() {
            changed |= IF;
        }
        if self.cpl == 0 {
            changed |= IOPL | flags::VIF_VIP;
        }
        changed &= MASK[usize::from(size & 3)];
        self.set_rflags(self.rflags() & !changed | value & changed & !VM);
    }

    /// RETF.
    pub(super) fn far_return(&mut self, op: &Op) -> Run {
        let bytes = 1u64 << op.size;
        let rip = self.peek(op.size, 0)?;
        let selector = self.peek(op.size, bytes)? as u16;
        let descriptor = self.return_code(selector)?;
        check_offset(descriptor, rip)?;
        let level = (selector & 3) as u8;
        let skipped = op.imm.cast_unsigned();
        let mut pointer = self.regs[4].wrapping_add(2 * bytes).wrapping_add(skipped);
        let outer = level > self.cpl;
        let mut stack = self.segments[usize::from(SS)];
        if outer {
            let at = (2 * bytes).wrapping_add(skipped);
            pointer = self.peek(op.size, at)?.wrapping_add(skipped);
            let selector = self.peek(op.size, at.wrapping_add(bytes))? as u16;
            stack = self.return_stack(selector, level, descriptor.access() & LONG != 0)?;
        }
        let descriptor = self.mark_accessed(selector, descriptor)?;
        self.set_code(descriptor, selector, level);
        self.segments[usize::from(SS)] = stack;
        self.rip = rip;
        self.refresh();
        self.set_stack_pointer(pointer);
        if outer {
            self.drop_privileged_segments();
        }
        Ok(())
    }

    /// Far JMP and CALL to a code segment.
    pub(super) fn far_branch(&mut self, op: &Op) -> Run {
        let (selector, offset) = match op.kind {
            Kind::JmpFar | Kind::CallFar => (op.disp as u16, op.imm.cast_unsigned()),
            _ => {
                let address = self.address(op, (1 << op.size) + 2, Access::Read)?;
                let offset = self.read(address, op.size, op.segment)?;
                (self.read(address.wrapping_add(1 << op.size), 1, op.segment)? as u16, offset)
            }
        };
        if is_null(selector) {
            return Err(PROTECTION);
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        if descriptor.kind() == 0xc {
            self.unsupported = Some("a far branch through a call gate");
            return Err(super::state::Trap::Shutdown);
        }
        let level = if descriptor.is_conforming() {
            descriptor.dpl() <= self.cpl
        } else {
            descriptor.dpl() == self.cpl && rpl <= self.cpl
        };
        let both = descriptor.access() & (LONG | BIG) == LONG | BIG;
        if !descriptor.is_code() || !level || both {
            return Err(named(vector::GP, selector));
        }
        if !descriptor.is_present() {
            return Err(named(vector::NP, selector));
        }
        check_offset(descriptor, offset)?;
        if matches!(op.kind, Kind::CallFar | Kind::CallFarM) {
            let old = self.regs[4];
            let code = u64::from(self.segments[usize::from(CS)].selector);
            self.push(op.size, code)?;
            if let Err(trap) = self.push(op.size, self.after(op)) {
                self.regs[4] = old;
                return Err(trap);
            }
        }
        let descriptor = self.mark_accessed(selector, descriptor)?;
        self.set_code(descriptor, selector, self.cpl);
        self.rip = offset;
        self.refresh();
        Ok(())
    }

    pub(super) fn syscall(&mut self, op: &Op) -> Run {
        let compat = self.mode != Mode::Long;
        if self.efer & efer::SCE == 0 || (compat && self.vendor == Vendor::Intel) {
            return Err(UNDEFINED);
        }
        self.regs[1] = self.after(op);
        self.regs[11] = self.rflags() & !RF;
        self.rip = self.msrs[if compat { msr::CSTAR } else { msr::LSTAR }];
        self.set_rflags(self.rflags() & !self.msrs[msr::SFMASK] & !RF);
        let selector = (self.msrs[msr::STAR] >> 32) as u16 & !3;
        self.set_flat(selector, KERNEL_CODE, selector.wrapping_add(8), KERNEL_DATA);
        Ok(())
    }

    pub(super) fn sysret(&mut self, op: &Op) -> Run {
        if self.efer & efer::SCE == 0 || self.mode != Mode::Long {
            return Err(UNDEFINED);
        }
        self.need_kernel()?;
        let base = (self.msrs[msr::STAR] >> 48) as u16;
        let data = base.wrapping_add(8) | 3;
        if op.size == 3 {
            if !Self::is_canonical(self.regs[1]) {
                return Err(PROTECTION);
            }
            self.rip = self.regs[1];
            self.set_flat(base.wrapping_add(16) | 3, USER_CODE, data, USER_DATA);
        } else {
            self.rip = self.regs[1] & MASK[2];
            self.set_flat(base | 3, USER_CODE_32, data, USER_DATA);
        }
        self.set_rflags(self.regs[11] & SYSRET_FLAGS);
        Ok(())
    }

    pub(super) fn sysenter(&mut self) -> Run {
        if self.vendor == Vendor::Amd {
            // Not in long mode (APM volume 3, SYSENTER).
            return Err(UNDEFINED);
        }
        let selector = self.msrs[msr::SYSENTER_CS] as u16 & !3;
        if selector == 0 {
            return Err(PROTECTION);
        }
        self.set_rflags(self.rflags() & !(VM | IF | RF));
        self.rip = self.msrs[msr::SYSENTER_EIP];
        self.set_flat(selector, KERNEL_CODE, selector.wrapping_add(8), KERNEL_DATA);
        self.regs[4] = self.msrs[msr::SYSENTER_ESP];
        Ok(())
    }

    pub(super) fn sysexit(&mut self, op: &Op) -> Run {
        if self.vendor == Vendor::Amd {
            return Err(UNDEFINED);
        }
        let base = self.msrs[msr::SYSENTER_CS] as u16 & !3;
        if base == 0 || self.cpl != 0 {
            return Err(PROTECTION);
        }
        let (rip, pointer) = (self.regs[2], self.regs[1]);
        if op.size == 3 {
            if !Self::is_canonical(rip) || !Self::is_canonical(pointer) {
                return Err(PROTECTION);
            }
            self.set_flat(base.wrapping_add(32) | 3, USER_CODE, base.wrapping_add(40) | 3, USER_DATA);
            (self.rip, self.regs[4]) = (rip, pointer);
        } else {
            self.set_flat(base.wrapping_add(16) | 3, USER_CODE_32, base.wrapping_add(24) | 3, USER_DATA);
            (self.rip, self.regs[4]) = (rip & MASK[2], pointer & MASK[2]);
        }
        Ok(())
    }

    /// Loads CS and SS with flat segments, whatever the descriptor table says.
    fn set_flat(&mut self, code: u16, code_access: u32, data: u16, data_access: u32) {
        let flat = |selector, access| Segment { base: 0, limit: u32::MAX, selector, access };
        self.segments[usize::from(CS)] = flat(code, code_access);
        self.segments[usize::from(SS)] = flat(data, data_access);
        self.refresh();
    }
}

fn check_offset(descriptor: Descriptor, offset: u64) -> Run {
    let fits = if descriptor.access() & LONG != 0 {
        Cpu::is_canonical(offset)
    } else {
        offset <= u64::from(descriptor.limit())
    };
    if fits { Ok(()) } else { Err(PROTECTION) }
}
