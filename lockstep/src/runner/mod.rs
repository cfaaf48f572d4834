//! The vCPU thread's driver: owns the machine, obeys commands, answers with reports.
//!
//! It is sans-I/O like the core: the thread (or the simulator) hands in the time, runs [`Runner::turn`]
//! while it says so, and kicks a guest that runs past [`Runner::kick_at`].
//!
//! ```text
//! Idle ── Boot ──▶ Live(alone) ── FillFinish ──▶ Live(log) ── GoLive ──▶ Live(alone)
//!   └─── Adopt ──▶ Following ──── GoLive ──────────────────────────────────▲
//! ```

mod clock;
mod follow;
mod ledger;
mod live;
mod search;
#[cfg(test)]
mod tests;
mod warm;

use clock::GuestClock;
use follow::Following;
use ledger::Ledger;
use live::Live;

use crate::Ns;
use crate::log::Epoch;
use crate::machine::{Command, Machine, MachineFailure, Report};

/// When the thread should call [`Runner::turn`] again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At once.
    Again,
    /// At this host time, or after the next command.
    Until(Ns),
    /// After the next command.
    Command,
}

/// What the secondary does for its protection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// It runs the same guest on the same events, and takes what differs.
    #[default]
    Lockstep,
    /// It executes nothing and takes the state of each epoch; the primary may then end an epoch anywhere.
    Checkpoint,
}

impl Level {
    /// As it stands in configurations and in the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Lockstep => "lockstep",
            Level::Checkpoint => "checkpoint",
        }
    }

    /// The level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Level::Lockstep, Level::Checkpoint].into_iter().find(|level| level.name() == name)
    }
}

/// Limits of the driver. All times are host nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An event or seal that found no place for this long ends the epoch asynchronously. Guest run time, to begin
    /// with: see `search.rs`.
    pub seek: Ns,
    /// A position is announced at least this often while the guest exits.
    pub mark: Ns,
    /// A guest that runs without exits gets the time at least this often.
    pub heartbeat: Ns,
    /// A guest that runs without exits, on a machine with landings, gets a mark at least this often.
    pub land: Ns,
    /// A replay that does not come to its next position for this long is lost; a quarter of it at a takeover.
    pub replay: Ns,
    /// Equal on both sides.
    pub level: Level,
    /// Deliberate fault: a secondary leaves its last dirty page out of what it compares.
    #[cfg(feature = "sabotage")]
    pub forget_dirty_page: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            seek: 1_000_000,
            mark: 1_000_000,
            heartbeat: 10_000_000,
            land: 2_000_000,
            replay: 400_000_000,
            level: Level::Lockstep,
            #[cfg(feature = "sabotage")]
            forget_dirty_page: false,
        }
    }
}

enum Mode {
    /// No guest, or a guest whose log ended and that waits for the core's decision.
    Idle,
    Live(Live),
    Following(Following),
}

/// One machine and its driver.
pub struct Runner<M> {
    machine: M,
    limits: Limits,
    ledger: Ledger,
    mode: Mode,
    /// Deterministic exits since the fill or the last repair.
    exits: u64,
    /// The epoch that runs.
    epoch: Epoch,
    clock: GuestClock,
    paused: bool,
    failed: bool,
}

impl<M: Machine> Runner<M> {
    /// A driver for a machine that was not booted and whose memory is all zeroes.
    pub fn new(machine: M, limits: Limits) -> Self {
        let ledger = Ledger::new(machine.page_count());
        Runner {
            machine,
            limits,
            ledger,
            mode: Mode::Idle,
            exits: 0,
            epoch: 0,
            clock: GuestClock::frozen(0),
            paused: false,
            failed: false,
        }
    }

    /// The machine, for inspection.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, for inspection that needs its own bookkeeping.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Obeys one command at host time `now`.
    pub fn command(&mut self, command: Command, now: Ns, reports: &mut Vec<Report>) {
        if self.failed {
            return;
        }
        if let Err(failure) = self.obey(command, now, reports) {
            self.fail(&failure, reports);
        }
    }

