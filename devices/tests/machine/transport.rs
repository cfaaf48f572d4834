//! PCI functions and the virtio transport.

use devices::{Effect, PlatformConfig, Stimulus};

use crate::driver::{BLK_BAR, Machine, NET_BAR, Ring, WRITE};

const NEEDS_RESET: u8 = 0x40;

/// The virtio capabilities of a function: type, offset in the BAR, length.
fn capabilities(machine: &mut Machine, slot: u32) -> Vec<(u32, u32, u32)> {
    let mut found = Vec::new();
    let mut at = machine.pci_read(slot, 0x34) & 0xff;
    while at != 0 {
        let first = machine.pci_read(slot, at);
        if first & 0xff == 0x09 {
            found.push((first >> 24, machine.pci_read(slot, at + 8), machine.pci_read(slot, at + 12)));
        }
        at = (first >> 8) & 0xff;
    }
    found
}

#[test]
fn identities() {
    let mut machine = Machine::new();
    for (slot, id, class) in [
        (0, 0x1237_8086, 0x0600_0000),
        (2, 0x1041_1af4, 0x0200_0001),
        (3, 0x1042_1af4, 0x0180_0001),
        (4, 0x1044_1af4, 0x00ff_0001),
    ] {
        assert_eq!(machine.pci_read(slot, 0), id);
        assert_eq!(machine.pci_read(slot, 8), class);
    }
    assert_eq!(machine.pci_read(1, 0), u32::MAX);
    assert_eq!(machine.pci_read(2, 4), 0x0010_0006, "capability list; bus master and memory space on");
    assert_eq!(machine.pci_read(2, 0x10), 0xfeb0_8000);
    assert_eq!(machine.pci_read(3, 0x10), 0xfeb0_c000);
    assert_eq!(machine.pci_read(4, 0x10), 0xfeb1_0000);
}

#[test]
fn further_cards_and_disks_have_slots_of_their_own() {
    let config = PlatformConfig { macs: vec![[2; 6]; 4], disks: vec![8; 8], ..PlatformConfig::default() };
    let mut machine = Machine::of(&config);
    for (slots, id) in [(&[2, 12, 13, 14][..], 0x1041_1af4), (&[3, 5, 6, 7, 8, 9, 10, 11], 0x1042_1af4)] {
        for slot in slots {
            assert_eq!(machine.pci_read(*slot, 0), id, "slot {slot}");
            assert_eq!(machine.pci_read(*slot, 0x10), 0xfeb0_0000 + slot * 0x4000);
        }
    }
    assert_eq!(machine.pci_read(15, 0), u32::MAX);
    // The third disk is in slot 6.
    let mut ring = machine.up_queue(0xfeb1_8000, 0x7000);
    machine.poke(0x12000, &4u32.to_le_bytes());
    ring.offer(&machine, &[(0x12000, 16, 0), (0x12010, 1, WRITE)]);
    ring.notify(&mut machine);
    assert_eq!(machine.effects(), [Effect::DiskFlush { disk: 2, id: 0 }]);
    machine.place(&Stimulus::DiskDone { disk: 2, id: 0, ok: true, data: vec![] });
    assert_eq!(ring.used(&machine), [(0, 1)]);
}

#[test]
fn capability_list() {
    let mut machine = Machine::new();
    for slot in [2, 3] {
        let expected = [(1, 0, 0x40), (3, 0x1000, 1), (4, 0x1800, 0x100), (2, 0x2000, 0x1000), (5, 0, 0)];
        assert_eq!(capabilities(&mut machine, slot), expected);
        assert_eq!(machine.pci_read(slot, 0x80), 4, "notify_off_multiplier");
        let vectors = if slot == 2 { 3 } else { 2 };
        assert_eq!(machine.pci_read(slot, 0x98), ((vectors - 1) << 16) | 0x11);
        assert_eq!(machine.pci_read(slot, 0x9c), 0x3000);
        assert_eq!(machine.pci_read(slot, 0xa0), 0x3800);
    }
}

#[test]
fn a_moved_bar_is_decoded_at_its_new_place() {
    let mut machine = Machine::new();
    machine.pci_write(2, 0x10, 0xffff_ffff);
    assert_eq!(machine.pci_read(2, 0x10), 0xffff_c000);
    machine.pci_write(2, 0x10, 0xe000_0000);
    assert_eq!(machine.read16(0xe000_0012), 2, "num_queues");
    assert_eq!(machine.read16(NET_BAR + 0x12), 0xffff);
    machine.pci_write(2, 0x04, 0);
    assert_eq!(machine.read16(0xe000_0012), 0xffff);
}

