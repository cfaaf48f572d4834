//! The witness's server.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::store::{Store, StoreError};
use crate::arbiter::Ask;
use crate::codec;
use crate::edge::channel::{Channel, Counters, ReceiveError};
use crate::edge::noise::{Secret, Service};
use crate::edge::threads::{Limiter, Listening, Permit, Threads, lock};
use crate::wire::FrameKind;

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Most connections that have not yet proved to know the secret.
const STRANGERS_MAX: usize = 16;
/// How long a handshake and the first frame may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);
/// How long a connection may be silent. Clients send a sign of life every second.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long sending an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long a stopping witness waits for its threads.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What a witness needs to know.
pub struct WitnessConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The secret that it shares with the hosts.
    pub secret: Secret,
    /// Its state file. Two more files are kept beside it: `.lock` and, for a moment, `.new`.
    pub state: PathBuf,
}

/// Why a witness cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error(
        "Cannot listen on {addr}: {source}. Is another witness running, or the address not this machine's?"
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

struct Server {
    secret: Secret,
    store: Mutex<Store>,
    counters: Arc<Counters>,
    strangers: Limiter,
    connections: Limiter,
    /// `None` once the witness stops.
    open: Mutex<Option<BTreeMap<u64, TcpStream>>>,
    threads: Arc<Threads>,
}

/// A running witness. Dropping it ends its threads and releases its state file.
pub struct Witness {
    server: Arc<Server>,
    listening: Listening,
}

/// Starts a witness.
///
/// # Errors
/// [`WitnessError`] when its state cannot be used or its address not be listened on.
pub fn serve(config: WitnessConfig) -> Result<Witness, WitnessError> {
    let WitnessConfig { listen, secret, state } = config;
    let store = Store::open(&state)?;
    let failed = |source| WitnessError::Listen { addr: listen, source };
    let listener = TcpListener::bind(listen).map_err(failed)?;
    let server = Arc::new(Server {
        secret,
        store: Mutex::new(store),
        counters: Arc::default(),
        strangers: Limiter::new(STRANGERS_MAX),
        connections: Limiter::new(CONNECTIONS_MAX),
        open: Mutex::new(Some(BTreeMap::new())),
        threads: Arc::default(),
    });
    let of = server.clone();
    let listening =
        Listening::start(listener, &server.threads, move |stream| of.admit(stream)).map_err(failed)?;
    Ok(Witness { server, listening })
}

impl Witness {
    /// Where it listens, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.listening.stop();
        for stream in lock(&self.server.open).take().unwrap_or_default().values() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if !self.server.threads.wait(STOP_LIMIT) {
            tracing::warn!("a thread of the witness did not end in time");
        }
    }
}

impl Server {
    fn admit(self: &Arc<Self>, stream: TcpStream) {
        let (Some(permit), Some(stranger)) = (self.connections.take(), self.strangers.take()) else {
            tracing::debug!("too many connections: one is dropped");
            return;
        };
        let server = self.clone();
        let talk = move || {
            let Ok(id) = server.enter(&stream) else { return };
            server.talk(stream, stranger);
            if let Some(open) = lock(&server.open).as_mut() {
                open.remove(&id);
            }
            drop(permit);
        };
        if let Err(error) = self.threads.spawn("witness", talk) {
            tracing::warn!(%error, "cannot start a thread for a connection");
        }
    }

    /// Registers a connection, so that stopping ends it.
    fn enter(&self, stream: &TcpStream) -> io::Result<u64> {
        let stream = stream.try_clone()?;
        let mut open = lock(&self.open);
        let open = open.as_mut().ok_or(io::ErrorKind::ConnectionAborted)?;
        let id = open.last_key_value().map_or(0, |(id, _)| id + 1);
        open.insert(id, stream);
        Ok(id)
    }

    /// One connection, to its end.
    fn talk(&self, stream: TcpStream, stranger: Permit) {
        let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |addr| addr.to_string());
        let deadline = Instant::now() + HANDSHAKE_LIMIT;
        let accepted = Channel::accepted(stream, Service::Witness, &self.secret, deadline, &self.counters);
        let mut channel = match accepted {
            Ok(channel) => channel,
            Err(error) => return tracing::warn!(from, %error, "a connection is refused"),
        };
        // Only whoever knows the secret can send a first frame: the handshake alone could be a recording.
        let first = channel.receiver.next_by(deadline);
        drop(stranger);
        let mut next = first;
        loop {
            let end = match next {
                Ok((kind, payload)) => self.reply(&mut channel, kind, &payload),
                Err(error) => Err(error),
            };
            if let Err(error) = end {
                return tracing::debug!(from, %error, "a connection ends");
            }
            next = channel.receiver.next_by(Instant::now() + IDLE_LIMIT);
        }
    }

    fn reply(&self, channel: &mut Channel, kind: FrameKind, payload: &[u8]) -> Result<(), ReceiveError> {
        let (kind, answer) = match kind {
            FrameKind::Heartbeat => (FrameKind::Heartbeat, Vec::new()),
            FrameKind::Ask => (FrameKind::Answer, self.answer(payload)?),
            _ => return Err(io::Error::other("a frame that is no question").into()),
        };
        Ok(channel.sender.send_by(kind, &answer, Instant::now() + ANSWER_LIMIT)?)
    }

    fn answer(&self, payload: &[u8]) -> io::Result<Vec<u8>> {
        let ask: Ask = codec::decode(payload).map_err(io::Error::other)?;
        let answer = lock(&self.store).answer(&ask).inspect_err(|error| {
            tracing::error!(%error, "cannot make a record durable: the question is not answered");
        })?;
        Ok(codec::encode(&answer))
    }
}
