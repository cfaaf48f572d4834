//! A stand-in for the guest, on loopback, for tests: an honest one and ones that each break one promise.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::message::{FLAG_REPEATED, MESSAGE_BYTES, Reply, Request, download_content};
use crate::ns::monotonic_ns;

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Honest,
    /// Counts a request twice now and then.
    DoubleApply,
    /// Answers while it should hold.
    AnswerEarly,
    /// Closes a TCP connection after some requests.
    DropConnection,
    /// Flips a bit of the download.
    FlipBit,
    /// Every so often drops the first copy of a datagram's reply.
    LoseReplies,
}

#[derive(Default)]
struct State {
    counters: BTreeMap<u32, u64>,
    log: BTreeMap<(u32, u64), u64>,
}

/// A running server. Its threads end with the test process.
pub(super) struct Server {
    pub(super) udp: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) download: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    behaviour: Behaviour,
    state: Mutex<State>,
    /// New requests applied so far.
    applied: AtomicU64,
    /// While true an honest server applies and answers nothing.
    holding: AtomicBool,
    /// Requests that arrived while holding.
    held: AtomicU64,
    /// Connections closed, or replies dropped, on purpose.
    dropped: AtomicU64,
}

impl Server {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a loopback socket");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a loopback socket");
        let download = TcpListener::bind("127.0.0.1:0").expect("a loopback socket");
        let inner = Arc::new(Inner {
            behaviour,
            state: Mutex::default(),
            applied: AtomicU64::new(0),
            holding: AtomicBool::new(false),
            held: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let server = Self {
            udp: udp.local_addr().expect("a bound socket"),
            tcp: tcp.local_addr().expect("a bound socket"),
            download: download.local_addr().expect("a bound socket"),
            inner: Arc::clone(&inner),
        };
        let (for_udp, for_tcp) = (Arc::clone(&inner), Arc::clone(&inner));
        std::thread::spawn(move || serve_udp(&for_udp, &udp));
        std::thread::spawn(move || accept(&tcp, &for_tcp, serve_tcp));
        std::thread::spawn(move || accept(&download, &inner, serve_download));
        server
    }

    pub(super) fn applied(&self) -> u64 {
        self.inner.applied.load(Ordering::SeqCst)
    }

    pub(super) fn held(&self) -> u64 {
        self.inner.held.load(Ordering::SeqCst)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::SeqCst)
    }

    pub(super) fn hold(&self, on: bool) {
        self.inner.holding.store(on, Ordering::SeqCst);
    }
}

impl Inner {
    fn answer(&self, request: &Request) -> Reply {
        if self.holding.load(Ordering::SeqCst) {
            self.held.fetch_add(1, Ordering::SeqCst);
            while self.holding.load(Ordering::SeqCst) && self.behaviour != Behaviour::AnswerEarly {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (request.client, request.id);
        let (flags, value) = if let Some(value) = state.log.get(&key) {
            (FLAG_REPEATED, *value)
        } else {
            let applied = self.applied.fetch_add(1, Ordering::SeqCst) + 1;
            let twice = self.behaviour == Behaviour::DoubleApply && applied.is_multiple_of(50);
            let counter = state.counters.entry(request.counter).or_insert(0);
            *counter += if twice { 2 } else { 1 };
            let value = *counter;
            state.log.insert(key, value);
            (0, value)
        };
        let Request { client, id, counter } = *request;
        Reply { client, id, counter, flags, value, boot: 0xb007, uptime: monotonic_ns() }
    }
}

fn serve_udp(inner: &Arc<Inner>, socket: &UdpSocket) {
    let socket = Arc::new(socket.try_clone().expect("a socket can be cloned"));
    let mut bytes = [0; 2048];
    let mut lost = std::collections::BTreeSet::new();
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        let Some(request) = Request::decode(&bytes[..length]) else { continue };
        let (inner, socket) = (Arc::clone(inner), Arc::clone(&socket));
        let lose = inner.behaviour == Behaviour::LoseReplies
            && request.id.is_multiple_of(10)
            && lost.insert((request.client, request.id));
        // A thread per datagram: a held request must not keep the socket from the others.
        std::thread::spawn(move || {
            let reply = inner.answer(&request).encode();
            if lose {
                inner.dropped.fetch_add(1, Ordering::SeqCst);
            } else {
                let _ = socket.send_to(&reply, from);
            }
        });
    }
}

fn accept(listener: &TcpListener, inner: &Arc<Inner>, serve: fn(&Inner, TcpStream)) {
    for stream in listener.incoming().flatten() {
        let inner = Arc::clone(inner);
        std::thread::spawn(move || serve(&inner, stream));
    }
}

fn serve_tcp(inner: &Inner, mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a connected socket");
    let mut bytes = [0; MESSAGE_BYTES];
    let mut served = 0;
    while stream.read_exact(&mut bytes).is_ok() {
        let Some(request) = Request::decode(&bytes) else { return };
        let reply = inner.answer(&request).encode();
        // Two pieces, so that the client has to put replies together.
        if stream.write_all(&reply[..10]).and_then(|()| stream.write_all(&reply[10..])).is_err() {
            return;
        }
        served += 1;
        if inner.behaviour == Behaviour::DropConnection && served == 20 {
            inner.dropped.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

fn serve_download(inner: &Inner, mut stream: TcpStream) {
    let mut request = [0; 16];
    if stream.read_exact(&mut request).is_err() {
        return;
    }
    let word = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().expect("eight bytes"));
    let (seed, mut offset) = (word(0), word(8));
    let mut chunk = [0; 4099];
    loop {
        download_content(seed, offset, &mut chunk);
        if inner.behaviour == Behaviour::FlipBit && offset == 4099 * 3 {
            chunk[5] ^= 0x10;
        }
        if stream.write_all(&chunk).is_err() {
            return;
        }
        offset += 4099;
    }
}
