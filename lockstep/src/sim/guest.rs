//! A small guest machine for the simulator and for tests: deterministic but for what it is told to read from
//! its host's noise.
//!
//! Its program answers counter requests as the real small guest does: a new (client, id) increments a counter
//! once, is written to the disk log and flushed before it is answered; a repeated one is answered with the
//! value of the first time. Its choices come from a running hash of everything that ever happened to it, so a
//! stimulus that is lost, repeated, altered or misplaced shows in memory for ever.

use std::collections::VecDeque;

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::xxh3_64;

use super::rng::Dice;
use crate::Ns;
use crate::codec;
use crate::log::{Effect, ExitKind, Page};
use crate::machine::{Landing, Machine, MachineFailure, PAGE_SIZE, PageBytes, Stimulus, Stop};

mod landing;
mod program;

use landing::{Search, Stores};
pub(crate) use program::{Request, SECTOR, SECTORS};

/// Size of memory in pages.
pub(crate) const PAGES: Page = 48;
/// Virtual time of one step of computation, in nanoseconds.
pub(crate) const STEP: Ns = 5_000;

/// Which nondeterminism the guest suffers from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noise {
    /// A value of the host gets into a page.
    pub(crate) memory: bool,
    /// A page is written on some hosts only.
    pub(crate) sided: bool,
    /// A value of the host gets into effects.
    pub(crate) effects: bool,
    /// A value of the host decides how many exits there are.
    pub(crate) control: bool,
    /// Computes for long without an exit.
    pub(crate) busy: bool,
    /// No noise: the machine can stop at the first store to a clean page.
    pub(crate) landings: bool,
}

/// What the guest does next.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
enum Op {
    Compute(u32),
    Exit(ExitKind),
    Out(Effect),
    /// Makes so many log entries durable.
    Flush {
        id: u64,
        covers: u32,
    },
    Timer(Ns),
    Noise(u8),
    Halt,
    /// End of an interrupt handler.
    Return,
}

/// vCPU and device state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Regs {
    hash: u64,
    todo: VecDeque<Op>,
    halted: bool,
    handling: bool,
    now: Ns,
    deadline: Option<Ns>,
    timer_fired: bool,
    received: VecDeque<Vec<u8>>,
    completed: VecDeque<(u64, bool, Vec<u8>)>,
    next_disk: u64,
    /// Reads and flushes that are not complete; a flush with the number of log entries it covers.
    pending: Vec<(Effect, u32)>,
    recovered: bool,
}

/// What a checker compares: digests of the whole memory and of the saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) state: u64,
    pub(crate) pages: Vec<u64>,
}

impl Snapshot {
    /// What differs, for people.
    pub(crate) fn differences(&self, other: &Snapshot) -> String {
        let pages = self.pages.iter().zip(&other.pages).enumerate();
        let pages: Vec<_> = pages.filter(|(_, (a, b))| a != b).map(|(page, _)| page).collect();
        format!("state differs: {}, pages {pages:?}", self.state != other.state)
    }
}

/// The machine.
pub(crate) struct SimGuest {
    memory: Vec<u8>,
    dirty: u64,
    stores: Stores,
    regs: Regs,
    /// The next entry looks at the interrupt lines.
    look: bool,
    effects: Vec<Effect>,
    noise: Noise,
    host: Dice,
    /// Steps that the next `run` may take before it is kicked.
    pub(crate) budget: u32,
    /// Steps taken since this was last reset.
    pub(crate) spent: u32,
    /// Time that the guest has computed.
    ran: Ns,
    /// As of the last `save`.
    pub(crate) saved: Option<Snapshot>,
}

impl SimGuest {
    /// `host` is what this host's noise is drawn from.
    pub(crate) fn new(noise: Noise, host: Dice) -> Self {
        SimGuest {
            memory: vec![0; PAGES as usize * PAGE_SIZE],
            dirty: 0,
            stores: Stores::default(),
            regs: Regs::default(),
            look: true,
            effects: Vec::new(),
            noise,
            host,
            budget: u32::MAX,
            spent: 0,
            ran: 0,
            saved: None,
        }
    }

    /// Digests of everything, without any dirty tracking.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let pages = self.memory.chunks(PAGE_SIZE).map(xxh3_64).collect();
        Snapshot { state: xxh3_64(&codec::encode(&self.regs)), pages }
    }

    fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.memory[at..at + N]);
        bytes
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        let last = (at + bytes.len().max(1) - 1) / PAGE_SIZE;
        for page in at / PAGE_SIZE..=last {
            self.dirty |= 1 << page;
            self.stores.open(page);
        }
    }

    fn read_u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.read(at))
    }

    fn read_u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.read(at))
    }

    fn interrupt(&self) -> bool {
        self.regs.timer_fired || !self.regs.received.is_empty() || !self.regs.completed.is_empty()
    }

    fn exit(&mut self, kind: ExitKind) -> Stop {
        self.look = true;
        self.spent += 2;
        self.ran += 2 * STEP;
        Stop::Exit(kind)
    }

    /// One step of the op at the front. `Some`: the guest stops.
    fn obey(&mut self, op: Op) -> Option<Stop> {
        match op {
            Op::Compute(steps) => {
                for left in (1..=steps).rev() {
                    let stop = if self.budget == 0 { Some(Stop::Kicked) } else { self.lands() };
                    if stop.is_some() {
                        self.regs.todo.push_front(Op::Compute(left));
                        return stop;
                    }
                    self.budget -= 1;
                    self.spent += 1;
                    self.ran += STEP;
                    self.compute();
                }
                None
            }
            Op::Exit(kind) => {
                self.mix(kind as u64);
                Some(self.exit(kind))
            }
            Op::Out(effect) => {
                self.submit(effect, 0);
                Some(self.exit(ExitKind::Mmio))
            }
            Op::Flush { id, covers } => {
                self.submit(Effect::DiskFlush { disk: 0, id }, covers);
                Some(self.exit(ExitKind::Mmio))
            }
            Op::Timer(after) => {
                self.regs.deadline = Some(self.regs.now + after);
                Some(self.exit(ExitKind::Mmio))
            }
            Op::Noise(kind) => {
                self.suffer(kind);
                None
            }
            Op::Halt => {
                self.regs.halted = true;
                Some(self.exit(ExitKind::Halt))
            }
            Op::Return => {
                self.regs.handling = false;
                self.interrupt().then(|| self.exit(ExitKind::Window))
            }
        }
    }

    fn submit(&mut self, effect: Effect, covers: u32) {
        if disk_id(&effect).is_some() {
            self.regs.pending.push((effect.clone(), covers));
        }
        self.effects.push(effect);
    }
}

