//! The control and status register of SSE (SDM volume 1, 10.2.3).

use thiserror::Error;

/// Invalid operation.
pub(super) const IE: u32 = 1 << 0;
/// Denormal operand.
pub(super) const DE: u32 = 1 << 1;
/// Division by zero.
pub(super) const ZE: u32 = 1 << 2;
/// Overflow.
pub(super) const OE: u32 = 1 << 3;
/// Underflow.
pub(super) const UE: u32 = 1 << 4;
/// Inexact result ("precision").
pub(super) const PE: u32 = 1 << 5;
/// Denormal operands are taken as zeros.
const DAZ: u32 = 1 << 6;
/// The masks stand this many bits above the flags.
const MASK_SHIFT: u32 = 7;
/// Tiny results become zeros, if underflow is masked.
const FTZ: u32 = 1 << 15;

/// How a result that does not fit is rounded (MXCSR.RC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// To the nearest, ties to even.
    Nearest,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// Towards zero.
    Zero,
}

/// Why an instruction of this kind does not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SimdFault {
    /// An unmasked floating-point exception: #XM, or #UD while CR4.OSXMMEXCPT is clear. The flags are set.
    #[error("unmasked SIMD floating-point exception: raise #XM in the guest, or #UD without CR4.OSXMMEXCPT")]
    FloatingPoint,
    /// LDMXCSR of a value with reserved bits: #GP(0).
    #[error("reserved MXCSR bits: raise #GP(0) in the guest")]
    Reserved,
}

/// A valid value of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mxcsr(u32);

impl Mxcsr {
    /// The bits that may be set, as FXSAVE stores them (MXCSR_MASK): all sixteen, DAZ included.
    pub(crate) const MASK: u32 = 0xFFFF;
    /// The value after reset (SDM volume 3, table 10-1): every exception masked, round to nearest.
    pub(crate) const RESET: Mxcsr = Mxcsr(0x1F80);

    /// Checks a value that the guest wants to load (LDMXCSR, FXRSTOR).
    ///
    /// # Errors
    /// [`SimdFault::Reserved`] if a bit outside [`Mxcsr::MASK`] is set.
    pub(crate) fn new(bits: u32) -> Result<Self, SimdFault> {
        if bits & !Self::MASK == 0 { Ok(Mxcsr(bits)) } else { Err(SimdFault::Reserved) }
    }

    /// The register as the guest sees it.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    pub(super) fn rounding(self) -> Rounding {
        match self.0 >> 13 & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }

    pub(super) fn denormals_are_zeros(self) -> bool {
        self.0 & DAZ != 0
    }

    /// FTZ. It has no effect while underflow is unmasked.
    pub(super) fn flush_to_zero(self) -> bool {
        self.0 & FTZ != 0
    }

    pub(super) fn masked(self, flag: u32) -> bool {
        self.0 >> MASK_SHIFT & flag == flag
    }

    /// Everything masked, round to nearest, no FTZ, no DAZ: what the host's own arithmetic does.
    pub(super) fn is_plain(self) -> bool {
        self.0 & !(IE | DE | ZE | OE | UE | PE) == Self::RESET.0
    }

    /// Whether an inexact result would change nothing.
    pub(super) fn knows_inexact(self) -> bool {
        self.0 & PE != 0
    }

    /// Records what an instruction met in all its lanes together.
    ///
    /// Invalid, denormal and divide-by-zero are found before anything is computed; if one of them is unmasked,
    /// the others are never found (SDM volume 1, 11.5.1).
    ///
    /// # Errors
    /// [`SimdFault::FloatingPoint`] if one of the exceptions is unmasked.
    pub(super) fn raise(&mut self, flags: u32) -> Result<(), SimdFault> {
        let unmasked = flags & !(self.0 >> MASK_SHIFT);
        let before = IE | DE | ZE;
        self.0 |= if unmasked & before == 0 { flags } else { flags & before };
        if unmasked == 0 { Ok(()) } else { Err(SimdFault::FloatingPoint) }
    }
}
