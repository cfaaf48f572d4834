//! PCI configuration mechanism 1 (PCI Local Bus specification 3.0, section 3.2.2.3.2) and what the functions
//! share. One bus, function 0 of each slot only.

mod function;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::state::Invalid;
pub(crate) use function::{BAR_SIZE, ConfigHeader, Identity, isa_line, put};

/// Port of the address register (32-bit accesses only; 0xCF9 inside it is the reset port).
pub(crate) const ADDRESS_PORT: u16 = 0xcf8;
/// First of the four data ports.
pub(crate) const DATA_PORT: u16 = 0xcfc;

/// Vendor 8086, device 1237, class 0600: the host bridge at 00:00.0. It has no registers beyond its identity.
pub(crate) const HOST_BRIDGE: Identity =
    Identity { vendor: 0x8086, device: 0x1237, class: 0x0600, subsystem: 0 };

/// The address register.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfigAddress(u32);

/// The bytes of configuration space that a data port access means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Slot (device number) on bus 0.
    pub(crate) slot: u8,
    /// Byte offset into the function's 256 bytes.
    pub(crate) offset: usize,
}

impl ConfigAddress {
    const ENABLE: u32 = 1 << 31;
    const WRITABLE: u32 = 0x80ff_fffc;

    pub(crate) fn read(&self) -> u32 {
        self.0
    }

    pub(crate) fn write(&mut self, value: u32) {
        self.0 = value & Self::WRITABLE;
    }

    /// What an access of `len` bytes at data port `port` means; nothing on another bus or function, without
    /// the enable bit, or across the end of the data ports.
    pub(crate) fn target(&self, port: u16, len: usize) -> Option<Target> {
        let lane = usize::from(port.checked_sub(DATA_PORT)?);
        let bus_and_function = self.0 & 0x00ff_0700;
        if self.0 & Self::ENABLE == 0 || bus_and_function != 0 || !matches!(len, 1 | 2 | 4) || lane + len > 4
        {
            return None;
        }
        Some(Target { slot: ((self.0 >> 11) & 0x1f) as u8, offset: (self.0 & 0xfc) as usize + lane })
    }

    /// Checks a decoded value.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        if self.0 & !Self::WRITABLE == 0 {
            Ok(())
        } else {
            Err(Invalid("the PCI address register holds an impossible value"))
        }
    }
}
