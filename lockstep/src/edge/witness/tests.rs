//! A witness and its clients over loopback.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::store::{Store, StoreError};
use super::*;
use crate::arbiter::{Answer, Ask, AttemptId, Record};
use crate::codec;
use crate::edge::channel::{Channel, Counters};
use crate::edge::noise::Service;
use crate::wire::FrameKind;

const SECRET: [u8; 32] = [9; 32];
/// Far above what anything here takes: reached only by a test that fails.
const LIMIT: Duration = Duration::from_secs(20);

struct Client {
    client: WitnessClient,
    answers: Receiver<(u64, Option<Answer>)>,
}

impl Client {
    fn new(addr: SocketAddr, secret: [u8; 32], timeout: Duration) -> Self {
        let (sender, answers) = unbounded();
        let config = WitnessClientConfig { addr, secret, timeout };
        Self { client: WitnessClient::start(config, sender).expect("start"), answers }
    }

    fn ask(&self, ticket: u64, ask: Ask) -> Option<Answer> {
        self.client.ask(ticket, ask);
        let (of, answer) = self.answers.recv_timeout(LIMIT).expect("every question is answered");
        assert_eq!(of, ticket);
        answer
    }
}

fn try_start(state: &Path) -> Result<Witness, WitnessError> {
    let listen = "127.0.0.1:0".parse().expect("address");
    serve(WitnessConfig { listen, secret: SECRET, state: state.to_owned() })
}

fn start(state: &Path) -> Witness {
    try_start(state).expect("the witness starts")
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("witness.json");
    (folder, state)
}

fn record(generation: u64, holder: &str, attempt: AttemptId) -> Record {
    Record { generation, holder: holder.into(), attempt, in_sync: vec![holder.into()], stopped: false }
}

fn swap(expect: AttemptId, new: Record) -> Ask {
    Ask::Swap { pair: "shop".into(), expect, new }
}

fn read() -> Ask {
    Ask::Read { pair: "shop".into() }
}

