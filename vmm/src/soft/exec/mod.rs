//! What each operation does.
//!
//! The instructions that make up nearly all of execution are in the match of [`Cpu::execute`], each in the form
//! that its operands have; the rest is found in a second one. Every memory access comes before the first change
//! of a register, so that a fault, or an exit that starts the instruction anew, finds nothing half done.

mod alu;
mod bits;
mod control;
mod decimal;
mod muldiv;
mod shift;
mod simd;
mod string;
pub(crate) use string::CHUNK;
mod system;
mod tables;
mod x87;

use super::flags::MASK;
use super::op::{FLAT_STACK, Kind, MEMORY, Op, SS};
use super::state::{Cpu, Mode, PROTECTION, Run, UNDEFINED};
use super::walk::Access;

macro_rules! alu {
    ($cpu:ident, $op:ident, $f:ident, rr) => {{
        let (a, b) = ($cpu.reg($op.d, $op.size), $cpu.reg($op.s, $op.size));
        let result = $cpu.$f(a, b, $op.size);
        $cpu.set_reg($op.d, $op.size, result);
    }};
    ($cpu:ident, $op:ident, $f:ident, rm) => {{
        let b = $cpu.load($op, $op.size)?;
        let a = $cpu.reg($op.d, $op.size);
        let result = $cpu.$f(a, b, $op.size);
        $cpu.set_reg($op.d, $op.size, result);
    }};
    ($cpu:ident, $op:ident, $f:ident, mr) => {{
        let b = $cpu.reg($op.s, $op.size);
        $cpu.modify($op, |cpu, a| cpu.$f(a, b, $op.size))?;
    }};
    ($cpu:ident, $op:ident, $f:ident, ri) => {{
        let a = $cpu.reg($op.d, $op.size);
        let result = $cpu.$f(a, $op.imm.cast_unsigned() & MASK[usize::from($op.size & 3)], $op.size);
        $cpu.set_reg($op.d, $op.size, result);
    }};
    ($cpu:ident, $op:ident, $f:ident, mi) => {{
        let b = $op.imm.cast_unsigned() & MASK[usize::from($op.size & 3)];
        $cpu.modify($op, |cpu, a| cpu.$f(a, b, $op.size))?;
    }};
}

impl Cpu {
    /// Executes one operation. RIP is left alone but by those marked [`super::op::CONTROL`].
    #[inline]
    pub(super) fn execute(&mut self, op: &Op) -> Run {
        match op.kind {
            Kind::MovRR => self.set_reg(op.d, op.size, self.reg(op.s, op.size)),
            Kind::MovRM => {
                let value = self.load(op, op.size)?;
                self.set_reg(op.d, op.size, value);
            }
            Kind::MovMR => self.store(op, op.size, self.reg(op.s, op.size))?,
            Kind::MovRI => self.set_reg(op.d, op.size, op.imm.cast_unsigned()),
            Kind::MovMI => self.store(op, op.size, op.imm.cast_unsigned())?,
            Kind::MovzxR => self.set_reg(op.d, op.size, self.reg(op.s, op.aux)),
            Kind::MovzxM => {
                let value = self.load(op, op.aux)?;
                self.set_reg(op.d, op.size, value);
            }
            Kind::MovsxR => {
                let value = super::flags::extend(self.reg(op.s, op.aux), op.aux);
                self.set_reg(op.d, op.size, value);
            }
            Kind::MovsxM => {
                let value = super::flags::extend(self.load(op, op.aux)?, op.aux);
                self.set_reg(op.d, op.size, value);
            }
            Kind::Lea => self.set_reg(op.d, op.size, self.offset(op)),
            Kind::PushR => self.push(op.size, self.reg(op.d, op.size))?,
            Kind::PushI => self.push(op.size, op.imm.cast_unsigned())?,
            Kind::PopR => {
                let value = self.pop(op.size)?;
                self.set_reg(op.d, op.size, value);
            }
            Kind::AddRR => alu!(self, op, add, rr),
            Kind::AddRM => alu!(self, op, add, rm),
            Kind::AddMR => alu!(self, op, add, mr),
            Kind::AddRI => alu!(self, op, add, ri),
            Kind::AddMI => alu!(self, op, add, mi),
            Kind::OrRR => alu!(self, op, or, rr),
            Kind::OrRM => alu!(self, op, or, rm),
            Kind::OrMR => alu!(self, op, or, mr),
            Kind::OrRI => alu!(self, op, or, ri),
            Kind::OrMI => alu!(self, op, or, mi),
            Kind::AdcRR => alu!(self, op, adc, rr),
            Kind::AdcRM => alu!(self, op, adc, rm),
            Kind::AdcMR => alu!(self, op, adc, mr),
            Kind::AdcRI => alu!(self, op, adc, ri),
            Kind::AdcMI => alu!(self, op, adc, mi),
            Kind::SbbRR => alu!(self, op, sbb, rr),
            Kind::SbbRM => alu!(self, op, sbb, rm),
            Kind::SbbMR => alu!(self, op, sbb, mr),
            Kind::SbbRI => alu!(self, op, sbb, ri),
            Kind::SbbMI => alu!(self, op, sbb, mi),
            Kind::AndRR => alu!(self, op, and, rr),
            Kind::AndRM => alu!(self, op, and, rm),
            Kind::AndMR => alu!(self, op, and, mr),
            Kind::AndRI => alu!(self, op, and, ri),
            Kind::AndMI => alu!(self, op, and, mi),
            Kind::SubRR => alu!(self, op, sub, rr),
            Kind::SubRM => alu!(self, op, sub, rm),
            Kind::SubMR => alu!(self, op, sub, mr),
            Kind::SubRI => alu!(self, op, sub, ri),
            Kind::SubMI => alu!(self, op, sub, mi),
            Kind::XorRR => alu!(self, op, xor, rr),
            Kind::XorRM => alu!(self, op, xor, rm),
            Kind::XorMR => alu!(self, op, xor, mr),
            Kind::XorRI => alu!(self, op, xor, ri),
            Kind::XorMI => alu!(self, op, xor, mi),
            Kind::CmpRR => _ = self.sub(self.reg(op.d, op.size), self.reg(op.s, op.size), op.size),
            Kind::CmpRM => {
                let b = self.load(op, op.size)?;
                self.sub(self.reg(op.d, op.size), b, op.size);
            }
            Kind::CmpMR => {
                let a = self.load(op, op.size)?;
                self.sub(a, self.reg(op.s, op.size), op.size);
            }
            Kind::CmpRI => _ = self.sub(self.reg(op.d, op.size), immediate(op), op.size),
            Kind::CmpMI => {
                let a = self.load(op, op.size)?;
                self.sub(a, immediate(op), op.size);
            }
            Kind::TestRR => _ = self.and(self.reg(op.d, op.size), self.reg(op.s, op.size), op.size),
            Kind::TestMR => {
                let a = self.load(op, op.size)?;
                self.and(a, self.reg(op.s, op.size), op.size);
            }
            Kind::TestRI => _ = self.and(self.reg(op.d, op.size), immediate(op), op.size),
            Kind::TestMI => {
                let a = self.load(op, op.size)?;
                self.and(a, immediate(op), op.size);
            }
            Kind::Jcc => {
                if self.lazy.holds(op.aux) {
                    self.jump_relative(op)?;
                } else {
                    self.rip = self.after(op);
                }
            }
            Kind::Jmp => self.jump_relative(op)?,
            Kind::Call => self.call_relative(op)?,
            Kind::Ret => self.near_return(op)?,
            Kind::Cmov => {
                let value = self.source(op)?;
                // Four bytes clear the upper half even if nothing is moved.
                let value = if self.lazy.holds(op.aux) { value } else { self.reg(op.d, op.size) };
                self.set_reg(op.d, op.size, value);
            }
            Kind::Nop => {}
            _ => self.execute_rest(op)?,
        }
        Ok(())
    }

