//! Recordings: what was done to a guest and what became of it, exit by exit, so that its run can be repeated and
//! the first difference shown.
//!
//! A [`Recorder`] drives a machine and writes; a [`Replayer`] drives another through the same and compares. Both
//! look at *everything* after every deterministic exit: processor, devices, and each byte of memory that has
//! changed. A recording is therefore for finding errors, not for every day: each page that the guest stores to
//! costs a fault per exit.
//!
//! Stimuli are recorded at exits only. A guest that was stopped elsewhere, by a kick, gets none before its next
//! exit.
//!
//! ```text
//! mark 8 bytes, format u16            little endian
//! the machine at the beginning        as Vm::save_to writes it
//! length u32, entry                   until the file ends; an entry is postcard
//! ```
//!
//! A recording holds all that the guest had in memory, its random numbers included: a secret, and a file that
//! its owner alone can read.

mod observe;
mod recorder;
mod replay;
mod report;

use devices::Stimulus;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::observe::Changes;
use crate::error::{DirtyError, LoadImageError, RunError, SaveError, SaveImageError};

pub use self::recorder::Recorder;
pub use self::replay::{Replayer, Step};
pub use self::report::{DifferingByte, Divergence};

const MARK: [u8; 8] = *b"TWNRUNRC";
const FORMAT: u16 = 1;
/// Bytes of an entry at most: one exit that changed a great deal of memory.
const ENTRY_MAX: u32 = 256 << 20;

/// One thing that happened, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    /// Something was done to the guest where it stood.
    Place(Stimulus),
    /// The guest ran to a deterministic exit of this kind, by [`ExitKind`](crate::ExitKind)'s number.
    Exit { kind: u8, changes: Changes },
    /// The guest ran into a triple fault: the end.
    Shutdown,
}

/// Why a recording cannot go on.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The file exists or cannot be made or written.
    #[error("the recording cannot be written: {0}: choose another name, or make room")]
    Write(#[from] std::io::Error),
    /// The machine cannot be written.
    #[error(transparent)]
    Image(#[from] SaveImageError),
    /// A stimulus between two exits.
    #[error(
        "the guest was stopped between two exits, where nothing can be recorded: run it to its next exit"
    )]
    NotAtAnExit,
    /// More happened in one exit than an entry can hold.
    #[error("one exit changed more than {ENTRY_MAX} bytes: give the guest less memory to record it")]
    TooLarge,
    /// The machine refuses the stimulus.
    #[error(transparent)]
    Place(#[from] devices::PlaceError),
    /// The machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Why a recording cannot be replayed. A difference is not an error, but a [`Divergence`].
#[derive(Debug, Error)]
pub enum ReplayError {
    /// Reading failed, or the last entry is cut short.
    #[error("the recording cannot be read: {0}: it ends here")]
    Read(#[from] std::io::Error),
    /// Not a recording.
    #[error("this is not a recording: it does not begin with the mark of one")]
    NotARecording,
    /// Another version of the program wrote it.
    #[error("the recording has format {got}, this program reads format {want}: use the same version")]
    Version {
        /// Format found.
        got: u16,
        /// Format known.
        want: u16,
    },
    /// The machine that it begins with is refused.
    #[error(transparent)]
    Image(#[from] LoadImageError),
    /// Impossible contents.
    #[error("entry {entry} of the recording is damaged: take another copy")]
    Damaged {
        /// Entries before it.
        entry: u64,
    },
    /// The machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Why the machine cannot be driven or looked at.
#[derive(Debug, Error)]
pub enum MachineError {
    /// It does not run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It has no state.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Its changed pages are not known.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
}
