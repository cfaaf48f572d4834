//! The state directory of one host: what it must find again after a crash, and its journal.
//!
//! | file | what it is |
//! |---|---|
//! | `lock` | held while a process uses the directory |
//! | `state.json` | [`LocalState`], schema `twinrun.state/1` |
//! | `journal.jsonl` | one line per [`Notice`]; the older half is `journal.jsonl.1` |
//! | `control.sock` | see [`control`](crate::control) |

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep::core::{LocalState, Notice};
use serde::{Deserialize, Serialize};

const SCHEMA: &str = "twinrun.state/1";
/// More than any state file that was ever written, in bytes.
const STATE_MAX: u64 = 1 << 20;
/// A journal of this many bytes is set aside and a new one begun.
const JOURNAL_MAX: u64 = 16 << 20;

/// Name of the control socket inside a state directory.
pub const SOCKET_NAME: &str = "control.sock";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error("State directory {} is in use by another process: is this host of the pair running already? `twinrun status` tells", .0.display())]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("Cannot use {}: {error}. Check that the directory is on a disk with space and that this user may write to it", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The state file is not what this program writes. It is never overwritten.
    #[error("{} is damaged or of another version ({why}). Without it this host does not know whether its disks are good: move the file away and let the other host refill this one", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    schema: String,
    state: LocalState,
}

/// A locked state directory. The lock goes with this value or with the process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |error| StateError::Io { path: path.to_owned(), error }
}

impl StateDir {
    /// Makes the directory (mode 0700) if needed and locks it.
    ///
    /// # Errors
    /// [`StateError::InUse`] or [`StateError::Io`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let name = path.join("lock");
        let lock = private().write(true).create(true).truncate(false).open(&name).map_err(at(&name))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateDir { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(at(&name)(error)),
        }
    }

    /// Path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// Path of the journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// What was saved last; the default when nothing was.
    ///
    /// # Errors
    /// [`StateError::Damaged`] or [`StateError::Io`].
    pub fn load(&self) -> Result<LocalState, StateError> {
        let path = self.path.join("state.json");
        let mut text = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(STATE_MAX).read_to_end(&mut text).map_err(at(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LocalState::default()),
            Err(error) => return Err(at(&path)(error)),
        };
        let file: StateFile = serde_json::from_slice(&text)
            .map_err(|error| StateError::Damaged { path: path.clone(), why: error.to_string() })?;
        if file.schema != SCHEMA {
            let why = format!("its schema is {:?}, this program reads {SCHEMA:?}", file.schema);
            return Err(StateError::Damaged { path, why });
        }
        Ok(file.state)
    }

    /// Saves durably: when this returns, a power failure cannot undo it, and at no instant is there a file
    /// that is neither the old nor the new one.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old file is still there then.
    pub fn save(&self, state: &LocalState) -> Result<(), StateError> {
        let (path, temporary) = (self.path.join("state.json"), self.path.join("state.json.new"));
        let file = StateFile { schema: SCHEMA.to_owned(), state: state.clone() };
        let mut text = serde_json::to_vec_pretty(&file)
            .map_err(|error| StateError::Io { path: path.clone(), error: error.into() })?;
        text.push(b'\n');
        let write = || {
            let mut file = private().write(true).create(true).truncate(true).open(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(at(&temporary))?;
        std::fs::rename(&temporary, &path).map_err(at(&path))?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(at(&self.path))
    }
}

/// Options of a file that only its owner may read: record files are secrets.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// The journal: one JSON line per notice.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    monotonic_ns: u64,
    event: &'a str,
    generation: u64,
    text: &'a str,
}

impl Journal {
    /// Opens a journal for appending.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let open = || {
            let file = private().append(true).create(true).open(path)?;
            let len = file.metadata()?.len();
            Ok(Journal { path: path.to_owned(), file, len })
        };
        open().map_err(at(path))
    }

    /// Appends a notice with the wall-clock time of now (UTC).
    ///
    /// # Errors
    /// The kernel's; the journal can be used further.
    pub fn append(&mut self, notice: &Notice) -> Result<(), StateError> {
        let line = Line {
            time: timestamp(SystemTime::now()),
            monotonic_ns: notice.at,
            event: notice.event,
            generation: notice.generation,
            text: &notice.text,
        };
        let mut text = serde_json::to_vec(&line)
            .map_err(|error| StateError::Io { path: self.path.clone(), error: error.into() })?;
        text.push(b'\n');
        if self.len + text.len() as u64 > JOURNAL_MAX {
            self.turn_over()?;
        }
        // One write per line: lines of two writers never mix.
        self.file.write_all(&text).map_err(at(&self.path))?;
        self.len += text.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> Result<(), StateError> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        std::fs::rename(&self.path, &old).map_err(at(&self.path))?;
        *self = Journal::open(&self.path)?;
        Ok(())
    }
}

/// RFC 3339, UTC, with milliseconds.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let milli = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years always have 146,097 days, so the loops below are short for any date.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests;
