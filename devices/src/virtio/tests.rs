//! Tests of chains and MSI-X below the device interface.

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::{Chain, Segment, Visit, gather, scatter};
use super::msix::{Msi, NO_VECTOR};
use super::*;

const TABLE_AT: u64 = 0x1000;
const AVAIL_AT: u64 = 0x2000;
const USED_AT: u64 = 0x3000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A ring of four descriptors; `heads` are on offer.
fn ring(descriptors: &[(u64, u32, u16, u16)], heads: &[u16]) -> (Queue, GuestMemoryMmap) {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    for (i, (addr, len, flags, next)) in (0..).zip(descriptors) {
        let at = TABLE_AT + i * 16;
        mem.write_obj(*addr, GuestAddress(at)).unwrap();
        mem.write_obj(*len, GuestAddress(at + 8)).unwrap();
        mem.write_obj(*flags, GuestAddress(at + 12)).unwrap();
        mem.write_obj(*next, GuestAddress(at + 14)).unwrap();
    }
    for (i, head) in (0..).zip(heads) {
        mem.write_obj(*head, GuestAddress(AVAIL_AT + 4 + (i % 4) * 2)).unwrap();
    }
    mem.write_obj(heads.len() as u16, GuestAddress(AVAIL_AT + 2)).unwrap();
    let mut queue = Queue::new(256).unwrap();
    queue.try_set_size(4).unwrap();
    queue.try_set_desc_table_address(GuestAddress(TABLE_AT)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAIL_AT)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED_AT)).unwrap();
    queue.set_ready(true);
    (queue, mem)
}

fn first(descriptors: &[(u64, u32, u16, u16)], heads: &[u16]) -> Result<Option<Chain>, RingError> {
    let (mut queue, mem) = ring(descriptors, heads);
    Visit::new(&mut queue, &mem, 0)?.next_chain()
}

#[test]
fn a_lawful_chain() {
    let chain = first(&[(0x4000, 16, NEXT, 2), (0, 0, 0, 0), (0x5000, 1, WRITE, 0)], &[0]);
    let expected = Chain {
        head: 0,
        readable: vec![Segment { addr: 0x4000, len: 16 }],
        writable: vec![Segment { addr: 0x5000, len: 1 }],
    };
    assert_eq!(chain, Ok(Some(expected)));
    assert_eq!(first(&[], &[]), Ok(None));
}

#[test]
fn broken_chains_are_told_apart() {
    let good = (0x4000, 16, 0, 0);
    for (descriptors, heads, error) in [
        (&[(0x4000, 16, NEXT, 0)][..], &[0][..], RingError::TooManyDescriptors),
        (&[(0x4000, 16, NEXT, 4)], &[0], RingError::DescriptorIndex),
        (&[good], &[4], RingError::DescriptorIndex),
        (&[good], &[0xffff], RingError::DescriptorIndex),
        (&[(0x4000, 16, INDIRECT, 0)], &[0], RingError::Indirect),
        (&[(0x4000, 16, WRITE | NEXT, 1), good], &[0], RingError::Order),
        (&[(0x4000, 0, 0, 0)], &[0], RingError::Buffer),
        (&[(0xffff, 2, 0, 0)], &[0], RingError::Buffer),
        (&[(0x4000, u32::MAX, 0, 0)], &[0], RingError::Buffer),
        (&[(u64::MAX, 2, WRITE, 0)], &[0], RingError::Buffer),
        (&[good], &[0, 0, 0, 0, 0], RingError::IndexJump),
    ] {
        assert_eq!(first(descriptors, heads), Err(error));
    }
}

#[test]
fn chains_that_share_descriptors_exhaust_the_visit() {
    let (mut queue, mem) = ring(&[(0x4000, 16, NEXT, 1), (0x4000, 16, NEXT, 2), (0x4000, 16, 0, 0)], &[0, 0]);
    let mut visit = Visit::new(&mut queue, &mem, 0).unwrap();
    assert_eq!(visit.next_chain().unwrap().unwrap().descriptors(), 3);
    assert_eq!(visit.next_chain(), Err(RingError::TooManyDescriptors));
}

#[test]
fn descriptors_in_the_devices_hands_count() {
    let (mut queue, mem) = ring(&[(0x4000, 16, NEXT, 1), (0x4000, 16, 0, 0)], &[0]);
    assert!(Visit::new(&mut queue, &mem, 2).unwrap().next_chain().is_ok());
    queue.set_next_avail(0);
    let result = Visit::new(&mut queue, &mem, 3).unwrap().next_chain();
    assert_eq!(result, Err(RingError::TooManyDescriptors));
}

