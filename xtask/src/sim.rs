//! `sim`: whole pairs by seed, in virtual time. See `lockstep::sim`.

mod sabotage;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use lockstep::sim::{self, Options, Outcome, Stats, Violation};
use serde_json::{Value, json};

/// Seeds when neither their number nor a time is given.
const SEEDS: u64 = 500;
/// Failing seeds that are told in full.
const TOLD: usize = 5;

/// Arguments of `sim`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimArgs {
    /// Number of seeds; 500 unless --seconds is given.
    #[arg(long)]
    seeds: Option<u64>,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Write the report here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Print everything that happens, in order.
    #[arg(long)]
    trace: bool,
    /// Commit each deliberate fault until the checkers see it; then the same seed without it must pass.
    #[arg(long, conflicts_with_all = ["seconds", "trace"])]
    sabotage: bool,
}

/// A seed that went wrong.
struct Failure {
    seed: u64,
    violations: Vec<Violation>,
}

/// What all seeds came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    stats: Stats,
    transitions: BTreeSet<String>,
    failures: Vec<Failure>,
}

impl Total {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.stats.add(&outcome.stats);
        let name = |(from, to): &(lockstep::core::RoleKind, lockstep::core::RoleKind)| {
            format!("{} -> {}", from.name(), to.name())
        };
        self.transitions.extend(outcome.transitions.iter().map(name));
        if !outcome.ok {
            self.failures.push(Failure { seed, violations: outcome.violations });
        }
    }

    fn ok(&self) -> bool {
        self.seeds > 0 && self.failures.is_empty()
    }

    fn json(&self) -> Value {
        let violations: Vec<_> = self
            .failures
            .iter()
            .flat_map(|failure| failure.violations.iter().map(|found| (failure.seed, found)))
            .map(|(seed, found)| json!({"seed": seed, "rule": found.rule, "at_ns": found.at, "text": found.text}))
            .collect();
        json!({
            "schema": "twinrun.sim/1",
            "ok": self.ok(),
            "seeds": self.seeds,
            "violations": violations,
            "stats": self.stats,
            "transitions": self.transitions,
            "targets": [],
        })
    }

    fn last_line(&self) -> String {
        let Stats { virtual_ns, epochs, repairs, takeovers, holds, faults, requests, .. } = &self.stats;
        let seconds = virtual_ns / 1_000_000_000;
        let verdict = if self.ok() { "PASS" } else { "FAIL" };
        format!(
            "{verdict}  {} seeds, {} failed: {seconds} s of virtual time, {faults} faults, {takeovers} takeovers, \
             {holds} holds, {epochs} epochs ({repairs} repaired), {requests} requests answered",
            self.seeds,
            self.failures.len()
        )
    }
}

/// Runs seeds and says which failed.
pub(crate) fn run(args: &SimArgs) -> anyhow::Result<ExitCode> {
    keep_panics();
    if args.sabotage {
        return sabotage::run(args);
    }
    let total = run_seeds(args)?;
    for failure in total.failures.iter().take(TOLD) {
        tell(failure);
    }
    if total.failures.len() > TOLD {
        println!("… and {} more failing seeds", total.failures.len() - TOLD);
    }
    write_json(args.json.as_deref(), &total.json())?;
    println!("{}", total.last_line());
    Ok(if total.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(failure: &Failure) {
    println!("seed {} failed:", failure.seed);
    for Violation { rule, at, text } in failure.violations.iter().take(TOLD) {
        println!("  {rule} at {:.6} s: {text}", Duration::from_nanos(*at).as_secs_f64());
    }
    println!(
        "  again, with everything that happens:  ./xtask.sh sim --seed {} --seeds 1 --trace",
        failure.seed
    );
}

fn run_seeds(args: &SimArgs) -> anyhow::Result<Total> {
    let count = args.seeds.unwrap_or_else(|| if args.seconds.is_some() { u64::MAX } else { SEEDS });
    ensure!(
        count > 0 && args.seconds != Some(0),
        "that is no seed at all: give --seeds or --seconds at least 1"
    );
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let options = Options { trace: args.trace, ..Options::default() };
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    let bar = progress(args);
    // One line after another must stay the order of one seed.
    let threads = if args.trace { 1 } else { std::thread::available_parallelism().map_or(2, usize::from) };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while end.is_none_or(|end| Instant::now() < end) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let seed = args.seed.wrapping_add(index);
                    let outcome = run_one(seed, &options);
                    for line in &outcome.trace {
                        println!("{line}");
                    }
                    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    total.add(seed, outcome);
                    show(&bar, &total, args);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    total.failures.sort_by_key(|failure| failure.seed);
    Ok(total)
}

/// A panic of the code under test is a violation like any other.
fn run_one(seed: u64, options: &Options) -> Outcome {
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| sim::run(seed, options)));
    outcome.unwrap_or_else(|_| Outcome {
        ok: false,
        violations: vec![Violation { rule: "panic", at: 0, text: PANIC.take() }],
        stats: Stats::default(),
        transitions: BTreeSet::new(),
        digest: 0,
        trace: Vec::new(),
    })
}

thread_local! {
    /// What the last panic of this thread said, and where.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The report tells panics; printing them at once would tear the progress bar.
fn keep_panics() {
    std::panic::set_hook(Box::new(|info| PANIC.set(info.to_string())));
}

fn progress(args: &SimArgs) -> ProgressBar {
    let (length, template) = match (args.seconds, args.seeds) {
        (Some(seconds), _) => (seconds, "[sim] {bar:32} {pos}/{len} s, {msg}"),
        (None, seeds) => (seeds.unwrap_or(SEEDS), "[sim] {bar:32} {pos}/{len} seeds, {msg} [{eta}]"),
    };
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, total: &Total, args: &SimArgs) {
    let position = if args.seconds.is_some() { bar.elapsed().as_secs() } else { total.seeds };
    bar.set_position(position);
    bar.set_message(format!("{} run, {} failed", total.seeds, total.failures.len()));
}

fn write_json(path: Option<&Path>, report: &Value) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("writing {}", path.display()))
}
