//! Joins [`super::super::simd`] to registers and memory; FXSAVE and FXRSTOR.

use super::super::flags::{ARITHMETIC, MASK};
use super::super::float::FXSAVE_SIZE as IMAGE;
use super::super::op::Op;
use super::super::simd::{self, Form, Mxcsr, Operand, SimdFault, SimdOp, Unit};
use super::super::state::{Cpu, Mode, PROTECTION, Run, Trap, UNDEFINED, cr0, cr4, plain_fault, vector};
use super::super::walk::Access;

impl Cpu {
    pub(super) fn simd(&mut self, op: &Op) -> Run {
        let form = self.forms[(op.imm >> 8) as usize];
        self.check_unit(form.unit)?;
        if let Operand::Masked(bytes) = form.dst {
            return self.masked_store(op, form, bytes);
        }
        let source = self.simd_operand(op, form, form.src, op.s, Access::Read)?;
        let old = match form.dst {
            Operand::Memory(_) | Operand::None => 0,
            // The first operand of COMISS.
            Operand::Flags => self.xmm[usize::from(op.d & 15)],
            dst => self.simd_operand(op, form, dst, op.d, Access::Read)?,
        };
        let mut mxcsr = self.mxcsr;
        let result = simd::apply(form.op, old, source, op.imm as u8, &mut mxcsr);
        let result = match result {
            Ok(result) => result,
            Err(SimdFault::Reserved) => return Err(PROTECTION),
            Err(SimdFault::FloatingPoint) => {
                self.mxcsr = mxcsr;
                return Err(self.floating_point_fault());
            }
        };
        self.simd_result(op, form, result)?;
        self.mxcsr = mxcsr;
        match form.unit {
            Unit::Mmx | Unit::Both if form.op == SimdOp::Emms => self.fpu.leave_mmx(),
            Unit::Mmx | Unit::Both => self.fpu.enter_mmx(),
            _ => {}
        }
        Ok(())
    }

    fn floating_point_fault(&self) -> Trap {
        if self.cr4 & cr4::OSXMMEXCPT != 0 { plain_fault(vector::XM) } else { UNDEFINED }
    }

    fn check_unit(&self, unit: Unit) -> Run {
        if unit == Unit::None {
            return Ok(());
        }
        let sse = unit != Unit::Mmx;
        if self.cr0 & cr0::EM != 0 || (sse && self.cr4 & cr4::OSFXSR == 0) {
            return Err(UNDEFINED);
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(plain_fault(vector::NM));
        }
        if unit != Unit::Sse && self.fpu.pending() {
            return Err(plain_fault(vector::MF));
        }
        Ok(())
    }

    fn simd_operand(
        &mut self,
        op: &Op,
        form: Form,
        operand: Operand,
        register: u8,
        access: Access,
    ) -> Run<u128> {
        Ok(match operand {
            Operand::None | Operand::Flags | Operand::Masked(_) => 0,
            Operand::Xmm => self.xmm[usize::from(register & 15)],
            Operand::Mm => u128::from(self.fpu.mmx(register)),
            Operand::R32 => u128::from(self.reg(register, 2)),
            Operand::R64 => u128::from(self.reg(register, 3)),
            Operand::Immediate => u128::from(op.imm as u8),
            Operand::Memory(bytes) => {
                let address = self.simd_address(op, form, u64::from(bytes), access)?;
                self.read_wide(address, u64::from(bytes), op.segment)?
            }
        })
    }

    fn simd_address(&self, op: &Op, form: Form, bytes: u64, access: Access) -> Run<u64> {
        let address = self.address(op, bytes, access)?;
        if form.aligned && address & 15 != 0 { Err(PROTECTION) } else { Ok(address) }
    }

    fn simd_result(&mut self, op: &Op, form: Form, result: u128) -> Run {
        match form.dst {
            Operand::None | Operand::Immediate | Operand::Masked(_) => {}
            Operand::Xmm => self.xmm[usize::from(op.d & 15)] = result,
            Operand::Mm => self.fpu.set_mmx(op.d, result as u64),
            Operand::R32 => self.set_reg(op.d, 2, result as u64 & MASK[2]),
            Operand::R64 => self.set_reg(op.d, 3, result as u64),
            Operand::Flags => self.lazy.set_bits(result as u64 & ARITHMETIC),
            Operand::Memory(bytes) => {
                let address = self.simd_address(op, form, u64::from(bytes), Access::Write)?;
                self.write_wide(address, u64::from(bytes), op.segment, result)?;
            }
        }
        Ok(())
    }

