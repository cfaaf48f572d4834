//! Boots one guest, a Linux kernel with an initial file system or an ELF program, and shows what it does.
//!
//! `linux KERNEL [--initrd FILE] [--cmdline TEXT] [--memory MIB] [--disk FILE | --disk MIB]... [--tap NAME]
//! [--seconds N] [--until TEXT] [--every N]
//! [--save FILE] [--restore FILE] [--wall SECONDS]`
//!
//! The console is the terminal's, line by line. `--until` ends the run when the guest has printed that text; at the end,
//! and `--every` so many seconds, the exits are counted by kind. Without `--tap` frames go nowhere. A disk's changes are not kept.
//! `--save` writes the whole machine at the end, `--restore` goes on with one that was written, which
//! needs the same memory, disks and `--wall`: the wall-clock time at the guest's start, by default the host's.
//!
//! This is the smallest owner that a machine can have. Virtual time follows the host's monotonic clock: it is
//! placed after every exit, when a device's deadline has come, and at least every [`HEARTBEAT`], because a
//! guest that waits for its clock with interrupts off makes no exit at all.

mod timer;
mod world;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use devices::{Ns, PlatformConfig, Stimulus};
use vmm::{ExitKind, Stop, Vm, VmConfig};

use self::timer::Timer;
use self::world::World;

type Failure = Box<dyn std::error::Error>;

/// Time is placed at least this often.
const HEARTBEAT: Duration = Duration::from_millis(4);
const USAGE: &str = "usage: linux KERNEL [--initrd FILE] [--cmdline TEXT] [--memory MIB] [--disk FILE-OR-MIB] \
                     [--tap NAME] [--seconds N] [--until TEXT] [--every N] [--save FILE] \
                     [--restore FILE] [--wall SECONDS]";

struct Options {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    cmdline: String,
    memory_mib: u32,
    disks: Vec<String>,
    tap: Option<String>,
    seconds: u64,
    until: Option<String>,
    every: u64,
    wall: Option<u64>,
    save: Option<PathBuf>,
    restore: Option<PathBuf>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        kernel: PathBuf::new(),
        initrd: None,
        cmdline: "console=ttyS0 ip=10.77.0.10/24 seed=0123456789abcdef".into(),
        memory_mib: 256,
        disks: Vec::new(),
        tap: None,
        seconds: u64::MAX,
        until: None,
        every: u64::MAX,
        wall: None,
        save: None,
        restore: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value; {USAGE}"));
        match argument.as_str() {
            "--initrd" => options.initrd = Some(value()?.into()),
            "--cmdline" => options.cmdline = value()?,
            "--memory" => options.memory_mib = value()?.parse()?,
            "--disk" => options.disks.push(value()?),
            "--tap" => options.tap = Some(value()?),
            "--seconds" => options.seconds = value()?.parse()?,
            "--every" => options.every = value()?.parse()?,
            "--wall" => options.wall = Some(value()?.parse()?),
            "--save" => options.save = Some(value()?.into()),
            "--restore" => options.restore = Some(value()?.into()),
            "--until" => options.until = Some(value()?),
            _ if argument.starts_with("--") => return Err(format!("{argument} is unknown; {USAGE}").into()),
            _ => options.kernel = argument.into(),
        }
    }
    if options.kernel.as_os_str().is_empty() { Err(USAGE.into()) } else { Ok(options) }
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let mut world = World::new(&options.disks, options.tap.as_deref(), options.until)?;
    let wall = options.wall.map_or_else(|| UNIX_EPOCH.elapsed().map(|since| since.as_secs()), Ok)?;
    let platform = PlatformConfig {
        macs: vec![[0x52, 0x54, 0x00, 0x77, 0x00, 0x0a]],
        disks: world.sectors(),
        wall_base_s: u32::try_from(wall)?,
    };
    let mut vm = Vm::new(&VmConfig {
        memory_mib: options.memory_mib,
        kernel: options.kernel,
        initrd: options.initrd,
        cmdline: options.cmdline,
        platform,
    })?;
    match &options.restore {
        Some(image) => vm.restore_from(&mut BufReader::new(File::open(image)?))?,
        None => vm.boot()?,
    }
    for effect in [vm.outstanding_disk(), vm.outstanding_entropy()].concat() {
        world.take(&mut vm, effect)?;
    }
    world.receive(&vm.kicker())?;
    let mut run = Run::new(&vm);
    let outcome = run.go(&mut vm, &mut world, options.seconds, options.every);
    run.report(&world);
    outcome?;
    if let Some(image) = options.save {
        // It holds all that the guest has in memory: for its owner alone.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(image)?;
        vm.save_to(&mut BufWriter::new(file))?;
    }
    Ok(())
}

