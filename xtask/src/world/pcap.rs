//! Captures: classic pcap files with nanosecond time stamps, which Wireshark reads too.
//!
//! Little endian, magic 0xa1b23c4d, link type 1 (Ethernet). The time is CLOCK_MONOTONIC, the clock of everything else that a
//! drill records.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};

const MAGIC: u32 = 0xa1b2_3c4d;
const HEADER: usize = 24;
const RECORD: usize = 16;
/// Longest frame that is written or believed, bytes.
pub const SNAP: u32 = 65_535;
const ETHERNET: u32 = 1;

/// One frame and the moment at which the cable had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// CLOCK_MONOTONIC, ns.
    pub at_ns: u64,
    /// The Ethernet frame, from the destination address on, without checksum.
    pub frame: Vec<u8>,
}

/// The 24 bytes at the start of a file.
pub fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..6].copy_from_slice(&2_u16.to_le_bytes());
    header[6..8].copy_from_slice(&4_u16.to_le_bytes());
    header[16..20].copy_from_slice(&SNAP.to_le_bytes());
    header[20..].copy_from_slice(&ETHERNET.to_le_bytes());
    header
}

/// Appends one record to `buffer`.
pub fn append(buffer: &mut Vec<u8>, at_ns: u64, frame: &[u8]) {
    let frame = &frame[..frame.len().min(SNAP as usize)];
    // Seconds since boot and a length of at most SNAP fit in 32 bits.
    let seconds = (at_ns / 1_000_000_000) as u32;
    let nanoseconds = (at_ns % 1_000_000_000) as u32;
    let length = frame.len() as u32;
    for word in [seconds, nanoseconds, length, length] {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    buffer.extend_from_slice(frame);
}

/// Reads a capture. A cut tail (the writer died, or is still writing) ends the list and is no error.
///
/// # Errors
/// The file cannot be read, or is not a capture of this kind.
pub fn read(path: &Path) -> anyhow::Result<Vec<Captured>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("there is no capture {}: had the host a port on that network?", path.display())
        }
        Err(error) => return Err(error).with_context(|| format!("reading the capture {}", path.display())),
    };
    parse(&bytes).with_context(|| format!("in the capture {}", path.display()))
}

fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Captured>> {
    let mut list = Vec::new();
    if bytes.len() < HEADER {
        // The header is written first and whole or not at all: a shorter file was cut before any frame.
        return Ok(list);
    }
    if word(bytes, 0) != Some(MAGIC) || word(bytes, 20) != Some(ETHERNET) {
        bail!("not a nanosecond Ethernet pcap file in little-endian order");
    }
    let mut rest = &bytes[HEADER..];
    while let (Some(seconds), Some(nanoseconds), Some(length)) = (word(rest, 0), word(rest, 4), word(rest, 8))
    {
        if length > SNAP {
            bail!("record {} claims {length} bytes", list.len());
        }
        let Some(frame) = rest.get(RECORD..RECORD + length as usize) else { break };
        let at_ns = u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds);
        list.push(Captured { at_ns, frame: frame.to_vec() });
        rest = &rest[RECORD + length as usize..];
    }
    Ok(list)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<Captured>) {
        let list: Vec<_> = (0..4_u8)
            .map(|n| Captured { at_ns: u64::from(n) * 1_999_999_999, frame: vec![n; 60 + usize::from(n)] })
            .collect();
        let mut file = header().to_vec();
        for captured in &list {
            append(&mut file, captured.at_ns, &captured.frame);
        }
        (file, list)
    }

    #[test]
    fn reads_what_was_written_and_every_cut_of_it() {
        let (file, list) = sample();
        assert_eq!(parse(&file).unwrap(), list);
        for length in 0..file.len() {
            let got = parse(&file[..length]).unwrap();
            assert!(got.len() < list.len());
            assert_eq!(got, list[..got.len()], "cut at {length}");
        }
    }

    #[test]
    fn refuses_what_is_no_capture() {
        let (mut file, _) = sample();
        file[HEADER + 8..HEADER + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(parse(&file).unwrap_err().to_string().contains("claims"));
        file[0] ^= 1;
        assert!(parse(&file).unwrap_err().to_string().contains("nanosecond"));
    }
}
