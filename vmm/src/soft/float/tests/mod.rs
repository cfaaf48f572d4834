//! The unit against the processor that runs the tests, and against fixed results.

mod corpus;
mod native;
mod proof;
