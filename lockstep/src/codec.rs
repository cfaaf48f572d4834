//! The one place that knows bincode: fixed-width little endian, a limit on every decode, no trailing bytes.
//!
//! Architecture Invariant: no other module names bincode's functions; types only derive its traits.

use bincode::{Decode, Encode};

/// Most bytes that one decode may read or allocate.
pub const DECODE_MAX: usize = 4 << 20;

/// Bytes that are not such a value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Cut short, over the limit, or an unknown discriminant.
    #[error("Not a valid message: {0}")]
    Malformed(String),
    /// Bytes are left over.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<DECODE_MAX>()
}

/// Encodes a value.
///
/// # Panics
/// When the value is larger than [`DECODE_MAX`]: senders bound what they build.
#[must_use]
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::legacy()).expect("encoding into memory cannot fail")
}

/// Decodes a value that fills `bytes` exactly.
///
/// # Errors
/// [`DecodeError`] for anything else.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = bincode::decode_from_slice(bytes, config())
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if used == bytes.len() { Ok(value) } else { Err(DecodeError::Trailing(bytes.len() - used)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{ExitKind, LogItem, Place, Position};

    #[test]
    fn golden_bytes() {
        let item = LogItem::RunTo(Position {
            index: 7,
            place: Place::Exit { exits: 300, kind: ExitKind::Halt },
            dirtied: 5,
        });
        let bytes = encode(&item);
        assert_eq!(
            bytes,
            [
                0, 0, 0, 0, // RunTo
                7, 0, 0, 0, 0, 0, 0, 0, // index
                0, 0, 0, 0, // Exit
                44, 1, 0, 0, 0, 0, 0, 0, // exits
                3, 0, 0, 0, // Halt
                5, 0, 0, 0, // dirtied
            ]
        );
        assert_eq!(decode::<LogItem>(&bytes), Ok(item));
    }

    #[test]
    fn trailing_and_short_bytes_are_refused() {
        let mut bytes = encode(&5u64);
        bytes.push(0);
        assert_eq!(decode::<u64>(&bytes), Err(DecodeError::Trailing(1)));
        assert!(matches!(decode::<u64>(&bytes[..7]), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        let bytes = encode(&u64::MAX);
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(DecodeError::Malformed(_))));
    }
}
