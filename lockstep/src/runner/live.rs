//! A guest that runs for real: alone, or as the primary of a pair, which differs only in the log.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_128;

use super::clock::GuestClock;
use super::search::{Search, SeekLimit};
use super::warm::Warm;
use super::{Level, Limits, Mode, Runner, Wait};
use crate::Ns;
use crate::log::{Effect, Event, ExitKind, LogItem, Place, Position};
use crate::machine::{
    Command, DELAYS_MAX, Delivery, Landing, Machine, MachineFailure, Report, Stimulus, Stop,
};

/// Deliveries that may wait for a guest that runs alone.
const DELIVERIES_MAX: usize = 1024;

/// A running guest.
pub(super) struct Live {
    /// Present: every event is logged, outputs wait elsewhere.
    log: Option<Log>,
    deliveries: VecDeque<Delivery>,
    seal_wanted: bool,
    stalled: bool,
    /// Where the guest stands, if that is a place: where its last stop, the start, or a seal left it.
    at: Option<At>,
    /// Places since the log began: exits, landings, asynchronous seals.
    stops: u64,
    warm: Warm,
    /// Something is due and no position has come since then.
    search: Option<Search>,
    seek_limit: SeekLimit,
    /// How long after the last announced position a mark is sought, in a guest without exits: less while landings
    /// do not come, because later there are still fewer.
    land: Ns,
    /// How long landings of this epoch were sought for.
    delays: Vec<Ns>,
    /// Host time of the last published guest time.
    published: Ns,
    /// The guest asked for a reset or power-off: it is not entered again.
    ended: bool,
}

/// A place without the count of exits.
#[derive(Clone, Copy)]
enum At {
    Exit(ExitKind),
    Landing(Landing),
}

impl At {
    /// The start of a guest, of a log, or of an epoch.
    const START: At = At::Exit(ExitKind::Halt);

    fn place(self, exits: u64) -> Place {
        match self {
            At::Exit(kind) => Place::Exit { exits, kind },
            At::Landing(Landing { page, rip }) => Place::Landing { exits, page: u64::from(page), rip },
        }
    }
}

/// What the secondary was told.
struct Log {
    index: u64,
    /// The stop that was announced last.
    announced: u64,
    announced_at: Ns,
    /// The machine's count there.
    first_stores: u64,
}

impl Live {
    pub(super) fn alone(limits: &Limits) -> Self {
        Live {
            log: None,
            deliveries: VecDeque::new(),
            seal_wanted: false,
            stalled: false,
            at: Some(At::START),
            stops: 0,
            warm: Warm::default(),
            search: None,
            seek_limit: SeekLimit::new(limits.seek),
            land: limits.land,
            delays: Vec::new(),
            published: 0,
            ended: false,
        }
    }

    pub(super) fn with_deliveries(deliveries: VecDeque<Delivery>, limits: &Limits) -> Self {
        Live { deliveries, ..Live::alone(limits) }
    }

    pub(super) fn without_log(self) -> Self {
        Live { log: None, seal_wanted: false, stalled: false, ..self }
    }

    /// A place came, so that nothing is sought any longer.
    fn found(&mut self, run_time: Ns, now: Ns) {
        let Some(search) = self.search.take() else { return };
        self.seek_limit.found(&search, run_time);
        if matches!(self.at, Some(At::Landing(_))) && self.delays.len() < DELAYS_MAX {
            self.delays.push(now.saturating_sub(search.since));
        }
    }

    /// None came.
    fn failed(&mut self, limits: &Limits) {
        self.seek_limit.failed();
        self.warm.failed();
        self.land = (self.land / 2).max(limits.land / 4);
    }

    fn due<M: Machine>(&self, machine: &M, clock: GuestClock, now: Ns) -> bool {
        let timer = machine.next_deadline().is_some_and(|deadline| deadline <= clock.at(now));
        timer || !self.deliveries.is_empty()
    }

    /// When a guest that runs without exits is to be stopped for a mark alone, so that the secondary can follow.
    fn mark_at<M: Machine>(&self, machine: &M, level: Level) -> Option<Ns> {
        let log = self.log.as_ref().filter(|_| machine.has_landings() && level == Level::Lockstep);
        log.map(|log| log.announced_at + self.land)
    }

