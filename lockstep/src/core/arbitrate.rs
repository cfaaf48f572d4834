//! Losing the peer: ask the arbiter, hold while it cannot be reached, take over when it says so.
//!
//! Nothing is released between the loss and the arbiter's "won". Losing means stop.

use super::alone::Alone;
use super::ctx::Ctx;
use super::io::{DiskCommand, ExitReason, Input, Output, Session};
use super::outlet::{Flushes, release};
use super::primary::Primary;
use super::role::Role;
use super::secondary::Secondary;
use super::status::Takeover;
use crate::Ns;
use crate::arbiter::{Answer, Ask, AttemptId, Record};
use crate::log::Effect;
use crate::machine::{Command, Delivery, Report};
use crate::message::{Hello, Message, Standing};

/// Frames from the outside that are kept while nobody is live.
const PARKED_MAX: usize = 256;

/// A host that was one half of a protected pair.
#[derive(Debug)]
pub(super) enum Survivor {
    Primary(Box<Primary>),
    Secondary(Box<Secondary>),
}

/// See [`Role::Arbitrating`] and [`Role::Holding`].
#[derive(Debug)]
pub(super) struct Arbitrating {
    survivor: Survivor,
    /// The host that was lost.
    pub(super) peer: String,
    asking: Asking,
    /// A link to the lost host, for as long as a question to the arbiter is open.
    link: Option<Session>,
    parked: Vec<(u8, Vec<u8>)>,
    takeover: Takeover,
}

#[derive(Debug)]
enum Asking {
    /// Does the record name this host at all?
    Read { ticket: u64 },
    /// This record shall replace the one written by `expect`.
    Swap { ticket: u64, record: Record, expect: AttemptId },
    /// Not reachable; again at `at`. `again` is what was asked.
    Waiting { at: Ns, again: Option<(Record, AttemptId)> },
    /// The link is back; no question is open.
    Healing(Healing),
}

/// Both held, and the link is back.
#[derive(Debug)]
struct Healing {
    session: Session,
    /// This host's attempts are durably withdrawn once this is on disk; then it says so.
    persisting: Option<u64>,
    /// What the other side said.
    theirs: Option<Hello>,
}

/// See [`Role::TakingOver`].
#[derive(Debug)]
pub(super) struct TakingOver {
    survivor: Survivor,
    /// The host that was lost.
    pub(super) peer: String,
    parked: Vec<(u8, Vec<u8>)>,
    persisting: Option<u64>,
    /// Reads and flushes to be issued again.
    drained: Option<Vec<Effect>>,
    takeover: Takeover,
}

fn ms(from: Ns, to: Ns) -> f64 {
    std::time::Duration::from_nanos(to.saturating_sub(from)).as_secs_f64() * 1e3
}

impl Arbitrating {
    pub(super) fn begin(
        ctx: &mut Ctx,
        survivor: Survivor,
        peer: String,
        cause: &'static str,
        heard: Ns,
    ) -> Role {
        ctx.notice("peer-lost", format!("{peer} is lost ({cause}); asking the arbiter who goes on"));
        let takeover = Takeover {
            cause: cause.to_owned(),
            silence_ms: ms(heard, ctx.now),
            decided: ctx.now,
            ..Takeover::default()
        };
        let asking = Asking::Waiting { at: ctx.now, again: None };
        let mut arbitrating =
            Arbitrating { survivor, peer, asking, link: None, parked: Vec::new(), takeover };
        #[cfg(feature = "sabotage")]
        if ctx.sabotages(super::ctx::Sabotage::NoArbitration) {
            return Role::Arbitrating(arbitrating);
        }
        arbitrating.ask(ctx);
        Role::Arbitrating(arbitrating)
    }

    fn eligible(&self) -> bool {
        match &self.survivor {
            Survivor::Primary(_) => true,
            Survivor::Secondary(secondary) => secondary.eligible,
        }
    }

    fn ask(&mut self, ctx: &mut Ctx) {
        let again = match &mut self.asking {
            Asking::Waiting { again, .. } => again.take(),
            _ => None,
        };
        match again {
            Some((record, expect)) => self.swap(ctx, record, expect),
            None if self.eligible() => {
                let expect = ctx.expected();
                self.swap_after(ctx, ctx.generation(), expect);
            }
            None => {
                let ticket = ctx.ask(Ask::Read { pair: ctx.config.identity.pair.clone() });
                self.asking = Asking::Read { ticket };
            }
        }
    }

