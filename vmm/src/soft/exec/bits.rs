//! Bit tests, scans and byte order.

use super::super::flags::extend;
use super::super::op::{Kind, MEMORY, Op};
use super::super::state::{Cpu, Run};

impl Cpu {
    /// BT, BTS, BTR, BTC. Only CF changes. A bit number in a register reaches beyond the memory operand.
    pub(super) fn bit_test(&mut self, op: &Op) -> Run {
        let width_mask = (8u64 << op.size) - 1;
        let number = if op.aux == 1 { op.imm.cast_unsigned() } else { self.reg(op.s, op.size) };
        let bit = 1u64 << (number & width_mask);
        let mut place = *op;
        if op.aux == 0 && op.flags & MEMORY != 0 {
            let elements = extend(number, op.size).cast_signed() >> (op.size + 3);
            place.disp = place.disp.wrapping_add(elements << op.size);
        }
        if op.kind == Kind::Bt {
            let value = self.read_first(&place, op.size)?;
            self.lazy.set_carry(value & bit != 0);
            return Ok(());
        }
        self.modify_first(&place, |cpu, value| {
            cpu.lazy.set_carry(value & bit != 0);
            match op.kind {
                Kind::Bts => value | bit,
                Kind::Btr => value & !bit,
                _ => value ^ bit,
            }
        })
    }

    /// BSF, BSR. Of zero, the destination is left alone (all 64 bits of it), as every known processor does. The
    /// other flags, undefined in the manual, are those of the operand, CF, OF and AF clear.
    pub(super) fn bit_scan(&mut self, op: &Op) -> Run {
        let value = self.source(op)?;
        self.lazy.logic(value, op.size);
        if value != 0 {
            let found = if op.kind == Kind::Bsf { value.trailing_zeros() } else { value.ilog2() };
            self.set_reg(op.d, op.size, u64::from(found));
        }
        Ok(())
    }

    /// BSWAP; of 16 bits, undefined in the manual, it gives zero.
    pub(super) fn byte_swap(&mut self, op: &Op) {
        let value = self.reg(op.d, op.size);
        let swapped = match op.size {
            3 => value.swap_bytes(),
            2 => u64::from((value as u32).swap_bytes()),
            _ => 0,
        };
        self.set_reg(op.d, op.size, swapped);
    }
}
