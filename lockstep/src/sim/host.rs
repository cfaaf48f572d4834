//! One host: core, driver, disk and durable state, with the channels between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::disk::SimDisk;
use super::guest::{STEP, SimGuest, Snapshot};
use super::rng::Dice;
use super::world::{Event, HOSTS, MS, PAIR, US, World};
use crate::Ns;
use crate::core::{Config, Core, DiskCommand, ExitReason, Input, LocalState, Output, RoleKind, Timing};
use crate::log::Epoch;
use crate::machine::{Command, Report};
use crate::message::Identity;
use crate::runner::{Limits, Runner, Wait};

/// Core, driver and what moves between them; gone when the process ends.
struct Process {
    core: Core,
    runner: Runner<SimGuest>,
    orders: VecDeque<Command>,
    /// The driver works until then.
    busy_until: Ns,
    turn_token: u64,
    tick_token: u64,
    tick_at: Option<Ns>,
    /// Ticks in a row that left a deadline in the past.
    late_ticks: u32,
    /// Nothing that is sent later through these channels arrives before.
    orders_ready: Ns,
    reports_ready: Ns,
    disk_ready: Ns,
    writes_ready: Ns,
}

/// A host.
pub(crate) struct Host {
    pub(crate) index: usize,
    pub(crate) name: String,
    /// Counts the process's starts.
    pub(crate) life: u32,
    process: Option<Box<Process>>,
    /// Frozen: nothing of this host happens before.
    pub(crate) frozen_until: Ns,
    /// This host's monotonic clock shows so much more.
    clock: Ns,
    pub(crate) disk: SimDisk,
    /// Content of a disk that was destroyed, for a checker, until the host is in use again.
    pub(crate) ghost: Option<Vec<u8>>,
    /// What the state directory holds.
    pub(crate) local: LocalState,
    pub(crate) dialing: bool,
    pub(crate) asks: BTreeSet<u64>,
    /// Both sides' states at the seals, as far as they are still to be compared.
    pub(crate) snapshots: BTreeMap<Epoch, Snapshot>,
    /// The process dies in the middle of its next outputs.
    pub(crate) dies_in_step: bool,
}

