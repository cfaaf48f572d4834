//! Two and more hosts over loopback.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use super::*;
use crate::log::FrameId;

/// Far above what anything here takes: reached only by a test that fails.
const LIMIT: Duration = Duration::from_secs(20);

struct Host {
    links: Links,
    events: Receiver<LinkEvent>,
}

fn socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = socket.local_addr().expect("address");
    (socket, addr)
}

fn config(host: &str, peers: &[(&str, SocketAddr)]) -> LinkConfig {
    LinkConfig {
        host: host.into(),
        pair: "shop".into(),
        secret: [3; 32],
        listen: vec![],
        peers: peers.iter().map(|&(name, addr)| Peer { name: name.into(), addrs: vec![addr] }).collect(),
        heartbeat: Duration::from_millis(10),
        redial: Duration::from_millis(20),
    }
}

fn start(config: LinkConfig, socket: TcpListener) -> Host {
    let (sender, events) = unbounded();
    Host { links: Links::start_on(config, vec![socket], sender).expect("start"), events }
}

/// Hosts alpha and beta that know each other; `change` may spoil beta's configuration.
fn two(change: impl FnOnce(&mut LinkConfig)) -> (Host, Host) {
    let ((socket_a, addr_a), (socket_b, addr_b)) = (socket(), socket());
    let mut beta = config("beta", &[("alpha", addr_a)]);
    change(&mut beta);
    (start(config("alpha", &[("beta", addr_b)]), socket_a), start(beta, socket_b))
}

fn linked() -> (Host, Host, u64, u64) {
    let (a, b) = two(|_| {});
    a.links.dial(true);
    let (of_a, of_b) = (a.up("beta", true), b.up("alpha", false));
    a.links.dial(false);
    (a, b, of_a, of_b)
}

impl Host {
    /// The next event but heartbeats.
    fn next(&self) -> LinkEvent {
        loop {
            match self.events.recv_timeout(LIMIT).expect("an event") {
                LinkEvent::Heard { .. } => {}
                event => return event,
            }
        }
    }

    fn up(&self, from: &str, by_us: bool) -> u64 {
        match self.next() {
            LinkEvent::Up { session, peer, dialed } if peer == from && dialed == by_us => session,
            other => panic!("{other:?} instead of a session with {from}"),
        }
    }

    fn refused(&self) -> (String, String) {
        match self.next() {
            LinkEvent::Refused { peer, why } => (peer, why),
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    /// Everything until the channel closes, which it does when all threads have ended.
    fn rest(self) -> Vec<LinkEvent> {
        drop(self.links);
        self.events.iter().filter(|event| !matches!(event, LinkEvent::Heard { .. })).collect()
    }
}

fn message(id: FrameId, len: usize) -> Message {
    let byte = u8::try_from(id % 251).expect("small");
    Message::EarlyFrame { id, nic: 0, frame: vec![byte; len] }
}

#[test]
fn messages_arrive_whole_and_in_order() {
    let (a, b, of_a, of_b) = linked();
    let size = |id: u64| match id {
        0..100 => MESSAGE_MAX - 100 - usize::try_from(id).expect("small") * 1000,
        _ => usize::try_from(id % 1700).expect("small"),
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0..10_000 {
                // Wait out a full queue instead of running into its limit.
                if id < 100 && id % 10 == 9 {
                    assert_eq!(a.next(), LinkEvent::Message { session: of_a, message: message(id, 1) });
                }
                a.links.send(of_a, &message(id, size(id))).expect("sent");
            }
        });
        for id in 0..10_000 {
            if id < 100 && id % 10 == 9 {
                b.links.send(of_b, &message(id, 1)).expect("sent");
            }
            let event = b.next();
            assert!(event == LinkEvent::Message { session: of_b, message: message(id, size(id)) }, "{id}");
        }
    });
    assert!(a.links.counters().bytes_sent > 90 << 20);
    assert!(b.links.counters().bytes_received > 90 << 20);
}

#[test]
fn heartbeats_come_without_any_message() {
    let (_a, b, _, of_b) = linked();
    for _ in 0..10 {
        assert_eq!(b.events.recv_timeout(LIMIT), Ok(LinkEvent::Heard { session: of_b }));
    }
}

#[test]
fn a_dead_side_is_reported_once_and_after_its_last_message() {
    let (a, b, of_a, of_b) = linked();
    for id in 0..50 {
        a.links.send(of_a, &message(id, 1000)).expect("sent");
    }
    assert_eq!(a.rest(), [LinkEvent::Down { session: of_a }]);
    for id in 0..50 {
        assert_eq!(b.next(), LinkEvent::Message { session: of_b, message: message(id, 1000) });
    }
    assert_eq!(b.next(), LinkEvent::Down { session: of_b });
    assert_eq!(b.links.send(of_b, &message(0, 1)), Err(SendError::Closed));
    assert_eq!(b.rest(), []);
}

