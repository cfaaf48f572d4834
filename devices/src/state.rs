//! The saved form of the machine: one section per device, each a tag, a version, a length and a postcard
//! body. The form is canonical: equal machines have equal bytes, and only such bytes are accepted.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// No saved state is longer, in bytes. The largest parts are the network cards' backlogs, each
/// below 100 KiB.
const LIMIT: usize = 1 << 20;
/// No counter in a saved state is larger, so that counting on and adding up never overflow.
pub(crate) const COUNT_MAX: u64 = 1 << 60;
/// Tag, version, length.
const HEADER: usize = 4 + 2 + 4;

/// Why saved bytes were refused. The machine is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// More bytes than any machine saves.
    #[error("the saved state has {0} bytes, more than the limit of {LIMIT}")]
    TooLong(usize),
    /// The bytes end within a section.
    #[error("the saved state ends within the section of the {0}; fetch it again")]
    Truncated(&'static str),
    /// Another section stands where this one belongs.
    #[error("the saved state has no section of the {0} where one belongs; it is of another program")]
    WrongSection(&'static str),
    /// A section of another version of this program.
    #[error(
        "the {device} was saved in version {found}, this program reads version {supported}; run the same release on both hosts"
    )]
    WrongVersion {
        /// The section's device.
        device: &'static str,
        /// The version found.
        found: u16,
        /// The version that this program reads and writes.
        supported: u16,
    },
    /// A section's body cannot be decoded.
    #[error("the saved {0} cannot be decoded")]
    Malformed(&'static str),
    /// The state is of a machine with other devices.
    #[error("the saved state is of a machine with another configuration; compare the two configurations")]
    OtherConfig,
    /// A value that no machine can have.
    #[error("the saved state is impossible: {0}")]
    Impossible(&'static str),
    /// Bytes after the last section, or a form that saving does not produce.
    #[error("the saved state is not in canonical form")]
    NotCanonical,
}

/// A decoded value that no machine can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalid(pub(crate) &'static str);

impl From<Invalid> for RestoreError {
    fn from(invalid: Invalid) -> Self {
        RestoreError::Impossible(invalid.0)
    }
}

/// What a section is called: its tag, its version, its name in messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) tag: [u8; 4],
    pub(crate) version: u16,
    pub(crate) name: &'static str,
}

/// Collects sections.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn section<T: Serialize>(&mut self, section: Section, value: &T) {
        // The state structures have known lengths and no maps with foreign keys: postcard takes them all.
        let body = postcard::to_stdvec(value).expect("a device's state can be encoded");
        self.0.extend_from_slice(&section.tag);
        self.0.extend_from_slice(&section.version.to_le_bytes());
        self.0.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.0.extend_from_slice(&body);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes sections apart.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, RestoreError> {
        if bytes.len() > LIMIT { Err(RestoreError::TooLong(bytes.len())) } else { Ok(Reader(bytes)) }
    }

    /// Decodes the next section, which must be this one and be used up.
    pub(crate) fn section<T: DeserializeOwned>(&mut self, section: Section) -> Result<T, RestoreError> {
        let Section { tag, version, name } = section;
        let truncated = || RestoreError::Truncated(name);
        let (header, rest) = self.0.split_first_chunk::<HEADER>().ok_or_else(truncated)?;
        let [t0, t1, t2, t3, v0, v1, length @ ..] = *header;
        if [t0, t1, t2, t3] != tag {
            return Err(RestoreError::WrongSection(name));
        }
        let found = u16::from_le_bytes([v0, v1]);
        if found != version {
            return Err(RestoreError::WrongVersion { device: name, found, supported: version });
        }
        let length = u32::from_le_bytes(length) as usize;
        let (body, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok(_) | Err(_) => Err(RestoreError::Malformed(name)),
        }
    }
}

/// The saved form of a virtqueue. Its maximum size is kept too: it is compared with the device's.
pub(crate) mod queue {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use virtio_queue::{Queue, QueueState};

    #[derive(Serialize, Deserialize)]
    struct Saved {
        max_size: u16,
        size: u16,
        ready: bool,
        next_avail: u16,
        next_used: u16,
        desc_table: u64,
        avail_ring: u64,
        used_ring: u64,
    }

    pub(crate) fn serialize<S: Serializer>(queue: &Queue, serializer: S) -> Result<S::Ok, S::Error> {
        let state = queue.state();
        Saved {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            next_avail: state.next_avail,
            next_used: state.next_used,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        }
        .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Queue, D::Error> {
        let saved = Saved::deserialize(deserializer)?;
        let state = QueueState {
            max_size: saved.max_size,
            next_avail: saved.next_avail,
            next_used: saved.next_used,
            event_idx_enabled: false,
            size: saved.size,
            ready: saved.ready,
            desc_table: saved.desc_table,
            avail_ring: saved.avail_ring,
            used_ring: saved.used_ring,
        };
        Queue::try_from(state).map_err(D::Error::custom)
    }
}
