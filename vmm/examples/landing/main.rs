//! Interrupts at landings on one machine, found again on another: how exact, how fast, at what cost.
//!
//! `landing [--kernel ELF] [--count N] [--seed N] [--json FILE]`
//!
//! The kernel is the chaos guest of `guest-images`; it gets frames too. Without one, a small program of the tests runs.
//!
//! Exit code 0: every landing was in user mode and found again with equal registers and equal effects, memory and
//! devices are equal at the end, and the control run, with one interrupt one landing late, is not equal. 1: one of
//! that is not so. 2: this host has no landings.

#[path = "../../tests/support/guest.rs"]
mod guest;
mod harness;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use devices::{Effect, PlatformConfig, Stimulus};
use guest::Program;
use harness::{Alarm, Guest, Recording, SMALL, record, replay};
use serde_json::{Value, json};
use vmm::{PAGE_SIZE, Reached, Stop, Vm, VmConfig};

type Failure = Box<dyn std::error::Error>;

/// The address of the kernel's network card.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Its memory.
const MEMORY_MIB: u32 = 32;
/// The period of its timer in microseconds of virtual time; each mark lets one pass.
const TIMER_US: u32 = 1000;
/// Its work area, in pages.
const AREA: u32 = 256;

struct Options {
    kernel: Option<PathBuf>,
    count: usize,
    seed: u64,
    json: Option<String>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { kernel: None, count: 10_000, seed: 1, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--kernel" => options.kernel = Some(value.into()),
            "--count" => options.count = value.parse::<usize>()?.max(2),
            "--seed" => options.seed = value.parse()?,
            "--json" => options.json = Some(value),
            _ => return Err("usage: landing [--kernel ELF] [--count N] [--seed N] [--json FILE]".into()),
        }
    }
    Ok(options)
}

/// A machine about to run the small program.
fn small(name: &str) -> Option<Vm> {
    guest::booted(name, Program::Chaos).and_then(guest::landing)
}

/// A machine about to run the kernel, if one is asked for.
fn machine(name: &str, options: &Options) -> Result<Option<Vm>, Failure> {
    let Some(kernel) = &options.kernel else { return Ok(small(name)) };
    let config = VmConfig {
        memory_mib: MEMORY_MIB,
        kernel: kernel.clone(),
        initrd: None,
        cmdline: format!("seed={:x} rounds=0 timer={TIMER_US} pages={AREA}", options.seed),
        platform: PlatformConfig { macs: vec![MAC], ..PlatformConfig::default() },
    };
    let Some(mut vm) = guest::machine(&config).and_then(guest::landing) else { return Ok(None) };
    vm.boot()?;
    Ok(Some(vm))
}

/// The guest that runs in it.
fn guest_of(options: &Options) -> Result<Guest, Failure> {
    match &options.kernel {
        None => Ok(SMALL),
        Some(kernel) => Ok(Guest { first_own_page: first_page_after(kernel)?, mac: Some(MAC) }),
    }
}

/// The first page behind an ELF program, where its heap begins: in the program are its stacks and page tables.
fn first_page_after(kernel: &Path) -> Result<u32, Failure> {
    let elf = std::fs::read(kernel)?;
    let field = |at: usize| -> Option<u64> {
        elf.get(at..)?.first_chunk().map(|bytes: &[u8; 8]| u64::from_le_bytes(*bytes))
    };
    // ELF64: offset of the program headers at 32, their number at 56; address at 16 and size at 40 in each.
    let (headers, count) = (field(32), elf.get(56).copied().unwrap_or(0));
    let ends = (0..usize::from(count)).filter_map(|number| {
        let header = usize::try_from(headers?).ok()?.checked_add(56 * number)?;
        field(header.checked_add(16)?)?.checked_add(field(header.checked_add(40)?)?)
    });
    let end = ends.max().ok_or_else(|| format!("{} is not an ELF64 program", kernel.display()))?;
    Ok(u32::try_from(end.div_ceil(PAGE_SIZE as u64))?)
}

fn main() -> Result<ExitCode, Failure> {
    let options = options()?;
    let guest = guest_of(&options)?;
    let (Some(mut a), Some(b), Some(c), Some(mut d)) =
        (machine("a", &options)?, machine("b", &options)?, machine("c", &options)?, small("d"))
    else {
        return Ok(ExitCode::from(2));
    };
    let begin = Instant::now();
    let recording = record(&mut a, &guest, options.count, options.seed)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (delays, counts) = (delays(&recording), a.landing_counts());
    println!("{} interrupts at landings in {seconds:.2} s: {counts:?}", options.count);
    println!("from due to landed, in µs: {delays}");
    let story = story(&recording);
    println!("at and between them: {story:?}");
    let mut result = compare(b, c, &recording, &options)?;
    for (key, figure) in story {
        result[key] = json!(figure);
    }
    result["seconds"] = json!(seconds);
    result["due_to_landed_us"] = delays;
    result["passed_by_primary"] = json!(counts.passed);
    result["costs"] = costs(&mut d)?;
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
    let equal_effects = replayed.other_effects == 0;
    println!(
        "replayed in {seconds:.2} s: {} found, {} different, missed {:?}, effects equal: {equal_effects}, \
         end equal: {equal_end}; {counts:?}",
        replayed.found, replayed.different, replayed.missed
    );
    let control = replay(&mut c, &recording.marks, Some(count - 1), seed + 2)?;
    let control_differs = !control.equals(recording) && control.end != recording.end;
    println!("control, interrupt {} one landing late: end differs: {control_differs}", count - 1);
    Ok(json!({
        "ok": replayed.equals(recording) && control_differs && in_user_mode(recording) == count,
        "count": count,
        "seed": seed,
        "equal": replayed.found - replayed.different,
        "missed": usize::from(replayed.missed.is_some()),
        "effects_equal": equal_effects,
        "end_equal": equal_end,
        "control_differs": control_differs,
        "passed_by_secondary": counts.passed,
    }))
}

fn in_user_mode(recording: &Recording) -> usize {
    recording.marks.iter().filter(|mark| mark.privilege == 3).count()
}

/// What happened to the first machine's guest, in figures.
fn story(recording: &Recording) -> [(&'static str, u64); 4] {
    let marks = &recording.marks;
    let placed = marks.iter().flat_map(|mark| &mark.stimuli);
    let done = marks.iter().flat_map(|mark| &mark.effects);
    [
        ("in_user_mode", in_user_mode(recording) as u64),
        ("exits", marks.iter().map(|mark| mark.exits).sum()),
        ("frames", placed.filter(|stimulus| matches!(stimulus, Stimulus::Frame { .. })).count() as u64),
        ("answers", done.filter(|effect| matches!(effect, Effect::Frame { .. })).count() as u64),
    ]
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
