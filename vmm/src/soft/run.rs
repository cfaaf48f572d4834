//! Running blocks: fetch, execute, stop at exactly the instruction that was asked for.

use super::block::Blocks;
use super::decode::{Decoded, Forms, LENGTH_MAX, decode};
use super::fault::Cause;
use super::flags::{MASK, RF, TF};
use super::op::{BLOCK, CONTROL, CS, Op};
use super::state::{Cpu, Fault, Mode, PROTECTION, Run, SHADOW_SS, Trap, vector};
use super::walk::Access;
use crate::vcpu::VmExit;

/// Runs the instructions of a block. The one place that another way of execution would replace.
pub(super) trait BlockExec {
    /// Runs operations from the first on, until one traps or wants attention; says how many were completed.
    fn run(&mut self, cpu: &mut Cpu, ops: &[Op]) -> (usize, Run);
}

/// One operation after the other.
pub(super) struct Interpreter;

impl BlockExec for Interpreter {
    fn run(&mut self, cpu: &mut Cpu, ops: &[Op]) -> (usize, Run) {
        for (done, op) in ops.iter().enumerate() {
            if let Err(trap) = cpu.execute(op) {
                return (done, Err(trap));
            }
            if cpu.attention {
                return (done + 1, Ok(()));
            }
        }
        (ops.len(), Ok(()))
    }
}

/// What a run of one block came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// At an instruction boundary.
    Boundary,
    /// With an exit. The instruction was completed, or waits for the answer.
    Exit { exit: VmExit, complete: bool },
    /// Shutdown, or a guest that wants what the machine does not have.
    Shutdown,
}

/// A processor, its code cache and its way of execution.
pub(super) struct Engine<E> {
    pub(super) cpu: Cpu,
    pub(super) blocks: Blocks,
    exec: E,
    /// Forms met in instructions that are not cached.
    forms: Forms,
}

impl<E: BlockExec> Engine<E> {
    pub(super) fn new(cpu: Cpu, exec: E) -> Self {
        Engine { cpu, blocks: Blocks::new(), exec, forms: Forms::default() }
    }

    /// Runs at least one and at most `budget` instructions, or delivers a fault.
    pub(super) fn run_some(&mut self, budget: u64) -> Ended {
        let cpu = &self.cpu;
        if cpu.control_flags & (TF | RF) != 0 || cpu.shadow != 0 || cpu.watching {
            return self.step(true);
        }
        let run = self.run_block(budget);
        self.cpu.shadow = std::mem::take(&mut self.cpu.new_shadow);
        self.finish(run)
    }

    /// One instruction with everything that can surround it.
    pub(super) fn step(&mut self, check_breakpoint: bool) -> Ended {
        if check_breakpoint && let Some(fault) = self.cpu.at_breakpoint() {
            return self.finish(Err(Trap::Fault(fault)));
        }
        let before = self.cpu.control_flags;
        let shadow = std::mem::take(&mut self.cpu.shadow);
        self.cpu.control_flags &= !RF;
        let count = self.cpu.count;
        let mut run = self.run_block(1);
        let new = std::mem::take(&mut self.cpu.new_shadow);
        if self.cpu.count != count {
            // Two in a row shadow only the first.
            self.cpu.shadow = if new & shadow == 0 { new } else { 0 };
            if run.is_ok() && self.cpu.shadow & SHADOW_SS == 0 {
                run = self.cpu.debug_trap(before & TF != 0);
            }
        } else if run == Err(Trap::Exit) {
            self.cpu.control_flags = before;
            self.cpu.shadow = shadow;
        }
        self.finish(run)
    }

    /// Delivers a fault, hands out an exit.
    fn finish(&mut self, run: Run) -> Ended {
        let run = match run {
            Err(Trap::Fault(fault)) => {
                self.cpu.answers.clear();
                self.cpu.watched = 0;
                let rip = self.cpu.rip;
                self.cpu.raise(fault, Cause::Fault, rip)
            }
            run => run,
        };
        if !self.cpu.pages.stale.is_empty() {
            self.blocks.follow_stores(&mut self.cpu.pages);
        }
        match run {
            Ok(()) => match self.cpu.after_exit.take() {
                Some(exit) => Ended::Exit { exit, complete: true },
                None => Ended::Boundary,
            },
            Err(Trap::Exit) => match self.cpu.exit.take() {
                Some(exit) => Ended::Exit { exit, complete: false },
                None => Ended::Shutdown,
            },
            Err(Trap::Fault(_) | Trap::Shutdown) => Ended::Shutdown,
        }
    }

