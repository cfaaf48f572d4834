//! Framing: how a stream of bytes is cut into checked frames. Sans-I/O.
//!
//! A frame is a header of [`HEADER_LEN`] bytes and a payload. The header, little endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic "TWRL" |
//! | 4 | 2 | version of the wire protocol |
//! | 6 | 2 | kind ([`FrameKind`]) |
//! | 8 | 4 | payload length in bytes, at most [`MESSAGE_MAX`] |
//! | 12 | 8 | sequence number: frames sent before this one in this direction |
//! | 20 | 4 | CRC-32 (IEEE) of the 20 bytes before it and of the payload |
//!
//! The encryption around it already detects an attacker. The checks here find our own errors: a chunk sent
//! twice, dropped or torn between two threads.

use crate::WIRE_VERSION;

/// Most bytes of an encoded message.
pub const MESSAGE_MAX: usize = 1 << 20;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"TWRL";
/// Size of a frame's header in bytes.
pub const HEADER_LEN: usize = 24;

/// Where the checksum lies in the header; it covers what is before it.
const CRC_AT: usize = 20;

/// What a frame carries. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// First frame of a connection: who dials, and for what.
    Preface = 1,
    /// Answer to a preface.
    Reply = 2,
    /// A [`Message`](crate::message::Message) of the pair.
    Message = 3,
    /// A sign of life without content.
    Heartbeat = 4,
    /// A question to the witness.
    Ask = 5,
    /// The witness's answer.
    Answer = 6,
}

impl FrameKind {
    fn from_number(number: u16) -> Option<Self> {
        [Self::Preface, Self::Reply, Self::Message, Self::Heartbeat, Self::Ask, Self::Answer]
            .into_iter()
            .find(|kind| *kind as u16 == number)
    }
}

/// A stream that is not a sequence of whole frames. Nothing after it can be trusted: close the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// These bytes are no frame.
    #[error("The other side sent something that is not a TwinRun frame; close the connection")]
    Magic,
    /// The other side is another release.
    #[error(
        "The other side speaks wire version {theirs}, this host speaks {ours}; run the same release on both"
    )]
    Version {
        /// This program's version.
        ours: u16,
        /// The frame's version.
        theirs: u16,
    },
    /// A kind that this version does not know.
    #[error("Unknown frame kind {0}; run the same release on both sides")]
    Kind(u16),
    /// Refused before anything is allocated.
    #[error("A frame announces {0} bytes, more than the {MESSAGE_MAX} allowed; close the connection")]
    TooLong(u32),
    /// A frame is missing or came twice.
    #[error("Frame {got} came where frame {expected} was due; close the connection")]
    Sequence {
        /// Number that was due.
        expected: u64,
        /// Number that came.
        got: u64,
    },
    /// Damaged bytes.
    #[error("The checksum of frame {0} is wrong; close the connection")]
    Checksum(u64),
}

/// A payload that does not fit a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A frame of {0} bytes is larger than the {MESSAGE_MAX} allowed; split it")]
pub struct FrameTooLong(pub usize);

/// Builds the frames of one direction of one connection.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    sequence: u64,
}

impl FrameEncoder {
    /// Appends a frame to `out`.
    ///
    /// # Errors
    /// [`FrameTooLong`] for a payload of more than [`MESSAGE_MAX`] bytes; nothing is appended then.
    pub fn encode(&mut self, kind: FrameKind, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameTooLong> {
        let length = u32::try_from(payload.len()).map_err(|_| FrameTooLong(payload.len()))?;
        if payload.len() > MESSAGE_MAX {
            return Err(FrameTooLong(payload.len()));
        }
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&WIRE_VERSION.to_le_bytes());
        out.extend_from_slice(&(kind as u16).to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        let crc = checksum(&out[start..], payload);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
        self.sequence += 1;
        Ok(())
    }
}

/// A frame as it lies in the decoder's buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// Its content.
    pub payload: &'a [u8],
}

