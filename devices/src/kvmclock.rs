//! The paravirtual clock of KVM guests (Linux `Documentation/virt/kvm/x86/msr.rst`), stopped: the page says
//! that time is `system_time` whatever the time-stamp counter, and is written only when virtual time is
//! placed and when the guest gives its address.
//!
//! Only the new pair of registers exists. The old pair 0x11 and 0x12 is not offered in CPUID and raises #GP.

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, Permissions};

use crate::state::{COUNT_MAX, Invalid};
use crate::{Memory, Ns};

/// MSR_KVM_WALL_CLOCK_NEW: the address of the wall clock structure, written once per write of the register.
pub(crate) const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
/// MSR_KVM_SYSTEM_TIME_NEW: the address of the time page, bit 0 enables it.
pub(crate) const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;

const ENABLE: u64 = 1;
/// `struct pvclock_vcpu_time_info`.
const PAGE_BYTES: usize = 32;
/// `struct pvclock_wall_clock`: version, seconds, nanoseconds.
const WALL_BYTES: usize = 12;
/// With multiplier 1 and shift -63 every counter value scales to zero. Linux divides by the multiplier, so
/// that must not be zero.
const MULTIPLIER: u32 = 1;
const SHIFT: i8 = -63;
const FLAGS: usize = 29;
/// PVCLOCK_TSC_STABLE_BIT.
const STABLE: u8 = 1 << 0;
/// PVCLOCK_GUEST_STOPPED: set by us, cleared by the guest when it has taken note.
const STOPPED: u8 = 1 << 1;

/// The clock's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KvmClock {
    /// Wall-clock time at virtual time 0, in seconds since 1970.
    wall_base_s: u32,
    system_time: u64,
    wall_clock: u64,
    /// Version of the page, always even: no reader runs while it is written.
    version: u32,
    /// Updates that were ignored because the structure would lie outside of memory.
    ignored: u64,
}

impl KvmClock {
    /// A clock that no guest uses yet. `wall_base_s` is the wall-clock time at virtual time 0, in seconds since
    /// 1970-01-01 00:00:00 UTC.
    pub(crate) fn new(wall_base_s: u32) -> Self {
        KvmClock { wall_base_s, system_time: 0, wall_clock: 0, version: 0, ignored: 0 }
    }

    /// Updates that fell outside of memory.
    pub(crate) fn ignored(&self) -> u64 {
        self.ignored
    }

    pub(crate) fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            MSR_WALL_CLOCK => Some(self.wall_clock),
            MSR_SYSTEM_TIME => Some(self.system_time),
            _ => None,
        }
    }

    pub(crate) fn write<M: Memory>(&mut self, msr: u32, value: u64, now: Ns, mem: &M) -> Option<()> {
        match msr {
            MSR_WALL_CLOCK => {
                self.wall_clock = value;
                let mut wall = [0; WALL_BYTES];
                wall[0..4].copy_from_slice(&2u32.to_le_bytes());
                wall[4..8].copy_from_slice(&self.wall_base_s.to_le_bytes());
                self.store(value, &wall, mem);
            }
            MSR_SYSTEM_TIME => {
                self.system_time = value;
                self.publish(now, mem);
            }
            _ => return None,
        }
        Some(())
    }

    /// Writes the page: virtual time is `now`.
    pub(crate) fn publish<M: Memory>(&mut self, now: Ns, mem: &M) {
        self.publish_with(0, now, mem);
    }

    /// Writes the page, and in it that the guest was stopped. A guest without the page cannot be told.
    pub(crate) fn mark_stopped<M: Memory>(&mut self, now: Ns, mem: &M) {
        self.publish_with(STOPPED, now, mem);
    }

    fn publish_with<M: Memory>(&mut self, flags: u8, now: Ns, mem: &M) {
        if self.system_time & ENABLE == 0 {
            return;
        }
        let addr = self.system_time & !ENABLE;
        // What the guest has not taken note of yet stays.
        let flags_addr = GuestAddress(addr.wrapping_add(FLAGS as u64));
        let kept = mem.read_obj::<u8>(flags_addr).map_or(0, |old| old & STOPPED);
        let version = self.version.wrapping_add(2);
        let mut page = [0; PAGE_BYTES];
        page[0..4].copy_from_slice(&version.to_le_bytes());
        // Bytes 8 to 15, the counter's value at `system_time`, stay 0.
        page[16..24].copy_from_slice(&now.to_le_bytes());
        page[24..28].copy_from_slice(&MULTIPLIER.to_le_bytes());
        page[28..29].copy_from_slice(&SHIFT.to_le_bytes());
        page[FLAGS] = STABLE | flags | kept;
        if self.store(addr, &page, mem) {
            self.version = version;
        }
    }

    fn store<M: Memory>(&mut self, addr: u64, bytes: &[u8], mem: &M) -> bool {
        let addr = GuestAddress(addr);
        let stored =
            mem.check_range(addr, bytes.len(), Permissions::Write) && mem.write_slice(bytes, addr).is_ok();
        if !stored {
            self.ignored += 1;
        }
        stored
    }

    /// Checks a decoded value.
    pub(crate) fn validate(&self, wall_base_s: u32) -> Result<(), Invalid> {
        if self.version.is_multiple_of(2) && self.ignored <= COUNT_MAX && self.wall_base_s == wall_base_s {
            Ok(())
        } else {
            Err(Invalid("the paravirtual clock's version is odd, its count too large or its base another"))
        }
    }
}
