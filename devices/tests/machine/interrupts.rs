//! From the devices to the processor: INTx, the I/O APIC, the system control interrupt.

use devices::{Effect, Stimulus};

use crate::driver::{APIC, BLK_BAR, Machine, NET_BAR, Ring, WRITE};

const IOAPIC: u64 = 0xfec0_0000;
const LEVEL: u32 = 1 << 15;
const LOW: u32 = 1 << 13;
const REMOTE_IRR: u32 = 1 << 14;

impl Machine {
    pub(crate) fn ioapic_write(&mut self, register: u32, value: u32) {
        self.write(IOAPIC, &register.to_le_bytes());
        self.write(IOAPIC + 0x10, &value.to_le_bytes());
    }

    fn ioapic_read(&mut self, register: u32) -> u32 {
        self.write(IOAPIC, &register.to_le_bytes());
        self.read32(IOAPIC + 0x10)
    }
}

/// A machine whose network card (slot 2) and disk (slot 3) interrupt through pins 18 and 19.
fn with_intx() -> (Machine, Ring, Ring) {
    let mut machine = Machine::new();
    machine.enable_apic();
    let (rx, _) = machine.up_net();
    let disk = machine.up_blk();
    machine.ioapic_write(0x10 + 18 * 2, LEVEL | LOW | 0x41);
    machine.ioapic_write(0x10 + 19 * 2, LEVEL | LOW | 0x51);
    (machine, rx, disk)
}

