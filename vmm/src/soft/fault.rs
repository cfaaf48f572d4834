//! Delivery of exceptions and interrupts in long mode (SDM volume 3 sections 7.14 and 7.15), and debug exceptions.

use super::flags::{IF, NT, RF, TF, VM};
use super::op::{CS, SS};
use super::segment::{BIG, LONG, external, is_null, named};
use super::state::{Cpu, Fault, Mode, PROTECTION, Run, Trap, fault, vector};

/// What caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// INT n, INT3, INTO: the gate's privilege counts.
    Software,
    /// An exception of class fault: it pushes RF.
    Fault,
    /// An exception of class trap, or an interrupt.
    Other,
}

/// A gate of the interrupt table.
struct Gate {
    selector: u16,
    offset: u64,
    stack: u8,
    /// Clears IF.
    interrupt: bool,
}

/// Bit of an error code that says that the selector is of the interrupt table.
const IN_IDT: u32 = 2;
/// Single step, in DR6.
const STEP: u64 = 1 << 14;
/// What of DR6 a debug exception replaces.
const DR6_BREAKPOINTS: u64 = 0xf;

impl Cpu {
    /// Delivers an exception, and those that its delivery causes.
    pub(super) fn raise(&mut self, first: Fault, cause: Cause, rip: u64) -> Run {
        let (mut current, mut cause) = (first, cause);
        // Benign, contributory, page fault, double fault: each turn goes at least one step to the right, but for
        // a contributory fault in a page fault's place, which is a double fault.
        loop {
            match self.deliver(current, cause, rip) {
                Err(Trap::Fault(second)) => {
                    if current.vector == vector::DF {
                        return Err(Trap::Shutdown);
                    }
                    let double = (is_contributory(current) && is_contributory(second))
                        || (current.vector == vector::PF
                            && (is_contributory(second) || second.vector == vector::PF));
                    current = if double { Fault { vector: vector::DF, code: Some(0) } } else { second };
                    cause = Cause::Fault;
                }
                other => return other,
            }
        }
    }

    /// Delivers one event; changes nothing if that faults.
    pub(super) fn deliver(&mut self, event: Fault, cause: Cause, rip: u64) -> Run {
        let delivered = self.deliver_through_gate(event, cause, rip);
        if cause == Cause::Software { delivered } else { delivered.map_err(external) }
    }

    fn deliver_through_gate(&mut self, event: Fault, cause: Cause, rip: u64) -> Run {
        let gate = self.gate(event.vector, cause)?;
        if is_null(gate.selector) {
            return Err(PROTECTION);
        }
        let descriptor = self.descriptor(gate.selector, vector::GP)?;
        let long = descriptor.access() & (LONG | BIG) == LONG;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl || !long {
            return Err(named(vector::GP, gate.selector));
        }
        if !descriptor.is_present() {
            return Err(named(vector::NP, gate.selector));
        }
        if !Self::is_canonical(gate.offset) {
            return Err(PROTECTION);
        }
        let inner = !descriptor.is_conforming() && descriptor.dpl() < self.cpl;
        let level = if inner { descriptor.dpl() } else { self.cpl };
        let mut top = match (gate.stack, inner) {
            (0, false) => self.regs[4],
            (0, true) => self.task_stack(4 + 8 * u64::from(level))?,
            (number, _) => self.task_stack(0x24 + 8 * u64::from(number - 1))?,
        } & !15;
        let flags = self.rflags() | if cause == Cause::Fault { RF } else { 0 };
        let selector = |number: u8| u64::from(self.segments[usize::from(number)].selector);
        let words = [selector(SS), self.regs[4], flags, selector(CS), rip];
        for word in words.into_iter().chain(event.code.map(u64::from)) {
            top = top.wrapping_sub(8);
            self.write_stack(top, word, level)?;
        }
        let descriptor = self.mark_accessed(gate.selector, descriptor)?;
        self.set_code(descriptor, gate.selector, level);
        if inner {
            self.set_null_stack(u16::from(level));
        }
        self.regs[4] = top;
        self.rip = gate.offset;
        self.control_flags &= !(TF | NT | RF | VM | if gate.interrupt { IF } else { 0 });
        self.shadow = 0;
        self.refresh();
        Ok(())
    }