    #[inline(never)]
    fn execute_rest(&mut self, op: &Op) -> Run {
        use Kind as K;
        match op.kind {
            K::PushM => {
                let value = self.load(op, op.size)?;
                self.push(op.size, value)
            }
            K::PopM => self.pop_memory(op),
            K::Inc | K::Dec | K::Not | K::Neg => self.unary(op),
            K::Xchg | K::Xadd | K::Cmpxchg | K::Cmpxchg8b => self.exchange(op),
            K::Cbw | K::Cwd | K::Lahf | K::Sahf | K::Clc | K::Stc | K::Cmc | K::Cld | K::Std => {
                self.simple(op);
                Ok(())
            }
            K::Setcc => {
                let value = u64::from(self.lazy.holds(op.aux));
                self.write_first(op, 0, value)
            }
            K::Shift => self.shift(op),
            K::Shld | K::Shrd => self.double_shift(op),
            K::Mul | K::Imul1 | K::Imul2 | K::Imul3 | K::Div | K::Idiv => self.multiply_divide(op),
            K::Bt | K::Bts | K::Btr | K::Btc => self.bit_test(op),
            K::Bsf | K::Bsr => self.bit_scan(op),
            K::Bswap => {
                self.byte_swap(op);
                Ok(())
            }
            K::Movs | K::Stos | K::Lods | K::Scas | K::Cmps | K::Ins | K::Outs => self.string(op),
            K::Simd => self.simd(op),
            K::JmpRm
            | K::CallRm
            | K::RetImm
            | K::Loop
            | K::Loope
            | K::Loopne
            | K::Jrcxz
            | K::Leave
            | K::Enter => self.control(op),
            K::Pusha
            | K::Popa
            | K::Aaa
            | K::Aas
            | K::Daa
            | K::Das
            | K::Aam
            | K::Aad
            | K::Salc
            | K::Xlat
            | K::Bound => self.old(op),
            K::Undefined => Err(UNDEFINED),
            _ => self.system(op),
        }
    }

    /// Loads the operand in memory, computes, and stores the result: flags only change if all goes well.
    #[inline]
    fn modify(&mut self, op: &Op, compute: impl FnOnce(&mut Self, u64) -> u64) -> Run {
        let address = self.address(op, 1 << op.size, Access::Write)?;
        self.check_write(address, 1 << op.size, op.segment)?;
        let old = self.read(address, op.size, op.segment)?;
        let lazy = self.lazy;
        let result = compute(self, old);
        let stored = self.write(address, op.size, op.segment, result);
        if stored.is_err() {
            self.lazy = lazy;
        }
        stored
    }

