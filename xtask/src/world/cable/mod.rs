//! The cable: one process, one thread, that joins the taps of all hosts.
//!
//! It is where links are delayed, held and cut, and it sees every frame from *outside* of the hosts. It reads commands from the
//! socket that is its standard input and ends when that closes: an orchestrator that dies takes its cable along.

mod capture;
pub mod client;
mod join;
pub mod proto;
pub mod switch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;

use self::capture::{CaptureId, Captures};
use self::join::{Joining, Opened};
use self::proto::{PortStats, Reply, Request, Segment, Stats};
use self::switch::{PortId, Switch};
use crate::ns::{self, Watch};

/// Frames read from one port before the others, the clock and the commands get their turn.
const BURST: usize = 16;
/// No frame is longer (MTU 1500, and 64 KiB is the most that a tap gives).
const FRAME: usize = 65_536;
/// A longer command line ends the cable: the orchestrator sends none.
const LINE: usize = 64 << 10;

struct Port {
    tap: File,
    segment: Segment,
    outgoing: Option<CaptureId>,
    incoming: Option<CaptureId>,
    /// The namespace has gone: nothing more to read.
    dead: bool,
    stats: PortStats,
}

struct Cable {
    directory: PathBuf,
    joining: Joining,
    ports: BTreeMap<PortId, Port>,
    next_port: PortId,
    switch: Switch,
    captures: Captures,
    punctual: bool,
}

/// Runs the cable until `Quit` or the end of `control`; captures go to `directory`, jitter comes from `seed`.
///
/// # Errors
/// The control connection or waiting has failed, or a capture could not be written.
pub fn cable_main(control: UnixStream, directory: &Path, seed: u64) -> anyhow::Result<()> {
    // The writer of captures starts first and keeps its normal priority.
    let captures = Captures::start();
    let punctual = ns::be_punctual();
    let joining = Joining::new().context("creating a socket pair")?;
    let mut cable = Cable {
        directory: directory.to_owned(),
        joining,
        ports: BTreeMap::new(),
        next_port: 0,
        switch: Switch::new(seed),
        captures,
        punctual,
    };
    let outcome = cable.serve(control);
    match cable.captures.finish() {
        Some(error) => outcome.and(Err(anyhow::anyhow!(error))),
        None => outcome,
    }
}

impl Cable {
    fn serve(&mut self, mut control: UnixStream) -> anyhow::Result<()> {
        let mut line = Vec::new();
        let mut frame = vec![0; FRAME];
        loop {
            let (ids, mut watches) = self.watches(&control);
            // Until the set of ports changes, the same list serves.
            loop {
                ns::wait(&mut watches, self.timeout()).context("waiting for frames")?;
                self.deliver_due();
                if watches[0].readable() {
                    // Commands go before frames: what is cut is not read again.
                    match self.commands(&mut control, &mut line)? {
                        Next::End => return Ok(()),
                        Next::Go => break,
                    }
                }
                if watches[1].readable() {
                    self.finish_joining(&mut control)?;
                    break;
                }
                let mut lost = false;
                for (id, watch) in ids.iter().zip(&watches[2..]) {
                    if watch.readable() {
                        lost |= self.read_port(*id, &mut frame);
                    } else if watch.broken() {
                        self.bury(*id);
                        lost = true;
                    }
                }
                self.flush_if_due();
                if lost {
                    break;
                }
            }
        }
    }

    fn watches(&self, control: &UnixStream) -> (Vec<PortId>, Vec<Watch>) {
        let mut ids = Vec::new();
        let mut watches = vec![Watch::readable_of(control), Watch::readable_of(self.joining.bell())];
        for (id, port) in &self.ports {
            if !port.dead && self.switch.connected(*id) {
                ids.push(*id);
                watches.push(Watch::readable_of(&port.tap));
            }
        }
        (ids, watches)
    }

    fn timeout(&self) -> Option<u64> {
        let next = [self.switch.next_due(), self.captures.next_flush()].into_iter().flatten().min()?;
        Some(next.saturating_sub(ns::monotonic_ns()))
    }

    fn flush_if_due(&mut self) {
        if self.captures.next_flush().is_some_and(|due| due <= ns::monotonic_ns()) {
            self.captures.flush();
        }
    }

    fn deliver_due(&mut self) {
        let Self { ports, switch, captures, .. } = self;
        if switch.next_due().is_some() {
            switch.deliver_due(ns::monotonic_ns(), |to, frame| deliver(ports, captures, to, frame));
        }
    }

