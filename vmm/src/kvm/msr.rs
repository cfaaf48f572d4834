//! Model-specific registers: which of them KVM may answer, and reading and writing the saved ones.

use std::io;

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, Msrs, kvm_msr_entry,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

use super::{enable, refused};
use crate::error::{VcpuError, VmError};
use crate::table::msrs::{OWNED, SAVED};

/// HV_X64_MSR_GUEST_OS_ID. Not zero means that hypercalls are of Hyper-V's kind, which all fail here; else
/// KVM would answer its own, one of which tells the host's time.
const GUEST_OS_ID: u32 = 0x4000_0000;

/// Sends every access that is not in the machine table's list to us.
pub(super) fn take_over(vm: &VmFd) -> Result<(), VmError> {
    let reasons = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN;
    vm.enable_cap(&enable(KVM_CAP_X86_USER_SPACE_MSR, u64::from(reasons)))
        .map_err(refused("report MSR accesses"))?;
    let allowed = OWNED.map(|range| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: range.first,
        msr_count: range.count,
        bitmap: &[0xff],
    });
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &allowed).map_err(refused("filter MSR accesses"))
}

/// Makes the guest's hypercalls fail.
pub(super) fn shut_hypercalls(fd: &VcpuFd) -> Result<(), VmError> {
    write(fd, &[(GUEST_OS_ID, 1)]).map_err(|error| VmError::Kvm {
        what: "shut the hypercalls",
        source: io::Error::other(error.to_string()),
    })
}

/// Values of [`SAVED`], in its order.
pub(super) fn read_saved(fd: &VcpuFd) -> Result<Vec<u64>, VcpuError> {
    let entries = SAVED.map(|msr| entry(msr.index, 0));
    let mut list = list(&entries)?;
    let done = fd.get_msrs(&mut list).map_err(|error| ioctl("read MSRs", error))?;
    match entries.get(done) {
        Some(failed) => Err(VcpuError::Msr { what: "read", index: failed.index }),
        None => Ok(list.as_slice().iter().map(|entry| entry.data).collect()),
    }
}

/// Writes values for [`SAVED`].
pub(super) fn write_saved(fd: &VcpuFd, values: &[u64]) -> Result<(), VcpuError> {
    if values.len() != SAVED.len() {
        return Err(VcpuError::BadState("it has another number of model-specific registers"));
    }
    let pairs: Vec<(u32, u64)> = SAVED.iter().map(|msr| msr.index).zip(values.iter().copied()).collect();
    write(fd, &pairs)
}

fn write(fd: &VcpuFd, pairs: &[(u32, u64)]) -> Result<(), VcpuError> {
    let entries: Vec<kvm_msr_entry> = pairs.iter().map(|&(index, data)| entry(index, data)).collect();
    let done = fd.set_msrs(&list(&entries)?).map_err(|error| ioctl("write MSRs", error))?;
    match entries.get(done) {
        Some(failed) => Err(VcpuError::Msr { what: "write", index: failed.index }),
        None => Ok(()),
    }
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, VcpuError> {
    Msrs::from_entries(entries).map_err(|_| VcpuError::BadState("too many model-specific registers"))
}

fn ioctl(what: &'static str, error: vmm_sys_util::errno::Error) -> VcpuError {
    VcpuError::Ioctl { what, source: super::io_error(error) }
}
