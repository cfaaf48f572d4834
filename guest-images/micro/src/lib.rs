#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
//! The micro guest's logic, free of any device: what the services say on the wire, what they remember, and how
//! it lies on the disk. The program `micro` (`main.rs`) joins it to the machine; the tests run on any host.

extern crate alloc;

pub mod config;
pub mod job;
pub mod ledger;
pub mod log;
pub mod wire;
