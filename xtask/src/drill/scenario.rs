//! What is done to the pair, in which order, and what is written down about it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::DrillArgs;
use super::client::Client;
use super::cluster::{Cluster, Pair};
use super::stage::{Built, HOSTS, Kit};
use crate::progress::Steps;
use xtask::load::event::DrillEvent;
use xtask::load::judge::grew_by_one;
use xtask::ns::monotonic_ns;
use xtask::world::{Segment, World};

/// Least replies per second in every judged window.
const MIN_RATE: f64 = 50.0;
const HOLD: Duration = Duration::from_millis(150);
const RTT_US: u64 = 80_000;

/// The course of a drill.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// Hold, long round trip, two plugs, one crash, each followed by a refill.
    Story,
    /// Losses at random instants.
    Repeat {
        /// How many.
        losses: u32,
    },
}

/// What a drill leaves for the judge.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) events: Vec<DrillEvent>,
    pub(super) records: PathBuf,
    pub(super) hosts: Vec<&'static str>,
    /// What the drill itself saw go wrong.
    pub(super) violations: Vec<String>,
    pub(super) shared_files: u64,
    /// Epochs of primaries under load.
    pub(super) epochs: Epochs,
    /// Status documents of survivors, after each loss.
    pub(super) takeovers: Vec<Value>,
    pub(super) protected: u32,
    /// When the load was over. What hosts do while their world is taken down is no evidence.
    pub(super) ended: u64,
    /// The first primary's own account of where the time of its outputs went, after the first window.
    pub(super) latency: Value,
}

/// Counts of a primary's epochs between two looks at its status.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Epochs {
    pub(super) acked: u64,
    pub(super) exit: u64,
    pub(super) exit_unrepaired: u64,
    pub(super) landing: u64,
    pub(super) landing_unrepaired: u64,
    pub(super) r#async: u64,
    pub(super) repaired: u64,
    pub(super) pages_shipped: u64,
    pub(super) bytes_shipped: u64,
    pub(super) throttled: u64,
}

impl Epochs {
    /// Ended at a place that both sides found, and acknowledged with nothing shipped.
    pub(super) fn exact(&self) -> u64 {
        self.exit_unrepaired + self.landing_unrepaired
    }

    fn of(status: &Value) -> Self {
        let count = |name: &str| status["epochs"][name].as_u64().unwrap_or(0);
        Epochs {
            acked: count("acked"),
            exit: count("exit"),
            exit_unrepaired: count("exit_unrepaired"),
            landing: count("landing"),
            landing_unrepaired: count("landing_unrepaired"),
            r#async: count("async"),
            repaired: count("repaired"),
            pages_shipped: count("pages_shipped"),
            bytes_shipped: count("bytes_shipped"),
            throttled: count("throttled"),
        }
    }

    fn add_difference(&mut self, from: Epochs, to: Epochs) {
        self.acked += to.acked.saturating_sub(from.acked);
        self.exit += to.exit.saturating_sub(from.exit);
        self.exit_unrepaired += to.exit_unrepaired.saturating_sub(from.exit_unrepaired);
        self.landing += to.landing.saturating_sub(from.landing);
        self.landing_unrepaired += to.landing_unrepaired.saturating_sub(from.landing_unrepaired);
        self.r#async += to.r#async.saturating_sub(from.r#async);
        self.repaired += to.repaired.saturating_sub(from.repaired);
        self.pages_shipped += to.pages_shipped.saturating_sub(from.pages_shipped);
        self.bytes_shipped += to.bytes_shipped.saturating_sub(from.bytes_shipped);
        self.throttled += to.throttled.saturating_sub(from.throttled);
    }
}

struct Stage<'w> {
    world: &'w World,
    cluster: Cluster<'w>,
    outcome: Outcome,
    rng: ChaCha8Rng,
}

/// How a host is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Plug,
    Crash,
}

