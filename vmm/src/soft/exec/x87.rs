//! x87: what an operation of [`float`](super::super::float) needs of the rest of the processor.

use iced_x86::Code;

use super::super::flags::{CF, PF, ZF};
use super::super::float::{Effect, Operand, Operation, STATE_SIZE};
use super::super::op::Op;
use super::super::state::{Cpu, Run, UNDEFINED, cr0, plain_fault, vector};
use super::super::walk::Access;

impl Cpu {
    /// The unit changes only when nothing can fault any more: a copy of it executes the operation, and takes
    /// its place when memory has what it stores.
    pub(super) fn x87(&mut self, op: &Op) -> Run {
        let code = usize::try_from(op.imm).ok().and_then(|code| Code::try_from(code).ok());
        // One of two stack registers is ST(0).
        let operation = code.and_then(|code| Operation::of(code, op.d | op.s)).ok_or(UNDEFINED)?;
        let unavailable = if code == Some(Code::Wait) {
            self.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS
        } else {
            self.cr0 & (cr0::EM | cr0::TS) != 0
        };
        if unavailable {
            return Err(plain_fault(vector::NM));
        }
        if operation.waits() && self.fpu.pending() {
            return Err(plain_fault(vector::MF));
        }

        let mut bytes = [0; STATE_SIZE];
        if let Operand::Read(size) = operation.operand() {
            let address = self.address(op, size as u64, Access::Read)?;
            self.read_bytes(address, op.segment, &mut bytes[..size])?;
        }
        let holds = operation.condition().is_some_and(|condition| self.lazy.holds(condition));
        let mut unit = self.fpu.clone();
        match (operation.execute(&mut unit, &bytes, holds), operation.operand()) {
            (Effect::Write(bytes), Operand::Write(size)) => {
                let address = self.address(op, size as u64, Access::Write)?;
                self.check_write(address, size as u64, op.segment)?;
                self.write_bytes(address, op.segment, &bytes[..size])?;
            }
            (Effect::Ax(status), _) => self.set_reg(0, 1, u64::from(status)),
            (Effect::Flags(flags), _) => {
                let bit = |set: bool, bit: u64| if set { bit } else { 0 };
                self.lazy.set_bits(bit(flags.zero, ZF) | bit(flags.parity, PF) | bit(flags.carry, CF));
            }
            (Effect::None | Effect::Write(_), _) => {}
        }
        self.fpu = unit;
        Ok(())
    }

    /// Numbers of 2, 4 and 8 bytes, and what is longer in pieces of up to 16: #AC is for the former alone.
    fn read_bytes(&mut self, address: u64, segment: u8, image: &mut [u8]) -> Run {
        for (at, piece) in (0..).step_by(16).zip(image.chunks_mut(16)) {
            let value = self.read_wide(address.wrapping_add(at), piece.len() as u64, segment)?;
            let length = piece.len();
            piece.copy_from_slice(&value.to_le_bytes()[..length]);
        }
        Ok(())
    }

    fn write_bytes(&mut self, address: u64, segment: u8, image: &[u8]) -> Run {
        for (at, piece) in (0..).step_by(16).zip(image.chunks(16)) {
            let mut value = [0; 16];
            value[..piece.len()].copy_from_slice(piece);
            let value = u128::from_le_bytes(value);
            self.write_wide(address.wrapping_add(at), piece.len() as u64, segment, value)?;
        }
        Ok(())
    }
}
