//! Positive controls: deliberate faults in the code under test, which the checkers must see.
//!
//! The faults are compiled only into a program of its own, with a target directory of its own, so that no
//! other program can hold them.

use super::SimArgs;

#[cfg(not(feature = "sabotage"))]
pub(super) fn run(args: &SimArgs) -> anyhow::Result<std::process::ExitCode> {
    use std::process::ExitCode;

    use anyhow::Context as _;

    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    println!("[sim] building a program with the faults in it");
    let mut command = crate::cargo::cargo();
    command.args(["run", "--quiet", "--manifest-path", &format!("{workspace}/Cargo.toml")]);
    command.args(["--package", "xtask", "--features", "sabotage"]);
    command.args(["--target-dir", &format!("{workspace}/target/sabotage")]);
    command.args(["--", "sim", "--sabotage", "--seed", &args.seed.to_string()]);
    if let Some(seeds) = args.seeds {
        command.args(["--seeds", &seeds.to_string()]);
    }
    if let Some(json) = &args.json {
        command.arg("--json").arg(json);
    }
    let status = command.status().context("starting cargo")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(feature = "sabotage")]
pub(super) use inner::run;

#[cfg(feature = "sabotage")]
mod inner {
    use std::process::ExitCode;

    use lockstep::sim::{Options, SimSabotage};
    use serde_json::{Value, json};

    use super::super::{run_one, tell, write_json};
    use super::SimArgs;

    /// A fault must be seen within so many seeds.
    const SEEDS_MAX: u64 = 1_000;
    /// The faults, and the rule that each must be seen by; the code's own assertions do not count.
    const FAULTS: [(&str, SimSabotage, &str); 3] = [
        ("release-early", SimSabotage::ReleaseEarly, "I1"),
        ("forget-dirty-page", SimSabotage::ForgetDirtyPage, "I3"),
        ("no-arbitration", SimSabotage::NoArbitration, "I4"),
    ];

    pub(in super::super) fn run(args: &SimArgs) -> anyhow::Result<ExitCode> {
        let seeds = args.seeds.unwrap_or(SEEDS_MAX).min(SEEDS_MAX);
        let results: Vec<_> = FAULTS.into_iter().map(|fault| commit(fault, args.seed, seeds)).collect();
        let ok = results.iter().all(|result| result["ok"] == json!(true));
        let report = json!({"schema": "twinrun.sim/1", "ok": ok, "sabotage": results, "targets": []});
        write_json(args.json.as_deref(), &report)?;
        let count = results.iter().filter(|result| result["ok"] == json!(true)).count();
        let verdict = if ok { "PASS" } else { "FAIL" };
        println!(
            "{verdict}  {count} of {} deliberate faults were caught, by seeds that pass without",
            FAULTS.len()
        );
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn commit((name, sabotage, rule): (&str, SimSabotage, &str), first: u64, seeds: u64) -> Value {
        let options = Options { sabotage: Some(sabotage), ..Options::default() };
        for index in 0..seeds {
            let seed = first.wrapping_add(index);
            let outcome = run_one(seed, &options);
            let Some(found) = outcome.violations.iter().find(|found| found.rule == rule) else { continue };
            let clean = run_one(seed, &Options::default());
            println!("{name}: caught by seed {seed}, the {}. one ({rule}: {})", index + 1, found.text);
            if !clean.ok {
                println!("{name}: but that seed fails without the fault, too");
                tell(&super::super::Failure { seed, violations: clean.violations });
            }
            return json!({
                "name": name, "ok": clean.ok, "caught": true, "seed": seed, "seeds": index + 1,
                "rule": rule, "text": found.text, "passes_without": clean.ok,
            });
        }
        println!("{name}: NOT caught by {seeds} seeds");
        json!({"name": name, "ok": false, "caught": false, "seeds": seeds, "rule": rule})
    }
}