    /// Asks for the generation that follows `generation`, written by `expect`.
    fn swap_after(&mut self, ctx: &mut Ctx, generation: u64, expect: AttemptId) {
        let own = ctx.config.host.clone();
        let record = ctx.record(generation + 1, vec![own], false);
        self.swap(ctx, record, expect);
    }

    fn swap(&mut self, ctx: &mut Ctx, record: Record, expect: AttemptId) {
        let pair = ctx.config.identity.pair.clone();
        let ticket = ctx.ask(Ask::Swap { pair, expect, new: record.clone() });
        self.asking = Asking::Swap { ticket, record, expect };
    }

    pub(super) fn deadline(&self, ctx: &Ctx) -> Option<Ns> {
        match &self.asking {
            Asking::Waiting { at, .. } => Some(*at),
            Asking::Healing(Healing { session, .. }) => {
                ctx.links.get(session).map(|peer| peer.heard + ctx.config.timing.silence)
            }
            Asking::Read { .. } | Asking::Swap { .. } => None,
        }
    }

    fn tick(&mut self, ctx: &mut Ctx) {
        if self.deadline(ctx).is_none_or(|at| ctx.now < at) {
            return;
        }
        if let Asking::Healing(Healing { session, .. }) = self.asking {
            ctx.close(session);
            self.heal_failed(ctx);
        } else {
            self.ask(ctx);
        }
    }

    pub(super) fn step(mut self, ctx: &mut Ctx, input: Input, holding: bool) -> Role {
        #[cfg(feature = "sabotage")]
        if matches!(input, Input::Tick) && ctx.sabotages(super::ctx::Sabotage::NoArbitration) {
            let generation = ctx.generation() + 1;
            let own = ctx.config.host.clone();
            let record = ctx.record(generation, vec![own], false);
            return self.won(ctx, record);
        }
        match input {
            Input::Arbiter { ticket, answer } => return self.answered(ctx, ticket, answer, holding),
            Input::Tick => self.tick(ctx),
            Input::FrameIn { nic, frame } => {
                if self.parked.len() < PARKED_MAX {
                    self.parked.push((nic, frame));
                }
            }
            Input::LinkUp { session, peer, .. } if holding && peer == self.peer => {
                self.link = Some(session);
                self.try_heal(ctx);
            }
            Input::LinkUp { session, .. } if holding => ctx.hello(session, Standing::Busy),
            Input::LinkUp { session, .. } => ctx.close(session),
            Input::LinkDown { session } if self.heals_over(session) => self.heal_failed(ctx),
            Input::LinkDown { session } => drop(self.link.take_if(|link| *link == session)),
            Input::Persisted { ticket } => return self.withdrawn(ctx, ticket, holding),
            Input::Message { session, message } => return self.heal_message(ctx, session, message, holding),
            input => {
                if let Err(why) = self.survivor.step(ctx, input) {
                    return Role::Stopped(ExitReason::Failed(why));
                }
            }
        }
        self.stay(holding)
    }

    fn stay(self, holding: bool) -> Role {
        if holding { Role::Holding(self) } else { Role::Arbitrating(self) }
    }

    fn answered(mut self, ctx: &mut Ctx, asked: u64, answer: Option<Answer>, holding: bool) -> Role {
        let asking = std::mem::replace(&mut self.asking, Asking::Waiting { at: ctx.now, again: None });
        match (asking, answer) {
            (Asking::Read { ticket }, answer) if ticket == asked => self.read(ctx, answer, holding),
            (Asking::Swap { ticket, record, expect }, answer) if ticket == asked => match answer {
                Some(Answer::Won(record)) => self.won(ctx, record),
                Some(Answer::Lost(current)) => self.lost(ctx, current, holding),
                Some(other) => Role::Stopped(ExitReason::LostArbitration(format!("{other:?}"))),
                None => self.hold(ctx, Some((record, expect)), holding),
            },
            // A late reply to a question that is not open any more.
            (asking, _) => {
                self.asking = asking;
                self.stay(holding)
            }
        }
    }

