//! Rows on floating-point lanes.

use iced_x86::Code;
use iced_x86::Code as C;

use super::super::SimdOp::{Arith, Compare, CompareFlags, Convert, Estimate, Shuffle};
use super::super::float::{Arith as A, ConvertOp as V, EstimateOp as E, FlagsOp as F, Shape};
use super::super::shuffle::ShuffleOp as P;
use super::Operand::{Mm, Xmm};
use super::{Form, Operand, Unit, either};

pub(super) fn form_of(code: Code, memory: bool) -> Option<Form> {
    arithmetic(code, memory).or_else(|| place(code, memory)).or_else(|| convert(code, memory))
}

fn arithmetic(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Addps_xmm_xmmm128 => Form::packed(Arith(A::Add, Shape::Ps), memory),
        C::Addpd_xmm_xmmm128 => Form::packed(Arith(A::Add, Shape::Pd), memory),
        C::Addss_xmm_xmmm32 => Form::low(Arith(A::Add, Shape::Ss), memory, 4),
        C::Addsd_xmm_xmmm64 => Form::low(Arith(A::Add, Shape::Sd), memory, 8),
        C::Subps_xmm_xmmm128 => Form::packed(Arith(A::Sub, Shape::Ps), memory),
        C::Subpd_xmm_xmmm128 => Form::packed(Arith(A::Sub, Shape::Pd), memory),
        C::Subss_xmm_xmmm32 => Form::low(Arith(A::Sub, Shape::Ss), memory, 4),
        C::Subsd_xmm_xmmm64 => Form::low(Arith(A::Sub, Shape::Sd), memory, 8),
        C::Mulps_xmm_xmmm128 => Form::packed(Arith(A::Mul, Shape::Ps), memory),
        C::Mulpd_xmm_xmmm128 => Form::packed(Arith(A::Mul, Shape::Pd), memory),
        C::Mulss_xmm_xmmm32 => Form::low(Arith(A::Mul, Shape::Ss), memory, 4),
        C::Mulsd_xmm_xmmm64 => Form::low(Arith(A::Mul, Shape::Sd), memory, 8),
        C::Divps_xmm_xmmm128 => Form::packed(Arith(A::Div, Shape::Ps), memory),
        C::Divpd_xmm_xmmm128 => Form::packed(Arith(A::Div, Shape::Pd), memory),
        C::Divss_xmm_xmmm32 => Form::low(Arith(A::Div, Shape::Ss), memory, 4),
        C::Divsd_xmm_xmmm64 => Form::low(Arith(A::Div, Shape::Sd), memory, 8),
        C::Minps_xmm_xmmm128 => Form::packed(Arith(A::Min, Shape::Ps), memory),
        C::Minpd_xmm_xmmm128 => Form::packed(Arith(A::Min, Shape::Pd), memory),
        C::Minss_xmm_xmmm32 => Form::low(Arith(A::Min, Shape::Ss), memory, 4),
        C::Minsd_xmm_xmmm64 => Form::low(Arith(A::Min, Shape::Sd), memory, 8),
        C::Maxps_xmm_xmmm128 => Form::packed(Arith(A::Max, Shape::Ps), memory),
        C::Maxpd_xmm_xmmm128 => Form::packed(Arith(A::Max, Shape::Pd), memory),
        C::Maxss_xmm_xmmm32 => Form::low(Arith(A::Max, Shape::Ss), memory, 4),
        C::Maxsd_xmm_xmmm64 => Form::low(Arith(A::Max, Shape::Sd), memory, 8),
        C::Sqrtps_xmm_xmmm128 => Form::packed(Arith(A::Sqrt, Shape::Ps), memory),
        C::Sqrtpd_xmm_xmmm128 => Form::packed(Arith(A::Sqrt, Shape::Pd), memory),
        C::Sqrtss_xmm_xmmm32 => Form::low(Arith(A::Sqrt, Shape::Ss), memory, 4),
        C::Sqrtsd_xmm_xmmm64 => Form::low(Arith(A::Sqrt, Shape::Sd), memory, 8),
        C::Rcpps_xmm_xmmm128 => Form::packed(Estimate(E::Rcpps), memory),
        C::Rcpss_xmm_xmmm32 => Form::low(Estimate(E::Rcpss), memory, 4),
        C::Rsqrtps_xmm_xmmm128 => Form::packed(Estimate(E::Rsqrtps), memory),
        C::Rsqrtss_xmm_xmmm32 => Form::low(Estimate(E::Rsqrtss), memory, 4),
        _ => return None,
    })
}