    fn gate(&mut self, number: u8, cause: Cause) -> Run<Gate> {
        let offset = u64::from(number) * 16;
        let code = u32::from(number) << 3 | IN_IDT;
        if offset + 15 > u64::from(self.idt.1) {
            return Err(fault(vector::GP, code));
        }
        let low = self.read_system(self.idt.0.wrapping_add(offset), 3)?;
        let high = self.read_system(self.idt.0.wrapping_add(offset + 8), 3)?;
        let kind = low >> 40 & 0x1f;
        let dpl = (low >> 45 & 3) as u8;
        if !matches!(kind, 0xe | 0xf) || (cause == Cause::Software && dpl < self.cpl) {
            return Err(fault(vector::GP, code));
        }
        if low >> 47 & 1 == 0 {
            return Err(fault(vector::NP, code));
        }
        Ok(Gate {
            selector: (low >> 16) as u16,
            offset: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            stack: (low >> 32 & 7) as u8,
            interrupt: kind == 0xe,
        })
    }

    /// A stack pointer of the task state segment.
    fn task_stack(&mut self, offset: u64) -> Run<u64> {
        if offset + 7 > u64::from(self.task.limit) {
            return Err(named(vector::TS, self.task.selector));
        }
        let stack = self.read_system(self.task.base.wrapping_add(offset), 3)?;
        if Self::is_canonical(stack) { Ok(stack) } else { Err(fault(vector::SS, 0)) }
    }

    /// Whether an instruction breakpoint is at RIP (SDM volume 3 section 19.2): a fault, unless RF is set.
    pub(super) fn at_breakpoint(&mut self) -> Option<Fault> {
        if !self.watching || self.control_flags & RF != 0 || self.shadow & super::state::SHADOW_SS != 0 {
            return None;
        }
        let address = match self.mode {
            Mode::Long => self.rip,
            _ => self.bases[usize::from(CS)].wrapping_add(self.rip) & 0xffff_ffff,
        };
        let hit = self.breakpoints(address, 1, |kind| kind == 0);
        if hit == 0 {
            return None;
        }
        self.debug[4] = self.debug[4] & !DR6_BREAKPOINTS | hit;
        Some(Fault { vector: vector::DB, code: None })
    }

    /// Breakpoints that overlap an access, as a bit each.
    fn breakpoints(&self, address: u64, bytes: u64, wanted: impl Fn(u64) -> bool) -> u64 {
        let control = self.debug[5];
        (0..4)
            .filter(|number| {
                let enabled = control >> (2 * number) & 3 != 0;
                let kind = control >> (16 + 4 * number) & 3;
                let length = [1, 2, 8, 4][(control >> (18 + 4 * number) & 3) as usize];
                let start = self.debug[*number] & !(length - 1);
                let overlaps =
                    address < start.saturating_add(length) && start < address.saturating_add(bytes);
                enabled && wanted(kind) && overlaps
            })
            .fold(0, |hits, number| hits | 1 << number)
    }

    /// Notes the breakpoints that a data access meets; the exception comes after the instruction.
    #[inline]
    pub(super) fn watch(&mut self, address: u64, bytes: u64, write: bool) {
        if self.watching && !self.implicit {
            self.watched |= self.breakpoints(address, bytes, |kind| kind == 3 || (kind == 1 && write));
        }
    }

    /// The debug exception that is due after an instruction: single step, if TF was set before it, and data
    /// breakpoints.
    pub(super) fn debug_trap(&mut self, stepped: bool) -> Run {
        let hits = std::mem::take(&mut self.watched);
        if hits == 0 && !stepped {
            return Ok(());
        }
        self.debug[4] = self.debug[4] & !DR6_BREAKPOINTS | hits | if stepped { STEP } else { 0 };
        self.raise(Fault { vector: vector::DB, code: None }, Cause::Other, self.rip)
    }
}

/// Divide error, invalid TSS, segment not present, stack fault, general protection (SDM volume 3 table 7-4).
fn is_contributory(fault: Fault) -> bool {
    matches!(fault.vector, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}