/// Cuts the bytes of one direction of one connection into frames.
///
/// Holds at most one unfinished frame and what the last [`push`](Self::push) brought, provided that
/// [`next_frame`](Self::next_frame) is called until it has no more before each push.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that belong to frames already handed out.
    used: usize,
    sequence: u64,
    failed: Option<WireError>,
}

impl FrameDecoder {
    /// Adds bytes that arrived. After an error they are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`WireError`] when the bytes are no frame; from then on always the same error.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match parse(&self.buffer[self.used..], self.sequence) {
            Ok(None) => Ok(None),
            Ok(Some((kind, length))) => {
                let start = self.used + HEADER_LEN;
                self.used = start + length;
                self.sequence += 1;
                Ok(Some(Frame { kind, payload: &self.buffer[start..self.used] }))
            }
            Err(error) => {
                self.failed = Some(error.clone());
                self.buffer = Vec::new();
                self.used = 0;
                Err(error)
            }
        }
    }
}

/// Kind and payload length of the frame at the start of `bytes`, if it is whole.
fn parse(bytes: &[u8], expected: u64) -> Result<Option<(FrameKind, usize)>, WireError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    if header[..4] != MAGIC {
        return Err(WireError::Magic);
    }
    let version = u16::from_le_bytes(field(header, 4));
    if version != WIRE_VERSION {
        return Err(WireError::Version { ours: WIRE_VERSION, theirs: version });
    }
    let number = u16::from_le_bytes(field(header, 6));
    let kind = FrameKind::from_number(number).ok_or(WireError::Kind(number))?;
    let announced = u32::from_le_bytes(field(header, 8));
    let length = announced as usize;
    if length > MESSAGE_MAX {
        return Err(WireError::TooLong(announced));
    }
    let got = u64::from_le_bytes(field(header, 12));
    if got != expected {
        return Err(WireError::Sequence { expected, got });
    }
    let Some(payload) = rest.get(..length) else {
        return Ok(None);
    };
    if checksum(&header[..CRC_AT], payload) != u32::from_le_bytes(field(header, CRC_AT)) {
        return Err(WireError::Checksum(got));
    }
    Ok(Some((kind, length)))
}