#[test]
fn an_intx_interrupt_lasts_until_the_isr_is_read() {
    let (mut machine, mut rx, _) = with_intx();
    assert_eq!(machine.pci_read(2, 0x3c) & 0xffff, 0x010a, "INTA, ISA interrupt 10");
    rx.offer(&machine, &[(0x10000, 1600, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(machine.pci_read(2, 4) >> 16, 0x18, "the interrupt status bit");
    assert_eq!(machine.interrupt(), Some(0x41));
    assert_eq!(machine.platform.pending_interrupt(), Some(0x41), "still asserted");
    assert_eq!(machine.ioapic_read(0x10 + 18 * 2), LEVEL | LOW | REMOTE_IRR | 0x41);
    assert_eq!(machine.platform.accept_interrupt(), Some(0x41));
    assert_eq!(machine.read::<1>(NET_BAR + 0x1000), [1]);
    assert_eq!(machine.pci_read(2, 4) >> 16, 0x10);
    machine.write(APIC + 0xb0, &[0; 4]);
    assert_eq!(machine.platform.pending_interrupt(), None);
    assert_eq!(machine.ioapic_read(0x10 + 18 * 2), LEVEL | LOW | 0x41);
}

#[test]
fn the_command_register_disables_intx() {
    let (mut machine, mut rx, _) = with_intx();
    machine.pci_write(2, 4, 0x0406);
    rx.offer(&machine, &[(0x10000, 1600, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(machine.platform.pending_interrupt(), None);
    assert_eq!(machine.pci_read(2, 4) >> 16, 0x18, "the status tells nevertheless");
    machine.pci_write(2, 4, 0x0006);
    assert_eq!(machine.platform.pending_interrupt(), Some(0x41));
}

#[test]
fn each_function_has_its_pin_and_msix_silences_it() {
    let (mut machine, _, mut disk) = with_intx();
    machine.poke(0x12000, &4u32.to_le_bytes());
    disk.offer(&machine, &[(0x12000, 16, 0), (0x12010, 1, WRITE)]);
    disk.notify(&mut machine);
    machine.place(&Stimulus::DiskDone { disk: 0, id: 0, ok: true, data: vec![] });
    assert_eq!(machine.platform.pending_interrupt(), Some(0x51));
    machine.enable_msix(3, BLK_BAR, 2, 0x60);
    assert_eq!(machine.interrupt(), Some(0x51));
    assert_eq!(machine.platform.pending_interrupt(), None, "the wire is released");
}

#[test]
fn a_reset_releases_the_wire() {
    let (mut machine, mut rx, _) = with_intx();
    rx.offer(&machine, &[(0x10000, 1600, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(machine.platform.accept_interrupt(), Some(0x41));
    machine.write(NET_BAR + 0x14, &[0]);
    machine.write(APIC + 0xb0, &[0; 4]);
    assert_eq!(machine.platform.pending_interrupt(), None);
}

#[test]
fn the_power_button_is_a_system_control_interrupt() {
    let mut machine = Machine::new();
    machine.enable_apic();
    machine.ioapic_write(0x10 + 9 * 2, LEVEL | 0x39);
    machine.platform.pio_write(0x602, &0x100u16.to_le_bytes(), &machine.mem);
    assert_eq!(machine.platform.pending_interrupt(), None);
    machine.place(&Stimulus::Button);
    assert_eq!(machine.platform.accept_interrupt(), Some(0x39));
    machine.platform.pio_write(0x600, &0x100u16.to_le_bytes(), &machine.mem);
    machine.write(APIC + 0xb0, &[0; 4]);
    assert_eq!(machine.platform.pending_interrupt(), None);
    machine.platform.pio_write(0x604, &0x2001u16.to_le_bytes(), &machine.mem);
    assert_eq!(machine.effects(), [Effect::PowerOff]);
}

#[test]
fn the_pm_timer_shows_virtual_time_and_has_deadlines() {
    let mut machine = Machine::new();
    machine.place(&Stimulus::Time(1_000_000_000));
    let mut data = [0; 4];
    machine.platform.pio_read(0x608, &mut data);
    assert_eq!(u32::from_le_bytes(data), 3_579_545);
    assert_eq!(machine.platform.next_deadline(), None);
    machine.platform.pio_write(0x602, &[1], &machine.mem);
    let deadline = machine.platform.next_deadline().unwrap();
    machine.place(&Stimulus::Time(deadline));
    machine.platform.pio_read(0x600, &mut data);
    assert_eq!(data, [1, 0, 1, 0]);
}

#[test]
fn panics_are_reported() {
    let mut machine = Machine::new();
    let mut data = [0];
    machine.platform.pio_read(0x505, &mut data);
    assert_eq!(data, [1]);
    machine.platform.pio_write(0x505, &[2], &machine.mem);
    assert_eq!(machine.effects(), []);
    machine.platform.pio_write(0x505, &[1], &machine.mem);
    assert_eq!(machine.effects(), [Effect::GuestPanicked]);
}

/// Initialises the 8259A pair: vectors 0x20 to 0x2f, `unmasked` inputs of the slave.
fn set_up_pic(machine: &mut Machine, unmasked: u8) {
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 2),
        (0xa1, 1),
        (0x21, 0xfb),
        (0xa1, !unmasked),
    ] {
        machine.platform.pio_write(port, &[value], &machine.mem);
    }
}

/// Non-specific EOI to both.
fn end_pic_interrupt(machine: &mut Machine) {
    machine.platform.pio_write(0xa0, &[0x20], &machine.mem);
    machine.platform.pio_write(0x20, &[0x20], &machine.mem);
}

#[test]
fn guests_without_an_apic_are_interrupted_by_the_8259a_pair() {
    let mut machine = Machine::new();
    set_up_pic(&mut machine, 1 << 2);
    let (mut rx, _) = machine.up_net();
    rx.offer(&machine, &[(0x10000, 1600, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(machine.platform.pending_interrupt(), Some(0x2a), "ISA interrupt 10");
    assert_eq!(machine.platform.pending_interrupt(), Some(0x2a), "asking does not acknowledge");
    assert_eq!(machine.platform.accept_interrupt(), Some(0x2a));
    assert_eq!(machine.platform.pending_interrupt(), None);
    end_pic_interrupt(&mut machine);
    assert_eq!(machine.platform.accept_interrupt(), Some(0x2a), "the level is still there");
    assert_eq!(machine.read::<1>(NET_BAR + 0x1000), [1]);
    end_pic_interrupt(&mut machine);
    assert_eq!(machine.platform.accept_interrupt(), None);
}

#[test]
fn the_8259a_pair_waits_behind_the_local_apic_and_its_mask() {
    let mut machine = Machine::new();
    set_up_pic(&mut machine, 1 << 1);
    machine.platform.pio_write(0x602, &0x100u16.to_le_bytes(), &machine.mem);
    machine.place(&Stimulus::Button);
    machine.enable_apic();
    machine.write(APIC + 0x300, &0x0004_0041u32.to_le_bytes());
    assert_eq!(machine.platform.pending_interrupt(), Some(0x41));
    assert_eq!(machine.interrupt(), Some(0x41));
    assert_eq!(machine.platform.pending_interrupt(), Some(0x29));
    machine.write(APIC + 0x350, &0x0001_0700u32.to_le_bytes());
    assert_eq!(machine.platform.pending_interrupt(), None, "LINT0 is masked");
    machine.ioapic_write(0x10, 0x700);
    assert_eq!(machine.platform.accept_interrupt(), Some(0x29), "through pin 0 of the I/O APIC");
}

#[test]
fn wide_accesses_reach_a_port_each() {
    let mut machine = Machine::new();
    set_up_pic(&mut machine, 0xff);
    let mut data = [0; 2];
    machine.platform.pio_read(0xa0, &mut data);
    assert_eq!(data, [0, 0], "request register and mask");
    machine.platform.pio_read(0x4d0, &mut data);
    assert_eq!(data, [0, 0x0e], "9 to 11 are level-triggered");
    machine.platform.pio_read(0xffff, &mut data);
    assert_eq!(data, [0xff; 2]);
    machine.platform.pio_write(0xffff, &[1, 2], &machine.mem);
}

#[test]
fn the_interval_timer_interrupts_both_controllers() {
    let mut machine = Machine::new();
    set_up_pic(&mut machine, 0);
    machine.platform.pio_write(0x21, &[0xfe], &machine.mem);
    machine.enable_apic();
    machine.ioapic_write(0x10 + 2 * 2, 0x31);
    // Counter 0, both bytes, rate generator: 1,193 pulses are 999,847.5 ns.
    machine.platform.pio_write(0x43, &[0x34], &machine.mem);
    machine.platform.pio_write(0x40, &[0xa9], &machine.mem);
    machine.platform.pio_write(0x40, &[0x04], &machine.mem);
    let first = machine.platform.next_deadline().unwrap();
    assert!((999_000..1_002_000).contains(&first), "{first} ns");
    machine.place(&Stimulus::Time(first - 1));
    assert_eq!(machine.platform.pending_interrupt(), None);
    machine.place(&Stimulus::Time(first));
    assert_eq!(machine.interrupt(), Some(0x31), "pin 2");
    assert_eq!(machine.platform.accept_interrupt(), Some(0x20), "ISA interrupt 0, after the local APIC's");
    end_pic_interrupt(&mut machine);
    let second = machine.platform.next_deadline().unwrap();
    assert!((999_846..=999_849).contains(&(second - first)), "{} ns", second - first);
    machine.place(&Stimulus::Time(second + 50_000_000));
    assert_eq!(machine.interrupt(), Some(0x31), "fifty periods late");
    assert_eq!(machine.platform.accept_interrupt(), Some(0x20));
    end_pic_interrupt(&mut machine);
    assert_eq!(machine.platform.pending_interrupt(), None, "many edges are one interrupt");
}
