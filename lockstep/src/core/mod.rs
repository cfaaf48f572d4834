//! The state machine of one host: `(state, input, now) -> (state, outputs)`.
//!
//! Architecture Invariant: nothing here reads a clock, starts a thread, opens a socket or a file, or
//! iterates over something whose order is random. The edges do, and tell.

mod alone;
mod arbitrate;
mod ctx;
mod fill;
mod fit;
pub mod io;
mod joining;
pub mod latency;
mod outlet;
mod primary;
mod role;
mod secondary;
mod start;
pub mod status;
#[cfg(test)]
mod tests;

#[cfg(feature = "sabotage")]
pub use ctx::Sabotage;
pub use ctx::{Config, Timing};
pub use io::*;
pub use role::RoleKind;
pub use status::{Status, Takeover};

use crate::Ns;
use crate::message::{Hello, Message};
use ctx::{Ctx, Peer};
use role::Role;
use start::Starting;

/// One host.
pub struct Core {
    role: Role,
    ctx: Ctx,
    since: Ns,
}

impl Core {
    /// A host that has just started, with what its last life left on disk.
    #[must_use]
    pub fn new(config: Config, local: LocalState, now: Ns) -> (Self, Vec<Output>) {
        let mut ctx = Ctx::new(config, local, now);
        let role = Role::Starting(Starting::begin(&mut ctx));
        let out = std::mem::take(&mut ctx.out);
        (Core { role, ctx, since: now }, out)
    }

    /// One step.
    pub fn step(&mut self, input: Input, now: Ns) -> Vec<Output> {
        self.ctx.now = self.ctx.now.max(now);
        if let Some(input) = self.keep(input) {
            let before = self.role.kind();
            let role = std::mem::replace(&mut self.role, Role::Stopped(ExitReason::PoweredOff));
            self.role = role.step(&mut self.ctx, input);
            self.changed(before);
        }
        std::mem::take(&mut self.ctx.out)
    }

    fn changed(&mut self, before: RoleKind) {
        let after = self.role.kind();
        if before == after {
            return;
        }
        assert!(before.may_become(after), "illegal transition from {before:?} to {after:?}");
        self.since = self.ctx.now;
        if let Role::Stopped(reason) = &self.role {
            self.ctx.out.push(Output::Exit(reason.clone()));
        }
    }

    /// Keeps what every role needs: the connections, and whether the disk is behind. `None`: the roles need
    /// not know.
    fn keep(&mut self, input: Input) -> Option<Input> {
        let now = self.ctx.now;
        match &input {
            Input::LinkUp { session, peer, .. } => {
                let peer = Peer { name: peer.clone(), heard: now, hello: None };
                self.ctx.links.insert(*session, peer);
            }
            Input::LinkDown { session } => {
                self.ctx.gone = Some((*session, self.ctx.links.remove(session)?));
            }
            Input::Heard { session } => {
                if let Some(peer) = self.ctx.links.get_mut(session) {
                    peer.heard = now;
                }
                return None;
            }
            Input::Message { session, message } => {
                let peer = self.ctx.links.get_mut(session)?;
                peer.heard = now;
                if let Message::Hello(hello) = message {
                    peer.hello = Some(hello.clone());
                    if let Some(why) = self.misfit(hello) {
                        self.refuse(*session, &why);
                        return None;
                    }
                }
            }
            Input::Disk(DiskReport::Pressure(on)) => self.ctx.disk_pressed = *on,
            Input::Disk(DiskReport::Read { .. }) if !self.ctx.read_wanted() => return None,
            _ => {}
        }
        Some(input)
    }

    fn misfit(&self, hello: &Hello) -> Option<String> {
        let config = &self.ctx.config;
        fit::misfit((&config.host, &config.identity), (&hello.host, &hello.identity))
    }

