//! The host that replays, compares, and is ready to take over.

use std::collections::VecDeque;

use super::arbitrate::{Arbitrating, Survivor};
use super::ctx::Ctx;
use super::io::{DiskCommand, DiskReport, ExitReason, Input, Session};
use super::outlet::EpochEffects;
use super::role::Role;
use crate::Ns;
use crate::arbiter::Record;
use crate::log::{Effect, EffectsDigest, Epoch, FrameId, LogItem, Seal};
use crate::machine::{Command, PAGE_SIZE, PageBytes, PageData, Repair, Report, Sealed};
use crate::message::{Message, Standing, WirePage};

/// Entries of a digest list in one message.
const DIGESTS_PER_MESSAGE: usize = 20_000;

/// See [`Role::Secondary`].
#[derive(Debug)]
pub(super) struct Secondary {
    pub(super) session: Session,
    /// The record names this host: it may take over.
    pub(super) eligible: bool,
    /// Number of the next log entry.
    next: u64,
    last_early: FrameId,
    /// Seals that the replay has not reached, with the number of their log entry and their arrival.
    seals: VecDeque<(u64, Seal, Ns)>,
    /// Effects since the last acknowledged seal.
    pub(super) current: EpochEffects,
    /// Acknowledged outputs of which the primary has not said that they left.
    pub(super) kept: VecDeque<(Epoch, Vec<Effect>)>,
    comparing: Option<Comparing>,
    last_ack: Epoch,
    /// Disk tags whose durability the primary waits for.
    syncing: VecDeque<(u64, Epoch)>,
    durable: Epoch,
    pub(super) lost: u64,
    reached: Reached,
}

/// When the replay came to the last seal.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    at: Ns,
    /// From the seal's arrival to there.
    replay: Ns,
}

/// A sealed epoch whose digests differ.
#[derive(Debug)]
struct Comparing {
    seal: Seal,
    number: u64,
    sealed: Sealed,
    effects_differ: bool,
    repair: Repair,
    effects: Vec<Effect>,
    /// All is here and the machine applies it: what comes now answers a question that was asked twice.
    applying: bool,
}

impl Secondary {
    pub(super) fn begin(ctx: &mut Ctx, session: Session) -> Self {
        Secondary {
            session,
            eligible: false,
            next: 0,
            last_early: 0,
            seals: VecDeque::new(),
            current: EpochEffects::new(ctx, 1),
            kept: VecDeque::new(),
            comparing: None,
            last_ack: 0,
            syncing: VecDeque::new(),
            durable: 0,
            lost: 0,
            reached: Reached::default(),
        }
    }