#[test]
fn the_configuration_window_reaches_the_bar() {
    let mut machine = Machine::new();
    // Window on num_queues: offset 0x12, two bytes.
    machine.pci_write(3, 0x8c, 0x12);
    machine.pci_write(3, 0x90, 2);
    machine.pci_read(3, 0x94);
    let mut data = [0; 2];
    machine.platform.pio_read(0xcfc, &mut data);
    assert_eq!(u16::from_le_bytes(data), 1);
    // Window on device_status: a write goes through, one beyond the BAR does not.
    machine.pci_write(3, 0x8c, 0x14);
    machine.pci_write(3, 0x90, 1);
    machine.pci_read(3, 0x94);
    machine.platform.pio_write(0xcfc, &[1], &machine.mem);
    assert_eq!(machine.status(BLK_BAR), 1);
    machine.pci_write(3, 0x8c, u32::MAX);
    machine.pci_read(3, 0x94);
    machine.platform.pio_write(0xcfc, &[0], &machine.mem);
    assert_eq!(machine.status(BLK_BAR), 1);
}

#[test]
fn features_are_offered_and_checked() {
    let mut machine = Machine::new();
    assert_eq!(machine.read32(BLK_BAR + 4), (1 << 9) | (1 << 2) | (1 << 1));
    machine.write(BLK_BAR, &1u32.to_le_bytes());
    assert_eq!(machine.read32(BLK_BAR + 4), 1);
    machine.write(BLK_BAR, &2u32.to_le_bytes());
    assert_eq!(machine.read32(BLK_BAR + 4), 0);
    // Without VERSION_1, and with a feature that was not offered, FEATURES_OK does not stay.
    for (low, high) in [(0, 0), (1 << 3, 1)] {
        machine.write(BLK_BAR + 0x14, &[0]);
        machine.write(BLK_BAR + 0x0c, &u32::to_le_bytes(low));
        machine.write(BLK_BAR + 0x08, &1u32.to_le_bytes());
        machine.write(BLK_BAR + 0x0c, &u32::to_le_bytes(high));
        machine.write(BLK_BAR + 0x14, &[0x0b]);
        assert_eq!(machine.status(BLK_BAR), 3);
        machine.write(BLK_BAR + 0x14, &[0x0f]);
        assert_eq!(machine.status(BLK_BAR), 3, "nor does DRIVER_OK");
    }
    machine.negotiate(BLK_BAR, 1 << 9);
    machine.write(BLK_BAR + 0x08, &0u32.to_le_bytes());
    machine.write(BLK_BAR + 0x0c, &0u32.to_le_bytes());
    assert_eq!(machine.read32(BLK_BAR + 0x0c), 1 << 9, "the choice is final");
}

#[test]
fn queue_registers() {
    let mut machine = Machine::new();
    machine.negotiate(NET_BAR, 0);
    machine.write(NET_BAR + 0x16, &1u16.to_le_bytes());
    assert_eq!(machine.read16(NET_BAR + 0x18), 256);
    assert_eq!(machine.read16(NET_BAR + 0x1e), 1, "notify offset");
    for refused in [0u16, 3, 512] {
        machine.write(NET_BAR + 0x18, &refused.to_le_bytes());
        assert_eq!(machine.read16(NET_BAR + 0x18), 256);
    }
    for (vector, kept) in [(2u16, 2), (3, 0xffff)] {
        machine.write(NET_BAR + 0x1a, &vector.to_le_bytes());
        assert_eq!(machine.read16(NET_BAR + 0x1a), kept);
        machine.write(NET_BAR + 0x10, &vector.to_le_bytes());
        assert_eq!(machine.read16(NET_BAR + 0x10), kept);
    }
    machine.write(NET_BAR + 0x24, &1u32.to_le_bytes());
    machine.write(NET_BAR + 0x20, &0x1000u32.to_le_bytes());
    assert_eq!(machine.read::<8>(NET_BAR + 0x20), 0x1_0000_1000u64.to_le_bytes());
    machine.write(NET_BAR + 0x20, &0x1001u32.to_le_bytes());
    assert_eq!(machine.read32(NET_BAR + 0x20), 0x1000, "a misaligned address is refused");
    machine.write(NET_BAR + 0x1c, &1u16.to_le_bytes());
    machine.write(NET_BAR + 0x20, &0x2000u32.to_le_bytes());
    machine.write(NET_BAR + 0x18, &8u16.to_le_bytes());
    machine.write(NET_BAR + 0x1c, &0u16.to_le_bytes());
    assert_eq!(machine.read32(NET_BAR + 0x20), 0x1000, "an enabled queue stays as it is");
    assert_eq!(machine.read16(NET_BAR + 0x18), 256);
    assert_eq!(machine.read16(NET_BAR + 0x1c), 1);
    machine.write(NET_BAR + 0x16, &2u16.to_le_bytes());
    assert_eq!(machine.read16(NET_BAR + 0x18), 0, "no third queue");
}

