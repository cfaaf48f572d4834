//! The arithmetic flags, kept as what they are computed from.
//!
//! Most results' flags are never looked at, so an operation leaves its result and the vector of carries out of
//! each bit, and a flag is computed when something asks. The form has no kinds: any combination of flags can be
//! written down in it, so reading them needs no case distinction.

/// Carry.
pub(super) const CF: u64 = 1;
/// Parity of the low byte.
pub(super) const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub(super) const AF: u64 = 1 << 4;
/// Zero.
pub(super) const ZF: u64 = 1 << 6;
/// Sign.
pub(super) const SF: u64 = 1 << 7;
/// Single step.
pub(super) const TF: u64 = 1 << 8;
/// Interrupts enabled.
pub(super) const IF: u64 = 1 << 9;
/// String direction.
pub(super) const DF: u64 = 1 << 10;
/// Signed overflow.
pub(super) const OF: u64 = 1 << 11;
/// I/O privilege level, two bits.
pub(super) const IOPL: u64 = 3 << 12;
/// Nested task.
pub(super) const NT: u64 = 1 << 14;
/// Resume: no instruction breakpoint at the next instruction.
pub(super) const RF: u64 = 1 << 16;
/// Virtual 8086 mode.
pub(super) const VM: u64 = 1 << 17;
/// Alignment check.
pub(super) const AC: u64 = 1 << 18;
/// Virtual interrupt bits, kept for VME, which the machine does not have.
pub(super) const VIF_VIP: u64 = 3 << 19;
/// CPUID exists.
pub(super) const ID: u64 = 1 << 21;
/// The six that arithmetic sets.
pub(super) const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// Bits of each operand size (index: 0 for a byte to 3 for eight) that are left of it in 64.
pub(super) const ABOVE: [u32; 4] = [56, 48, 32, 0];
/// The bits of each operand size.
pub(super) const MASK: [u64; 4] = [0xff, 0xffff, 0xffff_ffff, u64::MAX];

/// Sign-extends a value of this size.
#[inline]
pub(super) fn extend(value: u64, size: u8) -> u64 {
    let above = ABOVE[usize::from(size & 3)];
    ((value << above).cast_signed() >> above).cast_unsigned()
}

/// The six flags.
#[derive(Clone, Copy, Default)]
pub(super) struct Lazy {
    /// The result, sign-extended.
    result: u64,
    /// Bit 63 is CF; bits 63 and 62 differ if OF.
    carries: u64,
    /// Turns the sign (bit 63) and the parity (low byte) of the result into others.
    tweak: u64,
    /// Bit 4 is AF.
    aux: u8,
}

impl Lazy {
    /// After `a + b (+ carry) = result`.
    #[inline]
    pub(super) fn added(&mut self, a: u64, b: u64, result: u64, size: u8) {
        let carries = (a & b) | ((a | b) & !result);
        self.carries = carries << ABOVE[usize::from(size & 3)];
        self.result = extend(result, size);
        self.aux = (a ^ b ^ result) as u8;
        self.tweak = 0;
    }

    /// After `a - b (- borrow) = result`.
    #[inline]
    pub(super) fn subtracted(&mut self, a: u64, b: u64, result: u64, size: u8) {
        let borrows = (!a & b) | ((!a | b) & result);
        self.carries = borrows << ABOVE[usize::from(size & 3)];
        self.result = extend(result, size);
        self.aux = (a ^ b ^ result) as u8;
        self.tweak = 0;
    }

    /// After a bitwise operation: CF, OF and AF are clear.
    #[inline]
    pub(super) fn logic(&mut self, result: u64, size: u8) {
        *self = Lazy { result: extend(result, size), ..Lazy::default() };
    }

    /// After something else that gives a result and these two.
    #[inline]
    pub(super) fn shifted(&mut self, result: u64, size: u8, carry: bool, overflow: bool) {
        self.logic(result, size);
        self.set_carry_overflow(carry, overflow);
    }

