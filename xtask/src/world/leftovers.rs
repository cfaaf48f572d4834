//! Finds what an earlier, crashed run may have left: a state file names its processes.
//!
//! Namespaces have no names here and end with their processes, and those end when their orchestrator's socket closes. What is
//! left can only be a process that was stopped or hangs. A PID alone proves nothing, hence start time and command line.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::ns;

const FILE: &str = "world.json";

/// A process that is told from a later one with the same PID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pid: u32,
    /// Clock ticks since boot (field 22 of /proc/PID/stat).
    started: u64,
}

impl Identity {
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let started = start_time(pid).with_context(|| format!("process {pid} has ended already"))?;
        Ok(Self { pid, started })
    }

    fn is_alive(&self) -> bool {
        // A process that only waits to be collected has no program any more and holds nothing.
        start_time(self.pid) == Some(self.started) && fs::read_link(format!("/proc/{}/exe", self.pid)).is_ok()
    }

    /// Is it one of ours, by its command line?
    fn is_ours(&self) -> bool {
        let Ok(line) = fs::read(format!("/proc/{}/cmdline", self.pid)) else { return false };
        let word = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
        word == super::INIT.as_bytes() || word == super::CABLE.as_bytes()
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) orchestrator: Identity,
    pub(super) processes: Vec<Identity>,
}

impl State {
    pub(super) fn write(&self, root: &Path) -> anyhow::Result<()> {
        let path = root.join(FILE);
        let fresh = root.join("world.json.new");
        fs::write(&fresh, serde_json::to_vec(self)?)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("writing {}", path.display()))
    }
}

pub(super) fn forget(root: &Path) {
    // Without the file there is nothing to forget.
    let _ = fs::remove_file(root.join(FILE));
}

/// Ends what earlier runs in `root` or beside it have left, and says what was found.
pub(super) fn clean(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in neighbours(root) {
        let Ok(bytes) = fs::read(directory.join(FILE)) else { continue };
        // A file that is no state file (or half of one) names nobody.
        let Ok(state) = serde_json::from_slice::<State>(&bytes) else { continue };
        if state.orchestrator.is_alive() {
            if directory == root {
                let pid = state.orchestrator.pid;
                bail!(
                    "{} is in use by process {pid}; wait for its end or choose another directory",
                    root.display()
                );
            }
            continue;
        }
        for process in &state.processes {
            if let Some(text) = end(process)? {
                found.push(text);
            }
        }
        forget(&directory);
    }
    Ok(found)
}

fn neighbours(root: &Path) -> Vec<PathBuf> {
    let mut list = vec![root.to_owned()];
    if let Some(Ok(entries)) = root.parent().map(fs::read_dir) {
        list.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path != root));
    }
    list.sort();
    list
}

fn end(process: &Identity) -> anyhow::Result<Option<String>> {
    // The descriptor first: what is checked after it is the process that is killed.
    let Ok(handle) = ns::pidfd(process.pid) else { return Ok(None) };
    if !process.is_alive() || !process.is_ours() {
        return Ok(None);
    }
    ns::kill(handle.as_fd()).with_context(|| format!("killing the leftover process {}", process.pid))?;
    for _ in 0..5000 {
        if !process.is_alive() {
            return Ok(Some(format!("ended process {} of an earlier run", process.pid)));
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("process {} of an earlier run does not end; a reboot would help", process.pid)
}

/// Start time of a process that is not a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // State is field 3, start time field 22.
    fields.nth(18)?.parse().ok()
}
