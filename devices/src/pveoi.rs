//! The end of an interrupt in memory (Linux `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_PV_EOI_EN): before
//! the guest is entered, a bit in its memory offers that it may end the interrupt in service by clearing that
//! bit, which costs no exit.
//!
//! The offer is made only when the end has no consequence beyond the local APIC, and is taken back at every
//! exit: nothing else ever sees it.

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, Permissions};

use crate::Memory;
use crate::state::Invalid;

/// MSR_KVM_PV_EOI_EN: the address of the word, a multiple of 4; bit 0 enables it.
pub(crate) const MSR_PV_EOI: u32 = 0x4b56_4d04;

const ENABLE: u64 = 1;
const RESERVED: u64 = 1 << 1;
/// The bit in memory.
const OFFER: u8 = 1;

/// The register, and the offer that stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PvEoi {
    register: u64,
    /// The address of the bit, while the guest may clear it.
    offered: Option<u64>,
}

impl PvEoi {
    pub(crate) fn read(&self) -> u64 {
        self.register
    }

    pub(crate) fn write(&mut self, value: u64) -> Option<()> {
        (value & RESERVED == 0).then(|| self.register = value)
    }

    /// Makes the offer, if the guest has given an address in memory. Nothing is in the way of it.
    pub(crate) fn offer<M: Memory>(&mut self, mem: &M) {
        let addr = self.register & !ENABLE;
        let made = self.register & ENABLE != 0
            && mem.check_range(GuestAddress(addr), 1, Permissions::ReadWrite)
            && mem.write_obj(OFFER, GuestAddress(addr)).is_ok();
        self.offered = made.then_some(addr);
    }

    /// Takes the offer back. Whether the guest has used it.
    pub(crate) fn take_back<M: Memory>(&mut self, mem: &M) -> bool {
        let Some(addr) = self.offered.take() else { return false };
        // The address was in memory when the offer was made: both accesses succeed.
        let Ok(byte) = mem.read_obj::<u8>(GuestAddress(addr)) else { return false };
        let used = byte & OFFER == 0;
        used || mem.write_obj(byte & !OFFER, GuestAddress(addr)).is_err()
    }

    /// Checks a decoded value.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        if self.register & RESERVED == 0 {
            Ok(())
        } else {
            Err(Invalid("the register for the end of interrupts in memory holds an impossible value"))
        }
    }
}
