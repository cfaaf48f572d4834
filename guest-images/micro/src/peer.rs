//! A TCP socket that always listens or serves.

use alloc::vec;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;

/// A peer that says nothing at all for this long is gone, and its socket is free for others.
const SILENCE: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Most acknowledgements ride on a reply; this is for the others.
const ACK_DELAY: Duration = Duration::from_millis(40);

/// One place for a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    handle: SocketHandle,
    port: u16,
    /// Counts the connections on this socket.
    number: u64,
    /// Replies that this connection will still get.
    waiting: usize,
}

impl Peer {
    /// Adds a socket with buffers of so many bytes. It listens once it is tended.
    pub(crate) fn new(sockets: &mut SocketSet<'static>, port: u16, receive: usize, send: usize) -> Self {
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(receive), buffer(send));
        socket.set_timeout(Some(SILENCE));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::Reno);
        Self { handle: sockets.add(socket), port, number: 0, waiting: 0 }
    }

    /// Listens again after a connection, and ends one whose client has said its last. True if it is a new one.
    pub(crate) fn tend(&mut self, sockets: &mut SocketSet<'static>) -> bool {
        let socket = sockets.get_mut::<Socket<'_>>(self.handle);
        if socket.state() == State::CloseWait && self.waiting == 0 && !socket.can_recv() {
            socket.close();
        }
        let closed = socket.state() == State::Closed;
        if closed {
            socket.listen(self.port).expect("the port is not 0 and the socket is closed");
            (self.number, self.waiting) = (self.number + 1, 0);
        }
        closed
    }

    /// The socket.
    pub(crate) fn handle(&self) -> SocketHandle {
        self.handle
    }

    /// Which connection this is.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Replies that the connection will still get.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// One reply more will come.
    pub(crate) fn owe(&mut self) {
        self.waiting += 1;
    }

    /// Sends a reply to the connection of this number, if it still exists.
    pub(crate) fn send(&mut self, sockets: &mut SocketSet<'static>, number: u64, bytes: &[u8]) {
        if number == self.number {
            self.waiting = self.waiting.saturating_sub(1);
            // Room was made sure of when the request was taken; a connection that broke meanwhile needs no reply.
            let _ = sockets.get_mut::<Socket<'_>>(self.handle).send_slice(bytes);
        }
    }
}
