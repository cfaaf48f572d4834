//! What every role needs: configuration, the durable state, the links, and the outputs of this step.

use std::collections::BTreeMap;

use super::io::{DiskCommand, LocalState, Notice, Output, Session};
use super::status::{Counters, Takeover};
use crate::Ns;
use crate::arbiter::{Ask, AttemptId, Record};
use crate::log::FrameId;
use crate::machine::Command;
use crate::message::{Hello, Identity, Message, Standing};

/// Time limits, in host nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A peer that was not heard for this long is dead.
    pub silence: Ns,
    /// A peer that acknowledged nothing for this long while outputs wait is dead.
    pub no_ack: Ns,
    /// How often an arbiter that could not be reached is asked again.
    pub retry: Ns,
    /// How long a starting host looks for a live one before it decides by the record.
    pub start: Ns,
    /// An epoch with log entries ends after this long even if no output waits.
    pub epoch: Ns,
}

impl Default for Timing {
    fn default() -> Self {
        const MS: Ns = 1_000_000;
        Timing { silence: 250 * MS, no_ack: 2_000 * MS, retry: 300 * MS, start: 2_000 * MS, epoch: 50 * MS }
    }
}

/// Deliberate faults, to prove that the checkers see.
#[cfg(feature = "sabotage")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Outputs leave before the acknowledgement.
    ReleaseEarly,
    /// A takeover does not ask the arbiter.
    NoArbitration,
}

/// What a host is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this host.
    pub host: String,
    /// Place of this host in the configuration file, from 0; decides who claims a pair that never ran.
    pub rank: u32,
    /// What must be equal on both hosts.
    pub identity: Identity,
    /// Time limits.
    pub timing: Timing,
    /// Random, new for each start of the process: attempt ids are counted from it.
    pub attempt_base: AttemptId,
    /// Which fault to commit.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<Sabotage>,
}

/// A connection and what the other side said of itself.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) heard: Ns,
    pub(super) hello: Option<Hello>,
}

/// State that outlives a role.
pub(super) struct Ctx {
    pub(super) config: Config,
    pub(super) now: Ns,
    pub(super) local: LocalState,
    pub(super) links: BTreeMap<Session, Peer>,
    /// The connection that went down last: its role still asks who that was.
    pub(super) gone: Option<(Session, Peer)>,
    pub(super) out: Vec<Output>,
    pub(super) counters: Counters,
    pub(super) takeover: Option<Takeover>,
    /// Too many writes wait for this host's disk; see [`DiskReport::Pressure`](super::io::DiskReport::Pressure).
    pub(super) disk_pressed: bool,
    next_ticket: u64,
    next_attempt: u128,
    /// Attempts whose outcome this host does not know.
    pub(super) attempts: Vec<AttemptId>,
    next_frame: FrameId,
    /// Guest reads that the disk thread has not answered, and how many of these, the oldest, nobody wants.
    reads: u64,
    unwanted_reads: u64,
    /// Tag of the newest disk epoch; see [`Ctx::next_tag`].
    pub(super) tag: u64,
}

