//! Multiplication and division.
//!
//! After a multiplication SF, ZF and PF are those of the low half and AF is clear; a division leaves the flags
//! alone. The manual leaves both undefined.

use super::super::flags::{MASK, extend};
use super::super::op::{HIGH, Kind, Op};
use super::super::state::{Cpu, Run, plain_fault, vector};

impl Cpu {
    /// MUL, IMUL, DIV, IDIV.
    pub(super) fn multiply_divide(&mut self, op: &Op) -> Run {
        let size = op.size;
        match op.kind {
            Kind::Mul => {
                let value = self.read_first(op, size)?;
                let product = u128::from(self.reg(0, size)) * u128::from(value);
                let high = (product >> (8u32 << size)) as u64;
                self.set_product(product, size, high != 0);
            }
            Kind::Imul1 => {
                let value = self.read_first(op, size)?;
                let product = signed(self.reg(0, size), size) * signed(value, size);
                self.set_product(product.cast_unsigned(), size, overflows(product, size));
            }
            Kind::Imul2 => {
                let value = self.source(op)?;
                let product = signed(self.reg(op.d, size), size) * signed(value, size);
                self.set_low(op.d, product, size);
            }
            Kind::Imul3 => {
                let value = self.source(op)?;
                let product = signed(value, size) * signed(op.imm.cast_unsigned(), size);
                self.set_low(op.d, product, size);
            }
            Kind::Div => self.divide(op)?,
            _ => self.divide_signed(op)?,
        }
        Ok(())
    }

    /// Accumulator and data register; for bytes, AX.
    fn set_pair(&mut self, low: u64, high: u64, size: u8) {
        if size == 0 {
            self.set_reg(0, 0, low);
            self.set_reg(HIGH, 0, high);
        } else {
            self.set_reg(0, size, low);
            self.set_reg(2, size, high);
        }
    }

    fn pair(&self, size: u8) -> u128 {
        if size == 0 {
            return u128::from(self.reg(0, 1));
        }
        u128::from(self.reg(2, size)) << (8u32 << size) | u128::from(self.reg(0, size))
    }

    fn set_product(&mut self, product: u128, size: u8, overflow: bool) {
        let low = product as u64 & MASK[usize::from(size)];
        let high = (product >> (8u32 << size)) as u64 & MASK[usize::from(size)];
        self.set_pair(low, high, size);
        self.lazy.shifted(low, size, overflow, overflow);
    }

    fn set_low(&mut self, register: u8, product: i128, size: u8) {
        let low = product as u64 & MASK[usize::from(size)];
        self.set_reg(register, size, low);
        let overflow = overflows(product, size);
        self.lazy.shifted(low, size, overflow, overflow);
    }

    fn divide(&mut self, op: &Op) -> Run {
        let divisor = u128::from(self.read_first(op, op.size)?);
        let dividend = self.pair(op.size);
        let quotient = dividend.checked_div(divisor).ok_or(plain_fault(vector::DE))?;
        let mask = u128::from(MASK[usize::from(op.size)]);
        if quotient > mask {
            return Err(plain_fault(vector::DE));
        }
        self.set_pair(quotient as u64, (dividend % divisor) as u64, op.size);
        Ok(())
    }

    fn divide_signed(&mut self, op: &Op) -> Run {
        let divisor = signed(self.read_first(op, op.size)?, op.size);
        let width = 16u32 << op.size;
        let dividend = (self.pair(op.size) << (128 - width)).cast_signed() >> (128 - width);
        let quotient = dividend.checked_div(divisor).ok_or(plain_fault(vector::DE))?;
        if overflows(quotient, op.size) {
            return Err(plain_fault(vector::DE));
        }
        self.set_pair(quotient as u64, (dividend % divisor) as u64, op.size);
        Ok(())
    }
}

fn signed(value: u64, size: u8) -> i128 {
    i128::from(extend(value, size).cast_signed())
}

/// Whether the value needs more bits than the operand has.
fn overflows(value: i128, size: u8) -> bool {
    i128::from(extend(value as u64, size).cast_signed()) != value
}
