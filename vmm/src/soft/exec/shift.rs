//! Shifts and rotations.
//!
//! Where the manual leaves a flag undefined, this is the rule, on every host: OF is computed as for a shift by
//! one of the last step's input (for SHLD and SHRD, the change of sign); AF is clear; a double shift of 16 bits
//! by more than 16 goes on with the bits of the first operand.

use super::super::flags::MASK;
use super::super::op::{Kind, Op};
use super::super::state::{Cpu, Run};

impl Cpu {
    /// ROL, ROR, RCL, RCR, SHL, SHR, SAR.
    pub(super) fn shift(&mut self, op: &Op) -> Run {
        let count = if op.s == 1 { self.reg(1, 0) } else { op.imm.cast_unsigned() };
        let count = (count & if op.size == 3 { 63 } else { 31 }) as u32;
        if count == 0 {
            // Nothing changes, but memory is accessed, and a 32-bit register is written.
            return self.modify_first(op, |_, value| value);
        }
        self.modify_first(op, |cpu, value| match op.aux {
            0 => cpu.rotate_left(value, count, op.size),
            1 => cpu.rotate_right(value, count, op.size),
            2 => cpu.rotate_carry_left(value, count, op.size),
            3 => cpu.rotate_carry_right(value, count, op.size),
            5 => cpu.shift_right(value, count, op.size),
            7 => cpu.shift_arithmetic(value, count, op.size),
            _ => cpu.shift_left(value, count, op.size),
        })
    }

    fn shift_left(&mut self, value: u64, count: u32, size: u8) -> u64 {
        let width = 8u32 << size;
        // The bit that leaves last stands at `width`.
        let wide = u128::from(value) << count;
        let result = wide as u64 & MASK[usize::from(size)];
        let carry = wide >> width & 1 != 0;
        self.lazy.shifted(result, size, carry, top(result, size) != carry);
        result
    }

    fn shift_right(&mut self, value: u64, count: u32, size: u8) -> u64 {
        let carry = value >> (count - 1) & 1 != 0;
        let result = value.checked_shr(count).unwrap_or(0);
        self.lazy.shifted(result, size, carry, top(value.checked_shr(count - 1).unwrap_or(0), size));
        result
    }

    fn shift_arithmetic(&mut self, value: u64, count: u32, size: u8) -> u64 {
        let wide = super::super::flags::extend(value, size).cast_signed();
        let carry = wide >> (count - 1) & 1 != 0;
        let result = (wide >> count).cast_unsigned() & MASK[usize::from(size)];
        self.lazy.shifted(result, size, carry, false);
        result
    }

    fn rotate_left(&mut self, value: u64, count: u32, size: u8) -> u64 {
        let width = 8u32 << size;
        let turn = count % width;
        let result = turn_left(value, turn, size);
        let carry = result & 1 != 0;
        self.lazy.set_carry_overflow(carry, top(result, size) != carry);
        result
    }

    fn rotate_right(&mut self, value: u64, count: u32, size: u8) -> u64 {
        let width = 8u32 << size;
        let turn = count % width;
        let result = turn_left(value, (width - turn) % width, size);
        let carry = top(result, size);
        self.lazy.set_carry_overflow(carry, carry != (result >> (width - 2) & 1 != 0));
        result
    }

    /// Through the carry flag: a rotation of one bit more than the operand has.
    fn rotate_carry_left(&mut self, value: u64, count: u32, size: u8) -> u64 {
        let width = 8u32 << size;
        let turn = count % (width + 1);
        let wide = u128::from(value) | u128::from(self.lazy.carry()) << width;
        let turned = wide << turn | wide >> (width + 1 - turn);
        let result = turned as u64 & MASK[usize::from(size)];
        let carry = turned >> width & 1 != 0;
        self.lazy.set_carry_overflow(carry, top(result, size) != carry);
        result
    }

    fn rotate_carry_right(&mut self, value: u64, count: u32, size: u8) -> u64 {
        let width = 8u32 << size;
        let turn = count % (width + 1);
        let wide = u128::from(value) | u128::from(self.lazy.carry()) << width;
        let turned = wide >> turn | wide << (width + 1 - turn);
        let result = turned as u64 & MASK[usize::from(size)];
        let carry = turned >> width & 1 != 0;
        self.lazy.set_carry_overflow(carry, top(result, size) != (result >> (width - 2) & 1 != 0));
        result
    }

    /// SHLD, SHRD: the bits that come in are those of `s`.
    pub(super) fn double_shift(&mut self, op: &Op) -> Run {
        let count = if op.aux == 1 { self.reg(1, 0) } else { op.imm.cast_unsigned() };
        let count = (count & if op.size == 3 { 63 } else { 31 }) as u32;
        if count == 0 {
            return self.modify_first(op, |_, value| value);
        }
        let width = 8u32 << op.size;
        let source = self.reg(op.s, op.size);
        self.modify_first(op, |cpu, value| {
            let (value, source) = (u128::from(value), u128::from(source));
            let (result, carry) = if op.kind == Kind::Shld {
                // value : source : value, of which the top is the operand.
                let wide = if width == 64 {
                    value << 64 | source
                } else {
                    value << (2 * width) | source << width | value
                };
                let keep = if width == 64 { 128 } else { 3 * width };
                let carry = wide >> (keep - count) & 1 != 0;
                (wide.wrapping_shl(count) >> (keep - width), carry)
            } else {
                let wide = if width == 64 {
                    source << 64 | value
                } else {
                    value << (2 * width) | source << width | value
                };
                (wide >> count, wide >> (count - 1) & 1 != 0)
            };
            let result = result as u64 & MASK[usize::from(op.size)];
            let overflow = top(result, op.size) != (value >> (width - 1) & 1 != 0);
            cpu.lazy.shifted(result, op.size, carry, overflow);
            result
        })
    }
}

/// The sign bit.
fn top(value: u64, size: u8) -> bool {
    value >> ((8u32 << size) - 1) & 1 != 0
}

/// Rotates by less than the width.
fn turn_left(value: u64, turn: u32, size: u8) -> u64 {
    let width = 8u32 << size;
    if turn == 0 {
        return value;
    }
    (value << turn | value >> (width - turn)) & MASK[usize::from(size)]
}
