//! The machine as the pair sees it: a trait, the commands it obeys and the reports it returns.
//!
//! Core and machine never call each other. The vCPU thread owns the machine inside a
//! [`Runner`](crate::runner::Runner), obeys [`Command`]s and returns owned [`Report`]s, both in order.

use crate::Ns;
use crate::log::{Effect, Epoch, Event, ExitKind, FrameId, LogItem, Page, Position, SealDigest};

/// Size of a page in bytes.
pub const PAGE_SIZE: usize = 4096;

/// Most delays that one seal tells of.
pub const DELAYS_MAX: usize = 64;

/// The bytes of one page.
pub type PageBytes = [u8; PAGE_SIZE];

/// Why the guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A deterministic exit was answered and is complete.
    Exit(ExitKind),
    /// A kick: stopped anywhere, nothing changed.
    Kicked,
    /// Triple fault.
    Shutdown,
    /// Only from `seek` and `find`: about to store to a page for the first time since it was protected.
    Landing(Landing),
    /// Only from `find`: the landing will not come.
    Missed,
}

/// A store that both sides can find again (design section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landing {
    /// Guest page number of the store.
    pub page: Page,
    /// Address of the storing instruction.
    pub rip: u64,
}

/// What the world does to the guest, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stimulus {
    /// Guest virtual time.
    Time(Ns),
    /// A frame arrives at an interface.
    Frame {
        /// Index of the interface.
        nic: u8,
        /// The Ethernet frame without FCS.
        frame: Vec<u8>,
    },
    /// A disk request completes.
    DiskDone {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
        /// Whether it succeeded.
        ok: bool,
        /// What a read returned; empty for a flush.
        data: Vec<u8>,
    },
}

/// A machine failed in a way that its guest cannot cause: this host must not go on.
#[derive(Debug, thiserror::Error)]
#[error("the machine failed: {0}")]
pub struct MachineFailure(pub String);

/// One machine: vCPU, devices and memory, owned by the vCPU thread.
pub trait Machine {
    /// Enters the guest; returns after each deterministic exit, answered and complete, or at a kick.
    ///
    /// # Errors
    /// Only for a fault of the host; whatever the guest does is a [`Stop`].
    fn run(&mut self) -> Result<Stop, MachineFailure>;
    /// Whether `seek`, `find` and `protect` may be called.
    fn has_landings(&self) -> bool;
    /// As `run`, but stops also at a landing.
    ///
    /// # Errors
    /// As `run`.
    fn seek(&mut self) -> Result<Stop, MachineFailure>;
    /// As `run`, towards a landing that another machine found, from the last common position on. To be called
    /// again until it is reached or missed. `unseen`: so many first stores to other pages come before it for certain.
    ///
    /// # Errors
    /// As `run`.
    fn find(&mut self, landing: Landing, unseen: u32) -> Result<Stop, MachineFailure>;
    /// Makes pages clean again, at a common position; they stay in the log of `take_dirty`.
    ///
    /// # Errors
    /// When a page is beyond memory, or the host cannot.
    fn protect(&mut self, pages: &[Page]) -> Result<(), MachineFailure>;
    /// How often a clean page was written, since any beginning; 0 for ever without landings.
    ///
    /// # Errors
    /// When the host cannot tell.
    fn first_stores(&mut self) -> Result<u64, MachineFailure>;
    /// Pages that are not clean, in the order of their first stores.
    ///
    /// # Errors
    /// When the host cannot tell.
    fn open_pages(&mut self) -> Result<Vec<Page>, MachineFailure>;
    /// Halted with nothing deliverable: `run` must not be called.
    fn waits(&self) -> bool;
    /// Applies a stimulus between two instructions.
    ///
    /// # Errors
    /// When the machine has no such device.
    fn place(&mut self, stimulus: &Stimulus) -> Result<(), MachineFailure>;
    /// Makes the next `run` look at the interrupt controller again, as after a deterministic exit.
    fn reevaluate(&mut self);
    /// What the guest asked for since the last call.
    fn take_effects(&mut self) -> Vec<Effect>;
    /// Reads and flushes that were submitted and are not complete.
    fn outstanding_disk(&self) -> Vec<Effect>;
    /// When a device next needs the time, in guest virtual time.
    fn next_deadline(&self) -> Option<Ns>;
    /// How long the guest has run, in nanoseconds of processor time since any beginning. How long a place may be
    /// looked for is counted by this: a guest that gets no processor is not one that has no place.
    fn run_time(&self) -> Ns;
    /// Guest virtual time as last placed.
    fn guest_now(&self) -> Ns;
    /// Size of memory in pages.
    fn page_count(&self) -> Page;
    /// Pages written since the last call, by the guest or by devices; sorted, without repeats.
    ///
    /// # Errors
    /// When the host cannot tell.
    fn take_dirty(&mut self) -> Result<Vec<Page>, MachineFailure>;
    /// Copies one page out.
    fn read_page(&self, page: Page, out: &mut PageBytes);
    /// Overwrites one page; it may appear in `take_dirty` afterwards.
    fn write_page(&mut self, page: Page, bytes: &PageBytes);
    /// The whole vCPU and device state in canonical bytes: equal state, equal bytes.
    ///
    /// # Errors
    /// When the host cannot read it.
    fn save(&mut self) -> Result<Vec<u8>, MachineFailure>;
    /// Takes over a state that [`save`](Machine::save) returned.
    ///
    /// # Errors
    /// When the bytes are not such a state of the same version and configuration.
    fn restore(&mut self, state: &[u8]) -> Result<(), MachineFailure>;
    /// Starts the guest from its boot state, with zeroed memory.
    ///
    /// # Errors
    /// When kernel or configuration are unusable.
    fn boot(&mut self) -> Result<(), MachineFailure>;
}