    /// `blocked`: an epoch is sealed and unacknowledged, so that no other can end; its commit comes as a
    /// command, with a kick of its own.
    pub(super) fn kick_at<M: Machine>(
        &self,
        machine: &M,
        clock: GuestClock,
        limits: &Limits,
        blocked: bool,
    ) -> Option<Ns> {
        if let Some(search) = &self.search {
            return (!blocked).then_some(search.check_at);
        }
        let timer = machine.next_deadline().and_then(|deadline| clock.host_time_of(deadline));
        let heartbeat = Some(self.published + limits.heartbeat);
        let mark = self.mark_at(machine, limits.level);
        timer.into_iter().chain(heartbeat).chain(mark).min()
    }
}

impl<M: Machine> Runner<M> {
    pub(super) fn obey_live(
        &mut self,
        command: Command,
        reports: &mut Vec<Report>,
    ) -> Result<(), MachineFailure> {
        let Mode::Live(live) = &mut self.mode else { return Ok(()) };
        match command {
            // While a log is written the core bounds what waits; alone, a full receive ring drops.
            Command::Deliver(Delivery::Frame { .. })
                if live.log.is_none() && live.deliveries.len() >= DELIVERIES_MAX => {}
            Command::Deliver(delivery) => live.deliveries.push_back(delivery),
            Command::Seal => live.seal_wanted = live.log.is_some(),
            Command::Stall(on) => live.stalled = on,
            Command::Repair { theirs, .. } => {
                if let Some((repair, moved)) = self.ledger.repair(&self.machine, &theirs) {
                    reports.push(Report::Repair { repair, moved });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the fill: the secondary gets all that is left, and the log begins.
    pub(super) fn fill_finish(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<(), MachineFailure> {
        // What was delivered before the log began belongs before it: the secondary never hears of it.
        self.machine.reevaluate();
        self.place_due(Place::Async { exits: self.exits }, now, reports)?;
        let Mode::Live(live) = &mut self.mode else { return Ok(()) };
        let (pages, _) = self.ledger.fill_dirty(&mut self.machine, u32::MAX)?;
        let state = self.machine.save()?;
        self.machine.reevaluate();
        self.exits = 0;
        self.epoch = 1;
        live.log = Some(Log {
            index: 0,
            announced: 0,
            announced_at: now,
            first_stores: self.machine.first_stores()?,
        });
        live.at = Some(At::START);
        live.stops = 0;
        live.search = None;
        live.delays.clear();
        reports.push(Report::FillFinished { pages, state });
        Ok(())
    }

    pub(super) fn live_turn(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<Wait, MachineFailure> {
        let Mode::Live(live) = &self.mode else { return Ok(Wait::Command) };
        if let Some(at) = live.at {
            self.attend(at.place(self.exits), now, reports)?;
        } else if !self.attend_between_exits(now, reports)? {
            return self.enter(now, reports);
        }
        let Mode::Live(live) = &mut self.mode else { return Ok(Wait::Command) };
        if live.stalled || live.ended {
            return Ok(Wait::Command);
        }
        if self.machine.waits() {
            self.announce_idle(now, reports)?;
            let deadline = self.machine.next_deadline().and_then(|guest| self.clock.host_time_of(guest));
            return Ok(deadline.map_or(Wait::Command, Wait::Until));
        }
        self.enter(now, reports)
    }

    /// At a deterministic position: seal if wanted, then place what is due.
    fn attend(&mut self, place: Place, now: Ns, reports: &mut Vec<Report>) -> Result<(), MachineFailure> {
        self.seal_if_wanted(place, now, reports)?;
        let Mode::Live(live) = &mut self.mode else { return Ok(()) };
        live.found(self.machine.run_time(), now);
        let stale = now >= live.published + self.limits.mark && !self.machine.waits();
        if stale || live.due(&self.machine, self.clock, now) {
            self.place_due(place, now, reports)?;
        } else if let Some(log) = &mut live.log
            && log.announced != live.stops
            && now >= log.announced_at + self.limits.mark
        {
            reports.push(Report::Log(vec![log.announce(
                live.stops,
                place,
                self.machine.first_stores()?,
                now,
            )]));
        }
        Ok(())
    }

    /// After a kick: nothing may be placed unless the guest is alone, or no exit has come for too long.
    /// Says whether the guest now stands at a position.
    fn attend_between_exits(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<bool, MachineFailure> {
        let Mode::Live(live) = &mut self.mode else { return Ok(false) };
        let heartbeat = now >= live.published + self.limits.heartbeat;
        let wanted = live.seal_wanted || heartbeat || live.due(&self.machine, self.clock, now);
        let mark = live.stalled || live.mark_at(&self.machine, self.limits.level).is_some_and(|at| now >= at);
        if !wanted && !mark {
            return Ok(false);
        }
        if live.log.is_some() && self.limits.level == Level::Checkpoint {
            // Nobody has to find this place: events go anywhere, and so do seals.
            self.seal_if_wanted(Place::Async { exits: self.exits }, now, reports)?;
        } else if live.log.is_some() {
            let ran = self.machine.run_time();
            let search = live.search.get_or_insert_with(|| live.seek_limit.begin(ran, now));
            if self.ledger.open_epoch().is_some() || !search.is_over(ran, now) {
                return Ok(false);
            }
            live.failed(&self.limits);
            if !wanted {
                // No place for a mark alone: a loop that dirties nothing new. Again later.
                live.search = None;
                if let Some(log) = &mut live.log {
                    log.announced_at = now;
                }
                return Ok(false);
            }
            live.seal_wanted = true;
            self.seal_if_wanted(Place::Async { exits: self.exits }, now, reports)?;
        }
        // The next entry is the same on both sides: it begins with a look at the interrupt controller.
        self.machine.reevaluate();
        self.place_due(Place::Async { exits: self.exits }, now, reports)?;
        if let Mode::Live(live) = &mut self.mode {
            live.search = None;
            live.at = Some(At::START);
        }
        Ok(true)
    }

    fn seal_if_wanted(
        &mut self,
        place: Place,
        now: Ns,
        reports: &mut Vec<Report>,
    ) -> Result<(), MachineFailure> {
        let Mode::Live(live) = &mut self.mode else { return Ok(()) };
        let Some(log) = &mut live.log else { return Ok(()) };
        if !live.seal_wanted || self.ledger.open_epoch().is_some() {
            return Ok(());
        }
        live.seal_wanted = false;
        if matches!(place, Place::Async { .. }) {
            live.stops += 1;
        }
        if log.announced != live.stops {
            reports.push(Report::Log(vec![log.announce(
                live.stops,
                place,
                self.machine.first_stores()?,
                now,
            )]));
        }
        let position = Position { index: log.index, place, dirtied: 0 };
        let mut sealed = self.ledger.seal(&mut self.machine, self.epoch, position, self.exits, true)?;
        sealed.delays = std::mem::take(&mut live.delays);
        self.epoch += 1;
        reports.push(Report::Sealed(sealed));
        Ok(())
    }

    /// Publishes the time, then places every delivery.
    fn place_due(&mut self, place: Place, now: Ns, reports: &mut Vec<Report>) -> Result<(), MachineFailure> {
        let Mode::Live(live) = &mut self.mode else { return Ok(()) };
        let mut items = Vec::new();
        if let Some(log) = &mut live.log
            && log.announced != live.stops
        {
            items.push(log.announce(live.stops, place, self.machine.first_stores()?, now));
        }
        let time = self.clock.at(now).max(self.machine.guest_now());
        live.published = now;
        self.machine.place(&Stimulus::Time(time))?;
        items.push(LogItem::Place(Event::Time(time)));
        for delivery in live.deliveries.drain(..) {
            let (event, stimulus) = split(delivery);
            self.machine.place(&stimulus)?;
            items.push(LogItem::Place(event));
        }
        if live.log.is_some() {
            reports.push(Report::Log(items));
        }
        self.take_effects(now, reports)?;
        Ok(())
    }

    /// An idle guest has nothing else to say: the secondary may come up to here.
    fn announce_idle(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<(), MachineFailure> {
        let exits = self.exits;
        let Mode::Live(Live { log: Some(log), at: Some(at), stops, .. }) = &mut self.mode else {
            return Ok(());
        };
        if log.announced != *stops {
            reports.push(Report::Log(vec![log.announce(
                *stops,
                at.place(exits),
                self.machine.first_stores()?,
                now,
            )]));
        }
        Ok(())
    }

    fn enter(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<Wait, MachineFailure> {
        let Mode::Live(live) = &mut self.mode else { return Ok(Wait::Command) };
        let seek = live.search.is_some() && live.log.is_some() && self.machine.has_landings();
        let stop = if seek { self.machine.seek()? } else { self.machine.run()? };
        live.at = match stop {
            Stop::Exit(kind) => Some(At::Exit(kind)),
            Stop::Landing(landing) => Some(At::Landing(landing)),
            Stop::Kicked | Stop::Missed => None,
            Stop::Shutdown => Some(At::START),
        };
        match stop {
            Stop::Kicked | Stop::Missed => return Ok(Wait::Again),
            Stop::Landing(landing) => return self.landed(landing, now, reports),
            Stop::Shutdown => {
                live.ended = true;
                reports.push(Report::Effects(vec![Effect::Reset]));
            }
            Stop::Exit(_) => {}
        }
        live.stops += 1;
        self.exits += 1;
        self.take_effects(now, reports)?;
        Ok(Wait::Again)
    }

    /// At a landing the secondary is told at once, and both sides protect the same warm pages again.
    fn landed(
        &mut self,
        landing: Landing,
        now: Ns,
        reports: &mut Vec<Report>,
    ) -> Result<Wait, MachineFailure> {
        let open = self.machine.open_pages()?;
        let Mode::Live(live) = &mut self.mode else { return Ok(Wait::Command) };
        live.stops += 1;
        live.land = (live.land + live.land / 32).min(self.limits.land);
        let warm = live.warm.choose(&open, landing.page);
        let Some(log) = &mut live.log else { return Ok(Wait::Again) };
        let mut items = vec![log.announce(
            live.stops,
            At::Landing(landing).place(self.exits),
            self.machine.first_stores()?,
            now,
        )];
        if !warm.is_empty() {
            self.machine.protect(&warm)?;
            items.push(LogItem::Protect(warm));
        }
        reports.push(Report::Log(items));
        Ok(Wait::Again)
    }

    fn take_effects(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<(), MachineFailure> {
        let effects = self.machine.take_effects();
        if effects.is_empty() {
            return Ok(());
        }
        let exits = self.exits;
        let Mode::Live(live) = &mut self.mode else { return Ok(()) };
        let stops = live.stops;
        live.ended |= effects.iter().any(|effect| matches!(effect, Effect::Reset | Effect::PowerOff));
        // Replay may begin before the seal comes.
        if let (Some(log), Some(at)) = (&mut live.log, live.at)
            && log.announced != stops
            && effects.iter().any(Effect::is_output)
        {
            reports.push(Report::Log(vec![log.announce(
                stops,
                at.place(exits),
                self.machine.first_stores()?,
                now,
            )]));
        }
        reports.push(Report::Effects(effects));
        Ok(())
    }
}

impl Log {
    /// `first_stores`: the machine's count.
    fn announce(&mut self, stop: u64, place: Place, first_stores: u64, now: Ns) -> LogItem {
        let dirtied = u32::try_from(first_stores.saturating_sub(self.first_stores)).unwrap_or(u32::MAX);
        self.first_stores = first_stores;
        self.index += 1;
        self.announced = stop;
        self.announced_at = now;
        LogItem::RunTo(Position { index: self.index, place, dirtied })
    }
}

/// The log's entry for a delivery, and what the machine is given.
fn split(delivery: Delivery) -> (Event, Stimulus) {
    match delivery {
        Delivery::Frame { id, nic, frame } => (Event::Frame(id), Stimulus::Frame { nic, frame }),
        Delivery::DiskDone { disk, id, ok, data } => {
            let hash = if data.is_empty() { 0 } else { xxh3_128(&data) };
            (Event::DiskDone { disk, id, ok, hash }, Stimulus::DiskDone { disk, id, ok, data })
        }
    }
}