impl SimGuest {
    fn enter(&mut self) -> Result<Stop, MachineFailure> {
        if self.waits() {
            return Err(MachineFailure("entered while it waits".to_owned()));
        }
        if std::mem::take(&mut self.look) && self.interrupt() && !self.regs.handling {
            self.regs.halted = false;
            self.handle();
        }
        if self.regs.halted {
            return Err(MachineFailure("woken without an interrupt".to_owned()));
        }
        loop {
            let Some(op) = self.regs.todo.pop_front() else {
                self.plan();
                continue;
            };
            let stop = self.obey(op);
            if self.stores.is_missed() {
                return Ok(Stop::Missed);
            }
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }
}

impl Machine for SimGuest {
    fn run(&mut self) -> Result<Stop, MachineFailure> {
        self.stores.search(Search::Nothing);
        self.enter()
    }

    fn has_landings(&self) -> bool {
        self.noise.landings
    }

    fn seek(&mut self) -> Result<Stop, MachineFailure> {
        self.stores.search(Search::Any);
        self.enter()
    }

    fn find(&mut self, landing: Landing, _: u32) -> Result<Stop, MachineFailure> {
        self.stores.search(Search::For(landing));
        self.enter()
    }

    fn protect(&mut self, pages: &[Page]) -> Result<(), MachineFailure> {
        self.stores.protect(pages);
        Ok(())
    }

    fn first_stores(&mut self) -> Result<u64, MachineFailure> {
        Ok(self.stores.first_stores())
    }

    fn open_pages(&mut self) -> Result<Vec<Page>, MachineFailure> {
        Ok(self.stores.open_pages())
    }

    fn run_time(&self) -> Ns {
        self.ran
    }

    fn waits(&self) -> bool {
        self.regs.halted && !self.interrupt()
    }

    fn place(&mut self, stimulus: &Stimulus) -> Result<(), MachineFailure> {
        self.look = true;
        match stimulus {
            Stimulus::Time(now) => {
                if *now < self.regs.now {
                    return Err(MachineFailure(format!("time goes back from {} to {now}", self.regs.now)));
                }
                self.regs.now = *now;
                if self.regs.deadline.take_if(|deadline| *deadline <= *now).is_some() {
                    self.regs.timer_fired = true;
                }
            }
            Stimulus::Frame { frame, .. } => self.regs.received.push_back(frame.clone()),
            Stimulus::DiskDone { id, ok, data, .. } => {
                if !self.regs.pending.iter().any(|(effect, _)| disk_id(effect) == Some(*id)) {
                    return Err(MachineFailure(format!("disk request {id} is not outstanding")));
                }
                if self.regs.completed.iter().any(|(done, ..)| done == id) {
                    return Err(MachineFailure(format!("disk request {id} is completed twice")));
                }
                self.regs.completed.push_back((*id, *ok, data.clone()));
            }
        }
        Ok(())
    }

    fn reevaluate(&mut self) {
        self.look = true;
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn outstanding_disk(&self) -> Vec<Effect> {
        let completed =
            |effect: &Effect| self.regs.completed.iter().any(|(id, ..)| disk_id(effect) == Some(*id));
        self.regs.pending.iter().filter(|(effect, _)| !completed(effect)).map(|(e, _)| e.clone()).collect()
    }

    fn next_deadline(&self) -> Option<Ns> {
        self.regs.deadline
    }

    fn guest_now(&self) -> Ns {
        self.regs.now
    }

    fn page_count(&self) -> Page {
        PAGES
    }

    fn take_dirty(&mut self) -> Result<Vec<Page>, MachineFailure> {
        let dirty = std::mem::take(&mut self.dirty);
        self.stores.protect_all();
        Ok((0..PAGES).filter(|page| dirty & (1 << page) != 0).collect())
    }

    fn read_page(&self, page: Page, out: &mut PageBytes) {
        let at = page as usize * PAGE_SIZE;
        out.copy_from_slice(&self.memory[at..at + PAGE_SIZE]);
    }

    fn write_page(&mut self, page: Page, bytes: &PageBytes) {
        self.write(page as usize * PAGE_SIZE, bytes);
    }

    fn save(&mut self) -> Result<Vec<u8>, MachineFailure> {
        self.saved = Some(self.snapshot());
        Ok(codec::encode(&self.regs))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), MachineFailure> {
        self.regs = codec::decode(state).map_err(|error| MachineFailure(error.to_string()))?;
        self.look = true;
        Ok(())
    }

    fn boot(&mut self) -> Result<(), MachineFailure> {
        self.start();
        Ok(())
    }
}

/// The request id of a read or flush.
fn disk_id(effect: &Effect) -> Option<u64> {
    match effect {
        Effect::DiskRead { id, .. } | Effect::DiskFlush { id, .. } => Some(*id),
        _ => None,
    }
}
