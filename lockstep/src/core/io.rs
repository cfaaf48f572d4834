//! What goes into the core and what comes out.

use crate::Ns;
use crate::arbiter::{Answer, Ask, AttemptId, Record};
use crate::log::{Epoch, FrameId};
use crate::machine::{Command, Report};
use crate::message::Message;
use serde::{Deserialize, Serialize};

/// Number of a link connection, given by the edge; never reused.
pub type Session = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A deadline that [`next_deadline`](super::Core::next_deadline) named has come.
    Tick,
    /// The machine tells.
    Machine(Report),
    /// A link to another host is up. `dialed`: this host made the connection.
    LinkUp {
        /// Connection.
        session: Session,
        /// Name of the other host.
        peer: String,
        /// Whether this host dialed.
        dialed: bool,
    },
    /// A link is closed or reset.
    LinkDown {
        /// Connection.
        session: Session,
    },
    /// A message of the peer.
    Message {
        /// Connection.
        session: Session,
        /// The message.
        message: Message,
    },
    /// A heartbeat of the peer of this connection.
    Heard {
        /// Connection.
        session: Session,
    },
    /// A frame came in from the outside.
    FrameIn {
        /// Index of the interface.
        nic: u8,
        /// The frame.
        frame: Vec<u8>,
    },
    /// The disk thread answers.
    Disk(DiskReport),
    /// The arbiter answered this attempt or read.
    Arbiter {
        /// As in [`Output::Ask`].
        ticket: u64,
        /// `None`: not reachable, or no answer in time.
        answer: Option<Answer>,
    },
    /// [`Output::Persist`] is on disk.
    Persisted {
        /// As in the output.
        ticket: u64,
    },
}

/// What the disk thread tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskReport {
    /// A read is complete.
    Read {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
        /// Whether it succeeded.
        ok: bool,
        /// The data.
        data: Vec<u8>,
    },
    /// All epochs up to this one are applied and durable. `ok` is false when a disk failed.
    Durable {
        /// Epoch.
        epoch: Epoch,
        /// Whether every write and fsync succeeded.
        ok: bool,
    },
    /// Fill: a part of a disk, as asked. Empty data is a run of zeroes.
    Part {
        /// Index of the disk.
        disk: u8,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// The bytes, or empty for zeroes.
        data: Vec<u8>,
    },
    /// Fill: answer to [`DiskCommand::CopyNext`] when nothing (more) is to be copied in this pass.
    PassDone {
        /// Regions written since they were last copied.
        left: u32,
    },
    /// Too many bytes of writes wait for the disk (`true`), or few enough again: until then no more should come.
    Pressure(bool),
    /// Fill: parts written on the secondary are durable.
    Synced {
        /// Whether that succeeded.
        ok: bool,
    },
}

/// What the disk thread is told. It obeys strictly in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskCommand {
    /// A guest read; sees every write before it. Answer: [`DiskReport::Read`].
    Read {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A guest write of this epoch: into the overlay.
    Write {
        /// Epoch that it belongs to.
        epoch: Epoch,
        /// Index of the disk.
        disk: u8,
        /// First sector.
        sector: u64,
        /// The payload.
        data: Vec<u8>,
    },
    /// The overlay of epochs up to this one goes into the files; with `sync`, durably: then
    /// [`DiskReport::Durable`].
    Commit {
        /// Epoch.
        epoch: Epoch,
        /// Whether to fsync and report.
        sync: bool,
    },
    /// The overlay of this epoch is dropped (its effects were replaced by the primary's).
    Discard {
        /// Epoch.
        epoch: Epoch,
    },
    /// Fill: from here on remember which regions are written; everything is to be copied.
    CopyStart,
    /// Fill: report the next region to copy ([`DiskReport::Part`]), or [`DiskReport::PassDone`]. The next
    /// pass then copies what was written since.
    CopyNext,
    /// Fill: stop remembering.
    CopyStop,
    /// Fill, secondary: write this part straight into the file.
    Load {
        /// Index of the disk.
        disk: u8,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// The bytes, or empty for zeroes.
        data: Vec<u8>,
    },
    /// Fill, secondary: make it durable. Answer: [`DiskReport::Synced`].
    Sync,
}

/// What a host must find again after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalState {
    /// Newest record that this host has seen.
    pub record: Option<Record>,
    /// Attempts declared void when a held pair resumed.
    pub withdrawn: Vec<AttemptId>,
    /// Whether this host's disks hold a consistent state of that record's generation; without a record, of a
    /// claim to be the pair's first host.
    pub consistent: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Order the machine.
    Machine(Command),
    /// Send to the peer.
    Send {
        /// Connection.
        session: Session,
        /// The message.
        message: Message,
    },
    /// Close a connection.
    Close {
        /// Connection.
        session: Session,
    },
    /// Keep trying to reach the other hosts, or stop trying.
    Dial(bool),
    /// A frame leaves for the outside.
    FrameOut {
        /// Index of the interface.
        nic: u8,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Bytes for the console.
    Console(Vec<u8>),
    /// Tell the outside where the guest's MAC addresses are now, a few times.
    Announce,
    /// Order the disk thread.
    Disk(DiskCommand),
    /// Ask the arbiter.
    Ask {
        /// Comes back with the answer.
        ticket: u64,
        /// The question.
        ask: Ask,
    },
    /// Make this durable, then answer [`Input::Persisted`].
    Persist {
        /// Comes back.
        ticket: u64,
        /// What to write.
        state: LocalState,
    },
    /// Something that a person or an alert wants to know.
    Notice(Notice),
    /// This host is done: the process ends.
    Exit(ExitReason),
}

/// Why a host ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered itself off, and this is recorded.
    PoweredOff,
    /// Another host owns the pair: stop, and join it as a new secondary.
    LostArbitration(String),
    /// This host's data is older than what the arbiter has seen, and no live host was found.
    Stale(String),
    /// The hosts do not fit together.
    Mismatch(String),
    /// This host failed.
    Failed(String),
}

/// A journal entry: a stable name, the cause, the generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Stable event name, for alerts.
    pub event: &'static str,
    /// Generation at that moment.
    pub generation: u64,
    /// The sentence.
    pub text: String,
    /// Host monotonic time.
    pub at: Ns,
}

/// Ids of frames are counted from here by each new primary, so that they never repeat within a pair.
#[must_use]
pub fn first_frame_id(generation: u64) -> FrameId {
    generation << 40
}
