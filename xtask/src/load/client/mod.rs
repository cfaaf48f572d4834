//! The load client: runs on the kernel's own UDP and TCP inside the client's namespace, knows nothing of the pair and
//! writes down everything it sends and receives.
//!
//! It stops on the line `stop` (or the end of its standard input), then waits for what is outstanding, sends one last
//! request per counter (it would show a second effect of the request before it) and ends its file with
//! [`Record::End`].

mod download;
mod tcp;
mod udp;

use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::message::{COUNTER_PORT, COUNTERS, DOWNLOAD_PORT, Reply, Request, splitmix64};
use super::record::{Proto, Record, Recorder};
use crate::ns::monotonic_ns;

/// How long an outstanding request may still be answered after the stop.
const DRAIN: Duration = Duration::from_secs(3);
/// Longest wait in one system call, so that a stop is noticed.
const TICK: Duration = Duration::from_millis(50);
/// Counters per request worker: more than one, so that mixed-up counters are noticed.
const COUNTERS_PER_WORKER: u32 = 2;

/// Arguments of the hidden subcommand `client`.
#[derive(Clone, Debug, clap::Args)]
pub struct ClientArgs {
    /// The guest's address.
    #[arg(long)]
    pub target: IpAddr,
    /// The record file to create (JSON lines).
    #[arg(long)]
    pub records: PathBuf,
    /// Seed of client numbers, pauses and download content. Another one for every run against the same guest.
    #[arg(long)]
    pub seed: u64,
    /// UDP request workers, each with one request outstanding.
    #[arg(long, default_value_t = 16)]
    pub udp: u32,
    /// TCP request workers, each with one connection and one or two requests outstanding.
    #[arg(long, default_value_t = 8)]
    pub tcp: u32,
    /// Download workers, each with one connection.
    #[arg(long, default_value_t = 1)]
    pub download: u32,
    /// Most requests per second over all workers; 0 sets no limit.
    #[arg(long, default_value_t = 0)]
    pub rate: u32,
    /// Mean pause of a worker between a reply and its next request, in microseconds.
    #[arg(long, default_value_t = 2000)]
    pub think_us: u32,
    /// Most bytes per second that each download reads; 0 sets no limit.
    #[arg(long, default_value_t = 0)]
    pub download_rate: u64,
}

/// What a client does.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Counters over UDP.
    pub udp_target: SocketAddr,
    /// Counters over TCP.
    pub tcp_target: SocketAddr,
    /// The download.
    pub download_target: SocketAddr,
    /// The record file to create.
    pub records: PathBuf,
    /// See [`ClientArgs::seed`].
    pub seed: u64,
    /// UDP workers.
    pub udp: u32,
    /// TCP workers.
    pub tcp: u32,
    /// Download workers.
    pub download: u32,
    /// Requests per second over all workers, 0 for no limit.
    pub rate: u32,
    /// Mean pause between a reply and the next request.
    pub think: Duration,
    /// Bytes per second and download, 0 for no limit.
    pub download_rate: u64,
}

impl From<&ClientArgs> for ClientConfig {
    fn from(args: &ClientArgs) -> Self {
        Self {
            udp_target: SocketAddr::new(args.target, COUNTER_PORT),
            tcp_target: SocketAddr::new(args.target, COUNTER_PORT),
            download_target: SocketAddr::new(args.target, DOWNLOAD_PORT),
            records: args.records.clone(),
            seed: args.seed,
            udp: args.udp,
            tcp: args.tcp,
            download: args.download,
            rate: args.rate,
            think: Duration::from_micros(u64::from(args.think_us)),
            download_rate: args.download_rate,
        }
    }
}

/// An order to a running client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write this remark into the records.
    Mark(String),
    /// Drain and end.
    Stop,
}

