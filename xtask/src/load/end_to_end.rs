//! The client against servers on loopback, judged: the honest one passes, each broken promise is seen.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::client::{ClientConfig, Command, run};
use super::event::DrillEvent;
use super::judge::{Evidence, Verdict, judge};
use super::record::{Record, read_records};
use super::server::{Behaviour, Server};
use crate::ns::monotonic_ns;

fn config(server: &Server, records: &Path) -> ClientConfig {
    ClientConfig {
        udp_target: server.udp,
        tcp_target: server.tcp,
        download_target: server.download,
        records: records.to_owned(),
        seed: 7,
        udp: 12,
        tcp: 4,
        download: 1,
        rate: 0,
        think: Duration::from_micros(500),
        download_rate: 20_000_000,
    }
}

/// Runs the client until the server has applied `requests`, with a hold of the server on the way if asked for.
fn drive(behaviour: Behaviour, requests: u64, hold: bool) -> (Vec<Record>, Vec<DrillEvent>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("records.jsonl");
    let server = Server::start(behaviour);
    let config = config(&server, &path);
    let (orders, commands) = channel();
    let (ready_tell, ready) = channel();
    let tell = move || ready_tell.send(()).expect("the test waits");
    let client = std::thread::spawn(move || run(&config, &commands, tell));
    ready.recv().expect("the client gets its first answers");
    orders.send(Command::Mark("half".into())).expect("the client runs");
    let mut events = Vec::new();
    if hold {
        server.hold(true);
        let from = monotonic_ns();
        // More than can be on the way when it begins; an honest server gets one from each worker.
        let enough = if behaviour == Behaviour::AnswerEarly { 100 } else { 16 };
        wait_until(|| server.held() >= enough);
        events.push(DrillEvent::Hold { from, to: monotonic_ns() });
        server.hold(false);
    }
    wait_until(|| server.applied() >= requests);
    if matches!(behaviour, Behaviour::DropConnection | Behaviour::LoseReplies) {
        wait_until(|| server.dropped() >= 4);
    }
    orders.send(Command::Stop).expect("the client runs");
    client.join().expect("the client does not panic").expect("the records can be written");
    (read_records(&path).expect("whole records"), events)
}

fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn judged(records: &[Record], events: &[DrillEvent]) -> Verdict {
    judge(&Evidence { records, captures: &[], events, guest_mac: [0; 6], fresh_counters: true })
}

#[test]
fn an_honest_server_passes() {
    let (records, _) = drive(Behaviour::Honest, 2000, false);
    let verdict = judged(&records, &[]);
    assert!(verdict.ok, "{:?}", verdict.violations);
    assert!(verdict.requests >= 2000 && verdict.download_bytes > 0, "{verdict:?}");
    assert!(records.iter().any(|record| matches!(record, Record::Mark { text, .. } if text == "half")));
    assert!(matches!(records.last(), Some(Record::End { workers: 17, .. })));
}

#[test]
fn lost_replies_are_asked_for_again() {
    let (records, _) = drive(Behaviour::LoseReplies, 400, false);
    let verdict = judged(&records, &[]);
    assert!(verdict.ok, "{:?}", verdict.violations);
    assert!(verdict.resends > 0);
    assert!(records.iter().any(|record| matches!(record, Record::Reply { flags: 1, .. })));
}

#[test]
fn a_double_effect_is_seen() {
    let (records, _) = drive(Behaviour::DoubleApply, 400, false);
    let verdict = judged(&records, &[]);
    assert!(verdict.duplicated > 0 && verdict.lost == 0, "{:?}", verdict.violations);
}

#[test]
fn an_early_answer_is_seen_and_a_held_one_is_not() {
    let (records, events) = drive(Behaviour::AnswerEarly, 400, true);
    assert!(judged(&records, &events).released_early > 0);
    let (records, events) = drive(Behaviour::Honest, 400, true);
    assert_eq!(judged(&records, &events).released_early, 0);
}

#[test]
fn a_dropped_connection_is_seen() {
    let (records, _) = drive(Behaviour::DropConnection, 1, false);
    let verdict = judged(&records, &[]);
    assert_eq!(verdict.broken, 4, "{:?}", verdict.violations);
}

#[test]
fn a_flipped_bit_is_seen() {
    let (records, _) = drive(Behaviour::FlipBit, 400, false);
    let verdict = judged(&records, &[]);
    assert_eq!(verdict.wrong_bytes, 1, "{:?}", verdict.violations);
    let wrong: Vec<&Record> =
        records.iter().filter(|record| matches!(record, Record::Wrong { .. })).collect();
    assert!(matches!(wrong[..], [Record::Wrong { offset: 12302, .. }]), "{wrong:?}");
}
