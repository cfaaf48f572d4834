//! `hosts`: starts an emulated host and shows that it is what proofs can be built on.

mod check;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use xtask::hosts;
use xtask::world::World;

use crate::drill::{target_dir, workspace};
use crate::progress::Steps;
use check::{Check, Proof};

/// From the start of the emulator to the agent's first answer, in seconds.
const BOOT_SECONDS: f64 = 10.0;

/// Arguments of `hosts`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HostsArgs {
    /// Boot one host and check all that drills rely on (the only thing that this command does so far).
    #[arg(long, required = true)]
    check: bool,
    /// How nice the emulator is to other processes.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..20))]
    nice: u8,
    /// Write the report as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the checks and says how they went, in the last line and by the exit code.
pub(crate) fn run(args: &HostsArgs) -> anyhow::Result<ExitCode> {
    let steps = Steps::new(4);
    steps.begin("packages", "looking for what emulated hosts need");
    crate::setup::packages(&crate::setup::HOSTS)?;
    steps.done(&format!("{} present", crate::setup::HOSTS.join(" ")));
    if let Some(why) = hosts::obstacle() {
        write(args, &json!({ "schema": "twinrun.hosts/1", "ok": false, "cannot_run": why }))?;
        println!("CANNOT RUN HERE  {why}");
        return Ok(ExitCode::from(2));
    }
    let proof = carry_out(args, &steps)?;
    let report = report(&proof);
    write(args, &report)?;
    println!("{}", last_line(&proof));
    Ok(if report["ok"] == json!(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn carry_out(args: &HostsArgs, steps: &Steps) -> anyhow::Result<Proof> {
    steps.begin("image", "building twinrun, the kernel and the initial file system");
    let twinrun = twinrun()?;
    let own = std::env::current_exe().context("finding this executable")?;
    let image = hosts::build(&own, &[("/bin/twinrun", &twinrun)])?;
    steps
        .done(&image.initrd.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()));

    let root = target_dir()?.join("hosts");
    steps.begin("world", "namespaces, taps, bridges, the cable");
    let world = World::create(&root, 1).context("making the world of the emulated hosts")?;
    crate::interrupt::on_interrupt(world.stopper())?;
    for leftover in world.cleaned() {
        println!("      ended what an earlier run had left: {leftover}");
    }
    steps.done("a client and a witness [in namespaces, nothing outside is touched]");

    steps.begin("checks", "booting an emulated host");
    let proof = check::all(&world, &image, args.nice, &|what| steps.say(what));
    world.finish().context("ending the world of the emulated hosts")?;
    let proof = proof?;
    steps.done(&format!("{} of {} hold", proof.held(), proof.checks.len()));
    for Check { name, wrong, found } in &proof.checks {
        println!(
            "      {} {name}: {}",
            if wrong.is_none() { "ok  " } else { "FAIL" },
            wrong.as_ref().unwrap_or(found)
        );
    }
    Ok(proof)
}

fn twinrun() -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["build", "--quiet", "--package", "twinrun"]);
    ensure!(cargo.status().context("starting cargo")?.success(), "twinrun does not build: see above");
    Ok(target_dir()?.join("debug/twinrun"))
}

fn write(args: &HostsArgs, report: &Value) -> anyhow::Result<()> {
    let Some(file) = &args.json else { return Ok(()) };
    std::fs::write(file, format!("{report:#}\n")).with_context(|| format!("writing {}", file.display()))
}

fn report(proof: &Proof) -> Value {
    let check = |Check { name, wrong, found }: &Check| json!({ "name": name, "ok": wrong.is_none(), "found": found, "wrong": wrong });
    json!({
        "schema": "twinrun.hosts/1",
        "ok": proof.held() == proof.checks.len(),
        "checks": proof.checks.iter().map(check).collect::<Vec<_>>(),
        "doctor": proof.doctor,
        "targets": [{
            "name": "boot of an emulated host, s",
            "target": BOOT_SECONDS,
            "got": proof.boot_seconds,
            "met": proof.boot_seconds <= BOOT_SECONDS,
        }],
    })
}

/// The one line that a reader of a log looks for.
fn last_line(proof: &Proof) -> String {
    let failed: Vec<_> =
        proof.checks.iter().filter(|check| check.wrong.is_some()).map(|check| check.name).collect();
    if !failed.is_empty() {
        return format!("FAIL  {}", failed.join(", "));
    }
    let names: Vec<_> = proof.checks.iter().map(|check| check.name).collect();
    format!("PASS  an emulated host boots in {:.1} s; {}", proof.boot_seconds, names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(wrong: Option<&str>) -> Proof {
        let check = |name, wrong: Option<&str>| Check {
            name,
            found: "found".into(),
            wrong: wrong.map(str::to_owned),
        };
        Proof {
            checks: vec![check("kvm", None), check("links", wrong)],
            doctor: json!({}),
            boot_seconds: 10.1,
        }
    }

    #[test]
    fn one_check_that_fails_fails_all_and_is_named() {
        assert_eq!(report(&proof(None))["ok"], json!(true));
        assert!(last_line(&proof(None)).starts_with("PASS  an emulated host boots in 10.1 s; kvm, links"));
        let failed = proof(Some("no carrier"));
        assert_eq!(report(&failed)["ok"], json!(false));
        assert_eq!(report(&failed)["checks"][1]["wrong"], json!("no carrier"));
        assert_eq!(last_line(&failed), "FAIL  links");
    }

    #[test]
    fn a_slow_boot_misses_its_target_and_passes() {
        let report = report(&proof(None));
        assert_eq!((&report["ok"], &report["targets"][0]["met"]), (&json!(true), &json!(false)));
    }
}
