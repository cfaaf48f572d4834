//! Loads and stores.

use super::super::convert::{
    from_bcd, from_f32, from_f64, from_i64, loaded, store_bcd, store_f32, store_f64, store_int,
};
use super::super::env::{Env, flag};
use super::super::value::F80;
use super::{C1, Unit};

/// A fetched operand, in its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Single precision.
    F32(u32),
    /// Double precision.
    F64(u64),
    /// Double extended precision, little-endian.
    F80([u8; 10]),
    /// Signed, 16 bits.
    I16(i16),
    /// Signed, 32 bits.
    I32(i32),
    /// Signed, 64 bits.
    I64(i64),
    /// Packed decimal, eighteen digits and a sign byte.
    Bcd([u8; 10]),
}

impl Memory {
    /// The value, and whether it is a denormal of a format shorter than a register.
    fn widened(self) -> (F80, bool) {
        match self {
            Memory::F32(bits) => from_f32(bits),
            Memory::F64(bits) => from_f64(bits),
            Memory::F80(bytes) => (F80::from_bytes(bytes), false),
            Memory::I16(value) => (from_i64(i64::from(value)), false),
            Memory::I32(value) => (from_i64(i64::from(value)), false),
            Memory::I64(value) => (from_i64(value), false),
            Memory::Bcd(bytes) => (from_bcd(bytes), false),
        }
    }

    /// As the operand of an operation, which will look after NaNs and denormals.
    pub(super) fn operand(self, env: &mut Env) -> F80 {
        let (value, narrow_denormal) = self.widened();
        if narrow_denormal {
            env.note_narrow_denormal();
        }
        value
    }
}

/// The format of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// FST and FSTP, single precision.
    F32,
    /// FST and FSTP, double precision.
    F64,
    /// FSTP, double extended precision.
    F80,
    /// FIST and FISTP, 16 bits; toward zero (FISTTP) if set, else as the control word says.
    I16 {
        /// FISTTP.
        truncate: bool,
    },
    /// The same, 32 bits.
    I32 {
        /// FISTTP.
        truncate: bool,
    },
    /// The same, 64 bits.
    I64 {
        /// FISTTP.
        truncate: bool,
    },
    /// FBSTP.
    Bcd,
}

/// What a store writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    bytes: [u8; 10],
    len: usize,
}

impl Stored {
    fn new(bytes: &[u8]) -> Stored {
        let mut stored = Stored { bytes: [0; 10], len: bytes.len() };
        stored.bytes[..bytes.len()].copy_from_slice(bytes);
        stored
    }

    /// The bytes, little-endian.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Size {
    /// Bytes of the format.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Size::I16 { .. } => 2,
            Size::F32 | Size::I32 { .. } => 4,
            Size::F64 | Size::I64 { .. } => 8,
            Size::F80 | Size::Bcd => 10,
        }
    }

    fn convert(self, env: &mut Env, a: F80) -> Option<Stored> {
        let integer = |env: &mut Env, bits, truncate| {
            let value = store_int(env, a, bits, truncate)?;
            Some(Stored::new(&value.to_le_bytes()[..bits as usize / 8]))
        };
        match self {
            Size::F32 => store_f32(env, a).map(|bits| Stored::new(&bits.to_le_bytes())),
            Size::F64 => store_f64(env, a).map(|bits| Stored::new(&bits.to_le_bytes())),
            Size::F80 => Some(Stored::new(&a.to_bytes())),
            Size::I16 { truncate } => integer(env, 16, truncate),
            Size::I32 { truncate } => integer(env, 32, truncate),
            Size::I64 { truncate } => integer(env, 64, truncate),
            Size::Bcd => store_bcd(env, a).map(|bytes| Stored::new(&bytes)),
        }
    }

    /// What is stored for an empty register: the format's indefinite value, which is that of a value which
    /// the format does not have.
    fn indefinite(self) -> Option<Stored> {
        let mut env = Env::new(u16::from(flag::ALL));
        self.convert(&mut env, F80::INDEFINITE)
    }
}

impl Unit {
    /// FLD, FILD, FBLD
    pub(crate) fn load(&mut self, source: Memory) {
        let room = match self.room() {
            Some(room) => room,
            None => return,
        };
        if !room {
            return self.push(F80::INDEFINITE);
        }
        let mut env = self.env();
        let value = loaded(&mut env, source.widened(), matches!(source, Memory::F80(_)));
        self.report(&env);
        if let Some(value) = value {
            self.push(value);
        }
    }

    /// FST, FSTP, FIST, FISTP, FISTTP, FBSTP: what memory gets. `None`: an unmasked exception; neither memory
    /// nor the stack changes.
    pub(crate) fn store(&mut self, size: Size, pop: bool) -> Option<Stored> {
        let Some(value) = self.get(0) else {
            if !self.stack_fault(false) {
                return None;
            }
            self.pop_if(pop);
            return size.indefinite();
        };
        let mut env = self.env();
        let stored = size.convert(&mut env, value);
        self.report(&env);
        if stored.is_some() {
            self.pop_if(pop);
        } else {
            self.set_status(C1, 0);
        }
        stored
    }
}
