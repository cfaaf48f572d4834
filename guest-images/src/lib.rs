//! Recipes that build the guests used in tests, drills and benchmarks.
//!
//! A recipe builds once and keeps the result under `target/guests`, named by a digest of everything that went into
//! it: a guest that is there is current, one that is not is built.

mod recipe;

pub use recipe::{MicroOptions, chaos, micro};
