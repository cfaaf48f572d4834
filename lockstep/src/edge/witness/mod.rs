//! The witness: a small server on a third machine that keeps one record per pair, and its client.
//!
//! After the handshake the client sends frames of kind `Ask`, each answered by one of kind `Answer`, or of
//! kind `Heartbeat`, answered likewise. One question is under way per connection.

mod client;
mod server;
mod store;
#[cfg(test)]
mod tests;

pub use client::{WitnessClient, WitnessClientConfig};
pub use server::{Witness, WitnessConfig, WitnessError, serve};
pub use store::StoreError;
