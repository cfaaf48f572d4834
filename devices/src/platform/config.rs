//! What the machine is made of.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::functions::{DISK_SLOTS, NIC_SLOTS};

/// 2026-01-01 00:00:00 UTC.
const DEFAULT_WALL_BASE_S: u32 = 1_767_225_600;

/// Sectors of the largest disk: its size in bytes is a 63-bit number.
const SECTORS_MAX: u64 = 1 << 54;

/// What the machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformConfig {
    /// MAC address of each network card, at most four: in slots 2, 12, 13 and 14.
    pub macs: Vec<[u8; 6]>,
    /// Size of each disk in sectors of 512 bytes, at most eight: in slots 3 and 5 to 11.
    pub disks: Vec<u64>,
    /// Wall-clock time at virtual time 0, in seconds since 1970-01-01 00:00:00 UTC: what all clocks of the
    /// machine show at power-up. Both hosts of a pair must agree on it; corrections are the guest's business
    /// (NTP).
    pub wall_base_s: u32,
}

impl Default for PlatformConfig {
    /// No network card, no disk, and a clock that starts at 2026-01-01 00:00:00 UTC.
    fn default() -> Self {
        PlatformConfig { macs: Vec::new(), disks: Vec::new(), wall_base_s: DEFAULT_WALL_BASE_S }
    }
}

/// Why a machine cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Too many devices of one kind.
    #[error("the machine has room for {limit} {kind}, the configuration has {got}; take some out")]
    TooMany {
        /// What kind of device.
        kind: &'static str,
        /// How many are possible.
        limit: usize,
        /// How many were asked for.
        got: usize,
    },
    /// A disk whose size in bytes is no 63-bit number.
    #[error("a disk of {0} sectors is too large; the limit is 2^54 sectors")]
    DiskTooLarge(u64),
}

impl PlatformConfig {
    /// Checks that the machine has room for all of this.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_count("network cards", NIC_SLOTS.len(), self.macs.len())?;
        check_count("disks", DISK_SLOTS.len(), self.disks.len())?;
        match self.disks.iter().find(|sectors| **sectors > SECTORS_MAX) {
            Some(sectors) => Err(ConfigError::DiskTooLarge(*sectors)),
            None => Ok(()),
        }
    }
}

fn check_count(kind: &'static str, limit: usize, got: usize) -> Result<(), ConfigError> {
    if got > limit { Err(ConfigError::TooMany { kind, limit, got }) } else { Ok(()) }
}
