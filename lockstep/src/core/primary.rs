//! A guest that runs for two: its events are logged, its outputs wait for the acknowledgement.

use std::collections::{BTreeMap, VecDeque};

use super::alone::{Alone, Ending};
use super::arbitrate::{Arbitrating, Survivor};
use super::ctx::Ctx;
use super::fill::{Fill, send_pages, wire_pages};
use super::io::{DiskCommand, DiskReport, ExitReason, Input, Session};
use super::outlet::{EpochEffects, Flushes, release};
use super::role::Role;
use crate::Ns;
use crate::arbiter::{Answer, Ask, Record};
use crate::log::{Effect, Epoch, FrameId, LogItem, Page, Place, Seal};
use crate::machine::{Command, Delivery, PageData, Repair, Report, Sealed, frame_of};
use crate::message::{Message, Standing};

/// Parts of state and effects in one message, in bytes.
const PART: usize = 512 << 10;
/// Log entries that may be unacknowledged before the guest is stalled.
const RETAINED_MAX: usize = 50_000;
/// Bytes of effects that may wait before the guest is stalled.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// A secondary that had this much left to replay when a seal came is waited for: both run equally fast, so that it
/// would stay behind for ever, and every output with it.
const BEHIND_MAX: Ns = 500_000;
/// The guest is never held for longer at once.
const THROTTLE_MAX: Ns = 20_000_000;
/// Input frames that may wait for a position; more are dropped, as a full receive ring would.
const EARLY_MAX: usize = 1024;

/// See [`Role::Primary`].
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) session: Session,
    protection: Protection,
    flushes: Flushes,
    next: u64,
    /// What the log said since the last acknowledged seal, with the number of entries before it.
    retained: VecDeque<(u64, Retained)>,
    /// Input frames that no acknowledged epoch has placed.
    early: BTreeMap<FrameId, (u8, Vec<u8>)>,
    current: EpochEffects,
    sealed: Option<SealedEpoch>,
    seal_asked: bool,
    /// When the running epoch got its first log entry.
    began: Option<Ns>,
    /// Since when something waits for an acknowledgement.
    waiting_since: Option<Ns>,
    stalled: bool,
    /// The guest stands still until then, for the secondary to catch up.
    throttled: Option<Ns>,
    ending: Option<Ending>,
}

#[derive(Debug)]
struct SealedEpoch {
    /// Number of its log entry.
    number: u64,
    effects: EpochEffects,
    at: Ns,
    place: Place,
    differs: Vec<(Page, u128)>,
    effects_differ: bool,
    shipped: Option<(u64, u64)>,
}

/// Something that a secondary may have to be told again.
#[derive(Clone, Debug)]
enum Retained {
    Entries(Vec<LogItem>),
    Reopened(Epoch),
}

/// How far the secondary is.
#[derive(Debug)]
enum Protection {
    /// The last of the disks goes over; log messages are kept until the state has been sent.
    Finishing { state: Vec<u8>, held: Vec<Message>, fill_began: Ns },
    /// Everything was sent.
    Filled { fill_began: Ns },
    /// The record shall name the secondary.
    Recording { record: Record, expect: u128, ticket: u64, retry_at: Option<Ns>, fill_began: Ns },
    /// The record names it.
    Protected,
}

impl Primary {
    /// The machine has begun the log. `pages` and `state` complete the fill.
    pub(super) fn begin(
        ctx: &mut Ctx,
        fill: Fill,
        alone: Alone,
        pages: Vec<PageData>,
        state: Vec<u8>,
    ) -> Self {
        let Fill { session, mut flow, late, began: fill_began } = fill;
        send_pages(ctx, session, &mut flow, pages);
        ctx.disk(DiskCommand::CopyNext);
        let mut flushes = alone.flushes;
        flushes.peer_joined();
        let held =
            late.iter().cloned().map(|(id, nic, frame)| Message::EarlyFrame { id, nic, frame }).collect();
        Primary {
            session,
            protection: Protection::Finishing { state, held, fill_began },
            flushes,
            next: 0,
            retained: VecDeque::new(),
            early: late.into_iter().map(|(id, nic, frame)| (id, (nic, frame))).collect(),
            current: EpochEffects::new(ctx, 1),
            sealed: None,
            seal_asked: false,
            began: None,
            waiting_since: None,
            stalled: ctx.disk_pressed,
            throttled: None,
            ending: alone.ending,
        }
    }