    fn read(mut self, ctx: &mut Ctx, answer: Option<Answer>, holding: bool) -> Role {
        match answer {
            Some(Answer::Current(Some(record))) if record.stopped => stopped(),
            // It may also be this host's own attempt, won unheard and withdrawn since.
            Some(Answer::Current(Some(record)))
                if record.in_sync.contains(&ctx.config.host)
                    && (record.generation == ctx.generation()
                        || ctx.local.withdrawn.contains(&record.attempt)) =>
            {
                self.swap_after(ctx, record.generation, record.attempt);
                self.stay(holding)
            }
            Some(_) => Role::Stopped(ExitReason::LostArbitration(
                "the primary went away before the record named this host".to_owned(),
            )),
            None => self.hold(ctx, None, holding),
        }
    }

    /// Another record is in force. It may be one that leaves this host in sync, or one that was withdrawn.
    fn lost(mut self, ctx: &mut Ctx, current: Option<Record>, holding: bool) -> Role {
        match current {
            Some(record) if record.stopped => stopped(),
            Some(record)
                if record.generation == ctx.generation() && record.in_sync.contains(&ctx.config.host)
                    || ctx.local.withdrawn.contains(&record.attempt) =>
            {
                self.swap_after(ctx, record.generation, record.attempt);
                self.stay(holding)
            }
            Some(record) => Role::Stopped(ExitReason::LostArbitration(format!(
                "{} owns generation {}",
                record.holder, record.generation
            ))),
            None => Role::Stopped(ExitReason::LostArbitration("the arbiter has no such pair".to_owned())),
        }
    }

    /// The arbiter cannot be reached: nothing runs, nothing is released, keep asking.
    fn hold(mut self, ctx: &mut Ctx, again: Option<(Record, AttemptId)>, holding: bool) -> Role {
        self.asking = Asking::Waiting { at: ctx.now + ctx.config.timing.retry, again };
        self.try_heal(ctx);
        if !holding {
            ctx.machine(Command::Pause);
            ctx.out.push(Output::Dial(true));
            ctx.notice(
                "holding",
                format!(
                    "HELD: {} is lost and the arbiter cannot be reached: the guest is frozen and nothing leaves \
                     until one of them answers; this host keeps asking both",
                    self.peer
                ),
            );
        }
        Role::Holding(self)
    }

    fn won(self, ctx: &mut Ctx, record: Record) -> Role {
        ctx.attempts.clear();
        ctx.local.record = Some(record);
        ctx.local.withdrawn.clear();
        ctx.local.consistent = true;
        let persisting = Some(ctx.persist());
        ctx.out.push(Output::Dial(false));
        if matches!(self.survivor, Survivor::Secondary(_)) {
            ctx.machine(Command::Resume);
            ctx.machine(Command::Drain);
        }
        let Arbitrating { survivor, peer, parked, takeover, .. } = self;
        Role::TakingOver(TakingOver { survivor, peer, parked, persisting, drained: None, takeover })
    }

    // --- both held, and the link is back ---

    fn heals_over(&self, session: Session) -> bool {
        matches!(&self.asking, Asking::Healing(healing) if healing.session == session)
    }

    /// From here on this host's open attempts count as withdrawn, whatever the arbiter says later; it tells
    /// the other side only once that is durable. A question that is open comes first: links that come and go
    /// must not keep the arbiter's answer from being heard.
    fn try_heal(&mut self, ctx: &mut Ctx) {
        if !matches!(self.asking, Asking::Waiting { .. }) {
            return;
        }
        let Some(session) = self.link.take() else { return };
        let open = std::mem::take(&mut ctx.attempts);
        ctx.local.withdrawn.extend(open);
        let persisting = Some(ctx.persist());
        let theirs = ctx.links.get(&session).and_then(|peer| peer.hello.clone());
        self.asking = Asking::Healing(Healing { session, persisting, theirs });
    }

    fn heal_failed(&mut self, ctx: &mut Ctx) {
        self.asking = Asking::Waiting { at: ctx.now, again: None };
        self.ask(ctx);
    }

    fn withdrawn(mut self, ctx: &mut Ctx, ticket: u64, holding: bool) -> Role {
        let standing = match &self.survivor {
            Survivor::Primary(_) => Standing::HeldPrimary,
            Survivor::Secondary(secondary) => Standing::HeldSecondary { next: secondary.next() },
        };
        if let Asking::Healing(healing) = &mut self.asking
            && healing.persisting.take_if(|persisting| *persisting == ticket).is_some()
        {
            let session = healing.session;
            ctx.hello(session, standing);
            return self.try_resume(ctx, holding);
        }
        self.stay(holding)
    }