#[test]
fn of_many_contenders_for_a_generation_exactly_one_wins() {
    let (_folder, state) = folder();
    let witness = start(&state);
    let clients: Vec<_> = (0..8).map(|_| Client::new(witness.address(), SECRET, LIMIT)).collect();
    let mut expect = 0;
    for generation in 1..=20 {
        let results: Vec<_> = thread::scope(|scope| {
            let race = |(number, client)| {
                let attempt = u128::from(generation) * 100 + number + 1;
                let new = record(generation, &format!("host{number}"), attempt);
                scope.spawn(move || Client::ask(client, 1, swap(expect, new)).expect("answered"))
            };
            let threads: Vec<_> = (0u128..).zip(&clients).map(race).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut winners = results.iter().filter_map(|answer| match answer {
            Answer::Won(record) => Some(record),
            _ => None,
        });
        let winner = winners.next().expect("one wins");
        assert_eq!(winners.next(), None);
        let losers = results.iter().filter(|a| **a == Answer::Lost(Some(winner.clone()))).count();
        assert_eq!(losers, clients.len() - 1);
        expect = winner.attempt;
    }
}

#[test]
fn the_state_survives_a_restart_and_a_retry_after_a_lost_answer_still_wins() {
    let (_folder, state) = folder();
    let witness = start(&state);
    let addr = witness.address();
    let deadline = Instant::now() + LIMIT;
    let stream = std::net::TcpStream::connect(addr).expect("connect");
    let counters = std::sync::Arc::new(Counters::default());
    let mut channel =
        Channel::dialed(stream, Service::Witness, &SECRET, deadline, &counters).expect("handshake");
    let ask = codec::encode(&swap(0, record(1, "alpha", 7)));
    channel.sender.send_by(FrameKind::Ask, &ask, deadline).expect("sent");
    // The answer proves that the record is on disk; then it counts as lost.
    channel.receiver.next_by(deadline).expect("an answer");
    let text = fs::read_to_string(&state).expect("the state file");
    assert!(text.contains("\"schema\": \"twinrun.witness/1\"") && text.contains("alpha"), "{text}");
    drop((channel, witness));

    let witness = start(&state);
    let beta = Client::new(witness.address(), SECRET, LIMIT);
    assert_eq!(beta.ask(1, read()), Some(Answer::Current(Some(record(1, "alpha", 7)))));
    assert_eq!(beta.ask(2, swap(0, record(1, "beta", 8))), Some(Answer::Lost(Some(record(1, "alpha", 7)))));
    let alpha = Client::new(witness.address(), SECRET, LIMIT);
    assert_eq!(alpha.ask(3, swap(0, record(1, "alpha", 7))), Some(Answer::Won(record(1, "alpha", 7))));
}

#[test]
fn a_client_gets_over_a_restart_of_the_witness() {
    let (_folder, state) = folder();
    let listen = {
        // An address of its own, so that no other test is given the port meanwhile.
        let listen = "127.0.0.77:0".parse().expect("address");
        let witness = serve(WitnessConfig { listen, secret: SECRET, state: state.clone() }).expect("start");
        let client = Client::new(witness.address(), SECRET, LIMIT);
        assert_eq!(client.ask(1, swap(0, record(1, "alpha", 7))), Some(Answer::Won(record(1, "alpha", 7))));
        let listen = witness.address();
        drop(witness);
        let again = serve(WitnessConfig { listen, secret: SECRET, state }).expect("the port is free again");
        assert_eq!(client.ask(2, read()), Some(Answer::Current(Some(record(1, "alpha", 7)))));
        assert_eq!(client.client.trouble(), None);
        again.address()
    };
    let late = Client::new(listen, SECRET, Duration::from_millis(50));
    assert_eq!(late.ask(3, read()), None);
    assert!(late.client.trouble().expect("a reason").contains("Cannot reach it"));
}

#[test]
fn a_silent_witness_costs_the_time_limit_and_no_more() {
    // It accepts (the kernel does) and never answers.
    let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = Client::new(socket.local_addr().expect("address"), SECRET, Duration::from_millis(50));
    assert_eq!(client.ask(1, read()), None);
    assert_eq!(client.ask(2, read()), None);
    assert!(client.client.trouble().expect("a reason").contains("in time"));
}

#[test]
fn a_client_with_another_key_is_told() {
    let (_folder, state) = folder();
    let witness = start(&state);
    let client = Client::new(witness.address(), [1; 32], LIMIT);
    assert_eq!(client.ask(1, read()), None);
    assert!(client.client.trouble().expect("a reason").contains("another key"));
}

#[test]
fn a_malformed_question_ends_the_connection_and_changes_nothing() {
    let (_folder, state) = folder();
    let witness = start(&state);
    let deadline = Instant::now() + LIMIT;
    for payload in [vec![], vec![0xFF; 100], vec![1; 5000]] {
        let stream = std::net::TcpStream::connect(witness.address()).expect("connect");
        let counters = std::sync::Arc::new(Counters::default());
        let mut channel =
            Channel::dialed(stream, Service::Witness, &SECRET, deadline, &counters).expect("handshake");
        channel.sender.send_by(FrameKind::Ask, &payload, deadline).expect("sent");
        assert!(channel.receiver.next_by(deadline).is_err());
    }
    let client = Client::new(witness.address(), SECRET, LIMIT);
    assert_eq!(client.ask(1, read()), Some(Answer::Current(None)));
}

#[test]
fn a_second_witness_on_the_same_file_is_refused() {
    let (_folder, state) = folder();
    let first = start(&state);
    let error = try_start(&state).err().expect("refused");
    assert!(matches!(error, WitnessError::Store(StoreError::Locked(_))), "{error}");
    drop(first);
    start(&state);
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    let good = r#"{"schema":"twinrun.witness/1","records":{"pairs":{}}}"#;
    let damaged = [
        String::new(),
        "{".to_owned(),
        good.replace("/1", "/2"),
        good.replace("pairs", "peers"),
        good.replace("{}", r#"{"shop":{"generation":1}}"#),
        format!("{good}{good}"),
        format!("{good}{}", " ".repeat(5 << 20)),
    ];
    for text in damaged {
        let (_folder, state) = folder();
        fs::write(&state, &text).expect("write");
        let error = try_start(&state).err().expect("refused");
        assert!(matches!(error, WitnessError::Store(StoreError::Corrupt { .. })), "{error}");
        assert!(error.to_string().contains("restore it from a copy"), "{error}");
        assert_eq!(fs::read_to_string(&state).expect("read"), text);
    }
    let (_folder, state) = folder();
    fs::write(&state, good).expect("write");
    start(&state);
}

#[test]
fn what_cannot_be_made_durable_is_not_answered_and_not_believed() {
    let (folder, state) = folder();
    let mut store = Store::open(&state).expect("open");
    // A folder in the way of the temporary file.
    let obstacle = folder.path().join("witness.json.new");
    fs::create_dir(&obstacle).expect("create");
    store.answer(&swap(0, record(1, "alpha", 7))).expect_err("it cannot be written");
    assert_eq!(store.answer(&read()).expect("readable"), Answer::Current(None));
    fs::remove_dir(&obstacle).expect("remove");
    let answer = store.answer(&swap(0, record(1, "alpha", 7))).expect("writable again");
    assert_eq!(answer, Answer::Won(record(1, "alpha", 7)));
    drop(store);
    let mut store = Store::open(&state).expect("open");
    assert_eq!(store.answer(&read()).expect("readable"), Answer::Current(Some(record(1, "alpha", 7))));
}

#[test]
fn nobody_else_can_read_the_state() {
    let (_folder, state) = folder();
    let _witness = start(&state);
    let mode = fs::metadata(&state).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
