//! Instructions of ST(0), some with ST(1).

use super::super::arctan::arctan;
use super::super::arith::sqrt;
use super::super::env::Env;
use super::super::exponential::exp2_minus_1;
use super::super::logarithm::{y_log2_x, y_log2_x_plus_1};
use super::super::operand::Outcome;
use super::super::remainder::{Progress, Quotient, rem};
use super::super::scale::{extract, round, scale};
use super::super::trig::{Trig, too_large, trig};
use super::super::value::F80;
use super::{C0, C1, C2, C3, Unit};

/// An operation on the top of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// FCHS
    ChangeSign,
    /// FABS
    Absolute,
    /// FSQRT
    SquareRoot,
    /// FRNDINT
    Round,
    /// FXTRACT: the exponent, and the significand pushed.
    Extract,
    /// FSCALE: by ST(1).
    Scale,
    /// FPREM: by ST(1).
    Remainder,
    /// FPREM1: by ST(1).
    RemainderNearest,
    /// F2XM1
    Exp2Minus1,
    /// FYL2X: ST(1) times the binary logarithm of ST(0), to ST(1), and a pop.
    YLog2X,
    /// FYL2XP1: the same of ST(0) plus one.
    YLog2XPlus1,
    /// FPATAN: the arc tangent of ST(1) by ST(0), to ST(1), and a pop.
    ArcTangent,
    /// FPTAN: the tangent, and 1 pushed.
    Tangent,
    /// FSIN
    Sine,
    /// FCOS
    Cosine,
    /// FSINCOS: the sine, and the cosine pushed.
    SineCosine,
}

/// A function that replaces ST(0).
type Unary = fn(&mut Env, F80) -> Outcome;
/// A function of ST(0) and ST(1), in this order.
type Binary = fn(&mut Env, F80, F80) -> Outcome;

impl Unit {
    /// Executes it.
    pub(crate) fn function(&mut self, function: Function) {
        match function {
            Function::ChangeSign => self.unary(|_, a| Some(a.negated())),
            Function::Absolute => self.unary(|_, a| Some(a.with_sign(false))),
            Function::SquareRoot => self.unary(sqrt),
            Function::Round => self.unary(round),
            Function::Exp2Minus1 => self.unary(exp2_minus_1),
            Function::Scale => self.binary(scale, 0),
            Function::YLog2X => self.binary(y_log2_x, 1),
            Function::YLog2XPlus1 => self.binary(y_log2_x_plus_1, 1),
            Function::ArcTangent => self.binary(|env, x, y| arctan(env, y, x), 1),
            Function::Remainder => self.remainder(Quotient::Truncated),
            Function::RemainderNearest => self.remainder(Quotient::Nearest),
            Function::Extract => self.pair(extract),
            Function::Tangent => self.trig_pair(tangent),
            Function::SineCosine => self.trig_pair(sine_cosine),
            Function::Sine => self.trig(|env, a| trig(env, Trig::Sin, a)),
            Function::Cosine => self.trig(|env, a| trig(env, Trig::Cos, a)),
        }
    }

    fn unary(&mut self, function: Unary) {
        let Some(a) = self.get(0) else {
            return self.underflow_to(0, false);
        };
        let mut env = self.env();
        let result = function(&mut env, a);
        self.report(&env);
        if let Some(result) = result {
            self.set(0, result);
        }
    }

    /// The result goes to ST(0), or to ST(1) and ST(0) is popped.
    fn binary(&mut self, function: Binary, dst: u8) {
        let pop = dst == 1;
        let (Some(a), Some(b)) = (self.get(0), self.get(1)) else {
            return self.underflow_to(dst, pop);
        };
        let mut env = self.env();
        let result = function(&mut env, a, b);
        self.report(&env);
        if let Some(result) = result {
            self.set(dst, result);
            self.pop_if(pop);
        }
    }

    fn remainder(&mut self, how: Quotient) {
        self.set_status(C2, 0);
        let (Some(a), Some(b)) = (self.get(0), self.get(1)) else {
            return self.underflow_to(0, false);
        };
        let mut env = self.env();
        let (result, progress) = rem(&mut env, a, b, how);
        self.report(&env);
        if let Some(result) = result {
            self.set(0, result);
        }
        match progress {
            None => {}
            Some(Progress::Partial) => self.set_status(C0 | C1 | C2 | C3, C2),
            Some(Progress::Complete(quotient)) => {
                let bit = |number: u8, code| if quotient >> number & 1 != 0 { code } else { 0 };
                self.set_status(C0 | C1 | C2 | C3, bit(0, C1) | bit(1, C3) | bit(2, C0));
            }
        }
    }

    /// The operand of a function with two results, if the stack has room for the second one.
    fn operand_of_pair(&mut self) -> Option<F80> {
        let a = self.get(0);
        if a.is_some() && self.get(7).is_none() {
            return a;
        }
        if self.stack_fault(a.is_some()) {
            self.set(0, F80::INDEFINITE);
            self.push(F80::INDEFINITE);
        }
        None
    }

    /// A function with two results: what ST(0) becomes, and what is pushed.
    fn pair(&mut self, function: fn(&mut Env, F80) -> Option<(F80, F80)>) {
        let Some(a) = self.operand_of_pair() else { return };
        let mut env = self.env();
        let results = function(&mut env, a);
        self.report(&env);
        if let Some((result, pushed)) = results {
            self.set(0, result);
            self.push(pushed);
        }
    }

    /// Whether ST(0) is out of range, which C2 then says.
    fn out_of_range(&mut self) -> bool {
        let out = self.get(0).is_some_and(too_large);
        self.set_status(C1 | C2, if out { C2 } else { 0 });
        out
    }

    fn trig(&mut self, function: Unary) {
        if !self.out_of_range() {
            self.unary(function);
        }
    }

    /// A full stack is found before an argument out of range.
    fn trig_pair(&mut self, function: fn(&mut Env, F80) -> Option<(F80, F80)>) {
        self.set_status(C2, 0);
        if self.get(7).is_some() || !self.out_of_range() {
            self.pair(function);
        }
    }
}

fn tangent(env: &mut Env, a: F80) -> Option<(F80, F80)> {
    let tangent = trig(env, Trig::Tan, a)?;
    Some((tangent, if tangent.is_nan() { tangent } else { F80::ONE }))
}

fn sine_cosine(env: &mut Env, a: F80) -> Option<(F80, F80)> {
    let sine = trig(env, Trig::Sin, a)?;
    // One rounding direction is reported: the cosine's.
    Some((sine, trig(env, Trig::Cos, a)?))
}
