//! Random lives of a chip: that none panics, that each state is valid and survives saving.

use std::fmt::Debug;

use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

use crate::Ns;
use crate::state::Invalid;

/// Virtual time ends here.
const TIME_END: Ns = 1 << 62;

/// Something that happens to a chip. A chip ignores what it has no entrance for.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Read(u16),
    Write(u16, u8),
    Wait(Ns),
    Line(u8, bool),
    Acknowledge,
    Receive(Vec<u8>),
}

/// A chip, as these tests see it.
pub(super) trait Subject: Debug + Clone + PartialEq + Serialize + DeserializeOwned {
    /// Does it at this time; returns all that can be observed.
    fn apply(&mut self, op: &Op, now: Ns) -> String;
    /// The chip's own check of a decoded value.
    fn check(&self, now: Ns) -> Result<(), Invalid>;
}

/// Lives that touch these ports only.
pub(super) fn lives(ports: &'static [u16]) -> impl Strategy<Value = Vec<Op>> {
    let port = move || (0..ports.len()).prop_map(move |index| ports[index]);
    let value = prop_oneof![
        2 => any::<u8>(),
        1 => 0u8..8,
        1 => (0u32..8).prop_map(|bit| 1 << bit),
    ];
    let wait = prop_oneof![
        4 => 0u64..2_000,
        4 => 0u64..60_000_000,
        2 => 0u64..100_000_000_000_000,
        1 => 0u64..TIME_END,
    ];
    let op = prop_oneof![
        4 => port().prop_map(Op::Read),
        6 => (port(), value).prop_map(|(port, value)| Op::Write(port, value)),
        3 => wait.prop_map(Op::Wait),
        2 => (0u8..16, any::<bool>()).prop_map(|(irq, level)| Op::Line(irq, level)),
        1 => Just(Op::Acknowledge),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Op::Receive),
    ];
    proptest::collection::vec(op, 1..120)
}

/// Lives on; every state on the way must be valid. Returns what was observed.
fn live<S: Subject>(chip: &mut S, ops: &[Op], now: &mut Ns) -> Vec<String> {
    let mut seen = Vec::new();
    for op in ops {
        if let Op::Wait(ns) = op {
            *now = now.saturating_add(*ns).min(TIME_END);
        }
        seen.push(chip.apply(op, *now));
        assert_eq!(chip.check(*now), Ok(()), "after {op:?} at {now}: {chip:?}");
    }
    seen
}

/// Saved anywhere and restored, a chip goes on as if nothing had been.
pub(super) fn goes_on_alike<S: Subject>(mut chip: S, ops: &[Op], cut: usize) {
    let (before, after) = ops.split_at(cut % (ops.len() + 1));
    let mut now = 0;
    live(&mut chip, before, &mut now);
    let bytes = postcard::to_stdvec(&chip).expect("a chip can be encoded");
    let mut restored: S = postcard::from_bytes(&bytes).expect("a saved chip can be decoded");
    let mut restored_now = now;
    assert_eq!(live(&mut restored, after, &mut restored_now), live(&mut chip, after, &mut now));
    assert_eq!(restored, chip);
}

/// A saved state with some bytes changed is refused, or it is a state to live on from.
pub(super) fn damage_is_refused_or_harmless<S: Subject>(
    mut chip: S,
    ops: &[Op],
    cut: usize,
    damage: &[(usize, u8)],
) {
    let (before, after) = ops.split_at(cut % (ops.len() + 1));
    let mut now = 0;
    live(&mut chip, before, &mut now);
    let mut bytes = postcard::to_stdvec(&chip).expect("a chip can be encoded");
    for (at, mask) in damage {
        let at = at % bytes.len();
        bytes[at] ^= mask;
    }
    if let Ok(mut damaged) = postcard::from_bytes::<S>(&bytes)
        && damaged.check(now).is_ok()
    {
        live(&mut damaged, after, &mut now);
    }
}

/// Changes of a saved state for [`damage_is_refused_or_harmless`].
pub(super) fn damage() -> impl Strategy<Value = Vec<(usize, u8)>> {
    proptest::collection::vec((any::<usize>(), 1u8..), 1..4)
}
