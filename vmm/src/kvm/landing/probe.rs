//! Does it work here? A guest of three stores tells.

use std::io;
use std::sync::OnceLock;

use kvm_bindings::KVM_CAP_DIRTY_LOG_RING;
use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};

use super::ring::BYTES;
use crate::boot::{self, Privilege};
use crate::error::VmError;
use crate::memory;
use crate::vcpu::{Landing, Vcpu, VmEntry, VmExit};

/// Where landings are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kvm) struct Modes {
    /// In kernel mode too. User mode is implied.
    pub kernel: bool,
}

const CODE: u64 = 0x2_0000;
/// Stores AL to 0x30000, 0x31000, 0x30000 again and to where no memory is, each with seven bytes.
const PROGRAM: [u8; 28] = [
    0x88, 0x04, 0x25, 0, 0, 3, 0, //
    0x88, 0x04, 0x25, 0, 0x10, 3, 0, //
    0x88, 0x04, 0x25, 0, 0, 3, 0, //
    0x88, 0x04, 0x25, 0, 0, 0, 0x40,
];
const END: u64 = 0x4000_0000;
const FIRST: Landing = Landing { page: 0x30, rip: CODE };
const SECOND: Landing = Landing { page: 0x31, rip: CODE + 7 };
const THIRD: Landing = Landing { page: 0x30, rip: CODE + 14 };

/// What this host can do, or what to change. Tried once per process.
pub(in crate::kvm) fn modes() -> Result<Modes, String> {
    static MODES: OnceLock<Result<Modes, String>> = OnceLock::new();
    MODES.get_or_init(probe).clone()
}

fn probe() -> Result<Modes, String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm cannot be opened: {error}"))?;
    let largest = kvm.check_extension_raw(KVM_CAP_DIRTY_LOG_RING.into());
    if largest < i32::try_from(BYTES).unwrap_or(i32::MAX) {
        return Err("this kernel's KVM has no dirty ring: use Linux 5.11 or newer, built with \
                    CONFIG_HAVE_KVM_DIRTY_RING"
            .into());
    }
    match lands(Privilege::User) {
        Ok(true) => Ok(Modes { kernel: lands(Privilege::Kernel).unwrap_or(false) }),
        Ok(false) => Err("this host's KVM does not stop before the first store to a clean page, as when \
                          page-modification logging is on: load kvm_intel with pml=0"
            .into()),
        Err(error) => Err(explain(&error)),
    }
}

fn explain(error: &VmError) -> String {
    match error {
        VmError::Kvm { what, source } if source.raw_os_error() == Some(libc::EINVAL) => format!(
            "this host's KVM refuses to {what}, as when page-modification logging is on: load kvm_intel \
             with pml=0"
        ),
        other => format!("the attempt failed: {other}"),
    }
}

/// Whether all three stores are landings at this privilege: each before its effect, after that of the one
/// before.
fn lands(privilege: Privilege) -> Result<bool, VmError> {
    let failed = |error: String| VmError::Kvm { what: "try a landing", source: io::Error::other(error) };
    let ram = memory::allocate(1)?;
    let mut state = boot::bare(&ram, CODE, privilege).map_err(|error| failed(error.to_string()))?;
    let [rax, ..] = &mut state.general;
    *rax = 1;
    ram.write_slice(&PROGRAM, GuestAddress(CODE)).map_err(|error| failed(error.to_string()))?;
    let mut vcpu = crate::kvm::create_with(&ram, Ok(Modes { kernel: true }))?;
    let stored = || ram.read_obj::<u8>(GuestAddress(0x3_0000)).is_ok_and(|byte| byte == 1);
    // Every way out is before or at the last store: nothing that is no program is ever executed.
    let mut script = || {
        vcpu.set_state(&state)?;
        if vcpu.run(VmEntry::Seek)? != VmExit::Landing(FIRST) || stored() {
            return Ok(false);
        }
        if vcpu.run(VmEntry::Seek)? != VmExit::Landing(SECOND) || !stored() {
            return Ok(false);
        }
        vcpu.protect(&[FIRST.page])?;
        if vcpu.run(VmEntry::Find(THIRD, 0))? != VmExit::Landing(THIRD) {
            return Ok(false);
        }
        Ok(matches!(vcpu.run(VmEntry::Run)?, VmExit::MmioWrite { addr: END, .. }))
    };
    script().map_err(|error: crate::VcpuError| failed(error.to_string()))
}
