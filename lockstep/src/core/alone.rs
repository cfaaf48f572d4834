//! A guest that runs unprotected: what it says leaves at once.

use super::ctx::Ctx;
use super::fill::Filling;
use super::io::{DiskCommand, DiskReport, ExitReason, Input};
use super::outlet::{Ended, Flushes, release, submit};
use super::role::Role;
use crate::arbiter::{Answer, Ask, Record};
use crate::log::Effect;
use crate::machine::{Command, Delivery, Report};
use crate::message::{Message, Standing};

/// See [`Role::Alone`].
#[derive(Debug, Default)]
pub(super) struct Alone {
    pub(super) flushes: Flushes,
    pub(super) ending: Option<Ending>,
}

/// The guest ended itself; this must be in the record before the outside sees it.
#[derive(Debug)]
pub(super) struct Ending {
    record: Record,
    ticket: u64,
    expect: u128,
    ended: Ended,
    retry_at: Option<u64>,
}

impl Ending {
    pub(super) fn begin(ctx: &mut Ctx, ended: Ended) -> Option<Ending> {
        if ended == Ended::No {
            return None;
        }
        let in_sync = ctx.local.record.as_ref().map_or_else(Vec::new, |record| record.in_sync.clone());
        let generation = ctx.generation();
        let record = ctx.record(generation, in_sync, true);
        let expect = ctx.expected();
        let mut ending = Ending { record, ticket: 0, expect, ended, retry_at: None };
        ending.ask(ctx);
        Some(ending)
    }

    fn ask(&mut self, ctx: &mut Ctx) {
        let pair = ctx.config.identity.pair.clone();
        self.retry_at = None;
        self.ticket = ctx.ask(Ask::Swap { pair, expect: self.expect, new: self.record.clone() });
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.retry_at
    }

    /// Some: the host is done.
    pub(super) fn on(&mut self, ctx: &mut Ctx, input: &Input) -> Option<ExitReason> {
        match input {
            Input::Arbiter { ticket, answer } if *ticket == self.ticket => match answer {
                Some(Answer::Won(record)) => {
                    ctx.local.record = Some(record.clone());
                    ctx.persist();
                    let text = match self.ended {
                        Ended::Reset => "the guest asked for a reset; it is stopped, and this is recorded",
                        _ => "the guest powered itself off, and this is recorded",
                    };
                    ctx.notice("guest-stopped", text);
                    Some(ExitReason::PoweredOff)
                }
                None => {
                    self.retry_at = Some(ctx.now + ctx.config.timing.retry);
                    None
                }
                Some(other) => Some(ExitReason::LostArbitration(format!(
                    "the guest stopped, but the record could not be written: {other:?}"
                ))),
            },
            Input::Tick if self.retry_at.is_some_and(|at| at <= ctx.now) => {
                self.ask(ctx);
                None
            }
            _ => None,
        }
    }
}

impl Alone {
    /// The record was replaced since the guest ended: that it did is recorded anew.
    pub(super) fn with_new_record(mut self, ctx: &mut Ctx) -> Self {
        self.ending = self.ending.and_then(|old| Ending::begin(ctx, old.ended));
        self
    }

    /// The guest's effects leave.
    pub(super) fn effects(&mut self, ctx: &mut Ctx, effects: &[Effect]) {
        let tag = ctx.next_tag();
        for effect in effects {
            submit(ctx, effect, tag);
        }
        let flush = effects.iter().any(|effect| matches!(effect, Effect::DiskFlush { .. }));
        if flush || effects.iter().any(|effect| matches!(effect, Effect::DiskWrite { .. })) {
            ctx.disk(DiskCommand::Commit { epoch: tag, sync: flush });
        }
        self.flushes.add(effects, tag, None);
        let ended = release(ctx, effects);
        if self.ending.is_none() {
            self.ending = Ending::begin(ctx, ended);
        }
    }

    /// What is the same with and without a fill under way. Some: this host is done.
    pub(super) fn common(&mut self, ctx: &mut Ctx, input: Input) -> Option<ExitReason> {
        if let Some(ending) = &mut self.ending
            && let Some(reason) = ending.on(ctx, &input)
        {
            return Some(reason);
        }
        match input {
            Input::Machine(Report::Effects(effects)) => self.effects(ctx, &effects),
            Input::Machine(Report::Failed(why)) => return Some(ExitReason::Failed(why)),
            Input::FrameIn { nic, frame } => {
                ctx.counters.output.frames_in += 1;
                let id = ctx.next_frame();
                ctx.machine(Command::Deliver(Delivery::Frame { id, nic, frame }));
            }
            Input::Disk(report) => return self.disk(ctx, report),
            _ => {}
        }
        None
    }

    fn disk(&mut self, ctx: &mut Ctx, report: DiskReport) -> Option<ExitReason> {
        match report {
            DiskReport::Read { disk, id, ok, data } => {
                ctx.machine(Command::Deliver(Delivery::DiskDone { disk, id, ok, data }));
            }
            DiskReport::Durable { epoch, ok: true } => self.flushes.own_durable(ctx, epoch),
            DiskReport::Durable { ok: false, .. } => {
                return Some(ExitReason::Failed("the disk of this host failed; see the journal".to_owned()));
            }
            DiskReport::Pressure(on) => ctx.machine(Command::Stall(on)),
            DiskReport::Part { .. } | DiskReport::PassDone { .. } | DiskReport::Synced { .. } => {}
        }
        None
    }

    pub(super) fn step(mut self, ctx: &mut Ctx, input: Input) -> Role {
        match input {
            Input::LinkUp { session, .. } => {
                ctx.hello(session, Standing::Live);
                Role::Alone(self)
            }
            Input::Message { session, message: Message::Hello(hello) }
                if hello.standing == Standing::Empty && self.ending.is_none() =>
            {
                let text =
                    format!("filling {}; the guest runs on, NOT PROTECTED until that is done", hello.host);
                ctx.notice("fill-began", text);
                Role::Filling(Filling::begin(ctx, self, session))
            }
            input => match self.common(ctx, input) {
                Some(reason) => Role::Stopped(reason),
                None => Role::Alone(self),
            },
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.ending.as_ref().and_then(Ending::deadline)
    }
}
