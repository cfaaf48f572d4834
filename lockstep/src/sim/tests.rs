//! The simulator itself, and a few seeds.

use super::{Options, run};

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

#[test]
fn seeds_hold() {
    for seed in 0..60 {
        let outcome = run(seed, &Options::default());
        assert!(outcome.ok, "seed {seed}: {:#?}", outcome.violations);
    }
}
