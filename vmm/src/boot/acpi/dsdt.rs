//! The description of the devices (DSDT): the PCI bus with its windows and interrupts, and the ISA devices that
//! a guest cannot find by itself.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, IO, If, Interrupt, Method, Name, Package,
    PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE, word};
use crate::table::layout::{IOAPIC_BASE, MEMORY_MIB_MAX, PANIC_PORT};

/// Slots of a PCI bus.
const SLOTS: u32 = 32;
/// The pin of the I/O APIC for INTA of slot 0; slot `s` has the one `s` modulo 4 above.
const PCI_PIN: u32 = 16;
/// ISA interrupts for the same, as long as a guest uses the 8259A pair, by slot modulo 4.
const PCI_ISA: [u32; 4] = [11, 10, 10, 11];
/// No source but a number: the interrupt cannot be routed elsewhere (ACPI specification 6.4, table 6.7).
const HARD_WIRED: u32 = 0;

/// The whole table.
pub(super) fn table() -> Sdt {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    // The guest says by \_PIC which interrupt controllers it uses: 0 for the 8259A pair, 1 for the APICs.
    let (mode, argument) = (Path::new("PICM"), Arg(0));
    Name::new("PICM".into(), &ZERO).to_aml_bytes(&mut table);
    Method::new("_PIC".into(), 1, false, vec![&Store::new(&mode, &argument)]).to_aml_bytes(&mut table);
    // Soft-off is sleep type 0; there is no other sleep.
    Name::new("_S5_".into(), &Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO])).to_aml_bytes(&mut table);
    let (pci, isa) = (pci_bus(), isa_devices());
    Scope::new("_SB_".into(), vec![&Raw(pci), &Raw(isa)]).to_aml_bytes(&mut table);
    table.update_checksum();
    table
}

/// Bytes of AML that are ready.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// The host bridge: bus 0, all ports but the configuration mechanism's own, and the addresses between the
/// largest possible memory and the I/O APIC.
fn pci_bus() -> Vec<u8> {
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let mechanism = IO::new(0xcf8, 0xcf8, 1, 8);
    let below = AddressSpace::new_io(0_u16, 0xcf7, None);
    let above = AddressSpace::new_io(0xd00_u16, 0xffff, None);
    let window = (MEMORY_MIB_MAX << 20, word(IOAPIC_BASE) - 1);
    let memory =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, window.0, window.1, None);
    let windows = ResourceTemplate::new(vec![&bus, &mechanism, &below, &memory, &above]);
    let (mode, apic) = (Path::new("PICM"), routing(|slot| PCI_PIN + slot % 4));
    let pic = routing(isa_interrupt);
    let (with_apic, with_pic) = (Return::new(&apic), Return::new(&pic));
    super::bytes(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CRS".into(), &windows),
            &Method::new("_PRT".into(), 0, false, vec![&If::new(&mode, vec![&with_apic]), &with_pic]),
        ],
    ))
}

/// The ISA interrupt of a slot's INTA.
pub(super) fn isa_interrupt(slot: u32) -> u32 {
    PCI_ISA[slot as usize % PCI_ISA.len()]
}

/// INTA of every slot, by number of the interrupt (section 6.2.13).
fn routing(interrupt: impl Fn(u32) -> u32) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 0..SLOTS {
        let (address, line) = (slot << 16 | 0xffff, interrupt(slot));
        table.add_element(&Package::new(vec![&address, &ZERO, &HARD_WIRED, &line]));
    }
    table
}

/// The serial port, the clock and the panic notifier. Timer, interrupt controllers and speaker are found without.
fn isa_devices() -> Vec<u8> {
    let edge = |number| Interrupt::new(true, true, false, false, number);
    let serial = super::bytes(&Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &1_u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(0x3f8, 0x3f8, 1, 8), &edge(4)])),
        ],
    ));
    let clock = super::bytes(&Device::new(
        "RTC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(0x70, 0x70, 1, 2), &edge(8)])),
        ],
    ));
    let panic = super::bytes(&Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            // Present and working, not to be shown to users.
            &Name::new("_STA".into(), &0xb_u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(PANIC_PORT, PANIC_PORT, 1, 1)])),
        ],
    ));
    [serial, clock, panic].concat()
}
