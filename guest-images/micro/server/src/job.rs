//! The CPU job, and UDP port 7002, which tells how far it is.

use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, PoisonError};

use micro_guest::config::{Config, Load};
use micro_guest::job::Job;
use micro_guest::wire::{PROGRESS_REQUEST, Progress};

use crate::{Boot, limit};

const PORT: u16 = 7002;

/// How far the job is.
#[derive(Debug, Default)]
pub(crate) struct Report(Mutex<Progress>);

impl Report {
    fn get(&self) -> Progress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// Starts the job that the command line asks for, if any, and opens the port.
pub(crate) fn start(config: &Config, report: &Arc<Report>, boot: Boot) -> io::Result<()> {
    let rounds = match config.load {
        Load::Nothing => None,
        Load::Endless => Some(None),
        Load::Rounds(rounds) => Some(Some(rounds)),
    };
    if let Some(rounds) = rounds {
        let (job, report) = (Job::new(config.seed, config.pages, rounds), Arc::clone(report));
        limit::spawn("job", move || compute(job, &report, boot))?;
    }
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    let report = Arc::clone(report);
    limit::spawn("progress", move || answer(&socket, &report, boot))
}

fn compute(mut job: Job, report: &Report, boot: Boot) {
    while !job.is_over() {
        // A step at a time.
        job.run(|| true);
        report.set(job.progress());
    }
    let Progress { rounds, hash } = job.progress();
    println!("mini: job {rounds} rounds hash={hash:016x} ns={}", boot.uptime_ns());
}

fn answer(socket: &UdpSocket, report: &Report, boot: Boot) {
    let mut bytes = [0; PROGRESS_REQUEST.len() + 1];
    loop {
        // An error here is one of an earlier reply that did not arrive.
        let Ok((size, from)) = socket.recv_from(&mut bytes) else { continue };
        if bytes[..size] == PROGRESS_REQUEST {
            // If there is no room the client asks again, as for any lost datagram.
            let _ = socket.send_to(&report.get().encode(boot.uptime_ns()), from);
        }
    }
}
