//! Near branches that are less common than those of [`Cpu::execute`], and stack frames.

use super::super::op::{Kind, Op};
use super::super::state::{Cpu, Run};
use super::super::walk::Access;

impl Cpu {
    /// Indirect jumps and calls, RET with an operand, LOOP and JRCXZ, ENTER and LEAVE.
    pub(super) fn control(&mut self, op: &Op) -> Run {
        match op.kind {
            Kind::JmpRm => {
                let target = self.read_first(op, op.size)?;
                self.jump(target)
            }
            Kind::CallRm => {
                let target = self.read_first(op, op.size)?;
                self.check_target(target)?;
                self.push(op.size, self.after(op))?;
                self.rip = target;
                Ok(())
            }
            Kind::RetImm => self.near_return(op),
            Kind::Leave => self.leave(op),
            Kind::Enter => self.enter(op),
            _ => self.count_and_jump(op),
        }
    }

    fn count_and_jump(&mut self, op: &Op) -> Run {
        let old = self.reg(1, op.aux);
        let left = if op.kind == Kind::Jrcxz { old } else { old.wrapping_sub(1) };
        let zero = left & super::super::flags::MASK[usize::from(op.aux & 3)] == 0;
        let taken = match op.kind {
            Kind::Jrcxz => zero,
            Kind::Loope => !zero && self.lazy.zero(),
            Kind::Loopne => !zero && !self.lazy.zero(),
            _ => !zero,
        };
        if taken {
            self.jump_relative(op)?;
        } else {
            self.rip = self.after(op);
        }
        if op.kind != Kind::Jrcxz {
            self.set_reg(1, op.aux, left);
        }
        Ok(())
    }

    fn leave(&mut self, op: &Op) -> Run {
        let frame = self.regs[5] & self.stack_mask;
        let segment = self.stack_segment();
        let address = self.linear(segment, frame, 1 << op.size, Access::Read)?;
        let value = self.read(address, op.size, segment)?;
        self.set_stack_pointer(frame.wrapping_add(1 << op.size));
        self.set_reg(5, op.size, value);
        Ok(())
    }

    /// ENTER: the stack pointer moves only when everything was pushed.
    fn enter(&mut self, op: &Op) -> Run {
        let old = self.regs[4];
        let made = self.enter_frame(op);
        if made.is_err() {
            self.regs[4] = old;
        }
        made
    }

    fn enter_frame(&mut self, op: &Op) -> Run {
        let bytes = 1u64 << op.size;
        let segment = self.stack_segment();
        self.push(op.size, self.reg(5, op.size))?;
        let frame = self.regs[4];
        for level in 1..u64::from(op.aux) {
            let at = self.regs[5].wrapping_sub(level * bytes) & self.stack_mask;
            let address = self.linear(segment, at, bytes, Access::Read)?;
            let value = self.read(address, op.size, segment)?;
            self.push(op.size, value)?;
        }
        if op.aux > 0 {
            self.push(op.size, frame)?;
        }
        let top = self.regs[4].wrapping_sub(op.imm.cast_unsigned()) & self.stack_mask;
        let address = self.linear(segment, top, bytes, Access::Write)?;
        self.check_write(address, bytes, segment)?;
        self.set_stack_pointer(top);
        self.set_reg(5, op.size, frame);
        Ok(())
    }
}
