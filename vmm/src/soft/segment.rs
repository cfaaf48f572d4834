//! Descriptors and segment registers (SDM volume 3 chapters 3 and 6).

use super::op::{CS, FS, GS, SS};
use super::state::{Cpu, Fault, Mode, Run, Trap, fault, vector};
use crate::vcpu::Segment;

/// A selector that names no descriptor.
pub(super) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// Access rights of a segment register that holds a null selector.
const UNUSABLE: u32 = 1 << 16;
/// Present.
pub(super) const PRESENT: u32 = 1 << 7;
/// Not a system segment.
pub(super) const ORDINARY: u32 = 1 << 4;
/// 64-bit code.
pub(super) const LONG: u32 = 1 << 13;
/// 32-bit.
pub(super) const BIG: u32 = 1 << 14;
const ACCESSED: u32 = 1;
const GRANULAR: u32 = 1 << 15;

/// A descriptor of eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor(pub(super) u64);

impl Descriptor {
    /// As [`Segment::access`]: type, S, DPL, P, then AVL, L, DB, G.
    pub(super) fn access(self) -> u32 {
        (self.0 >> 40) as u32 & 0xf0ff
    }

    /// Type, four bits, and the bit that tells ordinary segments from system ones.
    pub(super) fn kind(self) -> u32 {
        self.access() & 0x1f
    }

    /// Descriptor privilege level.
    pub(super) fn dpl(self) -> u8 {
        (self.access() >> 5 & 3) as u8
    }

    pub(super) fn is_present(self) -> bool {
        self.access() & PRESENT != 0
    }

    pub(super) fn is_code(self) -> bool {
        self.access() & (ORDINARY | 8) == ORDINARY | 8
    }

    pub(super) fn is_conforming(self) -> bool {
        self.access() & 4 != 0
    }

    pub(super) fn base(self) -> u64 {
        (self.0 >> 16 & 0xff_ffff) | (self.0 >> 32 & 0xff00_0000)
    }

    pub(super) fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff) as u32 | (self.0 >> 32) as u32 & 0xf_0000;
        if self.access() & GRANULAR != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// The register that this descriptor gives.
    pub(super) fn segment(self, selector: u16) -> Segment {
        Segment { base: self.base(), limit: self.limit(), selector, access: self.access() }
    }
}

/// The error code that names a selector.
pub(super) fn named(vector: u8, selector: u16) -> Trap {
    fault(vector, u32::from(selector & !3))
}

