//! Processes inside of a place, seen from outside.

use std::io::{self, Read};
use std::process::{Child, ExitStatus, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::ns;

/// How often an exit is looked for.
const LOOK: Duration = Duration::from_millis(1);
/// Most bytes of output that are kept of a short command.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// A process that was started in a place. Copies mean the same process.
#[derive(Debug, Clone)]
pub struct Proc {
    pid: u32,
    place: Arc<str>,
    label: Arc<str>,
    child: Arc<Mutex<Child>>,
}

impl Proc {
    pub(super) fn new(child: Child, place: &str, label: &str) -> Self {
        Self {
            pid: child.id(),
            place: Arc::from(place),
            label: Arc::from(label),
            child: Arc::new(Mutex::new(child)),
        }
    }

    /// Its PID outside of all namespaces.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it runs.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What it was called at its start.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Has it not ended yet?
    pub fn is_alive(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Sends SIGKILL; returns the moment after (CLOCK_MONOTONIC, ns). A process that has ended is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn kill(&self) -> io::Result<u64> {
        self.child().kill()?;
        Ok(ns::monotonic_ns())
    }

    /// Waits at most `limit` for its end; `None`: it still runs.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn wait(&self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            // The lock is not kept while sleeping: another thread may want to kill.
            if let Some(status) = self.child().try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(LOOK);
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits at most `limit` for the end of `child`.
pub(crate) fn wait_for(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait()? {
            None if Instant::now() < deadline => thread::sleep(LOOK),
            status => return Ok(status),
        }
    }
}

/// Collects what `child` prints until it ends; kills it after `limit`.
pub(crate) fn collect(mut child: Child, limit: Duration) -> anyhow::Result<Output> {
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait_for(&mut child, limit).context("waiting for a command")?;
    if status.is_none() {
        child.kill().context("ending a command that takes too long")?;
    }
    let ended = child.wait().context("waiting for a command")?;
    let (stdout, stderr) = (stdout.join(), stderr.join());
    let (Ok(stdout), Ok(stderr)) = (stdout, stderr) else {
        bail!("reading the output of a command has panicked")
    };
    if status.is_none() {
        bail!("no end within {limit:?}; it printed: {}", String::from_utf8_lossy(&stderr));
    }
    Ok(Output { status: ended, stdout, stderr })
}

fn reader<R: Read + Send + 'static>(from: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            // What was read before an error is still the best answer.
            let _ = from.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
        }
        bytes
    })
}
