//! Captured frames reduced to what the judge needs, so that minutes of download fit in memory.

use super::message::{COUNTER_PORT, MESSAGE_BYTES, REPLY_MAGIC, REQUEST_MAGIC};

/// A request's name on the wire: client number and request number.
pub type Key = (u32, u64);

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// ARP or RARP: the way a host says "this MAC is here now".
    Announcement,
    /// Requests to the counters.
    Requests(Vec<Key>),
    /// Replies of the counters.
    Replies(Vec<Key>),
    /// Anything else.
    Other,
}

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    /// Ethernet source address.
    pub source: [u8; 6],
    /// XXH3-128 of the whole frame: equal means byte-identical.
    pub hash: u128,
    /// What it carries.
    pub carries: Carries,
}

/// What passed one host's port on the outside: its side of the cable, not of its kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCapture {
    /// The host's name as the events have it.
    pub host: String,
    /// Frames that left the host, in order of time.
    pub left: Vec<Seen>,
    /// Frames that were delivered to it, in order of time.
    pub delivered: Vec<Seen>,
}

/// Reduces captured frames (time in `CLOCK_MONOTONIC` nanoseconds, bytes from the Ethernet header on).
pub fn digest<'a>(frames: impl IntoIterator<Item = (u64, &'a [u8])>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = frames.into_iter().filter_map(|(at, frame)| look_at(at, frame)).collect();
    seen.sort_by_key(|frame| frame.at);
    seen
}

fn look_at(at: u64, frame: &[u8]) -> Option<Seen> {
    let source: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let carries = match kind {
        0x0806 | 0x8035 => Carries::Announcement,
        0x0800 => ipv4(&frame[14..]).unwrap_or(Carries::Other),
        _ => Carries::Other,
    };
    Some(Seen { at, source, hash: xxhash_rust::xxh3::xxh3_128(frame), carries })
}

/// Reads an IPv4 packet (RFC 791); `None` when it is cut short or carries neither UDP nor TCP.
fn ipv4(packet: &[u8]) -> Option<Carries> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(be16(packet, 2)?);
    let segment = packet.get(header..total.min(packet.len()))?;
    let (payload, datagram) = match packet.get(9)? {
        17 => (segment.get(8..)?, true),
        6 => (segment.get(usize::from(segment.get(12)? >> 4) * 4..)?, false),
        _ => return None,
    };
    let (from, to) = (be16(segment, 0)?, be16(segment, 2)?);
    if to == COUNTER_PORT {
        return named(keys(payload, REQUEST_MAGIC, datagram), Carries::Requests);
    }
    if from == COUNTER_PORT {
        return named(keys(payload, REPLY_MAGIC, datagram), Carries::Replies);
    }
    None
}

fn named(keys: Vec<Key>, kind: fn(Vec<Key>) -> Carries) -> Option<Carries> {
    (!keys.is_empty()).then(|| kind(keys))
}

/// The messages in a payload. A datagram is one message; a TCP segment may begin in the middle of one (after a
/// retransmission), so the magic is looked for everywhere. A message whose first 16 bytes are split over two segments
/// is missed here; the client's own records have it.
fn keys(payload: &[u8], magic: &[u8; 4], datagram: bool) -> Vec<Key> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(message) = payload.get(at..at + 16) {
        if message.starts_with(magic) {
            let client = u32::from_le_bytes(message[4..8].try_into().unwrap_or_default());
            let id = u64::from_le_bytes(message[8..16].try_into().unwrap_or_default());
            found.push((client, id));
            at += MESSAGE_BYTES;
        } else if datagram {
            break;
        } else {
            at += 1;
        }
    }
    found
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Frames for tests.
#[cfg(test)]
pub(super) mod frames {
    /// An Ethernet frame with an IPv4 packet of protocol 17 (UDP) or 6 (TCP) around `payload`.
    pub(in crate::load) fn ip(source: [u8; 6], protocol: u8, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let header = if protocol == 17 { 8 } else { 20 };
        let total = u16::try_from(20 + header + payload.len()).expect("a small test frame");
        let mut frame = vec![2, 0, 0, 0, 0, 0xfe];
        frame.extend_from_slice(&source);
        frame.extend_from_slice(&[8, 0, 0x45, 0]);
        frame.extend_from_slice(&total.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0, 10, 77, 0, 10, 10, 77, 0, 100]);
        frame.extend_from_slice(&ports.0.to_be_bytes());
        frame.extend_from_slice(&ports.1.to_be_bytes());
        let mut rest = vec![0; header - 4];
        if protocol == 6 {
            rest[8] = 5 << 4;
        }
        frame.extend_from_slice(&rest);
        frame.extend_from_slice(payload);
        frame
    }

    /// A frame of another ethertype.
    pub(in crate::load) fn other(source: [u8; 6], kind: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend_from_slice(&source);
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::message::{Reply, Request};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn only(frame: &[u8]) -> Carries {
        digest([(1, frame)])[0].carries.clone()
    }

    #[test]
    fn datagrams_and_segments_are_recognised() {
        let request = Request { client: 3, id: 4, counter: 5 }.encode();
        let reply = Reply { client: 3, id: 4, counter: 5, flags: 0, value: 1, boot: 1, uptime: 1 }.encode();
        assert_eq!(only(&frames::ip(MAC, 17, (9, 7000), &request)), Carries::Requests(vec![(3, 4)]));
        assert_eq!(only(&frames::ip(MAC, 17, (7000, 9), &reply)), Carries::Replies(vec![(3, 4)]));
        let mut two = reply[40..].to_vec();
        two.extend_from_slice(&reply);
        two.extend_from_slice(&reply);
        assert_eq!(only(&frames::ip(MAC, 6, (7000, 9), &two)), Carries::Replies(vec![(3, 4), (3, 4)]));
        assert_eq!(only(&frames::ip(MAC, 6, (7001, 9), &two)), Carries::Other);
        assert_eq!(only(&frames::other(MAC, 0x0806, &[0; 46])), Carries::Announcement);
        assert_eq!(only(&frames::other(MAC, 0x8035, &[0; 46])), Carries::Announcement);
    }

    #[test]
    fn padding_after_the_packet_is_no_payload() {
        let mut frame = frames::ip(MAC, 6, (7000, 9), &[]);
        frame.extend_from_slice(
            &Reply { client: 1, id: 1, counter: 1, flags: 0, value: 1, boot: 1, uptime: 1 }.encode(),
        );
        assert_eq!(only(&frame), Carries::Other);
    }

    #[test]
    fn every_cut_of_a_frame_is_survived() {
        let frame = frames::ip(MAC, 6, (7000, 9), &[0; 80]);
        for length in 0..frame.len() {
            assert!(digest([(1, &frame[..length])]).len() <= 1);
        }
        let mut lying = frame;
        lying[14] = 0x4f;
        lying[46] = 0xf0;
        assert_eq!(only(&lying), Carries::Other);
    }
}
