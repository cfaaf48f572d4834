//! System instructions, ports, flags, segment registers.

use super::super::TSC_PER_INSTRUCTION;
use super::super::flags::{AC, ARITHMETIC, DF, ID, IF, IOPL, MASK, NT, RF, TF, VM};
use super::super::op::{Kind, Op, SS};
use super::super::state::{
    Cpu, Mode, PROTECTION, Run, SHADOW_SS, SHADOW_STI, Trap, UNDEFINED, cr0, cr4, efer, msr, plain_fault,
    vector,
};
use super::super::walk::Access;
use crate::table::cpuid::Vendor;
use crate::vcpu::{Answer, VmExit};

/// Bits of CR3 beyond the 40 of a physical address.
const CR3_RESERVED: u64 = !0xff_ffff_ffff;
/// CR0 bits that exist.
const CR0_KNOWN: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// IA32_BIOS_SIGN_ID and IA32_MISC_ENABLE (SDM volume 4 table 2-2): a kernel that finds an Intel processor reads
/// them before it can handle a fault. They read as constants.
const INTEL_MICROCODE: u32 = 0x8b;
const INTEL_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// General detect enable, in DR7; register access detected, in DR6.
const DR7_GD: u64 = 1 << 13;
const DR6_BD: u64 = 1 << 13;

impl Cpu {
    pub(super) fn system(&mut self, op: &Op) -> Run {
        use Kind as K;
        match op.kind {
            K::In | K::Out => self.port(op),
            K::Pushf => self.push_flags(op),
            K::Popf => self.pop_flags(op),
            K::Cli | K::Sti => self.interrupt_flag(op),
            K::Int | K::Int3 | K::Int1 | K::Into => self.software_interrupt(op),
            K::Iret => self.interrupt_return(op),
            K::RetFar => self.far_return(op),
            K::JmpFar | K::CallFar | K::JmpFarM | K::CallFarM => self.far_branch(op),
            K::Syscall => self.syscall(op),
            K::Sysret => self.sysret(op),
            K::Sysenter => self.sysenter(),
            K::Sysexit => self.sysexit(op),
            K::Swapgs => self.swap_gs(),
            K::Hlt => {
                self.need_kernel()?;
                self.after_exit = Some(VmExit::Halt);
                Ok(())
            }
            K::Cpuid => {
                self.cpuid();
                Ok(())
            }
            K::Rdmsr | K::Wrmsr => self.model_register(op),
            K::Rdtsc => self.time_stamp(),
            K::MovToSeg | K::PopSeg | K::LoadFar => self.set_segment_register(op),
            K::MovFromSeg => {
                let selector = u64::from(self.segments[usize::from(op.aux)].selector);
                self.write_first(op, op.size, selector)
            }
            K::PushSeg => self.push(op.size, u64::from(self.segments[usize::from(op.d)].selector)),
            K::MovFromCr | K::MovToCr | K::Clts | K::Lmsw | K::Smsw => self.control_register(op),
            K::MovFromDr | K::MovToDr => self.debug_register(op),
            K::Invlpg => {
                self.need_kernel()?;
                let address = self.bases[usize::from(op.segment & 7)].wrapping_add(self.offset(op));
                self.tlb.flush_page(address);
                Ok(())
            }
            // WBINVD, INVD: there is no cache.
            K::Privileged => self.need_kernel(),
            K::Fxsave => self.fxsave(op),
            K::Fxrstor => self.fxrstor(op),
            K::X87 => self.x87(op),
            _ => self.descriptor_table(op),
        }
    }

    /// Whether the port may be used (SDM volume 1 section 19.5).
    pub(super) fn check_port(&mut self, port: u16, size: u8) -> Run {
        if self.cpl <= self.iopl() {
            return Ok(());
        }
        let limit = u64::from(self.task.limit);
        if limit < 0x67 {
            return Err(PROTECTION);
        }
        let map = self.read_system(self.task.base.wrapping_add(0x66), 1)?;
        let at = map + u64::from(port / 8);
        if at + 1 > limit {
            return Err(PROTECTION);
        }
        let bits = self.read_system(self.task.base.wrapping_add(at), 1)? >> (port % 8);
        if bits & ((1 << (1 << size)) - 1) != 0 { Err(PROTECTION) } else { Ok(()) }
    }

    fn port(&mut self, op: &Op) -> Run {
        let port = if op.aux == 1 { self.reg(2, 1) } else { op.imm.cast_unsigned() } as u16;
        self.check_port(port, op.size)?;
        if op.kind == Kind::In {
            let value = self.ask_port(port, op.size)?;
            self.set_reg(0, op.size, value);
            return Ok(());
        }
        self.tell_port(port, op.size, self.reg(0, op.size))
    }

    fn push_flags(&mut self, op: &Op) -> Run {
        self.push(op.size, self.rflags() & !(VM | RF))
    }

