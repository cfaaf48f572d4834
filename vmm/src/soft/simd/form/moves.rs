//! Rows that move, combine bits, or touch MXCSR and the x87 tags.

use iced_x86::Code;
use iced_x86::Code as C;

use super::super::SimdOp;
use super::super::SimdOp::Bits;
use super::super::bits::BitsOp as B;
use super::Operand::{Masked, Memory, Mm, R32, R64, Xmm};
use super::{Form, Operand, Unit, either};

pub(super) fn form_of(code: Code, memory: bool) -> Option<Form> {
    load(code, memory).or_else(|| store(code, memory)).or_else(|| logic(code, memory))
}

/// To a vector register: from memory, another vector register or a general one.
fn load(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Movaps_xmm_xmmm128 | C::Movapd_xmm_xmmm128 | C::Movdqa_xmm_xmmm128 => {
            Form::packed(Bits(B::Copy), memory)
        }
        C::Movups_xmm_xmmm128 | C::Movupd_xmm_xmmm128 | C::Movdqu_xmm_xmmm128 => {
            Form::low(Bits(B::Copy), memory, 16)
        }
        C::Movss_xmm_xmmm32 => Form::low(Bits(if memory { B::Copy } else { B::MergeLow32 }), memory, 4),
        C::Movsd_xmm_xmmm64 => Form::low(Bits(if memory { B::Copy } else { B::MergeLow64 }), memory, 8),
        C::Movq_xmm_xmmm64 => Form::low(Bits(B::Low64), memory, 8),
        C::Movlps_xmm_m64 | C::Movlpd_xmm_m64 => Form::low(Bits(B::MergeLow64), true, 8),
        C::Movhps_xmm_m64 | C::Movhpd_xmm_m64 => Form::low(Bits(B::MergeHigh64), true, 8),
        C::Movhlps_xmm_xmm => Form::low(Bits(B::HighToLow), false, 16),
        C::Movlhps_xmm_xmm => Form::low(Bits(B::MergeHigh64), false, 16),
        C::Movd_xmm_rm32 => Form::sse(Bits(B::Copy), Xmm, either(memory, R32, 4)),
        C::Movq_xmm_rm64 => Form::sse(Bits(B::Copy), Xmm, either(memory, R64, 8)),
        C::Movd_mm_rm32 => Form::new(Bits(B::Copy), Mm, either(memory, R32, 4), Unit::Mmx),
        C::Movq_mm_rm64 => Form::new(Bits(B::Copy), Mm, either(memory, R64, 8), Unit::Mmx),
        C::Movq_mm_mmm64 => Form::mmx(Bits(B::Copy), memory),
        C::Movq2dq_xmm_mm => Form::new(Bits(B::Copy), Xmm, Mm, Unit::Both),
        C::Movdq2q_mm_xmm => Form::new(Bits(B::Copy), Mm, Xmm, Unit::Both),
        C::Ldmxcsr_m32 => Form::sse(SimdOp::Ldmxcsr, Operand::None, Memory(4)),
        _ => return None,
    })
}

