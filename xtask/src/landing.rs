//! `landing`: interrupts placed at landings of a busy guest, found again on a second machine. Builds the
//! example `landing` of `vmm`, runs it, and checks what it reports.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::drill::{target_dir, workspace};

/// What the example says before it gives up because the host has no landings.
const SKIPPED: &str = "SKIPPED: ";
/// From due to landed, in the 99th of 100 interrupts, in µs: the time that a running pair seeks before it
/// stops its guest anywhere (`lockstep::runner::Limits::seek`).
const DELAY_P99_US: f64 = 1000.0;

/// Which guest computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Guest {
    /// Stores at random times in several manners; where each interrupt came decides everything after it.
    Chaos,
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    /// This machine's /dev/kvm.
    Kvm,
}

/// Arguments of `landing`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LandingArgs {
    /// Which guest.
    #[arg(long, value_enum, default_value = "chaos")]
    guest: Guest,
    /// What runs it.
    #[arg(long, value_enum, default_value = "kvm")]
    backend: Backend,
    /// Number of interrupts.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
    count: u32,
    /// Seed of the moments at which they become due.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the report as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Everything was found again, and the control run differed. The example's report.
    Pass(Value),
    /// The example's report, and what is wrong with it.
    Fail(Value, Vec<String>),
    /// This host has no landings, and what to change.
    CannotRun(String),
}

/// Runs it and says how it went, in the last line and by the exit code.
pub(crate) fn run(args: &LandingArgs) -> anyhow::Result<ExitCode> {
    let (Guest::Chaos, Backend::Kvm) = (args.guest, args.backend);
    let verdict = carry_out(args.count, args.seed)?;
    if let Some(file) = &args.json {
        let text = format!("{:#}\n", report(&verdict, args.count, args.seed));
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    println!("{}", last_line(&verdict, args.count));
    Ok(ExitCode::from(match verdict {
        Verdict::Pass(_) => 0,
        Verdict::Fail(..) => 1,
        Verdict::CannotRun(_) => 2,
    }))
}

/// Builds and runs the example; its output is passed through.
pub(crate) fn carry_out(count: u32, seed: u64) -> anyhow::Result<Verdict> {
    let mut build = crate::cargo::cargo();
    build.current_dir(workspace()).args(["build", "--quiet", "--package", "vmm", "--example", "landing"]);
    ensure!(build.status().context("starting cargo")?.success(), "the example does not build: see above");

    let guest = guest_images::chaos().context("building the guest chaos")?;
    let target = target_dir()?;
    let file = target.join("landing.json");
    // What an earlier run wrote must not be taken for this run's.
    if file.exists() {
        std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    let mut example = Command::new(target.join("debug/examples/landing"));
    example.arg("--kernel").arg(guest);
    example.args(["--count", &count.to_string(), "--seed", &seed.to_string(), "--json"]).arg(&file);
    let (code, obstacle) = follow(&mut example)?;
    match code {
        Some(0 | 1) if file.exists() => Ok(judge(read(&file)?, code == Some(0), count)),
        Some(2) => Ok(Verdict::CannotRun(obstacle.unwrap_or_else(|| "the example gives no reason".into()))),
        Some(code) => bail!("the example ended with code {code} and no report: see its messages above"),
        None => bail!("a signal ended the example"),
    }
}

/// Runs the command to its end, line by line. Its exit code, and the reason if it says that it cannot run.
fn follow(command: &mut Command) -> anyhow::Result<(Option<i32>, Option<String>)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting the example")?;
    let mut obstacle = None;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context("reading what the example says")?;
            match line.strip_prefix(SKIPPED) {
                Some(why) => obstacle = Some(why.to_owned()),
                None => println!("      {line}"),
            }
        }
    }
    Ok((child.wait().context("waiting for the example")?.code(), obstacle))
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))
}

/// `content`: what the example thinks of it by its exit code. It is not believed without its figures.
fn judge(result: Value, content: bool, count: u32) -> Verdict {
    let number = |key: &str| result.get(key).and_then(Value::as_u64);
    let is = |key: &str| result.get(key).and_then(Value::as_bool) == Some(true);
    let shown = |value: Option<u64>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    let mut wrong = Vec::new();
    if number("count") != Some(u64::from(count)) {
        wrong.push(format!("{} interrupts were placed", shown(number("count"))));
    }
    if number("equal") != Some(u64::from(count)) {
        wrong.push(format!("{} were found again and equal", shown(number("equal"))));
    }
    if number("missed") != Some(0) {
        wrong.push(format!("{} missed", shown(number("missed"))));
    }
    if number("in_user_mode") != Some(u64::from(count)) {
        wrong.push(format!("{} were in user mode", shown(number("in_user_mode"))));
    }
    // Each interrupt but the last, which is only placed, ends with an exit.
    if number("exits").is_none_or(|exits| exits < u64::from(count) - 1) {
        wrong.push(format!("{} exits between them: not every interrupt was taken", shown(number("exits"))));
    }
    if !is("effects_equal") {
        wrong.push("the guests' effects differ".to_owned());
    }
    // Some may still wait at the end of a short run. Without any, equal effects say nothing.
    let (frames, answers) = (number("frames"), number("answers"));
    if !frames.zip(answers).is_some_and(|(frames, answers)| frames > 0 && answers >= frames / 2) {
        wrong.push(format!("{} frames got {} answers", shown(frames), shown(answers)));
    }
    if !is("end_equal") {
        wrong.push("memory or state differs at the end".to_owned());
    }
    if !is("control_differs") {
        wrong.push("an interrupt one landing late changed nothing: this run proves nothing".to_owned());
    }
    if wrong.is_empty() && !(content && is("ok")) {
        wrong.push("the example says that it failed".to_owned());
    }
    if wrong.is_empty() { Verdict::Pass(result) } else { Verdict::Fail(result, wrong) }
}

