//! Saving, restoring, and going on alike.

use devices::{Effect, Platform, PlatformConfig, RestoreError, Stimulus};
use proptest::prelude::*;

use crate::driver::{APIC, BLK_BAR, MEMORY_BYTES, Machine, NET_BAR, RNG_BAR, config};

/// Something that happens to a machine.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    In(u16, usize),
    Out(u16, Vec<u8>),
    Load(u64, usize),
    Store(u64, Vec<u8>),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Later(u64),
    Frame(Vec<u8>),
    Done(usize, bool),
    Entropy(usize),
    Type(usize),
    Button,
    Stopped,
    Enter,
    Exit,
    Accept,
    Poke(u64, Vec<u8>),
}

impl Op {
    /// Does it; returns all that can be observed.
    pub(crate) fn run(&self, machine: &mut Machine) -> (Vec<u8>, Vec<Effect>, Option<u64>, Option<u8>) {
        let mut seen = Vec::new();
        match self {
            Op::In(port, len) => {
                seen = vec![0; *len];
                machine.platform.pio_read(*port, &mut seen);
            }
            Op::Out(port, data) => machine.platform.pio_write(*port, data, &machine.mem),
            Op::Load(addr, len) => {
                seen = vec![0; *len];
                machine.platform.mmio_read(*addr, &mut seen);
            }
            Op::Store(addr, data) => machine.write(*addr, data),
            Op::ReadMsr(index) => seen = format!("{:?}", machine.platform.msr_read(*index)).into_bytes(),
            Op::WriteMsr(index, value) => {
                let result = machine.platform.msr_write(*index, *value, &machine.mem);
                seen = format!("{result:?}").into_bytes();
            }
            Op::Later(ns) => machine.place(&Stimulus::Time(machine.platform.now() + ns)),
            Op::Frame(frame) => machine.frame(frame),
            Op::Done(which, ok) => complete(machine, *which, *ok),
            Op::Entropy(len) => machine.place(&Stimulus::Entropy(vec![7; *len])),
            Op::Type(len) => machine.place(&Stimulus::ConsoleInput(vec![b'a'; *len])),
            Op::Button => machine.place(&Stimulus::Button),
            Op::Stopped => machine.place(&Stimulus::Stopped),
            Op::Enter => machine.platform.before_entry(&machine.mem),
            Op::Exit => machine.platform.after_exit(&machine.mem),
            Op::Accept => seen = format!("{:?}", machine.platform.accept_interrupt()).into_bytes(),
            Op::Poke(addr, data) => machine.poke(*addr, data),
        }
        let platform = &mut machine.platform;
        (seen, platform.take_effects(), platform.next_deadline(), platform.pending_interrupt())
    }
}

/// Completes one of the requests in flight, if there is one.
fn complete(machine: &mut Machine, which: usize, ok: bool) {
    let waiting = machine.platform.outstanding_disk();
    let (id, len) = match waiting.get(which % waiting.len().max(1)) {
        Some(Effect::DiskRead { id, len, .. }) => (*id, *len as usize),
        Some(Effect::DiskFlush { id, .. }) => (*id, 0),
        _ => return,
    };
    let data = vec![id as u8; if ok { len } else { 0 }];
    machine.place(&Stimulus::DiskDone { disk: 0, id, ok, data });
}

/// Bytes that are small numbers, feature bits and addresses more often than noise.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        3 => 0u64..20,
        2 => (0u32..64).prop_map(|bit| 1 << bit),
        1 => (0u64..64).prop_map(|page| page << 12),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![Just(1), Just(2), Just(4), Just(4), Just(8)];
    (value, len).prop_map(|(value, len)| value.to_le_bytes()[..len].to_vec())
}

/// Addresses with something behind them, mostly.
fn address() -> impl Strategy<Value = u64> {
    let bar = prop_oneof![Just(NET_BAR), Just(BLK_BAR), Just(RNG_BAR)];
    let offset = prop_oneof![
        4 => 0u64..0x40,
        3 => (0u64..3).prop_map(|queue| 0x2000 + queue * 4),
        2 => (0u64..12).prop_map(|word| 0x3000 + word * 4),
        1 => Just(0x1000),
        1 => 0u64..0x4000,
    ];
    prop_oneof![
        6 => (bar, offset).prop_map(|(bar, offset)| bar + offset),
        1 => prop_oneof![Just(0xfec0_0000u64), Just(0xfec0_0010)],
        3 => (0u64..0x40).prop_map(|slot| APIC + slot * 16),
        1 => any::<u64>(),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(0xcf8u16), 3 => 0xcfcu16..0xd00, 2 => 0x600u16..0x60c, 2 => prop_oneof![0x20u16..0x22, 0x40u16..0x44, 0x60u16..0x65, 0x70u16..0x72, 0x3f8u16..0x400, 0xa0u16..0xa2], 1 => any::<u16>()]
}

