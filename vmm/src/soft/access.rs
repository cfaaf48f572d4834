//! Loads and stores at linear addresses.
//!
//! An access inside one page whose translation is cached costs a comparison and a bounds check. Everything else
//! (page crossings, misses, device space, segment limits, breakpoints) goes the slow way. Both pages of a
//! crossing store are translated before a byte is written, so that a fault leaves nothing half done.

use super::op::{CS, DS, ES, FLAT_STACK, FS, GS, Op, SS};
use super::state::{Cpu, Mode, PROTECTION, Run, Trap, fault, vector};
use super::walk::Access;
use crate::vcpu::{Answer, VmExit};

const PAGE: u64 = !0xfff;

impl Cpu {
    /// Linear address of an instruction's memory operand, of so many bytes.
    #[inline]
    pub(super) fn address(&self, op: &Op, bytes: u64, access: Access) -> Run<u64> {
        let offset = self.offset(op);
        self.linear(op.segment, offset, bytes, access)
    }

    /// Linear address of an offset in a segment; outside of 64-bit mode the limit is checked.
    #[inline]
    pub(super) fn linear(&self, segment: u8, offset: u64, bytes: u64, access: Access) -> Run<u64> {
        let sum = self.bases[usize::from(segment & 7)].wrapping_add(offset);
        if self.mode == Mode::Long {
            return Ok(sum);
        }
        self.check_limit(segment, offset, bytes, access)?;
        Ok(sum & 0xffff_ffff)
    }