#[test]
fn writing_zero_resets() {
    let (mut machine, _, _, _) = Machine::up();
    machine.write(NET_BAR + 0x14, &[0]);
    assert_eq!(machine.status(NET_BAR), 0);
    machine.write(NET_BAR + 0x16, &0u16.to_le_bytes());
    assert_eq!(machine.read16(NET_BAR + 0x1c), 0);
    assert_eq!(machine.read::<8>(NET_BAR + 0x20), [0; 8]);
    assert_eq!(machine.read16(NET_BAR + 0x1a), 0xffff);
}

#[test]
fn a_reset_forgets_pending_vectors() {
    let (mut machine, mut rx, _, _) = Machine::up();
    machine.write(NET_BAR + 0x301c, &1u32.to_le_bytes());
    rx.offer(&machine, &[(0x10000, 1600, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(machine.read::<1>(NET_BAR + 0x3800), [2], "vector 1 is masked");
    machine.write(NET_BAR + 0x14, &[0]);
    assert_eq!(machine.read::<1>(NET_BAR + 0x3800), [0]);
    machine.write(NET_BAR + 0x301c, &0u32.to_le_bytes());
    assert_eq!(machine.interrupt(), None);
}

#[test]
fn without_msix_the_isr_tells() {
    let mut machine = Machine::new();
    machine.enable_apic();
    let (mut rx, _) = machine.up_net();
    rx.offer(&machine, &[(0x10000, 1600, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(machine.interrupt(), None);
    assert_eq!(machine.read::<1>(NET_BAR + 0x1000), [1]);
    assert_eq!(machine.read::<1>(NET_BAR + 0x1000), [0], "reading clears");
}

#[test]
fn a_broken_ring_demands_a_reset_and_is_left_alone() {
    let (mut machine, _, mut tx, _) = Machine::up();
    tx.offer(&machine, &[(0x10000, 60, 0)]);
    tx.set_index(&machine, Ring::SIZE + 1);
    tx.notify(&mut machine);
    assert_eq!(machine.status(NET_BAR), 15 | NEEDS_RESET);
    assert_eq!(machine.interrupt(), Some(0x40), "the configuration interrupt");
    assert_eq!(machine.read::<1>(NET_BAR + 0x1000), [2]);
    tx.set_index(&machine, 1);
    tx.notify(&mut machine);
    machine.write(NET_BAR + 0x14, &[15]);
    assert_eq!(machine.status(NET_BAR), 15 | NEEDS_RESET, "only a reset helps");
    assert_eq!((machine.effects(), tx.used(&machine)), (vec![], vec![]));
    assert_eq!(machine.platform.counters().broken_rings, 1);
    let (_, mut tx) = machine.up_net();
    tx.offer(&machine, &[(0x10000, 72, 0)]);
    tx.notify(&mut machine);
    assert_eq!(machine.effects().len(), 1);
}

#[test]
fn a_queue_outside_of_memory_breaks_on_use() {
    let mut machine = Machine::new();
    machine.negotiate(BLK_BAR, 0);
    for field in [0x20, 0x28, 0x30] {
        machine.write(BLK_BAR + field, &0xffff_ffff_ffff_f000u64.to_le_bytes());
    }
    machine.write(BLK_BAR + 0x1c, &1u16.to_le_bytes());
    machine.write(BLK_BAR + 0x14, &[15]);
    machine.write(BLK_BAR + 0x2000, &[0, 0]);
    assert_eq!(machine.status(BLK_BAR), 15 | NEEDS_RESET);
}
