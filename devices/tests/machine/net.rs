//! The network card.

use devices::Effect;

use crate::driver::{MAC, Machine, NET_BAR, WRITE};

const BUFFER: u64 = 0x10000;

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

#[test]
fn configuration_has_the_address() {
    let mut machine = Machine::new();
    assert_eq!(machine.read::<6>(NET_BAR + 0x1800), MAC);
}

#[test]
fn transmit_strips_the_header() {
    let (mut machine, _, mut tx, _) = Machine::up();
    let frame = frame(60);
    machine.poke(BUFFER + 12, &frame);
    // Header and frame split at an odd place.
    let head = tx.offer(&machine, &[(BUFFER, 5, 0), (BUFFER + 5, 40, 0), (BUFFER + 45, 27, 0)]);
    tx.notify(&mut machine);
    assert_eq!(machine.effects(), [Effect::Frame { nic: 0, frame }]);
    assert_eq!(tx.used(&machine), [(head, 0)]);
    assert_eq!(machine.interrupt(), Some(0x42));
}

#[test]
fn transmit_drops_unlawful_lengths() {
    let (mut machine, _, mut tx, _) = Machine::up();
    for len in [1, 12 + 13, 12 + 1515, 0x20000] {
        tx.offer(&machine, &[(BUFFER, len, 0)]);
    }
    for len in [12 + 14, 12 + 1514] {
        tx.offer(&machine, &[(BUFFER, len, 0)]);
    }
    tx.notify(&mut machine);
    let lengths: Vec<usize> = machine
        .effects()
        .iter()
        .map(|effect| match effect {
            Effect::Frame { frame, .. } => frame.len(),
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(lengths, [14, 1514]);
    assert_eq!(tx.used(&machine).len(), 6);
    assert_eq!(machine.platform.counters().tx_dropped, 4);
}

#[test]
fn receive_fills_a_buffer() {
    let (mut machine, mut rx, _, _) = Machine::up();
    let head = rx.offer(&machine, &[(BUFFER, 10, WRITE), (BUFFER + 0x1000, 1600, WRITE)]);
    rx.notify(&mut machine);
    assert_eq!(machine.interrupt(), None);
    let frame = frame(100);
    machine.frame(&frame);
    assert_eq!(rx.used(&machine), [(head, 112)]);
    assert_eq!(machine.bytes(BUFFER, 10), [0; 10]);
    assert_eq!(machine.bytes(BUFFER + 0x1000, 2), [1, 0], "num_buffers is 1");
    assert_eq!(machine.bytes(BUFFER + 0x1002, 100), frame);
    assert_eq!(machine.interrupt(), Some(0x41));
}

#[test]
fn frames_wait_for_buffers_up_to_a_limit() {
    let (mut machine, mut rx, _, _) = Machine::up();
    for i in 0..70 {
        machine.frame(&[i; 60]);
    }
    assert_eq!(machine.platform.counters().rx_dropped, 6);
    for _ in 0..5 {
        for _ in 0..16 {
            rx.offer(&machine, &[(BUFFER, 1600, WRITE)]);
        }
        rx.notify(&mut machine);
        // All buffers are one: it holds the frame that was delivered last.
    }
    assert_eq!(rx.used(&machine).len(), 64);
    assert_eq!(machine.bytes(BUFFER + 12, 60), [63; 60]);
    machine.frame(&[0xee; 60]);
    assert_eq!(machine.bytes(BUFFER + 12, 60), [0xee; 60]);
}

#[test]
fn a_buffer_too_small_goes_back_empty() {
    let (mut machine, mut rx, _, _) = Machine::up();
    let head = rx.offer(&machine, &[(BUFFER, 40, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(rx.used(&machine), [(head, 0)]);
    assert_eq!(machine.bytes(BUFFER, 40), [0; 40]);
    assert_eq!(machine.platform.counters().rx_dropped, 1);
}

#[test]
fn frames_before_the_driver_and_of_unlawful_length_are_dropped() {
    let mut machine = Machine::new();
    machine.frame(&[7; 60]);
    machine.up_net();
    machine.frame(&[7; 13]);
    machine.frame(&[7; 1515]);
    assert_eq!(machine.platform.counters().rx_dropped, 3);
}

#[test]
fn the_driver_can_suppress_interrupts() {
    let (mut machine, mut rx, _, _) = Machine::up();
    rx.suppress_interrupts(&machine, true);
    rx.offer(&machine, &[(BUFFER, 1600, WRITE)]);
    rx.offer(&machine, &[(BUFFER, 1600, WRITE)]);
    machine.frame(&[7; 60]);
    assert_eq!(machine.interrupt(), None);
    rx.suppress_interrupts(&machine, false);
    machine.frame(&[7; 60]);
    assert_eq!(machine.interrupt(), Some(0x41));
}
