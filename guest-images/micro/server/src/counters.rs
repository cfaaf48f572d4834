//! The counter service on UDP and TCP port 7000.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use micro_guest::ledger::Record;
use micro_guest::wire::{MESSAGE, Reply, Request};

use crate::book::{Book, Counted};
use crate::{Boot, limit};

const PORT: u16 = 7000;
const CONNECTIONS: usize = 64;
/// Requests of one client that are taken before any is answered.
const TOGETHER: usize = 64;

/// Opens the ports.
pub(crate) fn start(book: &Arc<Book>, boot: Boot) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    let shared = Arc::clone(book);
    limit::spawn("udp", move || {
        loop {
            // An error here is one of an earlier reply that did not arrive.
            let _ = datagrams(&socket, &shared, boot);
        }
    })?;
    let book = Arc::clone(book);
    limit::accept("tcp", PORT, CONNECTIONS, move |stream| connection(stream, &book, boot))
}

fn encode(counted: &Counted, boot: Boot) -> [u8; MESSAGE] {
    let Record { client, counter, id, value } = counted.record;
    let (repeated, uptime_ns) = (counted.repeated, boot.uptime_ns());
    Reply { client, id, counter, repeated, value, boot_id: boot.id, uptime_ns }.encode()
}

/// Waits for datagrams, takes all that are there, and answers them when they are durable.
fn datagrams(socket: &UdpSocket, book: &Book, boot: Boot) -> io::Result<()> {
    let mut taken: Vec<(SocketAddr, Counted)> = Vec::new();
    socket.set_nonblocking(false)?;
    let mut bytes = [0; MESSAGE + 1];
    let mut received = socket.recv_from(&mut bytes);
    socket.set_nonblocking(true)?;
    while let Ok((size, from)) = received {
        // Not a request: nobody to blame, hence no answer.
        if let Some(request) = Request::decode(&bytes[..size]) {
            taken.push((from, book.count(&request)));
        }
        if taken.len() == TOGETHER {
            break;
        }
        received = socket.recv_from(&mut bytes);
    }
    for (to, counted) in taken {
        book.wait_durable(&counted);
        // If there is no room the client asks again, as for any lost datagram.
        let _ = socket.send_to(&encode(&counted, boot), to);
    }
    Ok(())
}

/// Takes all requests that are there, and answers them when they are durable. What is no request ends the connection.
fn connection(mut stream: TcpStream, book: &Book, boot: Boot) -> io::Result<()> {
    let mut bytes = vec![0; TOGETHER * MESSAGE];
    let mut held = 0;
    loop {
        let read = stream.read(&mut bytes[held..])?;
        if read == 0 {
            return Ok(());
        }
        held += read;
        let whole = held - held % MESSAGE;
        let mut taken = Vec::new();
        let mut sound = true;
        for message in bytes[..whole].chunks_exact(MESSAGE) {
            let Some(request) = Request::decode(message) else {
                sound = false;
                break;
            };
            taken.push(book.count(&request));
        }
        let mut replies = Vec::new();
        for counted in taken {
            book.wait_durable(&counted);
            replies.extend(encode(&counted, boot));
        }
        stream.write_all(&replies)?;
        if !sound {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        bytes.copy_within(whole..held, 0);
        held -= whole;
    }
}
