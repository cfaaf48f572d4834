//! Guests that mean harm: nothing panics, hangs or grows without bound, and the machine still works after.

use devices::Effect;
use proptest::prelude::*;

use crate::driver::{Machine, RNG_BAR, WRITE};
use crate::persist::op;

/// Rings full of noise: tables, available rings and used rings alike.
fn noise(machine: &Machine, bytes: &[u8]) {
    for ring in [0x1000, 0x4000, 0x7000] {
        machine.poke(ring, &bytes[..0x100]);
        machine.poke(ring + 0x1000, &bytes[0x100..0x130]);
        machine.poke(ring + 0x2000, &bytes[0x130..]);
    }
}

/// A driver that starts afresh is served as if nothing had happened.
fn assert_recovers(machine: &mut Machine) {
    for slot in [2, 3, 4] {
        machine.pci_write(slot, 0x04, 6);
        machine.pci_write(slot, 0x10, 0xfeb0_0000 + slot * 0x4000);
    }
    let (mut rx, mut tx) = machine.up_net();
    let mut disk = machine.up_blk();
    machine.effects();
    rx.offer(machine, &[(0x10000, 1600, WRITE)]);
    machine.frame(&[9; 64]);
    assert_eq!(rx.used(machine), [(0, 76)]);
    tx.offer(machine, &[(0x10000, 76, 0)]);
    tx.notify(machine);
    assert_eq!(machine.effects(), [Effect::Frame { nic: 0, frame: vec![9; 64] }]);
    machine.poke(0x12000, &[0; 16]);
    machine.poke(0x12000, &[1]);
    disk.offer(machine, &[(0x12000, 16, 0), (0x10000, 512, 0), (0x12010, 1, WRITE)]);
    disk.notify(machine);
    assert!(matches!(machine.effects()[..], [Effect::DiskWrite { sector: 0, .. }]));
    assert_eq!(disk.used(machine), [(0, 1)]);
}

/// All that the effects carry, in bytes.
fn weight(effects: &[Effect]) -> usize {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Frame { frame: data, .. } | Effect::DiskWrite { data, .. } | Effect::Console(data) => {
                data.len()
            }
            _ => 0,
        })
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn noise_in_the_rings(
        bytes in prop::collection::vec(any::<u8>(), 0x200),
        index in 0u16..20,
        frames in 0usize..4,
    ) {
        let (mut machine, rx, tx, disk) = Machine::up();
        noise(&machine, &bytes);
        for ring in [&rx, &tx, &disk] {
            ring.set_index(&machine, index);
            ring.notify(&mut machine);
        }
        for _ in 0..frames {
            machine.frame(&[1; 100]);
        }
        // Sixteen descriptors are at most eight disk requests of 1 MiB and sixteen frames.
        prop_assert!(weight(&machine.effects()) <= (8 << 20) + 16 * 1514);
        prop_assert!(machine.platform.outstanding_disk().len() <= 8);
        assert_recovers(&mut machine);
    }

    #[test]
    fn any_accesses_in_any_order(ops in prop::collection::vec(op(), 0..200)) {
        let (mut machine, ..) = Machine::up();
        machine.up_queue(RNG_BAR, 0xa000);
        for op in &ops {
            op.run(&mut machine);
        }
        prop_assert!(machine.platform.outstanding_disk().len() <= 256);
        prop_assert!(machine.platform.outstanding_entropy().len() <= 256);
        prop_assert!(machine.platform.next_deadline().is_none_or(|deadline| deadline > machine.platform.now()));
        prop_assert!(machine.platform.save().len() < 1 << 18);
        assert_recovers(&mut machine);
    }
}