/// Comparisons, shuffles and masks.
fn place(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Cmpps_xmm_xmmm128_imm8 => Form::packed(Compare(Shape::Ps), memory),
        C::Cmppd_xmm_xmmm128_imm8 => Form::packed(Compare(Shape::Pd), memory),
        C::Cmpss_xmm_xmmm32_imm8 => Form::low(Compare(Shape::Ss), memory, 4),
        C::Cmpsd_xmm_xmmm64_imm8 => Form::low(Compare(Shape::Sd), memory, 8),
        C::Comiss_xmm_xmmm32 => Form::sse(CompareFlags(F::Comiss), Operand::Flags, either(memory, Xmm, 4)),
        C::Comisd_xmm_xmmm64 => Form::sse(CompareFlags(F::Comisd), Operand::Flags, either(memory, Xmm, 8)),
        C::Ucomiss_xmm_xmmm32 => Form::sse(CompareFlags(F::Ucomiss), Operand::Flags, either(memory, Xmm, 4)),
        C::Ucomisd_xmm_xmmm64 => Form::sse(CompareFlags(F::Ucomisd), Operand::Flags, either(memory, Xmm, 8)),
        C::Shufps_xmm_xmmm128_imm8 => Form::packed(Shuffle(P::Shufps), memory),
        C::Shufpd_xmm_xmmm128_imm8 => Form::packed(Shuffle(P::Shufpd), memory),
        C::Unpcklps_xmm_xmmm128 => Form::packed(Shuffle(P::PunpcklDQ), memory),
        C::Unpcklpd_xmm_xmmm128 => Form::packed(Shuffle(P::PunpcklQDQ), memory),
        C::Unpckhps_xmm_xmmm128 => Form::packed(Shuffle(P::PunpckhDQ), memory),
        C::Unpckhpd_xmm_xmmm128 => Form::packed(Shuffle(P::PunpckhQDQ), memory),
        C::Movmskps_r32_xmm => Form::sse(Shuffle(P::Movmskps), Operand::R32, Xmm),
        C::Movmskps_r64_xmm => Form::sse(Shuffle(P::Movmskps), Operand::R64, Xmm),
        C::Movmskpd_r32_xmm => Form::sse(Shuffle(P::Movmskpd), Operand::R32, Xmm),
        C::Movmskpd_r64_xmm => Form::sse(Shuffle(P::Movmskpd), Operand::R64, Xmm),
        _ => return None,
    })
}

fn convert(code: Code, memory: bool) -> Option<Form> {
    Some(match code {
        C::Cvtpi2ps_xmm_mmm64 => from_mmx(V::Pi2Ps, memory),
        C::Cvtpi2pd_xmm_mmm64 => from_mmx(V::Dq2Pd, memory),
        C::Cvtsi2ss_xmm_rm32 => Form::sse(Convert(V::Si32ToSs), Xmm, either(memory, Operand::R32, 4)),
        C::Cvtsi2ss_xmm_rm64 => Form::sse(Convert(V::Si64ToSs), Xmm, either(memory, Operand::R64, 8)),
        C::Cvtsi2sd_xmm_rm32 => Form::sse(Convert(V::Si32ToSd), Xmm, either(memory, Operand::R32, 4)),
        C::Cvtsi2sd_xmm_rm64 => Form::sse(Convert(V::Si64ToSd), Xmm, either(memory, Operand::R64, 8)),
        C::Cvtss2si_r32_xmmm32 => Form::sse(Convert(V::SsToSi32), Operand::R32, either(memory, Xmm, 4)),
        C::Cvtss2si_r64_xmmm32 => Form::sse(Convert(V::SsToSi64), Operand::R64, either(memory, Xmm, 4)),
        C::Cvtsd2si_r32_xmmm64 => Form::sse(Convert(V::SdToSi32), Operand::R32, either(memory, Xmm, 8)),
        C::Cvtsd2si_r64_xmmm64 => Form::sse(Convert(V::SdToSi64), Operand::R64, either(memory, Xmm, 8)),
        C::Cvtps2pi_mm_xmmm64 => Form::new(Convert(V::Ps2Pi), Mm, either(memory, Xmm, 8), Unit::Both),
        C::Cvtps2dq_xmm_xmmm128 => Form::packed(Convert(V::Ps2Dq), memory),
        C::Cvtpd2pi_mm_xmmm128 => {
            Form { dst: Mm, unit: Unit::Both, ..Form::packed(Convert(V::Pd2Dq), memory) }
        }
        C::Cvtpd2dq_xmm_xmmm128 => Form::packed(Convert(V::Pd2Dq), memory),
        C::Cvttss2si_r32_xmmm32 => Form::sse(Convert(V::TssToSi32), Operand::R32, either(memory, Xmm, 4)),
        C::Cvttss2si_r64_xmmm32 => Form::sse(Convert(V::TssToSi64), Operand::R64, either(memory, Xmm, 4)),
        C::Cvttsd2si_r32_xmmm64 => Form::sse(Convert(V::TsdToSi32), Operand::R32, either(memory, Xmm, 8)),
        C::Cvttsd2si_r64_xmmm64 => Form::sse(Convert(V::TsdToSi64), Operand::R64, either(memory, Xmm, 8)),
        C::Cvttps2pi_mm_xmmm64 => Form::new(Convert(V::Tps2Pi), Mm, either(memory, Xmm, 8), Unit::Both),
        C::Cvttps2dq_xmm_xmmm128 => Form::packed(Convert(V::Tps2Dq), memory),
        C::Cvttpd2pi_mm_xmmm128 => {
            Form { dst: Mm, unit: Unit::Both, ..Form::packed(Convert(V::Tpd2Dq), memory) }
        }
        C::Cvttpd2dq_xmm_xmmm128 => Form::packed(Convert(V::Tpd2Dq), memory),
        C::Cvtdq2ps_xmm_xmmm128 => Form::packed(Convert(V::Dq2Ps), memory),
        C::Cvtdq2pd_xmm_xmmm64 => Form::low(Convert(V::Dq2Pd), memory, 8),
        C::Cvtps2pd_xmm_xmmm64 => Form::low(Convert(V::Ps2Pd), memory, 8),
        C::Cvtpd2ps_xmm_xmmm128 => Form::packed(Convert(V::Pd2Ps), memory),
        C::Cvtss2sd_xmm_xmmm32 => Form::low(Convert(V::Ss2Sd), memory, 4),
        C::Cvtsd2ss_xmm_xmmm64 => Form::low(Convert(V::Sd2Ss), memory, 8),
        _ => return None,
    })
}

/// Two dwords of an MMX register or of memory. From memory the x87 state is left alone: the manual says so of
/// CVTPI2PD only, processors do it for both.
fn from_mmx(op: V, memory: bool) -> Form {
    let unit = if memory { Unit::Sse } else { Unit::Both };
    Form::new(Convert(op), Xmm, either(memory, Mm, 8), unit)
}
