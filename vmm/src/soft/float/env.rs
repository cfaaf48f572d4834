//! What an operation is told by the control word, and what it tells the status word.

/// Exception flags of the status word, and masks of the control word (SDM volume 1 figures 8-4 and 8-6).
pub(super) mod flag {
    /// Invalid operation.
    pub(crate) const INVALID: u8 = 1;
    /// A denormal operand.
    pub(crate) const DENORMAL: u8 = 2;
    /// Division of a finite number by zero.
    pub(crate) const ZERO_DIVIDE: u8 = 4;
    /// Overflow.
    pub(crate) const OVERFLOW: u8 = 8;
    /// Underflow.
    pub(crate) const UNDERFLOW: u8 = 16;
    /// Inexact result.
    pub(crate) const PRECISION: u8 = 32;
    /// All of them.
    pub(crate) const ALL: u8 = 63;
}

/// Rounding control, bits 10 and 11 of the control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// Toward zero.
    Zero,
}

/// The surroundings of one operation.
#[derive(Debug, Clone)]
pub(super) struct Env {
    control: u16,
    raised: u8,
    up: bool,
    narrow_denormal: bool,
}

impl Env {
    /// Under this control word.
    pub(super) fn new(control: u16) -> Env {
        Env { control, raised: 0, up: false, narrow_denormal: false }
    }

    /// The operand from memory was a denormal of its own format, although it is none of 80 bits.
    pub(super) fn note_narrow_denormal(&mut self) {
        self.narrow_denormal = true;
    }

    /// Whether [`Self::note_narrow_denormal`] was told.
    pub(super) fn narrow_denormal(&self) -> bool {
        self.narrow_denormal
    }

    /// Rounding control.
    pub(super) fn rounding(&self) -> Rounding {
        match self.control >> 10 & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }

    /// Precision control: bits of the significand. The reserved value 1 is 64 bits.
    pub(super) fn precision(&self) -> u32 {
        match self.control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        }
    }

    /// Notes exceptions.
    pub(super) fn raise(&mut self, flags: u8) {
        self.raised |= flags;
    }

    /// Notes an exception that comes before the operation; whether it stops it.
    pub(super) fn stops(&mut self, flag: u8) -> bool {
        self.raise(flag);
        !self.masked(flag)
    }

    /// Whether the exception has a masked response.
    pub(super) fn masked(&self, flag: u8) -> bool {
        self.control & u16::from(flag) != 0
    }

    /// Notes that the result is inexact, and whether it was rounded away from zero.
    pub(super) fn inexact(&mut self, up: bool) {
        self.raise(flag::PRECISION);
        self.up = up;
    }

    /// Exceptions noted so far.
    pub(super) fn raised(&self) -> u8 {
        self.raised
    }

    /// Whether the last inexact result was rounded away from zero: C1.
    pub(super) fn rounded_up(&self) -> bool {
        self.up
    }
}
