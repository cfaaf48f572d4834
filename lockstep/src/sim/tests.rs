//! The simulator itself, and a few seeds.

use std::collections::BTreeSet;

use super::{Options, run};
use crate::core::RoleKind;

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..3 {
        let (a, b) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(a.digest, b.digest);
        assert_eq!(a.stats, b.stats);
    }
    let digest = |seed| run(seed, &Options::default()).digest;
    assert_ne!(digest(1), digest(2));
}

/// Changes that no fault of the simulator can cause: a host stops in these roles only when its own machine or
/// disk fails, or (filling) when its guest ends itself in just that moment.
const NOT_REACHED: [(RoleKind, RoleKind); 3] = [
    (RoleKind::Filling, RoleKind::Stopped),
    (RoleKind::Secondary, RoleKind::Stopped),
    (RoleKind::TakingOver, RoleKind::Stopped),
];

#[test]
fn seeds_hold_and_walk_through_every_change_of_roles() {
    let pairs = RoleKind::ALL.into_iter().flat_map(|from| RoleKind::ALL.map(|to| (from, to)));
    let legal: BTreeSet<_> = pairs.filter(|(from, to)| from.may_become(*to)).collect();
    let mut missing: BTreeSet<_> = &legal - &BTreeSet::from(NOT_REACHED);
    let mut seed = 0;
    while seed < 60 || !missing.is_empty() && seed < 300 {
        let outcome = run(seed, &Options::default());
        assert!(outcome.ok, "seed {seed}: {:#?}", outcome.violations);
        missing = &missing - &outcome.transitions;
        seed += 1;
    }
    assert!(missing.is_empty(), "{missing:?} did not occur in {seed} seeds");
}