fn msr() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0x1b), Just(0x4b56_4d00), Just(0x4b56_4d01), Just(0x4b56_4d04), any::<u32>()]
}

/// Writes to the rings that [`Machine::up`] sets up.
fn poke() -> impl Strategy<Value = Op> {
    let ring = prop_oneof![Just(0x1000u64), Just(0x4000), Just(0x7000), Just(0xa000)];
    let descriptor =
        (0u64..16, 0u64..40, 0u32..2000, 0u16..4, 0u16..17).prop_map(|(at, page, len, flags, next)| {
            let addr = page << 12;
            (
                at * 16,
                [&addr.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                    .concat(),
            )
        });
    let available =
        (0u64..18, 0u16..17).prop_map(|(at, value)| (0x1000 + at * 2, value.to_le_bytes().to_vec()));
    (ring, prop_oneof![descriptor, available]).prop_map(|(ring, (at, bytes))| Op::Poke(ring + at, bytes))
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let address_of = |slot: u32, offset: u32| 0x8000_0000 | (slot << 11) | (offset & 0xfc);
    let select = (0u32..5, 0u32..0xa4)
        .prop_map(move |(slot, offset)| Op::Out(0xcf8, address_of(slot, offset).to_le_bytes().to_vec()));
    let later = prop_oneof![0u64..1000, 0u64..1 << 40];
    prop_oneof![
        1 => (port(), 0usize..9).prop_map(|(port, len)| Op::In(port, len)),
        1 => (port(), data()).prop_map(|(port, data)| Op::Out(port, data)),
        1 => select,
        3 => (address(), 0usize..9).prop_map(|(addr, len)| Op::Load(addr, len)),
        6 => (address(), data()).prop_map(|(addr, data)| Op::Store(addr, data)),
        1 => msr().prop_map(Op::ReadMsr),
        1 => (msr(), prop_oneof![0u64..MEMORY_BYTES as u64, any::<u64>()]).prop_map(|(msr, v)| Op::WriteMsr(msr, v)),
        1 => later.prop_map(Op::Later),
        2 => (0usize..1600).prop_map(|len| Op::Frame(vec![len as u8; len])),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, ok)| Op::Done(which, ok)),
        1 => (1usize..257).prop_map(Op::Entropy),
        1 => (0usize..40).prop_map(Op::Type),
        1 => Just(Op::Button),
        1 => Just(Op::Stopped),
        1 => Just(Op::Enter),
        1 => Just(Op::Exit),
        1 => Just(Op::Accept),
        8 => poke(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// A machine restored from another one cannot be told from it, whatever happens next.
    #[test]
    fn a_restored_machine_goes_on_alike(
        before in prop::collection::vec(op(), 0..120),
        after in prop::collection::vec(op(), 0..120),
    ) {
        let (mut machine, ..) = Machine::up();
        machine.up_queue(RNG_BAR, 0xa000);
        for op in &before {
            op.run(&mut machine);
        }
        let mut twin = machine.twin();
        prop_assert_eq!(twin.platform.save(), machine.platform.save());
        prop_assert_eq!(twin.platform.outstanding_disk(), machine.platform.outstanding_disk());
        prop_assert_eq!(twin.platform.outstanding_entropy(), machine.platform.outstanding_entropy());
        for op in &after {
            prop_assert_eq!(op.run(&mut twin), op.run(&mut machine));
        }
        prop_assert_eq!(twin.platform.save(), machine.platform.save());
        prop_assert!(twin.memory() == machine.memory());
    }

    /// Damaged bytes are refused without a trace, or are themselves a lawful machine that works.
    #[test]
    fn damaged_bytes_do_no_harm(
        before in prop::collection::vec(op(), 0..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        after in prop::collection::vec(op(), 0..60),
    ) {
        let (mut machine, ..) = Machine::up();
        for op in &before {
            op.run(&mut machine);
        }
        let mut bytes = machine.platform.save();
        for (at, value) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        let mut victim = Machine::new();
        let untouched = victim.platform.save();
        let result = victim.platform.restore(&bytes);
        prop_assert_eq!(victim.platform.save(), if result.is_ok() { bytes } else { untouched });
        for op in &after {
            if !matches!(op, Op::Later(_)) || victim.platform.now() < 1 << 61 {
                op.run(&mut victim);
            }
        }
    }
}

fn restore(bytes: &[u8]) -> Result<(), RestoreError> {
    let mut platform = Platform::new(&config()).unwrap();
    let before = platform.save();
    let result = platform.restore(bytes);
    assert_eq!(platform.save() == before, result.is_err());
    result
}

fn saved() -> Vec<u8> {
    let (mut machine, ..) = Machine::up();
    machine.frame(&[7; 60]);
    machine.platform.save()
}

#[test]
fn rarely_read_registers_are_kept() {
    let (mut machine, _, tx, disk) = Machine::up();
    // A broken ring sets the ISR's configuration bit, the vectors wait behind the function mask.
    let control = machine.pci_read(2, 0x98);
    machine.pci_write(2, 0x98, control | 0x4000_0000);
    tx.set_index(&machine, 100);
    tx.notify(&mut machine);
    machine.pci_write(3, 0x84 + 8, 0x1234);
    machine.pci_write(3, 0x84 + 12, 4);
    machine.pci_write(3, 0x3c, 0x5a);
    disk.notify(&mut machine);
    let mut twin = machine.twin();
    for machine in [&mut machine, &mut twin] {
        assert_eq!(machine.read::<1>(NET_BAR + 0x1000), [2]);
        assert_eq!(machine.read::<8>(NET_BAR + 0x3800), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(machine.pci_read(3, 0x8c), 0x1234);
        assert_eq!(machine.pci_read(3, 0x90), 4);
        assert_eq!(machine.pci_read(3, 0x3c), 0x015a);
    }
}

#[test]
fn short_and_long_bytes_are_refused() {
    let bytes = saved();
    for len in 0..bytes.len() {
        assert!(restore(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(restore(&bytes), Ok(()));
    assert_eq!(restore(&[&bytes[..], &[0]].concat()), Err(RestoreError::NotCanonical));
    assert_eq!(restore(&vec![0; (1 << 20) + 1]), Err(RestoreError::TooLong((1 << 20) + 1)));
}

#[test]
fn impossible_values_are_refused() {
    let fresh = Platform::new(&config()).unwrap().save();
    // A section, a byte of its body, a value that no register can hold there.
    for (tag, at, value, what) in [
        (b"CLCK", 7, 1, "the paravirtual clock's version is odd, its count too large or its base another"),
        (b"IOAP", 1, 16, "an I/O APIC register holds an impossible value"),
        (b"APIC", 9, 1, "a local APIC register holds an impossible value"),
        (b"VNET", 0, 7, "a PCI configuration header holds an impossible value"),
        (b"VBLK", 0, 7, "a PCI configuration header holds an impossible value"),
    ] {
        let mut bytes = fresh.clone();
        let section = bytes.windows(4).position(|window| window == tag).unwrap();
        bytes[section + 10 + at] = value;
        assert_eq!(restore(&bytes), Err(RestoreError::Impossible(what)));
    }
}

#[test]
fn another_version_and_another_program_are_refused() {
    let mut bytes = saved();
    bytes[4] = 1;
    let version = RestoreError::WrongVersion { device: "configuration", found: 1, supported: 2 };
    assert_eq!(restore(&bytes), Err(version));
    bytes[0] = b'X';
    assert_eq!(restore(&bytes), Err(RestoreError::WrongSection("configuration")));
    assert_eq!(restore(&[]), Err(RestoreError::Truncated("configuration")));
}

#[test]
fn another_configuration_is_refused() {
    let mut other = config();
    other.macs[0][5] += 1;
    let bytes = Platform::new(&other).unwrap().save();
    assert_eq!(restore(&bytes), Err(RestoreError::OtherConfig));
    let bytes = Platform::new(&PlatformConfig::default()).unwrap().save();
    assert_eq!(restore(&bytes), Err(RestoreError::OtherConfig));
}

#[test]
fn effects_are_not_state() {
    let mut machine = Machine::new();
    let before = machine.platform.save();
    machine.platform.pio_write(0xe9, b"x", &machine.mem);
    assert_eq!(machine.platform.save(), before);
    machine.platform.restore(&before).unwrap();
    assert_eq!(machine.effects(), []);
}