/// Runs the client as a process: orders on standard input (`stop`, `mark TEXT`), `ready` on standard output once every
/// worker has had its first answer, `done` at the end.
///
/// # Errors
/// When a number of workers is out of range or the record file cannot be written.
pub fn client_main(args: &ClientArgs) -> anyhow::Result<()> {
    let (orders, commands) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let order = match line.trim() {
                "stop" => Command::Stop,
                other => match other.strip_prefix("mark ") {
                    Some(text) => Command::Mark(text.to_owned()),
                    None => continue,
                },
            };
            if orders.send(order).is_err() {
                break;
            }
        }
    });
    // Whoever listens may be gone; the records still count.
    run(&ClientConfig::from(args), &commands, || {
        let _ = say("ready");
    })?;
    let _ = say("done");
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Runs a client until [`Command::Stop`] or until `commands` has no sender left. `ready` is called once, when every
/// worker has had its first answer.
///
/// # Errors
/// As [`client_main`].
pub fn run(config: &ClientConfig, commands: &Receiver<Command>, ready: impl FnOnce()) -> anyhow::Result<()> {
    let requesters = config.udp.saturating_add(config.tcp);
    ensure!(
        requesters <= COUNTERS / COUNTERS_PER_WORKER && config.download <= 64,
        "too many workers: at most {} for requests and 64 for downloads",
        COUNTERS / COUNTERS_PER_WORKER
    );
    let (recorder, writer) = Recorder::create(&config.records)?;
    let shared = Arc::new(Shared::default());
    let total = requesters + config.download;
    let workers = (0..total)
        .map(|number| start(Worker::new(config, number, recorder.clone(), Arc::clone(&shared))))
        .collect::<anyhow::Result<Vec<_>>>()?;
    obey(commands, &recorder, &shared, total, ready);
    shared.stopped_at.store(monotonic_ns().max(1), Ordering::Relaxed);
    for worker in workers {
        ensure!(worker.join().is_ok(), "a worker of the client panicked: its records are not complete");
    }
    recorder.put(Record::End { at: monotonic_ns(), workers: total });
    drop(recorder);
    let written = writer.join();
    ensure!(written.is_ok(), "the writer of the record file panicked");
    written
        .unwrap_or(Ok(()))
        .with_context(|| format!("cannot write the record file {}", config.records.display()))
}

fn start(worker: Worker) -> anyhow::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("worker-{}", worker.number))
        .spawn(move || match worker.proto {
            Proto::Udp => udp::run(worker),
            Proto::Tcp => tcp::run(worker),
            Proto::Download => download::run(&worker),
        })
        .context("cannot start another thread")
}