    fn pop_flags(&mut self, op: &Op) -> Run {
        let value = self.pop(op.size)?;
        let mut changed = ARITHMETIC | TF | DF | NT | AC | ID;
        if self.cpl <= self.iopl() {
            changed |= IF;
        }
        if self.cpl == 0 {
            changed |= IOPL;
        }
        changed &= MASK[usize::from(op.size)];
        self.set_rflags(self.rflags() & !changed | value & changed);
        Ok(())
    }

    fn interrupt_flag(&mut self, op: &Op) -> Run {
        if self.cpl > self.iopl() {
            return Err(PROTECTION);
        }
        if op.kind == Kind::Cli {
            self.control_flags &= !IF;
        } else if self.control_flags & IF == 0 {
            self.control_flags |= IF;
            self.new_shadow = SHADOW_STI;
        }
        Ok(())
    }

    fn swap_gs(&mut self) -> Run {
        if self.mode != Mode::Long {
            return Err(UNDEFINED);
        }
        self.need_kernel()?;
        std::mem::swap(&mut self.segments[5].base, &mut self.msrs[msr::KERNEL_GS_BASE]);
        self.bases[5] = self.segments[5].base;
        Ok(())
    }

    fn cpuid(&mut self) {
        // No leaf of the profile has other contents for other values of ECX.
        let function = self.reg(0, 2) as u32;
        let row = self.leaves.iter().find(|leaf| leaf.function == function);
        // A leaf that does not exist reads as the last basic one, which is zero.
        let row = row.copied().unwrap_or_default();
        for (register, value) in [(0, row.eax), (3, row.ebx), (1, row.ecx), (2, row.edx)] {
            self.set_reg(register, 2, u64::from(value));
        }
    }

    fn time_stamp(&mut self) -> Run {
        if self.cr4 & cr4::TSD != 0 {
            self.need_kernel()?;
        }
        self.set_pair_32(self.count.wrapping_mul(TSC_PER_INSTRUCTION));
        Ok(())
    }

    /// EDX:EAX
    fn set_pair_32(&mut self, value: u64) {
        self.set_reg(0, 2, value & MASK[2]);
        self.set_reg(2, 2, value >> 32);
    }

    fn model_register(&mut self, op: &Op) -> Run {
        self.need_kernel()?;
        let index = self.reg(1, 2) as u32;
        let value = self.reg(2, 2) << 32 | self.reg(0, 2);
        if op.kind == Kind::Wrmsr {
            return match self.set_own_msr(index, value) {
                Some(done) => done,
                None => self.ask_msr(VmExit::MsrWrite { index, value }).map(|_| ()),
            };
        }
        let value = match self.own_msr(index) {
            Some(value) => value,
            None => self.ask_msr(VmExit::MsrRead { index })?,
        };
        self.set_pair_32(value);
        Ok(())
    }

    fn ask_msr(&mut self, exit: VmExit) -> Run<u64> {
        match self.ask(|| exit)? {
            Answer::Msr(value) => Ok(value),
            _ => Err(PROTECTION),
        }
    }

    fn own_msr(&self, index: u32) -> Option<u64> {
        Some(match index {
            0xc000_0080 => self.efer,
            0xc000_0100 => self.segments[4].base,
            0xc000_0101 => self.segments[5].base,
            INTEL_MICROCODE if self.vendor == Vendor::Intel => 0,
            INTEL_MISC_ENABLE if self.vendor == Vendor::Intel => FAST_STRINGS,
            _ => self.msrs[saved_place(index)?],
        })
    }

