//! One session: a log connection and a heartbeat connection, four threads.
//!
//! Only the thread that reads the log reports `Down`, as its last act. Whoever else finds the session broken
//! shuts both sockets down; Linux then still hands out what had arrived before the end, so nothing that
//! reached this host is lost.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::channel::{Channel, FrameReceiver, FrameSender, ReceiveError};
use super::hub::Hub;
use super::link::{LinkEvent, SendError};
use super::threads::{Latch, lock};
use crate::codec::{self, DecodeError};
use crate::message::Message;
use crate::wire::{FrameKind, HEADER_LEN, MESSAGE_MAX};

/// Most bytes that may wait for the network.
pub(super) const QUEUE_MAX: usize = 32 << 20;
/// How long a closed session may take to send what waits.
pub(super) const FLUSH_LIMIT: Duration = Duration::from_millis(500);
/// Frames are joined into one write up to this size.
const BATCH: usize = 256 << 10;

/// An order to the writing thread.
enum Order {
    Send(Vec<u8>),
    /// Nothing follows.
    Close,
}

/// A session that is or was up.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) peer: String,
    pub(super) token: u128,
    log: TcpStream,
    heartbeat: TcpStream,
    orders: Sender<Order>,
    /// Bytes that the writing thread has not sent yet.
    queued: AtomicUsize,
    /// Set by `close`: when to give up flushing.
    close_by: OnceLock<Instant>,
    /// Whether `Down` was reported: nothing is reported after it.
    down: Mutex<bool>,
    /// Opens after `Down` was reported.
    over: Latch,
}

/// What the threads of a new session work with.
pub(super) struct Parts {
    log: Channel,
    heartbeat: Channel,
    orders: Receiver<Order>,
}

impl Parts {
    pub(super) fn heartbeat(&mut self) -> &mut FrameSender {
        &mut self.heartbeat.sender
    }
}

impl Session {
    pub(super) fn new(
        id: u64,
        peer: &str,
        token: u128,
        log: Channel,
        heartbeat: Channel,
    ) -> io::Result<(Arc<Self>, Parts)> {
        log.receiver.wait_for_ever()?;
        heartbeat.receiver.wait_for_ever()?;
        let (sender, orders) = unbounded();
        let session = Self {
            id,
            peer: peer.to_owned(),
            token,
            log: log.handle()?,
            heartbeat: heartbeat.handle()?,
            orders: sender,
            queued: AtomicUsize::new(0),
            close_by: OnceLock::new(),
            down: Mutex::new(false),
            over: Latch::default(),
        };
        Ok((Arc::new(session), Parts { log, heartbeat, orders }))
    }

    /// Starts the threads. Must follow the report that the session is up.
    pub(super) fn start(self: &Arc<Self>, hub: &Arc<Hub>, parts: Parts) {
        let Parts { log, heartbeat, orders } = parts;
        let (session, of) = (self.clone(), hub.clone());
        let reader = hub.threads.spawn("link-read", move || session.read_log(&of, log.receiver));
        if let Err(error) = reader {
            tracing::error!(%error, "cannot start a thread for the link");
            self.finish(hub);
            return;
        }
        let session = self.clone();
        let writer = hub.threads.spawn("link-write", move || session.write_log(log.sender, &orders));
        let (session, of) = (self.clone(), hub.clone());
        let listener =
            hub.threads.spawn("heart-read", move || session.read_heartbeats(&of, heartbeat.receiver));
        let (session, every) = (self.clone(), hub.config.heartbeat);
        let beater = hub.threads.spawn("heart-beat", move || session.beat(every, heartbeat.sender));
        if let Err(error) = writer.and(listener).and(beater) {
            tracing::error!(%error, "cannot start a thread for the link");
            self.abort();
        }
    }

    /// Queues a message.
    pub(super) fn send(&self, message: &Message) -> Result<(), SendError> {
        if self.close_by.get().is_some() {
            return Err(SendError::Closed);
        }
        let bytes = codec::encode(message);
        if bytes.len() > MESSAGE_MAX {
            return Err(SendError::TooLong(bytes.len()));
        }
        let weight = bytes.len() + HEADER_LEN;
        if self.queued.fetch_add(weight, Ordering::Relaxed) + weight > QUEUE_MAX {
            self.abort();
            return Err(SendError::Full);
        }
        self.orders.send(Order::Send(bytes)).map_err(|_| SendError::Closed)
    }

    /// Ends the session after what is queued, or after [`FLUSH_LIMIT`]. Does not wait.
    pub(super) fn close(&self) {
        if self.close_by.set(Instant::now() + FLUSH_LIMIT).is_ok() {
            // Without a writing thread the session is over already.
            let _ = self.orders.send(Order::Close);
        }
    }

    /// Ends the session at once.
    pub(super) fn abort(&self) {
        // Either socket may be closed already.
        let _ = self.log.shutdown(Shutdown::Both);
        let _ = self.heartbeat.shutdown(Shutdown::Both);
    }

    /// Waits until the end was reported, at most `limit`.
    pub(super) fn wait_over(&self, limit: Duration) {
        self.over.wait_until(Instant::now() + limit);
    }

