//! `test`: everything that must hold before a change goes in.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;

use crate::cargo::outside;
use crate::counted;
use crate::drill::{self, workspace};
use crate::landing::{self, Verdict};
use crate::setup;

/// Interrupts at landings.
const LANDINGS: u32 = 500;

/// Arguments of `test`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Seconds of fresh simulator seeds.
    #[arg(long, default_value_t = 60)]
    sim_seconds: u64,
}

struct Step {
    name: &'static str,
    argv: Vec<String>,
}

fn step(name: &'static str, argv: &[&str]) -> Step {
    Step { name, argv: argv.iter().map(|&word| word.to_owned()).collect() }
}

fn steps(args: &TestArgs) -> Vec<Step> {
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let micro = "guest-images/micro/Cargo.toml";
    let mut steps = vec![
        step("format", &["cargo", "fmt", "--all", "--check"]),
        step("format of the micro guest", &["cargo", "fmt", "--all", "--manifest-path", micro, "--check"]),
        step(
            "licences and sources",
            &["cargo", "deny", "--log-level", "error", "check", "bans", "licenses", "sources"],
        ),
        step(
            "lints",
            &["cargo", "clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"],
        ),
        step(
            "lints of the micro guest",
            &[
                "cargo",
                "clippy",
                "--quiet",
                "--manifest-path",
                micro,
                "--target-dir",
                "target/guest-micro-lints",
                "--",
                "-D",
                "warnings",
            ],
        ),
        step("build", &["cargo", "build", "--quiet", "--workspace"]),
        step("tests", &["cargo", "nextest", "run", "--workspace", "--no-fail-fast"]),
        step(
            "tests of the guests' programs",
            &[
                "cargo",
                "test",
                "--quiet",
                "--manifest-path",
                micro,
                "--target-dir",
                "target/guest-micro-lints",
                "-p",
                "mini-server",
                "-p",
                "micro-guest",
            ],
        ),
    ];
    let sim =
        ["cargo", "xtask", "sim", "--seconds", &args.sim_seconds.to_string(), "--seed", &seed.to_string()];
    steps.push(step("simulator, fresh seeds", &sim));
    steps
}

/// Runs every step, also after a failure, and says what failed.
pub(crate) fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    setup::cargo_tools()?;
    let mut failed = Vec::new();
    let mut not_run = Vec::new();
    for step in steps(args) {
        if !execute(step.name, &step.argv)? {
            failed.push(step.name);
        }
    }
    match landings() {
        Verdict::Pass(_) => {}
        Verdict::Fail(..) => failed.push("landings"),
        Verdict::CannotRun(_) => not_run.push("landings"),
    }
    if !mini_in_software() {
        failed.push("mini on the software processor");
    }
    match drill::obstacle() {
        Some(why) => {
            println!("== drill, emulated host: NOT RUN HERE: {why}");
            not_run.push("drill, emulated host");
        }
        None => {
            let argv = ["cargo", "xtask", "drill", "--guest", "micro"].map(str::to_owned);
            if !execute("drill with the micro guest", &argv)? {
                failed.push("drill with the micro guest");
            }
            let argv = ["cargo", "xtask", "hosts", "--check"].map(str::to_owned);
            if !execute("an emulated host", &argv)? {
                failed.push("an emulated host");
            }
        }
    }
    if !failed.is_empty() {
        println!("FAIL  {}", failed.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    let skipped =
        if not_run.is_empty() { String::new() } else { format!("; not run here: {}", not_run.join(", ")) };
    println!(
        "PASS  format, licences, lints, tests, simulator, landings, software processor, drill, emulated host{skipped}"
    );
    Ok(ExitCode::SUCCESS)
}

/// Interrupts at landings of a busy guest, found again.
fn landings() -> Verdict {
    println!("== landings, {LANDINGS}");
    let begin = Instant::now();
    let verdict = landing::carry_out(LANDINGS, 1)
        .unwrap_or_else(|error| Verdict::Fail(Value::Null, vec![format!("{error:#}")]));
    match &verdict {
        Verdict::CannotRun(why) => println!("== landings: NOT RUN HERE: {why}"),
        Verdict::Pass(_) | Verdict::Fail(..) => println!(
            "== landings, {LANDINGS}: {} after {:.0} s",
            landing::last_line(&verdict, LANDINGS),
            begin.elapsed().as_secs_f64()
        ),
    }
    verdict
}

/// Debian's kernel, booted twice with nothing but instruction counts for a clock.
fn mini_in_software() -> bool {
    println!("== mini on the software processor");
    let begin = Instant::now();
    let result = counted::carry_out();
    let said = result.as_ref().map_or_else(|error| format!("FAILED: {error:#}"), Clone::clone);
    println!("== mini on the software processor: {said}, after {:.0} s", begin.elapsed().as_secs_f64());
    result.is_ok()
}

fn execute(name: &str, argv: &[String]) -> anyhow::Result<bool> {
    println!("== {name}: {}", argv.join(" "));
    let begin = Instant::now();
    let status = outside(&argv[0]).args(&argv[1..]).current_dir(workspace()).status();
    let status = status.with_context(|| format!("starting {}", argv[0]))?;
    println!(
        "== {name}: {} after {:.0} s",
        if status.success() { "ok" } else { "FAILED" },
        begin.elapsed().as_secs_f64()
    );
    Ok(status.success())
}
