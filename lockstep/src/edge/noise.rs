//! The encrypted handshake: `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` with one secret per pair.
//!
//! Before it, each side sends a greeting of 8 bytes in the clear, little endian: magic "TWRN", wire version
//! u16, service u16. It lets both operators read *why* a stranger, another release or a host dialed instead
//! of a witness is turned away. It is bound into the handshake as its prologue, so nobody can forge it.
//! Each Noise message (a *chunk*) has a length prefix of 2 bytes. A responder that cannot open the first
//! chunk answers with an empty one: "the keys differ".
//!
//! Sender and receiver are two halves with a nonce counter each over one stateless transport state, which
//! needs no lock: TCP keeps the order, so both ends count alike, and no nonce crosses the wire.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::WIRE_VERSION;

/// The key that both sides share: 32 bytes.
pub type Secret = [u8; 32];

/// Most bytes of one Noise message, by its specification.
pub const CHUNK_MAX: usize = 65_535;
/// Bytes that encryption adds to a chunk.
pub const TAG_LEN: usize = 16;
/// Most plaintext bytes of one chunk.
pub const PLAIN_MAX: usize = CHUNK_MAX - TAG_LEN;
/// Bytes that a handshake sends, and receives: greeting, prefix, and one Noise message.
pub const HANDSHAKE_LEN: usize = GREETING_LEN + 2 + HELLO_LEN;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const MAGIC: [u8; 4] = *b"TWRN";
const GREETING_LEN: usize = 8;
/// Each handshake message is an ephemeral key and a tag.
const HELLO_LEN: usize = 32 + TAG_LEN;
/// Most bytes that are read from a peer that was refused, so that it can read why.
const LINGER_BYTES: usize = 64 << 10;

/// What a port offers. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Service {
    /// A host of a pair.
    Link = 1,
    /// A witness.
    Witness = 2,
}

/// Why no encrypted connection came about.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke.
    #[error("The connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
    /// Too slow.
    #[error("The other side did not complete the handshake in time")]
    TimedOut,
    /// Something else listens or dials there.
    #[error("The other side is not TwinRun; check the address")]
    Stranger,
    /// Another release.
    #[error(
        "The other side speaks wire version {theirs}, this host speaks {ours}; run the same release on both"
    )]
    Version {
        /// This program's version.
        ours: u16,
        /// The other's.
        theirs: u16,
    },
    /// A host was dialed instead of a witness, or the other way round.
    #[error("The addresses of a host and of a witness are mixed up; check the configuration")]
    Service,
    /// The secrets differ.
    #[error("The other side has another key; give both the same secret file")]
    WrongKey,
}

/// A chunk that cannot be opened: damaged, repeated or forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("An encrypted chunk cannot be opened; close the connection")]
pub struct Unreadable;

/// The sending half of an encrypted connection.
pub struct Sealer {
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Sealer {
    /// Appends `plain` to `out` as chunks.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        for piece in plain.chunks(PLAIN_MAX) {
            let start = out.len();
            let length = piece.len() + TAG_LEN;
            let prefix = u16::try_from(length).expect("a piece and its tag fit a chunk");
            out.extend_from_slice(&prefix.to_le_bytes());
            out.resize(start + 2 + length, 0);
            let sealed = self.state.write_message(self.nonce, piece, &mut out[start + 2..]);
            assert_eq!(sealed.ok(), Some(length), "a chunk of legal size can be sealed");
            self.nonce += 1;
        }
    }
}

/// The receiving half of an encrypted connection.
pub struct Opener {
    state: Arc<StatelessTransportState>,
    nonce: u64,
    plain: Vec<u8>,
}

impl Opener {
    /// Opens one chunk (without its length prefix).
    ///
    /// # Errors
    /// [`Unreadable`] when it is not the chunk that the other side sent next.
    pub fn open(&mut self, chunk: &[u8]) -> Result<&[u8], Unreadable> {
        let length = self.state.read_message(self.nonce, chunk, &mut self.plain).map_err(|_| Unreadable)?;
        self.nonce += 1;
        Ok(&self.plain[..length])
    }
}

/// The dialing side of the handshake.
///
/// # Errors
/// [`HandshakeError`]; the stream is of no further use then.
pub fn initiate(
    stream: &TcpStream,
    service: Service,
    secret: &Secret,
    deadline: Instant,
) -> Result<(Sealer, Opener), HandshakeError> {
    let greeting = greeting(service);
    let mut state = builder(&greeting, secret, Builder::build_initiator);
    let hello = write_hello(&mut state)?;
    write_all(stream, &[&greeting[..], &prefix(HELLO_LEN), &hello].concat(), deadline)?;

    check_greeting(&read_array(stream, deadline)?, service)?;
    let length = usize::from(u16::from_le_bytes(read_array(stream, deadline)?));
    if length == 0 {
        return Err(HandshakeError::WrongKey);
    }
    if length != HELLO_LEN {
        return Err(HandshakeError::Stranger);
    }
    let hello: [u8; HELLO_LEN] = read_array(stream, deadline)?;
    state.read_message(&hello, &mut []).map_err(|_| HandshakeError::WrongKey)?;
    Ok(halves(state))
}

