//! Rows on integer lanes.

use iced_x86::Code;
use iced_x86::Code as C;

use super::super::SimdOp::{Integer, Shift, Shuffle};
use super::super::integer::{IntegerOp as I, ShiftOp as S};
use super::super::shuffle::ShuffleOp as P;
use super::{Form, Operand, Unit, either};

pub(super) fn form_of(code: Code, memory: bool) -> Option<Form> {
    arithmetic(code, memory).or_else(|| shift(code, memory)).or_else(|| shuffle(code, memory))
}

fn arithmetic(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Paddb_mm_mmm64 => Form::mmx(Integer(I::PaddB), memory),
        C::Paddb_xmm_xmmm128 => Form::packed(Integer(I::PaddB), memory),
        C::Paddw_mm_mmm64 => Form::mmx(Integer(I::PaddW), memory),
        C::Paddw_xmm_xmmm128 => Form::packed(Integer(I::PaddW), memory),
        C::Paddd_mm_mmm64 => Form::mmx(Integer(I::PaddD), memory),
        C::Paddd_xmm_xmmm128 => Form::packed(Integer(I::PaddD), memory),
        C::Paddq_mm_mmm64 => Form::mmx(Integer(I::PaddQ), memory),
        C::Paddq_xmm_xmmm128 => Form::packed(Integer(I::PaddQ), memory),
        C::Psubb_mm_mmm64 => Form::mmx(Integer(I::PsubB), memory),
        C::Psubb_xmm_xmmm128 => Form::packed(Integer(I::PsubB), memory),
        C::Psubw_mm_mmm64 => Form::mmx(Integer(I::PsubW), memory),
        C::Psubw_xmm_xmmm128 => Form::packed(Integer(I::PsubW), memory),
        C::Psubd_mm_mmm64 => Form::mmx(Integer(I::PsubD), memory),
        C::Psubd_xmm_xmmm128 => Form::packed(Integer(I::PsubD), memory),
        C::Psubq_mm_mmm64 => Form::mmx(Integer(I::PsubQ), memory),
        C::Psubq_xmm_xmmm128 => Form::packed(Integer(I::PsubQ), memory),
        C::Paddsb_mm_mmm64 => Form::mmx(Integer(I::PaddSB), memory),
        C::Paddsb_xmm_xmmm128 => Form::packed(Integer(I::PaddSB), memory),
        C::Paddsw_mm_mmm64 => Form::mmx(Integer(I::PaddSW), memory),
        C::Paddsw_xmm_xmmm128 => Form::packed(Integer(I::PaddSW), memory),
        C::Paddusb_mm_mmm64 => Form::mmx(Integer(I::PaddUsB), memory),
        C::Paddusb_xmm_xmmm128 => Form::packed(Integer(I::PaddUsB), memory),
        C::Paddusw_mm_mmm64 => Form::mmx(Integer(I::PaddUsW), memory),
        C::Paddusw_xmm_xmmm128 => Form::packed(Integer(I::PaddUsW), memory),
        C::Psubsb_mm_mmm64 => Form::mmx(Integer(I::PsubSB), memory),
        C::Psubsb_xmm_xmmm128 => Form::packed(Integer(I::PsubSB), memory),
        C::Psubsw_mm_mmm64 => Form::mmx(Integer(I::PsubSW), memory),
        C::Psubsw_xmm_xmmm128 => Form::packed(Integer(I::PsubSW), memory),
        C::Psubusb_mm_mmm64 => Form::mmx(Integer(I::PsubUsB), memory),
        C::Psubusb_xmm_xmmm128 => Form::packed(Integer(I::PsubUsB), memory),
        C::Psubusw_mm_mmm64 => Form::mmx(Integer(I::PsubUsW), memory),
        C::Psubusw_xmm_xmmm128 => Form::packed(Integer(I::PsubUsW), memory),
        C::Pcmpeqb_mm_mmm64 => Form::mmx(Integer(I::PcmpeqB), memory),
        C::Pcmpeqb_xmm_xmmm128 => Form::packed(Integer(I::PcmpeqB), memory),
        C::Pcmpeqw_mm_mmm64 => Form::mmx(Integer(I::PcmpeqW), memory),
        C::Pcmpeqw_xmm_xmmm128 => Form::packed(Integer(I::PcmpeqW), memory),
        C::Pcmpeqd_mm_mmm64 => Form::mmx(Integer(I::PcmpeqD), memory),
        C::Pcmpeqd_xmm_xmmm128 => Form::packed(Integer(I::PcmpeqD), memory),
        C::Pcmpgtb_mm_mmm64 => Form::mmx(Integer(I::PcmpgtB), memory),
        C::Pcmpgtb_xmm_xmmm128 => Form::packed(Integer(I::PcmpgtB), memory),
        C::Pcmpgtw_mm_mmm64 => Form::mmx(Integer(I::PcmpgtW), memory),
        C::Pcmpgtw_xmm_xmmm128 => Form::packed(Integer(I::PcmpgtW), memory),
        C::Pcmpgtd_mm_mmm64 => Form::mmx(Integer(I::PcmpgtD), memory),
        C::Pcmpgtd_xmm_xmmm128 => Form::packed(Integer(I::PcmpgtD), memory),
        C::Pminub_mm_mmm64 => Form::mmx(Integer(I::PminUB), memory),
        C::Pminub_xmm_xmmm128 => Form::packed(Integer(I::PminUB), memory),
        C::Pmaxub_mm_mmm64 => Form::mmx(Integer(I::PmaxUB), memory),
        C::Pmaxub_xmm_xmmm128 => Form::packed(Integer(I::PmaxUB), memory),
        C::Pminsw_mm_mmm64 => Form::mmx(Integer(I::PminSW), memory),
        C::Pminsw_xmm_xmmm128 => Form::packed(Integer(I::PminSW), memory),
        C::Pmaxsw_mm_mmm64 => Form::mmx(Integer(I::PmaxSW), memory),
        C::Pmaxsw_xmm_xmmm128 => Form::packed(Integer(I::PmaxSW), memory),
        C::Pavgb_mm_mmm64 => Form::mmx(Integer(I::PavgB), memory),
        C::Pavgb_xmm_xmmm128 => Form::packed(Integer(I::PavgB), memory),
        C::Pavgw_mm_mmm64 => Form::mmx(Integer(I::PavgW), memory),
        C::Pavgw_xmm_xmmm128 => Form::packed(Integer(I::PavgW), memory),
        C::Pmullw_mm_mmm64 => Form::mmx(Integer(I::PmullW), memory),
        C::Pmullw_xmm_xmmm128 => Form::packed(Integer(I::PmullW), memory),
        C::Pmulhw_mm_mmm64 => Form::mmx(Integer(I::PmulhW), memory),
        C::Pmulhw_xmm_xmmm128 => Form::packed(Integer(I::PmulhW), memory),
        C::Pmulhuw_mm_mmm64 => Form::mmx(Integer(I::PmulhUW), memory),
        C::Pmulhuw_xmm_xmmm128 => Form::packed(Integer(I::PmulhUW), memory),
        C::Pmuludq_mm_mmm64 => Form::mmx(Integer(I::PmuludQ), memory),
        C::Pmuludq_xmm_xmmm128 => Form::packed(Integer(I::PmuludQ), memory),
        C::Pmaddwd_mm_mmm64 => Form::mmx(Integer(I::PmaddWD), memory),
        C::Pmaddwd_xmm_xmmm128 => Form::packed(Integer(I::PmaddWD), memory),
        C::Psadbw_mm_mmm64 => Form::mmx(Integer(I::PsadBW), memory),
        C::Psadbw_xmm_xmmm128 => Form::packed(Integer(I::PsadBW), memory),
        _ => return None,
    })
}

