//! A place: a host, the client or the witness, with namespaces of its own that one process (its PID 1) holds.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::cable::proto::Segment;
use super::process::{self, Proc};
use crate::ns;

/// A process killed with its namespace is gone well before this.
const DEATH: Duration = Duration::from_secs(10);
/// Setting up a place takes milliseconds.
const START: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Place {
    name: String,
    init: Child,
    handle: OwnedFd,
    control: UnixStream,
    directory: PathBuf,
    processes: Vec<Proc>,
}

/// What is needed to start processes in a place without holding on to it.
#[derive(Debug)]
pub(super) struct Door {
    name: String,
    handle: OwnedFd,
    directory: PathBuf,
}

impl Place {
    /// Creates the namespaces. `hosts` is hidden inside, but for `directory`.
    pub(super) fn start(
        executable: &Path,
        name: &str,
        hosts: &Path,
        directory: &Path,
        log: &Path,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        let (mut control, theirs) = UnixStream::pair().context("creating a socket pair")?;
        let log = super::open_log(log)?;
        let mut command = Command::new(executable);
        command
            .args([OsString::from(super::INIT), name.into(), hosts.into(), directory.into()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let init = ns::spawn_first(&mut command).with_context(|| {
            format!("creating the namespaces of {name} (does this container allow unshare?)")
        })?;
        // Our copy of the other end goes with the command: from now on only the init holds it.
        drop(command);
        let handle = ns::pidfd(init.id())?;
        control.set_read_timeout(Some(START))?;
        let mut ready = [0; 6];
        if control.read_exact(&mut ready).is_err() {
            let mut init = init;
            let _ = init.kill();
            let status = init.wait()?;
            bail!(
                "the first process of {name} did not start ({status}); see its log in logs/{name}.init.log"
            );
        }
        Ok(Self {
            name: name.to_owned(),
            init,
            handle,
            control,
            directory: directory.to_owned(),
            processes: Vec::new(),
        })
    }

    pub(super) fn init_pid(&self) -> u32 {
        self.init.id()
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn control(&self) -> std::io::Result<UnixStream> {
        self.control.try_clone()
    }

    pub(super) fn door(&self) -> anyhow::Result<Door> {
        let handle = self.handle.try_clone().context("copying a descriptor")?;
        Ok(Door { name: self.name.clone(), handle, directory: self.directory.clone() })
    }

    /// Remembers a process, so that its end is collected with the place's.
    pub(super) fn adopt(&mut self, process: Proc) {
        self.processes.retain(Proc::is_alive);
        self.processes.push(process);
    }

    /// Kills everything in here; returns the moment after the signal (CLOCK_MONOTONIC, ns).
    pub(super) fn kill(mut self) -> anyhow::Result<u64> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<u64> {
        self.init.kill().with_context(|| format!("killing the first process of {}", self.name))?;
        let killed = ns::monotonic_ns();
        // The namespace's first process ends only when all others are collected by their parent, which is this process.
        for process in &self.processes {
            if process.wait(DEATH)?.is_none() {
                bail!("{} (process {}) of {} survives SIGKILL", process.label(), process.pid(), self.name);
            }
        }
        if process::wait_for(&mut self.init, DEATH)?.is_none() {
            bail!("the first process of {} (process {}) survives SIGKILL", self.name, self.init.id());
        }
        Ok(killed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After `kill` both calls only find that it is done.
        let _ = self.end();
    }
}

impl Door {
    pub(super) fn spawn(&self, label: &str, argv: &[OsString], log: &Path) -> anyhow::Result<Proc> {
        let log = super::open_log(log)?;
        let mut command = self.command(argv)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = self.enter(&mut command, argv)?;
        Ok(Proc::new(child, &self.name, label))
    }

    /// Runs a short command with `input` as its standard input.
    pub(super) fn run(&self, argv: &[OsString], input: &str, limit: Duration) -> anyhow::Result<Output> {
        let mut command = self.command(argv)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.enter(&mut command, argv)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ends without reading is judged by its status.
            let _ = stdin.write_all(input.as_bytes());
        }
        process::collect(child, limit).with_context(|| format!("{} in {}", show(argv), self.name))
    }

    fn command(&self, argv: &[OsString]) -> anyhow::Result<Command> {
        let Some((program, arguments)) = argv.split_first() else { bail!("no command for {}", self.name) };
        let mut command = Command::new(program);
        // One locale for all: messages that can be judged, and no locale files mapped by both hosts.
        command.args(arguments).env("LC_ALL", "C").process_group(0);
        Ok(command)
    }

    fn enter(&self, command: &mut Command, argv: &[OsString]) -> anyhow::Result<Child> {
        ns::spawn_inside(command, self.handle.as_fd(), &self.directory)
            .with_context(|| format!("starting {} in {}", show(argv), self.name))
    }
}

fn show(argv: &[OsString]) -> String {
    argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Lines for `ip -batch`: addresses and names of a host's interfaces; the taps exist already.
pub(super) fn host_network(number: u8) -> String {
    let mut lines = String::from("link set lo up\n");
    for (segment, net) in [(Segment::Link, 78), (Segment::Mgmt, 79)] {
        lines += &member(segment, net, number);
    }
    lines += &format!(
        "link set lan0 address 02:77:00:00:01:{number:02x}\n\
         link add br0 address 02:77:00:00:02:{number:02x} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         tuntap add twin0 mode tap\n\
         link set lan0 master br0\n\
         link set twin0 master br0\n\
         link set lan0 up\n\
         link set twin0 up\n\
         link set br0 up\n"
    );
    lines
}

/// Lines for `ip -batch`: the only interface of the client or the witness.
pub(super) fn lone_network(segment: Segment, net: u8, number: u8) -> String {
    format!("link set lo up\n{}", member(segment, net, number))
}

fn member(segment: Segment, net: u8, number: u8) -> String {
    let interface = segment.interface();
    format!(
        "link set {interface} address 02:{net}:00:00:00:{number:02x}\n\
         addr add 10.{net}.0.{number}/24 dev {interface}\n\
         link set {interface} up\n"
    )
}