    /// Takes back a session that was never reported.
    pub(super) fn discard(&self, hub: &Hub) {
        self.abort();
        hub.forget(self);
        self.over.open();
    }

    /// Reports the end. Called once, by the thread that reads the log or in its stead.
    pub(super) fn finish(&self, hub: &Hub) {
        self.abort();
        {
            let mut down = lock(&self.down);
            *down = true;
            hub.events.report(LinkEvent::Down { session: self.id });
        }
        hub.forget(self);
        self.over.open();
        // Wakes the writing thread, if it waits for orders.
        let _ = self.orders.send(Order::Close);
    }

    fn read_log(&self, hub: &Hub, mut receiver: FrameReceiver) {
        let error = loop {
            if let Err(error) = self.deliver(hub, &mut receiver) {
                break error;
            }
            if let Err(error) = receiver.read_more() {
                break Fault::Receive(error);
            }
        };
        self.explain(hub, &error);
        self.finish(hub);
    }

    fn deliver(&self, hub: &Hub, receiver: &mut FrameReceiver) -> Result<(), Fault> {
        while let Some(frame) = receiver.buffered()? {
            if frame.kind != FrameKind::Message {
                return Err(Fault::Kind(frame.kind));
            }
            let message = codec::decode(frame.payload)?;
            if self.close_by.get().is_none() {
                hub.events.report(LinkEvent::Message { session: self.id, message });
            }
        }
        Ok(())
    }

    fn read_heartbeats(&self, hub: &Hub, mut receiver: FrameReceiver) {
        let error = loop {
            if let Err(error) = self.hear(hub, &mut receiver) {
                break error;
            }
            if let Err(error) = receiver.read_more() {
                break Fault::Receive(error);
            }
        };
        self.explain(hub, &error);
        self.abort();
    }

    fn hear(&self, hub: &Hub, receiver: &mut FrameReceiver) -> Result<(), Fault> {
        while let Some(frame) = receiver.buffered()? {
            if frame.kind != FrameKind::Heartbeat {
                return Err(Fault::Kind(frame.kind));
            }
            let down = lock(&self.down);
            if !*down {
                hub.events.report(LinkEvent::Heard { session: self.id });
            }
        }
        Ok(())
    }

    /// Tells the operator when the other side sent something wrong; a plain end is no news.
    fn explain(&self, hub: &Hub, fault: &Fault) {
        let (session, peer) = (self.id, &self.peer);
        tracing::info!(session, peer, %fault, "link connection ends");
        let wrong = match fault {
            Fault::Receive(error) => error.is_fault(),
            Fault::Kind(_) | Fault::Decode(_) => true,
        };
        if wrong {
            hub.refused(peer, &fault.to_string());
        }
    }

    fn write_log(&self, mut sender: FrameSender, orders: &Receiver<Order>) {
        // An error here also ends the reader, which reports it.
        match self.send_orders(&mut sender, orders) {
            Ok(()) => self.part(),
            Err(error) => tracing::debug!(%error, session = self.id, "cannot write to the link"),
        }
        self.abort();
    }

    /// Sends until the session is closed and everything before that has left.
    fn send_orders(&self, sender: &mut FrameSender, orders: &Receiver<Order>) -> io::Result<()> {
        let mut next = orders.recv().ok();
        loop {
            let mut weight = 0;
            while let Some(Order::Send(bytes)) = next {
                sender.add(FrameKind::Message, &bytes).map_err(io::Error::other)?;
                weight += bytes.len() + HEADER_LEN;
                next = None;
                if sender.waiting() < BATCH {
                    next = orders.try_recv().ok();
                }
            }
            sender.flush(|| self.patient())?;
            self.queued.fetch_sub(weight, Ordering::Relaxed);
            if matches!(next, Some(Order::Close)) {
                return Ok(());
            }
            if !self.patient() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // The session owns a sender: this cannot find the channel closed.
            next = orders.recv().ok();
        }
    }

    fn patient(&self) -> bool {
        self.close_by.get().is_none_or(|by| Instant::now() < *by)
    }

    /// After the last message: lets the other side read it and close first.
    fn part(&self) {
        if let Some(by) = self.close_by.get()
            && self.log.shutdown(Shutdown::Write).is_ok()
        {
            self.over.wait_until(*by);
        }
    }

    fn beat(&self, every: Duration, mut sender: FrameSender) {
        let mut due = Instant::now();
        loop {
            // A blocked connection is waited for: whether silence means death is not decided here.
            let sent = sender
                .add(FrameKind::Heartbeat, &[])
                .map_err(io::Error::other)
                .and_then(|()| sender.flush(|| true));
            if let Err(error) = sent {
                tracing::debug!(%error, session = self.id, "cannot send a heartbeat");
                self.abort();
                return;
            }
            // A late beat does not make the next ones come in a burst.
            due = (due + every).max(Instant::now());
            if self.over.wait_until(due) {
                return;
            }
        }
    }
}

/// Why a reading thread ended.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error("A frame of kind {0:?} does not belong on this connection; run the same release on both hosts")]
    Kind(FrameKind),
    #[error("{0}; run the same release on both hosts")]
    Decode(#[from] DecodeError),
}