/// A count comes from a register, from memory or from the immediate.
fn shift(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Psllw_mm_mmm64 => Form::mmx(Shift(S::PsllW), memory),
        C::Psllw_xmm_xmmm128 => Form::packed(Shift(S::PsllW), memory),
        C::Psllw_mm_imm8 => Form::new(Shift(S::PsllW), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Psllw_xmm_imm8 => Form::sse(Shift(S::PsllW), Operand::Xmm, Operand::Immediate),
        C::Pslld_mm_mmm64 => Form::mmx(Shift(S::PsllD), memory),
        C::Pslld_xmm_xmmm128 => Form::packed(Shift(S::PsllD), memory),
        C::Pslld_mm_imm8 => Form::new(Shift(S::PsllD), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Pslld_xmm_imm8 => Form::sse(Shift(S::PsllD), Operand::Xmm, Operand::Immediate),
        C::Psllq_mm_mmm64 => Form::mmx(Shift(S::PsllQ), memory),
        C::Psllq_xmm_xmmm128 => Form::packed(Shift(S::PsllQ), memory),
        C::Psllq_mm_imm8 => Form::new(Shift(S::PsllQ), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Psllq_xmm_imm8 => Form::sse(Shift(S::PsllQ), Operand::Xmm, Operand::Immediate),
        C::Psrlw_mm_mmm64 => Form::mmx(Shift(S::PsrlW), memory),
        C::Psrlw_xmm_xmmm128 => Form::packed(Shift(S::PsrlW), memory),
        C::Psrlw_mm_imm8 => Form::new(Shift(S::PsrlW), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Psrlw_xmm_imm8 => Form::sse(Shift(S::PsrlW), Operand::Xmm, Operand::Immediate),
        C::Psrld_mm_mmm64 => Form::mmx(Shift(S::PsrlD), memory),
        C::Psrld_xmm_xmmm128 => Form::packed(Shift(S::PsrlD), memory),
        C::Psrld_mm_imm8 => Form::new(Shift(S::PsrlD), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Psrld_xmm_imm8 => Form::sse(Shift(S::PsrlD), Operand::Xmm, Operand::Immediate),
        C::Psrlq_mm_mmm64 => Form::mmx(Shift(S::PsrlQ), memory),
        C::Psrlq_xmm_xmmm128 => Form::packed(Shift(S::PsrlQ), memory),
        C::Psrlq_mm_imm8 => Form::new(Shift(S::PsrlQ), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Psrlq_xmm_imm8 => Form::sse(Shift(S::PsrlQ), Operand::Xmm, Operand::Immediate),
        C::Psraw_mm_mmm64 => Form::mmx(Shift(S::PsraW), memory),
        C::Psraw_xmm_xmmm128 => Form::packed(Shift(S::PsraW), memory),
        C::Psraw_mm_imm8 => Form::new(Shift(S::PsraW), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Psraw_xmm_imm8 => Form::sse(Shift(S::PsraW), Operand::Xmm, Operand::Immediate),
        C::Psrad_mm_mmm64 => Form::mmx(Shift(S::PsraD), memory),
        C::Psrad_xmm_xmmm128 => Form::packed(Shift(S::PsraD), memory),
        C::Psrad_mm_imm8 => Form::new(Shift(S::PsraD), Operand::Mm, Operand::Immediate, Unit::Mmx),
        C::Psrad_xmm_imm8 => Form::sse(Shift(S::PsraD), Operand::Xmm, Operand::Immediate),
        C::Pslldq_xmm_imm8 => Form::sse(Shift(S::PsllDQ), Operand::Xmm, Operand::Immediate),
        C::Psrldq_xmm_imm8 => Form::sse(Shift(S::PsrlDQ), Operand::Xmm, Operand::Immediate),
        _ => return None,
    })
}

fn shuffle(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Punpcklbw_mm_mmm32 => {
            Form::new(Shuffle(P::PunpcklBW), Operand::Mm, either(memory, Operand::Mm, 4), Unit::Mmx)
        }
        C::Punpcklbw_xmm_xmmm128 => Form::packed(Shuffle(P::PunpcklBW), memory),
        C::Punpckhbw_mm_mmm64 => Form::mmx(Shuffle(P::PunpckhBWMm), memory),
        C::Punpckhbw_xmm_xmmm128 => Form::packed(Shuffle(P::PunpckhBW), memory),
        C::Punpcklwd_mm_mmm32 => {
            Form::new(Shuffle(P::PunpcklWD), Operand::Mm, either(memory, Operand::Mm, 4), Unit::Mmx)
        }
        C::Punpcklwd_xmm_xmmm128 => Form::packed(Shuffle(P::PunpcklWD), memory),
        C::Punpckhwd_mm_mmm64 => Form::mmx(Shuffle(P::PunpckhWDMm), memory),
        C::Punpckhwd_xmm_xmmm128 => Form::packed(Shuffle(P::PunpckhWD), memory),
        C::Punpckldq_mm_mmm32 => {
            Form::new(Shuffle(P::PunpcklDQ), Operand::Mm, either(memory, Operand::Mm, 4), Unit::Mmx)
        }
        C::Punpckldq_xmm_xmmm128 => Form::packed(Shuffle(P::PunpcklDQ), memory),
        C::Punpckhdq_mm_mmm64 => Form::mmx(Shuffle(P::PunpckhDQMm), memory),
        C::Punpckhdq_xmm_xmmm128 => Form::packed(Shuffle(P::PunpckhDQ), memory),
        C::Punpcklqdq_xmm_xmmm128 => Form::packed(Shuffle(P::PunpcklQDQ), memory),
        C::Punpckhqdq_xmm_xmmm128 => Form::packed(Shuffle(P::PunpckhQDQ), memory),
        C::Packsswb_mm_mmm64 => Form::mmx(Shuffle(P::PackssWBMm), memory),
        C::Packsswb_xmm_xmmm128 => Form::packed(Shuffle(P::PackssWB), memory),
        C::Packssdw_mm_mmm64 => Form::mmx(Shuffle(P::PackssDWMm), memory),
        C::Packssdw_xmm_xmmm128 => Form::packed(Shuffle(P::PackssDW), memory),
        C::Packuswb_mm_mmm64 => Form::mmx(Shuffle(P::PackusWBMm), memory),
        C::Packuswb_xmm_xmmm128 => Form::packed(Shuffle(P::PackusWB), memory),
        C::Pshufw_mm_mmm64_imm8 => Form::mmx(Shuffle(P::Pshuflw), memory),
        C::Pshufd_xmm_xmmm128_imm8 => Form::packed(Shuffle(P::Pshufd), memory),
        C::Pshuflw_xmm_xmmm128_imm8 => Form::packed(Shuffle(P::Pshuflw), memory),
        C::Pshufhw_xmm_xmmm128_imm8 => Form::packed(Shuffle(P::Pshufhw), memory),
        C::Pinsrw_mm_r32m16_imm8 => {
            Form::new(Shuffle(P::PinsrwMm), Operand::Mm, either(memory, Operand::R32, 2), Unit::Mmx)
        }
        C::Pinsrw_mm_r64m16_imm8 => {
            Form::new(Shuffle(P::PinsrwMm), Operand::Mm, either(memory, Operand::R64, 2), Unit::Mmx)
        }
        C::Pextrw_r32_mm_imm8 => Form::new(Shuffle(P::PextrwMm), Operand::R32, Operand::Mm, Unit::Mmx),
        C::Pextrw_r64_mm_imm8 => Form::new(Shuffle(P::PextrwMm), Operand::R64, Operand::Mm, Unit::Mmx),
        C::Pmovmskb_r32_mm => Form::new(Shuffle(P::Pmovmskb), Operand::R32, Operand::Mm, Unit::Mmx),
        C::Pmovmskb_r64_mm => Form::new(Shuffle(P::Pmovmskb), Operand::R64, Operand::Mm, Unit::Mmx),
        C::Pinsrw_xmm_r32m16_imm8 => {
            Form::new(Shuffle(P::Pinsrw), Operand::Xmm, either(memory, Operand::R32, 2), Unit::Sse)
        }
        C::Pinsrw_xmm_r64m16_imm8 => {
            Form::new(Shuffle(P::Pinsrw), Operand::Xmm, either(memory, Operand::R64, 2), Unit::Sse)
        }
        C::Pextrw_r32_xmm_imm8 => Form::new(Shuffle(P::Pextrw), Operand::R32, Operand::Xmm, Unit::Sse),
        C::Pextrw_r64_xmm_imm8 => Form::new(Shuffle(P::Pextrw), Operand::R64, Operand::Xmm, Unit::Sse),
        C::Pmovmskb_r32_xmm => Form::new(Shuffle(P::Pmovmskb), Operand::R32, Operand::Xmm, Unit::Sse),
        C::Pmovmskb_r64_xmm => Form::new(Shuffle(P::Pmovmskb), Operand::R64, Operand::Xmm, Unit::Sse),
        _ => return None,
    })
}
