//! x87 instructions that only move the control registers.

use iced_x86::Code as C;

use super::super::flags::MASK;
use super::super::op::{MEMORY, Op};
use super::super::state::{Cpu, Run, Trap, cr0, plain_fault, vector};

impl Cpu {
    pub(super) fn x87(&mut self, op: &Op) -> Run {
        let is = |code: C| op.imm == code as i64;
        if is(C::Wait) {
            if self.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
                return Err(plain_fault(vector::NM));
            }
            return self.check_pending();
        }
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(plain_fault(vector::NM));
        }
        if is(C::Fninit) {
            self.fpu.init();
            return Ok(());
        }
        if is(C::Fnclex) {
            self.fpu.clear_exceptions();
            return Ok(());
        }
        if is(C::Fnstcw_m2byte) {
            return self.store(op, 1, u64::from(self.fpu.control));
        }
        if is(C::Fnstsw_m2byte) || is(C::Fnstsw_AX) {
            let status = u64::from(self.fpu.status) & MASK[1];
            if op.flags & MEMORY != 0 {
                return self.store(op, 1, status);
            }
            self.set_reg(0, 1, status);
            return Ok(());
        }
        self.check_pending()?;
        if is(C::Fldcw_m2byte) {
            let value = self.load(op, 1)? as u16;
            self.fpu.set_control(value);
            return Ok(());
        }
        self.unsupported = Some("x87 arithmetic");
        Err(Trap::Shutdown)
    }

    fn check_pending(&self) -> Run {
        if self.fpu.pending() { Err(plain_fault(vector::MF)) } else { Ok(()) }
    }
}