/// Follows orders until the stop.
fn obey(
    commands: &Receiver<Command>,
    recorder: &Recorder,
    shared: &Shared,
    total: u32,
    ready: impl FnOnce(),
) {
    let mut ready = Some(ready);
    loop {
        match commands.recv_timeout(TICK) {
            Ok(Command::Mark(text)) => recorder.put(Record::Mark { at: monotonic_ns(), text }),
            Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if shared.answered.load(Ordering::Relaxed) >= total
            && let Some(ready) = ready.take()
        {
            ready();
        }
    }
}

/// What all workers see.
#[derive(Debug, Default)]
struct Shared {
    /// Moment of the stop, 0 while running.
    stopped_at: AtomicU64,
    /// Workers that have had a first answer.
    answered: AtomicU32,
}

/// What a worker has in hand.
#[derive(Debug)]
struct Worker {
    number: u32,
    proto: Proto,
    target: SocketAddr,
    client: u32,
    counters: Vec<u32>,
    /// Seed of the worker's own choices; a download's content.
    seed: u64,
    think: Duration,
    /// Least distance of two new requests.
    spacing: Duration,
    download_rate: u64,
    recorder: Recorder,
    shared: Arc<Shared>,
}

impl Worker {
    fn new(config: &ClientConfig, number: u32, recorder: Recorder, shared: Arc<Shared>) -> Self {
        let requesters = config.udp + config.tcp;
        let (proto, target) = if number < config.udp {
            (Proto::Udp, config.udp_target)
        } else if number < requesters {
            (Proto::Tcp, config.tcp_target)
        } else {
            (Proto::Download, config.download_target)
        };
        let seed = splitmix64(splitmix64(config.seed) ^ u64::from(number));
        let asks = proto != Proto::Download;
        let first = number * COUNTERS_PER_WORKER;
        Self {
            number,
            proto,
            target,
            // The low bits keep the workers of one run apart, the high ones keep runs apart.
            client: if asks { client_number(config.seed, number) } else { 0 },
            counters: if asks { (first..first + COUNTERS_PER_WORKER).collect() } else { Vec::new() },
            seed,
            think: config.think,
            spacing: if config.rate == 0 {
                Duration::ZERO
            } else {
                Duration::from_secs(u64::from(requesters)) / config.rate
            },
            download_rate: config.download_rate,
            recorder,
            shared,
        }
    }

    fn begin(&self) {
        self.recorder.put(Record::Start {
            at: monotonic_ns(),
            w: self.number,
            proto: self.proto,
            client: self.client,
            counters: self.counters.clone(),
        });
    }

    /// Counts this worker among those that have had an answer; to be called once.
    fn answered(&self) {
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn stopped_at(&self) -> Option<u64> {
        Some(self.shared.stopped_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// After the stop: whether what was sent at `sent` has had its time.
    fn out_of_patience(&self, sent: u64) -> bool {
        let drain = u64::try_from(DRAIN.as_nanos()).unwrap_or(u64::MAX);
        self.stopped_at().is_some_and(|stop| monotonic_ns() > stop.max(sent).saturating_add(drain))
    }

    fn record_send(&self, request: &Request, attempt: u32) -> u64 {
        let at = monotonic_ns();
        let Request { client, id, counter } = *request;
        self.recorder.put(Record::Send {
            at,
            w: self.number,
            proto: self.proto,
            client,
            id,
            counter,
            attempt,
        });
        at
    }

    /// Records a reply's bytes; returns the reply when it is one to a request of this worker up to number `newest`.
    fn record_reply(&self, bytes: &[u8], newest: u64, offset: u64) -> Option<Reply> {
        let at = monotonic_ns();
        let problem = match Reply::decode(bytes) {
            Ok(reply) if reply.client == self.client && (1..=newest).contains(&reply.id) => {
                let Reply { client, id, counter, flags, value, boot, uptime } = reply;
                let (w, proto) = (self.number, self.proto);
                self.recorder.put(Record::Reply {
                    at,
                    w,
                    proto,
                    client,
                    id,
                    counter,
                    value,
                    boot,
                    uptime,
                    flags,
                });
                return Some(reply);
            }
            Ok(_) => "a reply to a request that this worker never sent",
            Err(problem) => problem,
        };
        self.record_wrong(offset, u64::try_from(bytes.len().max(1)).unwrap_or(1), problem);
        None
    }

    fn record_wrong(&self, offset: u64, bytes: u64, what: &str) {
        let at = monotonic_ns();
        self.recorder.put(Record::Wrong { at, w: self.number, offset, bytes, what: what.to_owned() });
    }

    fn record_broken(&self, why: String) {
        self.recorder.put(Record::Broken { at: monotonic_ns(), w: self.number, why });
    }
}

/// The client number of a worker: never 0, different for the workers of a run and (by the seed) for runs.
fn client_number(seed: u64, number: u32) -> u32 {
    let run = u32::try_from(splitmix64(seed) >> 42).unwrap_or(0);
    (run << 10) | (number + 1)
}

/// A worker's own requests: numbers count up from 1, counters and pauses come from the seed.
#[derive(Debug)]
struct Plan {
    client: u32,
    counters: Vec<u32>,
    seed: u64,
    next_id: u64,
    /// Counters that still get their last request.
    closing: Vec<u32>,
}

impl Plan {
    fn new(worker: &Worker) -> Self {
        Self {
            client: worker.client,
            counters: worker.counters.clone(),
            seed: worker.seed,
            next_id: 1,
            closing: worker.counters.clone(),
        }
    }

    fn draw(&self) -> u64 {
        splitmix64(self.seed ^ self.next_id.wrapping_mul(0x9E37_79B9))
    }

    /// The next request while running.
    fn next(&mut self) -> Request {
        let pick = usize::try_from(self.draw() >> 33).unwrap_or(0) % self.counters.len();
        self.request(self.counters[pick])
    }

    /// The next request after the stop: one for every counter, so that no earlier effect stays unseen.
    fn next_closing(&mut self) -> Option<Request> {
        let counter = self.closing.pop()?;
        Some(self.request(counter))
    }

    fn request(&mut self, counter: u32) -> Request {
        let id = self.next_id;
        self.next_id += 1;
        Request { client: self.client, id, counter }
    }

    /// The pause before the next request: half to one and a half times the mean, but no less than `spacing` allows.
    fn pause(&self, mean: Duration, spacing: Duration) -> Duration {
        let share = u32::try_from(self.draw() % 1024).unwrap_or(0);
        (mean / 2 + mean * share / 1024).max(spacing)
    }

    /// The number of the newest request.
    fn newest(&self) -> u64 {
        self.next_id - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_numbers_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            for number in 0..512 {
                assert!(seen.insert(client_number(seed, number)), "seed {seed}, worker {number}");
            }
        }
        assert!(!seen.contains(&0));
    }
}
