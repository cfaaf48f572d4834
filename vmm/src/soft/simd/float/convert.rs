//! Conversions between integers, single and double precision.

use super::super::integer::{dwords, from_dwords, from_qwords, qwords};
use super::super::mxcsr::{DE, IE, Mxcsr, PE, Rounding, SimdFault};
use super::format::{Double, Format, Kind, Number, Single, sign_bit};
use super::round::{drop_bits, round};

/// What becomes what. `T` truncates, the others round as MXCSR says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConvertOp {
    /// Four dwords.
    Dq2Ps,
    /// Two dwords, the rest of the destination stays.
    Pi2Ps,
    /// Two dwords; also CVTPI2PD.
    Dq2Pd,
    /// A dword into the lowest lane.
    Si32ToSs,
    /// A quadword into the lowest lane.
    Si64ToSs,
    /// A dword into the lowest lane.
    Si32ToSd,
    /// A quadword into the lowest lane.
    Si64ToSd,
    /// Four lanes.
    Ps2Dq,
    Tps2Dq,
    /// Two lanes.
    Ps2Pi,
    Tps2Pi,
    /// Two lanes, zeros above; also CVTPD2PI.
    Pd2Dq,
    Tpd2Dq,
    /// The lowest lane into a general register.
    SsToSi32,
    TssToSi32,
    SsToSi64,
    TssToSi64,
    SdToSi32,
    TsdToSi32,
    SdToSi64,
    TsdToSi64,
    Ps2Pd,
    /// Zeros above.
    Pd2Ps,
    /// The lowest lane, the rest of the destination stays.
    Ss2Sd,
    Sd2Ss,
}

/// One instruction's lanes, with their flags collected.
struct Lanes {
    control: Mxcsr,
    flags: u32,
}

pub(in super::super) fn convert(
    op: ConvertOp,
    d: u128,
    s: u128,
    mxcsr: &mut Mxcsr,
) -> Result<u128, SimdFault> {
    let mut lanes = Lanes { control: *mxcsr, flags: 0 };
    let result = lanes.convert(op, d, s);
    mxcsr.raise(lanes.flags)?;
    Ok(result)
}

impl Lanes {
    fn convert(&mut self, op: ConvertOp, d: u128, s: u128) -> u128 {
        use ConvertOp as Op;
        let own = self.control.rounding();
        let (ints, quads) = (dwords(s), qwords(s));
        let merge32 = |low: u32| d & !u128::from(u32::MAX) | u128::from(low);
        let merge64 = |low: u64| d & !u128::from(u64::MAX) | u128::from(low);
        match op {
            Op::Dq2Ps => from_dwords(ints.map(|lane| self.int_to_single(signed(lane)))),
            Op::Pi2Ps => {
                let [a, b] = [ints[0], ints[1]].map(|lane| self.int_to_single(signed(lane)));
                merge64(u64::from(a) | u64::from(b) << 32)
            }
            Op::Dq2Pd => from_qwords([ints[0], ints[1]].map(|lane| self.int_to_double(signed(lane)))),
            Op::Si32ToSs => merge32(self.int_to_single(signed(ints[0]))),
            Op::Si64ToSs => merge32(self.int_to_single(quads[0].cast_signed())),
            Op::Si32ToSd => merge64(self.int_to_double(signed(ints[0]))),
            Op::Si64ToSd => merge64(self.int_to_double(quads[0].cast_signed())),
            Op::Ps2Dq => from_dwords(ints.map(|lane| self.dword::<Single>(lane.into(), own))),
            Op::Tps2Dq => from_dwords(ints.map(|lane| self.dword::<Single>(lane.into(), Rounding::Zero))),
            Op::Ps2Pi => self.two_dwords::<Single>([ints[0].into(), ints[1].into()], own),
            Op::Tps2Pi => self.two_dwords::<Single>([ints[0].into(), ints[1].into()], Rounding::Zero),
            Op::Pd2Dq => self.two_dwords::<Double>(quads, own),
            Op::Tpd2Dq => self.two_dwords::<Double>(quads, Rounding::Zero),
            Op::SsToSi32 => self.dword::<Single>(ints[0].into(), own).into(),
            Op::TssToSi32 => self.dword::<Single>(ints[0].into(), Rounding::Zero).into(),
            Op::SsToSi64 => self.integer::<Single>(64, ints[0].into(), own).into(),
            Op::TssToSi64 => self.integer::<Single>(64, ints[0].into(), Rounding::Zero).into(),
            Op::SdToSi32 => self.dword::<Double>(quads[0], own).into(),
            Op::TsdToSi32 => self.dword::<Double>(quads[0], Rounding::Zero).into(),
            Op::SdToSi64 => self.integer::<Double>(64, quads[0], own).into(),
            Op::TsdToSi64 => self.integer::<Double>(64, quads[0], Rounding::Zero).into(),
            Op::Ps2Pd => {
                from_qwords([ints[0], ints[1]].map(|lane| self.resize::<Single, Double>(lane.into())))
            }
            Op::Pd2Ps => {
                let [a, b] = quads.map(|lane| self.resize::<Double, Single>(lane) as u32);
                from_dwords([a, b, 0, 0])
            }
            Op::Ss2Sd => merge64(self.resize::<Single, Double>(ints[0].into())),
            Op::Sd2Ss => merge32(self.resize::<Double, Single>(quads[0]) as u32),
        }
    }

