//! The agent of an emulated host: carries out commands that come through a virtio-serial port.

pub mod client;
pub(super) mod inside;
pub mod proto;

/// First argument of the executable when it is to be an agent; the second is the port's device.
pub(super) const WORD: &str = "host-agent";
/// The port's name.
pub(super) const PORT: &str = "agent";
