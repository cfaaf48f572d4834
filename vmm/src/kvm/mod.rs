//! The KVM backend: one virtual machine with one vCPU and no interrupt controller in the kernel.
//!
//! Without an in-kernel interrupt controller KVM delivers no interrupt that was not ordered here, and has no
//! timer of its own. That is the whole reason for it.

mod area;
mod ext;
mod kick;
mod landing;
mod msr;
mod state;
mod vcpu;

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PMU_CAP_DISABLE, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
    kvm_cpuid_entry2, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::errno;

use self::area::RunArea;
use self::kick::KickState;
use self::landing::probe::Modes;
use self::landing::{Landings, MAIN_SLOT};
use self::vcpu::DirtyLog;
pub(crate) use self::vcpu::KvmVcpu;
use crate::error::VmError;
use crate::memory::Ram;
use crate::table::cpuid::{self, Vendor};

/// What `KVM_GET_API_VERSION` has answered since 2007.
const API_VERSION: i32 = 12;

/// How pages that the guest writes are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// By the dirty ring, if landings work here; else by the bitmap.
    Best,
    /// By the bitmap, which every KVM has.
    Bitmap,
}

/// Makes the virtual machine with `ram` as its memory.
pub(crate) fn create(ram: &Ram, tracking: Tracking) -> Result<KvmVcpu, VmError> {
    create_with(
        ram,
        match tracking {
            Tracking::Best => landing::probe::modes(),
            Tracking::Bitmap => Err("the machine was made without them".into()),
        },
    )
}

/// With a ring, or with the reason why not.
fn create_with(ram: &Ram, modes: Result<Modes, String>) -> Result<KvmVcpu, VmError> {
    let kvm = Kvm::new().map_err(|error| VmError::OpenKvm(io_error(error)))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(VmError::KvmVersion(version));
    }
    check_capabilities(&kvm)?;
    let vm = kvm.create_vm().map_err(refused("create a virtual machine"))?;
    disable_pmu(&vm)?;
    if modes.is_ok() {
        landing::enable_ring(&vm)?;
    }
    let slot_bytes = map_memory(&vm, ram)?;
    msr::take_over(&vm)?;
    let fd = vm.create_vcpu(0).map_err(refused("create a vCPU"))?;
    enforce_cpuid(&fd)?;
    let vendor = set_cpuid(&kvm, &fd)?;
    if kvm.check_extension(Cap::Hyperv) {
        msr::shut_hypercalls(&fd)?;
    } else {
        // Such a kernel has no Hyper-V path that hypercalls could be sent to. A guest that asks its own
        // kernel's KVM for the host's time (Linux's ptp_kvm does) becomes different from its replica there.
        tracing::warn!(
            "this host's KVM is built without Hyper-V support: KVM's own hypercalls stay reachable"
        );
    }
    let area = Arc::new(RunArea::map(&fd, vm.run_size())?);
    let kick = Arc::new(KickState::new(Arc::clone(&area))?);
    let log = match modes {
        Ok(modes) => DirtyLog::Ring(Box::new(Landings::new(&vm, &fd, ram, modes)?)),
        Err(obstacle) => DirtyLog::Bitmap { slot_bytes, obstacle },
    };
    Ok(KvmVcpu::new(vm, fd, area, kick, ram.clone(), log, vendor))
}

fn check_capabilities(kvm: &Kvm) -> Result<(), VmError> {
    let required = [
        (Cap::UserMemory, "user memory"),
        (Cap::ImmediateExit, "immediate exit"),
        (Cap::VcpuEvents, "vCPU events"),
        (Cap::Xsave, "XSAVE state"),
        (Cap::Debugregs, "debug registers"),
        (Cap::X86UserSpaceMsr, "MSR exits"),
        (Cap::X86MsrFilter, "the MSR filter"),
    ];
    for (cap, name) in required {
        if !kvm.check_extension(cap) {
            return Err(VmError::MissingCapability(name));
        }
    }
    let synced = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    if !u32::try_from(kvm.check_extension_int(Cap::SyncRegs)).is_ok_and(|have| have & synced == synced) {
        return Err(VmError::MissingCapability("registers in the run page"));
    }
    if kvm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) <= 0 {
        return Err(VmError::MissingCapability("enforcement of paravirtual CPUID"));
    }
    Ok(())
}

