//! Arithmetic on integer lanes.
//!
//! A lane of an MMX operand depends on the low quadwords only, so that both register sizes share an operation.

use super::swar;

/// What is done lane by lane; `B`, `W`, `D`, `Q` are lanes of 1, 2, 4, 8 bytes, `S` and `Us` saturate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntegerOp {
    PaddB,
    PaddW,
    PaddD,
    PaddQ,
    PsubB,
    PsubW,
    PsubD,
    PsubQ,
    PaddSB,
    PaddSW,
    PaddUsB,
    PaddUsW,
    PsubSB,
    PsubSW,
    PsubUsB,
    PsubUsW,
    PcmpeqB,
    PcmpeqW,
    PcmpeqD,
    PcmpgtB,
    PcmpgtW,
    PcmpgtD,
    PminUB,
    PmaxUB,
    PminSW,
    PmaxSW,
    PavgB,
    PavgW,
    PmullW,
    PmulhW,
    PmulhUW,
    PmuludQ,
    PmaddWD,
    PsadBW,
}

/// What is shifted; the count is the whole low quadword of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShiftOp {
    PsllW,
    PsllD,
    PsllQ,
    PsrlW,
    PsrlD,
    PsrlQ,
    PsraW,
    PsraD,
    /// By bytes, over the whole register.
    PsllDQ,
    /// By bytes, over the whole register.
    PsrlDQ,
}

/// The value as lanes of four bytes, lowest first.
pub(super) fn dwords(value: u128) -> [u32; 4] {
    std::array::from_fn(|i| (value >> (32 * i)) as u32)
}

/// The value as lanes of eight bytes, lowest first.
pub(super) fn qwords(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

/// The reverse of [`dwords`].
pub(super) fn from_dwords(lanes: [u32; 4]) -> u128 {
    let [a, b, c, d] = lanes.map(u128::from);
    a | b << 32 | c << 64 | d << 96
}

/// The reverse of [`qwords`].
pub(super) fn from_qwords(lanes: [u64; 2]) -> u128 {
    u128::from(lanes[0]) | u128::from(lanes[1]) << 64
}

fn on_dwords(d: u128, s: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (d, s) = (dwords(d), dwords(s));
    from_dwords(std::array::from_fn(|i| f(d[i], s[i])))
}

fn on_qwords(d: u128, s: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let (d, s) = (qwords(d), qwords(s));
    from_qwords([f(d[0], s[0]), f(d[1], s[1])])
}

/// Both words of each dword, as products of 32 bits.
fn on_products(d: u128, s: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    on_dwords(d, s, |d, s| {
        u32::from(f(d as u16, s as u16)) | u32::from(f((d >> 16) as u16, (s >> 16) as u16)) << 16
    })
}

pub(super) fn apply(op: IntegerOp, d: u128, s: u128) -> u128 {
    use IntegerOp as Op;
    match op {
        Op::PaddB => swar::add::<8>(d, s),
        Op::PaddW => swar::add::<16>(d, s),
        Op::PaddD => swar::add::<32>(d, s),
        Op::PaddQ => swar::add::<64>(d, s),
        Op::PsubB => swar::sub::<8>(d, s),
        Op::PsubW => swar::sub::<16>(d, s),
        Op::PsubD => swar::sub::<32>(d, s),
        Op::PsubQ => swar::sub::<64>(d, s),
        Op::PaddSB => swar::add_signed_saturating::<8>(d, s),
        Op::PaddSW => swar::add_signed_saturating::<16>(d, s),
        Op::PaddUsB => swar::add_saturating::<8>(d, s),
        Op::PaddUsW => swar::add_saturating::<16>(d, s),
        Op::PsubSB => swar::sub_signed_saturating::<8>(d, s),
        Op::PsubSW => swar::sub_signed_saturating::<16>(d, s),
        Op::PsubUsB => swar::sub_saturating::<8>(d, s),
        Op::PsubUsW => swar::sub_saturating::<16>(d, s),
        Op::PcmpeqB => swar::equal::<8>(d, s),
        Op::PcmpeqW => swar::equal::<16>(d, s),
        Op::PcmpeqD => swar::equal::<32>(d, s),
        Op::PcmpgtB => swar::less_signed::<8>(s, d),
        Op::PcmpgtW => swar::less_signed::<16>(s, d),
        Op::PcmpgtD => swar::less_signed::<32>(s, d),
        Op::PminUB => swar::select(swar::less::<8>(d, s), d, s),
        Op::PmaxUB => swar::select(swar::less::<8>(d, s), s, d),
        Op::PminSW => swar::select(swar::less_signed::<16>(d, s), d, s),
        Op::PmaxSW => swar::select(swar::less_signed::<16>(d, s), s, d),
        Op::PavgB => swar::average::<8>(d, s),
        Op::PavgW => swar::average::<16>(d, s),
        Op::PmullW => on_products(d, s, u16::wrapping_mul),
        Op::PmulhW => on_products(d, s, |d, s| {
            let product = i32::from(d.cast_signed()) * i32::from(s.cast_signed());
            (product >> 16) as u16
        }),
        Op::PmulhUW => on_products(d, s, |d, s| ((u32::from(d) * u32::from(s)) >> 16) as u16),
        Op::PmuludQ => on_qwords(d, s, |d, s| (d & 0xFFFF_FFFF) * (s & 0xFFFF_FFFF)),
        Op::PmaddWD => on_dwords(d, s, multiply_add),
        Op::PsadBW => {
            // One of the two differences is zero.
            let apart = swar::sub_saturating::<8>(d, s) | swar::sub_saturating::<8>(s, d);
            from_qwords(qwords(apart).map(sum_of_bytes))
        }
    }
}

/// A count beyond the lane shifts everything out, or leaves the sign.
pub(super) fn shift(op: ShiftOp, d: u128, s: u128) -> u128 {
    use ShiftOp as Op;
    // More than any lane has bits, and little enough for every shift below.
    let count = (s as u64).min(128) as u32;
    match op {
        Op::PsllW => swar::shift_left::<16>(d, count),
        Op::PsllD => swar::shift_left::<32>(d, count),
        Op::PsllQ => swar::shift_left::<64>(d, count),
        Op::PsrlW => swar::shift_right::<16>(d, count),
        Op::PsrlD => swar::shift_right::<32>(d, count),
        Op::PsrlQ => swar::shift_right::<64>(d, count),
        Op::PsraW => swar::shift_right_signed::<16>(d, count),
        Op::PsraD => swar::shift_right_signed::<32>(d, count),
        Op::PsllDQ => d.checked_shl(8 * count).unwrap_or(0),
        Op::PsrlDQ => d.checked_shr(8 * count).unwrap_or(0),
    }
}

/// PMADDWD. Only four times 0x8000 overflows, and wraps.
fn multiply_add(d: u32, s: u32) -> u32 {
    let half = |value: u32| i32::from((value as u16).cast_signed());
    (half(d) * half(s)).wrapping_add(half(d >> 16) * half(s >> 16)).cast_unsigned()
}

fn sum_of_bytes(value: u64) -> u64 {
    let pairs = (value & 0x00FF_00FF_00FF_00FF) + (value >> 8 & 0x00FF_00FF_00FF_00FF);
    // The product's highest word is the sum of all four.
    pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48
}
