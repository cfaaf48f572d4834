//! One encrypted connection that carries frames, as a sending and a receiving half for two threads.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::noise::{
    self, CHUNK_MAX, HANDSHAKE_LEN, HandshakeError, Opener, Sealer, Secret, Service, TAG_LEN, Unreadable,
    timed_out, wait_readable,
};
use crate::wire::{Frame, FrameDecoder, FrameEncoder, FrameKind, FrameTooLong, WireError};

/// How often a blocked write looks up whether it should give up.
const WRITE_LOOKUP: Duration = Duration::from_millis(100);

/// Bytes on the wire, handshakes and encryption included, TCP headers not.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Why no (further) frame can be received.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("The other side closed the connection")]
    Closed,
    #[error("The connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("The other side did not answer in time")]
    TimedOut,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl ReceiveError {
    /// Whether the other side sent something wrong, which its operator should know.
    pub(super) fn is_fault(&self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::Wire(_))
    }
}

/// The sending half.
pub(super) struct FrameSender {
    stream: TcpStream,
    sealer: Sealer,
    encoder: FrameEncoder,
    plain: Vec<u8>,
    sealed: Vec<u8>,
    counters: Arc<Counters>,
}

impl FrameSender {
    /// Adds a frame to what the next [`flush`](Self::flush) sends.
    pub(super) fn add(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), FrameTooLong> {
        self.encoder.encode(kind, payload, &mut self.plain)
    }

    /// Bytes of frames that wait for a flush.
    pub(super) fn waiting(&self) -> usize {
        self.plain.len()
    }

    /// Sends what was added. While the connection is blocked, `patient` is asked now and then.
    pub(super) fn flush(&mut self, patient: impl Fn() -> bool) -> io::Result<()> {
        self.sealed.clear();
        self.sealer.seal(&self.plain, &mut self.sealed);
        self.plain.clear();
        let mut rest = &self.sealed[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.counters.sent.fetch_add(count as u64, Ordering::Relaxed);
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) && patient() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends one frame, waiting for a blocked connection until `deadline` at most.
    pub(super) fn send_by(&mut self, kind: FrameKind, payload: &[u8], deadline: Instant) -> io::Result<()> {
        self.add(kind, payload).map_err(io::Error::other)?;
        self.flush(|| Instant::now() < deadline)
    }
}

/// The receiving half.
pub(super) struct FrameReceiver {
    stream: TcpStream,
    opener: Opener,
    decoder: FrameDecoder,
    /// Encrypted bytes: `start..end` are not opened yet.
    sealed: Vec<u8>,
    start: usize,
    end: usize,
    counters: Arc<Counters>,
}

impl FrameReceiver {
    /// The next frame among the bytes that are already here.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame<'_>>, ReceiveError> {
        Ok(self.decoder.next_frame()?)
    }

    /// Waits for more bytes, as long as the socket's read time limit says.
    pub(super) fn read_more(&mut self) -> Result<(), ReceiveError> {
        self.sealed.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let count = loop {
            match self.stream.read(&mut self.sealed[self.end..]) {
                Ok(0) => return Err(ReceiveError::Closed),
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => return Err(ReceiveError::TimedOut),
                Err(error) => return Err(error.into()),
            }
        };
        self.counters.received.fetch_add(count as u64, Ordering::Relaxed);
        self.end += count;
        self.open_chunks()
    }

    fn open_chunks(&mut self) -> Result<(), ReceiveError> {
        while let Some((prefix, rest)) = self.sealed[self.start..self.end].split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*prefix));
            if length < TAG_LEN {
                return Err(Unreadable.into());
            }
            let Some(chunk) = rest.get(..length) else { break };
            self.decoder.push(self.opener.open(chunk)?);
            self.start += 2 + length;
        }
        Ok(())
    }

    /// The next frame, by `deadline`. Afterwards the socket has a read time limit:
    /// [`wait_for_ever`](Self::wait_for_ever) removes it.
    pub(super) fn next_by(&mut self, deadline: Instant) -> Result<(FrameKind, Vec<u8>), ReceiveError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok((frame.kind, frame.payload.to_vec()));
            }
            wait_readable(&self.stream, deadline).map_err(|_| ReceiveError::TimedOut)?;
            self.read_more()?;
        }
    }

    pub(super) fn wait_for_ever(&self) -> io::Result<()> {
        self.stream.set_read_timeout(None)
    }
}

/// Both halves.
pub(super) struct Channel {
    pub(super) sender: FrameSender,
    pub(super) receiver: FrameReceiver,
}

impl Channel {
    /// Encrypts a connection that this side made.
    pub(super) fn dialed(
        stream: TcpStream,
        service: Service,
        secret: &Secret,
        deadline: Instant,
        counters: &Arc<Counters>,
    ) -> Result<Self, HandshakeError> {
        stream.set_nodelay(true)?;
        let halves = noise::initiate(&stream, service, secret, deadline)?;
        Self::new(stream, halves, counters)
    }

    /// Encrypts a connection that the other side made.
    pub(super) fn accepted(
        stream: TcpStream,
        service: Service,
        secret: &Secret,
        deadline: Instant,
        counters: &Arc<Counters>,
    ) -> Result<Self, HandshakeError> {
        stream.set_nodelay(true)?;
        let halves = noise::respond(&stream, service, secret, deadline)?;
        Self::new(stream, halves, counters)
    }

    fn new(
        stream: TcpStream,
        (sealer, opener): (Sealer, Opener),
        counters: &Arc<Counters>,
    ) -> Result<Self, HandshakeError> {
        counters.sent.fetch_add(HANDSHAKE_LEN as u64, Ordering::Relaxed);
        counters.received.fetch_add(HANDSHAKE_LEN as u64, Ordering::Relaxed);
        stream.set_write_timeout(Some(WRITE_LOOKUP))?;
        let sender = FrameSender {
            stream: stream.try_clone()?,
            sealer,
            encoder: FrameEncoder::default(),
            plain: Vec::new(),
            sealed: Vec::new(),
            counters: counters.clone(),
        };
        let receiver = FrameReceiver {
            stream,
            opener,
            decoder: FrameDecoder::default(),
            // Room for one whole chunk behind the unopened part of another.
            sealed: vec![0; 2 * (2 + CHUNK_MAX)],
            start: 0,
            end: 0,
            counters: counters.clone(),
        };
        Ok(Self { sender, receiver })
    }

    /// Another handle on the socket, to shut it down from elsewhere.
    pub(super) fn handle(&self) -> io::Result<TcpStream> {
        self.receiver.stream.try_clone()
    }

    /// Sends a last frame and sees that the other side can read it.
    pub(super) fn farewell(mut self, kind: FrameKind, payload: &[u8], deadline: Instant) {
        if self.sender.send_by(kind, payload, deadline).is_ok() {
            noise::linger(&self.receiver.stream, deadline);
        }
        // The other side may be gone already.
        let _ = self.receiver.stream.shutdown(Shutdown::Both);
    }
}
