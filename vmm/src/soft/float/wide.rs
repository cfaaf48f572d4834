//! Numbers with a significand of 128 bits, for what is rounded to 64 only at the end.
//!
//! Each operation errs by at most two units of its last place. Series of some thirty steps thus leave about
//! 58 correct bits behind the 64 that are kept.

use super::env::Env;
use super::round::{Unrounded, jam, to_register};
use super::value::{BIAS, F80, Kind};

/// `mant / 2^127 * 2^exp`; bit 127 of the significand is set unless the value is zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide {
    pub(super) neg: bool,
    pub(super) exp: i32,
    pub(super) mant: u128,
}

impl Wide {
    pub(super) const ZERO: Wide = Wide { neg: false, exp: 0, mant: 0 };
    pub(super) const ONE: Wide = Wide::positive(0, 1 << 127);
    /// π / 2
    pub(super) const HALF_PI: Wide = Wide::positive(0, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
    /// The natural logarithm of 2.
    pub(super) const LN_2: Wide = Wide::positive(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
    /// The binary logarithm of e.
    pub(super) const LOG2_E: Wide = Wide::positive(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88);

    /// A constant.
    pub(super) const fn positive(exp: i32, mant: u128) -> Wide {
        Wide { neg: false, exp, mant }
    }

    /// From a significand that may begin with zero bits; `exp` is bit 127's.
    pub(super) fn new(neg: bool, exp: i32, mant: u128) -> Wide {
        if mant == 0 {
            return Wide::ZERO;
        }
        let shift = mant.leading_zeros();
        Wide { neg, exp: exp - shift as i32, mant: mant << shift }
    }

    /// A small integer.
    pub(super) fn integer(value: i32) -> Wide {
        Wide::new(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    /// A finite register.
    pub(super) fn of(a: F80) -> Wide {
        match a.kind() {
            Kind::Normal | Kind::Denormal => {
                let (exp, mant) = a.parts();
                Wide { neg: a.negative(), exp: exp - BIAS, mant: u128::from(mant) << 64 }
            }
            _ => Wide::ZERO,
        }
    }

    pub(super) fn negated(self) -> Wide {
        Wide { neg: !self.neg, ..self }
    }

    /// Times two to this power.
    pub(super) fn scaled(self, power: i32) -> Wide {
        Wide { exp: self.exp + power, ..self }
    }

    pub(super) fn mul(self, other: Wide) -> Wide {
        let (_, high) = self.mant.carrying_mul(other.mant, 0);
        Wide::new(self.neg != other.neg, self.exp + other.exp + 1, high)
    }

    pub(super) fn add(self, other: Wide) -> Wide {
        if self.mant == 0 || other.mant == 0 {
            return if self.mant == 0 { other } else { self };
        }
        let (a, b) =
            if (self.exp, self.mant) >= (other.exp, other.mant) { (self, other) } else { (other, self) };
        let small = jam(b.mant, a.exp.abs_diff(b.exp));
        if a.neg != b.neg {
            return Wide::new(a.neg, a.exp, a.mant - small);
        }
        match a.mant.overflowing_add(small) {
            (sum, false) => Wide { mant: sum, ..a },
            (sum, true) => Wide { neg: a.neg, exp: a.exp + 1, mant: jam(sum, 1) | 1 << 127 },
        }
    }

    pub(super) fn sub(self, other: Wide) -> Wide {
        self.add(other.negated())
    }

    /// By a divisor other than zero, bit by bit.
    pub(super) fn div(self, divisor: Wide) -> Wide {
        debug_assert!(divisor.mant != 0);
        let by = divisor.mant;
        let first = self.mant >= by;
        let mut rest = if first { self.mant - by } else { self.mant };
        let mut quotient = u128::from(first);
        for _ in 0..127 {
            let carry = rest >> 127 != 0;
            rest <<= 1;
            let fits = carry || rest >= by;
            if fits {
                rest = rest.wrapping_sub(by);
            }
            quotient = quotient << 1 | u128::from(fits);
        }
        Wide::new(self.neg != divisor.neg, self.exp - divisor.exp, quotient)
    }

    /// By a small integer.
    pub(super) fn div_small(self, divisor: u32) -> Wide {
        Wide::new(self.neg, self.exp, self.mant / u128::from(divisor))
    }

    /// A little closer to zero than this.
    pub(super) fn just_below(self) -> Wide {
        Wide::new(self.neg, self.exp, self.mant - 1)
    }

    /// Rounds a value other than zero that is known not to be exact to a register. Precision control has no
    /// say in transcendentals.
    pub(super) fn to_register(self, env: &mut Env) -> F80 {
        debug_assert!(self.mant != 0);
        to_register(env, Unrounded { neg: self.neg, exp: self.exp + BIAS, mant: self.mant | 1 }, 64)
    }
}
