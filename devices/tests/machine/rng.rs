//! The entropy device.

use devices::{Effect, Stimulus};

use crate::driver::{Machine, RNG_BAR, Ring, WRITE};

fn up() -> (Machine, Ring) {
    let mut machine = Machine::new();
    machine.enable_apic();
    machine.enable_msix(4, RNG_BAR, 2, 0x70);
    let ring = machine.up_queue(RNG_BAR, 0xa000);
    (machine, ring)
}

#[test]
fn requests_are_answered_in_their_order() {
    let (mut machine, mut ring) = up();
    ring.offer(&machine, &[(0x10000, 64, WRITE)]);
    ring.offer(&machine, &[(0x11000, 10, WRITE), (0x12000, 1000, WRITE), (0x13000, 1000, WRITE)]);
    ring.notify(&mut machine);
    let effects = [Effect::Entropy { len: 64 }, Effect::Entropy { len: 256 }];
    assert_eq!(machine.effects(), effects);
    assert_eq!(machine.platform.outstanding_entropy(), effects);
    assert_eq!(machine.twin().platform.outstanding_entropy(), effects);
    machine.place(&Stimulus::Entropy(vec![1; 64]));
    assert_eq!(ring.used(&machine), [(0, 64)]);
    assert_eq!(machine.interrupt(), Some(0x71));
    assert_eq!(machine.bytes(0x10000, 65), [vec![1; 64], vec![0]].concat());
    machine.place(&Stimulus::Entropy((0..=255).collect()));
    assert_eq!(ring.used(&machine), [(1, 256)]);
    assert_eq!(machine.bytes(0x11000, 10), (0..10).collect::<Vec<u8>>());
    assert_eq!(machine.bytes(0x12000, 247), [(10..=255).collect::<Vec<u8>>(), vec![0]].concat());
    assert_eq!(machine.platform.outstanding_entropy(), []);
}

#[test]
fn shorter_and_longer_answers() {
    let (mut machine, mut ring) = up();
    for _ in 0..2 {
        ring.offer(&machine, &[(0x10000, 8, WRITE)]);
    }
    ring.notify(&mut machine);
    machine.place(&Stimulus::Entropy(vec![1; 3]));
    assert_eq!((ring.used(&machine), machine.bytes(0x10000, 4)), (vec![(0, 3)], vec![1, 1, 1, 0]));
    machine.place(&Stimulus::Entropy(vec![2; 20]));
    assert_eq!((ring.used(&machine), machine.bytes(0x10007, 2)), (vec![(1, 8)], vec![2, 0]));
}

#[test]
fn answers_that_nobody_waits_for_are_dropped() {
    let (mut machine, mut ring) = up();
    ring.offer(&machine, &[(0x10000, 8, WRITE)]);
    ring.notify(&mut machine);
    let mut ring = machine.up_queue(RNG_BAR, 0xa000);
    let before = machine.platform.save();
    machine.place(&Stimulus::Entropy(vec![1; 8]));
    assert_eq!((ring.used(&machine), machine.bytes(0x10000, 1)), (vec![], vec![0]));
    assert_eq!(machine.platform.save(), before);
}

#[test]
fn a_chain_without_room_goes_back_at_once() {
    let (mut machine, mut ring) = up();
    ring.offer(&machine, &[(0x10000, 8, 0)]);
    ring.notify(&mut machine);
    assert_eq!((machine.effects(), ring.used(&machine)), (vec![], vec![(0, 0)]));
}

#[test]
fn a_chain_offered_twice_breaks_the_ring() {
    let (mut machine, mut ring) = up();
    ring.offer(&machine, &[(0x10000, 8, WRITE)]);
    ring.notify(&mut machine);
    machine.poke(0xb006, &0u16.to_le_bytes());
    ring.set_index(&machine, 2);
    ring.notify(&mut machine);
    assert_eq!(machine.status(RNG_BAR) & 0x40, 0x40);
    machine.place(&Stimulus::Entropy(vec![1; 8]));
    assert_eq!(ring.used(&machine), [], "the ring is left alone");
    assert_eq!(machine.platform.outstanding_entropy(), []);
    assert_eq!(machine.platform.counters().broken_rings, 1);
}
