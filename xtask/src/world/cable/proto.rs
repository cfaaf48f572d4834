//! What orchestrator and cable say to each other: one JSON object per line, one answer per request.

use serde::{Deserialize, Serialize};

/// One of the three networks of the world. A frame never crosses from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Segment {
    /// The dedicated connection between hosts, 10.78.0.0/24.
    Link,
    /// Management, the way to the witness, 10.79.0.0/24.
    Mgmt,
    /// The guest's network, 10.77.0.0/24.
    Lan,
}

impl Segment {
    /// All segments, in the order of their index.
    pub const ALL: [Self; 3] = [Self::Link, Self::Mgmt, Self::Lan];

    /// The name of the interface that a member has on this segment.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Link => "link0",
            Self::Mgmt => "mgmt0",
            Self::Lan => "lan0",
        }
    }
}

/// A command to the cable. Each takes effect in one step of the cable's only thread.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Create the segment's interface in the network namespace of process `pid` and join it.
    AddPort {
        /// Whose port it is.
        host: String,
        /// Which network, hence which interface name.
        segment: Segment,
        /// Outer PID of a process in the namespace.
        pid: u32,
    },
    /// From now on nothing enters or leaves any port of this host; what is queued from or to it is lost.
    Cut {
        /// The host.
        host: String,
    },
    /// Close the ports of a host, so that its network namespace can end.
    Remove {
        /// The host.
        host: String,
    },
    /// Keep all frames of a segment (`on`), or let them go, in order.
    Hold {
        /// The segment.
        segment: Segment,
        /// Begin or end.
        on: bool,
    },
    /// Delay each frame of a segment by `us` plus a seeded part of `jitter_us`, in microseconds.
    Delay {
        /// The segment.
        segment: Segment,
        /// The fixed part.
        us: u64,
        /// The upper bound of the random part.
        jitter_us: u64,
    },
    /// Answer when all that was captured so far is in the files.
    Flush,
    /// Tell the counters.
    Stats,
    /// Write all captures and end.
    Quit,
}

/// The cable's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// It took effect at this moment (CLOCK_MONOTONIC, ns).
    Done {
        /// The moment.
        ns: u64,
    },
    /// The counters.
    Stats(Stats),
    /// It did not happen.
    Failed {
        /// Why.
        message: String,
    },
}

/// Counters of the whole cable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Per port, in the order of creation.
    pub ports: Vec<PortStats>,
    /// Per segment, in the order of [`Segment::ALL`].
    pub segments: Vec<SegmentStats>,
    /// Whether the cable runs in a real-time class (its delays are less exact if not).
    pub punctual: bool,
    /// First error of writing a capture.
    pub capture_error: Option<String>,
}

/// Counters of one port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Whose port it is.
    pub host: String,
    /// The interface.
    pub interface: String,
    /// Frames that left the host.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames delivered to the host.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames that the host's interface refused (down, or its queue full).
    pub refused: u64,
}

/// Counters of one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentStats {
    /// Frames waiting now.
    pub queued: u64,
    /// Frames that went through the queue (delayed or held).
    pub delayed: u64,
    /// Frames lost by a cut.
    pub cut: u64,
    /// Frames lost because the queue was full.
    pub overflow: u64,
    /// The latest that a frame ever was behind its due time, ns (holds excepted).
    pub latest_ns: u64,
    /// Sum over all delayed frames of the same, ns.
    pub late_sum_ns: u64,
}
