//! Addition, subtraction, logic, exchanges.

use super::super::flags::{AF, CF, DF, MASK, PF, SF, ZF, extend};
use super::super::op::{Kind, MEMORY, Op};
use super::super::state::{Cpu, Run};
use super::super::walk::Access;

impl Cpu {
    #[inline]
    pub(super) fn add(&mut self, a: u64, b: u64, size: u8) -> u64 {
        let result = a.wrapping_add(b);
        self.lazy.added(a, b, result, size);
        result
    }

    #[inline]
    pub(super) fn adc(&mut self, a: u64, b: u64, size: u8) -> u64 {
        let result = a.wrapping_add(b).wrapping_add(u64::from(self.lazy.carry()));
        self.lazy.added(a, b, result, size);
        result
    }

    #[inline]
    pub(super) fn sub(&mut self, a: u64, b: u64, size: u8) -> u64 {
        let result = a.wrapping_sub(b);
        self.lazy.subtracted(a, b, result, size);
        result
    }

    #[inline]
    pub(super) fn sbb(&mut self, a: u64, b: u64, size: u8) -> u64 {
        let result = a.wrapping_sub(b).wrapping_sub(u64::from(self.lazy.carry()));
        self.lazy.subtracted(a, b, result, size);
        result
    }

    #[inline]
    pub(super) fn and(&mut self, a: u64, b: u64, size: u8) -> u64 {
        self.lazy.logic(a & b, size);
        a & b
    }

    #[inline]
    pub(super) fn or(&mut self, a: u64, b: u64, size: u8) -> u64 {
        self.lazy.logic(a | b, size);
        a | b
    }

    #[inline]
    pub(super) fn xor(&mut self, a: u64, b: u64, size: u8) -> u64 {
        self.lazy.logic(a ^ b, size);
        a ^ b
    }

    /// INC, DEC (which leave CF alone), NOT (which leaves all flags alone), NEG.
    pub(super) fn unary(&mut self, op: &Op) -> Run {
        let size = op.size;
        self.modify_first(op, |cpu, value| {
            let carry = cpu.lazy.carry();
            match op.kind {
                Kind::Inc => {
                    let result = cpu.add(value, 1, size);
                    cpu.lazy.set_carry(carry);
                    result
                }
                Kind::Dec => {
                    let result = cpu.sub(value, 1, size);
                    cpu.lazy.set_carry(carry);
                    result
                }
                Kind::Neg => cpu.sub(0, value, size),
                _ => !value,
            }
        })
    }

    /// XCHG, XADD, CMPXCHG, CMPXCHG8B.
    pub(super) fn exchange(&mut self, op: &Op) -> Run {
        let size = op.size;
        if op.kind == Kind::Cmpxchg8b {
            return self.compare_exchange_pair(op);
        }
        let other = self.reg(op.s, size);
        let mut old = 0;
        match op.kind {
            Kind::Xchg => {
                self.modify_first(op, |_, value| {
                    old = value;
                    other
                })?;
                self.set_reg(op.s, size, old);
            }
            Kind::Xadd if op.flags & MEMORY == 0 => {
                old = self.reg(op.d, size);
                let sum = self.add(old, other, size);
                // With both the same register, the sum stays.
                self.set_reg(op.s, size, old);
                self.set_reg(op.d, size, sum);
            }
            Kind::Xadd => {
                self.modify_first(op, |cpu, value| {
                    old = value;
                    cpu.add(value, other, size)
                })?;
                self.set_reg(op.s, size, old);
            }
            _ => {
                let accumulator = self.reg(0, size);
                // Memory is always written, so it must be writable even if the comparison fails.
                self.modify_first(op, |cpu, value| {
                    old = value;
                    cpu.sub(accumulator, value, size);
                    if accumulator == value { other } else { value }
                })?;
                if old != accumulator {
                    self.set_reg(0, size, old);
                }
            }
        }
        Ok(())
    }

    /// CMPXCHG8B: only ZF changes.
    fn compare_exchange_pair(&mut self, op: &Op) -> Run {
        let address = self.address(op, 8, Access::Write)?;
        self.check_write(address, 8, op.segment)?;
        let old = self.read(address, 3, op.segment)?;
        let pair = |cpu: &Self, high: u8, low: u8| cpu.reg(high, 2) << 32 | cpu.reg(low, 2);
        let (expected, new) = (pair(self, 2, 0), pair(self, 1, 3));
        let equal = old == expected;
        self.write(address, 3, op.segment, if equal { new } else { old })?;
        self.lazy.set_zero(equal);
        if !equal {
            self.set_reg(0, 2, old & MASK[2]);
            self.set_reg(2, 2, old >> 32);
        }
        Ok(())
    }

    /// Sign extension of the accumulator, and flags set one by one.
    pub(super) fn simple(&mut self, op: &Op) {
        match op.kind {
            Kind::Cbw => {
                let value = extend(self.reg(0, op.size - 1), op.size - 1);
                self.set_reg(0, op.size, value);
            }
            Kind::Cwd => {
                let sign = extend(self.reg(0, op.size), op.size) >> 63;
                self.set_reg(2, op.size, 0u64.wrapping_sub(sign));
            }
            Kind::Lahf => {
                let flags = self.lazy.bits() & 0xff | 2;
                self.set_reg(super::super::op::HIGH, 0, flags);
            }
            Kind::Sahf => {
                const SET: u64 = CF | PF | AF | ZF | SF;
                let value = self.reg(super::super::op::HIGH, 0);
                let kept = self.lazy.bits() & !SET;
                self.lazy.set_bits(kept | value & SET);
            }
            Kind::Clc => self.lazy.set_carry(false),
            Kind::Stc => self.lazy.set_carry(true),
            Kind::Cmc => self.lazy.set_carry(!self.lazy.carry()),
            Kind::Cld => self.control_flags &= !DF,
            _ => self.control_flags |= DF,
        }
    }
}
