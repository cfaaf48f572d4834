//! Boots a guest on the software processor, with nothing from outside: time is the instruction count.
//!
//! `counted KERNEL [--initrd FILE] [--cmdline TEXT] [--memory MIB] [--until TEXT] [--limit MILLIONS] [--ns N]`
//!
//! Each run of it prints the same, digest included. `--ns` is how much virtual time an instruction takes; a guest
//! that sleeps jumps to its next deadline. Disks have no content, entropy is constant, frames go nowhere.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use devices::{Effect, Ns, PlatformConfig, Stimulus};
use vmm::table::cpuid::Vendor;
use vmm::{Backend, RunError, Stop, Vm, VmConfig};
use xxhash_rust::xxh3::xxh3_128;

type Failure = Box<dyn std::error::Error>;

/// Time is placed at least this often, in ns of virtual time: the kernel's clock stands still in between.
const HEARTBEAT: Ns = 50_000;

struct Options {
    config: VmConfig,
    until: Option<String>,
    limit: u64,
    ns: u64,
}

fn options() -> Result<Options, Failure> {
    let mut config = VmConfig {
        memory_mib: 256,
        kernel: PathBuf::new(),
        initrd: None,
        cmdline: "console=ttyS0".into(),
        platform: PlatformConfig { macs: vec![[2, 0, 0, 0, 0, 1]], disks: vec![32768], ..Default::default() },
    };
    let (mut until, mut limit, mut ns) = (None, u64::MAX, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--initrd" => config.initrd = Some(value()?.into()),
            "--cmdline" => config.cmdline = value()?,
            "--memory" => config.memory_mib = value()?.parse()?,
            "--until" => until = Some(value()?),
            "--limit" => limit = value()?.parse::<u64>()?.saturating_mul(1_000_000),
            "--ns" => ns = value()?.parse::<u64>()?.max(1),
            _ if argument.starts_with("--") => return Err(format!("{argument} is unknown").into()),
            _ => config.kernel = argument.into(),
        }
    }
    Ok(Options { config, until, limit, ns })
}

fn main() -> Result<(), Failure> {
    let Options { config, until, limit, ns } = options()?;
    let mut vm = Vm::with_backend(&config, Backend::Soft(Vendor::Intel))?;
    vm.boot()?;
    let start = Instant::now();
    let mut console = Vec::new();
    let outcome = run(&mut vm, &mut console, until.as_deref(), limit, ns);
    let (seconds, count) = (start.elapsed().as_secs_f64(), vm.retired());
    let mips = count as f64 / seconds / 1e6;
    println!(
        "\n[{count} instructions in {seconds:.2} s, {mips:.1} MIPS, virtual time {} ms]",
        vm.now() / 1_000_000
    );
    println!(
        "[console {:032x}, state {:032x}]",
        xxh3_128(&console),
        xxh3_128(&vm.save().unwrap_or_default())
    );
    outcome
}

fn run(vm: &mut Vm, console: &mut Vec<u8>, until: Option<&str>, limit: u64, ns: u64) -> Result<(), Failure> {
    // Virtual time that passed while the guest slept.
    let mut slept = 0;
    while vm.retired() < limit {
        let now = vm.now().max(slept + vm.retired() * ns);
        vm.place(&Stimulus::Time(now))?;
        let next = vm
            .next_deadline()
            .map_or(now + HEARTBEAT, |deadline| deadline.clamp(now + 1_000, now + HEARTBEAT));
        let count = (next - slept).div_ceil(ns).min(limit);
        match vm.run_until(count) {
            Ok(None | Some(Stop::Exit(_) | Stop::Kicked)) => {}
            Ok(Some(Stop::Shutdown)) => return Err("triple fault".into()),
            Err(RunError::Halted) => {
                let Some(deadline) = vm.next_deadline() else { return Err("it sleeps for ever".into()) };
                slept += deadline.saturating_sub(now);
            }
            Err(error) => return Err(error.into()),
        }
        for effect in vm.take_effects() {
            match effect {
                Effect::Console(bytes) => {
                    std::io::stdout().write_all(&bytes)?;
                    console.extend(bytes);
                }
                Effect::DiskRead { disk, id, len, .. } => {
                    vm.place(&Stimulus::DiskDone { disk, id, ok: true, data: vec![0; len as usize] })?;
                }
                Effect::DiskFlush { disk, id } => {
                    vm.place(&Stimulus::DiskDone { disk, id, ok: true, data: Vec::new() })?;
                }
                Effect::Entropy { len } => vm.place(&Stimulus::Entropy(vec![0x5a; len as usize]))?,
                Effect::Reset | Effect::PowerOff => return Ok(()),
                Effect::Frame { .. } | Effect::DiskWrite { .. } | Effect::GuestPanicked => {}
            }
        }
        let recent = &console[console.len().saturating_sub(4096)..];
        if until.is_some_and(|text| recent.windows(text.len().max(1)).any(|window| window == text.as_bytes()))
        {
            return Ok(());
        }
    }
    Ok(())
}
