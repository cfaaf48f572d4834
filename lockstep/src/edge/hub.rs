//! What all threads of a host's links share: who is live, who is dialed, what is reported.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::channel::{Channel, Counters};
use super::link::{LinkConfig, LinkEvent};
use super::preface::Preface;
use super::session::{FLUSH_LIMIT, Parts, Session};
use super::slot::{Offer, Slot};
use super::threads::{Threads, lock};

/// How often a report to a full channel looks up whether the links are being dropped.
const REPORT_LOOKUP: Duration = Duration::from_millis(100);
/// The same refusal of the same peer is reported again after this time.
const REFUSAL_REST: Duration = Duration::from_secs(5);
/// Most peers and addresses whose last refusal is remembered.
const REFUSALS_MAX: usize = 64;

/// Where events go.
pub(super) struct Events {
    sender: Sender<LinkEvent>,
    stopping: AtomicBool,
}

impl Events {
    /// Reports, and waits while the channel is full unless the links are being dropped.
    pub(super) fn report(&self, mut event: LinkEvent) {
        loop {
            match self.sender.send_timeout(event, REPORT_LOOKUP) {
                Err(SendTimeoutError::Timeout(back)) if !self.stopping.load(Ordering::SeqCst) => event = back,
                Ok(()) | Err(_) => return,
            }
        }
    }
}

/// Whoever waits for the heartbeat connection of an accepted session.
pub(super) type Waiting = Sender<Channel>;

struct State {
    stopping: bool,
    dialing: bool,
    next_id: u64,
    slots: BTreeMap<String, Slot<Waiting>>,
    /// From up until `Down` was reported.
    sessions: BTreeMap<u64, Arc<Session>>,
    /// Connections that are no session yet.
    openings: BTreeMap<u64, TcpStream>,
    refusals: BTreeMap<String, (String, Instant)>,
}

/// The shared state of a host's links.
pub(super) struct Hub {
    pub(super) config: LinkConfig,
    /// Random, one per start.
    pub(super) instance: u128,
    pub(super) events: Events,
    pub(super) counters: Arc<Counters>,
    pub(super) threads: Arc<Threads>,
    state: Mutex<State>,
    /// Notified when a dialing thread may have something to do.
    changed: Condvar,
}

/// Registers a connection while it is no session yet, so that dropping the links ends it.
pub(super) struct Opening<'a> {
    hub: &'a Hub,
    id: u64,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        lock(&self.hub.state).openings.remove(&self.id);
    }
}

/// A session that was offered and accepted; both connections are there.
pub(super) struct Agreed<'a> {
    pub(super) peer: &'a str,
    pub(super) token: u128,
    /// The peer's instance.
    pub(super) instance: u128,
    pub(super) dialed: bool,
    pub(super) log: Channel,
    pub(super) heartbeat: Channel,
}

