//! The page that KVM shares with us, `struct kvm_run`.
//!
//! It is mapped once more than kvm-ioctls does: another thread stores `immediate_exit` while this one runs
//! the vCPU, which a `&mut kvm_run` forbids. All access here is through raw pointers, volatile or atomic.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_run, kvm_sync_regs};
use kvm_ioctls::VcpuFd;

use crate::error::VmError;

/// Bytes of one PIO exit: KVM has one page for them.
pub(super) const PIO_MAX: usize = 4096;

/// A mapping of the vCPU's shared page.
#[derive(Debug)]
pub(super) struct RunArea {
    start: NonNull<kvm_run>,
    bytes: usize,
}

// SAFETY: the mapping belongs to no thread; every access is volatile or atomic on plain integers, and only
// `immediate_exit`, an atomic, is stored by threads other than the vCPU's.
unsafe impl Send for RunArea {}
// SAFETY: see Send.
unsafe impl Sync for RunArea {}

/// The address of a field of the shared page, which [`RunArea::map`] has made valid.
macro_rules! field {
    ($area:expr, $($path:tt)+) => {
        &raw mut (*$area.start.as_ptr()).$($path)+
    };
}

impl RunArea {
    /// Maps the page of `fd`, `bytes` long as the kernel said.
    pub(super) fn map(fd: &VcpuFd, bytes: usize) -> Result<Self, VmError> {
        let failed = |source| VmError::Kvm { what: "share its run page", source };
        if bytes < size_of::<kvm_run>() {
            return Err(failed(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice aliases no Rust object.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        NonNull::new(start.cast())
            .map(|start| RunArea { start, bytes })
            .ok_or_else(|| failed(io::Error::other("null")))
    }

    /// When 1, KVM_RUN finishes the last exit and returns before entering the guest.
    pub(super) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte is valid as long as self; all of our accesses to it are atomic, and the kernel's
        // are single-byte reads.
        unsafe { AtomicU8::from_ptr(field!(self, immediate_exit)) }
    }

    /// Sets `immediate_exit`.
    pub(super) fn set_immediate_exit(&self, value: bool) {
        self.immediate_exit().store(u8::from(value), Ordering::SeqCst);
    }

    /// Whether an external interrupt can be injected now.
    pub(super) fn ready_for_interrupt(&self) -> bool {
        // SAFETY: a valid byte; the kernel writes it inside KVM_RUN only, which the same thread calls.
        unsafe { field!(self, ready_for_interrupt_injection).read_volatile() != 0 }
    }

    /// Sets `request_interrupt_window`.
    pub(super) fn request_window(&self, wanted: bool) {
        // SAFETY: a valid byte that the kernel only reads, inside KVM_RUN.
        unsafe { field!(self, request_interrupt_window).write_volatile(u8::from(wanted)) }
    }

    /// CR8 after the last exit or as last set.
    pub(super) fn cr8(&self) -> u8 {
        // SAFETY: as for ready_for_interrupt.
        let cr8 = unsafe { field!(self, cr8).read_volatile() };
        u8::try_from(cr8 & 0xf).unwrap_or(0)
    }

    /// CR8 for the next entry.
    pub(super) fn set_cr8(&self, cr8: u8) {
        // SAFETY: as for request_window.
        unsafe { field!(self, cr8).write_volatile(u64::from(cr8)) }
    }

    /// Element size and count of the PIO exit that just happened.
    pub(super) fn pio_shape(&self) -> (u8, u32) {
        // SAFETY: every bit pattern is a valid value of this plain structure.
        let io = unsafe { field!(self, __bindgen_anon_1.io).read_volatile() };
        (io.size, io.count)
    }

    /// Stores the answer to a PIO read exit; false if it does not fit the exit.
    pub(super) fn answer_pio(&self, data: &[u8]) -> bool {
        // SAFETY: as for pio_shape.
        let io = unsafe { field!(self, __bindgen_anon_1.io).read_volatile() };
        let Ok(offset) = usize::try_from(io.data_offset) else { return false };
        let fits = u64::from(io.size) * u64::from(io.count) == data.len() as u64
            && data.len() <= PIO_MAX
            && offset.checked_add(data.len()).is_some_and(|end| end <= self.bytes);
        if fits {
            // SAFETY: offset + length is inside the mapping (checked), and the source is elsewhere.
            unsafe {
                let target = self.start.as_ptr().cast::<u8>().add(offset);
                target.copy_from_nonoverlapping(data.as_ptr(), data.len());
            }
        }
        fits
    }

    /// Stores the answer to an MMIO read exit.
    pub(super) fn answer_mmio(&self, data: [u8; 8]) {
        // SAFETY: eight valid bytes of the exit's record, which the kernel reads in the next KVM_RUN.
        unsafe { field!(self, __bindgen_anon_1.mmio.data).write_volatile(data) }
    }

    /// Stores the answer to an MSR exit; `None` raises the fault.
    pub(super) fn answer_msr(&self, value: Option<u64>) {
        // SAFETY: valid fields of the exit's record, which the kernel reads in the next KVM_RUN.
        unsafe {
            field!(self, __bindgen_anon_1.msr.error).write_volatile(u8::from(value.is_none()));
            if let Some(value) = value {
                field!(self, __bindgen_anon_1.msr.data).write_volatile(value);
            }
        }
    }

    /// Whether KVM_RUN shall leave the registers in the page. Off while the guest runs: reading them costs
    /// time at every exit.
    pub(super) fn want_registers(&self, wanted: bool) {
        let all = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
        // SAFETY: a valid field that the kernel only reads, inside KVM_RUN.
        unsafe { field!(self, kvm_valid_regs).write_volatile(if wanted { u64::from(all) } else { 0 }) }
    }

    /// The registers that the last KVM_RUN left.
    pub(super) fn registers(&self) -> kvm_sync_regs {
        // SAFETY: as for pio_shape.
        unsafe { field!(self, s.regs).read_volatile() }
    }

    /// Reason of an internal error.
    pub(super) fn suberror(&self) -> u32 {
        // SAFETY: as for pio_shape.
        unsafe { field!(self, __bindgen_anon_1.internal.suberror).read_volatile() }
    }
}

impl Drop for RunArea {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
