//! The pair: what makes two machines one.
//!
//! The core is sans-I/O: `(state, input, now) -> (state, outputs)`. It owns no clock, thread, socket or
//! file and iterates over nothing whose order is random. The thin edges ([`edge`]) move bytes; the
//! simulator drives the same core, codec and arbiter with virtual time.
//!
//! | module | what it is |
//! |---|---|
//! | [`log`] | events, positions, log items, effects and their digests |
//! | [`machine`] | the trait that a machine implements, and the commands and reports around it |
//! | [`runner`] | the vCPU thread's driver: obeys commands, answers with reports |
//! | [`core`] | the state machine of one host |
//! | [`arbiter`] | the generation record and its compare-and-swap |
//! | [`message`] | what crosses the link |
//! | [`codec`], [`wire`] | how it crosses |
#![forbid(unsafe_code)]

pub mod arbiter;
pub mod codec;
pub mod core;
pub mod edge;
pub mod log;
pub mod machine;
pub mod message;
pub mod runner;
pub mod sim;
pub mod wire;

/// Nanoseconds: of guest virtual time or of a host's monotonic clock, as the name beside it says.
pub type Ns = u64;

/// Version of the wire protocol: both hosts must speak the same one.
pub const WIRE_VERSION: u16 = 2;
