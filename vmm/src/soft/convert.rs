//! Between [`Cpu`] and [`CpuState`], in the canonical form of [`crate::vcpu`].

use super::flags::Lazy;
use super::float::{FXSAVE_SIZE as IMAGE, Unit as Fpu};
use super::memory::GuestRam;
use super::pages::Pages;
use super::segment;
use super::simd::Mxcsr;
use super::state::{Cpu, Fault, Mode, cr0, cr4, efer};
use super::tlb::Tlb;
use crate::error::VcpuError;
use crate::memory::Ram;
use crate::table::cpuid::{Vendor, profile};
use crate::vcpu::{CpuState, Events, Segment};

const UNUSABLE: u32 = 1 << 16;

impl Cpu {
    /// A processor that has no valid state yet.
    pub(super) fn new(ram: &Ram, vendor: Vendor) -> Self {
        Cpu {
            regs: [0; 32],
            rip: 0,
            lazy: Lazy::default(),
            control_flags: 2,
            bases: [0; 8],
            segments: [Segment::default(); 6],
            task: Segment::default(),
            local: Segment::default(),
            gdt: (0, 0),
            idt: (0, 0),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            apic_base: 0,
            debug: [0; 6],
            msrs: [0; 9],
            xmm: [0; 16],
            mxcsr: Mxcsr::RESET,
            fpu: Fpu::reset(),
            cpl: 0,
            mode: Mode::Long,
            stack_mask: u64::MAX,
            shadow: 0,
            new_shadow: 0,
            nmi_masked: false,
            queued_exception: None,
            queued_interrupt: None,
            count: 0,
            tlb: Tlb::new(),
            pages: Pages::new(GuestRam::new(ram)),
            attention: false,
            watching: false,
            alignment: false,
            careful: false,
            implicit: false,
            watched: 0,
            exit: None,
            after_exit: None,
            answers: Vec::new(),
            answers_used: 0,
            unsupported: None,
            leaves: profile(vendor),
            vendor,
            forms: Vec::new(),
        }
    }

    /// The state between two instructions.
    pub(super) fn to_state(&self) -> CpuState {
        let mut general = [0; 16];
        general.copy_from_slice(&self.regs[..16]);
        let [es, cs, ss, ds, fs, gs] = self.segments;
        CpuState {
            general,
            rip: self.rip,
            rflags: self.rflags(),
            segments: [cs, ds, es, fs, gs, ss, self.task, self.local].map(canonical),
            gdt: self.gdt,
            idt: self.idt,
            control: [self.cr0, self.cr2, self.cr3, self.cr4, self.cr8],
            efer: self.efer,
            apic_base: self.apic_base,
            fxsave: self.image(),
            debug: self.debug,
            msrs: self.msrs.to_vec(),
            events: Events {
                exception: self.queued_exception.map(|fault| (fault.vector, fault.code)),
                interrupt: self.queued_interrupt,
                shadow: self.shadow,
                nmi_masked: self.nmi_masked,
            },
            retired: self.count,
        }
    }

    fn image(&self) -> Vec<u8> {
        let mut image = [0; IMAGE];
        self.fpu.save(&mut image);
        image[24..28].copy_from_slice(&self.mxcsr.bits().to_le_bytes());
        for (place, value) in image[160..416].as_chunks_mut::<16>().0.iter_mut().zip(self.xmm) {
            *place = value.to_le_bytes();
        }
        image.to_vec()
    }

    /// Takes over a state; the translation cache is empty then.
    pub(super) fn take_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        check(state)?;
        let bad = VcpuError::BadState;
        let image: &[u8; IMAGE] = state
            .fxsave
            .as_slice()
            .try_into()
            .map_err(|_| bad("its floating-point image is not 512 bytes long"))?;
        let msrs = state.msrs.as_slice().try_into();
        let msrs = msrs.map_err(|_| bad("it has not the model-specific registers of the table"))?;
        let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
        self.mxcsr = Mxcsr::new(mxcsr).map_err(|_| bad("MXCSR has reserved bits"))?;
        self.msrs = msrs;
        self.regs = [0; 32];
        self.regs[..16].copy_from_slice(&state.general);
        self.rip = state.rip;
        let [cs, ds, es, fs, gs, ss, task, local] = state.segments;
        self.segments = [es, cs, ss, ds, fs, gs];
        (self.task, self.local) = (task, local);
        (self.gdt, self.idt) = (state.gdt, state.idt);
        [self.cr0, self.cr2, self.cr3, self.cr4, self.cr8] = state.control;
        (self.efer, self.apic_base, self.debug) = (state.efer, state.apic_base, state.debug);
        self.fpu.restore(image);
        for (value, place) in self.xmm.iter_mut().zip(image[160..416].as_chunks::<16>().0) {
            *value = u128::from_le_bytes(*place);
        }
        let events = &state.events;
        self.queued_exception = events.exception.map(|(vector, code)| Fault { vector, code });
        (self.queued_interrupt, self.shadow) = (events.interrupt, events.shadow);
        (self.nmi_masked, self.count) = (events.nmi_masked, state.retired);
        (self.new_shadow, self.watched, self.implicit) = (0, 0, false);
        (self.exit, self.after_exit, self.unsupported) = (None, None, None);
        self.answers.clear();
        self.tlb.flush_all();
        self.refresh();
        self.set_rflags(state.rflags);
        Ok(())
    }
}

/// Of a segment that is not usable, only selector and base count.
fn canonical(segment: Segment) -> Segment {
    if segment.access & UNUSABLE == 0 {
        return segment;
    }
    Segment { limit: 0, access: UNUSABLE, ..segment }
}

/// Only long mode is implemented: real mode and 16-bit and 32-bit protected mode would begin here.
fn check(state: &CpuState) -> Result<(), VcpuError> {
    let [control0, _, control3, control4, priority] = state.control;
    let long = control0 & (cr0::PG | cr0::PE) == cr0::PG | cr0::PE
        && control4 & cr4::PAE != 0
        && state.efer & (efer::LMA | efer::LME) == efer::LMA | efer::LME;
    if !long {
        return Err(VcpuError::BadState("the software processor starts in long mode only"));
    }
    let [code, ..] = state.segments;
    let usable = code.access & (UNUSABLE | segment::PRESENT | segment::ORDINARY)
        == segment::PRESENT | segment::ORDINARY;
    if !usable || !Cpu::is_canonical(state.rip) {
        return Err(VcpuError::BadState("its code segment or instruction pointer is not valid"));
    }
    if control0 >> 32 != 0 || control4 & !cr4::KNOWN != 0 || priority > 15 || control3 >> 40 != 0 {
        return Err(VcpuError::BadState("its control registers have bits that do not exist"));
    }
    Ok(())
}
