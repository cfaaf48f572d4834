//! The memory map.

/// Largest guest memory in MiB: below 3 GiB, clear of device space.
pub const MEMORY_MIB_MAX: u32 = 3072;
/// Local APIC, 4 KiB.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Task-priority register of the local APIC (SDM volume 3 section 12.8.3.1).
pub const LAPIC_TPR: u64 = LAPIC_BASE + 0x80;
/// Value of the APIC base register: enabled, bootstrap processor (SDM volume 3 section 12.4.4).
pub const APIC_BASE_MSR: u64 = LAPIC_BASE | 0x900;
/// Base of the memory BAR of PCI slot 0; slot `s` is `s * PCI_BAR_SIZE` above.
pub const PCI_BAR_BASE: u64 = 0xfeb0_0000;
/// Bytes of each slot's memory BAR.
pub const PCI_BAR_SIZE: u64 = 0x4000;

/// Global descriptor table at boot.
pub const BOOT_GDT: u64 = 0x500;
/// Linux boot parameters ("zero page"), 4 KiB.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Stack pointer at boot; the stack grows down from the zero page.
pub const BOOT_STACK: u64 = BOOT_PARAMS - 8;
/// Kernel command line, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x9000;
/// Bytes for the command line, its NUL included.
pub const COMMAND_LINE_MAX: usize = 2048;
/// First page table: one top level, one second level, four third level tables.
pub const PAGE_TABLES: u64 = 0x10000;
/// End of what boot writes; a kernel is loaded at or above it.
pub const BOOT_END: u64 = 0x20000;

/// The map as words, for the table's digest.
pub(super) fn as_words() -> [u64; 11] {
    [
        u64::from(MEMORY_MIB_MAX),
        LAPIC_BASE,
        APIC_BASE_MSR,
        PCI_BAR_BASE,
        PCI_BAR_SIZE,
        BOOT_GDT,
        BOOT_PARAMS,
        BOOT_STACK,
        COMMAND_LINE,
        PAGE_TABLES,
        BOOT_END,
    ]
}
