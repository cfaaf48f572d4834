//! x87: 80-bit floating point, the same on every host.
//!
//! An interpreter asks [`Operation::of`] what the instruction is, [`Operation::operand`] for the memory that it
//! uses, and executes it on its [`Unit`]: the register stack, control and status, one method per operation.
//! Below them are pure functions from operands and an [`env::Env`] to a result:
//!
//! - [`value`]: the format and its classes; [`operand`]: what NaNs, unsupported encodings and denormals do
//!   before an operation begins;
//! - [`round`]: the one place that rounds, overflows and underflows;
//! - [`arith`], [`remainder`], [`scale`], [`compare`], [`convert`]: exact operations;
//! - [`wide`] with [`exponential`], [`logarithm`], [`trig`], [`arctan`]: transcendentals, computed with 128 bits
//!   and rounded once. They differ from the correctly rounded result only where some 58 bits behind the last
//!   one are all alike, and from a processor's microcode by at most one unit in the last place.
//!
//! # Exceptions
//!
//! An operation that an unmasked exception stops before it begins (invalid, zero divide, denormal) gives
//! `None`: its destination, and the stack, stay as they are. Unmasked overflow and underflow give a register
//! the result with its exponent moved by 24576, and memory nothing. All of SDM volume 1 section 8.5 is thus
//! in the results, and the unit only notes flags.
//!
//! # Choices that the manual leaves open
//!
//! - FSIN, FCOS, FSINCOS and FPTAN reduce their argument with the 66-bit π of SDM volume 1 section 8.3.8.
//! - FPREM and FPREM1 reduce an exponent difference of 64 or more by as many bits as leave a multiple of 32
//!   (section "FPREM": "an implementation-dependent number between 32 and 63").
//! - Instruction pointer, operand pointer and opcode are kept as loaded and never set: they read as zero for
//!   a program that does not load them.
//!
//! Architecture Invariant: no host floating point is used. The tests alone run the host's x87, to compare.

mod arctan;
mod arith;
mod compare;
mod convert;
mod env;
mod exponential;
mod logarithm;
mod operand;
mod operation;
mod remainder;
mod round;
mod scale;
mod trig;
mod unit;
mod value;
mod wide;

#[cfg(test)]
mod tests;

pub(crate) use operation::{Effect, Operand, Operation};
pub(crate) use unit::{FXSAVE_SIZE, STATE_SIZE, Unit};