    /// The other host may have gone while the machine was asked to begin the log.
    pub(super) fn checked(self: Box<Self>, ctx: &mut Ctx) -> Role {
        if ctx.links.contains_key(&self.session) && self.ending.is_none() {
            return Role::Primary(self);
        }
        ctx.disk(DiskCommand::CopyStop);
        ctx.close(self.session);
        ctx.notice(
            "fill-failed",
            "NOT PROTECTED: the fill was given up: the other host is gone, or the guest stopped",
        );
        Role::Alone(self.go_alone(ctx))
    }

    pub(super) fn is_protected(&self) -> bool {
        matches!(self.protection, Protection::Protected)
    }

    pub(super) fn lag(&self, now: Ns) -> Ns {
        self.waiting_since.map_or(0, |since| now.saturating_sub(since))
    }

    /// While the fill is completed, acknowledgements have not begun.
    fn unacked_since(&self) -> Option<Ns> {
        let filled = !matches!(self.protection, Protection::Finishing { .. } | Protection::Filled { .. });
        self.waiting_since.filter(|_| filled)
    }

    pub(super) fn waiting(&self) -> usize {
        self.current.effects.len() + self.sealed.as_ref().map_or(0, |sealed| sealed.effects.effects.len())
    }

    pub(super) fn deadline(&self, ctx: &Ctx) -> Option<Ns> {
        let timing = ctx.config.timing;
        let silence = ctx.links.get(&self.session).map(|peer| peer.heard + timing.silence);
        let progress = self.unacked_since().map(|since| since + timing.no_ack);
        let epoch = self.began.filter(|_| self.may_seal()).map(|began| began + timing.epoch);
        let retry = match &self.protection {
            Protection::Recording { retry_at, .. } => *retry_at,
            _ => None,
        };
        let ending = self.ending.as_ref().and_then(Ending::deadline);
        [silence, progress, epoch, retry, ending, self.throttled].into_iter().flatten().min()
    }

    pub(super) fn step(mut self: Box<Self>, ctx: &mut Ctx, input: Input) -> Role {
        if let Some(reason) = self.ending.as_mut().and_then(|ending| ending.on(ctx, &input)) {
            return self.stop(ctx, reason);
        }
        match input {
            Input::LinkUp { session, .. } => ctx.hello(session, Standing::Busy),
            Input::Message { session, message: Message::Hello(hello) }
                if session != self.session && hello.standing == Standing::Empty =>
            {
                ctx.hello(session, Standing::Busy);
            }
            Input::LinkDown { session } if session == self.session => {
                return self.peer_gone(ctx, "the link was reset");
            }
            Input::Tick => return self.tick(ctx),
            Input::Machine(Report::Failed(why)) => return self.stop(ctx, ExitReason::Failed(why)),
            Input::Machine(report) => self.report(ctx, report),
            Input::FrameIn { nic, frame } => self.frame_in(ctx, nic, frame),
            Input::Disk(DiskReport::Durable { ok: false, .. }) => {
                return self.stop(ctx, ExitReason::Failed("the disk of this host failed".to_owned()));
            }
            Input::Disk(report) => self.disk(ctx, report),
            Input::Message { session, message } if session == self.session => self.message(ctx, message),
            Input::Arbiter { ticket, answer } => return self.recorded(ctx, ticket, answer),
            _ => {}
        }
        Role::Primary(self)
    }

    fn stop(self, ctx: &mut Ctx, reason: ExitReason) -> Role {
        ctx.close(self.session);
        Role::Stopped(reason)
    }