/// Plays the plan from start to end.
pub(super) fn play(
    world: &World,
    steps: &Steps,
    built: Built,
    plan: &Plan,
    args: &DrillArgs,
) -> anyhow::Result<Outcome> {
    steps.begin("protected", "starting witness, alpha and beta");
    let mut stage = Stage {
        world,
        cluster: Cluster::new(world, Kit::new(built, args.load, args.level)?, args.sabotage)?,
        outcome: Outcome::default(),
        rng: ChaCha8Rng::seed_from_u64(args.seed),
    };
    for name in [HOSTS[0], HOSTS[1]] {
        stage.host(name)?;
    }
    let pair = stage.protected(HOSTS[0], HOSTS[1])?;
    steps.done(&format!("lockstep, generation {}, primary {}", pair.generation, pair.primary));
    steps.begin("drill", "load from outside");
    std::thread::scope(|scope| {
        let client = Client::start(scope, world, args.seed)?;
        stage.outcome.records = client.records.clone();
        let course = match plan {
            Plan::Story => stage.story(steps, &pair),
            Plan::Repeat { losses } => stage.repeat(steps, pair, *losses),
        };
        // The records count whatever happened.
        let stopped = client.stop();
        course.and(stopped)
    })?;
    stage.outcome.ended = monotonic_ns();
    world.flush_captures()?;
    steps.done("load ended");
    Ok(stage.outcome)
}