/// Where KVM has a virtual PMU, the guest must not see it: counters count real events.
fn disable_pmu(vm: &VmFd) -> Result<(), VmError> {
    if vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into()) & i32::try_from(KVM_PMU_CAP_DISABLE).unwrap_or(0)
        == 0
    {
        return Ok(());
    }
    let cap = enable(KVM_CAP_PMU_CAPABILITY, u64::from(KVM_PMU_CAP_DISABLE));
    vm.enable_cap(&cap).map_err(refused("switch the virtual performance counters off"))
}

/// Registers memory with the dirty log on; returns the bytes of the slot.
fn map_memory(vm: &VmFd, ram: &Ram) -> Result<usize, VmError> {
    let mut bytes = 0;
    for (slot, region) in (MAIN_SLOT..).zip(ram.iter()) {
        let mapping = kvm_userspace_memory_region {
            slot,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr().addr() as u64,
        };
        // SAFETY: the region is mapped as long as `ram` or a clone lives; KvmVcpu, which alone can run the
        // guest, keeps such a clone. Rust code reaches the region through vm-memory's volatile access only.
        unsafe { vm.set_user_memory_region(mapping) }.map_err(refused("map the guest's memory"))?;
        bytes = region.size();
    }
    Ok(bytes)
}

/// Paravirtual registers that CPUID does not offer must not exist either.
fn enforce_cpuid(fd: &VcpuFd) -> Result<(), VmError> {
    fd.enable_cap(&enable(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1))
        .map_err(refused("enforce the paravirtual CPUID leaves"))
}

fn enable(cap: u32, argument: u64) -> kvm_enable_cap {
    kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() }
}

/// Gives the vCPU the profile of the machine table, after a check that the host has what it promises. Returns
/// the vendor in it, which is the host's.
fn set_cpuid(kvm: &Kvm, fd: &VcpuFd) -> Result<Vendor, VmError> {
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("tell the supported CPUID leaves"))?;
    let host = |function| supported.as_slice().iter().find(|entry| entry.function == function).copied();
    let vendor = host(0).map(|entry| vendor_name(&entry)).unwrap_or_default();
    let vendor = Vendor::from_name(&vendor)
        .ok_or_else(|| VmError::UnknownVendor(String::from_utf8_lossy(&vendor).into_owned()))?;
    for (leaf, wanted) in [(1, cpuid::FEATURES_EDX), (0x8000_0001, cpuid::EXTENDED_EDX)] {
        let missing = wanted & !host(leaf).map_or(0, |entry| entry.edx);
        if missing != 0 {
            return Err(VmError::MissingCpuFeature { leaf, register: "EDX", missing });
        }
    }
    let entries: Vec<kvm_cpuid_entry2> = cpuid::profile(vendor).iter().map(entry).collect();
    let table = CpuId::from_entries(&entries).map_err(|_| VmError::Kvm {
        what: "take the CPUID table",
        source: io::Error::from_raw_os_error(libc::E2BIG),
    })?;
    fd.set_cpuid2(&table).map_err(refused("take the CPUID table"))?;
    Ok(vendor)
}

fn vendor_name(entry: &kvm_cpuid_entry2) -> [u8; 12] {
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([entry.ebx, entry.edx, entry.ecx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    name
}

fn entry(leaf: &cpuid::Leaf) -> kvm_cpuid_entry2 {
    let cpuid::Leaf { function, index, eax, ebx, ecx, edx } = *leaf;
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

fn io_error(error: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

fn refused(what: &'static str) -> impl FnOnce(errno::Error) -> VmError {
    move |error| VmError::Kvm { what, source: io_error(error) }
}
