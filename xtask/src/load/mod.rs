//! The drill seen from outside: a client that loads the guest and writes down what it saw, and a judge that
//! decides from these records, the captures on the hosts' cables and the drill's own events alone.
//!
//! The judge trusts nothing that the pair says about itself. It is pure: records, captures and events in, a
//! [`judge::Verdict`] out; so is the picture ([`timeline`]).

pub mod capture;
pub mod client;
pub mod event;
pub mod judge;
pub mod message;
pub mod record;
pub mod timeline;

#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod server;