    /// Lets the machine do a piece of work at host time `now`.
    pub fn turn(&mut self, now: Ns, reports: &mut Vec<Report>) -> Wait {
        if self.failed || self.paused {
            return Wait::Command;
        }
        let result = match &mut self.mode {
            Mode::Idle => Ok(Wait::Command),
            Mode::Live(_) => self.live_turn(now, reports),
            Mode::Following(_) => self.follow_turn(now, reports),
        };
        result.unwrap_or_else(|failure| {
            self.fail(&failure, reports);
            Wait::Command
        })
    }

    /// Host time at which a guest that is still running should be kicked; `None`: no need.
    pub fn kick_at(&self) -> Option<Ns> {
        match &self.mode {
            Mode::Live(live) if !self.paused => {
                live.kick_at(&self.machine, self.clock, &self.limits, self.ledger.open_epoch().is_some())
            }
            Mode::Following(follow) if !self.paused => follow.kick_at(&self.limits),
            _ => None,
        }
    }

    fn fail(&mut self, failure: &MachineFailure, reports: &mut Vec<Report>) {
        self.failed = true;
        reports.push(Report::Failed(failure.to_string()));
    }

    fn obey(&mut self, command: Command, now: Ns, reports: &mut Vec<Report>) -> Result<(), MachineFailure> {
        match command {
            Command::Boot => {
                self.machine.boot()?;
                self.clock = GuestClock::running(0, now);
                self.mode = Mode::Live(Live::alone(&self.limits));
            }
            Command::Pause if self.paused => {}
            Command::Pause => {
                self.paused = true;
                self.clock.freeze(now);
                if let Mode::Following(follow) = &mut self.mode {
                    follow.freeze(now);
                }
            }
            Command::Resume if !self.paused => {}
            Command::Resume => {
                self.paused = false;
                match &mut self.mode {
                    Mode::Live(_) => self.clock.thaw(now),
                    Mode::Following(follow) => follow.thaw(now),
                    Mode::Idle => {}
                }
            }
            Command::GoLive => self.go_live(now),
            Command::Commit(epoch) => self.ledger.commit(epoch),
            Command::Reopen(epoch) => self.reopen(epoch),
            Command::Deliver(_) | Command::Seal | Command::Stall(_) | Command::Repair { .. } => {
                self.obey_live(command, reports)?;
            }
            Command::FillStart
            | Command::FillScan { .. }
            | Command::FillDirty { .. }
            | Command::FillFinish => self.obey_fill(&command, now, reports)?,
            Command::Load(_)
            | Command::Adopt { .. }
            | Command::EarlyFrame { .. }
            | Command::ReadData { .. }
            | Command::Follow(_)
            | Command::Confirm(_)
            | Command::Apply(_)
            | Command::Drain => self.obey_follow(command, now, reports)?,
        }
        Ok(())
    }

    fn obey_fill(
        &mut self,
        command: &Command,
        now: Ns,
        reports: &mut Vec<Report>,
    ) -> Result<(), MachineFailure> {
        match command {
            Command::FillStart => self.ledger.fill_start(&mut self.machine)?,
            Command::FillScan { from, max } => {
                let (pages, next) = self.ledger.fill_scan(&self.machine, *from, *max);
                reports.push(Report::FillPages { pages, next });
            }
            Command::FillDirty { max } => {
                let (pages, left) = self.ledger.fill_dirty(&mut self.machine, *max)?;
                reports.push(Report::FillDirty { pages, left });
            }
            _ => self.fill_finish(now, reports)?,
        }
        Ok(())
    }

    fn reopen(&mut self, epoch: Epoch) {
        if self.ledger.open_epoch() != Some(epoch) {
            return;
        }
        self.ledger.reopen();
        // The same epoch will be sealed again.
        self.epoch = epoch;
        if let Mode::Following(follow) = &mut self.mode {
            follow.lose();
        }
    }

    fn go_live(&mut self, now: Ns) {
        match std::mem::replace(&mut self.mode, Mode::Idle) {
            Mode::Live(live) => self.mode = Mode::Live(live.without_log()),
            Mode::Following(follow) => {
                self.clock = follow.clock_at_takeover(&self.machine, now);
                self.mode = Mode::Live(follow.into_live(&self.limits));
            }
            Mode::Idle => return,
        }
        self.paused = false;
        self.clock.thaw(now);
        self.ledger.reopen();
        self.machine.reevaluate();
    }
}