impl Ctx {
    pub(super) fn new(config: Config, local: LocalState, now: Ns) -> Self {
        Ctx {
            config,
            now,
            local,
            links: BTreeMap::new(),
            gone: None,
            out: Vec::new(),
            counters: Counters::default(),
            takeover: None,
            disk_pressed: false,
            next_ticket: 0,
            next_attempt: 0,
            attempts: Vec::new(),
            next_frame: 0,
            reads: 0,
            unwanted_reads: 0,
            tag: 0,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.local.record.as_ref().map_or(0, |record| record.generation)
    }

    pub(super) fn machine(&mut self, command: Command) {
        self.out.push(Output::Machine(command));
    }

    /// The guest of this host runs alone from here on, unless its disk is behind.
    pub(super) fn go_live(&mut self) {
        self.machine(Command::GoLive);
        if self.disk_pressed {
            self.machine(Command::Stall(true));
        }
    }

    pub(super) fn disk(&mut self, command: DiskCommand) {
        self.reads += u64::from(matches!(command, DiskCommand::Read { .. }));
        self.out.push(Output::Disk(command));
    }

    /// The machine's state was replaced or goes live, and what it still waits for is read anew: the answers
    /// that are under way belong to no request any more.
    pub(super) fn forget_reads(&mut self) {
        self.unwanted_reads = self.reads;
    }

    /// The disk thread answered the oldest read. Whether anybody still wants to know.
    pub(super) fn read_wanted(&mut self) -> bool {
        self.reads = self.reads.saturating_sub(1);
        self.unwanted_reads.checked_sub(1).map(|left| self.unwanted_reads = left).is_none()
    }

    pub(super) fn send(&mut self, session: Session, message: Message) {
        if self.links.contains_key(&session) {
            self.out.push(Output::Send { session, message });
        }
    }

    pub(super) fn close(&mut self, session: Session) {
        if self.links.remove(&session).is_some() {
            self.out.push(Output::Close { session });
        }
    }

    pub(super) fn notice(&mut self, event: &'static str, text: impl Into<String>) {
        let notice = Notice { event, generation: self.generation(), text: text.into(), at: self.now };
        self.out.push(Output::Notice(notice));
    }

    pub(super) fn ask(&mut self, ask: Ask) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.out.push(Output::Ask { ticket, ask });
        ticket
    }

    pub(super) fn persist(&mut self) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.out.push(Output::Persist { ticket, state: self.local.clone() });
        ticket
    }

    /// A fresh attempt id.
    pub(super) fn attempt(&mut self) -> AttemptId {
        self.next_attempt += 1;
        let id = self.config.attempt_base.wrapping_add(self.next_attempt).max(1);
        self.attempts.push(id);
        id
    }

    /// A fresh record with this host as the holder.
    pub(super) fn record(&mut self, generation: u64, mut in_sync: Vec<String>, stopped: bool) -> Record {
        in_sync.sort();
        let holder = self.config.host.clone();
        Record { generation, holder, attempt: self.attempt(), in_sync, stopped }
    }

    /// The attempt that the arbiter is believed to hold.
    pub(super) fn expected(&self) -> AttemptId {
        self.local.record.as_ref().map_or(0, |record| record.attempt)
    }

    pub(super) fn next_frame(&mut self) -> FrameId {
        self.next_frame = self.next_frame.max(super::io::first_frame_id(self.generation())) + 1;
        self.next_frame
    }

    /// Disk epochs are tagged by a number of this host's own, which never repeats, while epoch numbers
    /// start anew at each fill.
    pub(super) fn next_tag(&mut self) -> u64 {
        self.tag += 1;
        self.tag
    }

    pub(super) fn hello(&mut self, session: Session, standing: Standing) {
        let hello = Hello {
            host: self.config.host.clone(),
            identity: self.config.identity.clone(),
            generation: self.generation(),
            standing,
            attempts: self.attempts.iter().chain(&self.local.withdrawn).copied().collect(),
        };
        self.send(session, Message::Hello(hello));
    }

    pub(super) fn peer_name(&self, session: Session) -> String {
        self.peer(session).map_or_else(|| "the other host".to_owned(), |peer| peer.name.clone())
    }

    fn peer(&self, session: Session) -> Option<&Peer> {
        let gone = self.gone.as_ref().filter(|(gone, _)| *gone == session).map(|(_, peer)| peer);
        self.links.get(&session).or(gone)
    }

    /// When the peer of this connection, which may have gone down just now, was last heard.
    pub(super) fn last_heard(&self, session: Session) -> Ns {
        self.peer(session).map_or(self.now, |peer| peer.heard)
    }

    #[cfg(feature = "sabotage")]
    pub(super) fn sabotages(&self, sabotage: Sabotage) -> bool {
        self.config.sabotage == Some(sabotage)
    }
}
