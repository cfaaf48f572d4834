//! The saved machine: mark, format number, then the parts.

use serde::{Deserialize, Serialize};

use crate::error::{RestoreError, SaveError};
use crate::vcpu::CpuState;

const MARK: [u8; 4] = *b"TWVM";
/// Changes with every change of [`SavedVm`], [`CpuState`] or the machine table.
const FORMAT: u16 = 2;

/// Everything of a machine but its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedVm {
    /// After HLT.
    pub halted: bool,
    /// The processor.
    pub cpu: CpuState,
    /// What `devices::Platform::save` wrote.
    pub devices: Vec<u8>,
}

/// Mark, format (little endian), postcard. Equal states give equal bytes.
pub(crate) fn encode(saved: &SavedVm) -> Result<Vec<u8>, SaveError> {
    let mut bytes = Vec::with_capacity(2048);
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    postcard::to_extend(saved, bytes).map_err(|error| SaveError::Encode(error.to_string()))
}

/// The reverse; refuses anything that `encode` does not write.
pub(crate) fn decode(bytes: &[u8]) -> Result<SavedVm, RestoreError> {
    let body = bytes.strip_prefix(&MARK).ok_or(RestoreError::NotAMachine)?;
    let (format, body) = body.split_first_chunk::<2>().ok_or(RestoreError::NotAMachine)?;
    let got = u16::from_le_bytes(*format);
    if got != FORMAT {
        return Err(RestoreError::Version { got, want: FORMAT });
    }
    let (saved, rest) = postcard::take_from_bytes::<SavedVm>(body)
        .map_err(|error| RestoreError::Damaged(error.to_string()))?;
    if !rest.is_empty() {
        return Err(RestoreError::Damaged(format!("{} bytes too many", rest.len())));
    }
    Ok(saved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::tests_support::boot_state;

    fn sample() -> Vec<u8> {
        encode(&SavedVm { halted: true, cpu: boot_state(), devices: vec![1, 2, 3] }).expect("encodes")
    }

    #[test]
    fn round_trip() {
        let saved = decode(&sample()).expect("decodes");
        assert_eq!(saved.devices, [1, 2, 3]);
        assert_eq!(encode(&saved).expect("encodes"), sample());
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
    }

    #[test]
    fn other_formats_and_tails_are_refused() {
        let mut other = sample();
        other[4] ^= 0x40;
        assert!(matches!(decode(&other), Err(RestoreError::Version { got: 0x42, want: 2 })));
        let mut long = sample();
        long.push(0);
        assert!(matches!(decode(&long), Err(RestoreError::Damaged(_))));
        assert!(matches!(decode(b"ELF!!!!!!"), Err(RestoreError::NotAMachine)));
    }
}
