//! Interrupts at landings on one machine, found again on another: how exact, how fast, at what cost.
//!
//! `landing [--count N] [--seed N] [--json FILE]`
//!
//! Exit code 0: every landing was found again with equal registers, memory and devices are equal at the end,
//! and the control run, with one interrupt one landing late, is not equal. 1: one of that is not so. 2: this
//! host has no landings.

#[path = "../../tests/support/guest.rs"]
mod guest;
mod harness;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use guest::Program;
use harness::{Alarm, Recording, record, replay};
use serde_json::{Value, json};
use vmm::{Reached, Stop, Vm};

type Failure = Box<dyn std::error::Error>;

struct Options {
    count: usize,
    seed: u64,
    json: Option<String>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { count: 10_000, seed: 1, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--count" => options.count = value.parse::<usize>()?.max(2),
            "--seed" => options.seed = value.parse()?,
            "--json" => options.json = Some(value),
            _ => return Err("usage: landing [--count N] [--seed N] [--json FILE]".into()),
        }
    }
    Ok(options)
}

fn machine(name: &str) -> Option<Vm> {
    guest::booted(name, Program::Chaos).and_then(guest::landing)
}

fn main() -> Result<ExitCode, Failure> {
    let options = options()?;
    let (Some(mut a), Some(b), Some(c)) = (machine("a"), machine("b"), machine("c")) else {
        return Ok(ExitCode::from(2));
    };
    let begin = Instant::now();
    let recording = record(&mut a, options.count, options.seed)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (delays, counts) = (delays(&recording), a.landing_counts());
    println!("{} interrupts at landings in {seconds:.2} s: {counts:?}", options.count);
    println!("from due to landed, in µs: {delays}");
    let mut result = compare(b, c, &recording, &options)?;
    result["seconds"] = json!(seconds);
    result["due_to_landed_us"] = delays;
    result["passed_by_primary"] = json!(counts.passed);
    result["costs"] = costs(&mut a)?;
    if let Some(file) = options.json {
        std::fs::write(file, format!("{result:#}\n"))?;
    }
    let ok = result["ok"] == json!(true);
    let verdict = if ok { "OK" } else { "FAILED" };
    println!("{verdict}: {} of {} landings found again and equal", result["equal"], options.count);
    Ok(ExitCode::from(u8::from(!ok)))
}

/// The replay, and the control.
fn compare(mut b: Vm, mut c: Vm, recording: &Recording, options: &Options) -> Result<Value, Failure> {
    let &Options { count, seed, .. } = options;
    let begin = Instant::now();
    let replayed = replay(&mut b, &recording.marks, None, seed + 1)?;
    let (seconds, counts) = (begin.elapsed().as_secs_f64(), b.landing_counts());
    let equal_end = replayed.end == recording.end;
    println!(
        "replayed in {seconds:.2} s: {} found, {} different, missed {:?}, end equal: {equal_end}; {counts:?}",
        replayed.found, replayed.different, replayed.missed
    );
    let control = replay(&mut c, &recording.marks, Some(count - 1), seed + 2)?;
    let control_differs = !control.equals(recording) && control.end != recording.end;
    println!("control, interrupt {} one landing late: end differs: {control_differs}", count - 1);
    Ok(json!({
        "ok": replayed.equals(recording) && control_differs,
        "count": count,
        "seed": seed,
        "equal": replayed.found - replayed.different,
        "missed": usize::from(replayed.missed.is_some()),
        "end_equal": equal_end,
        "control_differs": control_differs,
        "passed_by_secondary": counts.passed,
    }))
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

fn delays(recording: &Recording) -> Value {
    let mut sorted = recording.delays.clone();
    sorted.sort_unstable();
    let at = |share: usize| micros(sorted[(sorted.len() - 1) * share / 100]);
    let mean = sorted.iter().sum::<Duration>() / u32::try_from(sorted.len()).unwrap_or(1);
    json!({ "mean": micros(mean), "p50": at(50), "p99": at(99), "max": at(100) })
}

/// What an epoch costs beside the guest's own faults: pages are protected, the ring is armed and disarmed.
fn costs(vm: &mut Vm) -> Result<Value, Failure> {
    const ROUNDS: u32 = 200;
    let mut list = Vec::new();
    for pages in [1_usize, 8, 32, 128, 512] {
        let mut sums = [Duration::ZERO; 3];
        for _ in 0..ROUNDS {
            for (sum, time) in sums.iter_mut().zip(epoch(vm, pages)?) {
                *sum += time;
            }
        }
        let [protect, arm, disarm] = sums.map(|sum| micros(sum / ROUNDS));
        println!("{pages:3} pages: protect {protect:.1} µs, arm {arm:.1} µs, disarm {disarm:.1} µs");
        list.push(json!({ "pages": pages, "protect_us": protect, "arm_us": arm, "disarm_us": disarm }));
    }
    Ok(Value::Array(list))
}

/// Protect so many written pages, arm, disarm.
fn epoch(vm: &mut Vm, pages: usize) -> Result<[Duration; 3], Failure> {
    let alarm = Alarm::new(vm.kicker());
    while vm.open_pages()?.len() < pages {
        alarm.set(Duration::from_micros(200));
        while vm.run()? != Stop::Kicked {}
    }
    drop(alarm);
    let open = vm.open_pages()?;
    let begin = Instant::now();
    vm.protect(&open[..pages])?;
    let protect = begin.elapsed();
    vm.take_dirty()?;
    // A pending kick keeps the guest from being entered: what remains is the preparation.
    let (kicker, mut times) = (vm.kicker(), [Duration::ZERO; 3]);
    for (armed, time) in [false, true, false].into_iter().zip(&mut times) {
        kicker.kick();
        let begin = Instant::now();
        let reached = if armed { vm.seek()? } else { Reached::Stop(vm.run()?) };
        *time = begin.elapsed();
        assert_eq!(reached, Reached::Stop(Stop::Kicked));
    }
    let [idle, arm, disarm] = times;
    Ok([protect, arm.saturating_sub(idle), disarm.saturating_sub(idle)])
}
