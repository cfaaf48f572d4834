//! A guest that replays: it is entered only towards a position that the log announced, and stops at it.

use std::collections::{BTreeMap, VecDeque};

use xxhash_rust::xxh3::xxh3_128;

use super::clock::GuestClock;
use super::ledger::ApplyError;
use super::live::Live;
use super::{Level, Limits, Mode, Runner, Wait};
use crate::Ns;
use crate::log::{Effect, Event, ExitKind, FrameId, LogItem, Page, Place, Position, Seal, SealDigest};
use crate::machine::{Command, Delivery, Landing, Machine, MachineFailure, Report, Stimulus, Stop};

/// A secondary's replay.
pub(super) struct Following {
    items: VecDeque<LogItem>,
    phase: Phase,
    early: BTreeMap<FrameId, (u8, Vec<u8>)>,
    /// Early frames whose place was skipped since the replay was lost; gone once the epoch is repaired.
    skipped: Vec<FrameId>,
    reads: BTreeMap<(u8, u64), (bool, Vec<u8>)>,
    draining: bool,
    level: Level,
    /// Of the first stores that the primary counted before a landing, so many are looked at.
    margin: u32,
    /// Guest time as last placed, and the host time at which it arrived.
    time: Option<(Ns, Ns)>,
}

/// The margin starts here, doubles with each landing that was missed, and shrinks by one with each that was not.
const MARGIN_MIN: u32 = 4;
const MARGIN_MAX: u32 = 1024;

enum Phase {
    /// Takes the next entry.
    Reading,
    /// Runs to this position, since this host time.
    Seeking(Position, Ns),
    /// Nothing is replayed up to the next seal: replay failed, or is not wanted.
    Lost,
    /// An epoch is sealed here; waits for the comparison.
    Sealed(SealDigest),
    /// The log ended.
    Drained,
}

impl Phase {
    /// At the beginning of an epoch. A checkpoint is an epoch that nobody tries to replay.
    fn first(level: Level) -> Self {
        match level {
            Level::Lockstep => Phase::Reading,
            Level::Checkpoint => Phase::Lost,
        }
    }
}

enum Placed {
    Done,
    /// Its data is not here yet.
    Waiting,
    Wrong(String),
}

impl Following {
    /// When a guest that is on its way to a position must be looked at.
    pub(super) fn kick_at(&self, limits: &Limits) -> Option<Ns> {
        let limit = if self.draining { limits.replay / 4 } else { limits.replay };
        match self.phase {
            Phase::Seeking(_, since) => Some(since + limit),
            _ => None,
        }
    }

    fn new(level: Level) -> Self {
        Following {
            items: VecDeque::new(),
            phase: Phase::first(level),
            early: BTreeMap::new(),
            skipped: Vec::new(),
            reads: BTreeMap::new(),
            draining: false,
            level,
            margin: MARGIN_MIN,
            time: None,
        }
    }

    /// The epoch was reopened: what follows is only known at its next seal.
    pub(super) fn lose(&mut self) {
        self.phase = Phase::Lost;
    }

    /// Frames that have arrived and were not placed here are placed next, in the order of their arrival.
    pub(super) fn into_live(self, limits: &Limits) -> Live {
        let frame = |(id, (nic, frame))| Delivery::Frame { id, nic, frame };
        Live::with_deliveries(self.early.into_iter().map(frame).collect(), limits)
    }

    /// Guest time stands still from here.
    pub(super) fn freeze(&mut self, now: Ns) {
        if let Some((guest, arrived)) = &mut self.time {
            *guest += now.saturating_sub(*arrived);
            *arrived = now;
        }
    }

    /// Guest time goes on from where it stood.
    pub(super) fn thaw(&mut self, now: Ns) {
        if let Some((_, arrived)) = &mut self.time {
            *arrived = now;
        }
    }

    /// The guest's clock goes on from the last placed value plus the time since that value arrived.
    pub(super) fn clock_at_takeover<M: Machine>(&self, machine: &M, now: Ns) -> GuestClock {
        match self.time {
            Some((guest, arrived)) => GuestClock::running(guest, arrived),
            None => GuestClock::running(machine.guest_now(), now),
        }
    }
}

