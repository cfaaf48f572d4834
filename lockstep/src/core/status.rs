//! What a host says of itself.

use serde::Serialize;

use super::latency::OutputLatency;
use crate::Ns;
use crate::arbiter::Record;

/// Counts since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Epochs.
    pub epochs: EpochCounters,
    /// Outputs.
    pub output: OutputCounters,
    /// Fills of a secondary that reached protection.
    pub fills: u64,
    /// Where the time of outputs went while this host was a primary.
    pub latency_us: OutputLatency,
}

/// Epochs of this host as a primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EpochCounters {
    /// Sealed.
    pub sealed: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Ended at a deterministic exit.
    pub exit: u64,
    /// Ended at a landing.
    pub landing: u64,
    /// Ended asynchronously.
    pub r#async: u64,
    /// Ended at a landing and acknowledged with nothing shipped.
    pub landing_unrepaired: u64,
    /// Acknowledged with nothing shipped.
    pub unrepaired: u64,
    /// Ended at a deterministic exit and acknowledged with nothing shipped.
    pub exit_unrepaired: u64,
    /// Acknowledged after a repair.
    pub repaired: u64,
    /// Pages shipped in repairs.
    pub pages_shipped: u64,
    /// Bytes shipped in repairs.
    pub bytes_shipped: u64,
    /// Times that the guest was held for the secondary to catch up.
    pub throttled: u64,
    /// Pages written in sealed epochs.
    pub pages_dirty: u64,
}

/// What left, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputCounters {
    /// Frames that left.
    pub frames: u64,
    /// Of these, frames sent again at a takeover.
    pub repeated: u64,
    /// Frames from the outside.
    pub frames_in: u64,
    /// Frames from the outside that were dropped because too many waited.
    pub dropped: u64,
    /// Effects that wait for an acknowledgement now.
    pub waiting: u64,
}

/// How the last takeover, or going alone, went. Milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Takeover {
    /// What was noticed.
    pub cause: String,
    /// From the last sign of life to the decision that the peer is gone.
    pub silence_ms: f64,
    /// From there to the arbiter's answer, and the durable record of it.
    pub arbitration_ms: f64,
    /// From there until the guest ran on.
    pub replay_ms: f64,
    /// From there to the first frame of the survivor; absent while none has left.
    pub first_frame_ms: Option<f64>,
    /// Host monotonic time, nanoseconds, of the decision.
    #[serde(skip)]
    pub(super) decided: Ns,
    #[serde(skip)]
    pub(super) live_at: Ns,
}

/// The status document of one host; see `twinrun status --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// `twinrun.status/1`.
    pub schema: &'static str,
    /// Name of the pair.
    pub pair: String,
    /// Name of this host.
    pub host: String,
    /// Role.
    pub role: &'static str,
    /// Whether a failure of either host would be survived.
    pub protected: bool,
    /// Generation of the newest record that this host knows.
    pub generation: u64,
    /// The other host of the pair.
    pub peer: Option<String>,
    /// Milliseconds since the role began.
    pub since_ms: u64,
    /// The newest record that this host knows.
    pub record: Option<Record>,
    /// Progress of a fill, in percent.
    pub fill_percent: Option<u32>,
    /// Counts.
    #[serde(flatten)]
    pub counters: Counters,
    /// How far the last acknowledgement is behind, in milliseconds, when something waits.
    pub lag_ms: f64,
    /// The last takeover.
    pub takeover: Option<Takeover>,
}