    /// MASKMOVQ, MASKMOVDQU: byte by byte, after all that will be written was found writable.
    fn masked_store(&mut self, op: &Op, form: Form, bytes: u8) -> Run {
        let register = |cpu: &Self, number: u8| match form.src {
            Operand::Mm => u128::from(cpu.fpu.mmx(number)),
            _ => cpu.xmm[usize::from(number & 15)],
        };
        let (data, mask) = (register(self, op.s), simd::sign_bytes(register(self, op.aux)));
        let address = self.address(op, u64::from(bytes), Access::Write)?;
        let wanted = |at: u64| mask >> (at * 8) & 0xff != 0;
        for at in (0..u64::from(bytes)).filter(|at| wanted(*at)) {
            self.check_write(address.wrapping_add(at), 1, op.segment)?;
        }
        for at in (0..u64::from(bytes)).filter(|at| wanted(*at)) {
            self.write(address.wrapping_add(at), 0, op.segment, (data >> (at * 8)) as u64 & 0xff)?;
        }
        if form.unit == Unit::Mmx {
            self.fpu.enter_mmx();
        }
        Ok(())
    }

    /// The image as this mode has it: XMM8 to XMM15 only in 64-bit mode, the SSE part only if the operating
    /// system says that it saves it.
    pub(super) fn fxsave(&mut self, op: &Op) -> Run {
        self.check_fx()?;
        let address = self.fx_address(op, Access::Write)?;
        let mut image = [0; IMAGE];
        self.read_image(address, op.segment, &mut image, Access::Write)?;
        image[..160].fill(0);
        self.fpu.save(&mut image);
        image[24..28].copy_from_slice(&self.mxcsr.bits().to_le_bytes());
        image[28..32].copy_from_slice(&Mxcsr::MASK.to_le_bytes());
        let count = self.fx_registers();
        for (place, value) in image[160..].as_chunks_mut::<16>().0.iter_mut().zip(self.xmm).take(count) {
            *place = value.to_le_bytes();
        }
        for (at, piece) in image.as_chunks::<16>().0.iter().enumerate() {
            let value = u128::from_le_bytes(*piece);
            self.write_wide(address.wrapping_add(at as u64 * 16), 16, op.segment, value)?;
        }
        Ok(())
    }

    pub(super) fn fxrstor(&mut self, op: &Op) -> Run {
        self.check_fx()?;
        let address = self.fx_address(op, Access::Read)?;
        let mut image = [0; IMAGE];
        self.read_image(address, op.segment, &mut image, Access::Read)?;
        let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
        if self.cr4 & cr4::OSFXSR != 0 {
            self.mxcsr = Mxcsr::new(mxcsr).map_err(|_| PROTECTION)?;
            let count = self.fx_registers();
            let places = image[160..].as_chunks::<16>().0;
            for (value, place) in self.xmm.iter_mut().zip(places).take(count) {
                *value = u128::from_le_bytes(*place);
            }
        }
        self.fpu.restore(&image);
        Ok(())
    }

    fn check_fx(&self) -> Run {
        if self.cr0 & cr0::EM != 0 {
            return Err(UNDEFINED);
        }
        if self.cr0 & cr0::TS != 0 { Err(plain_fault(vector::NM)) } else { Ok(()) }
    }

    fn fx_address(&self, op: &Op, access: Access) -> Run<u64> {
        let address = self.address(op, IMAGE as u64, access)?;
        if address & 15 != 0 { Err(PROTECTION) } else { Ok(address) }
    }

    fn fx_registers(&self) -> usize {
        match (self.cr4 & cr4::OSFXSR != 0, self.mode) {
            (false, _) => 0,
            (true, Mode::Long) => 16,
            _ => 8,
        }
    }

    fn read_image(&mut self, address: u64, segment: u8, image: &mut [u8; IMAGE], access: Access) -> Run {
        for (at, piece) in image.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let at = address.wrapping_add(at as u64 * 16);
            if access == Access::Write {
                self.check_write(at, 16, segment)?;
            }
            *piece = self.read_wide(at, 16, segment)?.to_le_bytes();
        }
        Ok(())
    }
}
