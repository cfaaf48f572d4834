//! The download service on TCP port 7001: an endless stream that the client can check.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use micro_guest::wire::{DOWNLOAD_HEADER, Stream};

use crate::limit;

const PORT: u16 = 7001;
const CONNECTIONS: usize = 4;
/// Bytes made at a time.
const PIECE: usize = 64 * 1024;

/// Opens the port.
pub(crate) fn start() -> io::Result<()> {
    limit::accept("download", PORT, CONNECTIONS, send)
}

fn send(mut stream: TcpStream) -> io::Result<()> {
    let mut header = [0; DOWNLOAD_HEADER];
    stream.read_exact(&mut header)?;
    let mut content = Stream::decode(&header);
    let mut piece = vec![0; PIECE];
    loop {
        content.fill(&mut piece);
        stream.write_all(&piece)?;
    }
}