impl Host {
    pub(crate) fn new(world: &mut World, index: usize, name: &str) -> Self {
        Host {
            index,
            name: name.to_owned(),
            life: 0,
            process: None,
            frozen_until: 0,
            clock: world.dice.host.range(0, 1_000_000) * MS,
            disk: SimDisk::new(),
            ghost: None,
            local: LocalState::default(),
            dialing: false,
            asks: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            dies_in_step: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn role(&self) -> Option<RoleKind> {
        self.process.as_ref().map(|process| process.core.role())
    }

    pub(crate) fn guest(&self) -> Option<&SimGuest> {
        self.process.as_ref().map(|process| process.runner.machine())
    }

    /// Believes that it is the primary of a protected pair, and is not frozen.
    fn is_protecting(&self, now: Ns) -> bool {
        self.process.as_ref().is_some_and(|process| {
            process.core.role() == RoleKind::Primary
                && self.frozen_until <= now
                && process.core.status(now).protected
        })
    }

    pub(crate) fn describe(&self) -> String {
        let role = self.role().map_or("down", RoleKind::name);
        format!("{} {role}", self.name)
    }
}

fn identity() -> Identity {
    Identity {
        pair: PAIR.to_owned(),
        table: 1,
        guest: 2,
        settings: Vec::new(),
        pages: super::guest::PAGES,
        disks: vec![super::guest::SECTORS],
    }
}

impl World {
    fn process(&mut self, host: usize) -> Option<&mut Process> {
        self.hosts[host].process.as_deref_mut()
    }

    fn clock(&self, host: usize) -> Ns {
        self.now + self.hosts[host].clock
    }

    /// Starts a host's process, with what its state directory and disk hold.
    pub(crate) fn start(&mut self, host: usize) {
        if self.hosts[host].is_up() {
            return;
        }
        let life = self.hosts[host].life + 1;
        let noise = Dice::new(self.seed, 1_000 * (host as u64 + 1) + u64::from(life));
        let config = Config {
            host: self.hosts[host].name.clone(),
            rank: host as u32,
            identity: identity(),
            timing: Timing::default(),
            attempt_base: self.dice.host.id(),
            #[cfg(feature = "sabotage")]
            sabotage: self.core_sabotage(),
        };
        let now = self.clock(host);
        let limits = self.limits();
        let (core, outputs) = Core::new(config, self.hosts[host].local.clone(), now);
        let process = Process {
            core,
            runner: Runner::new(SimGuest::new(self.noise, noise), limits),
            orders: VecDeque::new(),
            busy_until: self.now,
            turn_token: 0,
            tick_token: 0,
            tick_at: None,
            late_ticks: 0,
            orders_ready: 0,
            reports_ready: 0,
            disk_ready: 0,
            writes_ready: 0,
        };
        let slot = &mut self.hosts[host];
        slot.life = life;
        slot.process = Some(Box::new(process));
        slot.frozen_until = 0;
        slot.dies_in_step = false;
        slot.asks.clear();
        slot.snapshots.clear();
        self.check.host_started(host);
        self.trace(|world| format!("{} starts", world.hosts[host].name));
        for output in outputs {
            self.output(host, output);
        }
        self.plan_tick(host);
    }

    #[cfg(feature = "sabotage")]
    fn core_sabotage(&self) -> Option<crate::core::Sabotage> {
        match self.options.sabotage? {
            super::SimSabotage::ReleaseEarly => Some(crate::core::Sabotage::ReleaseEarly),
            super::SimSabotage::NoArbitration => Some(crate::core::Sabotage::NoArbitration),
            super::SimSabotage::ForgetDirtyPage => None,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            #[cfg(feature = "sabotage")]
            forget_dirty_page: self.options.sabotage == Some(super::SimSabotage::ForgetDirtyPage),
            level: self.level,
            ..Limits::default()
        }
    }

    /// The process is gone. What its disk and state directory hold stays.
    pub(crate) fn stop(&mut self, host: usize) {
        self.hosts[host].process = None;
        self.hosts[host].dialing = false;
        self.hosts[host].disk.process_died();
    }

    /// One step of a host's core.
    pub(crate) fn step(&mut self, host: usize, input: Input) {
        let now = self.clock(host);
        self.check_input(host, &input);
        if !matches!(input, Input::Tick | Input::Heard { .. }) {
            self.trace(|world| format!("{} <- {}", world.hosts[host].name, shorten(&input)));
        }
        let Some(process) = self.process(host) else { return };
        let before = process.core.role();
        let mut outputs = process.core.step(input, now);
        let after = process.core.role();
        if before != after {
            self.role_changed(host, before, after);
        }
        let dies = self.hosts[host].dies_in_step && outputs.len() > 1;
        if dies {
            let keep = self.dice.fault.index(outputs.len());
            outputs.truncate(keep);
        }
        for output in outputs {
            self.output(host, output);
        }
        if dies {
            self.crash(host);
        }
        self.plan_tick(host);
    }

    fn role_changed(&mut self, host: usize, before: RoleKind, after: RoleKind) {
        self.transitions.insert((before, after));
        self.note(&[host as u8, before as u8, after as u8]);
        self.trace(|world| format!("{} {} -> {}", world.hosts[host].name, before.name(), after.name()));
        if after == RoleKind::Arbitrating && self.now > self.plan.calm_at {
            let text = format!(
                "{} as {} lost its peer, and nothing went wrong",
                self.hosts[host].name,
                before.name()
            );
            self.violate("progress", text);
        }
        match (before, after) {
            (RoleKind::TakingOver, _) => self.stats.takeovers += 1,
            (RoleKind::Arbitrating, RoleKind::Holding) => self.stats.holds += 1,
            (RoleKind::Holding, RoleKind::Primary) => self.stats.resumes += 1,
            _ => {}
        }
    }

    fn plan_tick(&mut self, host: usize) {
        let (clock, now) = (self.hosts[host].clock, self.now);
        let life = self.hosts[host].life;
        let Some(process) = self.process(host) else { return };
        let due = process.core.next_deadline().map(|at| at.saturating_sub(clock));
        // A deadline that stays in the past must not stop time.
        let due = due.map(|at| if process.late_ticks > 0 { at.max(now + 200 * US) } else { at.max(now) });
        if due == process.tick_at {
            return;
        }
        process.tick_at = due;
        process.tick_token += 1;
        let token = process.tick_token;
        if let Some(at) = due {
            self.schedule(at, Event::Tick { host, life, token });
        }
    }

    pub(crate) fn tick(&mut self, host: usize, token: u64) {
        let now = self.clock(host);
        let Some(process) = self.process(host) else { return };
        if process.tick_token != token {
            return;
        }
        process.tick_at = None;
        if process.core.next_deadline().is_some_and(|at| at <= now) {
            self.step(host, Input::Tick);
        }
        let Some(process) = self.process(host) else { return };
        let late = process.core.next_deadline().is_some_and(|at| at <= now);
        process.late_ticks = if late { process.late_ticks + 1 } else { 0 };
        if process.late_ticks == 100 {
            let role = self.hosts[host].describe();
            self.violate("failed", format!("{role}: a deadline stays in the past after its tick"));
        }
        self.plan_tick(host);
    }

    fn output(&mut self, host: usize, output: Output) {
        if !self.hosts[host].is_up() {
            return;
        }
        self.check_output(host, &output);
        self.trace(|world| format!("{} -> {}", world.hosts[host].name, shorten(&output)));
        let life = self.hosts[host].life;
        match output {
            Output::Machine(command) => self.order(host, command),
            Output::Send { session, message } => self.send(host, session, &message),
            Output::Close { session } => self.close(host, session),
            Output::Dial(on) => {
                if on && !self.hosts[host].dialing {
                    self.schedule(self.now, Event::Dial { host, life });
                }
                self.hosts[host].dialing = on;
            }
            Output::FrameOut { frame, .. } => {
                self.stats.frames += 1;
                self.note(&frame);
                self.send_to_client(host, frame);
            }
            Output::Announce => self.announced(host),
            Output::Disk(command) => {
                let (now, pause) = (self.now, self.disk_time(&command));
                let Some(process) = self.process(host) else { return };
                let at = process.disk_ready.max(now) + pause;
                process.disk_ready = at;
                self.schedule(at, Event::Disk { host, life, command });
            }
            Output::Ask { ticket, ask } => {
                // The edge carries outputs out in order: what was to be made durable before is so first.
                let at = self.process(host).map_or(0, |process| process.writes_ready);
                self.schedule(at, Event::Ask { host, life, ticket, ask });
            }
            Output::Persist { ticket, state } => {
                let pause = self.dice.host.range(100 * US, 3 * MS);
                let now = self.now;
                let Some(process) = self.process(host) else { return };
                let at = process.writes_ready.max(now) + pause;
                process.writes_ready = at;
                self.schedule(at, Event::Written { host, life, ticket, state });
            }
            Output::Notice(notice) => {
                if notice.event == "protected" {
                    self.stats.protected += 1;
                }
                // Nothing but standing still stops a host from replaying for so long while its heartbeats arrive.
                let stood = self.hosts.iter().any(|host| host.frozen_until + 3_000 * MS > self.now);
                if !stood && notice.event == "peer-lost" && notice.text.contains("no acknowledgement") {
                    let text = format!("{}: the replay is stuck: {}", self.hosts[host].name, notice.text);
                    self.violate("progress", text);
                }
            }
            Output::Console(_) => {}
            Output::Exit(reason) => self.ended(host, &reason),
        }
    }

    fn disk_time(&mut self, command: &DiskCommand) -> Ns {
        let slowest = match command {
            DiskCommand::Commit { sync: true, .. } | DiskCommand::Sync => 2 * MS,
            DiskCommand::Read { .. } => self.pace.disk * 300 * US,
            _ => 20 * US,
        };
        self.dice.host.range(2 * US, slowest)
    }

    fn channel_time(&mut self) -> Ns {
        let most = self.pace.channel * 40 * US;
        self.dice.host.range(2 * US, most)
    }

    fn ended(&mut self, host: usize, reason: &ExitReason) {
        self.trouble(0);
        match reason {
            ExitReason::Failed(why) | ExitReason::Mismatch(why) => {
                let text = format!("{} ended: {why}", self.hosts[host].name);
                self.violate("failed", text);
            }
            ExitReason::PoweredOff => {
                if !self.witness.records.get(PAIR).is_some_and(|record| record.stopped) {
                    let text =
                        format!("{} powered off, and the record does not say so", self.hosts[host].name);
                    self.violate("I1", text);
                }
            }
            ExitReason::LostArbitration(_) | ExitReason::Stale(_) => {}
        }
        self.host_gone(host, true, false);
        self.stop(host);
        self.restart_later(host);
    }

    fn order(&mut self, host: usize, command: Command) {
        let (now, pause) = (self.now, self.channel_time());
        let life = self.hosts[host].life;
        let Some(process) = self.process(host) else { return };
        let at = process.orders_ready.max(now + pause);
        process.orders_ready = at;
        self.schedule(at, Event::Command { host, life, command });
    }

    pub(crate) fn order_arrived(&mut self, host: usize, command: Command) {
        let now = self.now;
        let Some(process) = self.process(host) else { return };
        process.orders.push_back(command);
        let at = process.busy_until.max(now);
        self.plan_turn(host, at);
    }

    fn plan_turn(&mut self, host: usize, at: Ns) {
        let life = self.hosts[host].life;
        let Some(process) = self.process(host) else { return };
        process.turn_token += 1;
        let token = process.turn_token;
        self.schedule(at, Event::Turn { host, life, token });
    }

    /// The driver obeys what has arrived, then lets the guest run for a while.
    pub(crate) fn turn(&mut self, host: usize, token: u64) {
        let (now, clock, offset) = (self.now, self.clock(host), self.hosts[host].clock);
        let slice = self.dice.host.range(20, 400) * US;
        let Host { process, snapshots, .. } = &mut self.hosts[host];
        let Some(process) = process.as_deref_mut().filter(|process| process.turn_token == token) else {
            return;
        };
        let mut reports = Vec::new();
        while let Some(command) = process.orders.pop_front() {
            let applies = matches!(command, Command::Apply(_));
            if matches!(command, Command::FillFinish | Command::Adopt { .. }) {
                snapshots.clear();
            }
            process.runner.command(command, clock, &mut reports);
            if applies && let Some(Report::Applied { epoch, .. }) = reports.last() {
                snapshots.insert(*epoch, process.runner.machine().snapshot());
            }
        }
        let slice = process.runner.kick_at().map_or(slice, |at| slice.min(at.saturating_sub(clock)));
        let before = reports.len();
        let guest = process.runner.machine_mut();
        guest.budget = (slice / STEP).clamp(1, 1_000) as u32;
        guest.spent = 0;
        let wait = process.runner.turn(clock, &mut reports);
        let guest = process.runner.machine();
        let sealed = reports[before..].iter().find_map(|report| match report {
            Report::Sealed(sealed) => Some(sealed.epoch),
            _ => None,
        });
        if let (Some(epoch), Some(saved)) = (sealed, &guest.saved) {
            snapshots.insert(epoch, saved.clone());
            snapshots.retain(|old, _| *old + 4 > epoch);
        }
        process.busy_until = now + 3 * US + Ns::from(guest.spent) * STEP;
        let busy_until = process.busy_until;
        self.tell(host, busy_until, reports);
        match wait {
            Wait::Again => self.plan_turn(host, busy_until),
            Wait::Until(at) => self.plan_turn(host, at.saturating_sub(offset).max(busy_until)),
            Wait::Command => {}
        }
    }

    fn tell(&mut self, host: usize, from: Ns, reports: Vec<Report>) {
        let life = self.hosts[host].life;
        for report in reports {
            let pause = self.channel_time();
            let Some(process) = self.process(host) else { return };
            let at = process.reports_ready.max(from + pause);
            process.reports_ready = at;
            self.schedule(at, Event::Core { host, life, input: Input::Machine(report) });
        }
    }

    pub(crate) fn disk(&mut self, host: usize, command: DiskCommand) {
        let life = self.hosts[host].life;
        if let Some(report) = self.hosts[host].disk.obey(command) {
            // The disk thread answers in order, and this pause is the same for all.
            self.schedule(self.now + 10 * US, Event::Core { host, life, input: Input::Disk(report) });
        }
    }

    pub(crate) fn written(&mut self, host: usize, ticket: u64, state: LocalState) {
        self.hosts[host].local = state;
        self.step(host, Input::Persisted { ticket });
    }

    /// The primary of a protected pair, as the record has it too.
    pub(crate) fn protecting(&self) -> Option<usize> {
        let in_sync = self.in_sync();
        let host = (0..HOSTS).find(|host| self.hosts[*host].is_protecting(self.now))?;
        (in_sync.len() == 2 && in_sync.contains(&self.hosts[host].name)).then_some(host)
    }

    /// Hosts that run.
    pub(crate) fn up(&self) -> Vec<usize> {
        (0..HOSTS).filter(|host| self.hosts[*host].is_up()).collect()
    }
}

/// What a line of the trace has room for.
fn shorten(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    if text.len() <= 240 { text } else { format!("{}…", text.chars().take(240).collect::<String>()) }
}
