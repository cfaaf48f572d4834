//! The x87 unit: eight registers as a stack, control, status and tag word (SDM volume 1 section 8.1), and an
//! operation for each instruction.
//!
//! Who calls has decoded the instruction and fetched its operand. Before a waiting instruction it asks
//! [`Unit::pending`] and raises #MF. An operation that stores gives back what memory gets: whoever may still
//! fault on that store works on a copy of the unit and keeps it only when the store is done.
//!
//! Where the manual leaves C0, C2 and C3 undefined they stay as they were; C1 is cleared unless it says
//! something (stack overflow, rounding away from zero, a bit of a quotient, a sign).

mod function;
mod image;
mod memory;
mod register;

use super::compare::Relation;
use super::env::{Env, flag};
use super::value::F80;

pub(crate) use function::Function;
pub(crate) use image::{FXSAVE_SIZE, Layout, STATE_SIZE};
pub(crate) use memory::{Memory, Size};
pub(crate) use register::{Arith, CompareFlags, Constant, Ordering};

/// Bits of the status word (SDM volume 1 figure 8-4).
mod status {
    pub(super) const STACK_FAULT: u16 = 1 << 6;
    pub(super) const SUMMARY: u16 = 1 << 7;
    pub(super) const C0: u16 = 1 << 8;
    pub(super) const C1: u16 = 1 << 9;
    pub(super) const C2: u16 = 1 << 10;
    pub(super) const C3: u16 = 1 << 14;
    pub(super) const BUSY: u16 = 1 << 15;
    pub(super) const TOP_SHIFT: u16 = 11;
    pub(super) const TOP: u16 = 7 << TOP_SHIFT;
}
use status::{C0, C1, C2, C3};

/// The control word after FNINIT: everything masked, 64-bit precision, to nearest.
const CONTROL_RESET: u16 = 0x37f;
/// Bits of the control word that can be set, and the one that always is (bit 6).
const CONTROL_BITS: u16 = 0x1f3f;
const CONTROL_ONE: u16 = 0x40;

/// State and operations of the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    control: u16,
    status: u16,
    /// A bit per physical register: not empty.
    used: u8,
    /// Opcode, instruction and operand address as FXSAVE has them, bytes 6 to 23 of its image.
    last: [u8; 18],
    /// Physical registers.
    registers: [F80; 8],
}

impl Unit {
    /// After FNINIT, the registers zero.
    pub(crate) fn reset() -> Unit {
        Unit { control: CONTROL_RESET, status: 0, used: 0, last: [0; 18], registers: [F80::default(); 8] }
    }

    /// FNINIT: the registers keep their contents, but count as empty.
    pub(crate) fn init(&mut self) {
        *self = Unit { registers: self.registers, ..Unit::reset() };
    }

    /// The control word: FNSTCW.
    pub(crate) fn control(&self) -> u16 {
        self.control
    }

    /// The status word: FNSTSW.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// FLDCW
    pub(crate) fn set_control(&mut self, value: u16) {
        self.control = value & CONTROL_BITS | CONTROL_ONE;
        self.summarise();
    }

    /// FNCLEX
    pub(crate) fn clear_exceptions(&mut self) {
        self.status &= !(u16::from(flag::ALL) | status::STACK_FAULT | status::SUMMARY | status::BUSY);
    }

    /// Whether an unmasked exception waits: the next waiting x87 or MMX instruction raises #MF.
    pub(crate) fn pending(&self) -> bool {
        self.status & status::SUMMARY != 0
    }

    /// Sets the summary bits from flags and masks.
    fn summarise(&mut self) {
        let unmasked = self.status & !self.control & u16::from(flag::ALL) != 0;
        self.set_status(status::SUMMARY | status::BUSY, if unmasked { u16::MAX } else { 0 });
    }

    /// Replaces the bits of the status word in `mask`.
    fn set_status(&mut self, mask: u16, value: u16) {
        self.status = self.status & !mask | value & mask;
    }

    fn top(&self) -> u8 {
        (self.status >> status::TOP_SHIFT & 7) as u8
    }

    fn set_top(&mut self, top: u8) {
        self.set_status(status::TOP, u16::from(top & 7) << status::TOP_SHIFT);
    }

    /// Number of the physical register that is ST(i).
    fn physical(&self, i: u8) -> usize {
        usize::from(self.top().wrapping_add(i) & 7)
    }

    /// ST(i) whether in use or not.
    fn raw(&self, i: u8) -> F80 {
        self.registers[self.physical(i)]
    }

    /// ST(i) unless it is empty.
    fn get(&self, i: u8) -> Option<F80> {
        let physical = self.physical(i);
        (self.used >> physical & 1 != 0).then(|| self.registers[physical])
    }

    fn set(&mut self, i: u8, value: F80) {
        let physical = self.physical(i);
        self.registers[physical] = value;
        self.used |= 1 << physical;
    }

    fn release(&mut self, i: u8) {
        self.used &= !(1 << self.physical(i));
    }

    fn pop(&mut self) {
        self.release(0);
        self.set_top(self.top().wrapping_add(1));
    }

    /// Pops if the instruction does.
    fn pop_if(&mut self, pop: bool) {
        if pop {
            self.pop();
        }
    }

    /// Makes room for a push. `None`: the stack is full, and the exception is not masked. `Some(false)`: it is
    /// full, and what is pushed is the indefinite value.
    fn room(&mut self) -> Option<bool> {
        if self.get(7).is_none() {
            return Some(true);
        }
        self.stack_fault(true).then_some(false)
    }

    /// Pushes onto a stack that has room.
    fn push(&mut self, value: F80) {
        self.set_top(self.top().wrapping_sub(1));
        self.set(0, value);
    }

    /// Stack overflow or underflow; whether there is a masked response.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.status |= u16::from(flag::INVALID) | status::STACK_FAULT;
        self.set_status(C1, if overflow { C1 } else { 0 });
        self.summarise();
        self.control & u16::from(flag::INVALID) != 0
    }

    /// Stack underflow of an instruction whose result goes to ST(i).
    fn underflow_to(&mut self, i: u8, pop: bool) {
        if self.stack_fault(false) {
            self.set(i, F80::INDEFINITE);
            self.pop_if(pop);
        }
    }

    fn env(&self) -> Env {
        Env::new(self.control)
    }

    /// Takes over the exceptions of an operation.
    fn note(&mut self, env: &Env) {
        self.status |= u16::from(env.raised());
        self.summarise();
    }

    /// Takes over what an operation noted, the direction of its rounding too.
    fn report(&mut self, env: &Env) {
        self.note(env);
        self.set_status(C1, if env.rounded_up() { C1 } else { 0 });
    }

    /// The condition codes of a comparison.
    fn set_relation(&mut self, relation: Relation) {
        let codes = match relation {
            Relation::Less => C0,
            Relation::Equal => C3,
            Relation::Greater => 0,
            Relation::Unordered => C0 | C2 | C3,
        };
        self.set_status(C0 | C2 | C3, codes);
    }
}
