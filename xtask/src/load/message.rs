//! The messages of the micro guest's services. All integers are little endian.
//!
//! Counters (UDP and TCP, one port): 64-byte requests and replies; over TCP they simply follow each other.
//! Download (TCP): 16 bytes of request, then an endless stream whose content is a function of its offset.

/// Length of a request and of a reply, in bytes.
pub const MESSAGE_BYTES: usize = 64;
/// Port of the counters, UDP and TCP.
pub const COUNTER_PORT: u16 = 7000;
/// Port of the download, TCP.
pub const DOWNLOAD_PORT: u16 = 7001;
/// Number of counters that the guest keeps; requests name 0..this.
pub const COUNTERS: u32 = 1024;
/// First bytes of a request.
pub const REQUEST_MAGIC: &[u8; 4] = b"TWRQ";
/// First bytes of a reply.
pub const REPLY_MAGIC: &[u8; 4] = b"TWRP";
/// Flag of a reply: this (client, id) had been answered before, the value is that of the first time.
pub const FLAG_REPEATED: u32 = 1;

/// "Increment this counter": each new (client, id) counts once, whatever happens to its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub client: u32,
    /// The client's own number for this request, never reused.
    pub id: u64,
    /// Which counter.
    pub counter: u32,
}

impl Request {
    /// The 64 bytes that go on the wire.
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = [0; MESSAGE_BYTES];
        out[0..4].copy_from_slice(REQUEST_MAGIC);
        out[4..8].copy_from_slice(&self.client.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..20].copy_from_slice(&self.counter.to_le_bytes());
        out
    }

    /// Reads a request; `None` when the length, magic or counter is wrong.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != MESSAGE_BYTES || !bytes.starts_with(REQUEST_MAGIC) {
            return None;
        }
        let request = Self { client: u32_at(bytes, 4), id: u64_at(bytes, 8), counter: u32_at(bytes, 16) };
        (request.counter < COUNTERS).then_some(request)
    }
}

/// The guest's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Copied from the request.
    pub client: u32,
    /// Copied from the request.
    pub id: u64,
    /// Copied from the request.
    pub counter: u32,
    /// [`FLAG_REPEATED`] or 0.
    pub flags: u32,
    /// The counter after this request's increment.
    pub value: u64,
    /// Drawn once at the guest's start: another one means that it was started again.
    pub boot: u64,
    /// The guest's own clock since its start, in nanoseconds.
    pub uptime: u64,
}

impl Reply {
    /// The 64 bytes that go on the wire.
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = [0; MESSAGE_BYTES];
        out[0..4].copy_from_slice(REPLY_MAGIC);
        out[4..8].copy_from_slice(&self.client.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..20].copy_from_slice(&self.counter.to_le_bytes());
        out[20..24].copy_from_slice(&self.flags.to_le_bytes());
        out[24..32].copy_from_slice(&self.value.to_le_bytes());
        out[32..40].copy_from_slice(&self.boot.to_le_bytes());
        out[40..48].copy_from_slice(&self.uptime.to_le_bytes());
        out
    }

    /// Reads a reply, or says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() != MESSAGE_BYTES {
            return Err("a reply is not 64 bytes long");
        }
        if !bytes.starts_with(REPLY_MAGIC) {
            return Err("a reply does not start with TWRP");
        }
        if bytes[48..].iter().any(|byte| *byte != 0) {
            return Err("a reply's padding is not zero");
        }
        Ok(Self {
            client: u32_at(bytes, 4),
            id: u64_at(bytes, 8),
            counter: u32_at(bytes, 16),
            flags: u32_at(bytes, 20),
            value: u64_at(bytes, 24),
            boot: u64_at(bytes, 32),
            uptime: u64_at(bytes, 40),
        })
    }
}

/// The download's request: `seed`, then the byte offset to start from.
pub fn download_request(seed: u64, start: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&seed.to_le_bytes());
    out[8..].copy_from_slice(&start.to_le_bytes());
    out
}

/// The generator behind the download's content (and the client's own choices).
pub fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a download must contain from `offset` on: fills `out`.
pub fn download_content(seed: u64, offset: u64, out: &mut [u8]) {
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let word = splitmix64(seed.wrapping_add(at / 8)).to_le_bytes();
        let from = usize::try_from(at % 8).unwrap_or(0);
        let take = (8 - from).min(rest.len());
        rest[..take].copy_from_slice(&word[from..from + take]);
        rest = &mut rest[take..];
        at = at.wrapping_add(u64::try_from(take).unwrap_or(0));
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let request = Request { client: 7, id: u64::MAX - 1, counter: 1023 };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let reply = Reply { client: 7, id: 9, counter: 3, flags: 1, value: 5, boot: 0xabcd, uptime: 12 };
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let reply = Reply { client: 7, id: 9, counter: 3, flags: 1, value: 5, boot: 0xabcd, uptime: 12 };
        let mut bytes = reply.encode();
        assert!(Reply::decode(&bytes[..63]).is_err());
        bytes[63] = 1;
        assert!(Reply::decode(&bytes).is_err());
        assert_eq!(Request::decode(&reply.encode()), None);
        assert_eq!(Request::decode(&Request { client: 1, id: 1, counter: COUNTERS }.encode()), None);
    }

    #[test]
    fn content_depends_on_the_offset_alone() {
        let mut whole = [0; 64];
        download_content(42, 0, &mut whole);
        assert_eq!(whole[8..16], splitmix64(43).to_le_bytes());
        let mut part = [0; 21];
        download_content(42, 13, &mut part);
        assert_eq!(part, whole[13..34]);
        // The reference value of the published generator for state 0.
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
    }
}
