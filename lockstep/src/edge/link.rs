//! Sessions with the other hosts of the pair: dialing, listening, sending.
//!
//! A session is two TCP connections with an encrypted handshake each: the log, which carries messages, and
//! the heartbeat. It is up on a side when both are. `slot` says which of several attempts counts.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use super::channel::{Channel, ReceiveError};
use super::hub::{Agreed, Hub};
use super::noise::{HandshakeError, Secret, Service};
use super::preface::{Preface, Purpose, Reply, printable};
use super::session::{FLUSH_LIMIT, QUEUE_MAX};
use super::threads::{Limiter, Listening, Permit};
use crate::arbiter::NAME_MAX;
use crate::codec;
use crate::message::Message;
use crate::wire::{FrameKind, MESSAGE_MAX};

/// How long a TCP connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// How long a handshake with its preface may take, and the heartbeat connection after the log connection.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);
/// Most connections that have not yet proved to know the secret.
const STRANGERS_MAX: usize = 16;
/// How long dropping the links waits for their threads beyond the flush.
const DROP_LIMIT: Duration = Duration::from_secs(1);

/// Another host of the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it listens; tried in turn.
    pub addrs: Vec<SocketAddr>,
}

/// What a host needs to know to link up.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Name of this host.
    pub host: String,
    /// Name of the pair.
    pub pair: String,
    /// The pair's secret.
    pub secret: Secret,
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// The other hosts that may become part of the pair.
    pub peers: Vec<Peer>,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Least time between two attempts to reach the same peer.
    pub redial: Duration,
}

impl std::fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret must not get into a journal.
        let Self { host, pair, listen, peers, .. } = self;
        write!(f, "LinkConfig({host:?}, {pair:?}, {listen:?}, {peers:?})")
    }
}

/// What the links report.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkEvent {
    /// A session is up. Reported before anything else about it, and after the end of the peer's last one.
    Up {
        /// Its number, never reused.
        session: u64,
        /// Name of the other host.
        peer: String,
        /// Whether this host dialed.
        dialed: bool,
    },
    /// A session is over: once per `Up`, and nothing about it follows.
    Down {
        /// Its number.
        session: u64,
    },
    /// A message came. None is reported after [`Links::close`].
    Message {
        /// Session.
        session: u64,
        /// The message.
        message: Message,
    },
    /// A heartbeat came.
    Heard {
        /// Session.
        session: u64,
    },
    /// A connection was refused, by this host or by the other one, or a session broke the rules. The same
    /// reason is not repeated within 5 s.
    Refused {
        /// Name of the peer, or its IP address when it did not get as far as telling its name.
        peer: String,
        /// For this host's operator.
        why: String,
    },
}

/// Why the links cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LinkStartError {
    /// A mistake in the configuration.
    #[error("The link's configuration is wrong: {0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error("Cannot listen on {addr}: {source}. Is another twinrun running, or the address not this host's?")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// No thread can be started.
    #[error("Cannot start the link's threads: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no such session, or it is over or being closed.
    #[error("The session is closed")]
    Closed,
    /// The session stays up, the message is not sent.
    #[error("A message of {0} bytes is larger than the {MESSAGE_MAX} allowed; split it")]
    TooLong(usize),
    /// The other side takes too little: the session is being ended and `Down` follows.
    #[error("More than {QUEUE_MAX} bytes wait for the other host; the session is closed")]
    Full,
}

/// Traffic since the start, in bytes above TCP, encryption and heartbeats included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// To the other hosts.
    pub bytes_sent: u64,
    /// From the other hosts.
    pub bytes_received: u64,
}

/// A host's links. Dropping them closes every session as [`Links::close`] does and ends every thread.
pub struct Links {
    hub: Arc<Hub>,
    listening: Vec<Listening>,
}

