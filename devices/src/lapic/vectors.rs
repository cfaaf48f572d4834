//! A set of the 256 interrupt vectors, as the IRR, ISR and TMR registers hold it.

use serde::{Deserialize, Serialize};

/// A set of vectors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    /// The 32-bit register at this byte offset of the eight (16 bytes apart).
    pub(super) fn word(&self, offset: u64) -> u32 {
        self.0[(offset / 16) as usize % 8]
    }

    pub(super) fn set(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] |= 1 << (vector % 32);
    }

    pub(super) fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] &= !(1 << (vector % 32));
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] & (1 << (vector % 32)) != 0
    }

    pub(super) fn assign(&mut self, vector: u8, member: bool) {
        if member {
            self.set(vector);
        } else {
            self.clear(vector);
        }
    }

    /// The highest vector, which has the highest priority.
    pub(super) fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index as u8) * 32 + (31 - word.leading_zeros() as u8))
    }

    /// Whether no vector below `first` (at most 32) is in the set.
    pub(super) fn all_at_least(&self, first: u8) -> bool {
        self.0[0].trailing_zeros() >= u32::from(first)
    }
}
