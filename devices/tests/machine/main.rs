//! The machine as a guest sees it.

mod blk;
mod board;
mod driver;
mod hostile;
mod interrupts;
mod net;
mod persist;
mod pveoi;
mod rng;
mod transport;
