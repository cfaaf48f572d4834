//! What the host lends to the machine: network devices, disk files, a state directory, a clock.

pub mod disk;
pub mod state;
pub mod sys;
pub mod tap;
