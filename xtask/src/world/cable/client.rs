//! The orchestrator's end of the cable.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::proto::{Reply, Request, Stats};

/// A cable that does not answer within this time is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running cable process.
#[derive(Debug)]
pub struct Cable {
    child: Child,
    control: BufReader<UnixStream>,
}

impl Cable {
    /// Starts `executable` as a cable.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(executable: &Path, captures: &Path, seed: u64, log: &Path) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("creating a socket pair")?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let log = super::super::open_log(log)?;
        let child = Command::new(executable)
            .args([OsString::from(crate::world::CABLE), captures.into(), seed.to_string().into()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the cable from {}", executable.display()))?;
        Ok(Self { child, control: BufReader::new(ours) })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Another handle to the control connection: shutting it down ends the cable.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn control(&self) -> std::io::Result<UnixStream> {
        self.control.get_ref().try_clone()
    }

    /// Gives a command; returns the moment (CLOCK_MONOTONIC, ns) at which it was in effect.
    ///
    /// # Errors
    /// The cable refused, or is gone.
    pub fn order(&mut self, request: &Request) -> anyhow::Result<u64> {
        match self.ask(request)? {
            Reply::Done { ns } => Ok(ns),
            Reply::Failed { message } => bail!("the cable refused: {message}"),
            Reply::Stats(_) => bail!("the cable answered something else than asked"),
        }
    }

    /// The counters.
    ///
    /// # Errors
    /// The cable is gone.
    pub fn stats(&mut self) -> anyhow::Result<Stats> {
        match self.ask(&Request::Stats)? {
            Reply::Stats(stats) => Ok(stats),
            _ => bail!("the cable answered something else than asked"),
        }
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.control.get_mut().write_all(&line).context("the cable process has ended (see cable.log)")?;
        let mut answer = String::new();
        let length =
            self.control.read_line(&mut answer).context("the cable does not answer (see cable.log)")?;
        if length == 0 {
            bail!("the cable process has ended (see cable.log)");
        }
        serde_json::from_str(&answer).context("an answer of the cable that is none")
    }

    /// Lets the cable write its captures and end.
    ///
    /// # Errors
    /// It ended otherwise, or a capture is incomplete.
    pub fn quit(&mut self) -> anyhow::Result<()> {
        let asked = self.order(&Request::Quit);
        let _ = self.control.get_ref().shutdown(std::net::Shutdown::Both);
        let status = crate::world::process::wait_for(&mut self.child, PATIENCE)?;
        match status {
            None => {
                self.child.kill()?;
                self.child.wait()?;
                bail!("the cable did not end within {PATIENCE:?}");
            }
            Some(status) if !status.success() => bail!("the cable ended with {status} (see cable.log)"),
            Some(_) => asked.map(|_| ()),
        }
    }
}
