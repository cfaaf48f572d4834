//! Tests of the configuration mechanism.

use super::*;

fn address(value: u32) -> ConfigAddress {
    let mut address = ConfigAddress::default();
    address.write(value);
    address
}

#[test]
fn address_names_slot_and_register() {
    let at = address(0x8000_0000 | (3 << 11) | 0x13);
    assert_eq!(at.read(), 0x8000_1810, "the low bits are hard-wired to zero");
    assert_eq!(at.target(0xcfc, 4), Some(Target { slot: 3, offset: 0x10 }));
    assert_eq!(at.target(0xcfe, 2), Some(Target { slot: 3, offset: 0x12 }));
    assert_eq!(at.target(0xcff, 1), Some(Target { slot: 3, offset: 0x13 }));
}

#[test]
fn other_accesses_mean_nothing() {
    let at = address(0x8000_0000);
    for (port, len) in [(0xcfd, 4), (0xcff, 2), (0xcfb, 1), (0xd00, 1), (0xcfc, 3), (0xcfc, 0), (0xcfc, 8)] {
        assert_eq!(at.target(port, len), None, "port {port:#x}, {len} bytes");
    }
    assert_eq!(address(0).target(0xcfc, 4), None, "not enabled");
    assert_eq!(address(0x8001_0000).target(0xcfc, 4), None, "bus 1");
    assert_eq!(address(0x8000_0100).target(0xcfc, 4), None, "function 1");
}

#[test]
fn bar_sizing_and_moving() {
    let mut header = ConfigHeader::new(2);
    assert_eq!(header.decode(0xfeb0_8000, 4), Some(0));
    assert_eq!(header.decode(0xfeb0_bffc, 4), Some(0x3ffc));
    assert_eq!(header.decode(0xfeb0_bffd, 4), None, "across the end");
    let read_bar = |header: &ConfigHeader| {
        let mut image = [0; 256];
        header.draw(&mut image, false);
        u32::from_le_bytes([image[0x10], image[0x11], image[0x12], image[0x13]])
    };
    (0x10..0x14).for_each(|at| header.write(at, 0xff));
    assert_eq!(read_bar(&header), 0xffff_c000);
    (0x10..).zip(0xfd00_1234u32.to_le_bytes()).for_each(|(at, byte)| header.write(at, byte));
    assert_eq!(read_bar(&header), 0xfd00_0000);
    assert_eq!(header.decode(0xfd00_0010, 4), Some(0x10));
    assert_eq!(header.decode(0xfeb0_8000, 4), None);
    header.write(0x04, 0);
    assert_eq!(header.decode(0xfd00_0010, 4), None, "memory space is off");
}

#[test]
fn only_writable_bits_are_written() {
    let mut header = ConfigHeader::new(2);
    let mut before = [0; 256];
    header.draw(&mut before, false);
    for at in 0..256 {
        header.write(at, 0xff);
    }
    let mut after = [0; 256];
    header.draw(&mut after, false);
    let changed: Vec<usize> = (0..256).filter(|at| before[*at] != after[*at]).collect();
    assert_eq!(changed, [0x05, 0x0c, 0x11, 0x12, 0x13, 0x3c]);
    assert_eq!(after[0x04..0x06], [0x06, 0x04]);
}

#[test]
fn interrupt_registers() {
    let mut header = ConfigHeader::new(3);
    let mut image = [0; 256];
    header.draw(&mut image, true);
    assert_eq!((image[0x06], image[0x3c], image[0x3d]), (0x18, 11, 1));
    header.draw(&mut image, false);
    assert_eq!(image[0x06], 0x10);
    assert!(header.intx_enabled());
    header.write(0x05, 0x04);
    assert!(!header.intx_enabled());
    assert_eq!((1..9).map(isa_line).collect::<Vec<u8>>(), [10, 10, 11, 11, 10, 10, 11, 11]);
}
