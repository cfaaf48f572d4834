//! Tests of whole machines. They need a usable /dev/kvm and say SKIPPED where there is none.

mod exits;
mod guest;
mod instructions;
mod replica;
