//! The device models of TwinRun's PC: pure state machines.
//!
//! Guest accesses and [`Stimulus`] values go in; [`Effect`] values and interrupt vectors come out.
//!
//! Architecture Invariant: there is no clock, thread, random source, socket or file in this crate, and no
//! `unsafe`. The same accesses and stimuli in the same order give the same outputs and the same
//! [`Platform::save`] bytes on every host.
#![forbid(unsafe_code)]

mod event;
mod ioapic;
mod kvmclock;
mod lapic;
mod legacy;
mod memory;
mod pci;
mod platform;
mod pm;
mod pveoi;
mod state;
mod virtio;

pub use event::{Effect, Ns, PlaceError, Stimulus};
pub use memory::Memory;
pub use platform::{ConfigError, Counters, Platform, PlatformConfig};
pub use state::RestoreError;