#[test]
fn a_ring_outside_of_memory() {
    for at in [0xfff0, 0x10000, 0xffff_ffff_ffff_fff0] {
        let (mut queue, mem) = ring(&[], &[]);
        queue.try_set_desc_table_address(GuestAddress(at)).unwrap();
        assert_eq!(Visit::new(&mut queue, &mem, 0).err(), Some(RingError::RingOutsideMemory));
        let (mut queue, mem) = ring(&[], &[]);
        queue.try_set_used_ring_address(GuestAddress(at)).unwrap();
        assert_eq!(Visit::new(&mut queue, &mem, 0).err(), Some(RingError::RingOutsideMemory));
    }
}

#[test]
fn gather_and_scatter_cross_segments() {
    let (_, mem) = ring(&[], &[]);
    let segments = [
        Segment { addr: 0x4000, len: 3 },
        Segment { addr: 0x5000, len: 1 },
        Segment { addr: 0x6000, len: 4 },
    ];
    scatter(&mem, &segments, &[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(gather(&mem, &segments, 0, 8), Ok(vec![1, 2, 3, 4, 5, 6, 0, 0]));
    assert_eq!(gather(&mem, &segments, 2, 3), Ok(vec![3, 4, 5]));
    assert_eq!(gather(&mem, &segments, 4, 1), Ok(vec![5]));
    assert_eq!(gather(&mem, &segments, 6, 9), Ok(vec![0, 0]));
}

fn set_entry(msix: &mut Msix, vector: u64, addr: u64, data: u32, masked: bool) -> Vec<Msi> {
    let mut out = Vec::new();
    msix.write_table(vector * 16, &addr.to_le_bytes(), &mut out);
    msix.write_table(vector * 16 + 8, &data.to_le_bytes(), &mut out);
    msix.write_table(vector * 16 + 12, &u32::from(masked).to_le_bytes(), &mut out);
    out
}

fn fire(msix: &mut Msix, vector: u16) -> Vec<Msi> {
    let mut out = Vec::new();
    msix.fire(vector, &mut out);
    out
}

fn control(msix: &mut Msix, high: u8) -> Vec<Msi> {
    let mut out = Vec::new();
    msix.write_control(0, 0xff, &mut out);
    msix.write_control(1, high, &mut out);
    out
}

#[test]
fn masked_vectors_are_pending_until_unmasked() {
    const MESSAGE: Msi = Msi { addr: 0xfee0_0000, data: 0x41 };
    let mut msix = Msix::new(3);
    assert_eq!(msix.control(), 2);
    set_entry(&mut msix, 1, MESSAGE.addr, MESSAGE.data, true);
    assert_eq!(fire(&mut msix, 1), [], "disabled");
    assert_eq!(control(&mut msix, 0x80), [], "nothing was pending");
    assert_eq!(msix.control(), 0x8002);
    assert_eq!(fire(&mut msix, 1), []);
    let mut pending = [0xff; 8];
    msix.read_pending(0, &mut pending);
    assert_eq!(pending, [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(set_entry(&mut msix, 1, MESSAGE.addr, MESSAGE.data, false), [MESSAGE]);
    assert_eq!(fire(&mut msix, 1), [MESSAGE]);
    assert_eq!(control(&mut msix, 0xc0), []);
    assert_eq!(fire(&mut msix, 1), [], "the function is masked");
    assert_eq!(control(&mut msix, 0x80), [MESSAGE]);
    assert_eq!(fire(&mut msix, 3), [], "no such vector");
    assert_eq!(fire(&mut msix, NO_VECTOR), []);
}

#[test]
fn the_table_reads_back_what_is_writable() {
    let mut msix = Msix::new(2);
    set_entry(&mut msix, 1, 0x1234_5678_fee0_0003, 0xdead_beef, true);
    let mut entry = [0; 16];
    msix.read_table(16, &mut entry);
    assert_eq!(entry[0..8], 0x1234_5678_fee0_0000u64.to_le_bytes());
    assert_eq!(entry[8..12], 0xdead_beefu32.to_le_bytes());
    assert_eq!(entry[12..16], 1u32.to_le_bytes());
    let mut out = Vec::new();
    msix.write_table(18, &[0; 4], &mut out);
    msix.write_table(16, &[0; 2], &mut out);
    msix.write_table(0x7f8, &[0; 8], &mut out);
    let mut again = [0; 16];
    msix.read_table(16, &mut again);
    assert_eq!(again, entry, "misaligned, short and distant writes have no effect");
}
