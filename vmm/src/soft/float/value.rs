//! The double extended-precision format (SDM volume 1 section 4.2.2): sign, 15 bits of exponent with bias
//! 16383, and 64 bits of significand whose first one is the integer bit.

/// Exponent field of infinities and NaNs.
pub(super) const EXPONENT_MAX: i32 = 0x7fff;
/// What the exponent field adds.
pub(super) const BIAS: i32 = 16383;
/// The integer bit of the significand.
pub(super) const INTEGER: u64 = 1 << 63;
/// The bit that makes a NaN quiet.
const QUIET: u64 = 1 << 62;

/// A value of 80 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct F80 {
    /// Sign in bit 15, exponent field below.
    pub(crate) sign_exp: u16,
    /// Significand with its integer bit.
    pub(crate) mant: u64,
}

/// What an encoding stands for (SDM volume 1 tables 4-3 and 8-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of either sign.
    Zero,
    /// Denormal or pseudo-denormal.
    Denormal,
    /// A normal number.
    Normal,
    /// Of either sign.
    Infinity,
    /// A quiet NaN.
    Quiet,
    /// A signalling NaN.
    Signalling,
    /// Unnormal, pseudo-infinity or pseudo-NaN: no processor since the 387 takes them.
    Unsupported,
}

impl F80 {
    /// The real indefinite: the default NaN.
    pub(crate) const INDEFINITE: F80 = F80 { sign_exp: 0xffff, mant: INTEGER | QUIET };
    /// One.
    pub(crate) const ONE: F80 = F80 { sign_exp: 0x3fff, mant: INTEGER };

    /// A zero.
    pub(crate) fn zero(neg: bool) -> F80 {
        F80 { sign_exp: 0, mant: 0 }.with_sign(neg)
    }

    /// An infinity.
    pub(crate) fn infinity(neg: bool) -> F80 {
        F80 { sign_exp: 0x7fff, mant: INTEGER }.with_sign(neg)
    }

    /// From its ten bytes of memory, little-endian.
    pub(crate) fn from_bytes(bytes: [u8; 10]) -> F80 {
        let [m0, m1, m2, m3, m4, m5, m6, m7, e0, e1] = bytes;
        F80 {
            sign_exp: u16::from_le_bytes([e0, e1]),
            mant: u64::from_le_bytes([m0, m1, m2, m3, m4, m5, m6, m7]),
        }
    }

    /// The ten bytes that memory has of it, little-endian.
    pub(crate) fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.mant.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exp.to_le_bytes());
        bytes
    }

    /// Whether the sign bit is set.
    pub(crate) fn negative(self) -> bool {
        self.sign_exp & 0x8000 != 0
    }

    /// The same with this sign.
    pub(crate) fn with_sign(self, neg: bool) -> F80 {
        F80 { sign_exp: self.sign_exp & 0x7fff | u16::from(neg) << 15, ..self }
    }

    /// The same with the other sign.
    pub(crate) fn negated(self) -> F80 {
        F80 { sign_exp: self.sign_exp ^ 0x8000, ..self }
    }

    /// From sign, exponent field and significand; a significand without integer bit is a denormal or zero.
    pub(super) fn pack(neg: bool, exp: i32, mant: u64) -> F80 {
        debug_assert!((0..=EXPONENT_MAX).contains(&exp));
        let exp = if mant & INTEGER == 0 { 0 } else { exp };
        F80 { sign_exp: exp as u16, mant }.with_sign(neg)
    }

    /// The exponent field.
    fn field(self) -> i32 {
        i32::from(self.sign_exp & 0x7fff)
    }

    /// What it stands for.
    pub(super) fn kind(self) -> Kind {
        match (self.field(), self.mant & INTEGER != 0) {
            (0, _) if self.mant == 0 => Kind::Zero,
            (0, _) => Kind::Denormal,
            (_, false) => Kind::Unsupported,
            (EXPONENT_MAX, true) if self.mant == INTEGER => Kind::Infinity,
            (EXPONENT_MAX, true) if self.mant & QUIET != 0 => Kind::Quiet,
            (EXPONENT_MAX, true) => Kind::Signalling,
            (_, true) => Kind::Normal,
        }
    }

    /// Whether it is a NaN, quiet or not.
    pub(super) fn is_nan(self) -> bool {
        matches!(self.kind(), Kind::Quiet | Kind::Signalling)
    }

    /// The NaN made quiet.
    pub(super) fn quieted(self) -> F80 {
        F80 { mant: self.mant | QUIET, ..self }
    }

    /// The same value; a pseudo-denormal becomes the normal number that it equals.
    pub(super) fn canonical(self) -> F80 {
        if self.kind() == Kind::Denormal { F80::pack(self.negative(), 1, self.mant) } else { self }
    }

    /// Exponent and significand of a normal or denormal number, the integer bit set: the value is
    /// `mant / 2^63 * 2^(exp - BIAS)`. The exponent of a denormal is below 1.
    pub(super) fn parts(self) -> (i32, u64) {
        debug_assert!(matches!(self.kind(), Kind::Normal | Kind::Denormal));
        let shift = self.mant.leading_zeros();
        (self.field().max(1) - shift as i32, self.mant << shift)
    }
}
