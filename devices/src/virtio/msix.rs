//! MSI-X (PCI 3.0 section 6.8.2): the table of messages, their masks, and what is pending behind a mask.

use serde::{Deserialize, Serialize};

use crate::state::Invalid;

/// The vector number that means "no interrupt" (virtio 1.2 section 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const ENTRY_MASK: u32 = 1;
/// Bytes of one table entry: address low and high, data, vector control.
const ENTRY_SIZE: u64 = 16;

/// A message-signalled interrupt: a write of `data` to `addr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Msi {
    pub(crate) addr: u64,
    pub(crate) data: u32,
}

/// The MSI-X part of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Msix {
    /// Enable and function mask of the message control register.
    control: u16,
    /// Address low, address high, data, vector control.
    table: Vec<[u32; 4]>,
    /// One bit per table entry.
    pending: u64,
}

impl Msix {
    /// A disabled MSI-X with `vectors` masked entries (at most 64).
    pub(crate) fn new(vectors: u16) -> Self {
        Msix { control: 0, table: vec![[0, 0, 0, ENTRY_MASK]; usize::from(vectors)], pending: 0 }
    }

    pub(crate) fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// The vector if the table has it, else [`NO_VECTOR`].
    pub(crate) fn checked_vector(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.table.len() { vector } else { NO_VECTOR }
    }

    /// The message control register: table size minus one in the low bits.
    pub(crate) fn control(&self) -> u16 {
        self.control | (self.table.len() as u16 - 1)
    }

    /// Byte 0 or 1 of the message control register is written.
    pub(crate) fn write_control(&mut self, index: usize, value: u8, out: &mut Vec<Msi>) {
        if index == 1 {
            self.control = (u16::from(value) << 8) & (ENABLE | FUNCTION_MASK);
            self.deliver_pending(out);
        }
    }

    /// Raises a vector: the message goes out, or is pending while masked.
    pub(crate) fn fire(&mut self, vector: u16, out: &mut Vec<Msi>) {
        if self.enabled() && usize::from(vector) < self.table.len() {
            self.pending |= 1 << vector;
            self.deliver_pending(out);
        }
    }

    fn deliver_pending(&mut self, out: &mut Vec<Msi>) {
        if self.control & (ENABLE | FUNCTION_MASK) != ENABLE {
            return;
        }
        for (vector, entry) in self.table.iter().enumerate() {
            let bit = 1 << vector;
            if self.pending & bit != 0 && entry[3] & ENTRY_MASK == 0 {
                self.pending &= !bit;
                out.push(Msi { addr: u64::from(entry[0]) | (u64::from(entry[1]) << 32), data: entry[2] });
            }
        }
    }

    /// Forgets what is pending: the device was reset.
    pub(crate) fn clear_pending(&mut self) {
        self.pending = 0;
    }

    /// Reads bytes of the table; beyond its end, zero.
    pub(crate) fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let entry = self.table.get((at / ENTRY_SIZE) as usize);
            *byte =
                entry.map_or(0, |entry| entry[(at % ENTRY_SIZE) as usize / 4].to_le_bytes()[at as usize % 4]);
        }
    }

    /// Writes the table: aligned words of four or eight bytes, as the specification demands; others have no
    /// effect.
    pub(crate) fn write_table(&mut self, offset: u64, data: &[u8], out: &mut Vec<Msi>) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (at, word) in (offset..).step_by(4).zip(data.as_chunks().0) {
            let field = (at % ENTRY_SIZE) as usize / 4;
            if let Some(entry) = self.table.get_mut((at / ENTRY_SIZE) as usize) {
                let writable = [!0b11, !0, !0, ENTRY_MASK][field];
                entry[field] = u32::from_le_bytes(*word) & writable;
            }
        }
        self.deliver_pending(out);
    }

    /// Reads bytes of the pending bit array; beyond its end, zero.
    pub(crate) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.pending.to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            *byte = bytes.get(at as usize).copied().unwrap_or(0);
        }
    }

    /// Checks a decoded value against the number of vectors that the function has.
    pub(crate) fn validate(&self, vectors: u16) -> Result<(), Invalid> {
        let table_ok = self.table.len() == usize::from(vectors)
            && self.table.iter().all(|entry| entry[0] & 0b11 == 0 && entry[3] & !ENTRY_MASK == 0);
        if table_ok && self.control & !(ENABLE | FUNCTION_MASK) == 0 && self.pending >> vectors == 0 {
            Ok(())
        } else {
            Err(Invalid("an MSI-X table holds an impossible value"))
        }
    }
}
