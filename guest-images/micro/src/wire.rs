//! The services' messages (all integers little endian) and the download's byte stream.

/// Size of a request and of a reply, in bytes.
pub const MESSAGE: usize = 64;
/// Size of the download's opening message, in bytes.
pub const DOWNLOAD_HEADER: usize = 16;

/// A client's wish to count once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub client: u32,
    /// The client's own number for this request; a repeated number is answered, not counted.
    pub id: u64,
    /// Which counter, below [`COUNTERS`](crate::ledger::COUNTERS).
    pub counter: u32,
}

impl Request {
    /// Reads a request; `None` if it is not exactly one well-formed request.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MESSAGE] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (magic, flags, counter) = (&bytes[..4], word(20), word(16));
        let known = magic == b"TWRQ" && flags == 0 && (counter as usize) < crate::ledger::COUNTERS;
        known.then(|| Self { client: word(4), id: u64::from(word(8)) | u64::from(word(12)) << 32, counter })
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// As in the request.
    pub client: u32,
    /// As in the request.
    pub id: u64,
    /// The counter that was moved the first time.
    pub counter: u32,
    /// The request was known already: nothing was counted now.
    pub repeated: bool,
    /// The counter's value right after this request was counted.
    pub value: u64,
    /// Differs for every boot of the guest.
    pub boot_id: u64,
    /// Guest time at which the reply was made, in nanoseconds.
    pub uptime_ns: u64,
}

impl Reply {
    /// The reply's 64 bytes.
    pub fn encode(&self) -> [u8; MESSAGE] {
        let mut bytes = [0; MESSAGE];
        bytes[..4].copy_from_slice(b"TWRP");
        bytes[4..8].copy_from_slice(&self.client.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.counter.to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::from(self.repeated).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.value.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.boot_id.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.uptime_ns.to_le_bytes());
        bytes
    }
}

/// The question how far the CPU job is: magic and zeros.
pub const PROGRESS_REQUEST: [u8; 16] = *b"TWJQ\0\0\0\0\0\0\0\0\0\0\0\0";
/// Size of the answer, in bytes.
pub const PROGRESS_REPLY: usize = 32;

/// How far the CPU job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rounds that are done.
    pub rounds: u64,
    /// The hash after them: the same for the same seed, work area and number of rounds.
    pub hash: u64,
}

impl Progress {
    /// The answer's bytes.
    pub fn encode(self, uptime_ns: u64) -> [u8; PROGRESS_REPLY] {
        let mut bytes = [0; PROGRESS_REPLY];
        bytes[..4].copy_from_slice(b"TWJP");
        bytes[8..16].copy_from_slice(&self.rounds.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.hash.to_le_bytes());
        bytes[24..32].copy_from_slice(&uptime_ns.to_le_bytes());
        bytes
    }
}

/// One round of the splitmix64 generator, as a hash of `x`.
pub const fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A download: which bytes come next. Byte `o` is byte `o % 8` of `splitmix64(seed + o / 8)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    seed: u64,
    offset: u64,
}

impl Stream {
    /// Reads the opening message: seed, then the offset to start at.
    pub fn decode(header: &[u8; DOWNLOAD_HEADER]) -> Self {
        let (seed, start) = header.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Self { seed: word(seed), offset: word(start) }
    }

    fn word(&self) -> u64 {
        splitmix64(self.seed.wrapping_add(self.offset / 8))
    }

    /// Fills `out` with the next bytes and moves on.
    pub fn fill(&mut self, out: &mut [u8]) {
        let skip = (self.offset % 8) as usize;
        let lead = if skip == 0 { 0 } else { out.len().min(8 - skip) };
        let (head, body) = out.split_at_mut(lead);
        head.copy_from_slice(&self.word().to_le_bytes()[skip..][..lead]);
        self.offset = self.offset.wrapping_add(lead as u64);
        for chunk in body.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
            self.offset = self.offset.wrapping_add(chunk.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(counter: u32, flags: u32) -> [u8; MESSAGE] {
        let mut bytes = [0; MESSAGE];
        bytes[..4].copy_from_slice(b"TWRQ");
        bytes[4..8].copy_from_slice(&7_u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&0x0102_0304_0506_0708_u64.to_le_bytes());
        bytes[16..20].copy_from_slice(&counter.to_le_bytes());
        bytes[20..24].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn a_request_is_read_or_refused() {
        let known = Request { client: 7, id: 0x0102_0304_0506_0708, counter: 1023 };
        assert_eq!(Request::decode(&request(1023, 0)), Some(known));
        assert_eq!(Request::decode(&request(1024, 0)), None);
        assert_eq!(Request::decode(&request(0, 1)), None);
        assert_eq!(Request::decode(&request(0, 0)[..63]), None);
        let mut other = request(0, 0);
        other[3] = b'P';
        assert_eq!(Request::decode(&other), None);
    }

    #[test]
    fn a_reply_has_its_fields_in_place() {
        let reply =
            Reply { client: 1, id: 2, counter: 3, repeated: true, value: 4, boot_id: 5, uptime_ns: 6 };
        let mut expected = b"TWRP\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0".to_vec();
        for field in [4_u64, 5, 6, 0, 0] {
            expected.extend(field.to_le_bytes());
        }
        assert_eq!(reply.encode().to_vec(), expected);
    }

    #[test]
    fn progress_has_its_fields_in_place() {
        let mut expected = b"TWJP\0\0\0\0".to_vec();
        for field in [7_u64, 8, 9] {
            expected.extend(field.to_le_bytes());
        }
        assert_eq!(Progress { rounds: 7, hash: 8 }.encode(9).to_vec(), expected);
    }

    #[test]
    fn splitmix_gives_the_published_values() {
        // The generator seeded with 0: its first two outputs.
        assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(splitmix64(0x9E37_79B9_7F4A_7C15), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn a_stream_is_the_same_in_any_pieces() {
        let header = |start: u64| {
            let mut header = [0; DOWNLOAD_HEADER];
            header[..8].copy_from_slice(&99_u64.to_le_bytes());
            header[8..].copy_from_slice(&start.to_le_bytes());
            header
        };
        let byte = |o: u64| splitmix64(99 + o / 8).to_le_bytes()[(o % 8) as usize];
        for start in 0..9 {
            let mut stream = Stream::decode(&header(start));
            let mut got = Vec::new();
            for size in [1, 2, 3, 5, 8, 13, 0, 21] {
                let mut piece = vec![0; size];
                stream.fill(&mut piece);
                got.extend(piece);
            }
            let expected: Vec<u8> = (start..start + 53).map(byte).collect();
            assert_eq!(got, expected, "start {start}");
        }
    }
}