    pub(super) fn deadline(&self, ctx: &Ctx) -> Option<Ns> {
        ctx.links.get(&self.session).map(|peer| peer.heard + ctx.config.timing.silence)
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn step(mut self: Box<Self>, ctx: &mut Ctx, input: Input) -> Role {
        match input {
            Input::LinkUp { session, .. } => ctx.hello(session, Standing::Busy),
            Input::LinkDown { session } if session == self.session => {
                return self.peer_gone(ctx, "the link was reset");
            }
            Input::Tick if self.deadline(ctx).is_some_and(|at| ctx.now >= at) => {
                return self.peer_gone(ctx, "silence");
            }
            Input::Message { session, message } if session == self.session => {
                if let Err(why) = self.message(ctx, message) {
                    return self.stop(ctx, ExitReason::Failed(why));
                }
            }
            Input::Disk(report) => {
                if let Err(why) = self.disk(ctx, report) {
                    return self.stop(ctx, ExitReason::Failed(why));
                }
            }
            Input::Machine(report) => {
                if let Err(why) = self.report(ctx, report) {
                    return self.stop(ctx, ExitReason::Failed(why));
                }
            }
            _ => {}
        }
        Role::Secondary(self)
    }

    fn stop(self, ctx: &mut Ctx, reason: ExitReason) -> Role {
        ctx.close(self.session);
        Role::Stopped(reason)
    }

    fn peer_gone(self: Box<Self>, ctx: &mut Ctx, cause: &'static str) -> Role {
        let peer = ctx.peer_name(self.session);
        let heard = ctx.last_heard(self.session);
        ctx.close(self.session);
        Arbitrating::begin(ctx, Survivor::Secondary(self), peer, cause, heard)
    }

    fn message(&mut self, ctx: &mut Ctx, message: Message) -> Result<(), String> {
        match message {
            // A lower id is sent again after a hold: it was seen, and may be placed already.
            Message::EarlyFrame { id, nic, frame } if id > self.last_early => {
                self.last_early = id;
                ctx.machine(Command::EarlyFrame { id, nic, frame });
            }
            Message::Log { first, items } => self.log(ctx, first, items)?,
            Message::Released { epoch } => self.kept.retain(|(kept, _)| *kept > epoch),
            Message::Recorded(record) => self.recorded(ctx, record),
            Message::Reopened { epoch } => self.reopened(ctx, epoch),
            Message::RepairState { epoch, exits, part } => {
                let pages = ctx.config.identity.pages as usize;
                if let Some(comparing) = self.comparing(epoch) {
                    comparing.repair.exits = exits;
                    comparing.repair.state.extend(part);
                    if comparing.repair.state.len() > pages * PAGE_SIZE {
                        return Err("the primary sends an endless state".to_owned());
                    }
                }
            }
            Message::RepairPages { epoch, pages } => {
                let most = ctx.config.identity.pages as usize;
                if let Some(comparing) = self.comparing(epoch) {
                    if comparing.repair.pages.len() + pages.len() > most {
                        return Err("the primary repairs more pages than there are".to_owned());
                    }
                    comparing.repair.pages.extend(page_data(pages)?);
                }
            }
            Message::RepairEffects { epoch, effects } => {
                if let Some(comparing) = self.comparing(epoch) {
                    comparing.effects.extend(effects);
                }
            }
            Message::RepairEnd { epoch } => {
                if let Some(comparing) = self.comparing(epoch) {
                    if comparing.effects_differ && digest(&comparing.effects) != comparing.seal.effects {
                        return Err(format!("the effects of epoch {epoch} do not give the sealed digest"));
                    }
                    comparing.applying = true;
                    let empty = Repair { epoch, state: Vec::new(), exits: 0, pages: Vec::new() };
                    let repair = std::mem::replace(&mut comparing.repair, empty);
                    ctx.machine(Command::Apply(repair));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn comparing(&mut self, epoch: Epoch) -> Option<&mut Comparing> {
        self.comparing.as_mut().filter(|comparing| comparing.seal.epoch == epoch && !comparing.applying)
    }

    fn log(&mut self, ctx: &mut Ctx, first: u64, mut items: Vec<LogItem>) -> Result<(), String> {
        if first > self.next {
            return Err(format!("the log jumps from entry {} to {first}", self.next));
        }
        // Sent again after a hold.
        let known = usize::try_from(self.next - first).unwrap_or(usize::MAX).min(items.len());
        items.drain(..known);
        for (number, item) in (self.next..).zip(&items) {
            if let LogItem::Seal(seal) = item {
                self.seals.push_back((number, seal.clone(), ctx.now));
            }
        }
        self.next += items.len() as u64;
        if !items.is_empty() {
            ctx.machine(Command::Follow(items));
        }
        Ok(())
    }

    fn recorded(&mut self, ctx: &mut Ctx, record: Record) {
        self.eligible = record.in_sync.contains(&ctx.config.host);
        ctx.local.record = Some(record);
        ctx.local.consistent = true;
        ctx.persist();
        let peer = ctx.peer_name(self.session);
        ctx.notice(
            "protected",
            format!("PROTECTED: this host is in sync with {peer} and takes over if that fails"),
        );
    }

    fn reopened(&mut self, ctx: &mut Ctx, epoch: Epoch) {
        if self.comparing.take_if(|comparing| comparing.seal.epoch == epoch).is_some() {
            ctx.machine(Command::Reopen(epoch));
            let tag = ctx.next_tag();
            self.current.tags.push(tag);
        }
    }

    pub(super) fn report(&mut self, ctx: &mut Ctx, report: Report) -> Result<(), String> {
        match report {
            Report::Effects(effects) => self.current.add(ctx, effects),
            Report::Sealed(sealed) => self.compare(ctx, sealed)?,
            Report::Applied { epoch, outstanding } => self.applied(ctx, epoch, outstanding),
            Report::Refused { epoch } => {
                return Err(format!("epoch {epoch} was repaired, and is still not equal"));
            }
            Report::Lost { at, why } => {
                self.lost += 1;
                tracing::debug!(?at, why, "replay lost");
            }
            Report::Failed(why) => return Err(why),
            _ => {}
        }
        Ok(())
    }

    fn compare(&mut self, ctx: &mut Ctx, sealed: Sealed) -> Result<(), String> {
        let Some((number, seal, arrived)) = self.seals.pop_front() else {
            return Err("the machine sealed an epoch that the log did not end".to_owned());
        };
        self.reached = Reached { replay: ctx.now.saturating_sub(arrived), at: ctx.now };
        let effects_differ = self.current.digest.finish() != seal.effects;
        if sealed.digest == seal.digest && !effects_differ {
            ctx.machine(Command::Confirm(seal.epoch));
            self.commit(ctx, seal.epoch);
            return Ok(());
        }
        let empty = Repair { epoch: seal.epoch, state: Vec::new(), exits: 0, pages: Vec::new() };
        self.comparing = Some(Comparing {
            seal,
            number,
            sealed,
            effects_differ,
            repair: empty,
            effects: Vec::new(),
            applying: false,
        });
        self.send_differs(ctx);
        Ok(())
    }

    fn send_differs(&self, ctx: &mut Ctx) {
        let Some(comparing) = &self.comparing else { return };
        let changed = &comparing.sealed.changed;
        let (epoch, seal, effects) = (comparing.seal.epoch, comparing.number, comparing.effects_differ);
        let mut chunks = changed.chunks(DIGESTS_PER_MESSAGE).peekable();
        if chunks.peek().is_none() {
            ctx.send(self.session, Message::Differs { epoch, seal, effects, pages: Vec::new(), last: true });
        }
        while let Some(chunk) = chunks.next() {
            let (pages, last) = (chunk.to_vec(), chunks.peek().is_none());
            ctx.send(self.session, Message::Differs { epoch, seal, effects, pages, last });
        }
    }

    fn applied(&mut self, ctx: &mut Ctx, epoch: Epoch, outstanding: Vec<Effect>) {
        let Some(comparing) = self.comparing.take_if(|comparing| comparing.seal.epoch == epoch) else {
            return;
        };
        if comparing.effects_differ {
            // What this host's own replay wrote is dropped; the primary's effects take its place.
            for tag in &self.current.tags {
                ctx.disk(DiskCommand::Discard { epoch: *tag });
            }
            self.current = EpochEffects::new(ctx, epoch);
            let writes = |effect: &Effect| !matches!(effect, Effect::DiskRead { .. });
            self.current.add(ctx, comparing.effects.into_iter().filter(writes).collect());
        }
        ctx.forget_reads();
        for effect in outstanding {
            super::outlet::submit(ctx, &effect, self.current.tag());
        }
        self.commit(ctx, epoch);
    }

    /// The epoch is equal on both sides: acknowledge it.
    fn commit(&mut self, ctx: &mut Ctx, epoch: Epoch) {
        let next = EpochEffects::new(ctx, epoch + 1);
        let done = std::mem::replace(&mut self.current, next);
        self.last_ack = epoch;
        let Reached { replay, at } = self.reached;
        ctx.send(self.session, Message::Ack { epoch, replay, compare: ctx.now.saturating_sub(at) });
        done.commit_disk(ctx);
        if done.has_flush() {
            self.syncing.push_back((done.tag(), epoch));
        }
        if done.has_output() {
            self.kept.push_back((epoch, done.effects));
        }
    }

    pub(super) fn disk(&mut self, ctx: &mut Ctx, report: DiskReport) -> Result<(), String> {
        match report {
            DiskReport::Read { disk, id, ok, data } => {
                ctx.machine(Command::ReadData { disk, id, ok, data });
            }
            DiskReport::Durable { ok: false, .. } => return Err("the disk of this host failed".to_owned()),
            DiskReport::Durable { epoch: tag, ok: true } => {
                while let Some((_, epoch)) = self.syncing.pop_front_if(|(synced, _)| *synced <= tag) {
                    self.durable = epoch;
                    ctx.send(self.session, Message::Durable { epoch });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The link is back while both held: what may have been lost is said again.
    pub(super) fn resume(&mut self, ctx: &mut Ctx, session: Session) {
        self.session = session;
        ctx.send(session, Message::Ack { epoch: self.last_ack, replay: 0, compare: 0 });
        ctx.send(session, Message::Durable { epoch: self.durable });
        if let Some(comparing) = self.comparing.as_mut().filter(|comparing| !comparing.applying) {
            comparing.repair.state.clear();
            comparing.repair.pages.clear();
            comparing.effects.clear();
            self.send_differs(ctx);
        }
    }
}

fn digest(effects: &[Effect]) -> u128 {
    let mut digest = EffectsDigest::default();
    for effect in effects {
        digest.add(effect);
    }
    digest.finish()
}

/// Pages from the wire; each has 4096 bytes or none.
pub(super) fn page_data(pages: Vec<WirePage>) -> Result<Vec<PageData>, String> {
    let convert = |WirePage { page, bytes }: WirePage| -> Result<PageData, String> {
        if bytes.is_empty() {
            return Ok(PageData { page, bytes: None });
        }
        let bytes: PageBytes =
            bytes.try_into().map_err(|bytes: Vec<u8>| format!("a page of {} bytes", bytes.len()))?;
        Ok(PageData { page, bytes: Some(Box::new(bytes)) })
    };
    pages.into_iter().map(convert).collect()
}
