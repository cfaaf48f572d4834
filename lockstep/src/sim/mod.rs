//! Whole pairs by seed: the shipping core, driver, codec, framing and arbiter in virtual time.
//!
//! A seed decides everything: delays, faults, the guest's noise. Which classes of faults occur at all is
//! drawn first ("swarm"), so that rare combinations are met too. [`Checker`](check::Checker) stands outside
//! of the code under test and looks at what crosses its borders only. After the faults everything is healed,
//! and the pair must become protected again and answer its client.
//!
//! | module | what it is |
//! |---|---|
//! | `guest`, `disk` | the machine and its disk |
//! | `host` | one host: core, driver, disk and durable state |
//! | `net`, `witness`, `client` | what is between and around the hosts |
//! | `fault` | what goes wrong |
//! | `check` | what must hold nevertheless |
#![expect(clippy::cast_possible_truncation, reason = "sizes of a toy machine, far below 32 bits")]

mod check;
mod client;
mod disk;
mod fault;
pub(crate) mod guest;
mod host;
mod net;
pub(crate) mod rng;
#[cfg(test)]
mod tests;
mod witness;
mod world;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::Ns;
use crate::core::RoleKind;

/// A deliberate fault in the code under test, to prove that the checkers see.
#[cfg(feature = "sabotage")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimSabotage {
    /// Outputs leave before the acknowledgement.
    ReleaseEarly,
    /// A secondary leaves a dirty page out of what it compares.
    ForgetDirtyPage,
    /// A takeover does not ask the arbiter.
    NoArbitration,
}

/// What a run is told besides its seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most requests that the client makes while faults happen.
    pub requests: u32,
    /// Keep a readable line for everything that happens.
    pub trace: bool,
    /// Which fault to commit.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<SimSabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            requests: 250,
            trace: false,
            #[cfg(feature = "sabotage")]
            sabotage: None,
        }
    }
}

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which rule: `I1`, `I3`, `I4`, `I5`, `client`, `progress`, `hold`, `stopped` or `failed`.
    pub rule: &'static str,
    /// Virtual time in nanoseconds.
    pub at: Ns,
    /// What happened.
    pub text: String,
}

/// How much happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Virtual time that passed, in nanoseconds.
    pub virtual_ns: Ns,
    /// Events of the simulator.
    pub events: u64,
    /// Epochs acknowledged.
    pub epochs: u64,
    /// Of these, after a repair.
    pub repairs: u64,
    /// Epochs that were reopened because a page had moved.
    pub reopened: u64,
    /// Times that a host went live after it lost its peer.
    pub takeovers: u64,
    /// Times that a host held.
    pub holds: u64,
    /// Times that a held pair resumed.
    pub resumes: u64,
    /// Times that a pair became protected.
    pub protected: u64,
    /// Faults.
    pub faults: u64,
    /// Requests answered.
    pub requests: u64,
    /// Frames that left.
    pub frames: u64,
}

impl Stats {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Stats) {
        self.virtual_ns += other.virtual_ns;
        self.events += other.events;
        self.epochs += other.epochs;
        self.repairs += other.repairs;
        self.reopened += other.reopened;
        self.takeovers += other.takeovers;
        self.holds += other.holds;
        self.resumes += other.resumes;
        self.protected += other.protected;
        self.faults += other.faults;
        self.requests += other.requests;
        self.frames += other.frames;
    }
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Nothing was violated.
    pub ok: bool,
    /// What was.
    pub violations: Vec<Violation>,
    /// Counts.
    pub stats: Stats,
    /// Role changes that occurred.
    pub transitions: BTreeSet<(RoleKind, RoleKind)>,
    /// Digest over everything that happened, in order: the same seed gives the same.
    pub digest: u128,
    /// Readable lines, if asked for.
    pub trace: Vec<String>,
}

/// Runs one seed to its end.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Outcome {
    world::World::new(seed, options.clone()).run()
}
