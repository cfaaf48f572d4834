//! Filling a new secondary while the guest runs: disks first, then memory in rounds.

use super::alone::Alone;
use super::ctx::Ctx;
use super::io::{DiskCommand, DiskReport, ExitReason, Input, Session};
use super::primary::Primary;
use super::role::Role;
use crate::Ns;
use crate::log::{FrameId, Page};
use crate::machine::{Command, Delivery, PageData, Report};
use crate::message::{Message, Standing, WirePage};

/// Messages that may be under way unconfirmed. A disk part is 256 KiB at most.
const WINDOW: u64 = 48;
/// Pages per message: less than 1 MiB.
pub(super) const PAGES_PER_MESSAGE: usize = 200;
/// A pass that left at most this many regions or pages is followed by the final one.
const FEW: u32 = 64;
const PASSES_MAX: u32 = 8;

/// See [`Role::Filling`].
#[derive(Debug)]
pub(super) struct Filling {
    alone: Alone,
    session: Session,
    stage: Stage,
    /// An answer of the disk thread or the machine is awaited.
    waiting: bool,
    flow: Flow,
    /// Frames that were delivered after the machine was told to begin the log: it may place them in the log.
    late: Vec<LateFrame>,
    began: Ns,
}

/// A frame with its id and interface.
pub(super) type LateFrame = (FrameId, u8, Vec<u8>);

#[derive(Debug)]
enum Stage {
    Disks { pass: u32 },
    Scan { from: Page },
    Dirty { round: u32 },
    Finishing,
}

/// What a primary takes over from the fill.
pub(super) struct Fill {
    pub(super) session: Session,
    pub(super) flow: Flow,
    pub(super) late: Vec<LateFrame>,
    pub(super) began: Ns,
}

/// Messages sent and applied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) sent: u64,
    pub(super) applied: u64,
}

impl Flow {
    pub(super) fn is_open(&self) -> bool {
        self.sent.saturating_sub(self.applied) < WINDOW
    }
}

/// Sends pages in messages of bounded size.
pub(super) fn send_pages(ctx: &mut Ctx, session: Session, flow: &mut Flow, pages: Vec<PageData>) {
    for chunk in wire_pages(pages) {
        flow.sent += 1;
        ctx.send(session, Message::FillPages(chunk));
    }
}

/// Pages in groups that fit a message.
pub(super) fn wire_pages(pages: Vec<PageData>) -> Vec<Vec<WirePage>> {
    let mut wire = pages.into_iter().map(|PageData { page, bytes }| WirePage {
        page,
        bytes: bytes.map_or_else(Vec::new, |b| b.to_vec()),
    });
    let mut chunks = Vec::new();
    loop {
        let chunk: Vec<_> = wire.by_ref().take(PAGES_PER_MESSAGE).collect();
        if chunk.is_empty() {
            return chunks;
        }
        chunks.push(chunk);
    }
}

impl Filling {
    pub(super) fn begin(ctx: &mut Ctx, alone: Alone, session: Session) -> Self {
        ctx.disk(DiskCommand::CopyStart);
        let mut filling = Filling {
            alone,
            session,
            stage: Stage::Disks { pass: 0 },
            waiting: false,
            flow: Flow::default(),
            late: Vec::new(),
            began: ctx.now,
        };
        filling.pump(ctx);
        filling
    }

    /// The other host is gone, or the guest ended: as before the fill.
    fn give_up(self, ctx: &mut Ctx, why: &str) -> Role {
        ctx.disk(DiskCommand::CopyStop);
        ctx.notice("fill-failed", format!("NOT PROTECTED: the fill was given up: {why}"));
        ctx.close(self.session);
        Role::Alone(self.alone)
    }

    fn pump(&mut self, ctx: &mut Ctx) {
        if self.waiting || !self.flow.is_open() {
            return;
        }
        self.waiting = true;
        match self.stage {
            Stage::Disks { .. } => ctx.disk(DiskCommand::CopyNext),
            Stage::Scan { from } => {
                let max = u32::try_from(PAGES_PER_MESSAGE).unwrap_or(1);
                ctx.machine(Command::FillScan { from, max });
            }
            Stage::Dirty { .. } => {
                ctx.machine(Command::FillDirty { max: u32::try_from(PAGES_PER_MESSAGE).unwrap_or(1) });
            }
            Stage::Finishing => ctx.machine(Command::FillFinish),
        }
    }

