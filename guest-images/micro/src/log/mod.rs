//! The counters' log on disk. What a client was answered is found again after any stop.
//!
//! ```text
//! sector 0, 1   superblock, two copies written in turn: boots, which half is active, its epoch
//! sector 8 …    half 0: blocks; then half 1: blocks
//! ```
//! The active half starts with a snapshot (unless it is the first) and goes on with one block per batch of
//! requests. Each block names its epoch and number and carries the checksum of the block before it, so that a
//! torn or left-over block ends the log. When the half is full, a snapshot goes to the other one, is flushed, and
//! the next superblock makes it the active one.

mod format;
mod store;

pub use format::{MAX_BATCH, MAX_BLOCK};
pub use store::{Disk, Job, OpenError, Store, open};

/// Size of a sector in bytes.
pub const SECTOR: usize = 512;
