#![no_std]
//! The bare machine, as the guests see it: start-up and interrupts (stub.s), clock, ports and device memory, heap,
//! PCI, virtio, the network card.
//!
//! A guest is a program that defines `extern "C" fn guest_main(zero_page: u64) -> !` and is linked by `guest.ld`.

extern crate alloc;

pub mod apic;
pub mod boot;
pub mod cpu;
pub mod net;
pub mod pci;
mod runtime;
pub mod virtio;