    fn tick(mut self: Box<Self>, ctx: &mut Ctx) -> Role {
        let timing = ctx.config.timing;
        let heard = ctx.links.get(&self.session).map_or(0, |peer| peer.heard);
        if ctx.now >= heard + timing.silence {
            return self.peer_gone(ctx, "silence");
        }
        if self.unacked_since().is_some_and(|since| ctx.now >= since + timing.no_ack) {
            return self.peer_gone(ctx, "no acknowledgement while outputs wait");
        }
        if self.may_seal() && self.began.is_some_and(|began| ctx.now >= began + timing.epoch) {
            self.ask_seal(ctx);
        }
        if self.throttled.take_if(|until| ctx.now >= *until).is_some() {
            self.after(ctx);
        }
        if let Protection::Recording { record, expect, ticket, retry_at, .. } = &mut self.protection
            && retry_at.is_some_and(|at| ctx.now >= at)
        {
            let pair = ctx.config.identity.pair.clone();
            *ticket = ctx.ask(Ask::Swap { pair, expect: *expect, new: record.clone() });
            *retry_at = None;
        }
        Role::Primary(self)
    }

    /// The secondary is lost. Unless the record may name it, nobody needs to be asked.
    fn peer_gone(mut self: Box<Self>, ctx: &mut Ctx, cause: &'static str) -> Role {
        let peer = ctx.peer_name(self.session);
        let heard = ctx.last_heard(self.session);
        ctx.close(self.session);
        if !matches!(self.protection, Protection::Finishing { .. } | Protection::Filled { .. }) {
            return Arbitrating::begin(ctx, Survivor::Primary(self), peer, cause, heard);
        }
        if matches!(self.protection, Protection::Finishing { .. }) {
            ctx.disk(DiskCommand::CopyStop);
        }
        ctx.notice(
            "fill-failed",
            format!(
                "NOT PROTECTED: the fill of {peer} was given up ({cause}); it is filled again when it is back"
            ),
        );
        self.flushes.peer_gone(ctx);
        Role::Alone(self.go_alone(ctx))
    }

    /// From here on alone: everything that waited leaves.
    pub(super) fn go_alone(mut self: Box<Self>, ctx: &mut Ctx) -> Alone {
        ctx.go_live();
        let mut alone = Alone { flushes: std::mem::take(&mut self.flushes), ending: self.ending.take() };
        for epoch in self.sealed.take().map(|sealed| sealed.effects).into_iter().chain([self.current]) {
            alone.flushes.add(&epoch.effects, epoch.tag(), None);
            epoch.commit_disk(ctx);
            let ended = release(ctx, &epoch.effects);
            if alone.ending.is_none() {
                alone.ending = Ending::begin(ctx, ended);
            }
        }
        alone.flushes.peer_gone(ctx);
        alone
    }

    /// Frames that arrive while the arbiter is asked are kept by the caller; reports still count.
    pub(super) fn report(&mut self, ctx: &mut Ctx, report: Report) {
        match report {
            Report::Log(items) => self.log(ctx, items),
            Report::Effects(effects) => self.effects(ctx, effects),
            Report::Sealed(sealed) => self.sealed(ctx, &sealed),
            Report::Repair { repair, moved } => self.repair(ctx, repair, moved),
            _ => {}
        }
        self.after(ctx);
    }

    fn log(&mut self, ctx: &mut Ctx, items: Vec<LogItem>) {
        for item in &items {
            if let LogItem::Place(event) = item
                && let Some(id) = frame_of(event)
            {
                self.current.placed.push(id);
            }
        }
        self.began.get_or_insert(ctx.now);
        self.append(ctx, items);
    }

    fn append(&mut self, ctx: &mut Ctx, items: Vec<LogItem>) {
        let first = self.next;
        self.next += items.len() as u64;
        self.retained.push_back((first, Retained::Entries(items.clone())));
        self.stream(ctx, Message::Log { first, items });
    }

