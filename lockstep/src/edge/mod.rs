//! The thin edges: they move bytes, keep time limits and decide nothing about the pair.
//!
//! | module | what it is |
//! |---|---|
//! | [`noise`] | the encrypted handshake, chunks of at most 65,535 bytes |
//! | [`link`] | sessions between the hosts: a log and a heartbeat connection each |
//! | [`witness`] | the arbiter's server and its client |

mod channel;
mod hub;
pub mod link;
pub mod noise;
mod preface;
mod session;
mod slot;
mod threads;
pub mod witness;
