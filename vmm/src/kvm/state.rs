//! Between KVM's structures and [`CpuState`].
//!
//! Canonical form. These differ between equal processors and are left out or zeroed:
//! - the stale vector, error code and type of an event that is not on its way;
//! - `interrupt_bitmap` of SREGS, which says again what the events say;
//! - XSAVE's note of which parts are in their initial state (XINUSE): the values are stored either way;
//! - the MXCSR mask, a constant of the processor model, and the bytes that FXSAVE leaves to software;
//! - all but the selector of a segment that is unusable, except its base (FS and GS have one in 64-bit mode).

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, kvm_debugregs, kvm_dtable, kvm_regs,
    kvm_segment, kvm_sregs, kvm_sync_regs, kvm_vcpu_events, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::{io_error, msr};
use crate::error::VcpuError;
use crate::vcpu::{CpuState, Events, Segment};

const FXSAVE_BYTES: usize = 512;
const MXCSR_MASK: std::ops::Range<usize> = 28..32;
const SOFTWARE_BYTES: std::ops::Range<usize> = 464..512;
/// Word of XSTATE_BV in an XSAVE image (SDM volume 1 section 13.4.2), and its value for x87 and SSE.
const XSTATE_BV: usize = 512 / 4;
const X87_AND_SSE: u32 = 3;
const UNUSABLE: u32 = 1 << 16;

/// Reads everything that is not in `synced`, the registers that KVM_RUN left just now, and joins the two.
pub(super) fn read(fd: &VcpuFd, synced: &kvm_sync_regs) -> Result<CpuState, VcpuError> {
    let kvm_sync_regs { regs, sregs, events } = synced;
    let xsave = fd.get_xsave().map_err(failed("read the floating-point registers"))?;
    let debug = fd.get_debug_regs().map_err(failed("read the debug registers"))?;
    let msrs = msr::read_saved(fd)?;
    let [db0, db1, db2, db3] = debug.db;
    Ok(CpuState {
        general: general(regs),
        rip: regs.rip,
        rflags: regs.rflags,
        segments: [sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.tr, sregs.ldt]
            .map(|segment| from_kvm_segment(&segment)),
        gdt: (sregs.gdt.base, sregs.gdt.limit),
        idt: (sregs.idt.base, sregs.idt.limit),
        control: [sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8],
        efer: sregs.efer,
        apic_base: sregs.apic_base,
        fxsave: fxsave(&xsave),
        debug: [db0, db1, db2, db3, debug.dr6, debug.dr7],
        msrs,
        events: from_kvm_events(events)?,
        retired: 0,
    })
}

/// Writes everything. Order: writing the general registers drops pending exceptions, so events come last.
pub(super) fn write(fd: &VcpuFd, state: &CpuState) -> Result<(), VcpuError> {
    let xsave = xsave(&state.fxsave)?;
    fd.set_regs(&to_kvm_regs(state)).map_err(failed("take the general registers"))?;
    fd.set_sregs(&to_kvm_sregs(state)).map_err(failed("take the system registers"))?;
    // SAFETY: the kernel reads 4096 bytes, the size of kvm_xsave without its flexible tail, and more only
    // when the guest was given dynamic features, which this machine never is.
    unsafe { fd.set_xsave(&xsave) }.map_err(failed("take the floating-point registers"))?;
    let [db0, db1, db2, db3, dr6, dr7] = state.debug;
    let debug = kvm_debugregs { db: [db0, db1, db2, db3], dr6, dr7, ..Default::default() };
    fd.set_debug_regs(&debug).map_err(failed("take the debug registers"))?;
    msr::write_saved(fd, &state.msrs)?;
    fd.set_vcpu_events(&to_kvm_events(&state.events)).map_err(failed("take the pending events"))
}

fn general(r: &kvm_regs) -> [u64; 16] {
    [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ]
}

fn to_kvm_regs(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.general;
    let (rip, rflags) = (state.rip, state.rflags);
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn to_kvm_sregs(state: &CpuState) -> kvm_sregs {
    let [cs, ds, es, fs, gs, ss, tr, ldt] = state.segments.map(|segment| to_kvm_segment(&segment));
    let [cr0, cr2, cr3, cr4, cr8] = state.control;
    let table = |(base, limit)| kvm_dtable { base, limit, ..Default::default() };
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt: table(state.gdt),
        idt: table(state.idt),
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer: state.efer,
        apic_base: state.apic_base,
        ..Default::default()
    }
}

