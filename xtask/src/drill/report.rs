//! The end of a drill: judge, report, picture, and one line that a tired person can act on.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use super::scenario::Outcome;
use super::stage::GUEST_MAC;
use super::{DrillArgs, Level};
use xtask::load::capture::{HostCapture, digest};
use xtask::load::judge::{Evidence, Verdict, epoch_share, judge};
use xtask::load::record::{Record, read_records};
use xtask::load::timeline::timeline_svg;
use xtask::world::pcap;

/// The least share of epochs under load that ended at an exit or a landing, and were acknowledged with nothing
/// shipped.
const EXACT_SHARE: f64 = 0.9;

pub(super) fn conclude(args: &DrillArgs, root: &Path, outcome: &Outcome) -> anyhow::Result<ExitCode> {
    let records = read_records(&outcome.records)?;
    let captures = outcome
        .hosts
        .iter()
        .map(|host| capture(root, host, outcome.ended))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let events = serde_lines(outcome)?;
    std::fs::write(root.join("events.jsonl"), events)?;
    let evidence = Evidence {
        records: &records,
        captures: &captures,
        events: &outcome.events,
        guest_mac: GUEST_MAC,
        fresh_counters: true,
    };
    let mut verdict = judge(&evidence);
    verdict.violations.extend(outcome.violations.iter().cloned());
    let share = epoch_share(outcome.epochs.exact(), outcome.epochs.acked);
    match &share {
        // A checkpoint is shipped whole, always.
        Ok(share) if *share < EXACT_SHARE && args.level == Level::Lockstep => {
            verdict.violations.push(format!(
                "only {:.1} % of the epochs under load ended at an exit or a landing with nothing shipped",
                share * 100.0
            ));
        }
        Ok(_) => {}
        Err(why) => verdict.violations.push(why.clone()),
    }
    verdict.ok = verdict.violations.is_empty();
    let report = report(args, outcome, &verdict, share.unwrap_or(0.0));
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(root.join("report.json"), &text)?;
    if let Some(file) = &args.json {
        std::fs::write(file, &text)?;
    }
    let picture = picture(root, &records, outcome, &verdict)?;
    print(outcome, &verdict, &report, root, &picture);
    Ok(if verdict.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serde_lines(outcome: &Outcome) -> anyhow::Result<String> {
    let lines = outcome.events.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.join("\n") + "\n")
}

fn capture(root: &Path, host: &str, until: u64) -> anyhow::Result<HostCapture> {
    let read = |direction: &str| -> anyhow::Result<_> {
        let frames = pcap::read(&root.join(format!("captures/{host}.lan.{direction}.pcap")))?;
        let during = frames.iter().filter(|frame| frame.at_ns <= until);
        Ok(digest(during.map(|frame| (frame.at_ns, frame.frame.as_slice()))))
    };
    Ok(HostCapture { host: host.to_owned(), left: read("out")?, delivered: read("in")? })
}

fn report(args: &DrillArgs, outcome: &Outcome, verdict: &Verdict, share: f64) -> Value {
    let targets: Vec<Value> = verdict
        .gaps
        .iter()
        .map(|gap| {
            let got = gap.first_frame_ns.map(|ns| ns / 1_000_000);
            let target: u64 = if gap.kind == "crash" { 100 } else { 500 };
            json!({
                "name": format!("from the {} of {} to the survivor's first frame, ms", gap.kind, gap.host),
                "target": target,
                "got": got,
                "met": got.is_some_and(|got| got <= target),
            })
        })
        .collect();
    let mut report = json!({
        "schema": "twinrun.drill/1",
        "guest": "micro",
        "level": args.level.name(),
        "load": args.load.map(|load| format!("{load:?}")),
        "seed": args.seed,
        "sabotage": args.sabotage.map(|sabotage| format!("{sabotage:?}")),
        "shared_files": outcome.shared_files,
        "protected_times": outcome.protected,
        "epochs": outcome.epochs,
        "exact_share": share,
        "takeovers": outcome.takeovers,
        "output_latency_us": outcome.latency,
        "targets": targets,
    });
    let seen = serde_json::to_value(verdict).unwrap_or_default();
    if let (Value::Object(report), Value::Object(seen)) = (&mut report, seen) {
        report.extend(seen);
    }
    report
}

fn picture(root: &Path, records: &[Record], outcome: &Outcome, verdict: &Verdict) -> anyhow::Result<PathBuf> {
    let svg = root.join("timeline.svg");
    std::fs::write(&svg, timeline_svg("TwinRun drill, micro guest", records, &outcome.events, verdict))?;
    let png = root.join("timeline.png");
    // The picture is the SVG; a PNG beside it is a convenience where a converter is installed.
    let converted = Command::new("rsvg-convert").arg("-o").arg(&png).arg(&svg).status();
    Ok(if converted.is_ok_and(|status| status.success()) { png } else { svg })
}

fn ms(ns: Option<u64>) -> String {
    ns.map_or_else(|| "none".to_owned(), |ns| format!("{} ms", ns / 1_000_000))
}

fn print(outcome: &Outcome, verdict: &Verdict, report: &Value, root: &Path, picture: &Path) {
    for rate in verdict.rates.iter().filter(|rate| !rate.window.starts_with("before loss")) {
        println!(
            "      {:<28} {:>6.0} requests/s, median {:.1} ms, p99 {:.1} ms, download {:.1} MB/s",
            rate.window,
            rate.replies_per_s,
            rate.median_ns as f64 / 1e6,
            rate.p99_ns as f64 / 1e6,
            rate.download_bytes_per_s / 1e6
        );
    }
    let part = |name: &str| {
        let part = &outcome.latency[name];
        format!("{} {}/{} µs", name.replace('_', " "), part["p50"], part["p99"])
    };
    let parts = ["landing", "replay", "compare", "link", "total"].map(part).join(", ");
    println!("      an output waits (median/p99): {parts}");
    let epochs = &outcome.epochs;
    println!(
        "      epochs ended at exits {}, at landings {}, anywhere {}; {}; {} repaired by {} pages, {} times the guest was \
         held for the secondary",
        epochs.exit,
        epochs.landing,
        epochs.r#async,
        part("due_to_landed"),
        epochs.repaired,
        epochs.pages_shipped,
        epochs.throttled
    );
    for gap in &verdict.gaps {
        println!(
            "      {} of {:<6} survivor's first frame after {}, longest request {} ({}), TCP stalled {}, \
             download {}",
            gap.kind,
            gap.host,
            ms(gap.first_frame_ns),
            ms(Some(gap.longest_request_ns)),
            gap.longest_request,
            ms(Some(gap.tcp_stall_ns)),
            ms(Some(gap.download_stall_ns)),
        );
    }
    for target in report["targets"].as_array().into_iter().flatten().filter(|target| target["met"] != true) {
        println!("      target missed: {} {} (target {})", target["name"], target["got"], target["target"]);
    }
    for violation in verdict.violations.iter().take(20) {
        println!("      VIOLATION {violation}");
    }
    let counts = format!(
        "lost {}, duplicated {}, broken {}, wrong bytes {}, released early {}, shared files {} ({} losses, {} \
         requests, {} epochs acknowledged, {:.1} % exact)",
        verdict.lost,
        verdict.duplicated,
        verdict.broken,
        verdict.wrong_bytes,
        verdict.released_early,
        outcome.shared_files,
        verdict.gaps.len(),
        verdict.requests,
        outcome.epochs.acked,
        report["exact_share"].as_f64().unwrap_or(0.0) * 100.0,
    );
    println!("Picture: {}     Details: {}", picture.display(), root.join("report.json").display());
    if verdict.ok {
        println!("PASS  {counts}, protected {} times", outcome.protected);
    } else {
        println!("FAIL  {counts}; {} violations", verdict.violations.len());
    }
}
