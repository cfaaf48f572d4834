//! Model-specific registers.
//!
//! KVM answers only those of [`OWNED`]; every other access leaves the guest and is answered by the devices
//! or by a general-protection fault. Real time can reach the guest through none of them.

/// A register whose value is part of a saved processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedMsr {
    /// Number of the register.
    pub index: u32,
    /// Value at boot.
    pub reset: u64,
}

/// A range of registers that the vCPU backend keeps itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrRange {
    /// First register.
    pub first: u32,
    /// How many, at most 8.
    pub count: u32,
}

const fn saved(index: u32, reset: u64) -> SavedMsr {
    SavedMsr { index, reset }
}

/// Saved and restored in this order (SDM volume 4 table 2-2). EFER and the FS and GS bases are saved with
/// the control and segment registers. No time stamp counter.
pub const SAVED: [SavedMsr; 9] = [
    saved(0x174, 0),                     // SYSENTER_CS
    saved(0x175, 0),                     // SYSENTER_ESP
    saved(0x176, 0),                     // SYSENTER_EIP
    saved(0x277, 0x0007_0406_0007_0406), // PAT
    saved(0xc000_0081, 0),               // STAR
    saved(0xc000_0082, 0),               // LSTAR
    saved(0xc000_0083, 0),               // CSTAR
    saved(0xc000_0084, 0),               // SFMASK
    saved(0xc000_0102, 0),               // KERNEL_GS_BASE
];

/// What KVM may answer without an exit.
pub const OWNED: [MsrRange; 4] = [
    MsrRange { first: 0x174, count: 3 },       // SYSENTER
    MsrRange { first: 0x277, count: 1 },       // PAT
    MsrRange { first: 0xc000_0080, count: 5 }, // EFER, STAR, LSTAR, CSTAR, SFMASK
    MsrRange { first: 0xc000_0100, count: 3 }, // FS_BASE, GS_BASE, KERNEL_GS_BASE
];
