//! Arbitrary guests against the whole machine, by seed: accesses to every device, rings full of nonsense,
//! stimuli in any order. Nothing panics, loops or grows without bound, and a machine that is saved and restored
//! in the middle goes on alike.
//!
//! A failure names its seed. `TWINRUN_FUZZ_SEED` is the first seed (0 if not set), and `TWINRUN_FUZZ_SECONDS`
//! goes on with further seeds for that long; if not set, a fixed number of cases runs.

mod generator;

use std::time::{Duration, Instant};

use devices::{Effect, PlaceError, Platform, PlatformConfig, Stimulus};
use generator::Generator;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) const MEMORY_BYTES: usize = 1 << 18;
/// Cases without a time limit.
const CASES: u64 = 800;
/// Bursts of actions before the twin is made, and after.
const BURSTS: usize = 120;
/// A notification takes at most a queue of 256 descriptors: 128 writes, each of at most 1 MiB.
const EFFECT_BYTES_MAX: usize = 128 << 20;

/// Something that happens to a machine.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    In(u16, usize),
    Out(u16, Vec<u8>),
    Load(u64, usize),
    Store(u64, Vec<u8>),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Place(Stimulus),
    Accept,
    BeforeEntry,
    AfterExit,
    /// The guest writes its own memory.
    Poke(u64, Vec<u8>),
}

/// Devices and memory.
pub(crate) struct Machine {
    pub(crate) platform: Platform,
    mem: GuestMemoryMmap<AtomicBitmap>,
}

/// All that an action shows.
#[derive(Debug, PartialEq)]
struct Seen {
    bytes: Vec<u8>,
    value: Option<u64>,
    placed: Result<(), PlaceError>,
    effects: Vec<Effect>,
    deadline: Option<u64>,
    pending: Option<u8>,
}

impl Machine {
    fn new() -> Self {
        let config = PlatformConfig {
            macs: vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            disks: vec![4096, 64],
            ..PlatformConfig::default()
        };
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        Machine { platform: Platform::new(&config).unwrap(), mem }
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY_BYTES];
        self.mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    fn twin(&self) -> Self {
        let mut twin = Machine::new();
        twin.mem.write_slice(&self.memory(), GuestAddress(0)).unwrap();
        twin.platform.restore(&self.platform.save()).expect("what was saved can be restored");
        twin
    }

    fn act(&mut self, action: &Action) -> Seen {
        let (platform, mem) = (&mut self.platform, &self.mem);
        let (mut bytes, mut value, mut placed) = (Vec::new(), None, Ok(()));
        match action {
            Action::In(port, len) => {
                bytes.resize(*len, 0);
                platform.pio_read(*port, &mut bytes);
            }
            Action::Out(port, data) => platform.pio_write(*port, data, mem),
            Action::Load(addr, len) => {
                bytes.resize(*len, 0);
                platform.mmio_read(*addr, &mut bytes);
            }
            Action::Store(addr, data) => platform.mmio_write(*addr, data, mem),
            Action::ReadMsr(index) => value = platform.msr_read(*index),
            Action::WriteMsr(index, new) => value = platform.msr_write(*index, *new, mem).map(|()| 0),
            Action::Place(stimulus) => placed = platform.place(stimulus, mem),
            Action::Accept => value = platform.accept_interrupt().map(u64::from),
            Action::BeforeEntry => platform.before_entry(mem),
            Action::AfterExit => platform.after_exit(mem),
            Action::Poke(addr, data) => drop(mem.write_slice(data, GuestAddress(*addr))),
        }
        Seen {
            bytes,
            value,
            placed,
            effects: platform.take_effects(),
            deadline: platform.next_deadline(),
            pending: platform.pending_interrupt(),
        }
    }

    fn assert_bounded(&self, seen: &Seen) {
        let weight = |effect: &Effect| match effect {
            Effect::Frame { frame: data, .. } | Effect::DiskWrite { data, .. } | Effect::Console(data) => {
                data.len()
            }
            _ => 0,
        };
        assert!(seen.effects.iter().map(weight).sum::<usize>() <= EFFECT_BYTES_MAX);
        assert!(seen.effects.len() <= 256);
        assert!(seen.deadline.is_none_or(|deadline| deadline > self.platform.now()));
    }
}

/// Names the seed of a case that fails.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case has TWINRUN_FUZZ_SEED={}", self.0);
        }
    }
}

fn run(seed: u64) {
    let case = Case(seed);
    let mut generator = Generator::new(seed);
    let mut machine = Machine::new();
    for _ in 0..BURSTS {
        for action in generator.burst(&machine) {
            let seen = machine.act(&action);
            machine.assert_bounded(&seen);
        }
    }
    let mut twin = machine.twin();
    for _ in 0..BURSTS {
        for action in generator.burst(&machine) {
            let seen = machine.act(&action);
            machine.assert_bounded(&seen);
            assert!(seen == twin.act(&action), "{action:?} tells the twin apart");
        }
    }
    assert!(machine.platform.outstanding_disk().len() <= 2 * 256);
    assert!(machine.platform.outstanding_entropy().len() <= 256);
    assert_eq!(machine.platform.outstanding_disk(), twin.platform.outstanding_disk());
    assert!(machine.platform.save() == twin.platform.save(), "the twin's state differs");
    assert!(machine.memory() == twin.memory(), "the twin's memory differs");
    drop(case);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn any_guest() {
    let first = number("TWINRUN_FUZZ_SEED").unwrap_or(0);
    let Some(seconds) = number("TWINRUN_FUZZ_SECONDS") else {
        return (first..first + CASES).for_each(run);
    };
    let start = Instant::now();
    let cases = (first..).take_while(|_| start.elapsed() < Duration::from_secs(seconds)).map(run).count();
    println!("{cases} cases from seed {first} on");
    assert!(cases > 0, "TWINRUN_FUZZ_SECONDS leaves no time for a case");
}

/// The generator is worth nothing if its guests do not get anywhere.
#[test]
fn guests_get_somewhere() {
    let (mut frames, mut writes, mut reads, mut entropy, mut console) = (0, 0, 0, 0, 0);
    let (mut interrupts, mut broken, mut received) = (0, 0, 0);
    for seed in 0..20 {
        let (mut generator, mut machine) = (Generator::new(seed), Machine::new());
        for _ in 0..2 * BURSTS {
            for action in generator.burst(&machine) {
                let seen = machine.act(&action);
                interrupts += u32::from(matches!(action, Action::Accept) && seen.value.is_some());
                for effect in seen.effects {
                    match effect {
                        Effect::Frame { .. } => frames += 1,
                        Effect::DiskWrite { .. } => writes += 1,
                        Effect::DiskRead { .. } => reads += 1,
                        Effect::Entropy { .. } => entropy += 1,
                        Effect::Console(_) => console += 1,
                        _ => {}
                    }
                }
                received += usize::from(
                    matches!(action, Action::Place(Stimulus::DiskDone { .. })) && seen.placed.is_ok(),
                );
            }
        }
        broken += machine.platform.counters().broken_rings;
    }
    for (what, count) in [
        ("frames", frames),
        ("disk writes", writes),
        ("disk reads", reads),
        ("requests for entropy", entropy),
        ("console bytes", console),
    ] {
        assert!(count > 9, "only {count} {what}");
    }
    assert!(interrupts > 9, "only {interrupts} interrupts");
    assert!(received > 9, "only {received} disk completions");
    assert!(broken > 9, "only {broken} broken rings");
}
