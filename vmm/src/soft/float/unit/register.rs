//! Instructions whose operands are registers, or memory that was fetched like one.

use super::super::arith::{add, div, mul};
use super::super::compare::{Relation, compare, examine};
use super::super::env::{Env, Rounding};
use super::super::operand::Outcome;
use super::super::round::cut;
use super::super::value::{BIAS, F80};
use super::memory::Memory;
use super::{C0, C1, C2, C3, Unit};

/// An operation of two operands. "Reverse": the destination is the second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arith {
    /// FADD, FADDP, FIADD
    Add,
    /// FMUL, FMULP, FIMUL
    Mul,
    /// FSUB, FSUBP, FISUB: destination minus source.
    Sub,
    /// FSUBR, FSUBRP, FISUBR: source minus destination.
    SubReverse,
    /// FDIV, FDIVP, FIDIV: destination by source.
    Div,
    /// FDIVR, FDIVRP, FIDIVR: source by destination.
    DivReverse,
}

impl Arith {
    fn apply(self, env: &mut Env, dst: F80, src: F80) -> Outcome {
        match self {
            Arith::Add => add(env, dst, src, false),
            Arith::Mul => mul(env, dst, src),
            Arith::Sub => add(env, dst, src, true),
            Arith::SubReverse => add(env, src, dst, true),
            Arith::Div => div(env, dst, src),
            Arith::DivReverse => div(env, src, dst),
        }
    }
}

/// Which NaNs make a comparison invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ordering {
    /// FCOM and its like: all.
    Ordered,
    /// FUCOM and its like: signalling ones.
    Unordered,
}

/// EFLAGS after FCOMI and FUCOMI; OF, SF and AF are cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompareFlags {
    /// ZF
    pub(crate) zero: bool,
    /// PF
    pub(crate) parity: bool,
    /// CF
    pub(crate) carry: bool,
}

/// What FLD1 and its like push. Those that are not exact are rounded as the control word says, and report
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Constant {
    /// FLD1
    One,
    /// FLDL2T: the binary logarithm of 10.
    Log2Of10,
    /// FLDL2E: the binary logarithm of e.
    Log2OfE,
    /// FLDPI
    Pi,
    /// FLDLG2: the decimal logarithm of 2.
    Log10Of2,
    /// FLDLN2: the natural logarithm of 2.
    LnOf2,
    /// FLDZ
    Zero,
}

impl Constant {
    /// Exponent without bias, and significand.
    fn parts(self) -> (i32, u128) {
        match self {
            Constant::One => (0, 1 << 127),
            Constant::Log2Of10 => (1, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4c),
            Constant::Log2OfE => (0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88),
            Constant::Pi => (1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
            Constant::Log10Of2 => (-2, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178),
            Constant::LnOf2 => (-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af),
            Constant::Zero => (-BIAS, 0),
        }
    }

    fn rounded(self, rounding: Rounding) -> F80 {
        let (exp, mant) = self.parts();
        F80::pack(false, exp + BIAS, cut(mant, 64, rounding, false).mant)
    }
}

impl Unit {
    /// `ST(dst) = ST(dst) op ST(src)`, one of which is ST(0).
    pub(crate) fn arith(&mut self, op: Arith, dst: u8, src: u8, pop: bool) {
        let (Some(a), Some(b)) = (self.get(dst), self.get(src)) else {
            return self.underflow_to(dst, pop);
        };
        let mut env = self.env();
        let result = op.apply(&mut env, a, b);
        self.report(&env);
        if let Some(result) = result {
            self.set(dst, result);
            self.pop_if(pop);
        }
    }

    /// `ST(0) = ST(0) op memory`; only F32, F64, I16 and I32 have an instruction.
    pub(crate) fn arith_memory(&mut self, op: Arith, source: Memory) {
        let Some(a) = self.get(0) else {
            return self.underflow_to(0, false);
        };
        let mut env = self.env();
        let b = source.operand(&mut env);
        let result = op.apply(&mut env, a, b);
        self.report(&env);
        if let Some(result) = result {
            self.set(0, result);
        }
    }

    /// Compares; what an empty register gives is unordered.
    fn relation(&mut self, b: Option<F80>, how: Ordering, env: &mut Env) -> Relation {
        let (Some(a), Some(b)) = (self.get(0), b) else {
            self.stack_fault(false);
            return Relation::Unordered;
        };
        let relation = compare(env, a, b, how == Ordering::Ordered);
        self.note(env);
        relation
    }

    fn compare_with(&mut self, b: Option<F80>, how: Ordering, pops: u8, env: &mut Env) {
        self.set_status(C1, 0);
        let relation = self.relation(b, how, env);
        self.set_relation(relation);
        self.pop_compared(pops);
    }

