//! Two machines and one log of landings: what the first was given where, the second is given there too.

#![allow(dead_code, reason = "shared by an example and a test, which do not use the same parts of it")]

use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use devices::{Effect, Stimulus};
use vmm::{Kicker, Landing, PAGE_SIZE, Reached, RunError, Stop, Vm};
use xxhash_rust::xxh3::Xxh3;

/// One mark in so many brings a frame, the first among them.
const FRAMES: usize = 4;
/// Lengths of a frame, in bytes, without checksum (IEEE 802.3).
const SHORTEST: u64 = 60;
const LONGEST: u64 = 1514;

/// A guest, as far as it matters here.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Pages from here on may be protected again: the guest's own, no stacks and no page tables.
    pub first_own_page: u32,
    /// The address of its network card, if it shall receive frames.
    pub mac: Option<[u8; 6]>,
}

/// [`Program::Chaos`](crate::guest::Program::Chaos).
pub(crate) const SMALL: Guest = Guest { first_own_page: 0x400, mac: None };

/// What was placed, an interrupt at least, and where.
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
    /// What the guest did to the world since the last one.
    pub effects: Vec<Effect>,
    /// Privilege level of the guest there.
    pub privilege: u8,
    /// Pages that are protected there.
    pub protected: Vec<u32>,
    /// What is placed there.
    pub stimuli: Vec<Stimulus>,
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
    /// Places before which the guest did something else to the world.
    pub other_effects: usize,
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
            && self.other_effects == 0
            && self.missed.is_none()
            && self.end == recording.end
    }
}

/// Pseudo-random numbers (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    /// Between `low` and `high` microseconds.
    pub(crate) fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(low + self.draw() % (high - low))
    }

    /// A frame of any length for the card with this address, of the ethertype for experiments (IEEE 802).
    fn frame(&mut self, mac: [u8; 6]) -> Vec<u8> {
        let length = SHORTEST + self.draw() % (LONGEST - SHORTEST + 1);
        let mut frame = mac.to_vec();
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 0xFE, 0x88, 0xB5]);
        while (frame.len() as u64) < length {
            frame.push(self.draw().to_le_bytes()[0]);
        }
        frame
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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

/// Exits that a guest may make before it computes.
const FIRST_EXITS_MAX: u32 = 10_000;

/// Runs to the common position from which both machines are compared: the exit that starts the guest's timer, its
/// last before it computes. The period of that timer, in ns.
fn begin(vm: &mut Vm) -> Result<u64, RunError> {
    // The interval timer of a PC has a deadline from power-up on, a later one than any guest's here.
    let at_boot = vm.next_deadline();
    let mut exits = 0;
    while vm.next_deadline() == at_boot {
        exits += u32::from(vm.run()? != Stop::Kicked);
        assert!(exits < FIRST_EXITS_MAX, "the guest starts no timer");
    }
    vm.take_dirty().expect("the ring works");
    // No time was placed yet.
    Ok(vm.next_deadline().expect("the timer was started"))
}

/// Runs `vm` over `count` landings; each is looked for from a random moment on, and an interrupt placed there.
pub(crate) fn record(vm: &mut Vm, guest: &Guest, count: usize, seed: u64) -> Result<Recording, RunError> {
    let alarm = Alarm::new(vm.kicker());
    let mut random = Random(seed);
    let (mut marks, mut delays, mut exits) = (Vec::with_capacity(count), Vec::with_capacity(count), 0);
    let period = begin(vm)?;
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
        let dirtied = first_stores(vm) - stores;
        stores += dirtied;
        let open = vm.open_pages().expect("the ring works");
        let mark = Mark {
            landing,
            exits,
            dirtied,
            state: state(vm),
            effects: vm.take_effects(),
            privilege: vm.privilege().expect("a running machine has registers"),
            protected: open.into_iter().filter(|page| *page >= guest.first_own_page).collect(),
            stimuli: stimuli(guest, marks.len(), period, &mut random),
        };
        exits = 0;
        advance(vm, &mark);
        marks.push(mark);
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

/// What is to be placed at the mark with this number, from 0: the frame if it is its turn, and one period.
fn stimuli(guest: &Guest, number: usize, period: u64, random: &mut Random) -> Vec<Stimulus> {
    let mac = guest.mac.filter(|_| number.is_multiple_of(FRAMES));
    let frame = mac.map(|mac| Stimulus::Frame { nic: 0, frame: random.frame(mac) });
    frame.into_iter().chain([Stimulus::Time((number as u64 + 1) * period)]).collect()
}

/// What both do at a mark.
fn advance(vm: &mut Vm, mark: &Mark) {
    vm.protect(&mark.protected).expect("the ring works");
    for stimulus in &mark.stimuli {
        vm.place(stimulus).expect("time goes on, and the card is there");
    }
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
        replay.other_effects += usize::from(vm.take_effects() != mark.effects);
        if late == Some(number) {
            while !matches!(vm.seek()?, Reached::Landing(_)) {}
        }
        advance(vm, mark);
    }
    replay.end = whole(vm);
    Ok(replay)
}