impl<M: Machine> Runner<M> {
    pub(super) fn obey_follow(
        &mut self,
        command: Command,
        now: Ns,
        reports: &mut Vec<Report>,
    ) -> Result<(), MachineFailure> {
        match command {
            Command::Load(pages) => self
                .ledger
                .load(&mut self.machine, &pages)
                .map_err(|page| MachineFailure(format!("the fill names page {page}, beyond memory")))?,
            Command::Adopt { state } => self.adopt(&state, reports)?,
            Command::EarlyFrame { id, nic, frame } => {
                self.following(|follow| drop(follow.early.insert(id, (nic, frame))));
            }
            Command::ReadData { disk, id, ok, data } => {
                self.following(|follow| drop(follow.reads.insert((disk, id), (ok, data))));
            }
            Command::Follow(items) => self.following(|follow| {
                let time = items.iter().rev().find_map(|item| match item {
                    LogItem::Place(Event::Time(time)) => Some(*time),
                    _ => None,
                });
                follow.time = time.map(|time| (time, now)).or(follow.time);
                follow.items.extend(items);
            }),
            Command::Confirm(epoch) => {
                self.ledger.commit(epoch);
                self.following(Following::compared);
            }
            Command::Apply(repair) => self.apply(&repair, reports)?,
            Command::Drain => self.following(|follow| follow.draining = true),
            _ => {}
        }
        Ok(())
    }

    fn following(&mut self, act: impl FnOnce(&mut Following)) {
        if let Mode::Following(follow) = &mut self.mode {
            act(follow);
        }
    }

    fn adopt(&mut self, state: &[u8], reports: &mut Vec<Report>) -> Result<(), MachineFailure> {
        self.machine.restore(state)?;
        self.ledger.loaded(&mut self.machine)?;
        self.exits = 0;
        self.epoch = 1;
        self.mode = Mode::Following(Following::new(self.limits.level));
        reports.push(Report::Adopted { outstanding: self.machine.outstanding_disk() });
        Ok(())
    }

    fn apply(
        &mut self,
        repair: &crate::machine::Repair,
        reports: &mut Vec<Report>,
    ) -> Result<(), MachineFailure> {
        let Mode::Following(follow) = &mut self.mode else { return Ok(()) };
        let Phase::Sealed(expected) = follow.phase else { return Ok(()) };
        let epoch = repair.epoch;
        if self.ledger.open_epoch() != Some(epoch) {
            return Ok(());
        }
        match self.ledger.apply(&mut self.machine, repair, expected) {
            Ok(()) => {
                self.exits = repair.exits;
                follow.compared();
                let outstanding = self.machine.outstanding_disk();
                // What is outstanding is read anew: the same id may be another request in the new state.
                follow.reads.clear();
                reports.push(Report::Applied { epoch, outstanding });
            }
            Err(ApplyError::NotEqual) => reports.push(Report::Refused { epoch }),
            Err(ApplyError::Failed(why)) => return Err(MachineFailure(why)),
        }
        Ok(())
    }