impl Hub {
    pub(super) fn new(config: LinkConfig, sender: Sender<LinkEvent>) -> Self {
        let slots =
            config.peers.iter().map(|peer| (peer.name.clone(), Slot::new(config.host < peer.name))).collect();
        let state = State {
            stopping: false,
            dialing: false,
            next_id: 1,
            slots,
            sessions: BTreeMap::new(),
            openings: BTreeMap::new(),
            refusals: BTreeMap::new(),
        };
        Self {
            config,
            instance: rand::random(),
            events: Events { sender, stopping: AtomicBool::new(false) },
            counters: Arc::default(),
            threads: Arc::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn session(&self, id: u64) -> Option<Arc<Session>> {
        lock(&self.state).sessions.get(&id).cloned()
    }

    pub(super) fn dial(&self, on: bool) {
        lock(&self.state).dialing = on;
        self.changed.notify_all();
    }

    /// Waits until `peer` should be dialed, not before `due`. `false`: the links are being dropped.
    pub(super) fn wait_to_dial(&self, peer: &str, due: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if !state.wants(peer) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if left.is_zero() {
                return true;
            } else {
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Registers a connection. `None`: the links are being dropped.
    pub(super) fn open(&self, stream: &TcpStream) -> Option<Opening<'_>> {
        let stream = stream.try_clone().ok()?;
        let mut state = lock(&self.state);
        if state.stopping {
            return None;
        }
        let id = state.new_id();
        state.openings.insert(id, stream);
        Some(Opening { hub: self, id })
    }

    /// This host is about to offer a session. `Some`: it may; the newest token that is over.
    pub(super) fn offer(&self, peer: &str, token: u128) -> Option<u128> {
        let mut state = lock(&self.state);
        let wanted = state.wants(peer);
        let slot = state.slots.get_mut(peer)?;
        (wanted && slot.offer(token)).then(|| slot.ended())
    }

    /// The peer offers a session.
    pub(super) fn offered(&self, preface: &Preface, waiting: Waiting) -> bool {
        let mut state = lock(&self.state);
        if state.stopping {
            return false;
        }
        let Some(slot) = state.slots.get_mut(&preface.host) else { return false };
        match slot.offered(preface, waiting) {
            Offer::Later => false,
            Offer::Take { replaces } => {
                if let Some(old) = replaces.and_then(|id| state.sessions.get(&id)) {
                    old.abort();
                }
                true
            }
        }
    }

    /// Who waits for the heartbeat connection of this session.
    pub(super) fn waiting(&self, preface: &Preface) -> Option<Waiting> {
        let state = lock(&self.state);
        state.slots.get(&preface.host)?.heartbeat(preface.token).cloned()
    }

    /// An attempt failed.
    pub(super) fn give_up(&self, peer: &str, token: u128) {
        if let Some(slot) = lock(&self.state).slots.get_mut(peer) {
            slot.end(token);
        }
        self.changed.notify_all();
    }

    /// Makes an agreed session live; `welcome` runs before it is reported. Whether it came up.
    pub(super) fn go_live(
        self: &Arc<Self>,
        agreed: Agreed<'_>,
        welcome: impl FnOnce(&mut Parts) -> std::io::Result<()>,
    ) -> bool {
        let Agreed { peer, token, instance, dialed, log, heartbeat } = agreed;
        let id = lock(&self.state).new_id();
        let Ok((session, mut parts)) = Session::new(id, peer, token, log, heartbeat) else {
            self.give_up(peer, token);
            return false;
        };
        let Some(old) = self.enter(&session, instance, dialed) else { return false };
        for session in old {
            // What is reported about the peer's last session comes before this one.
            session.abort();
            session.wait_over(FLUSH_LIMIT);
        }
        if let Err(error) = welcome(&mut parts) {
            tracing::debug!(%error, peer, "cannot complete a session");
            session.discard(self);
            return false;
        }
        self.events.report(LinkEvent::Up { session: id, peer: peer.to_owned(), dialed });
        session.start(self, parts);
        true
    }

    /// Enters a session. Answers the peer's older ones that are not over yet, or `None` when this one no
    /// longer counts.
    fn enter(&self, session: &Arc<Session>, instance: u128, dialed: bool) -> Option<Vec<Arc<Session>>> {
        let mut state = lock(&self.state);
        if state.stopping || (dialed && !state.dialing) {
            return None;
        }
        if !state.slots.get_mut(&session.peer)?.go_live(session.token, instance, session.id) {
            return None;
        }
        state.refusals.remove(&session.peer);
        let old = state.sessions.values().filter(|old| old.peer == session.peer).cloned().collect();
        state.sessions.insert(session.id, session.clone());
        Some(old)
    }

    /// The session is closed: the next one may come up while this one is still flushed.
    pub(super) fn close(&self, id: u64) {
        let mut state = lock(&self.state);
        let Some(session) = state.sessions.get(&id).cloned() else { return };
        if let Some(slot) = state.slots.get_mut(&session.peer) {
            slot.end(session.token);
        }
        drop(state);
        session.close();
        self.changed.notify_all();
    }

    /// The session is over and reported.
    pub(super) fn forget(&self, session: &Session) {
        let mut state = lock(&self.state);
        state.sessions.remove(&session.id);
        if let Some(slot) = state.slots.get_mut(&session.peer) {
            slot.end(session.token);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Reports a refusal, unless the same was reported a moment ago.
    pub(super) fn refused(&self, peer: &str, why: &str) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if let Some((last, at)) = state.refusals.get(peer)
            && last == why
            && now.duration_since(*at) < REFUSAL_REST
        {
            return;
        }
        if state.refusals.len() >= REFUSALS_MAX {
            state.refusals.clear();
        }
        state.refusals.insert(peer.to_owned(), (why.to_owned(), now));
        drop(state);
        self.events.report(LinkEvent::Refused { peer: peer.to_owned(), why: why.to_owned() });
    }

    /// Ends everything; live sessions may still flush.
    pub(super) fn stop(&self) {
        self.events.stopping.store(true, Ordering::SeqCst);
        let mut state = lock(&self.state);
        state.stopping = true;
        state.dialing = false;
        for stream in state.openings.values() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Whoever waits for a heartbeat connection finds its channel closed.
        state.slots.clear();
        let sessions: Vec<_> = state.sessions.values().cloned().collect();
        drop(state);
        self.changed.notify_all();
        for session in sessions {
            session.close();
        }
    }

    /// The name under which a refused connection is reported.
    pub(super) fn name_of(address: SocketAddr) -> String {
        address.ip().to_string()
    }
}

impl State {
    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn wants(&self, peer: &str) -> bool {
        self.dialing && self.slots.get(peer).is_some_and(Slot::is_free)
    }
}