    fn refuse(&mut self, session: Session, why: &str) {
        self.ctx.notice("mismatch", why);
        self.ctx.send(session, Message::Refuse { why: why.to_owned() });
        self.ctx.close(session);
        // A host with nothing to lose says why and ends; a live one, or one that is about to be, goes on.
        if matches!(&self.role, Role::Starting(starting) if !starting.is_claiming()) {
            self.role = Role::Stopped(ExitReason::Mismatch(why.to_owned()));
            self.changed(RoleKind::Starting);
        }
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Ns> {
        match &self.role {
            Role::Starting(starting) => starting.deadline(),
            Role::Alone(alone) => alone.deadline(),
            Role::Filling(filling) => filling.deadline(&self.ctx),
            Role::Primary(primary) => primary.deadline(&self.ctx),
            Role::Joining(joining) => joining.deadline(&self.ctx),
            Role::Secondary(secondary) => secondary.deadline(&self.ctx),
            Role::Arbitrating(arbitrating) | Role::Holding(arbitrating) => arbitrating.deadline(&self.ctx),
            Role::TakingOver(_) | Role::Stopped(_) => None,
        }
    }

    /// The role, without its data.
    #[must_use]
    pub fn role(&self) -> RoleKind {
        self.role.kind()
    }

    /// Whether the guest of this host runs for the outside.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.role, Role::Alone(_) | Role::Filling(_) | Role::Primary(_))
    }

    /// The edge saw the first frame leave since the last takeover.
    pub fn first_frame_left(&mut self, now: Ns) {
        if let Some(takeover) = &mut self.ctx.takeover
            && takeover.first_frame_ms.is_none()
        {
            let ns = now.saturating_sub(takeover.live_at);
            takeover.first_frame_ms = Some(std::time::Duration::from_nanos(ns).as_secs_f64() * 1e3);
        }
    }

    /// What this host says of itself.
    #[must_use]
    pub fn status(&self, now: Ns) -> Status {
        let (protected, session, lag, waiting) = match &self.role {
            Role::Primary(p) => (p.is_protected(), Some(p.session), p.lag(now), p.waiting()),
            Role::Secondary(s) => (s.eligible, Some(s.session), 0, s.current.effects.len()),
            Role::Filling(f) => (false, Some(f.session()), 0, 0),
            Role::Joining(j) => (false, Some(j.session()), 0, 0),
            _ => (false, None, 0, 0),
        };
        let mut counters = self.ctx.counters.clone();
        counters.output.waiting = waiting as u64;
        let peer = match &self.role {
            Role::Arbitrating(lost) | Role::Holding(lost) => Some(lost.peer.clone()),
            Role::TakingOver(taking_over) => Some(taking_over.peer.clone()),
            _ => session.and_then(|session| self.ctx.links.get(&session)).map(|peer| peer.name.clone()),
        };
        let fill_percent = match &self.role {
            Role::Filling(filling) => Some(filling.percent(self.ctx.config.identity.pages)),
            _ => None,
        };
        Status {
            schema: "twinrun.status/1",
            pair: self.ctx.config.identity.pair.clone(),
            host: self.ctx.config.host.clone(),
            role: self.role.kind().name(),
            protected,
            generation: self.ctx.generation(),
            peer,
            since_ms: now.saturating_sub(self.since) / 1_000_000,
            record: self.ctx.local.record.clone(),
            fill_percent,
            counters,
            lag_ms: std::time::Duration::from_nanos(lag).as_secs_f64() * 1e3,
            takeover: self.ctx.takeover.clone(),
        }
    }
}

impl Role {
    fn step(self, ctx: &mut Ctx, input: Input) -> Role {
        match self {
            Role::Starting(starting) => starting.step(ctx, input),
            Role::Alone(alone) => alone.step(ctx, input),
            Role::Filling(filling) => filling.step(ctx, input),
            Role::Primary(primary) => primary.step(ctx, input),
            Role::Joining(joining) => joining.step(ctx, input),
            Role::Secondary(secondary) => secondary.step(ctx, input),
            Role::Arbitrating(arbitrating) => arbitrating.step(ctx, input, false),
            Role::Holding(holding) => holding.step(ctx, input, true),
            Role::TakingOver(taking_over) => taking_over.step(ctx, input),
            Role::Stopped(reason) => Role::Stopped(reason),
        }
    }
}
