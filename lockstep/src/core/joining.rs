//! A host that is being filled.

use super::ctx::Ctx;
use super::io::{DiskCommand, DiskReport, ExitReason, Input, Session};
use super::role::Role;
use super::secondary::{Secondary, page_data};
use crate::Ns;
use crate::arbiter::Record;
use crate::machine::{Command, PAGE_SIZE, Report};
use crate::message::{Hello, Message, Standing};

/// Disk parts between two syncs: so many are confirmed at once.
const SYNC_EVERY: u64 = 16;

/// See [`Role::Joining`].
#[derive(Debug)]
pub(super) struct Joining {
    session: Session,
    state: Vec<u8>,
    state_complete: bool,
    /// Disk parts written since the last confirmed sync, and syncs that are under way.
    parts: u64,
    syncs: u64,
    applied: u64,
    adopted: Option<Vec<crate::log::Effect>>,
    /// The disks are consistent; `Filled` is said once that is durable, as the record may name this host then.
    persisting: Option<u64>,
    /// What follows the fill, until it is complete.
    early: Vec<Message>,
}

impl Joining {
    pub(super) fn begin(ctx: &mut Ctx, session: Session, live: &Hello) -> Self {
        // From the first part on this host's disks are no consistent state of anything.
        ctx.local.consistent = false;
        // What is filled belongs to the live host's generation. Its record itself comes with protection; until
        // then this one names nobody.
        ctx.local.record = Some(Record {
            generation: live.generation,
            holder: live.host.clone(),
            attempt: 0,
            in_sync: Vec::new(),
            stopped: false,
        });
        ctx.persist();
        // A host that went live after the link came up learns that this one wants to be filled.
        ctx.hello(session, Standing::Empty);
        Joining {
            session,
            state: Vec::new(),
            state_complete: false,
            parts: 0,
            syncs: 0,
            applied: 0,
            adopted: None,
            persisting: None,
            early: Vec::new(),
        }
    }

    pub(super) fn deadline(&self, ctx: &Ctx) -> Option<Ns> {
        ctx.links.get(&self.session).map(|peer| peer.heard + ctx.config.timing.silence)
    }

    pub(super) fn session(&self) -> Session {
        self.session
    }

    pub(super) fn step(mut self, ctx: &mut Ctx, input: Input) -> Role {
        let gone = "the primary went away before this host was filled";
        match input {
            Input::LinkUp { session, .. } => ctx.hello(session, Standing::Busy),
            Input::LinkDown { session } if session == self.session => {
                return self.stop(ctx, ExitReason::LostArbitration(gone.to_owned()));
            }
            Input::Tick if self.deadline(ctx).is_some_and(|at| ctx.now >= at) => {
                return self.stop(ctx, ExitReason::LostArbitration(gone.to_owned()));
            }
            Input::Message { session, message: Message::Hello(hello) }
                if session == self.session && hello.standing == Standing::Busy =>
            {
                let why = format!("{} fills another host already; this one is a spare", hello.host);
                return self.stop(ctx, ExitReason::LostArbitration(why));
            }
            Input::Message { session, message } if session == self.session => {
                if let Err(why) = self.message(ctx, message) {
                    return self.stop(ctx, ExitReason::Failed(why));
                }
            }
            Input::Disk(DiskReport::Synced { ok }) => {
                if !ok {
                    return self.stop(ctx, ExitReason::Failed("the disk of this host failed".to_owned()));
                }
                self.syncs = self.syncs.saturating_sub(1);
                if !self.state_complete {
                    self.progress(ctx, SYNC_EVERY);
                }
            }
            Input::Machine(Report::Adopted { outstanding }) => self.adopted = Some(outstanding),
            Input::Persisted { ticket } if self.persisting == Some(ticket) => return self.finish(ctx),
            Input::Machine(Report::Failed(why)) => return self.stop(ctx, ExitReason::Failed(why)),
            _ => {}
        }
        self.complete(ctx);
        Role::Joining(self)
    }

    fn stop(self, ctx: &mut Ctx, reason: ExitReason) -> Role {
        ctx.close(self.session);
        Role::Stopped(reason)
    }

    fn progress(&mut self, ctx: &mut Ctx, messages: u64) {
        self.applied += messages;
        ctx.send(self.session, Message::FillProgress { applied: self.applied });
    }

    fn message(&mut self, ctx: &mut Ctx, message: Message) -> Result<(), String> {
        match message {
            Message::FillDisk { disk, offset, len, data } => {
                ctx.disk(DiskCommand::Load { disk, offset, len, data });
                self.parts += 1;
                if self.parts == SYNC_EVERY {
                    self.parts = 0;
                    self.syncs += 1;
                    ctx.disk(DiskCommand::Sync);
                }
            }
            Message::FillPages(pages) => {
                ctx.machine(Command::Load(page_data(pages)?));
                self.progress(ctx, 1);
            }
            Message::FillState { part, last } => {
                self.state.extend(part);
                if self.state.len() > ctx.config.identity.pages as usize * PAGE_SIZE {
                    return Err("the primary sends an endless state".to_owned());
                }
                if last {
                    self.state_complete = true;
                    self.syncs += 1;
                    ctx.disk(DiskCommand::Sync);
                    ctx.machine(Command::Adopt { state: std::mem::take(&mut self.state) });
                }
            }
            other if self.state_complete => self.early.push(other),
            _ => {}
        }
        Ok(())
    }

    /// Memory, state and disks are here, and the disks are durable.
    fn complete(&mut self, ctx: &mut Ctx) {
        if self.state_complete && self.syncs == 0 && self.adopted.is_some() && self.persisting.is_none() {
            ctx.local.consistent = true;
            self.persisting = Some(ctx.persist());
        }
    }

    fn finish(mut self, ctx: &mut Ctx) -> Role {
        let outstanding = self.adopted.take().unwrap_or_default();
        let mut secondary = Box::new(Secondary::begin(ctx, self.session));
        for effect in outstanding {
            super::outlet::submit(ctx, &effect, secondary.current.tag());
        }
        ctx.send(self.session, Message::Filled);
        ctx.notice("filled", "memory and disks are here; protected once the arbiter has recorded it");
        for message in self.early {
            let input = Input::Message { session: self.session, message };
            match secondary.step(ctx, input) {
                Role::Secondary(next) => secondary = next,
                other => return other,
            }
        }
        Role::Secondary(secondary)
    }
}
