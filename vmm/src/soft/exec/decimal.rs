//! What only 32-bit code has, and XLAT.

use super::super::flags::{AF, CF};
use super::super::op::{HIGH, Kind, Op};
use super::super::state::{Cpu, Run, plain_fault, vector};
use super::super::walk::Access;

impl Cpu {
    /// Decimal arithmetic, PUSHA, POPA, BOUND, XLAT.
    pub(super) fn old(&mut self, op: &Op) -> Run {
        match op.kind {
            Kind::Xlat => {
                let mut place = *op;
                place.disp = place.disp.wrapping_add(self.reg(0, 0).cast_signed());
                let value = self.load(&place, 0)?;
                self.set_reg(0, 0, value);
            }
            Kind::Pusha => return self.push_all(op),
            Kind::Popa => return self.pop_all(op),
            Kind::Bound => return self.bound(op),
            Kind::Salc => {
                let value = if self.lazy.carry() { 0xff } else { 0 };
                self.set_reg(0, 0, value);
            }
            Kind::Aam => {
                let (value, base) = (self.reg(0, 0), op.imm.cast_unsigned() & 0xff);
                let high = value.checked_div(base).ok_or(plain_fault(vector::DE))?;
                self.set_reg(0, 0, value % base);
                self.set_reg(HIGH, 0, high);
                self.lazy.logic(value % base, 0);
            }
            Kind::Aad => {
                let high = self.reg(HIGH, 0).wrapping_mul(op.imm.cast_unsigned() & 0xff);
                let value = self.reg(0, 0).wrapping_add(high) & 0xff;
                self.set_reg(0, 1, value);
                self.lazy.logic(value, 0);
            }
            Kind::Aaa | Kind::Aas => self.adjust_ascii(op.kind == Kind::Aaa),
            _ => self.adjust_decimal(op.kind == Kind::Daa),
        }
        Ok(())
    }

    fn adjust_ascii(&mut self, add: bool) {
        let adjust = self.reg(0, 0) & 15 > 9 || self.lazy.adjust();
        if adjust {
            let value = self.reg(0, 1);
            let value = if add { value.wrapping_add(0x106) } else { value.wrapping_sub(0x106) };
            self.set_reg(0, 1, value);
        }
        let low = self.reg(0, 0) & 15;
        self.set_reg(0, 0, low);
        self.lazy.logic(low, 0);
        let bits = self.lazy.bits();
        self.lazy.set_bits(bits | if adjust { AF | CF } else { 0 });
    }

    fn adjust_decimal(&mut self, add: bool) {
        let (old, old_carry) = (self.reg(0, 0), self.lazy.carry());
        let low = old & 15 > 9 || self.lazy.adjust();
        let high = old > 0x99 || old_carry;
        let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
        let value = if add { old.wrapping_add(by) } else { old.wrapping_sub(by) } & 0xff;
        // DAS also borrows when the low adjustment does.
        let carry = high || (low && !add && old < 6);
        self.set_reg(0, 0, value);
        self.lazy.logic(value, 0);
        let bits = self.lazy.bits();
        self.lazy.set_bits(bits | if low { AF } else { 0 } | if carry { CF } else { 0 });
    }

    fn push_all(&mut self, op: &Op) -> Run {
        let old = self.regs[4];
        for register in 0..8 {
            let value = if register == 4 { old } else { self.reg(register, op.size) };
            if let Err(trap) = self.push(op.size, value) {
                self.regs[4] = old;
                return Err(trap);
            }
        }
        Ok(())
    }

    fn pop_all(&mut self, op: &Op) -> Run {
        let mut values = [0; 8];
        for (depth, value) in values.iter_mut().enumerate() {
            *value = self.peek(op.size, (depth as u64) << op.size)?;
        }
        self.set_stack_pointer(self.regs[4].wrapping_add(8 << op.size));
        for (register, value) in (0..8).rev().zip(values) {
            if register != 4 {
                self.set_reg(register, op.size, value);
            }
        }
        Ok(())
    }

    fn bound(&mut self, op: &Op) -> Run {
        let address = self.address(op, 2 << op.size, Access::Read)?;
        let extend = |value| super::super::flags::extend(value, op.size).cast_signed();
        let low = extend(self.read(address, op.size, op.segment)?);
        let high = extend(self.read(address.wrapping_add(1 << op.size), op.size, op.segment)?);
        let index = extend(self.reg(op.d, op.size));
        if index < low || index > high { Err(plain_fault(vector::BR)) } else { Ok(()) }
    }
}
