//! What leaves, and what must be durable before the guest hears so.

use super::ctx::Ctx;
use super::io::{DiskCommand, Output};
use crate::Ns;
use crate::log::{Effect, EffectsDigest, Epoch, FrameId};
use crate::machine::{Command, Delivery};

/// The effects of one epoch, in order, until they are released.
#[derive(Debug)]
pub(super) struct EpochEffects {
    pub(super) epoch: Epoch,
    /// Disk tags of its writes, oldest first; more than one after a reopened seal.
    pub(super) tags: Vec<u64>,
    pub(super) effects: Vec<Effect>,
    pub(super) digest: EffectsDigest,
    /// Early frames that were placed in it.
    pub(super) placed: Vec<FrameId>,
    /// When its first output was made.
    pub(super) first_output: Option<Ns>,
}

impl EpochEffects {
    pub(super) fn new(ctx: &mut Ctx, epoch: Epoch) -> Self {
        EpochEffects {
            epoch,
            tags: vec![ctx.next_tag()],
            effects: Vec::new(),
            digest: EffectsDigest::default(),
            placed: Vec::new(),
            first_output: None,
        }
    }

    /// Adds effects as the guest produces them: disk requests go to the disk thread at once.
    pub(super) fn add(&mut self, ctx: &mut Ctx, effects: Vec<Effect>) {
        for effect in effects {
            self.digest.add(&effect);
            submit(ctx, &effect, self.tag());
            if effect.is_output() {
                self.first_output.get_or_insert(ctx.now);
            }
            self.effects.push(effect);
        }
    }

    pub(super) fn tag(&self) -> u64 {
        self.tags.last().copied().unwrap_or(0)
    }

    pub(super) fn has_output(&self) -> bool {
        self.effects.iter().any(Effect::is_output)
    }

    pub(super) fn has_flush(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::DiskFlush { .. }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.effects.iter().map(Effect::bytes).sum()
    }

    /// The epoch goes on: `next`, which had begun, becomes part of it.
    pub(super) fn reopen(mut self, next: EpochEffects) -> EpochEffects {
        self.tags.extend(next.tags);
        self.placed.extend(next.placed);
        self.first_output = self.first_output.or(next.first_output);
        for effect in next.effects {
            self.digest.add(&effect);
            self.effects.push(effect);
        }
        self
    }

    /// Lets the disk thread apply the epoch's writes.
    pub(super) fn commit_disk(&self, ctx: &mut Ctx) {
        let writes = |effect: &Effect| matches!(effect, Effect::DiskWrite { .. } | Effect::DiskFlush { .. });
        if self.effects.iter().any(writes) {
            ctx.disk(DiskCommand::Commit { epoch: self.tag(), sync: self.has_flush() });
        }
    }
}

/// Gives a disk request to the disk thread; everything else waits.
pub(super) fn submit(ctx: &mut Ctx, effect: &Effect, tag: u64) {
    match effect {
        Effect::DiskRead { disk, id, sector, len } => {
            ctx.disk(DiskCommand::Read { disk: *disk, id: *id, sector: *sector, len: *len });
        }
        Effect::DiskWrite { disk, sector, data } => {
            ctx.disk(DiskCommand::Write { epoch: tag, disk: *disk, sector: *sector, data: data.clone() });
        }
        _ => {}
    }
}

/// Whether the guest ended itself with what was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    No,
    PowerOff,
    Reset,
}

/// Frames and console bytes leave.
pub(super) fn release(ctx: &mut Ctx, effects: &[Effect]) -> Ended {
    let mut ended = Ended::No;
    for effect in effects {
        match effect {
            Effect::Frame { nic, frame } => {
                ctx.counters.output.frames += 1;
                ctx.out.push(Output::FrameOut { nic: *nic, frame: frame.clone() });
            }
            Effect::Console(bytes) => ctx.out.push(Output::Console(bytes.clone())),
            Effect::Reset => ended = Ended::Reset,
            Effect::PowerOff => ended = Ended::PowerOff,
            Effect::DiskRead { .. } | Effect::DiskWrite { .. } | Effect::DiskFlush { .. } => {}
        }
    }
    ended
}

/// Flushes of the guest that are not complete.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    pending: Vec<Flush>,
    /// Everything up to this tag is durable on this host.
    own: u64,
    /// Everything up to this epoch is durable on the secondary.
    peer: Epoch,
}

#[derive(Debug)]
struct Flush {
    disk: u8,
    id: u64,
    tag: u64,
    /// Must be durable on the secondary too.
    epoch: Option<Epoch>,
}

impl Flushes {
    /// Registers the flushes among `effects`.
    pub(super) fn add(&mut self, effects: &[Effect], tag: u64, epoch: Option<Epoch>) {
        for effect in effects {
            if let Effect::DiskFlush { disk, id } = effect {
                self.pending.push(Flush { disk: *disk, id: *id, tag, epoch });
            }
        }
    }

    pub(super) fn own_durable(&mut self, ctx: &mut Ctx, tag: u64) {
        self.own = self.own.max(tag);
        self.complete(ctx);
    }

    pub(super) fn peer_durable(&mut self, ctx: &mut Ctx, epoch: Epoch) {
        self.peer = self.peer.max(epoch);
        self.complete(ctx);
    }

    /// A new secondary counts its epochs from 1.
    pub(super) fn peer_joined(&mut self) {
        self.peer = 0;
    }

    /// Nothing waits for the secondary any more.
    pub(super) fn peer_gone(&mut self, ctx: &mut Ctx) {
        for flush in &mut self.pending {
            flush.epoch = None;
        }
        self.complete(ctx);
    }

    fn complete(&mut self, ctx: &mut Ctx) {
        let (own, peer) = (self.own, self.peer);
        self.pending.retain(|flush| {
            let done = flush.tag <= own && flush.epoch.is_none_or(|epoch| epoch <= peer);
            if done {
                let delivery =
                    Delivery::DiskDone { disk: flush.disk, id: flush.id, ok: true, data: Vec::new() };
                ctx.machine(Command::Deliver(delivery));
            }
            !done
        });
    }
}