/// The listening side of the handshake.
///
/// # Errors
/// [`HandshakeError`]; the stream is of no further use then, and the other side has been told why as far as
/// that is possible.
pub fn respond(
    stream: &TcpStream,
    service: Service,
    secret: &Secret,
    deadline: Instant,
) -> Result<(Sealer, Opener), HandshakeError> {
    let greeting = greeting(service);
    match check_greeting(&read_array(stream, deadline)?, service) {
        Ok(()) => {}
        Err(HandshakeError::Stranger) => return Err(HandshakeError::Stranger),
        Err(error) => {
            write_all(stream, &greeting, deadline)?;
            linger(stream, deadline);
            return Err(error);
        }
    }
    let length = usize::from(u16::from_le_bytes(read_array(stream, deadline)?));
    if length != HELLO_LEN {
        return Err(HandshakeError::Stranger);
    }
    let hello: [u8; HELLO_LEN] = read_array(stream, deadline)?;
    let mut state = builder(&greeting, secret, Builder::build_responder);
    if state.read_message(&hello, &mut []).is_err() {
        write_all(stream, &[&greeting[..], &prefix(0)].concat(), deadline)?;
        linger(stream, deadline);
        return Err(HandshakeError::WrongKey);
    }
    let hello = write_hello(&mut state)?;
    write_all(stream, &[&greeting[..], &prefix(HELLO_LEN), &hello].concat(), deadline)?;
    Ok(halves(state))
}

/// Ends the sending direction and reads what still comes, until the other side closes or `deadline`: a
/// socket that is closed with unread bytes would make the kernel destroy what was just sent.
pub(super) fn linger(stream: &TcpStream, deadline: Instant) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut rest = [0; 1024];
    let mut left = LINGER_BYTES;
    while left > 0 && wait_readable(stream, deadline).is_ok() {
        let mut reader = stream;
        match reader.read(&mut rest) {
            Ok(1..) => left = left.saturating_sub(rest.len()),
            _ => return,
        }
    }
}

fn greeting(service: Service) -> [u8; GREETING_LEN] {
    let mut bytes = [0; GREETING_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&WIRE_VERSION.to_le_bytes());
    bytes[6..].copy_from_slice(&(service as u16).to_le_bytes());
    bytes
}

fn check_greeting(bytes: &[u8; GREETING_LEN], service: Service) -> Result<(), HandshakeError> {
    let [m0, m1, m2, m3, v0, v1, s0, s1] = *bytes;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(HandshakeError::Stranger);
    }
    let theirs = u16::from_le_bytes([v0, v1]);
    if theirs != WIRE_VERSION {
        return Err(HandshakeError::Version { ours: WIRE_VERSION, theirs });
    }
    if u16::from_le_bytes([s0, s1]) != service as u16 {
        return Err(HandshakeError::Service);
    }
    Ok(())
}

fn builder<'a>(
    greeting: &'a [u8],
    secret: &'a Secret,
    build: impl FnOnce(Builder<'a>) -> Result<HandshakeState, snow::Error>,
) -> HandshakeState {
    let pattern = PATTERN.parse().expect("the pattern is valid");
    Builder::new(pattern)
        .prologue(greeting)
        .and_then(|builder| builder.psk(0, secret))
        .and_then(build)
        .expect("the pattern needs a prologue and one key")
}

fn write_hello(state: &mut HandshakeState) -> io::Result<[u8; HELLO_LEN]> {
    let mut hello = [0; HELLO_LEN];
    // It is this side's turn and the buffer fits: only the random number generator can fail.
    state.write_message(&[], &mut hello).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hello)
}

fn halves(state: HandshakeState) -> (Sealer, Opener) {
    let state = state.into_stateless_transport_mode().expect("the handshake is complete");
    let state = Arc::new(state);
    let opener = Opener { state: state.clone(), nonce: 0, plain: vec![0; CHUNK_MAX] };
    (Sealer { state, nonce: 0 }, opener)
}

fn prefix(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a hello is short").to_le_bytes()
}

/// Sets the read time limit to what is left until `deadline`.
pub(super) fn wait_readable(stream: &TcpStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))
}

