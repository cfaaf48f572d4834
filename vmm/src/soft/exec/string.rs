//! String instructions.
//!
//! The counting rule of REP: one step is at most [`CHUNK`] rounds, and counts as one instruction. A step ends
//! early, and then still counts as one, after a round that accessed a device, and, while the guest single-steps or
//! has breakpoints, after every round. A step that ends with rounds left leaves RIP at the instruction, with RCX,
//! RSI and RDI those of the rounds that are left: every boundary between counts is an ordinary instruction
//! boundary, at which an interrupt can be taken. A fault in some round counts nothing; the rounds before it are
//! done. Since a step begins where the last one ended, a position is the count alone.

use super::super::flags::{DF, TF};
use super::super::op::{ADDRESS16, ADDRESS32, ES, FLAT, Kind, Op, REP, REPNE};
use super::super::state::{Cpu, Mode, Run};
use super::super::walk::Access;
use crate::vcpu::{Answer, VmExit};

/// Rounds of a repeated instruction that count as one.
pub(crate) const CHUNK: u64 = 4096;

/// One string instruction while it runs.
struct Round {
    /// Size of the addresses and of the counter: 1 to 3.
    width: u8,
    /// What is added to the addresses after a round.
    step: u64,
}

impl Cpu {
    pub(super) fn string(&mut self, op: &Op) -> Run {
        let width = match op.flags & (ADDRESS16 | ADDRESS32) {
            0 => 3,
            ADDRESS16 => 1,
            _ => 2,
        };
        let bytes = 1u64 << op.size;
        let step = if self.control_flags & DF != 0 { 0u64.wrapping_sub(bytes) } else { bytes };
        let round = Round { width, step };
        if op.flags & (REP | REPNE) == 0 {
            self.one_round(op, &round)?;
            self.rip = self.after(op);
            return Ok(());
        }
        let careful = self.control_flags & TF != 0 || self.watching;
        let mut left = if careful { 1 } else { CHUNK };
        let mut ended = self.reg(1, width) == 0;
        while !ended && left > 0 {
            let done = match self.many_rounds(op, &round, left.min(self.reg(1, width))) {
                0 => {
                    self.one_round(op, &round)?;
                    1
                }
                done => done,
            };
            left -= done;
            let count = self.reg(1, width).wrapping_sub(done);
            self.set_reg(1, width, count);
            ended = count == 0 || self.comparison_ends(op);
            if self.answers_used > 0 || self.attention {
                break;
            }
        }
        self.rip = if ended { self.after(op) } else { self.after(op).wrapping_sub(u64::from(op.length)) };
        Ok(())
    }

    /// REPE stops at a difference, REPNE at an equality.
    fn comparison_ends(&self, op: &Op) -> bool {
        match op.kind {
            Kind::Scas | Kind::Cmps => self.lazy.zero() != (op.flags & REP != 0),
            _ => false,
        }
    }

    fn source_address(&self, op: &Op, round: &Round, access: Access) -> Run<u64> {
        let segment = if matches!(op.kind, Kind::Stos | Kind::Scas | Kind::Ins) { FLAT } else { op.segment };
        self.linear(segment, self.reg(6, round.width), 1 << op.size, access)
    }

    fn target_segment(&self) -> u8 {
        if self.mode == Mode::Long { FLAT } else { ES }
    }

    fn target_address(&self, op: &Op, round: &Round, access: Access) -> Run<u64> {
        self.linear(self.target_segment(), self.reg(7, round.width), 1 << op.size, access)
    }

    fn advance(&mut self, register: u8, round: &Round, rounds: u64) {
        let by = round.step.wrapping_mul(rounds);
        self.set_reg(register, round.width, self.reg(register, round.width).wrapping_add(by));
    }

