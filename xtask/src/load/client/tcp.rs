//! A TCP request worker: one connection that must live for the whole run, never opened again.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Plan, TICK, Worker};
use crate::load::message::{MESSAGE_BYTES, Request};
use crate::ns::monotonic_ns;

/// How long the first connection may take.
const CONNECT: Duration = Duration::from_secs(10);

pub(super) fn run(worker: Worker) {
    worker.begin();
    let stream = match open(&worker) {
        Ok(stream) => stream,
        Err(error) => return worker.record_broken(format!("no connection: {error}")),
    };
    let depth = if worker.seed.is_multiple_of(2) { 1 } else { 2 };
    let plan = Plan::new(&worker);
    let mut talk = Talk {
        worker,
        stream,
        plan,
        depth,
        waiting: BTreeMap::new(),
        next_at: 0,
        input: Vec::new(),
        received: 0,
        greeted: false,
    };
    if let Err(why) = talk.run() {
        talk.worker.record_broken(why);
    }
}

fn open(worker: &Worker) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&worker.target, CONNECT)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Talk {
    worker: Worker,
    stream: TcpStream,
    plan: Plan,
    /// Most requests outstanding.
    depth: usize,
    /// Outstanding requests and when they were sent.
    waiting: BTreeMap<u64, u64>,
    /// The earliest moment of the next request.
    next_at: u64,
    /// Bytes of a reply that is not complete: fewer than a message's.
    input: Vec<u8>,
    /// Bytes of complete replies so far.
    received: u64,
    greeted: bool,
}

impl Talk {
    /// Runs to the end; an error is how the connection died.
    fn run(&mut self) -> Result<(), String> {
        loop {
            if let Some(request) = self.due() {
                self.send(&request)?;
                continue;
            }
            if self.waiting.is_empty() {
                if self.worker.stopped_at().is_some() {
                    return Ok(());
                }
                std::thread::sleep(self.wait());
                continue;
            }
            if self.waiting.values().any(|sent| self.worker.out_of_patience(*sent)) {
                return Ok(());
            }
            self.receive()?;
        }
    }

    /// The request that is to be sent now, if any.
    fn due(&mut self) -> Option<Request> {
        if self.worker.stopped_at().is_some() {
            return if self.waiting.is_empty() { self.plan.next_closing() } else { None };
        }
        let free = self.waiting.len() < self.depth && monotonic_ns() >= self.next_at;
        free.then(|| self.plan.next())
    }

    /// How long nothing is to be sent.
    fn wait(&self) -> Duration {
        if self.waiting.len() >= self.depth {
            return TICK;
        }
        Duration::from_nanos(self.next_at.saturating_sub(monotonic_ns()))
            .clamp(Duration::from_micros(100), TICK)
    }

    fn send(&mut self, request: &Request) -> Result<(), String> {
        let at = self.worker.record_send(request, 1);
        self.waiting.insert(request.id, at);
        self.next_at = at + nanoseconds(self.worker.spacing);
        self.stream.write_all(&request.encode()).map_err(|error| format!("sending failed: {error}"))
    }

    fn receive(&mut self) -> Result<(), String> {
        let mut bytes = [0; 4096];
        let read =
            self.stream.set_read_timeout(Some(self.wait())).and_then(|()| self.stream.read(&mut bytes));
        match read {
            Ok(0) => Err("the guest closed the connection".to_owned()),
            Ok(length) => {
                self.input.extend_from_slice(&bytes[..length]);
                self.take_replies()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(format!("receiving failed: {error}")),
        }
    }

    fn take_replies(&mut self) -> Result<(), String> {
        while self.input.len() >= MESSAGE_BYTES {
            let message: Vec<u8> = self.input.drain(..MESSAGE_BYTES).collect();
            let reply = self.worker.record_reply(&message, self.plan.newest(), self.received);
            self.received += u64::try_from(MESSAGE_BYTES).unwrap_or(0);
            // In a stream, nothing after a malformed message can be trusted to begin where it should.
            let reply = reply.ok_or_else(|| "a malformed reply: the stream is of no more use".to_owned())?;
            self.waiting.remove(&reply.id);
            let pause = self.plan.pause(self.worker.think, Duration::ZERO);
            self.next_at = self.next_at.max(monotonic_ns() + nanoseconds(pause));
            if !self.greeted {
                self.greeted = true;
                self.worker.answered();
            }
        }
        Ok(())
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