#[test]
fn closing_flushes_then_reports_on_both_sides() {
    let (a, b, of_a, of_b) = linked();
    let last = Message::Refuse { why: "the machine tables differ".into() };
    a.links.send(of_a, &message(1, MESSAGE_MAX / 2)).expect("sent");
    a.links.send(of_a, &last).expect("sent");
    a.links.close(of_a);
    a.links.close(of_a);
    assert_eq!(a.links.send(of_a, &last), Err(SendError::Closed));
    assert_eq!(b.next(), LinkEvent::Message { session: of_b, message: message(1, MESSAGE_MAX / 2) });
    assert_eq!(b.next(), LinkEvent::Message { session: of_b, message: last });
    assert_eq!(b.next(), LinkEvent::Down { session: of_b });
    assert_eq!(a.next(), LinkEvent::Down { session: of_a });
    assert_eq!((a.rest(), b.rest()), (vec![], vec![]));
}

#[test]
fn a_session_comes_back_while_dialing_is_on() {
    let (a, b, of_a, of_b) = linked();
    b.links.dial(true);
    a.links.close(of_a);
    assert_eq!(a.next(), LinkEvent::Down { session: of_a });
    assert_eq!(b.next(), LinkEvent::Down { session: of_b });
    let (next_a, next_b) = (a.up("beta", false), b.up("alpha", true));
    assert!(next_a > of_a && next_b > of_b);
    b.links.send(next_b, &message(7, 3)).expect("sent");
    assert_eq!(a.next(), LinkEvent::Message { session: next_a, message: message(7, 3) });
}

#[test]
fn a_restarted_host_replaces_its_old_session() {
    let ((socket_a, addr_a), (socket_b, addr_b)) = (socket(), socket());
    let a = start(config("alpha", &[("beta", addr_b)]), socket_a);
    let old = start(config("beta", &[("alpha", addr_a)]), socket_b);
    a.links.dial(true);
    let (of_a, _) = (a.up("beta", true), old.up("alpha", false));
    // The old program is still there, as behind a cut cable: alpha knows nothing of its end.
    let new = start(config("beta", &[("alpha", addr_a)]), socket().0);
    new.links.dial(true);
    assert_eq!(a.next(), LinkEvent::Down { session: of_a });
    a.up("beta", false);
    new.up("alpha", true);
}

#[test]
fn dialing_at_once_from_both_sides_ends_with_one_session() {
    for _ in 0..30 {
        let (a, b) = two(|_| {});
        thread::scope(|scope| {
            scope.spawn(|| a.links.dial(true));
            b.links.dial(true);
        });
        let LinkEvent::Up { session: of_a, dialed: by_a, .. } = a.next() else { panic!("no session") };
        let LinkEvent::Up { session: of_b, dialed: by_b, .. } = b.next() else { panic!("no session") };
        assert_ne!(by_a, by_b);
        a.links.send(of_a, &message(1, 1)).expect("sent");
        assert_eq!(b.next(), LinkEvent::Message { session: of_b, message: message(1, 1) });
        b.links.send(of_b, &message(2, 1)).expect("sent");
        assert_eq!(a.next(), LinkEvent::Message { session: of_a, message: message(2, 1) });
        // Both go on dialing: for several redial periods nothing may disturb the session.
        thread::sleep(Duration::from_millis(70));
        assert_eq!(a.rest(), [LinkEvent::Down { session: of_a }]);
        b.links.dial(false);
        assert_eq!(b.next(), LinkEvent::Down { session: of_b });
    }
}

#[test]
fn another_key_is_named_on_both_sides() {
    let (a, b) = two(|beta| beta.secret = [4; 32]);
    a.links.dial(true);
    let (peer, why) = a.refused();
    assert_eq!(peer, "beta");
    assert!(why.contains("another key"), "{why}");
    let (peer, why) = b.refused();
    assert_eq!(peer, "127.0.0.1");
    assert!(why.contains("another key"), "{why}");
}

#[test]
fn another_pair_is_named_on_both_sides() {
    let (a, b) = two(|beta| beta.pair = "bank".into());
    a.links.dial(true);
    let expected = "host beta belongs to pair \"bank\", not to \"shop\"";
    assert!(a.refused().1.ends_with(expected));
    assert_eq!(b.refused(), ("127.0.0.1".into(), expected.into()));
}

#[test]
fn an_unknown_host_is_named_on_both_sides() {
    let (a, b) = two(|beta| beta.peers[0].name = "gamma".into());
    a.links.dial(true);
    assert!(a.refused().1.contains("knows no host \"alpha\""));
    assert!(b.refused().1.contains("knows no host \"alpha\""));
}

#[test]
fn another_host_at_the_address_is_named() {
    let ((socket_a, addr_a), (socket_b, addr_b)) = (socket(), socket());
    let a = start(config("alpha", &[("gamma", addr_b)]), socket_a);
    let _b = start(config("beta", &[("alpha", addr_a)]), socket_b);
    a.links.dial(true);
    let (peer, why) = a.refused();
    assert_eq!(peer, "gamma");
    assert!(why.contains("host \"beta\" answers there"), "{why}");
}

