//! A host that has just started: it joins a live host, or claims the pair by the record.
//!
//! Who becomes primary is decided by generation and age of data: a host may claim only what the record says
//! it holds in full; a pair that never ran is claimed by the first host of the configuration file.

use super::alone::Alone;
use super::ctx::Ctx;
use super::io::{ExitReason, Input, Output, Session};
use super::joining::Joining;
use super::role::Role;
use crate::Ns;
use crate::arbiter::{Answer, Ask, AttemptId, Record};
use crate::machine::Command;
use crate::message::{Hello, Message, Standing, printable};

/// Most characters of the other side's refusal that are shown.
const WHY_MAX: usize = 2000;

/// See [`Role::Starting`].
#[derive(Debug)]
pub(super) struct Starting {
    /// When this host stops waiting for a live one and claims, if it may.
    claim_at: Option<Ns>,
    /// When this host gives up.
    give_up_at: Option<Ns>,
    read: Option<Option<Record>>,
    asking: Asking,
    persisting: Option<u64>,
}

#[derive(Debug)]
enum Asking {
    Read {
        ticket: u64,
    },
    Claim {
        ticket: u64,
        record: Record,
        expect: AttemptId,
    },
    /// Not reachable; `again` is the claim whose outcome is not known.
    Waiting {
        at: Ns,
        again: Option<(Record, AttemptId)>,
    },
    Idle,
}

