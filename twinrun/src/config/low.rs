//! The file as people write it: text with places, nothing checked but its shape.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Low {
    pub(super) pair: LowPair,
    pub(super) arbiter: Spanned<LowArbiter>,
    pub(super) guest: LowGuest,
    pub(super) hosts: Spanned<BTreeMap<Spanned<String>, LowHost>>,
    pub(super) timing: Option<Spanned<LowTiming>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowPair {
    pub(super) name: Spanned<String>,
    pub(super) key: Spanned<String>,
    pub(super) level: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowArbiter {
    pub(super) witness: Spanned<String>,
    pub(super) key: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowGuest {
    pub(super) kernel: Spanned<String>,
    pub(super) memory_mib: Spanned<u64>,
    pub(super) cmdline: Option<Spanned<String>>,
    pub(super) nics: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowHost {
    pub(super) link: Spanned<Vec<Spanned<String>>>,
    pub(super) state: Spanned<String>,
    pub(super) taps: Spanned<Vec<Spanned<String>>>,
    pub(super) disks: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowTiming {
    pub(super) silence_ms: Option<Spanned<u64>>,
    pub(super) no_ack_ms: Option<Spanned<u64>>,
    pub(super) heartbeat_ms: Option<Spanned<u64>>,
}