    /// Sends in order with the log.
    fn stream(&mut self, ctx: &mut Ctx, message: Message) {
        if let Protection::Finishing { held, .. } = &mut self.protection {
            held.push(message);
        } else {
            ctx.send(self.session, message);
        }
    }

    fn effects(&mut self, ctx: &mut Ctx, effects: Vec<Effect>) {
        #[cfg(feature = "sabotage")]
        let early = effects.clone();
        self.current.add(ctx, effects);
        #[cfg(feature = "sabotage")]
        self.release_early(ctx, &early);
    }

    /// Deliberate fault: nothing waits for the secondary, neither frames nor flushes.
    #[cfg(feature = "sabotage")]
    fn release_early(&mut self, ctx: &mut Ctx, effects: &[Effect]) {
        if !ctx.sabotages(super::ctx::Sabotage::ReleaseEarly) {
            return;
        }
        release(ctx, effects);
        let epoch = self.current.tag();
        self.flushes.add(effects, epoch, None);
        if effects.iter().any(|effect| matches!(effect, Effect::DiskFlush { .. })) {
            ctx.disk(DiskCommand::Commit { epoch, sync: true });
        }
    }

    fn sealed(&mut self, ctx: &mut Ctx, sealed: &Sealed) {
        debug_assert!(self.sealed.is_none(), "one sealed epoch at most");
        self.seal_asked = false;
        self.began = None;
        let next = EpochEffects::new(ctx, sealed.epoch + 1);
        let effects = std::mem::replace(&mut self.current, next);
        let seal = Seal { epoch: sealed.epoch, digest: sealed.digest, effects: effects.digest.finish() };
        let counters = &mut ctx.counters.epochs;
        counters.sealed += 1;
        counters.pages_dirty += u64::from(sealed.dirty);
        match sealed.position.place {
            Place::Async { .. } => counters.r#async += 1,
            Place::Landing { .. } => counters.landing += 1,
            Place::Exit { .. } | Place::Count(_) => counters.exit += 1,
        }
        sealed.delays.iter().for_each(|delay| ctx.counters.latency_us.due_to_landed.add(*delay));
        self.sealed = Some(SealedEpoch {
            number: self.next,
            effects,
            at: ctx.now,
            place: sealed.position.place,
            differs: Vec::new(),
            effects_differ: false,
            shipped: None,
        });
        self.append(ctx, vec![LogItem::Seal(seal)]);
    }

    fn may_seal(&self) -> bool {
        self.sealed.is_none() && !self.seal_asked
    }

    fn ask_seal(&mut self, ctx: &mut Ctx) {
        self.seal_asked = true;
        ctx.machine(Command::Seal);
    }

    /// An output that waits forces a seal soon; a queue that is full stalls the guest.
    fn after(&mut self, ctx: &mut Ctx) {
        if self.current.has_output() && self.may_seal() {
            self.ask_seal(ctx);
        }
        let waits = self.sealed.is_some() || self.current.has_output();
        if !waits {
            self.waiting_since = None;
        } else if self.waiting_since.is_none() {
            self.waiting_since = Some(ctx.now);
        }
        let bytes = self.current.bytes() + self.sealed.as_ref().map_or(0, |sealed| sealed.effects.bytes());
        let full = self.retained.len() > RETAINED_MAX || bytes > WAITING_BYTES_MAX || ctx.disk_pressed;
        let full = full || self.throttled.is_some();
        if full != self.stalled {
            self.stalled = full;
            ctx.machine(Command::Stall(full));
        }
    }

    fn frame_in(&mut self, ctx: &mut Ctx, nic: u8, frame: Vec<u8>) {
        if self.early.len() >= EARLY_MAX {
            ctx.counters.output.dropped += 1;
            return;
        }
        ctx.counters.output.frames_in += 1;
        let id = ctx.next_frame();
        self.early.insert(id, (nic, frame.clone()));
        self.stream(ctx, Message::EarlyFrame { id, nic, frame: frame.clone() });
        ctx.machine(Command::Deliver(Delivery::Frame { id, nic, frame }));
    }