    /// Replaces CF and OF only.
    #[inline]
    pub(super) fn set_carry_overflow(&mut self, carry: bool, overflow: bool) {
        self.carries = u64::from(carry) << 63 | u64::from(carry != overflow) << 62;
    }

    /// Replaces CF only.
    pub(super) fn set_carry(&mut self, carry: bool) {
        self.set_carry_overflow(carry, self.overflow());
    }

    /// Replaces ZF only.
    pub(super) fn set_zero(&mut self, zero: bool) {
        let bits = self.bits() & !ZF;
        self.set_bits(bits | if zero { ZF } else { 0 });
    }

    /// CF
    #[inline]
    pub(super) fn carry(&self) -> bool {
        self.carries >> 63 != 0
    }

    /// ZF
    #[inline]
    pub(super) fn zero(&self) -> bool {
        self.result == 0
    }

    /// SF
    #[inline]
    pub(super) fn sign(&self) -> bool {
        (self.result ^ self.tweak) >> 63 != 0
    }

    /// OF
    #[inline]
    pub(super) fn overflow(&self) -> bool {
        (self.carries ^ self.carries << 1) >> 63 != 0
    }

    /// PF
    #[inline]
    pub(super) fn parity(&self) -> bool {
        ((self.result ^ self.tweak) as u8).count_ones().is_multiple_of(2)
    }

    /// AF
    pub(super) fn adjust(&self) -> bool {
        self.aux & 0x10 != 0
    }

    /// In their places in RFLAGS.
    pub(super) fn bits(&self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        bit(self.carry(), CF)
            | bit(self.parity(), PF)
            | bit(self.adjust(), AF)
            | bit(self.zero(), ZF)
            | bit(self.sign(), SF)
            | bit(self.overflow(), OF)
    }

    /// The reverse of [`Self::bits`]; other bits are ignored.
    pub(super) fn set_bits(&mut self, bits: u64) {
        self.set_carry_overflow(bits & CF != 0, bits & OF != 0);
        // Any value that is not zero, not negative and of even parity.
        self.result = if bits & ZF != 0 { 0 } else { 0x100 };
        self.tweak = (bits & SF) << 56 | u64::from(bits & PF == 0);
        self.aux = (bits & AF) as u8;
    }

    /// A condition code of Jcc, SETcc and CMOVcc (SDM volume 1 appendix B).
    #[inline]
    pub(super) fn holds(&self, condition: u8) -> bool {
        let positive = match condition >> 1 & 7 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.carry() || self.zero(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.sign() != self.overflow(),
            _ => self.zero() || self.sign() != self.overflow(),
        };
        positive != (condition & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_can_be_written_down() {
        for bits in (0..=0xfff).filter(|bits| bits & !ARITHMETIC == 0) {
            let mut flags = Lazy::default();
            flags.set_bits(bits);
            assert_eq!(flags.bits(), bits);
        }
    }

    #[test]
    fn bytes_add_and_subtract_as_the_manual_says() {
        for (a, b) in (0..=255u64).flat_map(|a| (0..=255u64).map(move |b| (a, b))) {
            let mut flags = Lazy::default();
            flags.added(a, b, a + b, 0);
            assert_eq!(flags.carry(), a + b > 255);
            assert_eq!(flags.adjust(), (a & 15) + (b & 15) > 15);
            let signed = i64::from(a as i8) + i64::from(b as i8);
            assert_eq!(flags.overflow(), i8::try_from(signed).is_err());
            assert_eq!((flags.zero(), flags.sign()), ((a + b) & 255 == 0, (a + b) & 128 != 0));
            flags.subtracted(a, b, a.wrapping_sub(b), 0);
            assert_eq!((flags.carry(), flags.zero()), (a < b, a == b));
            assert_eq!(flags.adjust(), a & 15 < b & 15);
            assert_eq!(flags.holds(0xc), (a as i8) < (b as i8));
        }
    }
}
