//! `test`: everything that must hold before a change goes in.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Context as _;

use crate::drill::{self, workspace};
use crate::setup;

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
    match drill::obstacle() {
        Some(why) => {
            println!("== drill: NOT RUN HERE: {why}");
            not_run.push("drill");
        }
        None => {
            let argv = ["cargo", "xtask", "drill", "--guest", "micro"].map(str::to_owned);
            if !execute("drill with the micro guest", &argv)? {
                failed.push("drill with the micro guest");
            }
        }
    }
    if !failed.is_empty() {
        println!("FAIL  {}", failed.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    let skipped =
        if not_run.is_empty() { String::new() } else { format!("; not run here: {}", not_run.join(", ")) };
    println!("PASS  format, licences, lints, tests, simulator, drill{skipped}");
    Ok(ExitCode::SUCCESS)
}

fn execute(name: &str, argv: &[String]) -> anyhow::Result<bool> {
    println!("== {name}: {}", argv.join(" "));
    let begin = Instant::now();
    let status = Command::new(&argv[0]).args(&argv[1..]).current_dir(workspace()).status();
    let status = status.with_context(|| format!("starting {}", argv[0]))?;
    println!(
        "== {name}: {} after {:.0} s",
        if status.success() { "ok" } else { "FAILED" },
        begin.elapsed().as_secs_f64()
    );
    Ok(status.success())
}