    pub(super) fn disk(&mut self, ctx: &mut Ctx, report: DiskReport) {
        match report {
            DiskReport::Read { disk, id, ok, data } => {
                ctx.machine(Command::Deliver(Delivery::DiskDone { disk, id, ok, data }));
            }
            DiskReport::Durable { epoch, .. } => self.flushes.own_durable(ctx, epoch),
            DiskReport::Part { disk, offset, len, data } => {
                ctx.send(self.session, Message::FillDisk { disk, offset, len, data });
                ctx.disk(DiskCommand::CopyNext);
            }
            DiskReport::PassDone { left: 0 } => self.disks_done(ctx),
            DiskReport::PassDone { .. } => ctx.disk(DiskCommand::CopyNext),
            DiskReport::Pressure(_) => self.after(ctx),
            DiskReport::Synced { .. } => {}
        }
    }

    /// The disks are over: state, then everything that was logged meanwhile.
    fn disks_done(&mut self, ctx: &mut Ctx) {
        let Protection::Finishing { state, held, fill_began, .. } = &mut self.protection else { return };
        let (state, held, fill_began) = (std::mem::take(state), std::mem::take(held), *fill_began);
        self.protection = Protection::Filled { fill_began };
        ctx.disk(DiskCommand::CopyStop);
        let mut parts = state.chunks(PART).peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            ctx.send(self.session, Message::FillState { part: part.to_vec(), last });
        }
        for message in held {
            ctx.send(self.session, message);
        }
    }

    pub(super) fn message(&mut self, ctx: &mut Ctx, message: Message) {
        match message {
            Message::Ack { epoch, replay, compare } => self.ack(ctx, epoch, replay, compare),
            Message::Durable { epoch } => self.flushes.peer_durable(ctx, epoch),
            Message::Differs { epoch: _, seal, effects, pages, last } => {
                self.differs(ctx, seal, effects, pages, last);
            }
            Message::Filled => self.filled(ctx),
            _ => {}
        }
    }

    fn filled(&mut self, ctx: &mut Ctx) {
        let Protection::Filled { fill_began } = self.protection else { return };
        // What waited for the fill waits for an acknowledgement from here on.
        self.waiting_since = self.waiting_since.map(|_| ctx.now);
        let in_sync = vec![ctx.config.host.clone(), ctx.peer_name(self.session)];
        let generation = ctx.generation();
        let record = ctx.record(generation, in_sync, false);
        let expect = ctx.expected();
        let pair = ctx.config.identity.pair.clone();
        let ticket = ctx.ask(Ask::Swap { pair, expect, new: record.clone() });
        self.protection = Protection::Recording { record, expect, ticket, retry_at: None, fill_began };
    }

    fn recorded(mut self: Box<Self>, ctx: &mut Ctx, asked: u64, answer: Option<Answer>) -> Role {
        let Protection::Recording { ticket, retry_at, fill_began, .. } = &mut self.protection else {
            return Role::Primary(self);
        };
        if *ticket != asked {
            return Role::Primary(self);
        }
        match answer {
            Some(Answer::Won(record)) => {
                let took = ctx.now.saturating_sub(*fill_began) / 1_000_000;
                self.protection = Protection::Protected;
                self.now_protected(ctx, record, took);
                Role::Primary(self)
            }
            None => {
                *retry_at = Some(ctx.now + ctx.config.timing.retry);
                Role::Primary(self)
            }
            Some(other) => {
                let why = format!("the arbiter did not let this host name its new secondary: {other:?}");
                self.stop(ctx, ExitReason::LostArbitration(why))
            }
        }
    }

    fn now_protected(&mut self, ctx: &mut Ctx, record: Record, took_ms: u64) {
        ctx.attempts.clear();
        ctx.local.record = Some(record.clone());
        ctx.persist();
        ctx.counters.fills += 1;
        ctx.send(self.session, Message::Recorded(record));
        let peer = ctx.peer_name(self.session);
        ctx.notice("protected", format!("PROTECTED: {peer} is in sync, filled in {took_ms} ms"));
    }

    fn ack(&mut self, ctx: &mut Ctx, epoch: Epoch, replay: Ns, compare: Ns) {
        let Some(sealed) = self.sealed.take_if(|sealed| sealed.effects.epoch == epoch) else { return };
        self.waiting_since = None;
        self.count_ack(ctx, &sealed);
        measure(ctx, &sealed, replay, compare);
        if replay > BEHIND_MAX {
            self.throttled = Some(ctx.now + (replay - BEHIND_MAX).min(THROTTLE_MAX));
            ctx.counters.epochs.throttled += 1;
        }
        ctx.machine(Command::Commit(epoch));
        self.trim(epoch, &sealed.effects.placed);
        let SealedEpoch { effects, .. } = sealed;
        let ended = self.release(ctx, &effects);
        if self.ending.is_none() {
            self.ending = Ending::begin(ctx, ended);
        }
        if effects.has_output() {
            self.stream(ctx, Message::Released { epoch });
        }
        self.after(ctx);
    }

    fn release(&mut self, ctx: &mut Ctx, effects: &EpochEffects) -> super::outlet::Ended {
        #[cfg(feature = "sabotage")]
        if ctx.sabotages(super::ctx::Sabotage::ReleaseEarly) {
            return super::outlet::Ended::No;
        }
        self.flushes.add(&effects.effects, effects.tag(), Some(effects.epoch));
        effects.commit_disk(ctx);
        release(ctx, &effects.effects)
    }

    fn count_ack(&self, ctx: &mut Ctx, sealed: &SealedEpoch) {
        let counters = &mut ctx.counters.epochs;
        counters.acked += 1;
        match sealed.shipped {
            None => {
                counters.unrepaired += 1;
                counters.exit_unrepaired += u64::from(matches!(sealed.place, Place::Exit { .. }));
                counters.landing_unrepaired += u64::from(matches!(sealed.place, Place::Landing { .. }));
            }
            Some((pages, bytes)) => {
                counters.repaired += 1;
                counters.pages_shipped += pages;
                counters.bytes_shipped += bytes;
            }
        }
    }

    /// What an acknowledged epoch consumed need not be sent again.
    fn trim(&mut self, epoch: Epoch, placed: &[FrameId]) {
        for id in placed {
            self.early.remove(id);
        }
        // A reopened epoch was sealed more than once: the last seal counts.
        let is_end = |item: &LogItem| matches!(item, LogItem::Seal(seal) if seal.epoch == epoch);
        let ends = |said: &Retained| matches!(said, Retained::Entries(items) if items.iter().any(is_end));
        if let Some(last) = self.retained.iter().rposition(|(_, said)| ends(said)) {
            self.retained.drain(..=last);
        }
    }

    fn differs(&mut self, ctx: &mut Ctx, seal: u64, effects: bool, pages: Vec<(Page, u128)>, last: bool) {
        // An answer for an earlier seal of an epoch that was reopened since would not fit this one.
        let Some(sealed) = self.sealed.as_mut().filter(|sealed| sealed.number == seal) else { return };
        let epoch = sealed.effects.epoch;
        if sealed.differs.len() + pages.len() > ctx.config.identity.pages as usize {
            return;
        }
        sealed.differs.extend(pages);
        sealed.effects_differ = effects;
        if last {
            let theirs = std::mem::take(&mut sealed.differs);
            ctx.machine(Command::Repair { epoch, theirs });
        }
    }

    fn repair(&mut self, ctx: &mut Ctx, repair: Repair, moved: u32) {
        let epoch = repair.epoch;
        // The answer to a question that was asked twice may come when the epoch is acknowledged already.
        let Some(sealed) = self.sealed.as_mut().filter(|sealed| sealed.effects.epoch == epoch) else {
            return;
        };
        if moved > 0 {
            self.reopen(ctx, epoch, moved);
            return;
        }
        let session = self.session;
        let mut bytes = repair.state.len() as u64;
        for part in repair.state.chunks(PART) {
            ctx.send(session, Message::RepairState { epoch, exits: repair.exits, part: part.to_vec() });
        }
        let pages = repair.pages.len() as u64;
        for pages in wire_pages(repair.pages) {
            bytes += pages.iter().map(|page| page.bytes.len() as u64 + 4).sum::<u64>();
            ctx.send(session, Message::RepairPages { epoch, pages });
        }
        if sealed.effects_differ {
            for effects in split_effects(&sealed.effects.effects) {
                bytes += effects.iter().map(|effect| effect.bytes() as u64).sum::<u64>();
                ctx.send(session, Message::RepairEffects { epoch, effects });
            }
        }
        sealed.shipped = Some((pages, bytes));
        ctx.send(session, Message::RepairEnd { epoch });
    }

    /// Pages that only the secondary dirtied have changed here since: both epochs become one.
    fn reopen(&mut self, ctx: &mut Ctx, epoch: Epoch, moved: u32) {
        let Some(sealed) = self.sealed.take() else { return };
        tracing::debug!(epoch, moved, "reopened");
        ctx.machine(Command::Reopen(epoch));
        let next = EpochEffects { epoch, ..EpochEffects::new(ctx, epoch) };
        let running = std::mem::replace(&mut self.current, next);
        self.current = sealed.effects.reopen(running);
        self.retained.push_back((self.next, Retained::Reopened(epoch)));
        self.stream(ctx, Message::Reopened { epoch });
        self.began.get_or_insert(ctx.now);
        self.ask_seal(ctx);
    }

    // --- hold and heal ---

    /// The link is back while both held: what the secondary lacks is sent again.
    pub(super) fn resume(&mut self, ctx: &mut Ctx, session: Session, next: u64) {
        self.session = session;
        self.waiting_since = self.waiting_since.map(|_| ctx.now);
        for (id, (nic, frame)) in &self.early {
            ctx.send(session, Message::EarlyFrame { id: *id, nic: *nic, frame: frame.clone() });
        }
        for (first, said) in &self.retained {
            match said {
                Retained::Entries(items) if first + items.len() as u64 > next => {
                    ctx.send(session, Message::Log { first: *first, items: items.clone() });
                }
                // Whoever has heard it, and no later seal yet, compares nothing now and passes over it.
                Retained::Reopened(epoch) if *first >= next => {
                    ctx.send(session, Message::Reopened { epoch: *epoch });
                }
                _ => {}
            }
        }
    }

    /// Number of the next log entry, and of the oldest that is still kept.
    pub(super) fn can_resume_from(&self, next: u64) -> bool {
        let oldest = self.retained.front().map_or(self.next, |(first, _)| *first);
        self.is_protected() && (oldest..=self.next).contains(&next)
    }
}

/// Books the parts of the wait of the epoch's first output.
fn measure(ctx: &mut Ctx, sealed: &SealedEpoch, replay: Ns, compare: Ns) {
    let Some(first) = sealed.effects.first_output else { return };
    let (now, latency) = (ctx.now, &mut ctx.counters.latency_us);
    latency.landing.add(sealed.at.saturating_sub(first));
    latency.replay.add(replay);
    latency.compare.add(compare);
    latency.link.add(now.saturating_sub(sealed.at).saturating_sub(replay).saturating_sub(compare));
    latency.total.add(now.saturating_sub(first));
}

fn split_effects(effects: &[Effect]) -> Vec<Vec<Effect>> {
    let mut groups = vec![Vec::new()];
    let mut size = 0;
    for effect in effects {
        size += effect.bytes() + 32;
        if size > PART && !groups.last().is_some_and(Vec::is_empty) {
            groups.push(Vec::new());
            size = effect.bytes() + 32;
        }
        if let Some(group) = groups.last_mut() {
            group.push(effect.clone());
        }
    }
    groups
}
