//! Arithmetic on integer lanes.
//!
//! A lane of an MMX operand depends on the low quadwords only, so that both register sizes share an operation.
//! Each is a loop over an array of lanes, which the compiler turns into vector code.

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

/// The value as lanes of two bytes, lowest first.
pub(super) fn words(value: u128) -> [u16; 8] {
    let bytes = value.to_le_bytes();
    std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

/// The value as lanes of four bytes, lowest first.
pub(super) fn dwords(value: u128) -> [u32; 4] {
    std::array::from_fn(|i| (value >> (32 * i)) as u32)
}

/// The value as lanes of eight bytes, lowest first.
pub(super) fn qwords(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

/// The reverse of [`words`].
pub(super) fn from_words(lanes: [u16; 8]) -> u128 {
    let mut bytes = [0; 16];
    for (two, lane) in bytes.chunks_exact_mut(2).zip(lanes) {
        two.copy_from_slice(&lane.to_le_bytes());
    }
    u128::from_le_bytes(bytes)
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

fn on_bytes(d: u128, s: u128, f: impl Fn(u8, u8) -> u8) -> u128 {
    let (d, s) = (d.to_le_bytes(), s.to_le_bytes());
    u128::from_le_bytes(std::array::from_fn(|i| f(d[i], s[i])))
}

fn on_words(d: u128, s: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    let (d, s) = (words(d), words(s));
    from_words(std::array::from_fn(|i| f(d[i], s[i])))
}

fn on_dwords(d: u128, s: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (d, s) = (dwords(d), dwords(s));
    from_dwords(std::array::from_fn(|i| f(d[i], s[i])))
}

fn on_qwords(d: u128, s: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let (d, s) = (qwords(d), qwords(s));
    from_qwords([f(d[0], s[0]), f(d[1], s[1])])
}

/// As [`on_bytes`], on signed lanes.
fn on_signed_bytes(d: u128, s: u128, f: impl Fn(i8, i8) -> i8) -> u128 {
    on_bytes(d, s, |d, s| f(d.cast_signed(), s.cast_signed()).cast_unsigned())
}

/// As [`on_words`], on signed lanes.
fn on_signed_words(d: u128, s: u128, f: impl Fn(i16, i16) -> i16) -> u128 {
    on_words(d, s, |d, s| f(d.cast_signed(), s.cast_signed()).cast_unsigned())
}

pub(super) fn apply(op: IntegerOp, d: u128, s: u128) -> u128 {
    use IntegerOp as Op;
    match op {
        Op::PaddB => on_bytes(d, s, u8::wrapping_add),
        Op::PaddW => on_words(d, s, u16::wrapping_add),
        Op::PaddD => on_dwords(d, s, u32::wrapping_add),
        Op::PaddQ => on_qwords(d, s, u64::wrapping_add),
        Op::PsubB => on_bytes(d, s, u8::wrapping_sub),
        Op::PsubW => on_words(d, s, u16::wrapping_sub),
        Op::PsubD => on_dwords(d, s, u32::wrapping_sub),
        Op::PsubQ => on_qwords(d, s, u64::wrapping_sub),
        Op::PaddSB => on_signed_bytes(d, s, i8::saturating_add),
        Op::PaddSW => on_signed_words(d, s, i16::saturating_add),
        Op::PaddUsB => on_bytes(d, s, u8::saturating_add),
        Op::PaddUsW => on_words(d, s, u16::saturating_add),
        Op::PsubSB => on_signed_bytes(d, s, i8::saturating_sub),
        Op::PsubSW => on_signed_words(d, s, i16::saturating_sub),
        Op::PsubUsB => on_bytes(d, s, u8::saturating_sub),
        Op::PsubUsW => on_words(d, s, u16::saturating_sub),
        Op::PcmpeqB => on_bytes(d, s, |d, s| if d == s { u8::MAX } else { 0 }),
        Op::PcmpeqW => on_words(d, s, |d, s| if d == s { u16::MAX } else { 0 }),
        Op::PcmpeqD => on_dwords(d, s, |d, s| if d == s { u32::MAX } else { 0 }),
        Op::PcmpgtB => on_signed_bytes(d, s, |d, s| if d > s { -1 } else { 0 }),
        Op::PcmpgtW => on_signed_words(d, s, |d, s| if d > s { -1 } else { 0 }),
        Op::PcmpgtD => on_dwords(d, s, |d, s| if d.cast_signed() > s.cast_signed() { u32::MAX } else { 0 }),
        Op::PminUB => on_bytes(d, s, u8::min),
        Op::PmaxUB => on_bytes(d, s, u8::max),
        Op::PminSW => on_signed_words(d, s, i16::min),
        Op::PmaxSW => on_signed_words(d, s, i16::max),
        Op::PavgB => on_bytes(d, s, |d, s| (u16::from(d) + u16::from(s)).div_ceil(2) as u8),
        Op::PavgW => on_words(d, s, |d, s| (u32::from(d) + u32::from(s)).div_ceil(2) as u16),
        Op::PmullW => on_words(d, s, u16::wrapping_mul),
        Op::PmulhW => on_signed_words(d, s, |d, s| ((i32::from(d) * i32::from(s)) >> 16) as i16),
        Op::PmulhUW => on_words(d, s, |d, s| ((u32::from(d) * u32::from(s)) >> 16) as u16),
        Op::PmuludQ => on_qwords(d, s, |d, s| (d & 0xFFFF_FFFF) * (s & 0xFFFF_FFFF)),
        Op::PmaddWD => on_dwords(d, s, multiply_add),
        Op::PsadBW => on_qwords(d, s, sum_of_differences),
    }
}

/// A count beyond the lane shifts everything out.
pub(super) fn shift(op: ShiftOp, d: u128, s: u128) -> u128 {
    use ShiftOp as Op;
    // More than any lane has bits, and little enough for every shift below.
    let count = (s as u64).min(128) as u32;
    match op {
        Op::PsllW => on_words(d, 0, |d, _| d.checked_shl(count).unwrap_or(0)),
        Op::PsllD => on_dwords(d, 0, |d, _| d.checked_shl(count).unwrap_or(0)),
        Op::PsllQ => on_qwords(d, 0, |d, _| d.checked_shl(count).unwrap_or(0)),
        Op::PsrlW => on_words(d, 0, |d, _| d.checked_shr(count).unwrap_or(0)),
        Op::PsrlD => on_dwords(d, 0, |d, _| d.checked_shr(count).unwrap_or(0)),
        Op::PsrlQ => on_qwords(d, 0, |d, _| d.checked_shr(count).unwrap_or(0)),
        Op::PsraW => on_signed_words(d, 0, |d, _| d >> count.min(15)),
        Op::PsraD => on_dwords(d, 0, |d, _| (d.cast_signed() >> count.min(31)).cast_unsigned()),
        Op::PsllDQ => d.checked_shl(8 * count).unwrap_or(0),
        Op::PsrlDQ => d.checked_shr(8 * count).unwrap_or(0),
    }
}

/// PMADDWD. Only four times 0x8000 overflows, and wraps.
fn multiply_add(d: u32, s: u32) -> u32 {
    let half = |value: u32| i32::from((value as u16).cast_signed());
    (half(d) * half(s)).wrapping_add(half(d >> 16) * half(s >> 16)).cast_unsigned()
}

/// PSADBW.
fn sum_of_differences(d: u64, s: u64) -> u64 {
    d.to_le_bytes().into_iter().zip(s.to_le_bytes()).map(|(d, s)| u64::from(d.abs_diff(s))).sum()
}