impl Cpu {
    /// Where a descriptor is. Out of the table: `None`.
    pub(super) fn descriptor_address(&self, selector: u16, bytes: u64) -> Option<u64> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdt.0, u64::from(self.gdt.1))
        } else if self.local.access & UNUSABLE != 0 {
            return None;
        } else {
            (self.local.base, u64::from(self.local.limit))
        };
        let offset = u64::from(selector & !7);
        (offset + bytes - 1 <= limit).then_some(base.wrapping_add(offset))
    }

    /// Reads a descriptor; `otherwise` is raised, with the selector, if there is none.
    pub(super) fn descriptor(&mut self, selector: u16, otherwise: u8) -> Run<Descriptor> {
        let at = self.descriptor_address(selector, 8).ok_or_else(|| named(otherwise, selector))?;
        self.read_system(at, 3).map(Descriptor)
    }

    /// The upper half of a system descriptor's base, in the eight bytes after it.
    pub(super) fn descriptor_high(&mut self, selector: u16, otherwise: u8) -> Run<u64> {
        let at = self.descriptor_address(selector, 16).ok_or_else(|| named(otherwise, selector))?;
        Ok(self.read_system(at.wrapping_add(8), 3)? & 0xffff_ffff)
    }

    /// Sets the accessed bit in memory, if it is not set.
    pub(super) fn mark_accessed(&mut self, selector: u16, descriptor: Descriptor) -> Run<Descriptor> {
        let marked = Descriptor(descriptor.0 | u64::from(ACCESSED) << 40);
        if marked != descriptor
            && let Some(at) = self.descriptor_address(selector, 8)
        {
            self.write_system(at.wrapping_add(5), 0, marked.0 >> 40 & 0xff)?;
        }
        Ok(marked)
    }

    /// MOV, POP, LSS and so on to ES, SS, DS, FS, GS.
    pub(super) fn load_segment(&mut self, number: u8, selector: u16) -> Run {
        if number == SS {
            return self.load_stack_segment(selector);
        }
        if is_null(selector) {
            // Base and rights of the register before are gone, on Intel as on AMD but for FS and GS in 64-bit
            // mode, whose bases AMD keeps.
            let keep = self.vendor == crate::table::cpuid::Vendor::Amd && matches!(number, FS | GS);
            let base = if keep { self.segments[usize::from(number)].base } else { 0 };
            self.segments[usize::from(number)] = Segment { base, limit: 0, selector, access: UNUSABLE };
            self.refresh();
            return Ok(());
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let readable =
            descriptor.access() & ORDINARY != 0 && (!descriptor.is_code() || descriptor.access() & 2 != 0);
        let rpl = (selector & 3) as u8;
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        if !readable || (!conforming && (rpl > descriptor.dpl() || self.cpl > descriptor.dpl())) {
            return Err(named(vector::GP, selector));
        }
        if !descriptor.is_present() {
            return Err(named(vector::NP, selector));
        }
        let marked = self.mark_accessed(selector, descriptor)?;
        self.segments[usize::from(number)] = marked.segment(selector);
        self.refresh();
        Ok(())
    }

    fn load_stack_segment(&mut self, selector: u16) -> Run {
        if is_null(selector) {
            // Allowed in 64-bit kernel code whose RPL is its own (SDM volume 2, MOV).
            if self.mode != Mode::Long || self.cpl == 3 || (selector & 3) as u8 != self.cpl {
                return Err(named(vector::GP, 0));
            }
            self.set_null_stack(selector);
            self.refresh();
            return Ok(());
        }
        let segment = self.stack_descriptor(selector, self.cpl, vector::GP, vector::SS)?;
        self.segments[usize::from(SS)] = segment;
        self.refresh();
        Ok(())
    }

    /// SS becomes null.
    pub(super) fn set_null_stack(&mut self, selector: u16) {
        self.segments[usize::from(SS)] = Segment { base: 0, limit: 0, selector, access: UNUSABLE };
    }

    /// Checks a stack segment for a privilege level.
    pub(super) fn stack_descriptor(
        &mut self,
        selector: u16,
        cpl: u8,
        otherwise: u8,
        absent: u8,
    ) -> Run<Segment> {
        let descriptor = self.descriptor(selector, otherwise)?;
        // Ordinary, data, writable.
        let writable = descriptor.access() & (ORDINARY | 8 | 2) == ORDINARY | 2;
        if (selector & 3) as u8 != cpl || descriptor.dpl() != cpl || !writable {
            return Err(named(otherwise, selector));
        }
        if !descriptor.is_present() {
            return Err(named(absent, selector));
        }
        Ok(self.mark_accessed(selector, descriptor)?.segment(selector))
    }

    /// Sets CS for a privilege level.
    pub(super) fn set_code(&mut self, descriptor: Descriptor, selector: u16, cpl: u8) {
        let selector = selector & !3 | u16::from(cpl);
        self.segments[usize::from(CS)] = descriptor.segment(selector);
    }

    /// After a return to a lower privilege, data segments that it may not use become null.
    pub(super) fn drop_privileged_segments(&mut self) {
        for number in [0, 3, 4, 5] {
            let segment = &mut self.segments[number];
            let dpl = (segment.access >> 5 & 3) as u8;
            let conforming = segment.access & 0x1c == 0x1c;
            if segment.access & UNUSABLE == 0 && !conforming && dpl < self.cpl {
                *segment = Segment { base: 0, limit: 0, selector: 0, access: UNUSABLE };
            }
        }
        self.refresh();
    }
}

/// The same fault, with the bit that says that an external event caused it.
pub(super) fn external(trap: Trap) -> Trap {
    match trap {
        Trap::Fault(Fault { vector, code: Some(code) }) if vector != super::state::vector::PF => {
            Trap::Fault(Fault { vector, code: Some(code | 1) })
        }
        other => other,
    }
}
