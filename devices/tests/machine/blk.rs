//! The disk.

use devices::{Effect, PlaceError, Stimulus};

use crate::driver::{BLK_BAR, Machine, Ring, SECTORS, WRITE};

const HEADER: u64 = 0x10000;
const STATUS: u64 = 0x10100;
const DATA: u64 = 0x11000;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const UNSET: u8 = 0x5a;

/// Offers a request with this data part and notifies.
fn request(machine: &mut Machine, ring: &mut Ring, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> u16 {
    machine.poke(HEADER, &kind.to_le_bytes());
    machine.poke(HEADER + 8, &sector.to_le_bytes());
    machine.poke(STATUS, &[UNSET]);
    let mut buffers = vec![(HEADER, 16, 0)];
    buffers.extend_from_slice(data);
    buffers.push((STATUS, 1, WRITE));
    let head = ring.offer(machine, &buffers);
    ring.notify(machine);
    head
}

fn status(machine: &Machine) -> u8 {
    machine.bytes(STATUS, 1)[0]
}

fn done(id: u64, ok: bool, data: Vec<u8>) -> Stimulus {
    Stimulus::DiskDone { disk: 0, id, ok, data }
}

#[test]
fn configuration_has_capacity_and_segments() {
    let mut machine = Machine::new();
    assert_eq!(u64::from_le_bytes(machine.read(BLK_BAR + 0x1800)), SECTORS);
    assert_eq!(machine.read32(BLK_BAR + 0x1808), 8192, "size_max");
    assert_eq!(machine.read32(BLK_BAR + 0x180c), 126, "seg_max");
}

#[test]
fn a_write_is_complete_at_once() {
    let (mut machine, _, _, mut ring) = Machine::up();
    machine.poke(DATA, &[1; 512]);
    machine.poke(DATA + 0x1000, &[2; 512]);
    let head = request(&mut machine, &mut ring, OUT, 5, &[(DATA, 512, 0), (DATA + 0x1000, 512, 0)]);
    let data = [[1; 512], [2; 512]].concat();
    assert_eq!(machine.effects(), [Effect::DiskWrite { disk: 0, sector: 5, data }]);
    assert_eq!((ring.used(&machine), status(&machine)), (vec![(head, 1)], 0));
    assert_eq!(machine.interrupt(), Some(0x51));
    assert_eq!(machine.platform.outstanding_disk(), []);
}

#[test]
fn a_read_waits_for_its_data() {
    let (mut machine, _, _, mut ring) = Machine::up();
    let head = request(&mut machine, &mut ring, IN, 63, &[(DATA, 200, WRITE), (DATA + 0x1000, 312, WRITE)]);
    let effect = Effect::DiskRead { disk: 0, id: 0, sector: 63, len: 512 };
    assert_eq!(machine.effects(), std::slice::from_ref(&effect));
    assert_eq!(machine.platform.outstanding_disk(), [effect]);
    assert_eq!((ring.used(&machine), status(&machine)), (vec![], UNSET));
    let data: Vec<u8> = (0..512).map(|i| i as u8).collect();
    machine.place(&done(0, true, data.clone()));
    assert_eq!((ring.used(&machine), status(&machine)), (vec![(head, 513)], 0));
    assert_eq!(machine.bytes(DATA, 200), data[..200]);
    assert_eq!(machine.bytes(DATA + 0x1000, 312), data[200..]);
    assert_eq!(machine.interrupt(), Some(0x51));
    assert_eq!(machine.platform.outstanding_disk(), []);
}

#[test]
fn flush_waits_and_failures_are_io_errors() {
    let (mut machine, _, _, mut ring) = Machine::up();
    let flush = request(&mut machine, &mut ring, FLUSH, 0, &[]);
    assert_eq!(machine.effects(), [Effect::DiskFlush { disk: 0, id: 0 }]);
    machine.place(&done(0, true, vec![]));
    assert_eq!((ring.used(&machine), status(&machine)), (vec![(flush, 1)], 0));
    let flush = request(&mut machine, &mut ring, FLUSH, 0, &[]);
    machine.place(&done(1, false, vec![]));
    assert_eq!((ring.used(&machine), status(&machine)), (vec![(flush, 1)], 1));
    let read = request(&mut machine, &mut ring, IN, 0, &[(DATA, 512, WRITE)]);
    machine.place(&done(2, false, vec![]));
    assert_eq!((ring.used(&machine), status(&machine)), (vec![(read, 1)], 1));
}

#[test]
fn completions_in_any_order() {
    let (mut machine, _, _, mut ring) = Machine::up();
    let first = request(&mut machine, &mut ring, FLUSH, 0, &[]);
    let second = request(&mut machine, &mut ring, IN, 0, &[(DATA, 512, WRITE)]);
    machine.place(&done(1, true, vec![9; 512]));
    machine.place(&done(0, true, vec![]));
    assert_eq!(ring.used(&machine), [(second, 513), (first, 1)]);
}

#[test]
fn requests_out_of_range_fail() {
    for (kind, flags) in [(IN, WRITE), (OUT, 0)] {
        for (sector, len) in [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (0, 511), (0, 513)] {
            let (mut machine, _, _, mut ring) = Machine::up();
            let head = request(&mut machine, &mut ring, kind, sector, &[(DATA, len, flags)]);
            assert_eq!(machine.effects(), [], "{sector}+{len}");
            assert_eq!((ring.used(&machine), status(&machine)), (vec![(head, 1)], 1));
        }
        let (mut machine, _, _, mut ring) = Machine::up();
        request(&mut machine, &mut ring, kind, 0, &[]);
        assert_eq!(status(&machine), 1, "no data at all");
    }
}

#[test]
fn a_payload_above_the_limit_fails() {
    // Eight and nine times the same 128 KiB.
    for (times, status_byte, effects) in [(8, 0, 1), (9, 1, 0)] {
        let (mut machine, _, _, mut ring) = Machine::up();
        request(&mut machine, &mut ring, OUT, 0, &vec![(0x18000, 0x20000, 0); times]);
        assert_eq!((machine.effects().len(), status(&machine)), (effects, status_byte), "{times} buffers");
    }
}

#[test]
fn name_and_unknown_requests() {
    let (mut machine, _, _, mut ring) = Machine::up();
    let head = request(&mut machine, &mut ring, GET_ID, 0, &[(DATA, 20, WRITE)]);
    assert_eq!((ring.used(&machine), status(&machine)), (vec![(head, 21)], 0));
    assert_eq!(machine.bytes(DATA, 20), *b"twinrun-disk0\0\0\0\0\0\0\0");
    request(&mut machine, &mut ring, GET_ID, 0, &[(DATA, 19, WRITE)]);
    assert_eq!(status(&machine), 1);
    request(&mut machine, &mut ring, 11, 0, &[]);
    assert_eq!(status(&machine), 2);
}

#[test]
fn header_and_status_may_share_buffers_with_data() {
    let (mut machine, _, _, mut ring) = Machine::up();
    machine.poke(DATA, &IN.to_le_bytes());
    machine.poke(DATA + 8, &3u64.to_le_bytes());
    let head =
        ring.offer(&machine, &[(DATA, 7, 0), (DATA + 7, 9, 0), (DATA, 500, WRITE), (DATA + 500, 13, WRITE)]);
    ring.notify(&mut machine);
    assert_eq!(machine.effects(), [Effect::DiskRead { disk: 0, id: 0, sector: 3, len: 512 }]);
    machine.place(&done(0, true, vec![9; 512]));
    assert_eq!(ring.used(&machine), [(head, 513)]);
    assert_eq!(machine.bytes(DATA, 513), [vec![9; 512], vec![0]].concat());
}

#[test]
fn completions_that_belong_nowhere() {
    let (mut machine, _, _, mut ring) = Machine::up();
    request(&mut machine, &mut ring, IN, 0, &[(DATA, 512, WRITE)]);
    let before = machine.platform.save();
    let place = |machine: &mut Machine, stimulus| machine.platform.place(&stimulus, &machine.mem);
    let wrong = |want, got| Err(PlaceError::WrongLength { disk: 0, id: 0, want, got });
    assert_eq!(place(&mut machine, done(0, true, vec![0; 511])), wrong(512, 511));
    assert_eq!(place(&mut machine, done(0, false, vec![0; 512])), wrong(0, 512));
    assert_eq!(
        place(&mut machine, done(1, true, vec![])),
        Err(PlaceError::UnknownRequest { disk: 0, id: 1 })
    );
    let other = Stimulus::DiskDone { disk: 1, id: 0, ok: true, data: vec![] };
    assert_eq!(place(&mut machine, other), Err(PlaceError::NoDevice("disk completion")));
    assert_eq!(machine.platform.save(), before);
}

#[test]
fn a_reset_cancels_requests_and_numbers_go_on() {
    let (mut machine, _, _, mut ring) = Machine::up();
    request(&mut machine, &mut ring, IN, 0, &[(DATA, 512, WRITE)]);
    let mut ring = machine.up_blk();
    assert_eq!(machine.platform.outstanding_disk(), []);
    machine.place(&done(0, true, vec![9; 512]));
    assert_eq!((ring.used(&machine), machine.bytes(DATA, 1)), (vec![], vec![0]));
    machine.effects();
    request(&mut machine, &mut ring, FLUSH, 0, &[]);
    assert_eq!(machine.effects(), [Effect::DiskFlush { disk: 0, id: 1 }]);
}

#[test]
fn a_chain_offered_twice_breaks_the_ring() {
    let (mut machine, _, _, mut ring) = Machine::up();
    request(&mut machine, &mut ring, FLUSH, 0, &[]);
    // The second entry of the available ring names the first chain again.
    machine.poke(0x8006, &0u16.to_le_bytes());
    ring.set_index(&machine, 2);
    ring.notify(&mut machine);
    assert_eq!(machine.status(BLK_BAR) & 0x40, 0x40);
    machine.place(&done(0, true, vec![]));
    assert_eq!(ring.used(&machine), [], "the ring is left alone");
    assert_eq!(machine.platform.outstanding_disk(), []);
}

#[test]
fn descriptors_of_requests_in_flight_cannot_be_offered_again() {
    for (buffers, broken) in [(14, false), (15, true)] {
        let (mut machine, _, _, mut ring) = Machine::up();
        request(&mut machine, &mut ring, FLUSH, 0, &[]);
        // The flush holds two of the sixteen descriptors: fifteen more cannot all be free.
        let mut chain = vec![(HEADER, 16, 0); buffers - 1];
        chain.push((STATUS, 1, WRITE));
        ring.offer(&machine, &chain);
        ring.notify(&mut machine);
        assert_eq!(machine.status(BLK_BAR) & 0x40 != 0, broken, "{buffers} buffers");
    }
}