impl Stage<'_> {
    fn host(&mut self, name: &'static str) -> anyhow::Result<()> {
        if !self.outcome.hosts.contains(&name) {
            self.outcome.hosts.push(name);
        }
        self.cluster.add(name)
    }

    fn protected(&mut self, primary: &'static str, secondary: &'static str) -> anyhow::Result<Pair> {
        let pair = self.cluster.wait_protected(primary, secondary)?;
        self.outcome.protected += 1;
        self.outcome.events.push(DrillEvent::Protected {
            at: pair.at,
            primary: primary.to_owned(),
            secondary: secondary.to_owned(),
            generation: pair.generation,
        });
        Ok(pair)
    }

    /// Lets the load run, and judges its rate.
    fn window(&mut self, name: &str, length: Duration) {
        let from = monotonic_ns();
        std::thread::sleep(length);
        let (name, to) = (name.to_owned(), monotonic_ns());
        self.outcome.events.push(DrillEvent::Window { name, from, to, min_per_s: MIN_RATE });
    }

    /// A window of a protected pair: its epochs count too.
    fn loaded(&mut self, name: &str, length: Duration, primary: &'static str) -> anyhow::Result<()> {
        let before = self.cluster.status(primary).context("the primary answers")?;
        self.window(name, length);
        let after = self.cluster.status(primary).context("the primary answers")?;
        self.outcome.epochs.add_difference(Epochs::of(&before), Epochs::of(&after));
        if self.outcome.latency.is_null() {
            self.outcome.latency = after["latency_us"].clone();
        }
        Ok(())
    }

    fn story(&mut self, steps: &Steps, pair: &Pair) -> anyhow::Result<()> {
        self.loaded("before", Duration::from_secs(4), pair.primary)?;
        self.files(pair)?;
        steps.say("the link holds every frame for 150 ms");
        self.hold()?;
        self.window("after the hold", Duration::from_secs(1));
        steps.say("the link has a round trip of 80 ms");
        self.long_round_trip()?;
        let pair = self.lose_and_refill(steps, pair, Fault::Plug, HOSTS[2])?;
        let pair = self.lose_and_refill(steps, &pair, Fault::Plug, HOSTS[3])?;
        self.files(&pair)?;
        let again = pair.primary;
        self.lose_and_refill(steps, &pair, Fault::Crash, again)?;
        Ok(())
    }

    fn repeat(&mut self, steps: &Steps, mut pair: Pair, losses: u32) -> anyhow::Result<()> {
        self.loaded("before", Duration::from_secs(2), pair.primary)?;
        for number in 1..=losses {
            let pause = Duration::from_micros(self.rng.random_range(20_000..900_000));
            self.loaded(
                &format!("before loss {number}"),
                pause.max(Duration::from_millis(300)),
                pair.primary,
            )?;
            let fault = if self.rng.random_bool(0.7) { Fault::Plug } else { Fault::Crash };
            steps.say(&format!("loss {number} of {losses}"));
            let spare = match fault {
                Fault::Crash => pair.primary,
                Fault::Plug => self.spare(&pair),
            };
            pair = self.lose_and_refill(steps, &pair, fault, spare)?;
        }
        Ok(())
    }

    /// A name of which no host is up.
    fn spare(&self, pair: &Pair) -> &'static str {
        let free = |name: &&&'static str| **name != pair.primary && **name != pair.secondary;
        HOSTS.iter().find(free).copied().unwrap_or(HOSTS[0])
    }

    /// Takes the primary away, watches the survivor, gives it a new secondary.
    fn lose_and_refill(
        &mut self,
        steps: &Steps,
        pair: &Pair,
        fault: Fault,
        next: &'static str,
    ) -> anyhow::Result<Pair> {
        let (victim, survivor) = (pair.primary, pair.secondary);
        match fault {
            Fault::Plug => {
                steps.say(&format!("pulling {victim}'s plug"));
                let plugged = self.cluster.plug(victim)?;
                self.outcome.events.push(DrillEvent::Plug {
                    at: plugged.cut_ns,
                    host: victim.to_owned(),
                    killed: plugged.killed_ns,
                    survivor: survivor.to_owned(),
                });
            }
            Fault::Crash => {
                steps.say(&format!("killing the process on {victim}"));
                let at = self.cluster.crash(victim)?;
                self.outcome.events.push(DrillEvent::Crash {
                    at,
                    host: victim.to_owned(),
                    survivor: survivor.to_owned(),
                });
            }
        }
        let status = self.cluster.wait_alone(survivor)?;
        let generation = status["generation"].as_u64().unwrap_or(0);
        if let Err(why) = grew_by_one(pair.generation, generation) {
            self.outcome.violations.push(format!("after the loss of {victim}: {why}"));
        }
        self.outcome.takeovers.push(status["takeover"].clone());
        self.window(&format!("alone on {survivor}"), Duration::from_millis(800));
        let from = monotonic_ns();
        if fault == Fault::Crash && next == victim {
            self.cluster.start(next)?;
        } else {
            self.host(next)?;
        }
        let refilled = self.protected(survivor, next)?;
        self.outcome.events.push(DrillEvent::Fill { from, to: refilled.at, host: next.to_owned() });
        self.loaded(&format!("protected again with {next}"), Duration::from_millis(1500), survivor)?;
        Ok(refilled)
    }

    fn hold(&mut self) -> anyhow::Result<()> {
        let from = self.world.hold(Segment::Link, true)?;
        std::thread::sleep(HOLD);
        let to = self.world.hold(Segment::Link, false)?;
        self.outcome.events.push(DrillEvent::Hold { from, to });
        Ok(())
    }

    fn long_round_trip(&mut self) -> anyhow::Result<()> {
        let from = self.world.delay(Segment::Link, RTT_US / 2, 0)?;
        std::thread::sleep(Duration::from_secs(2));
        let to = self.world.delay(Segment::Link, 0, 0)?;
        self.outcome.events.push(DrillEvent::Rtt { from, to, us: RTT_US });
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Neither host may have a file of the other, and each must be seen to have a disk and a state file.
    fn files(&mut self, pair: &Pair) -> anyhow::Result<()> {
        let files = self.world.shared_files(pair.primary, pair.secondary)?;
        self.outcome.shared_files += files.shared.len() as u64;
        for path in &files.shared {
            self.outcome.violations.push(format!("{} and {} share {path}", pair.primary, pair.secondary));
        }
        for (host, seen) in [(pair.primary, &files.seen_a), (pair.secondary, &files.seen_b)] {
            let has = |end: &str| seen.iter().any(|path| path.ends_with(end));
            if !has("disk.img") || !seen.iter().any(|path| path.contains("/state/")) {
                self.outcome
                    .violations
                    .push(format!("{host} was not seen to have a disk and a state file open: {seen:?}"));
            }
        }
        Ok(())
    }
}
