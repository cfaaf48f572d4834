//! The drill's world: hosts, an outside client and a witness, each in namespaces of its own, joined by one [`cable`].
//!
//! Nothing outside of the namespaces is touched: no interface, address, mount or process group of the machine, only files
//! below one root directory. All processes end when their orchestrator does, however it ends: the first process of each
//! place and the cable read a socket that closes then, and a PID namespace dies with its first process.
//!
//! ```text
//!  alpha (1)        beta (2)         witness      client
//!  link0 mgmt0 lan0 link0 mgmt0 lan0 mgmt0        lan0       taps, held by the cable process
//!                |               |
//!               br0 - twin0     br0 - twin0                  twin0: the tap that TwinRun opens
//! ```

pub mod cable;
pub mod init;
mod leftovers;
pub mod pcap;
mod place;
pub mod process;
mod shared;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};

pub use self::cable::proto::{PortStats, Segment, SegmentStats, Stats};
pub use self::process::Proc;
pub use self::shared::SharedFiles;

use self::cable::client::Cable;
use self::cable::proto::Request;
use self::leftovers::{Identity, State};
use self::place::{Door, Place};
use crate::ns;

/// First argument of the executable when it is to be a cable.
pub(crate) const CABLE: &str = "world-cable";
/// First argument of the executable when it is to be the first process of a place.
pub(crate) const INIT: &str = "world-init";
/// The places that are not hosts.
const CLIENT: &str = "client";
const WITNESS: &str = "witness";
/// Limit of [`World::run`].
const SHORT: Duration = Duration::from_secs(10);

/// A plug that was pulled. All times are CLOCK_MONOTONIC, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plugged {
    /// From here on no frame entered or left the host.
    pub cut_ns: u64,
    /// From here on its processes had SIGKILL.
    pub killed_ns: u64,
    /// From here on they were gone and collected.
    pub dead_ns: u64,
}

/// The whole world. All methods can be called from several threads.
#[derive(Debug)]
pub struct World {
    root: PathBuf,
    executable: PathBuf,
    cleaned: Vec<String>,
    places: Mutex<BTreeMap<String, Place>>,
    cable: Mutex<Option<Cable>>,
    cable_pid: u32,
    stopper: Stopper,
}

/// Ends a world from any thread, even while another one uses it.
#[derive(Debug, Clone, Default)]
pub struct Stopper {
    sockets: Arc<Mutex<Vec<UnixStream>>>,
}

impl Stopper {
    /// Lets every process of the world end at once: captures are still written, nothing is left behind. Meant for the thread
    /// that handles SIGINT and SIGTERM; calls on the world fail afterwards.
    pub fn emergency_stop(&self) {
        for socket in lock(&self.sockets).iter() {
            // Already closed is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn add(&self, socket: UnixStream) {
        lock(&self.sockets).push(socket);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why no world can be made here, in words for the user; `None` if it can.
pub fn obstacle() -> Option<String> {
    if !ns::is_root() {
        return Some("the drill needs root (it makes namespaces and taps): run it with sudo".to_owned());
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        let help = "the kernel needs CONFIG_TUN; as root: mkdir -p /dev/net && mknod /dev/net/tun c 10 200";
        return Some(format!("the drill cannot open /dev/net/tun ({error}): {help}"));
    }
    None
}

/// To be called first in `main`: if this process was started as a part of a world, runs that part and returns its exit code.
pub fn hidden_main() -> Option<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match words.as_slice() {
        [what, captures, seed] if what == CABLE => control_socket().and_then(|control| {
            let seed = seed.to_string_lossy().parse().context("the seed is no number")?;
            cable::cable_main(control, Path::new(captures), seed)
        }),
        [what, name, hosts, own] if what == INIT => control_socket().and_then(|control| {
            init::init_main(control, &name.to_string_lossy(), Path::new(hosts), Path::new(own))
        }),
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// The orchestrator hands its socket over as standard input.
fn control_socket() -> anyhow::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned().context("taking over standard input")?))
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening the log {}", path.display()))
}

impl World {
    /// Creates a world with client and witness but without hosts below `root`; parts of it run this very executable, whose
    /// `main` must call [`hidden_main`] first.
    ///
    /// What earlier runs left in `root` or beside it is ended first, and the directories of `root` are emptied.
    ///
    /// # Errors
    /// What [`obstacle`] says, or what the kernel refused.
    pub fn create(root: &Path, seed: u64) -> anyhow::Result<Self> {
        let executable = std::env::current_exe().context("finding this executable")?;
        Self::create_with(&executable, root, seed)
    }

