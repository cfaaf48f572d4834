//! One machine: guest memory, a vCPU, the devices, boot and the run loop.
//!
//! [`Vm`] is the whole of it. Its owner enters the guest with [`Vm::run`], which comes back after *each*
//! deterministic exit with the devices' answer already given, or when a [`Kicker`] stopped it. Where the
//! guest computes without an exit, [`Vm::seek`] stops it at a place that [`Vm::find`] finds on another machine.
//!
//! Architecture Invariant: there is no protocol, no clock and no thread in this crate, and no type of KVM
//! leaves it. The machine that the guest sees is the data of [`table`], the same on every host.
//!
//! Architecture Invariant: an interrupt reaches the guest only where [`Vm::run`] starts after a
//! deterministic exit, at a landing, or after its owner changed the devices' state. Nothing that depends on
//! the moment of a kick can therefore change what the guest computes.

mod boot;
mod dirty;
mod error;
mod kvm;
mod machine;
mod memory;
pub mod record;
mod saved;
mod soft;
pub mod table;
mod vcpu;
mod walk;
mod write_log;

pub use error::{
    BootError, DirtyError, LoadImageError, RestoreError, RunError, SaveError, SaveImageError, VcpuError,
    VmError,
};
pub use machine::{Backend, ExitKind, Reached, Stop, Vm, VmConfig};
pub use vcpu::{Capabilities, Kicker, Landing, LandingCounts};

/// Bytes per page of guest memory.
pub const PAGE_SIZE: usize = 4096;