    /// Limit and type of a segment (SDM volume 3 section 6.3 and 6.5).
    #[cold]
    fn check_limit(&self, segment: u8, offset: u64, bytes: u64, access: Access) -> Run {
        let wrong = if segment == SS { fault(vector::SS, 0) } else { PROTECTION };
        let Some(descriptor) = self.segments.get(usize::from(segment)) else { return Ok(()) };
        let access_rights = descriptor.access;
        if access_rights >> 16 & 1 != 0 {
            return Err(PROTECTION);
        }
        let (code, bit1) = (access_rights & 8 != 0, access_rights & 2 != 0);
        let allowed = match access {
            Access::Read | Access::Fetch => !code || bit1,
            Access::Write => !code && bit1,
        };
        let last = offset.saturating_add(bytes.saturating_sub(1));
        let limit = u64::from(descriptor.limit);
        let inside = if !code && access_rights & 4 != 0 {
            // Expand-down: the valid part is above the limit.
            let top = if access_rights >> 14 & 1 != 0 { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit
        };
        if allowed && inside { Ok(()) } else { Err(wrong) }
    }

    /// Loads an operand of 1, 2, 4 or 8 bytes (size 0 to 3).
    #[inline]
    pub(super) fn load(&mut self, op: &Op, size: u8) -> Run<u64> {
        let address = self.address(op, 1 << size, Access::Read)?;
        self.read(address, size, op.segment)
    }

    /// Stores an operand.
    #[inline]
    pub(super) fn store(&mut self, op: &Op, size: u8, value: u64) -> Run {
        let address = self.address(op, 1 << size, Access::Write)?;
        self.write(address, size, op.segment, value)
    }

    /// Loads at a linear address, with the rights of the current privilege level. `segment` tells a stack fault
    /// from others.
    #[inline]
    pub(super) fn read(&mut self, address: u64, size: u8, segment: u8) -> Run<u64> {
        let entry = self.tlb.entry(self.cpl == 3, address);
        let bytes = 1u64 << size;
        if entry.read == address.wrapping_add(bytes - 1) & PAGE && !self.careful {
            // More than the operand may be read, but never more than memory has.
            if let Some(value) = self.pages.ram.load::<u64>(entry.page + (address & 0xfff)) {
                return Ok(value & super::flags::MASK[usize::from(size & 3)]);
            }
        }
        self.read_slow(address, bytes, segment, self.cpl == 3).map(|value| value as u64)
    }

    /// Stores at a linear address.
    #[inline]
    pub(super) fn write(&mut self, address: u64, size: u8, segment: u8, value: u64) -> Run {
        let entry = self.tlb.entry(self.cpl == 3, address);
        let bytes = 1u64 << size;
        if entry.write == address.wrapping_add(bytes - 1) & PAGE && !self.careful {
            let at = entry.page + (address & 0xfff);
            let done = match size {
                0 => self.pages.store(at, value as u8),
                1 => self.pages.store(at, value as u16),
                2 => self.pages.store(at, value as u32),
                _ => self.pages.store(at, value),
            };
            if done {
                self.attention |= !self.pages.stale.is_empty();
                return Ok(());
            }
        }
        self.write_slow(address, bytes, segment, self.cpl == 3, u128::from(value))
    }

    /// As [`Self::read`] for the processor's own accesses to its tables: always with the kernel's rights.
    pub(super) fn read_system(&mut self, address: u64, size: u8) -> Run<u64> {
        self.implicit = true;
        let value = self.read_slow(address, 1 << size, DS, false);
        self.implicit = false;
        value.map(|value| value as u64)
    }

    /// As [`Self::write`] for the processor's own accesses.
    pub(super) fn write_system(&mut self, address: u64, size: u8, value: u64) -> Run {
        self.implicit = true;
        let done = self.write_slow(address, 1 << size, SS, false, u128::from(value));
        self.implicit = false;
        done
    }

    /// Pushes a word of an event's frame, with the rights of the privilege level that handles it.
    pub(super) fn write_stack(&mut self, address: u64, value: u64, level: u8) -> Run {
        self.implicit = true;
        let done = self.write_slow(address, 8, SS, level == 3, u128::from(value));
        self.implicit = false;
        done
    }

    /// Loads up to 16 bytes.
    pub(super) fn read_wide(&mut self, address: u64, bytes: u64, segment: u8) -> Run<u128> {
        let entry = self.tlb.entry(self.cpl == 3, address);
        if bytes == 16
            && entry.read == address.wrapping_add(15) & PAGE
            && !self.careful
            && let Some(value) = self.pages.ram.load::<u128>(entry.page + (address & 0xfff))
        {
            return Ok(value);
        }
        self.read_slow(address, bytes, segment, self.cpl == 3)
    }

    /// Stores up to 16 bytes.
    pub(super) fn write_wide(&mut self, address: u64, bytes: u64, segment: u8, value: u128) -> Run {
        let entry = self.tlb.entry(self.cpl == 3, address);
        if bytes == 16
            && entry.write == address.wrapping_add(15) & PAGE
            && !self.careful
            && self.pages.store(entry.page + (address & 0xfff), value)
        {
            self.attention |= !self.pages.stale.is_empty();
            return Ok(());
        }
        self.write_slow(address, bytes, segment, self.cpl == 3, value)
    }

    /// Physical address of a byte, by the translation cache or a walk.
    pub(super) fn translate(&mut self, address: u64, access: Access, user: bool) -> Run<u64> {
        let entry = self.tlb.entry(user, address);
        let tag = match access {
            Access::Read => entry.read,
            Access::Write => entry.write,
            Access::Fetch => entry.execute,
        };
        if tag == address & PAGE {
            return Ok(entry.page + (address & 0xfff));
        }
        let found = self.walk(address, access, user)?;
        if found.page < self.pages.ram.bytes() {
            self.tlb.fill(user, address, found.page, found.rights);
        }
        Ok(found.page + (address & 0xfff))
    }

    fn check_canonical(&self, address: u64, bytes: u64, segment: u8) -> Run {
        if Self::is_canonical(address) && Self::is_canonical(address.wrapping_add(bytes - 1)) {
            return Ok(());
        }
        match segment {
            SS | FLAT_STACK => Err(fault(vector::SS, 0)),
            ES | CS | DS | FS | GS => Err(PROTECTION),
            _ => Err(PROTECTION),
        }
    }

    /// The one or two pieces of an access: physical address and length of the first, physical address of the
    /// second (length 0 if there is none).
    fn pieces(&mut self, address: u64, bytes: u64, access: Access, user: bool) -> Run<(u64, u64, u64)> {
        let first = self.translate(address, access, user)?;
        let room = 0x1000 - (address & 0xfff);
        if bytes <= room {
            return Ok((first, bytes, 0));
        }
        let second = self.translate(address.wrapping_add(room), access, user)?;
        Ok((first, room, second))
    }

    #[cold]
    fn read_slow(&mut self, address: u64, bytes: u64, segment: u8, user: bool) -> Run<u128> {
        self.check_canonical(address, bytes, segment)?;
        self.check_alignment(address, bytes, user)?;
        let (first, length, second) = self.pieces(address, bytes, Access::Read, user)?;
        self.watch(address, bytes, false);
        let mut value = self.read_physical(first, length)?;
        if length < bytes {
            value |= self.read_physical(second, bytes - length)? << (length * 8);
        }
        Ok(value)
    }

    #[cold]
    fn write_slow(&mut self, address: u64, bytes: u64, segment: u8, user: bool, value: u128) -> Run {
        self.check_canonical(address, bytes, segment)?;
        self.check_alignment(address, bytes, user)?;
        let (first, length, second) = self.pieces(address, bytes, Access::Write, user)?;
        self.watch(address, bytes, true);
        self.write_physical(first, length, value)?;
        if length < bytes {
            self.write_physical(second, bytes - length, value >> (length * 8))?;
        }
        Ok(())
    }

    /// Makes sure that a store of the operand will not fault, and says where it goes. For instructions that
    /// read, compute and write.
    pub(super) fn check_write(&mut self, address: u64, bytes: u64, segment: u8) -> Run {
        let user = self.cpl == 3;
        let entry = self.tlb.entry(user, address);
        if entry.write == address.wrapping_add(bytes - 1) & PAGE {
            return Ok(());
        }
        self.check_canonical(address, bytes, segment)?;
        self.check_alignment(address, bytes, user)?;
        self.pieces(address, bytes, Access::Write, user).map(|_| ())
    }

    /// #AC (SDM volume 3 section 7.15). Only seen on the slow way: [`Cpu::careful`] shuts the fast one.
    fn check_alignment(&self, address: u64, bytes: u64, user: bool) -> Run {
        if user
            && self.alignment
            && !self.implicit
            && bytes <= 8
            && address & (bytes.next_power_of_two() - 1) != 0
        {
            return Err(fault(vector::AC, 0));
        }
        Ok(())
    }

    /// Up to 16 bytes of one page: memory, or up to two device accesses.
    fn read_physical(&mut self, at: u64, bytes: u64) -> Run<u128> {
        let ram = &self.pages.ram;
        if at < ram.bytes() {
            let mut buffer = [0; 16];
            ram.read(at, &mut buffer[..bytes as usize]);
            return Ok(u128::from_le_bytes(buffer));
        }
        let mut value = 0;
        for piece in pieces_of(at, bytes) {
            value |= u128::from(self.read_device(at + piece.0, piece.1)?) << (piece.0 * 8);
        }
        Ok(value)
    }

    fn write_physical(&mut self, at: u64, bytes: u64, value: u128) -> Run {
        if at < self.pages.ram.bytes() {
            for (offset, byte) in value.to_le_bytes().into_iter().enumerate().take(bytes as usize) {
                self.pages.store(at + offset as u64, byte);
            }
            self.attention |= !self.pages.stale.is_empty();
            return Ok(());
        }
        for (offset, length) in pieces_of(at, bytes) {
            self.write_device(at + offset, length, (value >> (offset * 8)) as u64)?;
        }
        Ok(())
    }

    /// The processor's own tables have no place in device space: they read as ones there.
    fn read_device(&mut self, addr: u64, size: u8) -> Run<u64> {
        if self.implicit {
            return Ok(u64::MAX);
        }
        match self.ask(|| VmExit::MmioRead { addr, size })? {
            Answer::Mmio(data) => {
                Ok(u64::from_le_bytes(data) & super::flags::MASK[size.trailing_zeros() as usize & 3])
            }
            _ => Ok(u64::MAX),
        }
    }

    fn write_device(&mut self, addr: u64, size: u8, value: u64) -> Run {
        if self.implicit {
            return Ok(());
        }
        self.ask(|| VmExit::MmioWrite { addr, size, data: value.to_le_bytes() }).map(|_| ())
    }

    /// The answer to the instruction's next exit, if it was given; else the exit.
    pub(super) fn ask(&mut self, exit: impl FnOnce() -> VmExit) -> Run<Answer> {
        if let Some(answer) = self.answers.get(self.answers_used) {
            self.answers_used += 1;
            return Ok(answer.clone());
        }
        self.exit = Some(exit());
        Err(Trap::Exit)
    }
}

/// Cuts an access into device accesses of 1, 2, 4 or 8 bytes, none longer than needed or across eight bytes.
fn pieces_of(at: u64, bytes: u64) -> impl Iterator<Item = (u64, u8)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        if offset >= bytes {
            return None;
        }
        let room = (8 - (at + offset) % 8).min(bytes - offset);
        // An unaligned access that fits goes out whole, as the bus of a PC has it.
        let size = if offset == 0 && bytes.is_power_of_two() && bytes <= 8 && (at % 4096) + bytes <= 4096 {
            bytes
        } else {
            1 << room.ilog2()
        };
        let piece = (offset, size as u8);
        offset += size;
        Some(piece)
    })
}