    fn heal_message(mut self, ctx: &mut Ctx, session: Session, message: Message, holding: bool) -> Role {
        match message {
            Message::Hello(hello) if !self.may_resume_with(ctx, &hello) => {
                ctx.close(session);
                self.link.take_if(|link| *link == session);
                if self.heals_over(session) {
                    self.heal_failed(ctx);
                }
            }
            Message::Hello(hello) => {
                // On a link that waits its turn, the table of connections keeps it.
                if let Asking::Healing(healing) = &mut self.asking
                    && healing.session == session
                {
                    healing.theirs = Some(hello);
                    return self.try_resume(ctx, holding);
                }
            }
            Message::Resume { withdrawn } if self.heals_over(session) => {
                return self.resume_secondary(ctx, session, &withdrawn, holding);
            }
            _ => {}
        }
        self.stay(holding)
    }

    fn may_resume_with(&self, ctx: &Ctx, hello: &Hello) -> bool {
        let roles = matches!(
            (&self.survivor, &hello.standing),
            (Survivor::Primary(_), Standing::HeldSecondary { .. })
                | (Survivor::Secondary(_), Standing::HeldPrimary)
        );
        roles
            && hello.host == self.peer
            && hello.identity == ctx.config.identity
            && hello.generation == ctx.generation()
    }

    /// The primary decides: both have withdrawn what was open, and it still has the log the other lacks.
    fn try_resume(mut self, ctx: &mut Ctx, holding: bool) -> Role {
        let Asking::Healing(Healing { session, persisting: None, theirs: Some(hello) }) = &self.asking else {
            return self.stay(holding);
        };
        let (session, hello) = (*session, hello.clone());
        let Standing::HeldSecondary { next } = hello.standing else { return self.stay(holding) };
        let Survivor::Primary(mut primary) = self.survivor else { return self.stay(holding) };
        if !primary.can_resume_from(next) {
            self.survivor = Survivor::Primary(primary);
            ctx.close(session);
            self.heal_failed(ctx);
            return self.stay(holding);
        }
        ctx.local.withdrawn.extend(hello.attempts);
        ctx.local.withdrawn.sort_unstable();
        ctx.local.withdrawn.dedup();
        ctx.persist();
        ctx.send(session, Message::Resume { withdrawn: ctx.local.withdrawn.clone() });
        primary.resume(ctx, session, next);
        resumed(ctx, self.parked);
        Role::Primary(primary)
    }

    fn resume_secondary(
        mut self,
        ctx: &mut Ctx,
        session: Session,
        withdrawn: &[AttemptId],
        holding: bool,
    ) -> Role {
        let Survivor::Secondary(mut secondary) = self.survivor else { return self.stay(holding) };
        if !matches!(&self.asking, Asking::Healing(Healing { persisting: None, theirs: Some(_), .. })) {
            self.survivor = Survivor::Secondary(secondary);
            return self.stay(holding);
        }
        ctx.local.withdrawn = withdrawn.to_vec();
        ctx.persist();
        secondary.resume(ctx, session);
        resumed(ctx, Vec::new());
        Role::Secondary(secondary)
    }
}

/// The guest was shut down, and this is recorded: nobody revives it.
fn stopped() -> Role {
    Role::Stopped(ExitReason::PoweredOff)
}

fn resumed(ctx: &mut Ctx, parked: Vec<(u8, Vec<u8>)>) {
    ctx.out.push(Output::Dial(false));
    ctx.machine(Command::Resume);
    ctx.notice("resumed", "the link is back: both hosts go on as if nothing had been");
    // Their senders repeat them; they were never part of the log.
    drop(parked);
}