    /// The second operand of an instruction with a register first: register `s` or memory.
    #[inline]
    fn source(&mut self, op: &Op) -> Run<u64> {
        if op.flags & MEMORY != 0 { self.load(op, op.size) } else { Ok(self.reg(op.s, op.size)) }
    }

    /// The first operand: register `d` or memory.
    fn read_first(&mut self, op: &Op, size: u8) -> Run<u64> {
        if op.flags & MEMORY != 0 { self.load(op, size) } else { Ok(self.reg(op.d, size)) }
    }

    fn write_first(&mut self, op: &Op, size: u8, value: u64) -> Run {
        if op.flags & MEMORY != 0 {
            self.store(op, size, value)
        } else {
            self.set_reg(op.d, size, value);
            Ok(())
        }
    }

    /// Reads the first operand, computes, and writes it; memory is known to be writable before.
    fn modify_first(&mut self, op: &Op, compute: impl FnOnce(&mut Self, u64) -> u64) -> Run {
        if op.flags & MEMORY != 0 {
            return self.modify(op, compute);
        }
        let old = self.reg(op.d, op.size);
        let result = compute(self, old);
        self.set_reg(op.d, op.size, result);
        Ok(())
    }

    /// The segment of the stack, as addresses name it.
    #[inline]
    pub(super) fn stack_segment(&self) -> u8 {
        if self.mode == Mode::Long { FLAT_STACK } else { SS }
    }

    /// Sets as many bits of the stack pointer as count.
    #[inline]
    pub(super) fn set_stack_pointer(&mut self, value: u64) {
        self.regs[4] = match self.stack_mask {
            0xffff => self.regs[4] & !0xffff | value & 0xffff,
            mask => value & mask,
        };
    }

    /// Pushes 2, 4 or 8 bytes.
    #[inline]
    pub(super) fn push(&mut self, size: u8, value: u64) -> Run {
        let top = self.regs[4].wrapping_sub(1 << size) & self.stack_mask;
        let segment = self.stack_segment();
        let address = self.linear(segment, top, 1 << size, Access::Write)?;
        self.write(address, size, segment, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Reads the stack, `depth` bytes above its top.
    #[inline]
    pub(super) fn peek(&mut self, size: u8, depth: u64) -> Run<u64> {
        let top = self.regs[4].wrapping_add(depth) & self.stack_mask;
        let segment = self.stack_segment();
        let address = self.linear(segment, top, 1 << size, Access::Read)?;
        self.read(address, size, segment)
    }

    /// Pops 2, 4 or 8 bytes.
    #[inline]
    pub(super) fn pop(&mut self, size: u8) -> Run<u64> {
        let value = self.peek(size, 0)?;
        self.set_stack_pointer(self.regs[4].wrapping_add(1 << size));
        Ok(value)
    }

    /// POP to memory: the address is computed with the new stack pointer (SDM volume 2, POP).
    fn pop_memory(&mut self, op: &Op) -> Run {
        let value = self.peek(op.size, 0)?;
        let old = self.regs[4];
        self.set_stack_pointer(old.wrapping_add(1 << op.size));
        let stored = self.store(op, op.size, value);
        if stored.is_err() {
            self.regs[4] = old;
        }
        stored
    }

    /// Goes to an address, if it can be one.
    #[inline]
    pub(super) fn jump(&mut self, target: u64) -> Run {
        self.check_target(target)?;
        self.rip = target;
        Ok(())
    }

    #[inline]
    pub(super) fn check_target(&self, target: u64) -> Run {
        let fits = match self.mode {
            Mode::Long => Self::is_canonical(target),
            _ => target <= u64::from(self.segments[1].limit),
        };
        if fits { Ok(()) } else { Err(PROTECTION) }
    }

    #[inline]
    fn target(&self, op: &Op) -> u64 {
        self.regs[usize::from(super::op::BLOCK)].wrapping_add(op.imm.cast_unsigned())
            & MASK[usize::from(op.size & 3)]
    }

    #[inline]
    fn jump_relative(&mut self, op: &Op) -> Run {
        let target = self.target(op);
        self.jump(target)
    }

    #[inline]
    fn call_relative(&mut self, op: &Op) -> Run {
        let target = self.target(op);
        self.check_target(target)?;
        self.push(op.size, self.after(op))?;
        self.rip = target;
        Ok(())
    }

    #[inline]
    fn near_return(&mut self, op: &Op) -> Run {
        let target = self.peek(op.size, 0)?;
        self.jump(target)?;
        let popped = (1u64 << op.size).wrapping_add(op.imm.cast_unsigned());
        self.set_stack_pointer(self.regs[4].wrapping_add(popped));
        Ok(())
    }
}

#[inline]
fn immediate(op: &Op) -> u64 {
    op.imm.cast_unsigned() & MASK[usize::from(op.size & 3)]
}