    /// No comparison pops with an unmasked exception.
    fn pop_compared(&mut self, pops: u8) {
        if !self.pending() {
            for _ in 0..pops {
                self.pop();
            }
        }
    }

    /// FCOM, FCOMP, FCOMPP, FUCOM, FUCOMP, FUCOMPP: ST(0) with ST(i), then `pops` pops.
    pub(crate) fn compare(&mut self, how: Ordering, i: u8, pops: u8) {
        let mut env = self.env();
        self.compare_with(self.get(i), how, pops, &mut env);
    }

    /// FCOM, FCOMP, FICOM, FICOMP: ST(0) with memory.
    pub(crate) fn compare_memory(&mut self, source: Memory, pop: bool) {
        let mut env = self.env();
        let b = source.operand(&mut env);
        self.compare_with(Some(b), Ordering::Ordered, u8::from(pop), &mut env);
    }

    /// FTST
    pub(crate) fn test(&mut self) {
        let mut env = self.env();
        self.compare_with(Some(F80::zero(false)), Ordering::Ordered, 0, &mut env);
    }

    /// FCOMI, FCOMIP, FUCOMI, FUCOMIP. They leave C1 alone unless a register is empty.
    pub(crate) fn compare_flags(&mut self, how: Ordering, i: u8, pop: bool) -> CompareFlags {
        let mut env = self.env();
        let relation = self.relation(self.get(i), how, &mut env);
        self.pop_compared(u8::from(pop));
        let unordered = relation == Relation::Unordered;
        CompareFlags {
            zero: unordered || relation == Relation::Equal,
            parity: unordered,
            carry: unordered || relation == Relation::Less,
        }
    }

    /// FXAM
    pub(crate) fn examine(&mut self) {
        // C3 and C0: empty.
        let class = self.get(0).map_or(0b101, examine);
        let mut codes = if self.raw(0).negative() { C1 } else { 0 };
        for (bit, code) in [(1, C0), (2, C2), (4, C3)] {
            if class & bit != 0 {
                codes |= code;
            }
        }
        self.set_status(C0 | C1 | C2 | C3, codes);
    }

    /// FLD1, FLDZ and so on.
    pub(crate) fn load_constant(&mut self, constant: Constant) {
        self.push_value(constant.rounded(self.env().rounding()));
    }

    /// FLD ST(i). An empty register comes before a full stack.
    pub(crate) fn load_register(&mut self, i: u8) {
        match self.get(i) {
            Some(value) => self.push_value(value),
            None => {
                if self.stack_fault(false) {
                    self.push(F80::INDEFINITE);
                }
            }
        }
    }

    /// Pushes a value that is known without an exception.
    pub(super) fn push_value(&mut self, value: F80) {
        match self.room() {
            Some(true) => {
                self.set_status(C1, 0);
                self.push(value);
            }
            Some(false) => self.push(F80::INDEFINITE),
            None => {}
        }
    }

    /// FST ST(i), FSTP ST(i)
    pub(crate) fn store_register(&mut self, i: u8, pop: bool) {
        let Some(value) = self.get(0) else {
            return self.underflow_to(i, pop);
        };
        self.set_status(C1, 0);
        self.set(i, value);
        self.pop_if(pop);
    }

    /// FSTPNCE ST(i), which the manual does not have: FSTP that takes an empty register without complaint.
    pub(crate) fn pop_to(&mut self, i: u8) {
        self.set_status(C1, 0);
        if let Some(value) = self.get(0) {
            self.set(i, value);
        }
        self.pop();
    }

    /// FXCH
    pub(crate) fn exchange(&mut self, i: u8) {
        let (a, b) = (self.get(0), self.get(i));
        if (a.is_none() || b.is_none()) && !self.stack_fault(false) {
            return;
        }
        self.set_status(C1, 0);
        self.set(0, b.unwrap_or(F80::INDEFINITE));
        self.set(i, a.unwrap_or(F80::INDEFINITE));
    }

    /// FCMOVcc. It leaves C1 alone unless a register is empty.
    pub(crate) fn move_if(&mut self, condition: bool, i: u8) {
        let (Some(_), Some(value)) = (self.get(0), self.get(i)) else {
            return self.underflow_to(0, false);
        };
        if condition {
            self.set(0, value);
        }
    }

    /// FFREE; FFREEP, which the manual does not have, also pops.
    pub(crate) fn free(&mut self, i: u8, pop: bool) {
        self.set_status(C1, 0);
        self.release(i);
        self.pop_if(pop);
    }

    /// FINCSTP
    pub(crate) fn increment_top(&mut self) {
        self.set_status(C1, 0);
        self.set_top(self.top().wrapping_add(1));
    }

    /// FDECSTP
    pub(crate) fn decrement_top(&mut self) {
        self.set_status(C1, 0);
        self.set_top(self.top().wrapping_sub(1));
    }
}