/// The loop, and what it counts.
struct Run {
    start: Instant,
    /// Virtual time at `start`.
    before: Ns,
    timer: Timer,
    in_guest: Duration,
    idle: Duration,
    kicks: u64,
    exits: [u64; 6],
}

impl Run {
    fn new(vm: &Vm) -> Self {
        let (in_guest, idle) = (Duration::ZERO, Duration::ZERO);
        let timer = Timer::start(vm.kicker(), HEARTBEAT);
        Run { start: Instant::now(), before: vm.now(), timer, in_guest, idle, kicks: 0, exits: [0; 6] }
    }

    fn go(&mut self, vm: &mut Vm, world: &mut World, seconds: u64, every: u64) -> Result<(), Failure> {
        let (limit, mut next) = (Duration::from_secs(seconds), Duration::from_secs(every));
        while !world.finished() && self.start.elapsed() < limit {
            if self.start.elapsed() >= next {
                next += Duration::from_secs(every);
                self.report(world);
            }
            let elapsed = u64::try_from(self.start.elapsed().as_nanos())?;
            vm.place(&Stimulus::Time(self.before + elapsed))?;
            for arrival in world.take_arrivals()? {
                vm.place(&arrival)?;
            }
            let since_start = |deadline: Ns| Duration::from_nanos(deadline.saturating_sub(self.before));
            let due = vm.next_deadline().map(|deadline| self.start + since_start(deadline));
            if vm.waits() {
                self.wait(due);
            } else if !self.enter(vm, due)? {
                return Ok(());
            }
            for effect in vm.take_effects() {
                world.take(vm, effect)?;
            }
        }
        Ok(())
    }

    /// Sleeps until the guest has something to do. An arrival ends it.
    fn wait(&mut self, due: Option<Instant>) {
        let before = Instant::now();
        let limit = due.map_or(HEARTBEAT, |due| due.saturating_duration_since(before));
        thread::park_timeout(limit);
        self.idle += before.elapsed();
    }

    /// One exit. Whether the guest goes on.
    fn enter(&mut self, vm: &mut Vm, due: Option<Instant>) -> Result<bool, Failure> {
        self.timer.set(due);
        let entered = Instant::now();
        let stop = vm.run()?;
        self.in_guest += entered.elapsed();
        match stop {
            Stop::Exit(kind) => self.exits[kind as usize] += 1,
            Stop::Kicked => self.kicks += 1,
            Stop::Shutdown => println!("\n[triple fault]"),
        }
        Ok(stop != Stop::Shutdown)
    }

    fn report(&self, world: &World) {
        let [in_guest, idle, total] =
            [self.in_guest, self.idle, self.start.elapsed()].map(|time| time.as_secs_f64());
        print!("\n[{total:.3} s, {in_guest:.3} s in the guest, {idle:.3} s asleep; kicks {}", self.kicks);
        for kind in [ExitKind::Pio, ExitKind::Mmio, ExitKind::Msr, ExitKind::Halt, ExitKind::Window] {
            print!(", {kind:?} {}", self.exits[kind as usize]);
        }
        println!("; {}]", world.summary());
    }
}
