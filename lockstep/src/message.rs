//! What crosses the link between the two hosts.

use bincode::{Decode, Encode};

use crate::arbiter::{AttemptId, Record};
use crate::log::{Effect, Epoch, FrameId, LogItem, Page};

/// What must be equal before two hosts may become a pair.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    /// Name of the pair.
    pub pair: String,
    /// Digest of the machine table.
    pub table: u128,
    /// Digest of what is booted: kernel, initrd, memory size, devices.
    pub guest: u128,
    /// The shared part of the configuration file: (key, value), sorted by key.
    pub settings: Vec<(String, String)>,
    /// Size of guest memory in pages.
    pub pages: u32,
    /// Size of each disk in sectors.
    pub disks: Vec<u64>,
}

/// A text of the other side, fit for a terminal and a journal: no control characters, at most `max` characters.
pub(crate) fn printable(text: &str, max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect()
}

/// How a host stands when a link comes up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Standing {
    /// Its guest runs, unprotected: it takes a secondary.
    Live,
    /// Its guest runs and has a secondary, or is being joined by one.
    Busy,
    /// It has no guest state and wants to be filled.
    Empty,
    /// The primary of a pair that lost its link and could not reach the arbiter.
    HeldPrimary,
    /// The secondary of such a pair; it has the log up to (not including) this entry.
    HeldSecondary {
        /// Number of the next log entry it wants.
        next: u64,
    },
}

/// First message in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Name of the sending host.
    pub host: String,
    /// What must be equal.
    pub identity: Identity,
    /// The newest generation that the sender has on its disk.
    pub generation: u64,
    /// How it stands.
    pub standing: Standing,
    /// Attempts that it made and whose outcome it does not know.
    pub attempts: Vec<AttemptId>,
}

/// One page on the wire; no bytes means a page of zeroes.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct WirePage {
    /// Guest page number.
    pub page: Page,
    /// 4096 bytes or none.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for WirePage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WirePage({}, {} bytes)", self.page, self.bytes.len())
    }
}

/// A message. Each fits [`MESSAGE_MAX`](crate::wire::MESSAGE_MAX) bytes; senders split what is larger.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Who I am and how I stand.
    Hello(Hello),
    /// The link cannot be used; the text says why and what to do.
    Refuse {
        /// For the other host's operator.
        why: String,
    },

    /// Fill: part of a disk. Empty data is a run of zeroes.
    FillDisk {
        /// Index of the disk.
        disk: u8,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// The bytes, or empty.
        data: Vec<u8>,
    },
    /// Fill: memory pages.
    FillPages(Vec<WirePage>),
    /// Fill: part of the vCPU and device state, in order; `last` completes it.
    FillState {
        /// The bytes.
        part: Vec<u8>,
        /// Whether this is the end.
        last: bool,
    },
    /// Fill: so many `FillDisk` and `FillPages` messages have been applied.
    FillProgress {
        /// Messages applied since the start of the fill.
        applied: u64,
    },
    /// Fill: everything is here and the disks are durable.
    Filled,
    /// The record changed; the pair is protected from now on.
    Recorded(Record),

    /// Input frame, sent when it arrived.
    EarlyFrame {
        /// Its id.
        id: FrameId,
        /// Index of the interface.
        nic: u8,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Log entries, numbered from `first`.
    Log {
        /// Number of the first entry since the fill.
        first: u64,
        /// The entries.
        items: Vec<LogItem>,
    },
    /// The secondary's state at this seal is equal.
    Ack {
        /// Epoch.
        epoch: Epoch,
        /// From the seal's arrival to the end of the secondary's replay, in nanoseconds.
        replay: u64,
        /// From there to this acknowledgement, in nanoseconds.
        compare: u64,
    },
    /// All flushes of epochs up to this one are durable here.
    Durable {
        /// Epoch.
        epoch: Epoch,
    },
    /// The outputs of epochs up to this one have left.
    Released {
        /// Epoch.
        epoch: Epoch,
    },

    /// The digests differ; these are my dirty pages. Several parts may come.
    Differs {
        /// Epoch.
        epoch: Epoch,
        /// Number of the log entry that sealed it: a reopened epoch is sealed more than once.
        seal: u64,
        /// Whether the effects differ too and must be sent.
        effects: bool,
        /// (page, digest), sorted.
        pages: Vec<(Page, u128)>,
        /// Whether this is the end.
        last: bool,
    },
    /// Answer to `Differs`: state at the seal, in parts.
    RepairState {
        /// Epoch.
        epoch: Epoch,
        /// Deterministic exits at the seal.
        exits: u64,
        /// The bytes.
        part: Vec<u8>,
    },
    /// Answer to `Differs`: pages that differ.
    RepairPages {
        /// Epoch.
        epoch: Epoch,
        /// The pages.
        pages: Vec<WirePage>,
    },
    /// Answer to `Differs`: the effects of the epoch, in order, when they differ.
    RepairEffects {
        /// Epoch.
        epoch: Epoch,
        /// The effects.
        effects: Vec<Effect>,
    },
    /// Answer to `Differs`: nothing more comes; stage, verify, apply.
    RepairEnd {
        /// Epoch.
        epoch: Epoch,
    },
    /// Answer to `Differs`: pages moved meanwhile; the epoch goes on and will be sealed again.
    Reopened {
        /// Epoch.
        epoch: Epoch,
    },

    /// Both hosts held and the link is back: these attempts count as withdrawn.
    Resume {
        /// Sorted.
        withdrawn: Vec<AttemptId>,
    },
}
