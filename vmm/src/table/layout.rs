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

/// I/O APIC, 4 KiB; its 24 pins are the global system interrupts from 0 on.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// I/O APIC's identifier.
pub const IOAPIC_ID: u8 = 1;
/// First port of the ACPI fixed hardware: PM1a event block here, PM1a control 4 and PM timer 8 above.
pub const ACPI_PORT: u16 = 0x600;
/// ISA interrupt of the ACPI fixed hardware.
pub const ACPI_INTERRUPT: u8 = 9;
/// The reset control register.
pub const RESET_PORT: u16 = 0xcf9;
/// What a guest writes there.
pub const RESET_VALUE: u8 = 6;
/// The panic notifier's port.
pub const PANIC_PORT: u16 = 0x505;

/// Between these two lies what an old PC keeps for its BIOS and its display: no memory for the guest's own use.
pub const LOW_END: u64 = 0x9_fc00;
/// Where memory goes on.
pub const HIGH_START: u64 = 0x10_0000;
/// ACPI tables, up to [`ACPI_END`]; the root pointer is first. A system that looks for it in the BIOS area
/// finds it too.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// End of the ACPI tables.
pub const ACPI_END: u64 = 0xf_0000;

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
pub(super) fn as_words() -> [u64; 22] {
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
        IOAPIC_BASE,
        u64::from(IOAPIC_ID),
        u64::from(ACPI_PORT),
        u64::from(ACPI_INTERRUPT),
        u64::from(RESET_PORT),
        u64::from(RESET_VALUE),
        u64::from(PANIC_PORT),
        LOW_END,
        HIGH_START,
        ACPI_TABLES,
        ACPI_END,
    ]
}
