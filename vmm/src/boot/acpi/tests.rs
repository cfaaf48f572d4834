use super::*;

/// The tables, found as a guest finds them: from the root pointer on, every length and checksum checked.
struct Found {
    image: Vec<u8>,
}

impl Found {
    fn new() -> Self {
        Found { image: image() }
    }

    fn bytes(&self, address: u64, length: usize) -> &[u8] {
        let at = usize::try_from(address - ACPI_TABLES).expect("in the image");
        &self.image[at..at + length]
    }

    fn number(&self, address: u64, length: usize) -> u64 {
        self.bytes(address, length).iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn table(&self, address: u64, signature: &[u8; 4]) -> &[u8] {
        assert_eq!(self.bytes(address, 4), signature);
        let length = usize::try_from(self.number(address + 4, 4)).expect("short");
        let table = self.bytes(address, length);
        assert_eq!(sum(table), 0, "checksum of {}", String::from_utf8_lossy(signature));
        table
    }

    fn entry(&self, index: u64) -> u64 {
        let root = self.number(ACPI_TABLES + 24, 8);
        assert_eq!(self.table(root, b"XSDT").len(), 36 + 2 * 8);
        self.number(root + 36 + index * 8, 8)
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn the_root_pointer_is_where_old_systems_look_for_it() {
    let found = Found::new();
    assert_eq!(ACPI_TABLES % 16, 0);
    let pointer = found.bytes(ACPI_TABLES, 36);
    assert_eq!(&pointer[..8], b"RSD PTR ");
    assert_eq!((sum(&pointer[..20]), sum(pointer), pointer[15]), (0, 0, 2));
}

#[test]
fn the_fixed_hardware_is_that_of_the_machine() {
    let found = Found::new();
    let at = found.entry(0);
    let table = found.table(at, b"FACP");
    assert_eq!(table.len(), 276, "revision 6");
    let field = |offset, length| found.number(at + offset, length);
    assert_eq!(field(46, 2), 9, "SCI");
    assert_eq!([field(56, 4), field(64, 4), field(76, 4)], [0x600, 0x604, 0x608]);
    assert_eq!([field(88, 1), field(89, 1), field(91, 1)], [4, 2, 4]);
    assert_eq!(field(48, 4), 0, "no SMI command port: always in ACPI mode");
    let flags = field(112, 4);
    assert_eq!(flags & 1 << 4, 0, "the power button is in the fixed hardware");
    assert_eq!(flags & 1 << 8, 0, "the PM timer has 24 bits");
    assert_ne!(flags & 1 << 10, 0, "there is a reset register");
    assert_eq!((table[116], field(120, 8), table[128]), (1, 0xcf9, 6), "a port");
    found.table(field(40, 4), b"DSDT");
    let facs = field(36, 4);
    assert_eq!((facs % 64, found.bytes(facs, 4), field(132, 8)), (0, b"FACS".as_slice(), 0));
}

#[test]
fn the_interrupt_controllers_are_told_of_in_full() {
    let found = Found::new();
    let table = found.table(found.entry(1), b"APIC");
    assert_eq!(table[36..44], [0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    let mut structures = Vec::new();
    let mut rest = &table[44..];
    while let [_, length, ..] = rest {
        let (structure, after) = rest.split_at(usize::from(*length));
        structures.push(structure);
        rest = after;
    }
    let expected: [&[u8]; 5] = [
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[1, 12, 1, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 13, 0],
        &[4, 6, 0xff, 0, 0, 1],
    ];
    assert_eq!(structures, expected);
}

#[test]
fn the_devices_are_described() {
    let table = dsdt::table();
    assert_eq!(sum(table.as_slice()), 0);
    let holds = |bytes: &[u8]| table.as_slice().windows(bytes.len()).any(|window| window == bytes);
    // _S5 is a package of four zeroes; names, in their compressed form, of bridge, port and clock.
    assert!(holds(b"\x08_S5_\x12\x06\x04\0\0\0\0"));
    for id in [[0x41, 0xd0, 0x0a, 0x03], [0x41, 0xd0, 0x05, 0x01], [0x41, 0xd0, 0x0b, 0x00]] {
        assert!(holds(&id), "{id:x?}");
    }
    assert!(holds(b"QEMU0001\0"));
    // INTA of slot 2 is pin 18, or ISA interrupt 10; that of slot 31 pin 19, or 11.
    for (slot, line) in [(2, 18), (2, 10), (31, 19), (31, 11)] {
        assert!(holds(&[0x0c, 0xff, 0xff, slot, 0, 0, 0, 0x0a, line]), "slot {slot}, interrupt {line}");
    }
}

/// The bus agrees with what the devices do: their configuration space names the same ISA interrupts, and the
/// addresses of their registers are in the bridge's window.
#[test]
fn the_routing_is_that_of_the_devices() {
    let config = devices::PlatformConfig { macs: vec![[2; 6]; 4], disks: vec![8; 8], ..Default::default() };
    let mut platform = devices::Platform::new(&config).expect("a machine");
    let ram = crate::memory::allocate(1).expect("memory");
    let mut read = |slot: u32, register: u32| {
        platform.pio_write(0xcf8, &(1 << 31 | slot << 11 | register).to_le_bytes(), &ram);
        let mut data = [0; 4];
        platform.pio_read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    };
    for slot in 2..=14 {
        let [line, pin, ..] = read(slot, 0x3c).to_le_bytes();
        assert_eq!((u32::from(line), pin), (dsdt::isa_interrupt(slot), 1), "slot {slot}");
        let bar = u64::from(read(slot, 0x10));
        assert_eq!(bar, crate::table::layout::PCI_BAR_BASE + u64::from(slot) * 0x4000);
    }
    let mut identifier = [0; 4];
    platform.mmio_write(IOAPIC_BASE, &[0; 4], &ram);
    platform.mmio_read(IOAPIC_BASE + 0x10, &mut identifier);
    assert_eq!(identifier[3] & 0xf, IOAPIC_ID);
}