/// From a vector register, or past the cache.
fn store(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Movaps_xmmm128_xmm | C::Movapd_xmmm128_xmm | C::Movdqa_xmmm128_xmm => aligned_store(memory),
        C::Movntps_m128_xmm | C::Movntpd_m128_xmm | C::Movntdq_m128_xmm => aligned_store(true),
        C::Movups_xmmm128_xmm | C::Movupd_xmmm128_xmm | C::Movdqu_xmmm128_xmm => {
            Form::sse(Bits(B::Copy), either(memory, Xmm, 16), Xmm)
        }
        C::Movss_xmmm32_xmm => Form::sse(Bits(B::MergeLow32), either(memory, Xmm, 4), Xmm),
        C::Movsd_xmmm64_xmm => Form::sse(Bits(B::MergeLow64), either(memory, Xmm, 8), Xmm),
        C::Movq_xmmm64_xmm => Form::sse(Bits(B::Low64), either(memory, Xmm, 8), Xmm),
        C::Movlps_m64_xmm | C::Movlpd_m64_xmm => Form::sse(Bits(B::Low64), Memory(8), Xmm),
        C::Movhps_m64_xmm | C::Movhpd_m64_xmm => Form::sse(Bits(B::High64), Memory(8), Xmm),
        C::Movd_rm32_xmm => Form::sse(Bits(B::Copy), either(memory, R32, 4), Xmm),
        C::Movq_rm64_xmm => Form::sse(Bits(B::Copy), either(memory, R64, 8), Xmm),
        C::Movd_rm32_mm => Form::new(Bits(B::Copy), either(memory, R32, 4), Mm, Unit::Mmx),
        C::Movq_rm64_mm => Form::new(Bits(B::Copy), either(memory, R64, 8), Mm, Unit::Mmx),
        C::Movq_mmm64_mm => Form::new(Bits(B::Copy), either(memory, Mm, 8), Mm, Unit::Mmx),
        C::Movntq_m64_mm => Form::new(Bits(B::Copy), Memory(8), Mm, Unit::Mmx),
        C::Movnti_m32_r32 => Form::new(Bits(B::Copy), Memory(4), R32, Unit::None),
        C::Movnti_m64_r64 => Form::new(Bits(B::Copy), Memory(8), R64, Unit::None),
        C::Maskmovq_rDI_mm_mm => Form::new(Bits(B::Copy), Masked(8), Mm, Unit::Mmx),
        C::Maskmovdqu_rDI_xmm_xmm => Form::sse(Bits(B::Copy), Masked(16), Xmm),
        C::Stmxcsr_m32 => Form::sse(SimdOp::Stmxcsr, Memory(4), Operand::None),
        _ => return None,
    })
}

/// Logic, and what has no operands. A prefetch does not touch its memory operand and cannot fault.
fn logic(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Andps_xmm_xmmm128 | C::Andpd_xmm_xmmm128 | C::Pand_xmm_xmmm128 => {
            Form::packed(Bits(B::And), memory)
        }
        C::Andnps_xmm_xmmm128 | C::Andnpd_xmm_xmmm128 | C::Pandn_xmm_xmmm128 => {
            Form::packed(Bits(B::AndNot), memory)
        }
        C::Orps_xmm_xmmm128 | C::Orpd_xmm_xmmm128 | C::Por_xmm_xmmm128 => Form::packed(Bits(B::Or), memory),
        C::Xorps_xmm_xmmm128 | C::Xorpd_xmm_xmmm128 | C::Pxor_xmm_xmmm128 => {
            Form::packed(Bits(B::Xor), memory)
        }
        C::Pand_mm_mmm64 => Form::mmx(Bits(B::And), memory),
        C::Pandn_mm_mmm64 => Form::mmx(Bits(B::AndNot), memory),
        C::Por_mm_mmm64 => Form::mmx(Bits(B::Or), memory),
        C::Pxor_mm_mmm64 => Form::mmx(Bits(B::Xor), memory),
        C::Emms => Form::new(SimdOp::Emms, Operand::None, Operand::None, Unit::Mmx),
        C::Prefetchnta_m8
        | C::Prefetcht0_m8
        | C::Prefetcht1_m8
        | C::Prefetcht2_m8
        | C::Lfence
        | C::Lfence_E9
        | C::Lfence_EA
        | C::Lfence_EB
        | C::Lfence_EC
        | C::Lfence_ED
        | C::Lfence_EE
        | C::Lfence_EF
        | C::Mfence
        | C::Mfence_F1
        | C::Mfence_F2
        | C::Mfence_F3
        | C::Mfence_F4
        | C::Mfence_F5
        | C::Mfence_F6
        | C::Mfence_F7
        | C::Sfence
        | C::Sfence_F9
        | C::Sfence_FA
        | C::Sfence_FB
        | C::Sfence_FC
        | C::Sfence_FD
        | C::Sfence_FE
        | C::Sfence_FF => Form::new(SimdOp::Nothing, Operand::None, Operand::None, Unit::None),
        _ => return None,
    })
}

fn aligned_store(memory: bool) -> Form {
    Form { aligned: memory, ..Form::sse(Bits(B::Copy), either(memory, Xmm, 16), Xmm) }
}
