//! A UDP request worker: one request outstanding, sent again with the same number until it is answered.

use std::net::UdpSocket;
use std::time::Duration;

use super::{Plan, TICK, Worker};
use crate::load::message::Request;
use crate::ns::monotonic_ns;

/// Wait before the second, the third and every later attempt.
const PATIENCE_MS: [u64; 3] = [100, 200, 400];

pub(super) fn run(worker: Worker) {
    worker.begin();
    let socket = match open(&worker) {
        Ok(socket) => socket,
        Err(error) => return worker.record_broken(format!("no UDP socket: {error}")),
    };
    Talk { plan: Plan::new(&worker), worker, socket, greeted: false }.run();
}

fn open(worker: &Worker) -> std::io::Result<UdpSocket> {
    let any = if worker.target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(worker.target)?;
    Ok(socket)
}

struct Talk {
    worker: Worker,
    socket: UdpSocket,
    plan: Plan,
    greeted: bool,
}

impl Talk {
    fn run(&mut self) {
        while self.worker.stopped_at().is_none() {
            let pause = self.plan.pause(self.worker.think, self.worker.spacing);
            let request = self.plan.next();
            if !self.ask(&request) {
                return;
            }
            std::thread::sleep(pause);
        }
        while let Some(request) = self.plan.next_closing() {
            if !self.ask(&request) {
                return;
            }
        }
    }

    /// Sends a request until it is answered; false when the run ended before.
    fn ask(&mut self, request: &Request) -> bool {
        let mut attempt = 1;
        let first = self.send(request, attempt);
        let mut again_at = first + wait_ns(attempt);
        loop {
            let now = monotonic_ns();
            if self.worker.out_of_patience(first) {
                return false;
            }
            if now >= again_at {
                attempt += 1;
                again_at = self.send(request, attempt) + wait_ns(attempt);
                continue;
            }
            if self.listen(request.id, Duration::from_nanos(again_at - now).min(TICK)) {
                return true;
            }
        }
    }

    fn send(&mut self, request: &Request, attempt: u32) -> u64 {
        let at = self.worker.record_send(request, attempt);
        // "Unreachable" is what a client meets while a host dies; the next attempt follows in any case.
        let _ = self.socket.send(&request.encode());
        at
    }

    /// Waits for one datagram; true when it answers request `id`.
    fn listen(&mut self, id: u64, wait: Duration) -> bool {
        let mut bytes = [0; 2048];
        // A wait of zero would mean "for ever".
        let wait = wait.max(Duration::from_micros(100));
        let received = self.socket.set_read_timeout(Some(wait)).and_then(|()| self.socket.recv(&mut bytes));
        match received {
            Ok(length) => {
                let reply = self.worker.record_reply(&bytes[..length], self.plan.newest(), 0);
                if reply.is_some() && !self.greeted {
                    self.greeted = true;
                    self.worker.answered();
                }
                reply.is_some_and(|reply| reply.id == id)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(_) => {
                // An ICMP error of an earlier send; do not spin on it.
                std::thread::sleep(Duration::from_millis(1));
                false
            }
        }
    }
}

fn wait_ns(attempt: u32) -> u64 {
    let step = usize::try_from(attempt.saturating_sub(1)).unwrap_or(0).min(PATIENCE_MS.len() - 1);
    PATIENCE_MS[step] * 1_000_000
}
