//! What an epoch costs besides running the guest: sealing, encoding, encrypting.

use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use benches::Sleeper;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lockstep::codec;
use lockstep::edge::noise::{Opener, PLAIN_MAX, Sealer, Service, initiate, respond};
use lockstep::log::{Event, ExitKind, LogItem, Place, Position};
use lockstep::machine::{Command, PAGE_SIZE, Report};
use lockstep::message::{Message, WirePage};
use lockstep::runner::{Limits, Runner};

/// Pages written in an epoch.
const DIRTY: u32 = 50;
/// Guest memory: 32 MiB.
const PAGES: u32 = 8192;

/// The driver of a primary whose log has begun.
struct Primary {
    runner: Runner<Sleeper>,
    reports: Vec<Report>,
    epochs: u64,
}

impl Primary {
    fn new() -> Self {
        let runner = Runner::new(Sleeper::new(PAGES), Limits::default());
        let mut primary = Primary { runner, reports: Vec::new(), epochs: 0 };
        for command in [Command::Boot, Command::FillStart, Command::FillFinish] {
            primary.runner.command(command, 0, &mut primary.reports);
        }
        primary
    }

    /// The guest writes; time stands still, so that nothing but the seal is due.
    fn write(&mut self) {
        self.epochs += 1;
        self.runner.machine_mut().touch(DIRTY, self.epochs);
        self.reports.clear();
    }

    /// One epoch from the order to the acknowledgement.
    fn seal(&mut self) {
        self.runner.command(Command::Seal, 0, &mut self.reports);
        self.runner.turn(0, &mut self.reports);
        self.runner.command(Command::Commit(self.epochs), 0, &mut self.reports);
    }

    fn sealed_pages(&self) -> usize {
        let sealed = self.reports.iter().find_map(|report| match report {
            Report::Sealed(sealed) => Some(sealed.changed.len()),
            _ => None,
        });
        sealed.unwrap_or(0)
    }
}

fn seal(c: &mut Criterion) {
    let mut primary = Primary::new();
    primary.write();
    primary.seal();
    assert_eq!(primary.sealed_pages(), DIRTY as usize, "the benchmark seals what it thinks it seals");
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Bytes(u64::from(DIRTY) * PAGE_SIZE as u64));
    group.bench_function("digests and memory root of 50 pages", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                primary.write();
                let begin = Instant::now();
                primary.seal();
                spent += begin.elapsed();
            }
            spent
        });
    });
    group.finish();
}

/// What a primary sends for one request: a mark, the time, a frame and the mark after it.
fn log_message() -> Message {
    let mark = |index, exits| {
        LogItem::RunTo(Position { index, place: Place::Exit { exits, kind: ExitKind::Halt }, dirtied: 0 })
    };
    let placed = [Event::Time(1_000_000), Event::Frame(7)].map(LogItem::Place);
    let mut items = vec![mark(1, 300)];
    items.extend(placed);
    items.push(mark(2, 305));
    Message::Log { first: 1000, items }
}

fn pages_message() -> Message {
    let page = |page| WirePage { page, bytes: vec![0x5a; PAGE_SIZE] };
    Message::FillPages((0..DIRTY).map(page).collect())
}

fn encode_and_decode(c: &mut Criterion) {
    for (name, message) in [("log of 4 entries", log_message()), ("50 pages", pages_message())] {
        let bytes = codec::encode(&message);
        assert_eq!(codec::decode(&bytes), Ok(message.clone()));
        let mut group = c.benchmark_group("codec");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode {name}"), |b| b.iter(|| codec::encode(black_box(&message))));
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| codec::decode::<Message>(black_box(&bytes)));
        });
        group.finish();
    }
}

/// Both ends of an encrypted connection, after a real handshake.
fn connection() -> (Sealer, Opener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a local port");
    let address = listener.local_addr().expect("an address");
    let (secret, deadline) = ([7; 32], Instant::now() + Duration::from_secs(10));
    let listening = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        respond(&stream, Service::Link, &secret, deadline).expect("a handshake").1
    });
    let stream = TcpStream::connect(address).expect("a connection");
    let sealer = initiate(&stream, Service::Link, &secret, deadline).expect("a handshake").0;
    (sealer, listening.join().expect("the other end"))
}

fn encrypt(c: &mut Criterion) {
    let (mut sealer, mut opener) = connection();
    let mut group = c.benchmark_group("noise");
    for (name, len) in [("a short message", 100), ("a full chunk", PLAIN_MAX)] {
        let plain = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("seal and open {name}"), |b| {
            b.iter_batched(
                || Vec::with_capacity(len + 64),
                |mut chunk| {
                    sealer.seal(black_box(&plain), &mut chunk);
                    opener.open(&chunk[2..]).expect("the chunk that was just sealed").len()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(micro, seal, encode_and_decode, encrypt);
criterion_main!(micro);