fn field<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const KINDS: [FrameKind; 6] = [
        FrameKind::Preface,
        FrameKind::Reply,
        FrameKind::Message,
        FrameKind::Heartbeat,
        FrameKind::Ask,
        FrameKind::Answer,
    ];

    fn stream(frames: &[(FrameKind, Vec<u8>)]) -> Vec<u8> {
        let mut encoder = FrameEncoder::default();
        let mut bytes = Vec::new();
        for (kind, payload) in frames {
            encoder.encode(*kind, payload, &mut bytes).expect("small");
        }
        bytes
    }

    /// Everything that a decoder makes of `bytes`, pushed in pieces of `step`.
    fn decode(bytes: &[u8], step: usize) -> (Vec<(FrameKind, Vec<u8>)>, Option<WireError>) {
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            decoder.push(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push((frame.kind, frame.payload.to_vec())),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    fn with_header_field(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut frame = stream(&[(FrameKind::Message, b"abc".to_vec())]);
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    }

    #[test]
    fn golden_bytes() {
        let bytes = stream(&[(FrameKind::Heartbeat, vec![]), (FrameKind::Message, vec![0xAB])]);
        let first = [b'T', b'W', b'R', b'L', 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let second = [b'T', b'W', b'R', b'L', 2, 0, 3, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes[..20], first);
        assert_eq!(bytes[20..24], crc32fast::hash(&first).to_le_bytes());
        assert_eq!(bytes[24..44], second);
        assert_eq!(bytes[48..], [0xAB]);
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        let bytes = with_header_field(8, &u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes, 64).1, Some(WireError::TooLong(u32::MAX)));
        let mut out = Vec::new();
        let long = vec![0; MESSAGE_MAX + 1];
        let result = FrameEncoder::default().encode(FrameKind::Message, &long, &mut out);
        assert_eq!(result, Err(FrameTooLong(MESSAGE_MAX + 1)));
        assert!(out.is_empty());
    }

    #[test]
    fn the_largest_frame_passes() {
        let frames = [(FrameKind::Message, vec![7; MESSAGE_MAX]), (FrameKind::Heartbeat, vec![])];
        assert_eq!(decode(&stream(&frames), 65_519), (frames.to_vec(), None));
    }

    #[test]
    fn another_version_is_named() {
        let error = decode(&with_header_field(4, &[9, 0]), 64).1.expect("refused");
        assert_eq!(error, WireError::Version { ours: WIRE_VERSION, theirs: 9 });
        assert!(error.to_string().contains("wire version 9, this host speaks 2"), "{error}");
    }

    #[test]
    fn unknown_kinds_and_strange_bytes_are_refused() {
        assert_eq!(decode(&with_header_field(6, &[99, 0]), 64).1, Some(WireError::Kind(99)));
        assert_eq!(decode(b"GET / HTTP/1.1\r\nHost: somewhere\r\n", 64).1, Some(WireError::Magic));
    }

    #[test]
    fn a_gap_or_a_repeat_is_an_error_and_stays_one() {
        let one = stream(&[(FrameKind::Message, vec![1])]);
        let three = stream(&[(FrameKind::Message, vec![1]), (FrameKind::Message, vec![2])]);
        let repeated = [one.clone(), one.clone()].concat();
        let mut decoder = FrameDecoder::default();
        decoder.push(&repeated);
        assert!(matches!(decoder.next_frame(), Ok(Some(_))));
        let error = WireError::Sequence { expected: 1, got: 0 };
        assert_eq!(decoder.next_frame(), Err(error.clone()));
        decoder.push(&three[one.len()..]);
        assert_eq!(decoder.next_frame(), Err(error));
        assert_eq!(decode(&three[one.len()..], 64).1, Some(WireError::Sequence { expected: 0, got: 1 }));
    }

    #[test]
    fn every_flipped_bit_is_an_error_or_waits_for_more() {
        let bytes = stream(&[(FrameKind::Message, b"the quick brown fox".to_vec())]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (frames, _) = decode(&damaged, 4096);
            assert_eq!(frames, vec![], "bit {bit}");
        }
    }

    fn frames() -> impl Strategy<Value = Vec<(FrameKind, Vec<u8>)>> {
        vec(((0..KINDS.len()).prop_map(|kind| KINDS[kind]), vec(any::<u8>(), 0..300)), 0..8)
    }

    proptest! {
        #[test]
        fn round_trip(frames in frames(), step in 1usize..400) {
            prop_assert_eq!(decode(&stream(&frames), step), (frames, None));
        }

        #[test]
        fn a_truncation_yields_a_true_prefix_and_no_error(frames in frames(), cut in any::<prop::sample::Index>()) {
            let bytes = stream(&frames);
            let (got, error) = decode(&bytes[..cut.index(bytes.len() + 1)], 100);
            prop_assert_eq!(error, None);
            prop_assert_eq!(&got[..], &frames[..got.len()]);
        }

        #[test]
        fn arbitrary_bytes_never_become_a_frame(bytes in vec(any::<u8>(), 0..4096), step in 1usize..512) {
            prop_assert_eq!(decode(&bytes, step).0, vec![]);
        }

        #[test]
        fn arbitrary_bytes_in_the_middle_end_the_stream(frames in frames(), noise in vec(any::<u8>(), 24..200)) {
            let bytes = [stream(&frames), noise].concat();
            let (got, error) = decode(&bytes, 100);
            prop_assert_eq!(got, frames);
            prop_assert_eq!(error, Some(WireError::Magic));
        }
    }
}