/// A page with its content.
#[derive(Clone, PartialEq, Eq)]
pub struct PageData {
    /// Guest page number.
    pub page: Page,
    /// Its bytes; `None` is a page of zeroes.
    pub bytes: Option<Box<PageBytes>>,
}

impl std::fmt::Debug for PageData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Guest memory never reaches a log line.
        write!(f, "PageData({}{})", self.page, if self.bytes.is_none() { ", zero" } else { "" })
    }
}

/// What the core orders. Executed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Boot the guest and run it unprotected.
    Boot,
    /// Primary, alone: place this as soon as possible.
    Deliver(Delivery),
    /// Fill: forget what is dirty; from here every write counts.
    FillStart,
    /// Fill: report up to `max` non-zero pages from page `from` on.
    FillScan {
        /// First page to look at.
        from: Page,
        /// At most so many pages are looked at.
        max: u32,
    },
    /// Fill: report the pages dirtied since the last round, at most `max`; the rest stays dirty.
    FillDirty {
        /// At most so many.
        max: u32,
    },
    /// Fill: stop at a consistent state, report it with all that is still dirty, and go on as the primary
    /// of a pair: epoch 1 begins here.
    FillFinish,
    /// Primary: end this epoch as soon as possible.
    Seal,
    /// Primary: do not enter the guest while this holds (the secondary lags, a queue is full). Guest time goes on.
    Stall(bool),
    /// Primary: this sealed epoch was acknowledged; its copies may go.
    Commit(Epoch),
    /// Primary: answer a secondary whose dirty pages are these.
    Repair {
        /// Sealed and not committed.
        epoch: Epoch,
        /// The secondary's (page, digest) list of that epoch.
        theirs: Vec<(Page, u128)>,
    },
    /// Either side: the sealed epoch could not be served; it goes on and is sealed again.
    Reopen(Epoch),
    /// Secondary, fill: overwrite these pages.
    Load(Vec<PageData>),
    /// Secondary, fill: take this state; epoch 1 begins here.
    Adopt {
        /// From [`Machine::save`].
        state: Vec<u8>,
    },
    /// Secondary: the data of an input frame that has no position yet.
    EarlyFrame {
        /// Its id.
        id: FrameId,
        /// Index of the interface.
        nic: u8,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Secondary: the data of a read that this host's disk returned.
    ReadData {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
        /// Whether it succeeded.
        ok: bool,
        /// The data.
        data: Vec<u8>,
    },
    /// Secondary: obey these log entries.
    Follow(Vec<LogItem>),
    /// Secondary: the sealed epoch is equal; go on.
    Confirm(Epoch),
    /// Secondary: stage these pages and this state, verify them against the seal, apply, go on.
    Apply(Repair),
    /// Secondary: obey what can be obeyed of the log, report [`Report::Drained`], then wait.
    Drain,
    /// Go on alone from here. Guest time goes on from its last value.
    GoLive,
    /// Stop the vCPU and guest time; nothing else changes.
    Pause,
    /// Undo [`Command::Pause`].
    Resume,
}