    pub(super) fn step(mut self, ctx: &mut Ctx, input: Input) -> Role {
        match input {
            Input::LinkUp { session, .. } => ctx.hello(session, Standing::Busy),
            // It met this host when it had no secondary, and waits to be filled.
            Input::Message { session, message: Message::Hello(hello) }
                if session != self.session && hello.standing == Standing::Empty =>
            {
                ctx.hello(session, Standing::Busy);
            }
            Input::LinkDown { session } if session == self.session && !self.is_finishing() => {
                return self.give_up(ctx, "the link went down");
            }
            Input::Tick if self.is_silent(ctx) && !self.is_finishing() => {
                return self.give_up(ctx, "the other host fell silent");
            }
            Input::Message { session, message: Message::FillProgress { applied } }
                if session == self.session =>
            {
                self.flow.applied = self.flow.applied.max(applied.min(self.flow.sent));
            }
            Input::Disk(DiskReport::Part { disk, offset, len, data }) => {
                self.waiting = false;
                self.flow.sent += 1;
                ctx.send(self.session, Message::FillDisk { disk, offset, len, data });
            }
            Input::Disk(DiskReport::PassDone { left }) => self.disk_pass_done(ctx, left),
            Input::Machine(Report::FillPages { pages, next }) => {
                self.waiting = false;
                send_pages(ctx, self.session, &mut self.flow, pages);
                self.stage = next.map_or(Stage::Dirty { round: 0 }, |from| Stage::Scan { from });
            }
            Input::Machine(Report::FillDirty { pages, left }) => self.dirty_round_done(ctx, pages, left),
            Input::Machine(Report::FillFinished { pages, state }) => {
                let fill =
                    Fill { session: self.session, flow: self.flow, late: self.late, began: self.began };
                let primary = Primary::begin(ctx, fill, self.alone, pages, state);
                return Box::new(primary).checked(ctx);
            }
            Input::FrameIn { nic, frame } if self.is_finishing() => {
                ctx.counters.output.frames_in += 1;
                let id = ctx.next_frame();
                self.late.push((id, nic, frame.clone()));
                ctx.machine(Command::Deliver(Delivery::Frame { id, nic, frame }));
            }
            input => {
                if let Some(reason) = self.alone.common(ctx, input) {
                    return self.stop(ctx, reason);
                }
            }
        }
        if self.alone.ending.is_some() && !self.is_finishing() {
            return self.give_up(ctx, "the guest stopped");
        }
        self.pump(ctx);
        Role::Filling(self)
    }

    fn stop(self, ctx: &mut Ctx, reason: ExitReason) -> Role {
        ctx.close(self.session);
        Role::Stopped(reason)
    }

    fn is_silent(&self, ctx: &Ctx) -> bool {
        self.deadline(ctx).is_some_and(|at| at <= ctx.now)
    }

    /// The machine was told to begin the log: only its answer decides what comes next.
    fn is_finishing(&self) -> bool {
        matches!(self.stage, Stage::Finishing) && self.waiting
    }

    fn disk_pass_done(&mut self, ctx: &mut Ctx, left: u32) {
        self.waiting = false;
        let Stage::Disks { pass } = self.stage else { return };
        if left > FEW && pass < PASSES_MAX {
            self.stage = Stage::Disks { pass: pass + 1 };
        } else {
            ctx.machine(Command::FillStart);
            self.stage = Stage::Scan { from: 0 };
        }
    }

    fn dirty_round_done(&mut self, ctx: &mut Ctx, pages: Vec<PageData>, left: u32) {
        self.waiting = false;
        let Stage::Dirty { round } = self.stage else { return };
        let copied = u32::try_from(pages.len()).unwrap_or(u32::MAX);
        send_pages(ctx, self.session, &mut self.flow, pages);
        self.stage = if left == 0 && copied <= FEW || round >= PASSES_MAX * 64 {
            Stage::Finishing
        } else {
            Stage::Dirty { round: round + 1 }
        };
    }

    pub(super) fn deadline(&self, ctx: &Ctx) -> Option<Ns> {
        let silence = ctx.links.get(&self.session).map(|peer| peer.heard + ctx.config.timing.silence);
        silence.into_iter().chain(self.alone.deadline()).min()
    }

    pub(super) fn session(&self) -> Session {
        self.session
    }

    /// For people: how far the fill is, in percent.
    pub(super) fn percent(&self, pages: u32) -> u32 {
        match self.stage {
            Stage::Disks { .. } => 0,
            Stage::Scan { from } => {
                u32::try_from(u64::from(from) * 90 / u64::from(pages.max(1))).unwrap_or(0)
            }
            Stage::Dirty { .. } => 90,
            Stage::Finishing => 99,
        }
    }
}