/// Whether an error means that a socket's time limit passed.
pub(super) fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn read_array<const N: usize>(stream: &TcpStream, deadline: Instant) -> Result<[u8; N], HandshakeError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        wait_readable(stream, deadline).map_err(|_| HandshakeError::TimedOut)?;
        let mut reader = stream;
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if timed_out(&error) => return Err(HandshakeError::TimedOut),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// A hello is far smaller than an empty socket's buffer: this waits only if the connection is broken.
fn write_all(stream: &TcpStream, bytes: &[u8], deadline: Instant) -> Result<(), HandshakeError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(HandshakeError::TimedOut);
    }
    stream.set_write_timeout(Some(left))?;
    let mut writer = stream;
    writer
        .write_all(bytes)
        .map_err(|error| if timed_out(&error) { HandshakeError::TimedOut } else { HandshakeError::Io(error) })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;

    type Halves = Result<(Sealer, Opener), HandshakeError>;

    fn both(dialer: (Service, Secret), listener: (Service, Secret)) -> (Halves, Halves) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = socket.local_addr().expect("address");
        let deadline = Instant::now() + Duration::from_secs(5);
        let server = thread::spawn(move || {
            let (stream, _) = socket.accept().expect("accept");
            respond(&stream, listener.0, &listener.1, deadline)
        });
        let stream = TcpStream::connect(address).expect("connect");
        let client = initiate(&stream, dialer.0, &dialer.1, deadline);
        drop(stream);
        (client, server.join().expect("no panic"))
    }

    #[test]
    fn both_directions_carry_chunks_in_order_only() {
        let key = (Service::Link, [7; 32]);
        let (dialer, listener) = both(key, key);
        let ((mut seal_a, mut open_a), (mut seal_b, mut open_b)) = (dialer.expect("a"), listener.expect("b"));
        let plain = vec![5; PLAIN_MAX + 10];
        let mut sealed = Vec::new();
        seal_a.seal(&plain, &mut sealed);
        assert_eq!(sealed.len(), plain.len() + 2 * (2 + TAG_LEN));
        let (first, second) = sealed.split_at(2 + CHUNK_MAX);
        assert_eq!(open_b.open(&second[2..]), Err(Unreadable), "the second chunk before the first");
        assert_eq!(open_b.open(&first[2..]), Ok(&plain[..PLAIN_MAX]));
        assert_eq!(open_b.open(&first[2..]), Err(Unreadable), "the first chunk twice");
        assert_eq!(open_b.open(&second[2..]), Ok(&plain[..10]));
        sealed.clear();
        seal_b.seal(b"back", &mut sealed);
        assert_eq!(open_a.open(&sealed[2..]), Ok(&b"back"[..]));
        assert_eq!(open_a.open(&[]), Err(Unreadable));
    }

    #[test]
    fn another_key_is_named_on_both_sides() {
        let (dialer, listener) = both((Service::Link, [1; 32]), (Service::Link, [2; 32]));
        assert!(matches!(dialer.err(), Some(HandshakeError::WrongKey)));
        assert!(matches!(listener.err(), Some(HandshakeError::WrongKey)));
    }

    #[test]
    fn a_witness_is_no_host() {
        let (dialer, listener) = both((Service::Link, [1; 32]), (Service::Witness, [1; 32]));
        assert!(matches!(dialer.err(), Some(HandshakeError::Service)));
        assert!(matches!(listener.err(), Some(HandshakeError::Service)));
    }

    /// What the listener makes of these first bytes, and what it answers.
    fn greet(bytes: &[u8], limit: Duration) -> (Option<HandshakeError>, Vec<u8>) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut client = TcpStream::connect(socket.local_addr().expect("address")).expect("connect");
        let (stream, _) = socket.accept().expect("accept");
        client.write_all(bytes).expect("write");
        let server =
            thread::spawn(move || respond(&stream, Service::Link, &[1; 32], Instant::now() + limit).err());
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("an orderly end");
        drop(client);
        (server.join().expect("no panic"), answer)
    }

    #[test]
    fn another_version_is_named_on_both_sides() {
        let mut bytes = greeting(Service::Link);
        bytes[4] = 9;
        let (error, answer) = greet(&bytes, Duration::from_secs(5));
        assert!(
            matches!(error, Some(HandshakeError::Version { ours: WIRE_VERSION, theirs: 9 })),
            "{error:?}"
        );
        assert_eq!(answer, greeting(Service::Link));
    }

    #[test]
    fn a_silent_or_strange_dialer_is_dropped() {
        let (error, answer) = greet(b"TWRN", Duration::from_millis(50));
        assert!(matches!(error, Some(HandshakeError::TimedOut)), "{error:?}");
        assert_eq!(answer, b"");
        let (error, _) = greet(b"GET / HT", Duration::from_secs(5));
        assert!(matches!(error, Some(HandshakeError::Stranger)), "{error:?}");
    }
}