impl Starting {
    pub(super) fn begin(ctx: &mut Ctx) -> Self {
        ctx.out.push(Output::Dial(true));
        let ticket = ctx.ask(Ask::Read { pair: ctx.config.identity.pair.clone() });
        Starting {
            claim_at: None,
            give_up_at: None,
            read: None,
            asking: Asking::Read { ticket },
            persisting: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Ns> {
        let asking = match &self.asking {
            Asking::Waiting { at, .. } => Some(*at),
            _ => None,
        };
        [self.claim_at, self.give_up_at, asking].into_iter().flatten().min()
    }

    pub(super) fn step(self, ctx: &mut Ctx, input: Input) -> Role {
        match input {
            Input::LinkUp { session, .. } => ctx.hello(session, Standing::Empty),
            Input::Message { session, message: Message::Hello(hello) } => {
                return self.hello(ctx, session, &hello);
            }
            Input::Message { session, message: Message::Refuse { why } } => {
                ctx.close(session);
                if !self.is_claiming() {
                    return Role::Stopped(ExitReason::Mismatch(printable(&why, WHY_MAX)));
                }
            }
            Input::Arbiter { ticket, answer } => return self.answered(ctx, ticket, answer),
            Input::Persisted { ticket } if self.persisting == Some(ticket) => return boot(ctx),
            Input::Tick => return self.tick(ctx),
            _ => {}
        }
        Role::Starting(self)
    }

    /// A claim that is under way may be won, whatever else happens: only its answer decides.
    pub(super) fn is_claiming(&self) -> bool {
        let unknown = matches!(self.asking, Asking::Claim { .. } | Asking::Waiting { again: Some(_), .. });
        unknown || self.persisting.is_some()
    }

    fn hello(self, ctx: &mut Ctx, session: Session, hello: &Hello) -> Role {
        if self.is_claiming() || hello.standing != Standing::Live {
            if hello.standing != Standing::Empty {
                ctx.close(session);
            }
            return Role::Starting(self);
        }
        if hello.generation < ctx.generation() {
            let why = format!(
                "{} runs generation {}, but this host has seen generation {}: stop one of them",
                hello.host,
                hello.generation,
                ctx.generation()
            );
            ctx.close(session);
            return Role::Stopped(ExitReason::Stale(why));
        }
        ctx.out.push(Output::Dial(false));
        ctx.notice("joining", format!("joining {}, which runs generation {}", hello.host, hello.generation));
        Role::Joining(Joining::begin(ctx, session, hello))
    }

    fn answered(mut self, ctx: &mut Ctx, asked: u64, answer: Option<Answer>) -> Role {
        let asking = std::mem::replace(&mut self.asking, Asking::Idle);
        match (asking, answer) {
            (Asking::Read { ticket }, None) if ticket == asked => self.wait(ctx, None),
            (Asking::Claim { ticket, record, expect }, None) if ticket == asked => {
                self.wait(ctx, Some((record, expect)));
            }
            (Asking::Read { ticket }, Some(Answer::Current(record))) if ticket == asked => {
                self.plan(ctx, record.as_ref());
                self.read = Some(record);
            }
            (Asking::Claim { ticket, .. }, Some(Answer::Won(record))) if ticket == asked => {
                ctx.attempts.clear();
                ctx.local.record = Some(record);
                ctx.local.withdrawn.clear();
                ctx.local.consistent = true;
                self.persisting = Some(ctx.persist());
            }
            (Asking::Claim { ticket, .. }, Some(_)) if ticket == asked => self.read_again(ctx),
            // A late reply to a question that is not open any more.
            (asking, _) => self.asking = asking,
        }
        Role::Starting(self)
    }

    /// What the record allows this host, if nobody live is found.
    fn plan(&mut self, ctx: &mut Ctx, record: Option<&Record>) {
        let start = ctx.config.timing.start;
        let own = &ctx.config.host;
        match record {
            // A witness that lost its records must not make an old disk the newest one.
            None if ctx.local.record.is_some() => self.give_up_at = Some(ctx.now + start * 5),
            None => {
                let wait =
                    if ctx.config.rank == 0 { start / 8 } else { start * Ns::from(ctx.config.rank) * 3 };
                self.claim_at = Some(ctx.now + wait);
            }
            Some(record) if may_claim(ctx, record) => {
                let wait = if record.holder == *own { start / 4 } else { start };
                self.claim_at = Some(ctx.now + wait);
            }
            Some(_) => self.give_up_at = Some(ctx.now + start * 5),
        }
    }

    fn wait(&mut self, ctx: &mut Ctx, again: Option<(Record, AttemptId)>) {
        self.asking = Asking::Waiting { at: ctx.now + ctx.config.timing.retry, again };
    }

    /// Somebody else was faster, or nothing is known yet: look at the record.
    fn read_again(&mut self, ctx: &mut Ctx) {
        let ticket = ctx.ask(Ask::Read { pair: ctx.config.identity.pair.clone() });
        self.asking = Asking::Read { ticket };
    }

    fn tick(mut self, ctx: &mut Ctx) -> Role {
        if let Asking::Waiting { at, again } = &mut self.asking
            && ctx.now >= *at
        {
            match again.take() {
                Some((record, expect)) => self.ask_claim(ctx, record, expect),
                None => self.read_again(ctx),
            }
        }
        if self.claim_at.is_some_and(|at| ctx.now >= at) {
            self.claim_at = None;
            self.claim(ctx);
        }
        if self.give_up_at.is_some_and(|at| ctx.now >= at) {
            return Role::Stopped(ExitReason::Stale(self.stale(ctx)));
        }
        Role::Starting(self)
    }

    fn claim(&mut self, ctx: &mut Ctx) {
        if ctx.local.record.is_none() {
            // Found again if this host dies before it hears that it has won.
            ctx.local.consistent = true;
            ctx.persist();
        }
        let current = self.read.clone().flatten();
        let (generation, expect) = current.map_or((0, 0), |record| (record.generation, record.attempt));
        let own = ctx.config.host.clone();
        let new = ctx.record(generation + 1, vec![own], false);
        self.ask_claim(ctx, new, expect);
    }

    fn ask_claim(&mut self, ctx: &mut Ctx, record: Record, expect: AttemptId) {
        let pair = ctx.config.identity.pair.clone();
        let ticket = ctx.ask(Ask::Swap { pair, expect, new: record.clone() });
        self.asking = Asking::Claim { ticket, record, expect };
    }

    fn stale(&self, ctx: &Ctx) -> String {
        let Some(Record { generation, holder, .. }) = self.read.clone().flatten() else {
            return format!(
                "the arbiter has no record of this pair, but this host has seen generation {}. Give the witness \
                 its state file back, or start the host that ran last",
                ctx.generation()
            );
        };
        let own = match &ctx.local.record {
            Some(record) if ctx.local.consistent => format!("stopped at generation {}", record.generation),
            Some(record) => format!("was being filled in generation {}", record.generation),
            None => "never held this pair's data".to_owned(),
        };
        format!(
            "this disk {own}; generation {generation} is {holder}'s, as the arbiter says. Start {holder}, and \
             this host will be filled from it"
        )
    }
}

/// The record names this host, and its disks hold that very generation, or the one before: a host that won and
/// died before it heard so has released nothing since, and only its own claim can name it as the holder. A
/// record that both hosts have withdrawn since says nothing: the one before it counts.
fn may_claim(ctx: &Ctx, record: &Record) -> bool {
    let own = &ctx.config.host;
    let named = |record: &Record| record.in_sync.contains(own);
    let withdrawn =
        ctx.local.withdrawn.contains(&record.attempt) && ctx.local.record.as_ref().is_some_and(named);
    let current = record.generation == ctx.generation() || record.holder == *own;
    ctx.local.consistent && (withdrawn || named(record) && current)
}

fn boot(ctx: &mut Ctx) -> Role {
    ctx.out.push(Output::Dial(false));
    ctx.machine(Command::Boot);
    ctx.out.push(Output::Announce);
    let generation = ctx.generation();
    ctx.notice("alone", format!("NOT PROTECTED: running alone (generation {generation}); another host that starts is filled by itself"));
    // Hosts that were met while starting learn that this one is live.
    let sessions: Vec<_> = ctx.links.keys().copied().collect();
    for session in sessions {
        ctx.hello(session, Standing::Live);
    }
    Role::Alone(Alone::default())
}