fn delay(result: &Value, key: &str) -> Option<f64> {
    result.get("due_to_landed_us")?.get(key)?.as_f64()
}

fn report(verdict: &Verdict, count: u32, seed: u64) -> Value {
    let mut report = json!({
        "schema": "twinrun.landing/1",
        "ok": matches!(verdict, Verdict::Pass(_)),
        "guest": "chaos",
        "backend": "kvm",
        "count": count,
        "seed": seed,
        "targets": [],
    });
    match verdict {
        Verdict::CannotRun(why) => report["cannot_run"] = json!(why),
        Verdict::Pass(result) | Verdict::Fail(result, _) => {
            let got = delay(result, "p99");
            report["targets"] = json!([{
                "name": "from due to landed, p99, µs",
                "target": DELAY_P99_US,
                "got": got,
                "met": got.is_some_and(|got| got <= DELAY_P99_US),
            }]);
            report["result"] = result.clone();
        }
    }
    if let Verdict::Fail(_, wrong) = verdict {
        report["wrong"] = json!(wrong);
    }
    report
}

/// The one line that a reader of a log looks for.
pub(crate) fn last_line(verdict: &Verdict, count: u32) -> String {
    match verdict {
        Verdict::Pass(result) => {
            let shown =
                |key| delay(result, key).map_or_else(|| "unknown".to_owned(), |us| format!("{us} µs"));
            format!(
                "PASS  {count} of {count} landings, all in user mode, found again with equal state, {} answers to \
                 frames equal, memory equal at the end, the control differs; from due to landed {} mean, {} p99",
                result["answers"],
                shown("mean"),
                shown("p99")
            )
        }
        Verdict::Fail(_, wrong) => format!("FAIL  {}", wrong.join("; ")),
        Verdict::CannotRun(why) => format!("CANNOT RUN HERE  {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        json!({
            "ok": true, "count": 500, "equal": 500, "missed": 0, "end_equal": true, "control_differs": true,
            "in_user_mode": 500, "exits": 560, "effects_equal": true, "frames": 125, "answers": 124,
            "due_to_landed_us": { "mean": 21.5, "p50": 20.0, "p99": 90.0, "max": 1100.0 },
        })
    }

    #[test]
    fn a_good_report_passes() {
        let verdict = judge(good(), true, 500);
        assert_eq!(verdict, Verdict::Pass(good()));
        let line = last_line(&verdict, 500);
        assert!(line.starts_with("PASS  500 of 500 landings, all in user mode, found again"), "{line}");
        assert!(line.contains("124 answers to frames equal"), "{line}");
        let report = report(&verdict, 500, 7);
        assert_eq!((&report["ok"], &report["seed"]), (&json!(true), &json!(7)));
        assert_eq!(report["targets"][0]["met"], json!(true));
    }

    #[test]
    fn each_figure_that_is_off_fails_it() {
        let spoilt = [
            ("ok", json!(false)),
            ("count", json!(499)),
            ("equal", json!(499)),
            ("equal", json!("500")),
            ("missed", json!(1)),
            ("in_user_mode", json!(499)),
            ("in_user_mode", json!(null)),
            ("exits", json!(498)),
            ("exits", json!(null)),
            ("effects_equal", json!(false)),
            ("effects_equal", json!(null)),
            ("frames", json!(0)),
            ("frames", json!(null)),
            ("answers", json!(61)),
            ("end_equal", json!(false)),
            ("control_differs", json!(false)),
            ("control_differs", json!(null)),
        ];
        for (key, value) in spoilt {
            let mut result = good();
            result[key] = value;
            let verdict = judge(result, true, 500);
            assert!(matches!(&verdict, Verdict::Fail(_, wrong) if wrong.len() == 1), "{key}: {verdict:?}");
            assert_eq!(report(&verdict, 500, 1)["ok"], json!(false));
        }
        assert!(matches!(judge(good(), false, 500), Verdict::Fail(..)), "its exit code counts too");
        assert!(matches!(judge(json!([]), true, 500), Verdict::Fail(..)));
    }

    #[test]
    fn a_slow_run_misses_its_target_and_passes() {
        let mut result = good();
        result["due_to_landed_us"]["p99"] = json!(1000.1);
        let verdict = judge(result, true, 500);
        let report = report(&verdict, 500, 1);
        assert_eq!((&report["ok"], &report["targets"][0]["met"]), (&json!(true), &json!(false)));
    }

    #[test]
    fn a_host_without_landings_says_why() {
        let verdict = Verdict::CannotRun("load kvm_intel with pml=0".into());
        assert_eq!(last_line(&verdict, 500), "CANNOT RUN HERE  load kvm_intel with pml=0");
        assert_eq!(report(&verdict, 500, 1)["cannot_run"], json!("load kvm_intel with pml=0"));
    }
}
