//! Descriptor tables, and what asks about descriptors.

use super::super::op::{Kind, MEMORY, Op};
use super::super::segment;
use super::super::state::{Cpu, Mode, PROTECTION, Run, UNDEFINED, vector};
use super::super::walk::Access;

impl Cpu {
    /// LGDT and its like, LLDT, LTR, and what asks about descriptors.
    pub(super) fn descriptor_table(&mut self, op: &Op) -> Run {
        use Kind as K;
        match op.kind {
            K::Lgdt | K::Lidt => {
                self.need_kernel()?;
                let (limit, base) = self.read_table_register(op)?;
                if op.kind == K::Lgdt {
                    self.gdt = (base, limit);
                } else {
                    self.idt = (base, limit);
                }
                Ok(())
            }
            K::Sgdt | K::Sidt => {
                let (base, limit) = if op.kind == K::Sgdt { self.gdt } else { self.idt };
                let size = if self.mode == Mode::Long { 3 } else { 2 };
                let address = self.address(op, 10, Access::Write)?;
                self.check_write(address.wrapping_add(2), 1 << size, op.segment)?;
                self.write(address, 1, op.segment, u64::from(limit))?;
                self.write(address.wrapping_add(2), size, op.segment, base)
            }
            K::Sldt => self.write_first(op, op.size, u64::from(self.local.selector)),
            K::Str => self.write_first(op, op.size, u64::from(self.task.selector)),
            K::Lldt | K::Ltr => self.load_system_segment(op),
            K::Verr | K::Verw | K::Lar | K::Lsl => self.ask_descriptor(op),
            K::Arpl => {
                let other = self.reg(op.s, 1) & 3;
                let old = self.read_first(op, 1)?;
                let adjust = old & 3 < other;
                if adjust {
                    self.write_first(op, 1, old & !3 | other)?;
                }
                self.lazy.set_zero(adjust);
                Ok(())
            }
            _ => Err(UNDEFINED),
        }
    }

    fn read_table_register(&mut self, op: &Op) -> Run<(u16, u64)> {
        let address = self.address(op, 10, Access::Read)?;
        let limit = self.read(address, 1, op.segment)? as u16;
        let size = if self.mode == Mode::Long { 3 } else { 2 };
        let base = self.read(address.wrapping_add(2), size, op.segment)?;
        if Self::is_canonical(base) { Ok((limit, base)) } else { Err(PROTECTION) }
    }

    fn load_system_segment(&mut self, op: &Op) -> Run {
        self.need_kernel()?;
        let selector = self.read_first(op, 1)? as u16;
        let task = op.kind == Kind::Ltr;
        if segment::is_null(selector) {
            if task {
                return Err(PROTECTION);
            }
            self.local = crate::vcpu::Segment { selector, access: 1 << 16, ..Default::default() };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(segment::named(vector::GP, selector));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        // An LDT, or an available 64-bit task state segment.
        if descriptor.kind() != if task { 9 } else { 2 } {
            return Err(segment::named(vector::GP, selector));
        }
        if !descriptor.is_present() {
            return Err(segment::named(vector::NP, selector));
        }
        let high = self.descriptor_high(selector, vector::GP)?;
        let mut loaded = descriptor.segment(selector);
        loaded.base |= high << 32;
        if !task {
            self.local = loaded;
            return Ok(());
        }
        // It becomes busy, in memory too.
        let busy = segment::Descriptor(descriptor.0 | 1 << 41);
        if let Some(at) = self.descriptor_address(selector, 8) {
            self.write_system(at.wrapping_add(5), 0, busy.0 >> 40 & 0xff)?;
        }
        loaded.access = busy.access();
        self.task = loaded;
        Ok(())
    }

    /// VERR, VERW, LAR, LSL: ZF says whether the selector can be used; no fault comes of it.
    fn ask_descriptor(&mut self, op: &Op) -> Run {
        let in_first = matches!(op.kind, Kind::Verr | Kind::Verw);
        let selector = match (in_first, op.flags & MEMORY != 0) {
            (true, _) => self.read_first(op, 1)?,
            (false, true) => self.load(op, 1)?,
            (false, false) => self.reg(op.s, 1),
        } as u16;
        let found = match self.descriptor_address(selector, 8) {
            Some(at) if !segment::is_null(selector) => Some(segment::Descriptor(self.read_system(at, 3)?)),
            _ => None,
        };
        let answer = found.and_then(|descriptor| self.judge(op.kind, selector, descriptor));
        if let (Some(value), false) = (answer, in_first) {
            self.set_reg(op.d, op.size, value);
        }
        self.lazy.set_zero(answer.is_some());
        Ok(())
    }

    fn judge(&self, kind: Kind, selector: u16, descriptor: segment::Descriptor) -> Option<u64> {
        let rpl = (selector & 3) as u8;
        let ordinary = descriptor.access() & segment::ORDINARY != 0;
        let conforming = ordinary && descriptor.is_code() && descriptor.is_conforming();
        let visible = conforming || (descriptor.dpl() >= rpl && descriptor.dpl() >= self.cpl);
        let bit1 = descriptor.access() & 2 != 0;
        let allowed = match kind {
            Kind::Verr => ordinary && (!descriptor.is_code() || bit1),
            Kind::Verw => ordinary && !descriptor.is_code() && bit1,
            // System descriptors of long mode: LDT, TSS; for LAR also call gates.
            Kind::Lar => ordinary || matches!(descriptor.kind(), 2 | 9 | 0xb | 0xc),
            _ => ordinary || matches!(descriptor.kind(), 2 | 9 | 0xb),
        };
        let value = match kind {
            Kind::Lar => descriptor.0 >> 32 & 0x00f0_ff00,
            _ => u64::from(descriptor.limit()),
        };
        (visible && allowed).then_some(value)
    }
}
