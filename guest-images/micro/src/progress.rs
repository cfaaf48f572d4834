//! How far the CPU job is: UDP port 7002.

use machine::cpu;
use micro_guest::wire::{PROGRESS_REPLY, PROGRESS_REQUEST, Progress};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};

const PORT: u16 = 7002;
const DATAGRAMS: usize = 64;

/// The service.
#[derive(Debug)]
pub(crate) struct Reporter(SocketHandle);

impl Reporter {
    /// Opens the socket.
    pub(crate) fn new(sockets: &mut SocketSet<'static>) -> Self {
        let buffer = |bytes: usize| {
            let metadata = alloc::vec![PacketMetadata::EMPTY; DATAGRAMS];
            PacketBuffer::new(metadata, alloc::vec![0; DATAGRAMS * bytes])
        };
        let mut socket = Socket::new(buffer(PROGRESS_REQUEST.len()), buffer(PROGRESS_REPLY));
        socket.bind(PORT).expect("the port is not 0 and the socket is new");
        Self(sockets.add(socket))
    }

    /// Answers what was asked.
    pub(crate) fn work(&self, sockets: &mut SocketSet<'static>, progress: Progress) {
        let socket = sockets.get_mut::<Socket<'_>>(self.0);
        while let Ok((bytes, from)) = socket.recv() {
            if bytes == PROGRESS_REQUEST {
                // If there is no room the client asks again, as for any lost datagram.
                let _ = socket.send_slice(&progress.encode(cpu::now()), from);
            }
        }
    }
}
