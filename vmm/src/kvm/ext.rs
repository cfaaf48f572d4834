//! KVM calls that kvm-ioctls does not have.

use std::io;
use std::os::raw::c_uint;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

/// Letter of all KVM ioctls.
pub(super) const KVMIO: c_uint = 0xae;

// KVM_INTERRUPT, api.rst section 4.16: queues an external interrupt. `struct kvm_interrupt` is one u32.
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, u32);

/// Queues an external interrupt for the next entry.
pub(super) fn interrupt(fd: &VcpuFd, vector: u8) -> io::Result<()> {
    let argument = u32::from(vector);
    // SAFETY: fd is a vCPU, and the kernel reads exactly the four bytes of the argument.
    let result = unsafe { ioctl_with_ref(fd, KVM_INTERRUPT(), &argument) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