    /// `None`: the register is not one of this processor's own.
    fn set_own_msr(&mut self, index: u32, value: u64) -> Option<Run> {
        let canonical = Self::is_canonical(value);
        let done = match index {
            0xc000_0080 => return Some(self.set_efer(value)),
            // Nothing to enable, nothing to load.
            INTEL_MICROCODE | INTEL_MISC_ENABLE if self.vendor == Vendor::Intel => Ok(()),
            0xc000_0100 | 0xc000_0101 if canonical => {
                let number = if index == 0xc000_0100 { 4 } else { 5 };
                self.segments[number].base = value;
                self.bases[number] = value;
                Ok(())
            }
            0xc000_0100 | 0xc000_0101 => Err(PROTECTION),
            _ => {
                let place = saved_place(index)?;
                let valid = match place {
                    msr::PAT => value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)),
                    msr::SYSENTER_CS | msr::STAR => true,
                    msr::SFMASK => value >> 32 == 0,
                    _ => canonical,
                };
                if valid {
                    self.msrs[place] = value;
                }
                if valid { Ok(()) } else { Err(PROTECTION) }
            }
        };
        Some(done)
    }

    fn set_efer(&mut self, value: u64) -> Run {
        let known = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        if value & !known != 0 || (value ^ self.efer) & efer::LME != 0 {
            return Err(PROTECTION);
        }
        self.efer = value & !efer::LMA | self.efer & efer::LMA;
        self.tlb.flush_all();
        Ok(())
    }

    fn set_segment_register(&mut self, op: &Op) -> Run {
        let number = if op.kind == Kind::PopSeg { op.d } else { op.aux };
        if number == 1 {
            return Err(UNDEFINED);
        }
        match op.kind {
            Kind::PopSeg => {
                let selector = self.peek(op.size, 0)? as u16;
                let old = self.stack_mask;
                self.load_segment(number, selector)?;
                let pointer = self.regs[4].wrapping_add(1 << op.size);
                self.regs[4] = if old == u64::MAX { pointer } else { self.regs[4] & !old | pointer & old };
            }
            Kind::MovToSeg => {
                let selector = self.read_first(op, 1)? as u16;
                self.load_segment(number, selector)?;
            }
            _ => {
                let address = self.address(op, (1 << op.size) + 2, Access::Read)?;
                let value = self.read(address, op.size, op.segment)?;
                let selector = self.read(address.wrapping_add(1 << op.size), 1, op.segment)? as u16;
                self.load_segment(number, selector)?;
                self.set_reg(op.d, op.size, value);
                return Ok(());
            }
        }
        if number == SS {
            self.new_shadow = SHADOW_SS;
        }
        Ok(())
    }

    fn control_register(&mut self, op: &Op) -> Run {
        if op.kind == Kind::Smsw {
            return self.write_first(op, op.size, self.cr0);
        }
        self.need_kernel()?;
        match op.kind {
            Kind::Clts => self.set_cr0(self.cr0 & !cr0::TS),
            Kind::Lmsw => {
                // It can set PE, not clear it.
                let value = self.read_first(op, 1)? & 0xf | self.cr0 & cr0::PE;
                self.set_cr0(self.cr0 & !0xf | value)
            }
            Kind::MovFromCr => {
                let value = match op.aux {
                    0 => self.cr0,
                    2 => self.cr2,
                    3 => self.cr3,
                    4 => self.cr4,
                    8 => self.cr8,
                    _ => return Err(UNDEFINED),
                };
                self.set_reg(op.d, op.size, value);
                Ok(())
            }
            _ => self.set_control_register(op.aux, self.reg(op.d, op.size)),
        }
    }

    fn set_control_register(&mut self, number: u8, value: u64) -> Run {
        match number {
            0 => return self.set_cr0(value),
            2 => self.cr2 = value,
            3 => {
                if value & CR3_RESERVED != 0 {
                    return Err(PROTECTION);
                }
                self.cr3 = value;
                self.tlb.flush_local();
            }
            4 => {
                if value & !cr4::KNOWN != 0 || value & cr4::PAE == 0 {
                    return Err(PROTECTION);
                }
                if (value ^ self.cr4) & (cr4::PGE | cr4::PSE) != 0 {
                    self.tlb.flush_all();
                }
                self.cr4 = value;
            }
            8 => {
                if value > 15 {
                    return Err(PROTECTION);
                }
                if value < self.cr8 {
                    self.after_exit = Some(VmExit::TaskPriority);
                }
                self.cr8 = value;
            }
            _ => return Err(UNDEFINED),
        }
        Ok(())
    }

    fn set_cr0(&mut self, value: u64) -> Run {
        let value = value & CR0_KNOWN | cr0::ET | value & !0xffff_ffff;
        let no_paging = value & cr0::PG == 0;
        if value >> 32 != 0
            || (value & cr0::PG != 0 && value & cr0::PE == 0)
            || (value & cr0::NW != 0 && value & cr0::CD == 0)
            || (no_paging && self.mode == Mode::Long)
        {
            return Err(PROTECTION);
        }
        if no_paging {
            self.unsupported = Some("leaving long mode");
            return Err(Trap::Shutdown);
        }
        if (value ^ self.cr0) & cr0::WP != 0 {
            self.tlb.flush_all();
        }
        self.cr0 = value;
        self.refresh();
        Ok(())
    }

    fn debug_register(&mut self, op: &Op) -> Run {
        self.need_kernel()?;
        let place = match (op.aux, self.cr4 & cr4::DE != 0) {
            (4 | 5, true) => return Err(UNDEFINED),
            (number @ 0..=3, _) => usize::from(number),
            (4 | 6, _) => 4,
            _ => 5,
        };
        if self.debug[5] & DR7_GD != 0 {
            self.debug[4] |= DR6_BD;
            self.debug[5] &= !DR7_GD;
            return Err(plain_fault(vector::DB));
        }
        if op.kind == Kind::MovFromDr {
            self.set_reg(op.d, op.size, self.debug[place]);
            return Ok(());
        }
        let value = self.reg(op.d, op.size);
        if place > 3 && value >> 32 != 0 {
            return Err(PROTECTION);
        }
        self.debug[place] = match place {
            4 => value & 0xe00f | 0xffff_0ff0,
            5 => value & 0xffff_2fff | 0x400,
            _ => value,
        };
        self.refresh();
        Ok(())
    }
}

/// Place in [`Cpu::msrs`].
fn saved_place(index: u32) -> Option<usize> {
    crate::table::msrs::SAVED.iter().position(|saved| saved.index == index)
}
