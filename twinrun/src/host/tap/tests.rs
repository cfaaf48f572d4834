use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::*;

/// Whether this process may make network namespaces and taps. Where it may not, the tests say so.
fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || match sys::enter_empty_network() {
        Ok(()) => test(),
        Err(error) => eprintln!("SKIPPED: taps need a network namespace of their own ({error}); run as root"),
    });
    thread.join().expect("the test in its own network");
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("the ip command");
    assert!(status.success(), "ip {arguments}");
}

/// An Ethernet frame with a UDP datagram from 10.99.0.2:7 to 10.99.0.1:`port`.
fn datagram(mac: [u8; 6], port: u16, payload: &[u8]) -> Vec<u8> {
    let length = |extra: usize| u16::try_from(payload.len() + extra).expect("small").to_be_bytes();
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1];
    ip[2..4].copy_from_slice(&length(28));
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("one fold is enough here");
    ip[10..12].copy_from_slice(&(!folded).to_be_bytes());
    let mut frame = [&mac[..], &[2, 0, 0, 0, 0, 2, 8, 0], &ip, &[0, 7]].concat();
    frame.extend(port.to_be_bytes());
    frame.extend(length(8));
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// Sends a datagram to the guest. The kernel drops what is sent before it has noticed that the tap is attached, so
/// it is sent again until one arrives.
fn sent_until_it_arrives(socket: &UdpSocket, frames: &Receiver<(u8, Vec<u8>)>) -> (u8, Vec<u8>) {
    let limit = Instant::now() + Duration::from_secs(20);
    while Instant::now() < limit {
        socket.send_to(b"to the guest", "10.99.0.2:7").expect("send");
        let next = Instant::now() + Duration::from_millis(50);
        while let Ok((nic, frame)) = frames.recv_deadline(next) {
            if frame.ends_with(b"to the guest") {
                return (nic, frame);
            }
        }
    }
    panic!("no frame arrives");
}

#[test]
fn a_missing_tap_is_named_and_not_created() {
    in_own_network(|| {
        let error = Tap::open("twin9").expect_err("there is none");
        assert_eq!(
            error.to_string(),
            "No such tap device twin9: create it with `ip tuntap add twin9 mode tap`"
        );
        assert!(!sys::interface_exists("twin9"));
        let error = Tap::open("lo").expect_err("loopback is no tap");
        assert!(matches!(error, TapError::NotATap(_)), "{error}");
    });
}

#[test]
fn frames_pass_in_both_directions_and_a_second_user_is_refused() {
    in_own_network(|| {
        ip("tuntap add twin0 mode tap");
        ip("link set twin0 address 02:00:00:00:00:01 up");
        ip("addr add 10.99.0.1/24 dev twin0");
        ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev twin0");
        let tap = Tap::open("twin0").expect("open");
        assert!(matches!(Tap::open("twin0"), Err(TapError::Busy(_))));

        let (sender, frames) = crossbeam_channel::bounded(64);
        let reader = tap.start_reader(3, sender).expect("reader");
        let socket = UdpSocket::bind("10.99.0.1:0").expect("bind");
        let port = socket.local_addr().expect("address").port();
        let arrived = sent_until_it_arrives(&socket, &frames);
        assert_eq!(arrived.0, 3);
        assert_eq!(arrived.1[..6], [2, 0, 0, 0, 0, 2]);

        tap.send(&datagram([2, 0, 0, 0, 0, 1], port, b"from the guest"));
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).expect("receive");
        assert_eq!(&buffer[..len], b"from the guest");
        assert_eq!(tap.counters().sent, 1);

        ip("link set twin0 down");
        tap.send(&datagram([2, 0, 0, 0, 0, 1], port, b"lost"));
        assert_eq!(tap.counters().send_dropped, 1);
        drop(reader);
        assert!(frames.iter().all(|(nic, _)| nic == 3), "the thread has ended and closed the channel");
    });
}
