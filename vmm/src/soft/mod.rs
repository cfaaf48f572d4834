//! A virtual processor in software: the same machine on every host, and every instruction counted.
//!
//! An interpreter. Guest code is decoded once ([`decode`]) into operations of 32 bytes, kept in blocks by physical
//! address ([`block`]), and run by one match ([`exec`]). Flags are computed when they are looked at ([`flags`]);
//! linear addresses go through a small translation cache ([`tlb`]), filled by a page walk ([`walk`]).
//!
//! What counts: every completed instruction is one; one that faults is none, and one again when it is started
//! anew; the delivery of an exception or interrupt is none; INT n and the system call instructions are one. REP
//! is counted by the piece: [`exec::string`](exec) has the rule. So a position is a count, and a run that is
//! asked for n instructions stops after exactly n: a block stops in the middle when the budget does.
//!
//! An instruction that needs a device ends with an exit before it changes anything. When the answer is there it
//! is started anew, and takes its answers, in order, instead of asking. That serves every instruction without
//! knowing any.
//!
//! Implemented are 64-bit and compatibility mode. Real mode and protected mode without long mode have their place
//! at [`convert`] (which refuses such a state), at the write of CR0, and in [`state::Mode`].
//!
//! Architecture Invariant: nothing here reads a clock, a random number or the host's processor type, and nothing
//! is executed natively. The state after n instructions is a function of the state before, the memory and the
//! answers. Caches cannot be seen by the guest, but for the translation cache, whose geometry is part of the
//! machine table.
//!
//! Architecture Invariant: `unsafe` is in [`memory`] alone.

mod access;
mod block;
mod convert;
mod decode;
mod exec;
mod fault;
mod flags;
mod float;
mod memory;
mod op;
mod pages;
mod run;
mod segment;
mod simd;
mod state;
pub(crate) mod tlb;
mod transfer;
mod vcpu;
mod walk;

pub(crate) use exec::CHUNK;
pub(crate) use vcpu::SoftVcpu;

/// What the time stamp counter advances by with every instruction.
pub(crate) const TSC_PER_INSTRUCTION: u64 = 1;
