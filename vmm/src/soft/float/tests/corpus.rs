//! Seeded operands, most of them hard.

use super::super::value::{BIAS, F80, INTEGER};
use super::super::{FXSAVE_SIZE, STATE_SIZE};
use super::native::Machine;

/// Splitmix64: the same sequence for the same seed, everywhere.
pub(super) struct Seeded(pub(super) u64);

impl Seeded {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Bits with long runs, ends that matter to rounding, or none of it.
    fn significand(&mut self) -> u64 {
        let random = self.next();
        let shift = self.below(64);
        match self.below(12) {
            0 => 0,
            1 => random >> shift << shift,
            2 => u64::MAX << shift,
            3 => u64::MAX >> shift,
            4 => 1 << shift,
            // Around the ends of 24 and 53 bits.
            5 => (random & !0x7ff) + self.of(&[0, 1, 0x3ff, 0x400, 0x401, 0x7ff]),
            6 => {
                (random & !0xff_ffff_ffff) + self.of(&[0, 1, 0x7f_ffff_ffff, 0x80_0000_0000, 0x80_0000_0001])
            }
            7 => !(1 << shift),
            8 => INTEGER | self.below(4),
            _ => random,
        }
    }

    /// A value of any kind, with an exponent near `around` more often than not.
    pub(super) fn value(&mut self, around: i32) -> F80 {
        let near = self.below(140) as i32 - 70;
        let exp = match self.below(16) {
            0 => 0,
            1 => self.of(&[0, 1, 2, 0x7ffd, 0x7ffe, 0x7fff]),
            2 => 0x7fff,
            3 => {
                self.of(&[BIAS - 127, BIAS + 127, BIAS - 1023, BIAS + 1023, BIAS - 149, BIAS - 1074])
                    + near / 20
            }
            4 => self.below(0x8000) as i32,
            5 => {
                self.of(&[BIAS, BIAS + 14, BIAS + 15, BIAS + 30, BIAS + 31, BIAS + 62, BIAS + 63, BIAS + 59])
            }
            6 | 7 => BIAS + near,
            8 | 9 => around,
            _ => around + near,
        };
        let exp = exp.clamp(0, 0x7fff) as u16;
        let mut mant = self.significand();
        // Without the integer bit it is a denormal, or no number at all: that should be rare.
        if exp != 0 && self.below(32) != 0 {
            mant |= INTEGER;
        }
        F80 { sign_exp: exp, mant }.with_sign(self.below(2) != 0)
    }

    /// Registers, control and memory for one case. No unmasked exception is pending. Some exceptions are
    /// unmasked, and the reserved precision is used, only if `all`.
    pub(super) fn machine(&mut self, all: bool) -> Machine {
        let masks = if !all || self.below(5) < 3 { 0x3f } else { self.below(64) as u16 };
        let precision = if all { self.below(4) } else { self.of(&[0, 2, 3]) };
        let control = ((self.below(4) << 2 | precision) as u16) << 8 | 0x40 | masks;
        let top = self.below(8) as u16;
        let flags = if self.below(4) == 0 { self.below(128) as u16 & (masks | 0x40) } else { 0 };
        let codes = self.next() as u16 & 0x4700;
        // Three registers in use, or any.
        let mut tags = 0xffff_u16;
        for i in 0..8 {
            let used = if masks & 1 == 0 || self.below(4) != 0 { i < 3 } else { self.below(4) != 0 };
            if used {
                tags &= !(3 << (2 * ((top + i) & 7)));
            }
        }
        let mut image = [0; STATE_SIZE];
        for (at, word) in [(0, control), (4, flags | codes | top << 11), (8, tags)] {
            image[at..at + 2].copy_from_slice(&word.to_le_bytes());
            image[at + 2..at + 4].fill(0xff);
        }
        let centre = self.of(&[BIAS, BIAS, 64, 0x7fc0, 16000]);
        for place in image[28..].as_chunks_mut::<10>().0 {
            *place = self.value(centre).to_bytes();
        }
        let mut memory = [0; FXSAVE_SIZE];
        memory[..8].copy_from_slice(&self.next().to_le_bytes());
        memory[8..16].copy_from_slice(&self.next().to_le_bytes());
        Machine { memory, image, ax: self.next() as u16 & 0xd500 | 0x0200 }
    }
}
