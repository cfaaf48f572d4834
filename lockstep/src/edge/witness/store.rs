//! The witness's state on disk: one JSON file, replaced as a whole before an answer leaves.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::arbiter::{Answer, Ask, Records};

/// Name and version of the file's format.
const SCHEMA: &str = "twinrun.witness/1";
/// Largest state file, in bytes: thousands of pairs.
const STATE_MAX: usize = 4 << 20;

/// Why the witness's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its directory cannot be read or written.
    #[error("Cannot use the witness's state {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Two witnesses with one file would let both hosts of a pair win.
    #[error("Another witness uses {0}; stop it first, or give this one a state file of its own")]
    Locked(PathBuf),
    /// The file is left as it is: without it nobody knows who owns a pair.
    #[error(
        "The witness's state {path} is damaged ({why}). It is left untouched: restore it from a copy. Remove \
         it only while no host of any pair runs"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    schema: String,
    records: Records,
}

/// The records and the file that they live in. The file is this process's alone.
pub(super) struct Store {
    path: PathBuf,
    records: Records,
    /// Held, not read: the operating system releases the lock with it.
    _lock: File,
}

impl Store {
    /// Loads the file, or creates it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { path: path.to_owned(), source };
        let lock_file = beside(path, ".lock");
        let lock = private().create(true).truncate(false).open(&lock_file).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let loaded = load(path)?;
        let store = Self { path: path.to_owned(), records: loaded.unwrap_or_default(), _lock: lock };
        // What was read may exist in the page cache alone, if the last writer died before its fsync. It is
        // made durable before anything is answered from it.
        store.persist(&store.records).map_err(failed)?;
        Ok(store)
    }

    /// Answers; what changed is durable when this returns.
    ///
    /// # Errors
    /// When it could not be made durable. Then nothing may be answered: the question's outcome is open, and
    /// asking again settles it.
    pub(super) fn answer(&mut self, ask: &Ask) -> io::Result<Answer> {
        let mut records = self.records.clone();
        let (answer, changed) = records.answer(ask);
        if !changed {
            return Ok(answer);
        }
        match self.persist(&records) {
            Ok(()) => {
                self.records = records;
                Ok(answer)
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Ok(Answer::Refused("the witness keeps too many pairs; remove old ones".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Replaces the file: temporary file, fsync, rename, fsync of the directory.
    fn persist(&self, records: &Records) -> io::Result<()> {
        let file = StateFile { schema: SCHEMA.to_owned(), records: records.clone() };
        let mut bytes = serde_json::to_vec_pretty(&file)?;
        bytes.push(b'\n');
        if bytes.len() > STATE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let new = beside(&self.path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut out = private().create_new(true).open(&new)?;
        out.write_all(&bytes)?;
        out.sync_all()?;
        fs::rename(&new, &self.path)?;
        let directory = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn load(path: &Path) -> Result<Option<Records>, StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::info!(path = %path.display(), "no state file yet: starting without any record");
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(STATE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    parse(&bytes).map(Some).map_err(|why| StoreError::Corrupt { path: path.to_owned(), why })
}

fn parse(bytes: &[u8]) -> Result<Records, String> {
    if bytes.len() > STATE_MAX {
        return Err(format!("more than {STATE_MAX} bytes"));
    }
    let file: StateFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.schema != SCHEMA {
        return Err(format!("its schema is {:?}, this release knows {SCHEMA:?}", file.schema));
    }
    Ok(file.records)
}