impl Links {
    /// Listens; dials nobody until [`dial`](Self::dial).
    ///
    /// # Errors
    /// [`LinkStartError`] when the configuration, an address or a thread does not allow it.
    pub fn start(config: LinkConfig, events: Sender<LinkEvent>) -> Result<Self, LinkStartError> {
        let listeners = config
            .listen
            .iter()
            .map(|&addr| TcpListener::bind(addr).map_err(|source| LinkStartError::Listen { addr, source }))
            .collect::<Result<_, _>>()?;
        Self::start_on(config, listeners, events)
    }

    /// As [`start`](Self::start), on sockets that listen already; `config.listen` is not used.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_on(
        config: LinkConfig,
        listeners: Vec<TcpListener>,
        events: Sender<LinkEvent>,
    ) -> Result<Self, LinkStartError> {
        check(&config).map_err(LinkStartError::Config)?;
        let hub = Arc::new(Hub::new(config, events));
        // From here on, an early return drops the links and ends what was started.
        let mut links = Self { hub: hub.clone(), listening: Vec::new() };
        let strangers = Limiter::new(STRANGERS_MAX);
        for listener in listeners {
            let (hub, strangers) = (hub.clone(), strangers.clone());
            let threads = hub.threads.clone();
            let each = move |stream| admit(&hub, &strangers, stream);
            links.listening.push(Listening::start(listener, &threads, each)?);
        }
        for peer in hub.config.peers.clone() {
            let dialer = hub.clone();
            hub.threads.spawn("link-dial", move || dial_loop(&dialer, &peer))?;
        }
        Ok(links)
    }

    /// The addresses that are listened on, with the ports that the system chose for port 0.
    #[must_use]
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.iter().map(Listening::address).collect()
    }

    /// While on: every peer without a session is dialed, again and again.
    pub fn dial(&self, on: bool) {
        self.hub.dial(on);
    }

    /// Queues a message. Never blocks.
    ///
    /// # Errors
    /// [`SendError`]; the message is not sent then.
    pub fn send(&self, session: u64, message: &Message) -> Result<(), SendError> {
        self.hub.session(session).ok_or(SendError::Closed)?.send(message)
    }

    /// Closes a session once what is queued has been sent, at the latest after 500 ms. `Down` follows. Does
    /// not wait, and a new session with the same peer may come up meanwhile.
    pub fn close(&self, session: u64) {
        self.hub.close(session);
    }

    /// Traffic so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        LinkCounters {
            bytes_sent: self.hub.counters.sent.load(Ordering::Relaxed),
            bytes_received: self.hub.counters.received.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.hub.stop();
        for listening in &self.listening {
            listening.stop();
        }
        if !self.hub.threads.wait(FLUSH_LIMIT + DROP_LIMIT) {
            tracing::warn!("a thread of the link did not end in time");
        }
    }
}

fn check(config: &LinkConfig) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for name in config.peers.iter().map(|peer| &peer.name).chain([&config.host, &config.pair]) {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(format!("the name {name:?} must have 1 to {NAME_MAX} bytes"));
        }
    }
    for name in config.peers.iter().map(|peer| &peer.name).chain([&config.host]) {
        if !names.insert(name) {
            return Err(format!("two hosts are called {name:?}"));
        }
    }
    if config.heartbeat.is_zero() {
        return Err("the time between two heartbeats must not be 0".to_owned());
    }
    Ok(())
}

/// Why a dialed attempt came to nothing.
enum DialEnd {
    /// Nobody there, or the connection broke.
    Failed,
    /// Another session comes first.
    Later,
    /// The operator should know.
    Refused(String),
}

impl From<std::io::Error> for DialEnd {
    fn from(_: std::io::Error) -> Self {
        Self::Failed
    }
}

