//! The download service on TCP port 7001: an endless stream that the client can check.

use crate::peer::Peer;
use micro_guest::wire::{DOWNLOAD_HEADER, Stream};
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::Socket;

const PORT: u16 = 7001;
const CONNECTIONS: usize = 4;
const SEND_BUFFER: usize = 256 * 1024;

/// The service: for each socket, the stream that is being sent.
#[derive(Debug)]
pub(crate) struct Downloads([(Peer, Option<Stream>); CONNECTIONS]);

impl Downloads {
    /// Opens the sockets.
    pub(crate) fn new(sockets: &mut SocketSet<'static>) -> Self {
        Self(core::array::from_fn(|_| (Peer::new(sockets, PORT, 4096, SEND_BUFFER), None)))
    }

    /// Reads opening messages and fills the send buffers.
    pub(crate) fn work(&mut self, sockets: &mut SocketSet<'static>) {
        for (peer, stream) in &mut self.0 {
            if peer.tend(sockets) {
                *stream = None;
            }
            let socket = sockets.get_mut::<Socket<'_>>(peer.handle());
            match stream {
                None if socket.recv_queue() >= DOWNLOAD_HEADER => {
                    let mut header = [0; DOWNLOAD_HEADER];
                    let taken = socket.recv_slice(&mut header);
                    *stream = (taken == Ok(DOWNLOAD_HEADER)).then(|| Stream::decode(&header));
                }
                // One message is all that a client has to say.
                Some(_) if socket.can_recv() => socket.abort(),
                _ => {}
            }
            if let Some(stream) = stream {
                fill(socket, stream);
            }
        }
    }
}

fn fill(socket: &mut Socket<'_>, stream: &mut Stream) {
    // The buffer is a ring: its free part is in one or two pieces.
    for _ in 0..2 {
        if !socket.can_send() {
            return;
        }
        let filled = socket.send(|buffer| {
            stream.fill(buffer);
            (buffer.len(), ())
        });
        if filled.is_err() {
            return;
        }
    }
}
