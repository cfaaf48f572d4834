//! Tests of whole machines. They need a usable /dev/kvm and say SKIPPED where there is none.
//!
//! With TWINRUN_TEST_BITMAP in the environment the machines track writes as on a host without landings.

mod exits;
#[path = "../support/guest.rs"]
mod guest;
mod image;
mod instructions;
mod record;
mod replica;