    fn raise(&mut self, (bits, flags): (u64, u32)) -> u64 {
        self.flags |= flags;
        bits
    }

    fn int_to_single(&mut self, value: i64) -> u32 {
        self.raise(from_int::<Single>(value, self.control)) as u32
    }

    fn int_to_double(&mut self, value: i64) -> u64 {
        self.raise(from_int::<Double>(value, self.control))
    }

    fn integer<F: Format>(&mut self, size: u32, bits: u64, rounding: Rounding) -> u64 {
        self.raise(to_int::<F>(size, bits, rounding, self.control))
    }

    fn dword<F: Format>(&mut self, bits: u64, rounding: Rounding) -> u32 {
        self.integer::<F>(32, bits, rounding) as u32
    }

    fn two_dwords<F: Format>(&mut self, lanes: [u64; 2], rounding: Rounding) -> u128 {
        let [a, b] = lanes.map(|lane| self.dword::<F>(lane, rounding));
        from_dwords([a, b, 0, 0])
    }

    fn resize<F: Format, T: Format>(&mut self, bits: u64) -> u64 {
        self.raise(resize::<F, T>(bits, self.control))
    }
}

fn signed(dword: u32) -> i64 {
    dword.cast_signed().into()
}

fn from_int<F: Format>(value: i64, control: Mxcsr) -> (u64, u32) {
    let magnitude = value.unsigned_abs();
    if magnitude == 0 {
        return (0, 0);
    }
    let up = magnitude.leading_zeros();
    round::<F>(value < 0, 63 - up.cast_signed(), magnitude << up, control)
}

/// To a signed integer of 32 or 64 bits, zero-extended. What does not fit is invalid and gives the smallest
/// integer ("integer indefinite"). A denormal raises no flag of its own (SDM, CVTSD2SI).
fn to_int<F: Format>(size: u32, bits: u64, rounding: Rounding, control: Mxcsr) -> (u64, u32) {
    let smallest = 1 << (size - 1);
    if F::is_nan(bits) {
        return (smallest, IE);
    }
    let number = Number::of::<F>(F::operand(bits, control));
    let (magnitude, inexact) = match number.kind {
        Kind::Zero => (0, false),
        Kind::Finite { exponent, significand } if exponent <= 63 => {
            drop_bits(number.sign, significand, (63 - exponent).cast_unsigned(), rounding)
        }
        Kind::Finite { .. } | Kind::Infinite => return (smallest, IE),
    };
    if magnitude > smallest - u64::from(!number.sign) {
        return (smallest, IE);
    }
    let value = if number.sign { magnitude.wrapping_neg() } else { magnitude };
    // The smallest integer has one bit; shifted once more, it leaves all that a result may have.
    (value & ((smallest << 1).wrapping_sub(1)), if inexact { PE } else { 0 })
}

/// From one format to the other.
fn resize<F: Format, T: Format>(bits: u64, control: Mxcsr) -> (u64, u32) {
    let sign = bits & F::SIGN != 0;
    if F::is_nan(bits) {
        // The payload keeps its upper end.
        let payload = (bits & F::FRACTION_MASK) << (63 - F::FRACTION) >> (63 - T::FRACTION);
        let flags = if F::is_signaling(bits) { IE } else { 0 };
        return (sign_bit::<T>(sign) | T::INFINITY | T::QUIET | payload, flags);
    }
    let bits = F::operand(bits, control);
    let denormal = if F::is_denormal(bits) { DE } else { 0 };
    match Number::of::<F>(bits).kind {
        Kind::Zero => (sign_bit::<T>(sign), 0),
        Kind::Infinite => (sign_bit::<T>(sign) | T::INFINITY, 0),
        Kind::Finite { exponent, significand } => {
            let (bits, flags) = round::<T>(sign, exponent, significand, control);
            (bits, flags | denormal)
        }
    }
}
