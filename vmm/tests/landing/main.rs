//! Landings: places in a busy guest that a second machine finds again. They need a /dev/kvm with a dirty ring
//! and say SKIPPED where there is none.

mod chaos;
mod exact;
#[path = "../support/guest.rs"]
mod guest;
#[path = "../../examples/landing/harness.rs"]
mod harness;