    /// Forwards what a port has to give; returns whether the port has died.
    fn read_port(&mut self, id: PortId, frame: &mut [u8]) -> bool {
        for _ in 0..BURST {
            let Some(port) = self.ports.get_mut(&id) else { return true };
            let length = match port.tap.read(frame) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.bury(id);
                    return true;
                }
            };
            let now = ns::monotonic_ns();
            let whole = &frame[..length];
            port.stats.frames_out += 1;
            port.stats.bytes_out += length as u64;
            if let Some(capture) = port.outgoing {
                self.captures.record(capture, now, whole);
            }
            let Self { ports, switch, captures, .. } = self;
            switch.arrive(now, id, whole, |to, frame| deliver(ports, captures, to, frame));
        }
        false
    }

    fn bury(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.dead = true;
        }
    }

    /// Reads what the orchestrator has sent and obeys each whole line.
    fn commands(&mut self, control: &mut UnixStream, line: &mut Vec<u8>) -> anyhow::Result<Next> {
        let mut bytes = [0; 4096];
        let length = control.read(&mut bytes).context("reading a command")?;
        if length == 0 {
            return Ok(Next::End);
        }
        for byte in &bytes[..length] {
            if *byte != b'\n' {
                line.push(*byte);
                anyhow::ensure!(line.len() < LINE, "a command of more than {LINE} bytes");
                continue;
            }
            let request = serde_json::from_slice(line).context("a command that is none")?;
            line.clear();
            let reply = match request {
                // These two are answered when they are done, and nobody waits meanwhile.
                Request::AddPort { host, segment, pid } => {
                    self.joining.begin(&self.directory, host, segment, pid);
                    continue;
                }
                Request::Flush => {
                    self.captures.flush_and_answer(control.try_clone()?);
                    continue;
                }
                Request::Quit => {
                    self.captures.flush();
                    answer(control, &Reply::Done { ns: ns::monotonic_ns() })?;
                    return Ok(Next::End);
                }
                request => self.obey(request),
            };
            answer(control, &reply)?;
        }
        Ok(Next::Go)
    }

    fn obey(&mut self, request: Request) -> Reply {
        let outcome = match request {
            Request::Cut { host } => self.known(&host).map(|ids| self.switch.cut(&ids)),
            Request::Remove { host } => self.known(&host).map(|ids| self.remove(&ids)),
            Request::Hold { segment, on } => {
                self.switch.hold(segment, on, ns::monotonic_ns());
                Ok(())
            }
            Request::Delay { segment, us, jitter_us } => {
                self.switch.delay(segment, us.saturating_mul(1000), jitter_us.saturating_mul(1000));
                Ok(())
            }
            Request::Stats => return Reply::Stats(self.stats()),
            Request::AddPort { .. } | Request::Flush | Request::Quit => Err("answered elsewhere".to_owned()),
        };
        match outcome {
            Ok(()) => Reply::Done { ns: ns::monotonic_ns() },
            Err(message) => Reply::Failed { message },
        }
    }

    fn known(&self, host: &str) -> Result<Vec<PortId>, String> {
        let ids = self.switch.ports_of(host);
        if ids.is_empty() { Err(format!("no cable leads to {host}")) } else { Ok(ids) }
    }

    fn remove(&mut self, ids: &[PortId]) {
        self.switch.remove(ids);
        let taps: Vec<File> =
            ids.iter().filter_map(|id| self.ports.remove(id)).map(|port| port.tap).collect();
        // Unregistering a tap takes the kernel tens of milliseconds: not on this thread's time.
        thread::spawn(move || drop(taps));
    }

    /// Answers the requests for ports whose taps are open now.
    fn finish_joining(&mut self, control: &mut UnixStream) -> anyhow::Result<()> {
        while let Some((host, segment, opened)) = self.joining.finished() {
            let reply = match opened.and_then(|opened| self.add(&host, segment, opened)) {
                Ok(()) => Reply::Done { ns: ns::monotonic_ns() },
                Err(message) => Reply::Failed { message },
            };
            answer(control, &reply)?;
        }
        Ok(())
    }

    fn add(&mut self, host: &str, segment: Segment, opened: Opened) -> Result<(), String> {
        let interface = segment.interface();
        let taken = |id: &PortId| self.ports.get(id).is_some_and(|port| port.segment == segment);
        if self.switch.ports_of(host).iter().any(taken) {
            return Err(format!("{host} has a {interface} already"));
        }
        let [outgoing, incoming] = match opened.captures {
            Some(files) => files.map(|file| Some(self.captures.adopt(file))),
            None => [None, None],
        };
        let stats =
            PortStats { host: host.to_owned(), interface: interface.to_owned(), ..PortStats::default() };
        self.switch.add(self.next_port, host, segment);
        let port = Port { tap: opened.tap, segment, outgoing, incoming, dead: false, stats };
        self.ports.insert(self.next_port, port);
        self.next_port += 1;
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats {
            ports: self.ports.values().map(|port| port.stats.clone()).collect(),
            segments: self.switch.stats(),
            punctual: self.punctual,
            capture_error: self.captures.error(),
        }
    }
}

enum Next {
    Go,
    End,
}

fn deliver(ports: &mut BTreeMap<PortId, Port>, captures: &mut Captures, to: PortId, frame: &[u8]) {
    let Some(port) = ports.get_mut(&to) else { return };
    // The moment *before* the write: what the host answers is later than this.
    let now = ns::monotonic_ns();
    match port.tap.write(frame) {
        // A tap takes a frame whole or not at all.
        Ok(length) if length == frame.len() => {
            port.stats.frames_in += 1;
            port.stats.bytes_in += frame.len() as u64;
            if let Some(capture) = port.incoming {
                captures.record(capture, now, frame);
            }
        }
        // Down, or its queue is full: as a real cable, this one loses the frame.
        Ok(_) | Err(_) => port.stats.refused += 1,
    }
}

fn answer(to: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    to.write_all(&line)
}