    /// As [`World::create`], with another executable for the parts.
    ///
    /// # Errors
    /// As [`World::create`].
    pub fn create_with(executable: &Path, root: &Path, seed: u64) -> anyhow::Result<Self> {
        if let Some(why) = obstacle() {
            bail!(why);
        }
        fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
        let root = root.canonicalize()?;
        let cleaned = leftovers::clean(&root)?;
        for directory in ["hosts", "captures", "logs", CLIENT, WITNESS] {
            let path = root.join(directory);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("emptying {}", path.display()))?;
            }
            fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let cable = Cable::start(executable, &root.join("captures"), seed, &root.join("logs/cable.log"))?;
        let stopper = Stopper::default();
        stopper.add(cable.control()?);
        let world = Self {
            root,
            executable: executable.to_owned(),
            cleaned,
            places: Mutex::default(),
            cable_pid: cable.pid(),
            cable: Mutex::new(Some(cable)),
            stopper,
        };
        world.add(CLIENT, &[Segment::Lan], &place::lone_network(Segment::Lan, 77, 100))?;
        world.add(WITNESS, &[Segment::Mgmt], &place::lone_network(Segment::Mgmt, 79, 200))?;
        Ok(world)
    }

    /// Adds a host with the addresses 10.78.0.`number` and 10.79.0.`number` and a bridge `br0` with `lan0` and `twin0`. A
    /// host that was plugged may come back under its name, with nothing of what it had.
    ///
    /// # Errors
    /// The name or number cannot be used, or the kernel refused.
    pub fn add_host(&self, name: &str, number: u8) -> anyhow::Result<()> {
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if name.is_empty() || name.len() > 16 || !plain || name == CLIENT || name == WITNESS {
            bail!("{name:?} is no name for a host: 1 to 16 of a-z and 0-9, and not client or witness");
        }
        if !(1..100).contains(&number) {
            bail!("{number} is no number for a host: 1 to 99");
        }
        self.add(name, &Segment::ALL, &place::host_network(number))
    }

    fn add(&self, name: &str, segments: &[Segment], network: &str) -> anyhow::Result<()> {
        if lock(&self.places).contains_key(name) {
            bail!("there is a {name} already");
        }
        let log = self.root.join("logs").join(format!("{name}.init.log"));
        let directory = self.host_dir(name);
        let place = Place::start(&self.executable, name, &self.root.join("hosts"), &directory, &log)?;
        self.stopper.add(place.control()?);
        let joined = self.join(name, &place, segments, network);
        if joined.is_err() {
            // Half a host is none; what the cable had joined (perhaps nothing) goes with it.
            let _ = self.order(&Request::Remove { host: name.to_owned() });
            return joined;
        }
        lock(&self.places).insert(name.to_owned(), place);
        self.save_state()
    }