#[test]
fn the_second_address_is_tried() {
    let ((socket_a, addr_a), (socket_b, addr_b)) = (socket(), socket());
    // An address of its own, so that no other test is given the port meanwhile.
    let closed = TcpListener::bind("127.0.0.78:0").expect("bind");
    let nobody = closed.local_addr().expect("address");
    drop(closed);
    let mut alpha = config("alpha", &[("beta", nobody)]);
    alpha.peers[0].addrs.push(addr_b);
    let a = start(alpha, socket_a);
    let b = start(config("beta", &[("alpha", addr_a)]), socket_b);
    a.links.dial(true);
    a.up("beta", true);
    b.up("alpha", false);
}

#[test]
fn a_peer_that_takes_nothing_ends_the_session_when_the_queue_is_full() {
    let ((socket_a, addr_a), (socket_b, addr_b)) = (socket(), socket());
    let a = start(config("alpha", &[("beta", addr_b)]), socket_a);
    let (sender, events) = crossbeam_channel::bounded(1);
    let b = Links::start_on(config("beta", &[("alpha", addr_a)]), vec![socket_b], sender).expect("start");
    a.links.dial(true);
    let of_a = a.up("beta", true);
    a.links.dial(false);
    let big = message(1, MESSAGE_MAX - 100);
    let mut sent = 0;
    let error = loop {
        match a.links.send(of_a, &big) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1000, "nothing limits the queue");
    };
    assert_eq!(error, SendError::Full);
    assert_eq!(a.next(), LinkEvent::Down { session: of_a });
    // Its events channel is full, and yet dropping it ends.
    drop(b);
    drop(events);
}

#[test]
fn closing_a_blocked_session_gives_up_in_time() {
    let ((socket_a, addr_a), (socket_b, addr_b)) = (socket(), socket());
    let a = start(config("alpha", &[("beta", addr_b)]), socket_a);
    let (sender, _events) = crossbeam_channel::bounded(1);
    let _b = Links::start_on(config("beta", &[("alpha", addr_a)]), vec![socket_b], sender).expect("start");
    a.links.dial(true);
    let of_a = a.up("beta", true);
    a.links.dial(false);
    for _ in 0..20 {
        a.links.send(of_a, &message(1, MESSAGE_MAX - 100)).expect("the queue has room");
    }
    a.links.close(of_a);
    assert_eq!(a.next(), LinkEvent::Down { session: of_a });
}

#[test]
fn a_message_that_is_too_long_leaves_the_session_up() {
    let (a, b, of_a, of_b) = linked();
    let long = message(1, MESSAGE_MAX);
    assert!(matches!(a.links.send(of_a, &long), Err(SendError::TooLong(_))));
    a.links.send(of_a, &message(2, 5)).expect("sent");
    assert_eq!(b.next(), LinkEvent::Message { session: of_b, message: message(2, 5) });
    assert_eq!(a.links.send(of_a + 99, &message(2, 5)), Err(SendError::Closed));
}

#[test]
fn strangers_are_limited_and_do_not_keep_a_host_out() {
    let ((socket_a, addr_a), (socket_b, addr_b)) = (socket(), socket());
    let _b = start(config("beta", &[("alpha", addr_a)]), socket_b);
    let mut strangers: Vec<_> =
        (0..STRANGERS_MAX).map(|_| TcpStream::connect(addr_b).expect("connect")).collect();
    let mut one_more = TcpStream::connect(addr_b).expect("the kernel accepts");
    one_more.set_read_timeout(Some(LIMIT)).expect("limit");
    assert_eq!(one_more.read(&mut [0]).ok(), Some(0), "it is dropped at once");
    strangers[0].set_read_timeout(Some(LIMIT)).expect("limit");
    assert_eq!(strangers[0].read(&mut [0]).ok(), Some(0), "silence is dropped after a while");
    let a = start(config("alpha", &[("beta", addr_b)]), socket_a);
    a.links.dial(true);
    a.up("beta", true);
}

#[test]
fn a_wrong_configuration_is_refused() {
    let refused = |config: LinkConfig| {
        let (sender, _events) = unbounded();
        Links::start(config, sender).err().expect("refused").to_string()
    };
    let addr: SocketAddr = "127.0.0.1:1".parse().expect("address");
    assert!(refused(config("alpha", &[("alpha", addr)])).contains("two hosts are called \"alpha\""));
    assert!(refused(config("", &[])).contains("must have 1 to 64 bytes"));
    let mut zero = config("alpha", &[]);
    zero.heartbeat = Duration::ZERO;
    assert!(refused(zero).contains("heartbeats"));
    let (_busy, addr) = socket();
    let mut taken = config("alpha", &[]);
    taken.listen = vec![addr];
    assert!(refused(taken).contains("Cannot listen on 127.0.0.1"));
}