    fn one_round(&mut self, op: &Op, round: &Round) -> Run {
        let size = op.size;
        match op.kind {
            Kind::Movs => {
                let from = self.source_address(op, round, Access::Read)?;
                let value = self.read(from, size, op.segment)?;
                let to = self.target_address(op, round, Access::Write)?;
                self.write(to, size, self.target_segment(), value)?;
                self.advance(6, round, 1);
                self.advance(7, round, 1);
            }
            Kind::Stos => {
                let to = self.target_address(op, round, Access::Write)?;
                self.write(to, size, self.target_segment(), self.reg(0, size))?;
                self.advance(7, round, 1);
            }
            Kind::Lods => {
                let from = self.source_address(op, round, Access::Read)?;
                let value = self.read(from, size, op.segment)?;
                self.set_reg(0, size, value);
                self.advance(6, round, 1);
            }
            Kind::Scas => {
                let to = self.target_address(op, round, Access::Read)?;
                let value = self.read(to, size, self.target_segment())?;
                self.sub(self.reg(0, size), value, size);
                self.advance(7, round, 1);
            }
            Kind::Cmps => {
                let from = self.source_address(op, round, Access::Read)?;
                let first = self.read(from, size, op.segment)?;
                let to = self.target_address(op, round, Access::Read)?;
                let second = self.read(to, size, self.target_segment())?;
                self.sub(first, second, size);
                self.advance(6, round, 1);
                self.advance(7, round, 1);
            }
            Kind::Ins => {
                let port = self.reg(2, 1) as u16;
                self.check_port(port, size)?;
                let to = self.target_address(op, round, Access::Write)?;
                self.check_write(to, 1 << size, self.target_segment())?;
                let value = self.ask_port(port, size)?;
                self.write(to, size, self.target_segment(), value)?;
                self.advance(7, round, 1);
            }
            _ => {
                let port = self.reg(2, 1) as u16;
                self.check_port(port, size)?;
                let from = self.source_address(op, round, Access::Read)?;
                let value = self.read(from, size, op.segment)?;
                self.tell_port(port, size, value)?;
                self.advance(6, round, 1);
            }
        }
        Ok(())
    }

    /// The value of a port.
    pub(super) fn ask_port(&mut self, port: u16, size: u8) -> Run<u64> {
        let mut bytes = [0; 8];
        if let Answer::Pio(data) = self.ask(|| VmExit::PioIn { port, size: 1 << size, count: 1 })? {
            for (byte, answer) in bytes.iter_mut().zip(data) {
                *byte = answer;
            }
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a port.
    pub(super) fn tell_port(&mut self, port: u16, size: u8, value: u64) -> Run {
        let bytes = 1usize << size;
        let data = || value.to_le_bytes()[..bytes].to_vec();
        self.ask(|| VmExit::PioOut { port, size: bytes as u8, data: data() }).map(|_| ())
    }

    /// Does rounds of MOVS and STOS at once, as many as lie in one page of memory each, forwards; 0 if that is
    /// not possible.
    fn many_rounds(&mut self, op: &Op, round: &Round, wanted: u64) -> u64 {
        let bytes = 1u64 << op.size;
        let possible = matches!(op.kind, Kind::Movs | Kind::Stos)
            && round.step == bytes
            && !self.watching
            && wanted > 1
            && self.mode == Mode::Long;
        if !possible {
            return 0;
        }
        let Some((to, room)) = self.piece(self.reg(7, round.width), self.target_segment(), Access::Write)
        else {
            return 0;
        };
        let done = if op.kind == Kind::Stos {
            let rounds = wanted.min(room / bytes);
            rounds * u64::from(self.fill_memory(to, op.size, rounds))
        } else {
            let from = self.piece(self.reg(6, round.width), op.segment, Access::Read);
            let Some((from, other)) = from else { return 0 };
            let rounds = wanted.min(room.min(other) / bytes);
            // Onto bytes that are read later: that repeats a pattern, round by round.
            let overlaps = to > from && to - from < rounds * bytes;
            if overlaps { 0 } else { rounds * u64::from(self.pages.ram.copy(from, to, rounds * bytes)) }
        };
        if done > 0 {
            self.pages.touch_range(to, done * bytes);
            self.attention |= !self.pages.stale.is_empty();
            self.advance(7, round, done);
            if op.kind == Kind::Movs {
                self.advance(6, round, done);
            }
        }
        done
    }

    fn fill_memory(&self, to: u64, size: u8, rounds: u64) -> bool {
        let (ram, value) = (&self.pages.ram, self.regs[0]);
        match size {
            0 => ram.fill(to, value as u8, rounds),
            1 => ram.fill(to, value as u16, rounds),
            2 => ram.fill(to, value as u32, rounds),
            _ => ram.fill(to, value, rounds),
        }
    }

    /// Physical address of an offset whose translation is cached, and the bytes left in its page. What is not
    /// cached will be after the round that the caller does instead.
    fn piece(&self, offset: u64, segment: u8, access: Access) -> Option<(u64, u64)> {
        let address = self.linear(segment, offset, 1, access).ok()?;
        let entry = self.tlb.entry(self.cpl == 3, address);
        let tag = if access == Access::Write { entry.write } else { entry.read };
        (tag == address & !0xfff).then_some((entry.page + (address & 0xfff), 0x1000 - (address & 0xfff)))
    }
}