impl Survivor {
    /// What goes on while the arbiter is asked: the machine's reports and the disks'.
    fn step(&mut self, ctx: &mut Ctx, input: Input) -> Result<(), String> {
        match (self, input) {
            (_, Input::Machine(Report::Failed(why))) => Err(why),
            (Survivor::Primary(primary), Input::Machine(report)) => {
                primary.report(ctx, report);
                Ok(())
            }
            (Survivor::Secondary(secondary), Input::Machine(report)) => secondary.report(ctx, report),
            (Survivor::Primary(primary), Input::Disk(report)) => {
                primary.disk(ctx, report);
                Ok(())
            }
            (Survivor::Secondary(secondary), Input::Disk(report)) => secondary.disk(ctx, report),
            _ => Ok(()),
        }
    }
}

impl TakingOver {
    pub(super) fn step(mut self, ctx: &mut Ctx, input: Input) -> Role {
        match input {
            Input::Persisted { ticket } => {
                self.persisting.take_if(|persisting| *persisting == ticket);
                if self.persisting.is_none() {
                    self.takeover.arbitration_ms = ms(self.takeover.decided, ctx.now);
                }
            }
            Input::Machine(Report::Drained { outstanding }) => self.drained = Some(outstanding),
            Input::FrameIn { nic, frame } => {
                if self.parked.len() < PARKED_MAX {
                    self.parked.push((nic, frame));
                }
            }
            Input::LinkUp { session, .. } => ctx.close(session),
            input => {
                if let Err(why) = self.survivor.step(ctx, input) {
                    return Role::Stopped(ExitReason::Failed(why));
                }
            }
        }
        let drained = self.drained.is_some() || matches!(self.survivor, Survivor::Primary(_));
        if self.persisting.is_some() || !drained {
            return Role::TakingOver(self);
        }
        self.go_live(ctx)
    }

    fn go_live(self, ctx: &mut Ctx) -> Role {
        let TakingOver { survivor, peer, parked, drained, mut takeover, .. } = self;
        let arbitrated = takeover.decided + (takeover.arbitration_ms * 1e6) as Ns;
        takeover.replay_ms = ms(arbitrated, ctx.now);
        takeover.live_at = ctx.now;
        let frames = ctx.counters.output.frames;
        let alone = match survivor {
            Survivor::Primary(primary) => primary.go_alone(ctx).with_new_record(ctx),
            Survivor::Secondary(secondary) => {
                secondary_goes_live(ctx, &secondary, drained.unwrap_or_default())
            }
        };
        if ctx.counters.output.frames > frames {
            takeover.first_frame_ms = Some(0.0);
        }
        for (nic, frame) in parked {
            let id = ctx.next_frame();
            ctx.machine(Command::Deliver(Delivery::Frame { id, nic, frame }));
        }
        ctx.notice(
            "alone",
            format!(
                "NOT PROTECTED: running alone (generation {}) without {peer}, which was lost: {} (no sign of life \
                 for {:.0} ms, arbitration {:.1} ms, replay {:.1} ms). When {peer} is back it is filled by itself",
                ctx.generation(),
                takeover.cause,
                takeover.silence_ms,
                takeover.arbitration_ms,
                takeover.replay_ms
            ),
        );
        ctx.takeover = Some(takeover);
        Role::Alone(alone)
    }
}

/// Outputs that were acknowledged, and may or may not have left, leave again; those of the rest of the
/// replay leave now; disk requests whose completion was not logged are issued again.
fn secondary_goes_live(ctx: &mut Ctx, secondary: &Secondary, outstanding: Vec<Effect>) -> Alone {
    ctx.go_live();
    ctx.out.push(Output::Announce);
    ctx.forget_reads();
    let mut alone = Alone::default();
    let mut ended = super::outlet::Ended::No;
    for (_, effects) in &secondary.kept {
        let before = ctx.counters.output.frames;
        ended = release(ctx, effects);
        ctx.counters.output.repeated += ctx.counters.output.frames - before;
    }
    let last = release(ctx, &secondary.current.effects);
    if last != super::outlet::Ended::No {
        ended = last;
    }
    let tag = secondary.current.tag();
    let flushes: Vec<_> =
        outstanding.iter().filter(|effect| matches!(effect, Effect::DiskFlush { .. })).cloned().collect();
    alone.flushes = Flushes::default();
    alone.flushes.add(&flushes, tag, None);
    ctx.disk(DiskCommand::Commit { epoch: tag, sync: !flushes.is_empty() });
    for effect in outstanding {
        super::outlet::submit(ctx, &effect, tag);
    }
    alone.ending = super::alone::Ending::begin(ctx, ended);
    alone
}
