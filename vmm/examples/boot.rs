//! Boots a guest from an ELF file, with one network card and one disk in memory, and shows what it does.
//!
//! `boot KERNEL [--seconds N] [--cmdline TEXT] [--memory MIB] [--disk MIB] [--tap NAME]`
//!
//! Without `--tap` the frames are printed. Virtual time follows the host's clock.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use devices::{Effect, PlatformConfig, Stimulus};
use vmm::{ExitKind, Kicker, Stop, Vm, VmConfig};

type Failure = Box<dyn std::error::Error>;

const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x00, 0x0a];
const SECTOR: usize = 512;
/// Time is placed at least this often, also while the guest computes.
const HEARTBEAT: Duration = Duration::from_millis(2);
/// Frames from the tap that may wait.
const BACKLOG_MAX: usize = 256;

struct Options {
    kernel: PathBuf,
    seconds: u64,
    cmdline: String,
    memory_mib: u32,
    disk_mib: usize,
    tap: Option<String>,
}

fn options() -> Result<Options, Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut options = Options {
        kernel: PathBuf::new(),
        seconds: u64::MAX,
        cmdline: "ip=10.77.0.10/24 seed=0123456789abcdef".into(),
        memory_mib: 32,
        disk_mib: 16,
        tap: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seconds" => options.seconds = value()?.parse()?,
            "--cmdline" => options.cmdline = value()?,
            "--memory" => options.memory_mib = value()?.parse()?,
            "--disk" => options.disk_mib = value()?.parse()?,
            "--tap" => options.tap = Some(value()?),
            _ => options.kernel = argument.into(),
        }
    }
    if options.kernel.as_os_str().is_empty() {
        return Err(
            "usage: boot KERNEL [--seconds N] [--cmdline TEXT] [--memory MIB] [--disk MIB] [--tap NAME]"
                .into(),
        );
    }
    Ok(options)
}

/// What the outside world of this little host is made of.
struct World {
    disk: Vec<u8>,
    tap: Option<File>,
    inbox: Arc<Mutex<VecDeque<Vec<u8>>>>,
    frames_out: u64,
    stopped: bool,
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let disk = vec![0; options.disk_mib << 20];
    let config = VmConfig {
        memory_mib: options.memory_mib,
        kernel: options.kernel,
        cmdline: options.cmdline,
        platform: PlatformConfig {
            macs: vec![MAC],
            disks: vec![(disk.len() / SECTOR) as u64],
            ..PlatformConfig::default()
        },
    };
    let mut vm = Vm::new(&config)?;
    vm.boot()?;
    let inbox = Arc::new(Mutex::new(VecDeque::new()));
    let tap = options.tap.map(|name| open_tap(&name)).transpose()?;
    if let Some(tap) = &tap {
        receive(tap.try_clone()?, Arc::clone(&inbox), vm.kicker());
    }
    let kicker = vm.kicker();
    thread::spawn(move || {
        loop {
            thread::sleep(HEARTBEAT);
            kicker.kick();
        }
    });
    run(&mut vm, World { disk, tap, inbox, frames_out: 0, stopped: false }, options.seconds)
}

fn run(vm: &mut Vm, mut world: World, seconds: u64) -> Result<(), Failure> {
    let start = Instant::now();
    let mut exits = [0_u64; 8];
    let mut in_guest = Duration::ZERO;
    while !world.stopped && start.elapsed().as_secs() < seconds {
        vm.place(&Stimulus::Time(u64::try_from(start.elapsed().as_nanos())?))?;
        while let Some(frame) = world.inbox.lock().map_err(|_| "the receiver failed")?.pop_front() {
            vm.place(&Stimulus::Frame { nic: 0, frame })?;
        }
        if vm.waits() {
            thread::sleep(Duration::from_micros(200));
        } else {
            let entered = Instant::now();
            let stop = vm.run()?;
            in_guest += entered.elapsed();
            match stop {
                Stop::Exit(kind) => exits[kind as usize] += 1,
                Stop::Kicked => exits[0] += 1,
                Stop::Shutdown => {
                    println!("\n[triple fault]");
                    world.stopped = true;
                }
            }
        }
        for effect in vm.take_effects() {
            world.take(vm, effect)?;
        }
    }
    let elapsed = start.elapsed();
    print!(
        "\n[{:.3} s, {:.3} s in the guest; kicks {}",
        elapsed.as_secs_f64(),
        in_guest.as_secs_f64(),
        exits[0]
    );
    for kind in [ExitKind::Pio, ExitKind::Mmio, ExitKind::Msr, ExitKind::Halt, ExitKind::Window] {
        print!(", {kind:?} {}", exits[kind as usize]);
    }
    println!(", frames out {}]", world.frames_out);
    Ok(())
}

impl World {
    fn take(&mut self, vm: &mut Vm, effect: Effect) -> Result<(), Failure> {
        match effect {
            Effect::Console(bytes) => {
                io::stdout().write_all(&bytes)?;
                io::stdout().flush()?;
            }
            Effect::Frame { frame, .. } => self.send(&frame)?,
            Effect::DiskRead { disk, id, sector, len } => {
                let start = usize::try_from(sector)? * SECTOR;
                let data = self.disk.get(start..start + len as usize).map(<[u8]>::to_vec);
                let (ok, data) = (data.is_some(), data.unwrap_or_default());
                vm.place(&Stimulus::DiskDone { disk, id, ok, data })?;
            }
            Effect::DiskWrite { sector, data, .. } => {
                let start = usize::try_from(sector)? * SECTOR;
                let target = self.disk.get_mut(start..start + data.len()).ok_or("a write beyond the disk")?;
                target.copy_from_slice(&data);
            }
            Effect::DiskFlush { disk, id } => {
                vm.place(&Stimulus::DiskDone { disk, id, ok: true, data: Vec::new() })?;
            }
            // A constant: what the example prints shall not differ from run to run.
            Effect::Entropy { len } => vm.place(&Stimulus::Entropy(vec![0x5a; len as usize]))?,
            Effect::GuestPanicked => println!("\n[the guest has panicked]"),
            Effect::Reset | Effect::PowerOff => {
                println!("\n[{effect:?}]");
                self.stopped = true;
            }
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.frames_out += 1;
        if let Some(tap) = &mut self.tap {
            // A tap that is down refuses frames; a wire that is unplugged loses them.
            if let Err(error) = tap.write_all(frame) {
                eprintln!("[frame lost: {error}]");
            }
        } else {
            let shown: Vec<String> = frame.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
            println!("[frame of {} bytes: {}]", frame.len(), shown.join(" "));
        }
        Ok(())
    }
}

fn receive(mut tap: File, inbox: Arc<Mutex<VecDeque<Vec<u8>>>>, kicker: Kicker) {
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(length) = tap.read(&mut buffer) {
            if let Ok(mut inbox) = inbox.lock()
                && inbox.len() < BACKLOG_MAX
                && (14..=1514).contains(&length)
            {
                inbox.push_back(buffer[..length].to_vec());
            }
            kicker.kick();
        }
    });
}

fn open_tap(name: &str) -> Result<File, Failure> {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // struct ifreq: 16 bytes of name, flags, padding.
    let mut request = [0_u8; 40];
    if name.len() >= libc::IFNAMSIZ {
        return Err(format!("{name} is too long for the name of a network device").into());
    }
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = u16::try_from(libc::IFF_TAP | libc::IFF_NO_PI)?;
    request[16..18].copy_from_slice(&flags.to_le_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which is as long as the request.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) } != 0 {
        return Err(format!("cannot attach to {name}: {}", io::Error::last_os_error()).into());
    }
    Ok(tap)
}