    pub(super) fn follow_turn(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<Wait, MachineFailure> {
        let Mode::Following(follow) = &mut self.mode else { return Ok(Wait::Command) };
        match follow.phase {
            Phase::Seeking(position, since) => self.seek(position, since, now, reports),
            Phase::Sealed(_) if follow.draining => {
                // Nobody is left to compare with: the epoch's own replay is as valid.
                self.ledger.reopen();
                follow.phase = Phase::first(follow.level);
                Ok(Wait::Again)
            }
            Phase::Sealed(_) | Phase::Drained => Ok(Wait::Command),
            Phase::Reading | Phase::Lost => self.next_item(now, reports),
        }
    }

    fn next_item(&mut self, now: Ns, reports: &mut Vec<Report>) -> Result<Wait, MachineFailure> {
        let Mode::Following(follow) = &mut self.mode else { return Ok(Wait::Command) };
        let lost = matches!(follow.phase, Phase::Lost);
        let Some(item) = follow.items.front().cloned() else {
            if follow.draining {
                follow.phase = Phase::Drained;
                reports.push(Report::Drained { outstanding: self.machine.outstanding_disk() });
            }
            return Ok(Wait::Command);
        };
        match item {
            LogItem::RunTo(position) if !lost => follow.phase = Phase::Seeking(position, now),
            LogItem::Place(event) if !lost => match self.place_logged(&event)? {
                Placed::Done => self.take_followed_effects(reports),
                // At a takeover what has not arrived never will.
                Placed::Waiting => {
                    if !self.is_draining() {
                        return Ok(Wait::Command);
                    }
                }
                Placed::Wrong(why) => self.lose_at_last_position(why, reports),
            },
            LogItem::Place(Event::Frame(id)) => follow.skipped.push(id),
            LogItem::Protect(pages) if !lost && self.machine.has_landings() => {
                let count = self.machine.page_count();
                let pages: Vec<Page> = pages.into_iter().filter(|page| *page < count).collect();
                self.machine.protect(&pages)?;
            }
            LogItem::RunTo(_) | LogItem::Place(_) | LogItem::Protect(_) => {}
            LogItem::Seal(seal) => self.seal_followed(&seal, now, reports)?,
        }
        self.following(|follow| {
            follow.items.pop_front();
        });
        Ok(Wait::Again)
    }

    fn replay_limit(&self) -> Ns {
        if self.is_draining() { self.limits.replay / 4 } else { self.limits.replay }
    }

    fn is_draining(&self) -> bool {
        matches!(&self.mode, Mode::Following(follow) if follow.draining)
    }

    fn seal_followed(
        &mut self,
        seal: &Seal,
        _now: Ns,
        reports: &mut Vec<Report>,
    ) -> Result<(), MachineFailure> {
        let exits = self.exits;
        let Mode::Following(follow) = &mut self.mode else { return Ok(()) };
        if follow.draining {
            return Ok(());
        }
        let position = Position { index: 0, place: Place::Exit { exits, kind: ExitKind::Halt }, dirtied: 0 };
        #[cfg(feature = "sabotage")]
        if self.limits.forget_dirty_page {
            self.ledger.forget_last_dirty(&mut self.machine)?;
        }
        let sealed = self.ledger.seal(&mut self.machine, seal.epoch, position, exits, false)?;
        follow.phase = Phase::Sealed(seal.digest);
        debug_assert_eq!(self.ledger.open_digest(), Some(sealed.digest));
        reports.push(Report::Sealed(sealed));
        Ok(())
    }

    /// One entry into the guest on the way to `position`.
    fn seek(
        &mut self,
        position: Position,
        since: Ns,
        now: Ns,
        reports: &mut Vec<Report>,
    ) -> Result<Wait, MachineFailure> {
        if now >= since + self.replay_limit() {
            // Not how a place is missed, only that a wait for one ends.
            let why = format!("stands at exit {} and does not get on", self.exits);
            self.lose(position, why, reports);
            return Ok(Wait::Again);
        }
        let (target, kind) = match position.place {
            Place::Exit { exits, kind } => (exits, Some(kind)),
            Place::Async { exits } => (exits, None),
            Place::Landing { exits, page, rip } if self.machine.has_landings() => {
                let page = Page::try_from(page).unwrap_or(Page::MAX);
                return self.seek_landing(position, exits, Landing { page, rip }, reports);
            }
            // Not to be found here: the epoch is repaired at its seal.
            Place::Landing { exits, .. } => (exits, None),
            Place::Count(_) => (self.exits, None),
        };
        if self.exits == target {
            if matches!(position.place, Place::Async { .. }) {
                self.machine.reevaluate();
            }
            self.following(|follow| follow.phase = Phase::Reading);
            return Ok(Wait::Again);
        }
        if self.exits > target || self.machine.waits() {
            let why = format!("stands at exit {} and cannot reach exit {target}", self.exits);
            self.lose(position, why, reports);
            return Ok(Wait::Again);
        }
        match self.machine.run()? {
            Stop::Kicked | Stop::Landing(_) | Stop::Missed => return Ok(Wait::Again),
            Stop::Shutdown => {
                self.exits += 1;
                reports.push(Report::Effects(vec![Effect::Reset]));
            }
            Stop::Exit(found) => {
                self.exits += 1;
                self.take_followed_effects(reports);
                if self.exits == target && kind.is_some_and(|kind| kind != found) {
                    let why = format!("exit {target} is {found:?} here, {kind:?} on the primary");
                    self.lose(position, why, reports);
                }
            }
        }
        Ok(Wait::Again)
    }

    /// One entry into the guest on the way to a landing, `target` exits after the log began.
    fn seek_landing(
        &mut self,
        position: Position,
        target: u64,
        landing: Landing,
        reports: &mut Vec<Report>,
    ) -> Result<Wait, MachineFailure> {
        if self.exits > target || landing.page >= self.machine.page_count() || self.machine.waits() {
            let why = format!("stands at exit {} on the way to a landing after exit {target}", self.exits);
            self.lose(position, why, reports);
            return Ok(Wait::Again);
        }
        let Mode::Following(follow) = &mut self.mode else { return Ok(Wait::Command) };
        let unseen = position.dirtied.saturating_sub(1).saturating_sub(follow.margin);
        match self.machine.find(landing, unseen)? {
            Stop::Kicked => {}
            Stop::Exit(_) => {
                self.exits += 1;
                self.take_followed_effects(reports);
            }
            Stop::Landing(_) if self.exits == target => self.following(|follow| {
                follow.margin = follow.margin.saturating_sub(1).max(MARGIN_MIN);
                follow.phase = Phase::Reading;
            }),
            Stop::Landing(_) | Stop::Missed => {
                self.following(|follow| follow.margin = (follow.margin * 2).min(MARGIN_MAX));
                let why = format!("the store to page {:#x} at {:#x} did not come", landing.page, landing.rip);
                self.lose(position, why, reports);
            }
            Stop::Shutdown => {
                self.exits += 1;
                reports.push(Report::Effects(vec![Effect::Reset]));
            }
        }
        Ok(Wait::Again)
    }

    fn place_logged(&mut self, event: &Event) -> Result<Placed, MachineFailure> {
        if !self.was_requested(event) {
            return Ok(Placed::Wrong(format!("{event:?} completes what was not requested here")));
        }
        let Mode::Following(follow) = &mut self.mode else { return Ok(Placed::Done) };
        let stimulus = match event {
            Event::Time(time) => Stimulus::Time(*time),
            Event::Frame(id) => match follow.early.remove(id) {
                Some((nic, frame)) => Stimulus::Frame { nic, frame },
                None => return Ok(Placed::Waiting),
            },
            Event::DiskDone { disk, id, ok, hash: 0 } => {
                Stimulus::DiskDone { disk: *disk, id: *id, ok: *ok, data: Vec::new() }
            }
            Event::DiskDone { disk, id, ok, hash } => {
                let Some((_, data)) = follow.reads.remove(&(*disk, *id)) else { return Ok(Placed::Waiting) };
                if xxh3_128(&data) != *hash {
                    return Ok(Placed::Wrong(format!("read {id} of disk {disk} returned other data")));
                }
                Stimulus::DiskDone { disk: *disk, id: *id, ok: *ok, data }
            }
        };
        self.machine.place(&stimulus)?;
        Ok(Placed::Done)
    }

    /// A replay that took another way may not have made the request, or another one under the same id; then
    /// its data never comes.
    fn was_requested(&self, event: &Event) -> bool {
        let Event::DiskDone { disk, id, ok, hash } = event else { return true };
        let is_it = |effect: &Effect| match effect {
            Effect::DiskRead { disk: of, id: request, .. } => {
                (of, request) == (disk, id) && (*hash != 0 || !ok)
            }
            Effect::DiskFlush { disk: of, id: request } => (of, request) == (disk, id) && *hash == 0,
            _ => false,
        };
        self.machine.outstanding_disk().iter().any(is_it)
    }

    fn take_followed_effects(&mut self, reports: &mut Vec<Report>) {
        let effects = self.machine.take_effects();
        if !effects.is_empty() {
            reports.push(Report::Effects(effects));
        }
    }

    fn lose_at_last_position(&mut self, why: String, reports: &mut Vec<Report>) {
        let place = Place::Exit { exits: self.exits, kind: ExitKind::Halt };
        self.lose(Position { index: 0, place, dirtied: 0 }, why, reports);
    }

    fn lose(&mut self, at: Position, why: String, reports: &mut Vec<Report>) {
        self.following(Following::lose);
        reports.push(Report::Lost { at, why });
    }
}

impl Following {
    /// The epoch is equal now: what its skipped part consumed is gone.
    fn compared(&mut self) {
        for id in std::mem::take(&mut self.skipped) {
            self.early.remove(&id);
        }
        self.phase = Phase::first(self.level);
    }
}
