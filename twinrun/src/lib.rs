//! The `twinrun` command: configuration, command line, control socket and the host's resources; joins the
//! machine to the pair.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | what people type, and exit codes |
//! | [`config`] | the one file for all hosts |
//! | [`doctor`] | what this machine offers to a pair |
//! | [`key`] | key files |
//! | [`host`] | taps, disk images, state directory, clock |
//! | [`control`], [`status`] | asking a running host, and showing its answer |
//! | [`run`] | a running host |

pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
mod engine;
pub mod host;
pub mod key;
pub mod run;
pub mod status;
