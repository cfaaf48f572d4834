//! Two machines and one log of landings: what the first was given where, the second is given there too.

#![allow(dead_code, reason = "shared by an example and a test, which do not use the same parts of it")]

use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use devices::Stimulus;
use vmm::{Kicker, Landing, PAGE_SIZE, Reached, RunError, Stop, Vm};
use xxhash_rust::xxh3::Xxh3;

/// Virtual time that passes at each landing, in ns; the guest's timer ticks as often.
const TICK: u64 = 1000;
/// Pages that may be protected again: the guest's own, no stacks and no page tables.
const FIRST_OWN_PAGE: u32 = 0x400;

/// An interrupt and where it was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The place.
    pub landing: Landing,
    /// Deterministic exits since the last one.
    pub exits: u64,
    /// Pages first written since the last one, this one's among them.
    pub dirtied: u64,
    /// Digest of everything but memory.
    pub state: u128,
    /// Pages that are protected there.
    pub protected: Vec<u32>,
}

impl Mark {
    /// Of these the second machine looks at none but the last few.
    fn unseen(&self) -> u32 {
        const LOOKED_AT: u64 = 4;
        u32::try_from(self.dirtied.saturating_sub(1 + LOOKED_AT)).unwrap_or(u32::MAX)
    }
}

/// A run of the first machine.
#[derive(Debug)]
pub(crate) struct Recording {
    /// In order.
    pub marks: Vec<Mark>,
    /// From due to landed.
    pub delays: Vec<Duration>,
    /// Digest of all at the end, memory included.
    pub end: u128,
}

/// A run of the second machine by the marks of the first.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Places found.
    pub found: usize,
    /// Places found with another state, or after another number of exits.
    pub different: usize,
    /// The place that was not found, where the replay ended, and the first store to that page.
    pub missed: Option<(usize, Landing)>,
    /// Digest of all at the end.
    pub end: u128,
}

impl Replay {
    /// Whether everything was found and equal.
    pub(crate) fn equals(&self, recording: &Recording) -> bool {
        self.found == recording.marks.len()
            && self.different == 0
            && self.missed.is_none()
            && self.end == recording.end
    }
}

/// Pseudo-random numbers (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    /// Between `low` and `high` microseconds.
    pub(crate) fn micros(&mut self, low: u64, high: u64) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_micros(low + (z ^ (z >> 31)) % (high - low))
    }
}

/// A thread that kicks after each time it is told.
pub(crate) struct Alarm {
    times: Option<Sender<Duration>>,
    thread: Option<JoinHandle<()>>,
}

impl Alarm {
    /// For one machine.
    pub(crate) fn new(kicker: Kicker) -> Self {
        let (times, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            for time in told {
                thread::sleep(time);
                kicker.kick();
            }
        });
        Alarm { times: Some(times), thread: Some(thread) }
    }

    /// Kicks after this time.
    pub(crate) fn set(&self, time: Duration) {
        // The thread ends only when `times` does.
        self.times.as_ref().map(|times| times.send(time));
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.times = None;
        self.thread.take().map(JoinHandle::join);
    }
}

/// Digest of everything but memory.
pub(crate) fn state(vm: &mut Vm) -> u128 {
    digest(&vm.save().expect("a running machine can be saved"))
}

fn digest(bytes: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(bytes);
    hash.digest128()
}

/// Digest of everything.
pub(crate) fn whole(vm: &mut Vm) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&vm.save().expect("a running machine can be saved"));
    let mut page = [0; PAGE_SIZE];
    for number in 0..vm.page_count() {
        vm.read_page(number, &mut page);
        hash.update(&page);
    }
    hash.digest128()
}

/// Exits of the guest before it computes.
const FIRST_EXITS: u32 = 4;

/// Runs to the common position from which both machines are compared.
fn begin(vm: &mut Vm) -> Result<(), RunError> {
    let mut exits = 0;
    while exits < FIRST_EXITS {
        exits += u32::from(vm.run()? != Stop::Kicked);
    }
    vm.take_dirty().expect("the ring works");
    Ok(())
}

/// Runs `vm` over `count` landings; each is looked for from a random moment on, and an interrupt placed there.
pub(crate) fn record(vm: &mut Vm, count: usize, seed: u64) -> Result<Recording, RunError> {
    let alarm = Alarm::new(vm.kicker());
    let mut random = Random(seed);
    let (mut marks, mut delays, mut exits) = (Vec::with_capacity(count), Vec::with_capacity(count), 0);
    begin(vm)?;
    let mut stores = first_stores(vm);
    while marks.len() < count {
        alarm.set(random.micros(200, 2200));
        while vm.run()? != Stop::Kicked {
            exits += 1;
        }
        let due = Instant::now();
        let landing = loop {
            match vm.seek()? {
                Reached::Stop(Stop::Kicked) => {}
                Reached::Stop(_) => exits += 1,
                Reached::Landing(landing) => break landing,
                Reached::Missed(landing) => panic!("{landing:?} was not looked for"),
            }
        };
        delays.push(due.elapsed());
        let open = vm.open_pages().expect("the ring works");
        let protected: Vec<u32> = open.into_iter().filter(|page| *page >= FIRST_OWN_PAGE).collect();
        let dirtied = first_stores(vm) - stores;
        stores += dirtied;
        marks.push(Mark { landing, exits, dirtied, state: state(vm), protected });
        exits = 0;
        let protected = &marks[marks.len() - 1].protected;
        advance(vm, protected, marks.len());
    }
    Ok(Recording { marks, delays, end: whole(vm) })
}

/// Runs on until the landing is reached or missed.
pub(crate) fn find(vm: &mut Vm, landing: Landing) -> Result<Reached, RunError> {
    loop {
        match vm.find(landing, 0)? {
            Reached::Stop(_) => {}
            reached => return Ok(reached),
        }
    }
}

fn first_stores(vm: &mut Vm) -> u64 {
    vm.first_stores().expect("the ring works")
}

/// What both do at the mark with this number, from 1.
fn advance(vm: &mut Vm, protected: &[u32], number: usize) {
    vm.protect(protected).expect("the ring works");
    vm.place(&Stimulus::Time(number as u64 * TICK)).expect("time goes on");
}

/// Runs `vm` by the marks; kicks come at random. The interrupt of mark `late` is placed one landing later.
pub(crate) fn replay(
    vm: &mut Vm,
    marks: &[Mark],
    late: Option<usize>,
    seed: u64,
) -> Result<Replay, RunError> {
    let alarm = Alarm::new(vm.kicker());
    let mut random = Random(seed);
    let mut replay = Replay::default();
    begin(vm)?;
    for (number, mark) in (1..).zip(marks) {
        alarm.set(random.micros(10, 1000));
        let mut exits = 0;
        loop {
            match vm.find(mark.landing, mark.unseen())? {
                Reached::Stop(Stop::Kicked) => {}
                Reached::Stop(_) => exits += 1,
                Reached::Landing(_) => break,
                Reached::Missed(instead) => {
                    replay.missed = Some((number, instead));
                    replay.end = whole(vm);
                    return Ok(replay);
                }
            }
        }
        replay.found += 1;
        replay.different += usize::from(exits != mark.exits || state(vm) != mark.state);
        if late == Some(number) {
            while !matches!(vm.seek()?, Reached::Landing(_)) {}
        }
        advance(vm, &mark.protected, number);
    }
    replay.end = whole(vm);
    Ok(replay)
}