    /// Runs the block at RIP, `budget` instructions of it at most. RIP and the count are right afterwards,
    /// whatever happened.
    fn run_block(&mut self, budget: u64) -> Run {
        let at = self.fetch_address()?;
        let cpu = &mut self.cpu;
        cpu.attention = false;
        cpu.answers_used = 0;
        cpu.regs[usize::from(BLOCK)] = cpu.rip;
        if at < cpu.pages.ram.bytes() {
            if self.blocks.find(at, cpu.mode).is_none() {
                let (rip, mode) = (cpu.rip, cpu.mode);
                self.blocks.make(at, rip, mode, &mut cpu.pages, &mut cpu.forms);
            }
            if let Some(ops) = self.blocks.find(at, cpu.mode) {
                let wanted = ops.len().min(usize::try_from(budget).unwrap_or(usize::MAX));
                return account(cpu, &mut self.exec, &ops[..wanted]);
            }
        }
        let op = self.fetch_uncached(at)?;
        account(&mut self.cpu, &mut self.exec, &[op])
    }

    /// Physical address of the instruction.
    fn fetch_address(&mut self) -> Run<u64> {
        let cpu = &mut self.cpu;
        let linear = if cpu.mode == Mode::Long {
            cpu.rip
        } else {
            if cpu.rip > u64::from(cpu.segments[usize::from(CS)].limit) {
                return Err(PROTECTION);
            }
            cpu.bases[usize::from(CS)].wrapping_add(cpu.rip) & MASK[2]
        };
        if !Cpu::is_canonical(linear) {
            return Err(PROTECTION);
        }
        cpu.translate(linear, Access::Fetch, cpu.cpl == 3)
    }

    /// An instruction that does not end in its page, or is not in memory: device space reads as ones.
    fn fetch_uncached(&mut self, at: u64) -> Run<Op> {
        let cpu = &mut self.cpu;
        let (rip, mode) = (cpu.rip, cpu.mode);
        let base = if mode == Mode::Long { 0 } else { cpu.bases[usize::from(CS)] };
        let mut bytes = [0xff; LENGTH_MAX];
        let room = (0x1000 - (at & 0xfff)).min(LENGTH_MAX as u64) as usize;
        cpu.pages.ram.read(at, &mut bytes[..room]);
        let mut known = room;
        loop {
            match decode(&bytes[..known], mode, rip, 0, &mut self.forms, &mut cpu.forms) {
                Decoded::Op(op) => return Ok(op),
                Decoded::TooLong => return Err(PROTECTION),
                Decoded::Short if known == LENGTH_MAX => return Err(PROTECTION),
                Decoded::Short => {}
            }
            let mut linear = base.wrapping_add(rip).wrapping_add(room as u64);
            if mode != Mode::Long {
                linear &= MASK[2];
            }
            if !Cpu::is_canonical(linear) {
                return Err(PROTECTION);
            }
            let next = cpu.translate(linear, Access::Fetch, cpu.cpl == 3)?;
            cpu.pages.ram.read(next, &mut bytes[room..]);
            known = LENGTH_MAX;
        }
    }

    /// Delivers an external interrupt, before any instruction.
    pub(super) fn interrupt(&mut self, number: u8) -> Ended {
        let rip = self.cpu.rip;
        let run = self.cpu.raise(Fault { vector: number, code: None }, Cause::Other, rip);
        self.finish(run)
    }

    /// Delivers an exception that a saved state brought along.
    pub(super) fn exception(&mut self, fault: Fault) -> Ended {
        let cause = if fault.vector == vector::DB { Cause::Other } else { Cause::Fault };
        let rip = self.cpu.rip;
        let run = self.cpu.raise(fault, cause, rip);
        self.finish(run)
    }
}

/// Runs operations, counts them, and puts RIP where it belongs.
#[inline]
fn account<E: BlockExec>(cpu: &mut Cpu, exec: &mut E, ops: &[Op]) -> Run {
    let start = cpu.rip;
    let (done, run) = exec.run(cpu, ops);
    cpu.count += done as u64;
    let mask = if cpu.mode == Mode::Long { u64::MAX } else { MASK[2] };
    match (run, done.checked_sub(1).and_then(|last| ops.get(last))) {
        // A fault or an exit leaves RIP at its instruction.
        (Err(_), _) => cpu.rip = start.wrapping_add(u64::from(ops[done].offset)) & mask,
        (Ok(()), Some(op)) if op.flags & CONTROL == 0 => {
            cpu.rip = start.wrapping_add(u64::from(op.offset) + u64::from(op.length)) & mask;
        }
        (Ok(()), _) => {}
    }
    run
}
