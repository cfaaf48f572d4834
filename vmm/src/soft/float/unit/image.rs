//! The unit in memory, and its registers as MMX has them.

use super::super::value::{F80, Kind};
use super::{Unit, flag};

/// Bytes of the FXSAVE image.
pub(crate) const FXSAVE_SIZE: usize = 512;
/// Bytes of the longest FSAVE image.
pub(crate) const STATE_SIZE: usize = 108;

/// Where the registers are in an FXSAVE image.
const REGISTERS: std::ops::Range<usize> = 32..160;
/// Where opcode, instruction and operand address are in it.
const LAST: std::ops::Range<usize> = 6..24;

/// The layout of FSTENV, FLDENV, FSAVE and FRSTOR in protected mode, by operand size (SDM volume 1 figures 8-9
/// and 8-11). Real mode has others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// 16 bits.
    Short,
    /// 32 bits. Also in 64-bit mode.
    Long,
}

impl Layout {
    /// Bytes of an environment: FSTENV and FLDENV.
    pub(crate) fn environment_size(self) -> usize {
        match self {
            Layout::Short => 14,
            Layout::Long => 28,
        }
    }

    /// Bytes of a state: FSAVE and FRSTOR.
    pub(crate) fn state_size(self) -> usize {
        self.environment_size() + 80
    }

    /// Bytes from one field to the next, for the seven fields.
    fn stride(self) -> usize {
        self.environment_size() / 7
    }
}

impl Unit {
    /// The tag word of two bits per physical register (SDM volume 1 figure 8-7).
    fn tags(&self) -> u16 {
        let tag = |physical: usize| match self.registers[physical].kind() {
            _ if self.used >> physical & 1 == 0 => 3,
            Kind::Normal => 0,
            Kind::Zero => 1,
            _ => 2,
        };
        (0..8).fold(0, |tags, physical| tags | tag(physical) << (2 * physical))
    }

    /// Of a tag word only "empty" counts; the rest is in the registers.
    fn set_tags(&mut self, tags: u16) {
        self.used =
            (0..8).fold(0, |used, physical| used | u8::from(tags >> (2 * physical) & 3 != 3) << physical);
    }

    fn put_environment(&self, layout: Layout, image: &mut [u8; STATE_SIZE]) {
        let stride = layout.stride();
        let mut put = |field: usize, bytes: &[u8]| {
            image[field * stride..field * stride + bytes.len()].copy_from_slice(bytes);
        };
        for (field, word) in [self.control, self.status, self.tags()].into_iter().enumerate() {
            put(field, &word.to_le_bytes());
            if layout == Layout::Long {
                // The upper half of these reads as ones.
                put(field, &(u32::from(word) | 0xffff << 16).to_le_bytes());
            }
        }
        // Instruction pointer and selector, operand pointer and selector; the opcode shares a field.
        let last = &self.last;
        match layout {
            Layout::Short => {
                for (field, at) in [(3, 2), (4, 6), (5, 10), (6, 14)] {
                    put(field, &last[at..at + 2]);
                }
            }
            Layout::Long => {
                put(3, &last[2..6]);
                put(4, &[last[6], last[7], last[0], last[1] & 7]);
                put(5, &last[10..14]);
                put(6, &[last[14], last[15], 0xff, 0xff]);
            }
        }
    }

    /// FNSTENV: the image, of which [`Layout::environment_size`] bytes count. Masks all exceptions.
    pub(crate) fn store_environment(&mut self, layout: Layout) -> [u8; STATE_SIZE] {
        let mut image = [0; STATE_SIZE];
        self.put_environment(layout, &mut image);
        self.set_control(self.control | u16::from(flag::ALL));
        image
    }

    /// FLDENV
    pub(crate) fn load_environment(&mut self, layout: Layout, image: &[u8; STATE_SIZE]) {
        let stride = layout.stride();
        let word = |field: usize| u16::from_le_bytes([image[field * stride], image[field * stride + 1]]);
        self.status = word(1);
        self.set_tags(word(2));
        self.set_control(word(0));
        self.last = [0; 18];
        match layout {
            Layout::Short => {
                for (field, at) in [(3, 2), (4, 6), (5, 10), (6, 14)] {
                    self.last[at..at + 2].copy_from_slice(&word(field).to_le_bytes());
                }
            }
            Layout::Long => {
                self.last[0..2].copy_from_slice(&[image[18], image[19] & 7]);
                self.last[2..6].copy_from_slice(&image[12..16]);
                self.last[6..8].copy_from_slice(&image[16..18]);
                self.last[10..14].copy_from_slice(&image[20..24]);
                self.last[14..16].copy_from_slice(&image[24..26]);
            }
        }
    }

    /// FNSAVE: the image, of which [`Layout::state_size`] bytes count. Ends with FNINIT.
    pub(crate) fn store_state(&mut self, layout: Layout) -> [u8; STATE_SIZE] {
        let mut image = [0; STATE_SIZE];
        self.put_environment(layout, &mut image);
        let places = image[layout.environment_size()..layout.state_size()].as_chunks_mut::<10>().0;
        for (i, place) in (0..).zip(places) {
            *place = self.raw(i).to_bytes();
        }
        self.init();
        image
    }

    /// FRSTOR
    pub(crate) fn load_state(&mut self, layout: Layout, image: &[u8; STATE_SIZE]) {
        self.load_environment(layout, image);
        let places = image[layout.environment_size()..layout.state_size()].as_chunks::<10>().0;
        for (i, place) in (0..).zip(places) {
            let physical = self.physical(i);
            self.registers[physical] = F80::from_bytes(*place);
        }
    }

    /// FXSAVE: the first 160 bytes but for MXCSR and its mask, which are not touched (SDM volume 1 table 10-2).
    /// Reserved bytes become zero.
    pub(crate) fn save(&self, image: &mut [u8; FXSAVE_SIZE]) {
        image[0..2].copy_from_slice(&self.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.status.to_le_bytes());
        image[4] = self.used;
        image[5] = 0;
        image[LAST].copy_from_slice(&self.last);
        for (i, place) in (0..).zip(image[REGISTERS].as_chunks_mut::<16>().0) {
            place[..10].copy_from_slice(&self.raw(i).to_bytes());
            place[10..].fill(0);
        }
    }

    /// FXRSTOR: the reverse.
    pub(crate) fn restore(&mut self, image: &[u8; FXSAVE_SIZE]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        self.status = word(2);
        self.used = image[4];
        self.last.copy_from_slice(&image[LAST]);
        for (i, place) in (0..).zip(image[REGISTERS].as_chunks::<16>().0) {
            let physical = self.physical(i);
            let [value @ .., _, _, _, _, _, _] = *place;
            self.registers[physical] = F80::from_bytes(value);
        }
        self.set_control(word(0));
    }

    /// Before any MMX instruction but EMMS: the stack's top is register 0, and none is empty.
    pub(crate) fn enter_mmx(&mut self) {
        self.set_top(0);
        self.used = 0xff;
    }

    /// EMMS: the stack's top is register 0, and all are empty.
    pub(crate) fn leave_mmx(&mut self) {
        self.set_top(0);
        self.used = 0;
    }

    /// An MMX register: the significand of the physical one.
    pub(crate) fn mmx(&self, number: u8) -> u64 {
        self.registers[usize::from(number & 7)].mant
    }

    /// Writes an MMX register; sign and exponent become ones.
    pub(crate) fn set_mmx(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number & 7)] = F80 { sign_exp: 0xffff, mant: value };
    }
}
