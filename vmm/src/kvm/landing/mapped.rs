//! The real ring: a page shared with the kernel, and the calls that move it.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_DIRTY_LOG_PAGE_OFFSET, KVM_MEM_LOG_DIRTY_PAGES, Msrs, kvm_dirty_gfn,
    kvm_msr_entry, kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use super::ring::{BYTES, ENTRIES, RingKernel};
use crate::PAGE_SIZE;
use crate::error::VmError;
use crate::kvm::ext::KVMIO;
use crate::kvm::{enable, io_error, refused};
use crate::memory::Ram;

// KVM_RESET_DIRTY_RINGS, api.rst section 4.134 ("dirty ring"): protects again what was given back.
ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// `flags` of an entry: pushed by the kernel.
const PUSHED: u32 = 1;
/// `flags` of an entry: given back by us.
const GIVEN_BACK: u32 = 2;

/// Where the fill pages are in the guest's physical memory: above all that the guest is told of, 4 GiB.
const FILL_AT: u64 = 1 << 32;
/// The first fill page is not logged, the second is.
const FILL_SLOTS: [(u32, u32); 2] = [(2, 0), (3, KVM_MEM_LOG_DIRTY_PAGES)];
/// MSR_KVM_WALL_CLOCK_NEW: a write of an address makes KVM write the time of day there, in three steps of 4,
/// 12 and 4 bytes, each of which is a push.
const WALL_CLOCK: u32 = 0x4b56_4d00;
const PUSHES_PER_WRITE: u32 = 3;
/// Inside the logged fill page: three pushes.
const THREE: u64 = FILL_AT + PAGE_SIZE as u64;
/// Eight bytes below it: only the write of 12 bytes reaches the logged page. One push.
const ONE: u64 = THREE - 8;
/// Registers that the kernel takes in one call.
const WRITES_MAX: usize = 255;

/// The shared page and the fill pages.
#[derive(Debug)]
pub(super) struct RingPages {
    start: NonNull<kvm_dirty_gfn>,
    /// KVM holds addresses into this.
    _fill: Ram,
}

// SAFETY: the mapping belongs to no thread; it is accessed through &self and &mut self of its one owner, by
// atomic and volatile accesses to plain integers.
unsafe impl Send for RingPages {}

/// Switches the ring on; before the vCPU is made.
pub(in crate::kvm) fn enable_ring(vm: &VmFd) -> Result<(), VmError> {
    vm.enable_cap(&enable(KVM_CAP_DIRTY_LOG_RING, u64::from(BYTES)))
        .map_err(refused("keep a dirty ring of 4,096 bytes"))
}

impl RingPages {
    /// Maps the ring of a vCPU and gives the machine its fill pages.
    pub(super) fn map(vm: &VmFd, fd: &VcpuFd) -> Result<Self, VmError> {
        let fill = Ram::from_ranges(&[(GuestAddress(FILL_AT), 2 * PAGE_SIZE)])
            .map_err(|source| VmError::MemoryMap { memory_mib: 0, reason: source.to_string() })?;
        for (at, (slot, flags)) in (0..).zip(FILL_SLOTS) {
            let host = fill.iter().next().map_or(0, |region| region.as_ptr().addr() as u64);
            let offset = at * PAGE_SIZE as u64;
            let mapping = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: FILL_AT + offset,
                memory_size: PAGE_SIZE as u64,
                userspace_addr: host + offset,
            };
            // SAFETY: both pages are inside the mapping that `_fill` keeps as long as the ring is used.
            unsafe { vm.set_user_memory_region(mapping) }.map_err(refused("map the ring's fill pages"))?;
        }
        let failed = |source| VmError::Kvm { what: "share its dirty ring", source };
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE as i64;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice aliases no Rust object.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES as usize,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| failed(io::Error::other("null")))?;
        Ok(RingPages { start, _fill: fill })
    }

    fn entry(&self, at: u32) -> *mut kvm_dirty_gfn {
        // SAFETY: the remainder is below ENTRIES, and the mapping holds as many.
        unsafe { self.start.as_ptr().add((at % ENTRIES) as usize) }
    }

    fn flags(&self, at: u32) -> &AtomicU32 {
        // SAFETY: a valid, aligned word as long as self; the kernel's accesses to it are atomic too.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.entry(at)).flags) }
    }
}

impl Drop for RingPages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), BYTES as usize) };
    }
}

/// The ring of a stopped vCPU.
pub(super) struct Line<'a> {
    /// The machine.
    pub vm: &'a VmFd,
    /// Its vCPU.
    pub fd: &'a VcpuFd,
    /// The ring's pages.
    pub pages: &'a RingPages,
}

impl RingKernel for Line<'_> {
    type Error = io::Error;

    fn pushed(&self, at: u32) -> Option<(u32, u64)> {
        // Acquire: slot and offset were written before the flag.
        if self.pages.flags(at).load(Ordering::Acquire) != PUSHED {
            return None;
        }
        // SAFETY: a valid entry, which the kernel does not write again before it was given back and reset.
        let entry = unsafe { self.pages.entry(at).read_volatile() };
        Some((entry.slot, entry.offset))
    }

    fn give_back(&mut self, at: u32, slot: u32, page: u64) {
        let entry = self.pages.entry(at);
        // SAFETY: valid fields of an entry that is ours until the flag below.
        unsafe {
            (&raw mut (*entry).slot).write_volatile(slot);
            (&raw mut (*entry).offset).write_volatile(page);
        }
        self.pages.flags(at).store(GIVEN_BACK, Ordering::Release);
    }

    fn reset(&mut self) -> Result<u32, io::Error> {
        // SAFETY: the call has no argument; it reads entries of the shared page, and trusts slot and offset
        // only after it has checked them against the machine's slots.
        let count = unsafe { ioctl(self.vm, KVM_RESET_DIRTY_RINGS()) };
        u32::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn push(&mut self, count: u32) -> Result<(), io::Error> {
        let threes = count / PUSHES_PER_WRITE;
        let ones = count % PUSHES_PER_WRITE;
        let write = |data| kvm_msr_entry { index: WALL_CLOCK, data, ..Default::default() };
        let mut writes = vec![write(THREE); threes as usize];
        writes.resize((threes + ones) as usize, write(ONE));
        for part in writes.chunks(WRITES_MAX) {
            let list = Msrs::from_entries(part).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
            let done = self.fd.set_msrs(&list).map_err(io_error)?;
            if done != part.len() {
                // CPUID without the clock (KVM_CAP_ENFORCE_PV_FEATURE_CPUID), or a KVM without it.
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
        }
        Ok(())
    }
}
