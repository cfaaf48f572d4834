//! ACPI tables: what tells the guest's system about the devices that cannot be asked (ACPI specification 6.4,
//! section 5.2).
//!
//! All of them are below 1 MiB, in an area that the memory map reserves, and the same on every host. The
//! identifiers in them are constant too: a guest may look for defects by them, and finds none.

mod dsdt;
#[cfg(test)]
mod tests;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress};

use crate::error::BootError;
use crate::memory::Ram;
use crate::table::layout::{
    ACPI_END, ACPI_INTERRUPT, ACPI_PORT, ACPI_TABLES, IOAPIC_BASE, IOAPIC_ID, LAPIC_BASE, RESET_PORT,
    RESET_VALUE,
};

const OEM: [u8; 6] = *b"TWNRUN";
const OEM_TABLE: [u8; 8] = *b"TWNRUNPC";
const OEM_REVISION: u32 = 1;

/// Of every table; the firmware control structure demands as much.
const ALIGNMENT: u64 = 64;
/// Index of the century in the CMOS memory, by old custom of PCs.
const CENTURY: u8 = 0x32;
/// IA-PC boot architecture flags (table 5.11): ISA devices are there; there is no VGA. No keyboard controller
/// is told of either: no keyboard is at it, and its reset line works without.
const BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 2;
/// Latencies that say "there is no such state" (section 5.2.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// Writes the tables; returns the root pointer's address.
pub(super) fn write(ram: &Ram) -> Result<u64, BootError> {
    let image = image();
    ram.write_slice(&image, GuestAddress(ACPI_TABLES))
        .map_err(|error| BootError::Memory(error.to_string()))?;
    Ok(ACPI_TABLES)
}

/// All tables as they are at [`ACPI_TABLES`].
fn image() -> Vec<u8> {
    let mut image = Image { bytes: vec![0; Rsdp::len()] };
    let facs = image.add(&FACS::new());
    let dsdt = image.add_bytes(dsdt::table().as_slice());
    let fadt = image.add(&fixed(facs, dsdt));
    let madt = image.add_bytes(interrupts().as_slice());
    let mut root = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt] {
        root.add_entry(u64::from(table));
    }
    let root = image.add(&root);
    let pointer = bytes(&Rsdp::new(OEM, u64::from(root)));
    image.bytes[..pointer.len()].copy_from_slice(&pointer);
    image.bytes
}

/// Tables one after the other.
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    fn add(&mut self, table: &dyn Aml) -> u32 {
        self.add_bytes(&bytes(table))
    }

    /// Appends a table; returns its address.
    fn add_bytes(&mut self, table: &[u8]) -> u32 {
        let at = (self.bytes.len() as u64).next_multiple_of(ALIGNMENT);
        let end = ACPI_TABLES + at + table.len() as u64;
        assert!(end <= ACPI_END, "the ACPI tables are constant and fit");
        self.bytes.resize(usize::try_from(at).expect("below 1 MiB"), 0);
        self.bytes.extend_from_slice(table);
        word(ACPI_TABLES + at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// An address below 4 GiB, as 32-bit fields have them.
fn word(address: u64) -> u32 {
    u32::try_from(address).expect("the machine's fixed addresses are below 4 GiB")
}

/// The fixed hardware (FADT, section 5.2.9). No SMI command port: the machine is in ACPI mode from the start.
fn fixed(facs: u32, dsdt: u32) -> FADT {
    let port = |offset| u32::from(ACPI_PORT + offset).into();
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_32(dsdt)
        .firmware_ctrl_32(facs)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    table.sci_int = u16::from(ACPI_INTERRUPT).into();
    (table.pm1a_evt_blk, table.pm1_evt_len) = (port(0), 4);
    (table.pm1a_cnt_blk, table.pm1_cnt_len) = (port(4), 2);
    (table.pm_tmr_blk, table.pm_tmr_len) = (port(8), 4);
    (table.p_lvl2_lat, table.p_lvl3_lat) = (NO_C2.into(), NO_C3.into());
    table.century = CENTURY;
    table.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    table.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(RESET_PORT));
    table.reset_value = RESET_VALUE;
    table.finalize()
}

/// Which structures the interrupt table has (sections 5.2.12.2 to 5.2.12.7).
mod kind {
    pub(super) const LOCAL_APIC: u8 = 0;
    pub(super) const IO_APIC: u8 = 1;
    pub(super) const OVERRIDE: u8 = 2;
    pub(super) const LOCAL_NMI: u8 = 4;
}

/// A PC's pair of 8259A is there as well.
const PCAT_COMPAT: u32 = 1 << 0;
const ENABLED: u32 = 1 << 0;
/// Polarity and trigger mode of an override (table 5.26): as the ISA bus has it; or high and level.
const AS_THE_BUS: u16 = 0;
const HIGH_LEVEL: u16 = 0b1101;

/// The interrupt controllers (MADT, section 5.2.12). The crate's own type knows neither overrides nor the flag
/// for the 8259A.
fn interrupts() -> Sdt {
    let mut table = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, OEM_REVISION);
    table.append(word(LAPIC_BASE));
    table.append(PCAT_COMPAT);
    // Processor 0 with local APIC 0.
    table.append_slice(&[kind::LOCAL_APIC, 8, 0, 0]);
    table.append(ENABLED);
    table.append_slice(&[kind::IO_APIC, 12, IOAPIC_ID, 0]);
    table.append(word(IOAPIC_BASE));
    table.append(0_u32);
    for (source, pin, flags) in [(0, 2, AS_THE_BUS), (ACPI_INTERRUPT, ACPI_INTERRUPT, HIGH_LEVEL)] {
        table.append_slice(&[kind::OVERRIDE, 10, 0, source]);
        table.append(u32::from(pin));
        table.append(flags);
    }
    // LINT1 of every processor.
    table.append_slice(&[kind::LOCAL_NMI, 6, 0xff]);
    table.append(AS_THE_BUS);
    table.append(1_u8);
    table
}
