//! The counter service on UDP and TCP port 7000.
//!
//! Requests that arrive together are logged together: what comes while a batch is on its way to the disk waits in
//! the next one. A reply leaves only when its batch is durable.

use crate::disk::Disk;
use alloc::vec::Vec;
use core::mem;
use machine::cpu;
use micro_guest::ledger::{Ledger, Record};
use micro_guest::log::{MAX_BATCH, MAX_BLOCK, Store};
use micro_guest::wire::{MESSAGE, Reply, Request};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp::{self, UdpMetadata};
use smoltcp::socket::{tcp, udp::PacketMetadata};

use crate::peer::Peer;

const PORT: u16 = 7000;
const CONNECTIONS: usize = 8;
/// Requests that UDP holds until they are looked at, and replies until they are sent.
const DATAGRAMS: usize = 512;
/// Replies that wait for one batch; more than its records, since a request may be repeated meanwhile.
const MAX_REPLIES: usize = 512;

/// Who gets a reply.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Datagram(UdpMetadata),
    Connection { index: usize, number: u64 },
}

/// A reply that waits for its batch.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    to: Origin,
    record: Record,
    repeated: bool,
}

/// Requests that become durable together.
#[derive(Debug)]
struct Batch {
    records: Vec<Record>,
    replies: Vec<Waiting>,
}

impl Batch {
    fn new() -> Self {
        Self { records: Vec::with_capacity(MAX_BATCH), replies: Vec::with_capacity(MAX_REPLIES) }
    }

    fn holds(&self, record: &Record) -> bool {
        self.records.iter().any(|other| (other.client, other.id) == (record.client, record.id))
    }
}

/// The service.
#[derive(Debug)]
pub(crate) struct Counters {
    udp: SocketHandle,
    peers: Vec<Peer>,
    ledger: Ledger,
    store: Store,
    disk: Disk,
    /// Being collected.
    next: Batch,
    /// On its way to the disk.
    flying: Batch,
    bytes: Vec<u8>,
    boot_id: u64,
}

impl Counters {
    /// Opens the sockets.
    pub(crate) fn new(
        sockets: &mut SocketSet<'static>,
        disk: Disk,
        (store, ledger): (Store, Ledger),
        boot_id: u64,
    ) -> Self {
        let buffer = || {
            udp::PacketBuffer::new(
                alloc::vec![PacketMetadata::EMPTY; DATAGRAMS],
                alloc::vec![0; DATAGRAMS * MESSAGE],
            )
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(PORT).expect("the port is not 0 and the socket is new");
        let peers = (0..CONNECTIONS).map(|_| Peer::new(sockets, PORT, 8192, 16384)).collect();
        Self {
            udp: sockets.add(socket),
            peers,
            ledger,
            store,
            disk,
            next: Batch::new(),
            flying: Batch::new(),
            bytes: Vec::with_capacity(MAX_BLOCK),
            boot_id,
        }
    }

    /// The disk, to sleep on.
    pub(crate) fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Takes what the disk has done and what the clients ask; sends replies; gives the disk its next job.
    pub(crate) fn work(&mut self, sockets: &mut SocketSet<'static>) {
        if self.disk.poll() && self.store.finished() {
            self.release(sockets);
        }
        for peer in &mut self.peers {
            peer.tend(sockets);
        }
        if self.store.accepts() {
            self.take_datagrams(sockets);
            for index in 0..self.peers.len() {
                self.take_stream(sockets, index);
            }
        }
        self.feed_disk();
    }

    fn feed_disk(&mut self) {
        if !self.disk.is_idle() {
            return;
        }
        if self.flying.records.is_empty() {
            mem::swap(&mut self.flying, &mut self.next);
        }
        if let Some(job) = self.store.next_job(&self.flying.records, &self.ledger, &mut self.bytes) {
            self.disk.write(job.sector, &self.bytes, job.flush);
        }
    }

    fn has_room(&self) -> bool {
        let replies = self.next.replies.len().max(self.flying.replies.len());
        self.next.records.len() < MAX_BATCH && replies < MAX_REPLIES
    }

    fn take_datagrams(&mut self, sockets: &mut SocketSet<'static>) {
        while self.has_room() {
            let Ok((bytes, from)) = sockets.get_mut::<udp::Socket<'_>>(self.udp).recv() else { break };
            // Not a request: nobody to blame, hence no answer.
            if let Some(request) = Request::decode(bytes) {
                self.take(sockets, &request, Origin::Datagram(from));
            }
        }
    }

    fn take_stream(&mut self, sockets: &mut SocketSet<'static>, index: usize) {
        while self.has_room() {
            let peer = &self.peers[index];
            let (handle, number, waiting) = (peer.handle(), peer.number(), peer.waiting());
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            let room = socket.send_capacity() - socket.send_queue();
            if socket.recv_queue() < MESSAGE || room < (waiting + 1) * MESSAGE {
                break;
            }
            let mut bytes = [0; MESSAGE];
            let taken = socket.recv_slice(&mut bytes);
            match Request::decode(&bytes).filter(|_| taken == Ok(MESSAGE)) {
                Some(request) => {
                    self.peers[index].owe();
                    self.take(sockets, &request, Origin::Connection { index, number });
                }
                None => {
                    socket.abort();
                    break;
                }
            }
        }
    }

    fn take(&mut self, sockets: &mut SocketSet<'static>, request: &Request, to: Origin) {
        let known = self.ledger.find(request.client, request.id);
        let record = known.unwrap_or_else(|| self.ledger.apply(request));
        let waiting = Waiting { to, record, repeated: known.is_some() };
        if known.is_none() {
            self.next.records.push(record);
            self.next.replies.push(waiting);
        } else if self.next.holds(&record) {
            self.next.replies.push(waiting);
        } else if self.flying.holds(&record) {
            self.flying.replies.push(waiting);
        } else {
            self.reply(sockets, &waiting);
        }
    }

    /// The batch is durable: its replies may leave.
    fn release(&mut self, sockets: &mut SocketSet<'static>) {
        let mut replies = mem::take(&mut self.flying.replies);
        for waiting in replies.drain(..) {
            self.reply(sockets, &waiting);
        }
        self.flying.replies = replies;
        self.flying.records.clear();
    }

    fn reply(&mut self, sockets: &mut SocketSet<'static>, waiting: &Waiting) {
        let Record { client, counter, id, value } = waiting.record;
        let (repeated, boot_id, uptime_ns) = (waiting.repeated, self.boot_id, cpu::now());
        let bytes = Reply { client, id, counter, repeated, value, boot_id, uptime_ns }.encode();
        match waiting.to {
            // If there is no room the client asks again, as for any lost datagram.
            Origin::Datagram(to) => {
                let _ = sockets.get_mut::<udp::Socket<'_>>(self.udp).send_slice(&bytes, to);
            }
            Origin::Connection { index, number } => self.peers[index].send(sockets, number, &bytes),
        }
    }
}