impl From<HandshakeError> for DialEnd {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(_) | HandshakeError::TimedOut => Self::Failed,
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<ReceiveError> for DialEnd {
    fn from(error: ReceiveError) -> Self {
        if error.is_fault() { Self::Refused(error.to_string()) } else { Self::Failed }
    }
}

fn dial_loop(hub: &Arc<Hub>, peer: &Peer) {
    let mut first = 0;
    let mut due = Instant::now();
    while hub.wait_to_dial(&peer.name, due) {
        due = Instant::now() + hub.config.redial;
        for offset in 0..peer.addrs.len() {
            let index = (first + offset) % peer.addrs.len();
            let addr = peer.addrs[index];
            match dial(hub, peer, addr) {
                Ok(()) => {
                    first = index;
                    break;
                }
                Err(DialEnd::Failed) => {}
                Err(DialEnd::Later) => break,
                Err(DialEnd::Refused(why)) => hub.refused(&peer.name, &format!("{addr}: {why}")),
            }
        }
        // Not more often than that, and always with a rest after an attempt that took longer.
        due = due.max(Instant::now() + hub.config.redial / 4);
    }
}

fn dial(hub: &Arc<Hub>, peer: &Peer, addr: SocketAddr) -> Result<(), DialEnd> {
    let log = connect(hub, addr)?;
    let token = rand::random();
    let ended = hub.offer(&peer.name, token).ok_or(DialEnd::Later)?;
    let result = complete(hub, peer, addr, log, token, ended);
    if result.is_err() {
        hub.give_up(&peer.name, token);
    }
    result
}

/// The offered part of an attempt.
fn complete(
    hub: &Arc<Hub>,
    peer: &Peer,
    addr: SocketAddr,
    mut log: Channel,
    token: u128,
    ended: u128,
) -> Result<(), DialEnd> {
    let mut preface = Preface {
        purpose: Purpose::Log,
        pair: hub.config.pair.clone(),
        host: hub.config.host.clone(),
        instance: hub.instance,
        token,
        ended,
    };
    let instance = introduce(hub, peer, &mut log, &preface)?;
    let mut heartbeat = connect(hub, addr)?;
    preface.purpose = Purpose::Heartbeat;
    if introduce(hub, peer, &mut heartbeat, &preface)? != instance {
        return Err(DialEnd::Failed);
    }
    let agreed = Agreed { peer: &peer.name, token, instance, dialed: true, log, heartbeat };
    if hub.go_live(agreed, |_| Ok(())) { Ok(()) } else { Err(DialEnd::Later) }
}

fn connect(hub: &Hub, addr: SocketAddr) -> Result<Channel, DialEnd> {
    let stream = TcpStream::connect_timeout(&addr, CONNECT_LIMIT)?;
    let _opening = hub.open(&stream).ok_or(DialEnd::Failed)?;
    let deadline = Instant::now() + HANDSHAKE_LIMIT;
    Ok(Channel::dialed(stream, Service::Link, &hub.config.secret, deadline, &hub.counters)?)
}

/// Sends a preface; the peer's instance if it is welcome.
fn introduce(hub: &Hub, peer: &Peer, channel: &mut Channel, preface: &Preface) -> Result<u128, DialEnd> {
    let handle = channel.handle()?;
    let _opening = hub.open(&handle).ok_or(DialEnd::Failed)?;
    let deadline = Instant::now() + HANDSHAKE_LIMIT;
    channel.sender.send_by(FrameKind::Preface, &codec::encode(preface), deadline)?;
    let reply = match channel.receiver.next_by(deadline)? {
        (FrameKind::Reply, payload) => codec::decode(&payload),
        (kind, _) => return Err(DialEnd::Refused(format!("a frame of kind {kind:?} instead of a reply"))),
    };
    match reply.map_err(|error| DialEnd::Refused(error.to_string()))? {
        Reply::Later => Err(DialEnd::Later),
        Reply::Refused { why } => Err(DialEnd::Refused(printable(&why))),
        Reply::Accepted { host, instance } if host == peer.name => Ok(instance),
        Reply::Accepted { host, .. } => {
            let host = printable(&host);
            Err(DialEnd::Refused(format!("host {host:?} answers there; check the addresses")))
        }
    }
}

/// Takes a connection that came in, unless too many strangers are there already.
fn admit(hub: &Arc<Hub>, strangers: &Limiter, stream: TcpStream) {
    let Some(permit) = strangers.take() else {
        tracing::debug!("too many connections that have not proved to know the secret: one is dropped");
        return;
    };
    let of = hub.clone();
    if let Err(error) = hub.threads.spawn("link-admit", move || welcome(&of, stream, permit)) {
        tracing::warn!(%error, "cannot start a thread for a connection");
    }
}

/// Reads the preface of a connection and answers it.
fn welcome(hub: &Arc<Hub>, stream: TcpStream, permit: Permit) {
    let Ok(from) = stream.peer_addr().map(Hub::name_of) else { return };
    let Some(opening) = hub.open(&stream) else { return };
    let deadline = Instant::now() + HANDSHAKE_LIMIT;
    let (channel, preface) = match identify(hub, stream, deadline) {
        Ok(known) => known,
        Err(DialEnd::Refused(why)) => return hub.refused(&from, &why),
        Err(DialEnd::Failed | DialEnd::Later) => return,
    };
    drop(permit);
    let config = &hub.config;
    let peers = config.peers.iter().map(|peer| peer.name.as_str());
    if let Err(why) = preface.check(&config.pair, &config.host, peers) {
        hub.refused(&from, &why);
        let reply = codec::encode(&Reply::Refused { why });
        return channel.farewell(FrameKind::Reply, &reply, deadline);
    }
    match preface.purpose {
        Purpose::Log => take_log(hub, channel, &preface, deadline),
        Purpose::Heartbeat => take_heartbeat(hub, channel, &preface, deadline),
    }
    drop(opening);
}

fn identify(hub: &Hub, stream: TcpStream, deadline: Instant) -> Result<(Channel, Preface), DialEnd> {
    let secret = &hub.config.secret;
    let mut channel = Channel::accepted(stream, Service::Link, secret, deadline, &hub.counters)?;
    let preface = match channel.receiver.next_by(deadline)? {
        (FrameKind::Preface, payload) => codec::decode(&payload),
        (kind, _) => return Err(DialEnd::Refused(format!("a frame of kind {kind:?} instead of a preface"))),
    };
    Ok((channel, preface.map_err(|error| DialEnd::Refused(error.to_string()))?))
}

/// An offered session: waits for its heartbeat connection.
fn take_log(hub: &Arc<Hub>, mut log: Channel, preface: &Preface, deadline: Instant) {
    let (give, waiting) = bounded(1);
    if !hub.offered(preface, give) {
        return log.farewell(FrameKind::Reply, &codec::encode(&Reply::Later), deadline);
    }
    let accepted = codec::encode(&Reply::Accepted { host: hub.config.host.clone(), instance: hub.instance });
    let sent = log.sender.send_by(FrameKind::Reply, &accepted, deadline);
    let heartbeat = sent.ok().and_then(|()| waiting.recv_timeout(HANDSHAKE_LIMIT).ok());
    let Some(heartbeat) = heartbeat else {
        return hub.give_up(&preface.host, preface.token);
    };
    let (peer, token, instance) = (&preface.host, preface.token, preface.instance);
    let agreed = Agreed { peer, token, instance, dialed: false, log, heartbeat };
    let deadline = Instant::now() + HANDSHAKE_LIMIT;
    hub.go_live(agreed, |parts| parts.heartbeat().send_by(FrameKind::Reply, &accepted, deadline));
}

/// The heartbeat connection of a session that another thread waits with.
fn take_heartbeat(hub: &Hub, channel: Channel, preface: &Preface, deadline: Instant) {
    let back = match hub.waiting(preface) {
        Some(waiting) => waiting.try_send(channel).err().map(crossbeam_channel::TrySendError::into_inner),
        None => Some(channel),
    };
    if let Some(channel) = back {
        channel.farewell(FrameKind::Reply, &codec::encode(&Reply::Later), deadline);
    }
}

#[cfg(test)]
mod tests;