    fn join(&self, name: &str, place: &Place, segments: &[Segment], network: &str) -> anyhow::Result<()> {
        for segment in segments {
            let host = name.to_owned();
            self.order(&Request::AddPort { host, segment: *segment, pid: place.init_pid() })?;
        }
        let output = place.door()?.run(&["ip", "-batch", "-"].map(OsString::from), network, SHORT)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!(
                "setting up the network of {name} (needs iproute2, and a kernel with taps and bridges): {text}"
            );
        }
        Ok(())
    }

    fn save_state(&self) -> anyhow::Result<()> {
        let pids: Vec<u32> =
            lock(&self.places).values().map(Place::init_pid).chain([self.cable_pid]).collect();
        let processes = pids.into_iter().map(Identity::of).collect::<anyhow::Result<_>>()?;
        State { orchestrator: Identity::of(std::process::id())?, processes }.write(&self.root)
    }

    /// The directory that belongs to a place (not created by asking): the working directory of its processes.
    pub fn host_dir(&self, name: &str) -> PathBuf {
        match name {
            CLIENT | WITNESS => self.root.join(name),
            _ => self.root.join("hosts").join(name),
        }
    }

    /// The root directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The capture of a place's LAN port: `out` is what left it, `in` what was delivered to it.
    pub fn capture(&self, name: &str, direction: &str) -> PathBuf {
        self.root.join("captures").join(format!("{name}.lan.{direction}.pcap"))
    }

    /// What earlier runs had left and was ended.
    pub fn cleaned(&self) -> &[String] {
        &self.cleaned
    }

    /// Something that ends this world from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// As [`Stopper::emergency_stop`].
    pub fn emergency_stop(&self) {
        self.stopper.emergency_stop();
    }

    /// Starts a process in a place; what it prints is appended to `log`.
    ///
    /// # Errors
    /// There is no such place or program.
    pub fn spawn(&self, place: &str, label: &str, argv: &[OsString], log: &Path) -> anyhow::Result<Proc> {
        let process = self.door(place)?.spawn(label, argv, log)?;
        match lock(&self.places).get_mut(place) {
            Some(found) => found.adopt(process.clone()),
            // Its plug was pulled meanwhile, so it is dead or about to be; a plugged host that came back has another door.
            None => drop(process.wait(SHORT)?),
        }
        Ok(process)
    }

    /// Runs a command in a place and returns what it printed. It is killed after ten seconds.
    ///
    /// # Errors
    /// There is no such place or program, or it took too long. A failing command is no error: see its status.
    pub fn run(&self, place: &str, argv: &[OsString]) -> anyhow::Result<Output> {
        self.run_for(place, argv, SHORT)
    }

    /// As [`World::run`], with another limit.
    ///
    /// # Errors
    /// As [`World::run`].
    pub fn run_for(&self, place: &str, argv: &[OsString], limit: Duration) -> anyhow::Result<Output> {
        self.door(place)?.run(argv, "", limit)
    }

    /// Runs `work` on a thread in the network of a place: sockets that it opens stay there, whoever uses them.
    ///
    /// # Errors
    /// There is no such place, or what `work` answered.
    pub fn in_network<T: Send>(
        &self,
        place: &str,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> anyhow::Result<T> {
        ns::in_network(self.init_pid(place)?, work).with_context(|| format!("in the network of {place}"))
    }

    fn door(&self, place: &str) -> anyhow::Result<Door> {
        let places = lock(&self.places);
        places.get(place).with_context(|| format!("there is no place {place}"))?.door()
    }

    /// Pulls the plug of a host: cuts every cable of it in one step, *then* kills its PID namespace, *then* deletes its
    /// directory.
    ///
    /// # Errors
    /// There is no such host, or the kernel refused.
    pub fn plug(&self, name: &str) -> anyhow::Result<Plugged> {
        if name == CLIENT || name == WITNESS {
            bail!("{name} is no host");
        }
        let place = lock(&self.places).remove(name).with_context(|| format!("there is no host {name}"))?;
        let cut_ns = self.order(&Request::Cut { host: name.to_owned() })?;
        let directory = place.directory().to_owned();
        let killed_ns = place.kill()?;
        let dead_ns = ns::monotonic_ns();
        fs::remove_dir_all(&directory).with_context(|| format!("deleting {}", directory.display()))?;
        self.order(&Request::Remove { host: name.to_owned() })?;
        self.save_state()?;
        Ok(Plugged { cut_ns, killed_ns, dead_ns })
    }

    /// Kills one process and nothing else: links stay up, files stay. Returns the moment of the signal (ns).
    ///
    /// # Errors
    /// It had ended before, or does not end.
    pub fn crash(&self, process: &Proc) -> anyhow::Result<u64> {
        if !process.is_alive() {
            bail!("{} of {} had ended before it was to crash", process.label(), process.place());
        }
        let at = process.kill()?;
        if process.wait(SHORT)?.is_none() {
            bail!("{} (process {}) survives SIGKILL", process.label(), process.pid());
        }
        Ok(at)
    }

    /// Cuts every cable of a host and leaves the host alone: an isolated, living machine. Returns the moment (ns).
    ///
    /// # Errors
    /// There is no such host.
    pub fn cut(&self, name: &str) -> anyhow::Result<u64> {
        self.order(&Request::Cut { host: name.to_owned() })
    }

    /// Begins or ends a hold of a segment; returns the moment (ns).
    ///
    /// # Errors
    /// The cable is gone.
    pub fn hold(&self, segment: Segment, on: bool) -> anyhow::Result<u64> {
        self.order(&Request::Hold { segment, on })
    }

    /// Delays frames of a segment from now on, each way: `us` plus a seeded part of `jitter_us`; returns the moment (ns).
    ///
    /// # Errors
    /// The cable is gone.
    pub fn delay(&self, segment: Segment, us: u64, jitter_us: u64) -> anyhow::Result<u64> {
        self.order(&Request::Delay { segment, us, jitter_us })
    }

    /// Waits until all that was captured so far is in the files.
    ///
    /// # Errors
    /// The cable is gone.
    pub fn flush_captures(&self) -> anyhow::Result<()> {
        self.order(&Request::Flush).map(drop)
    }

    /// The cable's counters.
    ///
    /// # Errors
    /// The cable is gone.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        lock(&self.cable).as_mut().context("the world has ended")?.stats()
    }

    fn order(&self, request: &Request) -> anyhow::Result<u64> {
        lock(&self.cable).as_mut().context("the world has ended")?.order(request)
    }

    /// Files that processes of both hosts have open or mapped (programs and libraries excepted), and all that each has.
    ///
    /// # Errors
    /// One of the hosts does not exist.
    pub fn shared_files(&self, a: &str, b: &str) -> anyhow::Result<SharedFiles> {
        Ok(shared::compare(self.init_pid(a)?, self.init_pid(b)?))
    }

    /// Outer PIDs of all processes of a place, its first one included.
    ///
    /// # Errors
    /// There is no such place.
    pub fn processes(&self, place: &str) -> anyhow::Result<Vec<u32>> {
        Ok(shared::members(self.init_pid(place)?))
    }

    fn init_pid(&self, place: &str) -> anyhow::Result<u32> {
        let places = lock(&self.places);
        Ok(places.get(place).with_context(|| format!("there is no place {place}"))?.init_pid())
    }

    /// Ends everything: no process, namespace or mount is left. A second call does nothing.
    ///
    /// # Errors
    /// Something survived, or a capture is incomplete.
    pub fn finish(&self) -> anyhow::Result<()> {
        let places = std::mem::take(&mut *lock(&self.places));
        let mut outcome = Ok(());
        for place in places.into_values() {
            let ended = place.kill().map(drop);
            outcome = outcome.and(ended);
        }
        if let Some(mut cable) = lock(&self.cable).take() {
            let ended = cable.quit();
            outcome = outcome.and(ended);
        }
        if outcome.is_ok() {
            leftovers::forget(&self.root);
        }
        outcome
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("ending the drill's world: {error:#}");
        }
    }
}