fn from_kvm_segment(s: &kvm_segment) -> Segment {
    if s.unusable != 0 {
        return Segment { base: s.base, limit: 0, selector: s.selector, access: UNUSABLE };
    }
    let bit = |value: u8, at: u32| u32::from(value & 1) << at;
    let access = u32::from(s.type_ & 0xf)
        | bit(s.s, 4)
        | u32::from(s.dpl & 3) << 5
        | bit(s.present, 7)
        | bit(s.avl, 12)
        | bit(s.l, 13)
        | bit(s.db, 14)
        | bit(s.g, 15);
    Segment { base: s.base, limit: s.limit, selector: s.selector, access }
}

fn to_kvm_segment(segment: &Segment) -> kvm_segment {
    let field = |at: u32, mask: u32| u8::try_from(segment.access >> at & mask).unwrap_or(0);
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: field(0, 0xf),
        s: field(4, 1),
        dpl: field(5, 3),
        present: field(7, 1),
        avl: field(12, 1),
        l: field(13, 1),
        db: field(14, 1),
        g: field(15, 1),
        unusable: field(16, 1),
        ..Default::default()
    }
}

fn fxsave(xsave: &kvm_xsave) -> Vec<u8> {
    let mut image: Vec<u8> =
        xsave.region.iter().take(FXSAVE_BYTES / 4).flat_map(|word| word.to_le_bytes()).collect();
    image[MXCSR_MASK].fill(0);
    image[SOFTWARE_BYTES].fill(0);
    image
}

fn xsave(image: &[u8]) -> Result<kvm_xsave, VcpuError> {
    if image.len() != FXSAVE_BYTES {
        return Err(VcpuError::BadState("its floating-point image is not 512 bytes long"));
    }
    let mut xsave = kvm_xsave::default();
    let (words, _) = image.as_chunks::<4>();
    for (target, word) in xsave.region.iter_mut().zip(words) {
        *target = u32::from_le_bytes(*word);
    }
    xsave.region[XSTATE_BV] = X87_AND_SSE;
    Ok(xsave)
}

fn from_kvm_events(events: &kvm_vcpu_events) -> Result<Events, VcpuError> {
    if events.nmi.injected != 0 || events.nmi.pending != 0 || events.smi.smm != 0 || events.smi.pending != 0 {
        return Err(VcpuError::BadState("an NMI or SMI is pending, which this machine never sends"));
    }
    let exception = &events.exception;
    let interrupt = &events.interrupt;
    let code = (exception.has_error_code != 0).then_some(exception.error_code);
    // A software interrupt in delivery is re-executed from its instruction, so it is not an event.
    Ok(Events {
        exception: (exception.injected != 0 || exception.pending != 0).then_some((exception.nr, code)),
        interrupt: (interrupt.injected != 0 && interrupt.soft == 0).then_some(interrupt.nr),
        shadow: interrupt.shadow,
        nmi_masked: events.nmi.masked != 0,
    })
}

fn to_kvm_events(events: &Events) -> kvm_vcpu_events {
    let mut kvm = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    if let Some((vector, code)) = events.exception {
        kvm.exception.injected = 1;
        kvm.exception.nr = vector;
        kvm.exception.has_error_code = u8::from(code.is_some());
        kvm.exception.error_code = code.unwrap_or(0);
    }
    if let Some(vector) = events.interrupt {
        kvm.interrupt.injected = 1;
        kvm.interrupt.nr = vector;
    }
    kvm.interrupt.shadow = events.shadow;
    kvm.nmi.masked = u8::from(events.nmi_masked);
    kvm
}

fn failed(what: &'static str) -> impl FnOnce(errno::Error) -> VcpuError {
    move |error| VcpuError::Ioctl { what, source: io_error(error) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn segments_survive(base: u64, limit: u32, selector: u16, low in 0u32..0x100, high in 0u32..16) {
            let segment = Segment { base, limit, selector, access: low | high << 12 };
            prop_assert_eq!(from_kvm_segment(&to_kvm_segment(&segment)), segment);
        }

        #[test]
        fn events_survive(exception in proptest::option::of((any::<u8>(), proptest::option::of(any::<u32>()))),
                          interrupt: Option<u8>, shadow in 0u8..4, nmi_masked: bool) {
            let events = Events { exception, interrupt, shadow, nmi_masked };
            prop_assert_eq!(from_kvm_events(&to_kvm_events(&events)).expect("no NMI"), events);
        }
    }

    #[test]
    fn a_vector_that_is_not_on_its_way_is_not_state() {
        let mut kvm = kvm_vcpu_events::default();
        kvm.interrupt.nr = 0x31;
        kvm.exception.nr = 14;
        kvm.exception.error_code = 2;
        assert_eq!(from_kvm_events(&kvm).expect("no NMI"), Events::default());
    }

    #[test]
    fn an_image_of_the_wrong_length_is_refused() {
        assert!(xsave(&[0; 511]).is_err());
    }
}