/// Something to be placed as soon as possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An input frame.
    Frame {
        /// Its id.
        id: FrameId,
        /// Index of the interface.
        nic: u8,
        /// The frame.
        frame: Vec<u8>,
    },
    /// A disk completion.
    DiskDone {
        /// Index of the disk.
        disk: u8,
        /// The device's request id.
        id: u64,
        /// Whether it succeeded.
        ok: bool,
        /// What a read returned; empty for a flush.
        data: Vec<u8>,
    },
}

/// What the primary gives to repair an epoch of the secondary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Which epoch.
    pub epoch: Epoch,
    /// vCPU and device state at the seal.
    pub state: Vec<u8>,
    /// Deterministic exits at the seal.
    pub exits: u64,
    /// The pages whose content differs.
    pub pages: Vec<PageData>,
}

/// What one side found when it sealed an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Which epoch.
    pub epoch: Epoch,
    /// Where it ended.
    pub position: Position,
    /// State digests.
    pub digest: SealDigest,
    /// (page, digest) of the pages whose digest differs from the last commit's; sorted by page.
    pub changed: Vec<(Page, u128)>,
    /// Pages written in the epoch, changed or not.
    pub dirty: u32,
    /// Host time from something being due to the landing that was found for it, of each landing since the last
    /// seal; of the first [`DELAYS_MAX`] only.
    pub delays: Vec<Ns>,
}

/// What the machine tells. In order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Primary of a pair: the next log entries (never a [`LogItem::Seal`]).
    Log(Vec<LogItem>),
    /// The guest asked for these.
    Effects(Vec<Effect>),
    /// The epoch ended.
    Sealed(Sealed),
    /// Answer to [`Command::FillScan`]; `next` is where to go on, `None` at the end of memory.
    FillPages {
        /// The pages, zero pages left out.
        pages: Vec<PageData>,
        /// Next page to scan.
        next: Option<Page>,
    },
    /// Answer to [`Command::FillDirty`], with the number of pages that are still dirty.
    FillDirty {
        /// The pages, as they are now.
        pages: Vec<PageData>,
        /// Still dirty.
        left: u32,
    },
    /// Answer to [`Command::FillFinish`].
    FillFinished {
        /// All that was still dirty.
        pages: Vec<PageData>,
        /// vCPU and device state.
        state: Vec<u8>,
    },
    /// Answer to [`Command::Adopt`].
    Adopted {
        /// Reads and flushes that the state has submitted and not completed.
        outstanding: Vec<Effect>,
    },
    /// Answer to [`Command::Repair`].
    Repair {
        /// What the secondary needs.
        repair: Repair,
        /// Pages that only the secondary dirtied and that changed here since: the epoch must be reopened.
        moved: u32,
    },
    /// Answer to [`Command::Apply`]: the epoch is equal now.
    Applied {
        /// Which epoch.
        epoch: Epoch,
        /// Reads and flushes that the state has submitted and not completed.
        outstanding: Vec<Effect>,
    },
    /// Answer to [`Command::Apply`]: the staged pages do not give the sealed digests; nothing was applied.
    Refused {
        /// Which epoch.
        epoch: Epoch,
    },
    /// Secondary: the log said something that did not happen here; entries up to the next seal are skipped.
    Lost {
        /// The position that was not found.
        at: Position,
        /// What happened instead.
        why: String,
    },
    /// Answer to [`Command::Drain`].
    Drained {
        /// Reads and flushes that the state has submitted and not completed.
        outstanding: Vec<Effect>,
    },
    /// The machine failed: this host must stop.
    Failed(String),
}

/// Whether an event of the log consumed an early frame.
#[must_use]
pub fn frame_of(event: &Event) -> Option<FrameId> {
    match event {
        Event::Frame(id) => Some(*id),
        Event::Time(_) | Event::DiskDone { .. } => None,
    }
}
