//! Lanes that change places.

use super::integer::{dwords, from_dwords, from_qwords, qwords};

/// Which lanes go where; the operations named `Mm` are those whose MMX form is not a part of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleOp {
    PunpcklBW,
    PunpcklWD,
    PunpcklDQ,
    PunpcklQDQ,
    PunpckhBW,
    PunpckhWD,
    PunpckhDQ,
    PunpckhQDQ,
    PunpckhBWMm,
    PunpckhWDMm,
    PunpckhDQMm,
    PackssWB,
    PackssDW,
    PackusWB,
    PackssWBMm,
    PackssDWMm,
    PackusWBMm,
    Pshufd,
    /// Also PSHUFW.
    Pshuflw,
    Pshufhw,
    Shufps,
    Shufpd,
    Pinsrw,
    PinsrwMm,
    Pextrw,
    PextrwMm,
    Pmovmskb,
    Movmskps,
    Movmskpd,
}

pub(super) fn apply(op: ShuffleOp, d: u128, s: u128, imm: u8) -> u128 {
    use ShuffleOp as Op;
    match op {
        Op::PunpcklBW => interleave_bytes(d as u64, s as u64),
        Op::PunpcklWD => interleave_words(d as u64, s as u64),
        Op::PunpcklDQ => interleave_dwords(d as u64, s as u64),
        Op::PunpcklQDQ => from_qwords([d as u64, s as u64]),
        Op::PunpckhBW => interleave_bytes((d >> 64) as u64, (s >> 64) as u64),
        Op::PunpckhWD => interleave_words((d >> 64) as u64, (s >> 64) as u64),
        Op::PunpckhDQ => interleave_dwords((d >> 64) as u64, (s >> 64) as u64),
        Op::PunpckhQDQ => from_qwords([(d >> 64) as u64, (s >> 64) as u64]),
        Op::PunpckhBWMm => interleave_bytes(d as u64 >> 32, s as u64 >> 32),
        Op::PunpckhWDMm => interleave_words(d as u64 >> 32, s as u64 >> 32),
        Op::PunpckhDQMm => interleave_dwords(d as u64 >> 32, s as u64 >> 32),
        Op::PackssWB => pack_words(d, s, signed_byte),
        Op::PackssDW => pack_dwords(d, s),
        Op::PackusWB => pack_words(d, s, unsigned_byte),
        Op::PackssWBMm => pack_words(from_qwords([d as u64, s as u64]), 0, signed_byte),
        Op::PackssDWMm => pack_dwords(from_qwords([d as u64, s as u64]), 0),
        Op::PackusWBMm => pack_words(from_qwords([d as u64, s as u64]), 0, unsigned_byte),
        Op::Pshufd => {
            let s = dwords(s);
            from_dwords(std::array::from_fn(|i| s[select(imm, i)]))
        }
        Op::Pshuflw => from_qwords([shuffle_words(s as u64, imm), (s >> 64) as u64]),
        Op::Pshufhw => from_qwords([s as u64, shuffle_words((s >> 64) as u64, imm)]),
        Op::Shufps => {
            let (d, s) = (dwords(d), dwords(s));
            from_dwords([d[select(imm, 0)], d[select(imm, 1)], s[select(imm, 2)], s[select(imm, 3)]])
        }
        Op::Shufpd => from_qwords([qwords(d)[usize::from(imm & 1)], qwords(s)[usize::from(imm >> 1 & 1)]]),
        Op::Pinsrw => insert_word(d, s as u16, imm & 7),
        Op::PinsrwMm => insert_word(d, s as u16, imm & 3),
        Op::Pextrw => s >> (16 * (imm & 7)) & 0xFFFF,
        Op::PextrwMm => s >> (16 * (imm & 3)) & 0xFFFF,
        Op::Pmovmskb => u128::from(sign_bytes(s)),
        Op::Movmskps => s >> 31 & 1 | s >> 62 & 2 | s >> 93 & 4 | s >> 124 & 8,
        Op::Movmskpd => s >> 63 & 1 | s >> 126 & 2,
    }
}

/// One bit for each byte, its highest: the result of PMOVMSKB, and the bytes that MASKMOVDQU stores.
pub(crate) fn sign_bytes(value: u128) -> u16 {
    let [low, high] = qwords(value).map(|half| {
        // The bit of byte i, at 8i, is wanted at 56 + i: one product moves each by its own distance, and no two
        // of the partial products meet.
        ((half >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u16
    });
    low | high << 8
}

/// Element `i` of an immediate of four two-bit elements.
fn select(imm: u8, i: usize) -> usize {
    usize::from(imm >> (2 * i) & 3)
}

fn shuffle_words(value: u64, imm: u8) -> u64 {
    (0..4).fold(0, |out, i| out | (value >> (16 * select(imm, i)) & 0xFFFF) << (16 * i))
}

fn insert_word(d: u128, word: u16, place: u8) -> u128 {
    let shift = 16 * u32::from(place);
    d & !(0xFFFF << shift) | u128::from(word) << shift
}

fn interleave_bytes(d: u64, s: u64) -> u128 {
    let (d, s) = (d.to_le_bytes(), s.to_le_bytes());
    u128::from_le_bytes(std::array::from_fn(|i| if i % 2 == 0 { d[i / 2] } else { s[i / 2] }))
}

fn interleave_words(d: u64, s: u64) -> u128 {
    let pair = |at: u32| (d >> at) as u32 & 0xFFFF | ((s >> at) as u32) << 16;
    from_dwords([pair(0), pair(16), pair(32), pair(48)])
}

fn interleave_dwords(d: u64, s: u64) -> u128 {
    from_dwords([d as u32, s as u32, (d >> 32) as u32, (s >> 32) as u32])
}

fn signed_byte(word: i16) -> u8 {
    (word.clamp(i16::from(i8::MIN), i16::from(i8::MAX)) as i8).cast_unsigned()
}

fn unsigned_byte(word: i16) -> u8 {
    word.clamp(0, i16::from(u8::MAX)) as u8
}

fn pack_words(d: u128, s: u128, f: impl Fn(i16) -> u8) -> u128 {
    let (d, s) = (d.to_le_bytes(), s.to_le_bytes());
    u128::from_le_bytes(std::array::from_fn(|i| {
        let (from, at) = if i < 8 { (d, 2 * i) } else { (s, 2 * i - 16) };
        f(i16::from_le_bytes([from[at], from[at + 1]]))
    }))
}

fn pack_dwords(d: u128, s: u128) -> u128 {
    let saturate = |dword: u32| {
        let word = dword.cast_signed().clamp(i32::from(i16::MIN), i32::from(i16::MAX));
        word.cast_unsigned() & 0xFFFF
    };
    let ([d0, d1, d2, d3], [s0, s1, s2, s3]) = (dwords(d).map(saturate), dwords(s).map(saturate));
    from_dwords([d0 | d1 << 16, d2 | d3 << 16, s0 | s1 << 16, s2 | s3 << 16])
}
