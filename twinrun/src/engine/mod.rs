//! A running host: one thread owns the core and moves everything between it and the outside.
//!
//! ```text
//!  tap reader ─┐                             ┌─▶ tap (frames out)
//!  links ──────┤                             ├─▶ links (messages)
//!  vCPU ───────┼─▶ engine thread: the core ──┼─▶ vCPU thread (commands)
//!  disk ───────┤                             ├─▶ disk thread
//!  arbiter ────┘                             └─▶ arbiter client, state directory, journal
//! ```

mod announce;
mod machine;
mod vcpu;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, bounded, never, select_biased, unbounded};
use lockstep::arbiter::Answer;
use lockstep::core::{Config as CoreConfig, Core, DiskReport, ExitReason, Input, Notice, Output, Timing};
use lockstep::edge::link::{LinkConfig, LinkEvent, Links, Peer};
use lockstep::edge::witness::{WitnessClient, WitnessClientConfig};
use lockstep::machine::Report;
use lockstep::message::Identity;
use serde_json::{Value, json};
use vmm::{Vm, VmConfig};

use crate::config::{Arbiter, Loaded};
use crate::control::Control;
use crate::host::disk::{Disk, DiskThread};
use crate::host::state::{Journal, StateDir};
use crate::host::sys::monotonic_ns;
use crate::host::tap::{Tap, TapReader};
use announce::Announcer;
use vcpu::Vcpu;

/// Frames from the outside that wait for the engine; more are dropped, as a network card does.
const FRAMES_MAX: usize = 512;
/// How long a host that is asked for its status may take.
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// Time between two attempts to reach a peer.
const REDIAL: Duration = Duration::from_millis(200);
/// How long one question to the arbiter may take.
const ASK_LIMIT: Duration = Duration::from_millis(400);

/// What lasts longer than one life of the host: its state directory, taps, journal and control socket.
pub(crate) struct Host<'a> {
    loaded: &'a Loaded,
    name: &'a str,
    state: StateDir,
    journal: Journal,
    taps: Vec<Tap>,
    /// The last thing that a person would want to know.
    last_notice: String,
    /// The last link that was refused since this life began, and why.
    refusal: Option<String>,
    asked: Receiver<Sender<Value>>,
    _control: Control,
}

impl<'a> Host<'a> {
    /// Opens everything that this host lends.
    pub(crate) fn open(loaded: &'a Loaded, name: &'a str, journal: Option<&PathBuf>) -> anyhow::Result<Self> {
        let host = loaded.config.hosts.get(name).context("the host was chosen from the file")?;
        let file = loaded.config.file.display();
        // Nothing is made on this host before what it lends is known to be there.
        let taps = host.taps.iter().map(|name| Tap::open(name)).collect::<Result<Vec<_>, _>>();
        let taps = taps.with_context(|| format!("{file}: hosts.{name}.taps"))?;
        drop(disks(loaded, name)?);
        let state = StateDir::open(&host.state).with_context(|| format!("{file}: hosts.{name}.state"))?;
        let usual = state.journal();
        let journal = Journal::open(journal.unwrap_or(&usual))?;
        let (ask, asked) = bounded::<Sender<Value>>(16);
        let source = move || {
            let (answer, answered) = bounded(1);
            let asked = ask.send_timeout(answer, STATUS_LIMIT).ok();
            let value = asked.and_then(|()| answered.recv_timeout(STATUS_LIMIT).ok());
            value.unwrap_or_else(|| json!({"schema": "twinrun.status/1", "role": "unknown"}))
        };
        let control = Control::start(&state.socket(), Arc::new(source))?;
        let (last_notice, refusal) = (String::new(), None);
        Ok(Host { loaded, name, state, journal, taps, last_notice, refusal, asked, _control: control })
    }

    /// One life: from looking for a live host until this one ends or lost the pair to another.
    pub(crate) fn live(&mut self) -> anyhow::Result<ExitReason> {
        self.refusal = None;
        Engine::start(self)?.run()
    }

    /// Why the last link of this life was refused, if one was.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

/// The disk images of this host, locked.
fn disks(loaded: &Loaded, name: &str) -> anyhow::Result<Vec<Disk>> {
    let images = loaded.config.hosts[name].disks.iter().map(|path| Disk::open(path));
    let file = loaded.config.file.display();
    images.collect::<Result<Vec<_>, _>>().with_context(|| format!("{file}: hosts.{name}.disks"))
}

struct Engine<'h, 'a> {
    host: &'h mut Host<'a>,
    core: Core,
    vcpu: Vcpu,
    disks: DiskThread,
    links: Links,
    arbiter: WitnessClient,
    announcer: Announcer,
    inputs: Inputs,
    _readers: Vec<TapReader>,
    /// The next frame out is the first since a takeover.
    first_frame: bool,
    exit: Option<ExitReason>,
}

/// Where the engine's inputs come from.
struct Inputs {
    reports: Receiver<Report>,
    disk: Receiver<DiskReport>,
    links: Receiver<LinkEvent>,
    frames: Receiver<(u8, Vec<u8>)>,
    answers: Receiver<(u64, Option<Answer>)>,
}

enum Event {
    Input(Input),
    Refused { peer: String, why: String },
    Status(Sender<Value>),
    Nothing,
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut source = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<'h, 'a> Engine<'h, 'a> {
    fn start(host: &'h mut Host<'a>) -> anyhow::Result<Self> {
        let config = &host.loaded.config;
        let own = &config.hosts[host.name];
        let images = disks(host.loaded, host.name)?;
        let sectors: Vec<u64> = images.iter().map(Disk::sectors).collect();

        let (report, reports) = unbounded();
        let seed = u64::from_le_bytes(random()?);
        let vm = VmConfig {
            memory_mib: config.guest.memory_mib,
            kernel: config.guest.kernel.clone(),
            initrd: None,
            cmdline: format!("{} seed={seed:016x}", config.guest.cmdline),
            platform: devices::PlatformConfig {
                macs: config.guest.nics.clone(),
                disks: sectors.clone(),
                ..devices::PlatformConfig::default()
            },
        };
        let vcpu = Vcpu::start(vm, config.level, report)?;
        let (disk_report, disk) = unbounded();
        let disks = DiskThread::start(images, disk_report)?;

        let (link_event, links_in) = unbounded();
        let peers = config.hosts.iter().filter(|(name, _)| *name != host.name);
        let peers = peers.map(|(name, host)| Peer { name: name.clone(), addrs: host.link.clone() }).collect();
        let links = Links::start(
            LinkConfig {
                host: host.name.to_owned(),
                pair: config.pair.clone(),
                secret: host.loaded.pair_secret.0,
                listen: own.link.clone(),
                peers,
                heartbeat: config.timing.heartbeat,
                redial: REDIAL,
            },
            link_event,
        )?;
        let (answer, answers) = unbounded();
        let Arbiter::Witness { address, .. } = &config.arbiter;
        let secret = host.loaded.witness_secret.0;
        let client = WitnessClientConfig { addr: *address, secret, timeout: ASK_LIMIT };
        let arbiter = WitnessClient::start(client, answer)?;

        let (frame, frames) = bounded(FRAMES_MAX);
        let readers = host.taps.iter().zip(0u8..).map(|(tap, nic)| tap.start_reader(nic, frame.clone()));
        let readers = readers.collect::<Result<Vec<_>, _>>()?;
        let (core, first) = Core::new(core_config(host, sectors)?, host.state.load()?, monotonic_ns());
        let announcer = Announcer::new(&config.guest.nics);
        let inputs = Inputs { reports, disk, links: links_in, frames, answers };
        let mut engine = Engine {
            host,
            core,
            vcpu,
            disks,
            links,
            arbiter,
            announcer,
            inputs,
            _readers: readers,
            first_frame: false,
            exit: None,
        };
        engine.obey(first)?;
        Ok(engine)
    }

    fn run(mut self) -> anyhow::Result<ExitReason> {
        loop {
            if let Some(reason) = self.exit.take() {
                return Ok(reason);
            }
            match self.next() {
                Event::Input(input) => self.step(input)?,
                Event::Refused { peer, why } => self.refused(&peer, &why),
                Event::Status(answer) => drop(answer.try_send(self.status())),
                Event::Nothing => {}
            }
            let now = monotonic_ns();
            if self.core.next_deadline().is_some_and(|at| at <= now) {
                self.step(Input::Tick)?;
            }
            self.announcer.run(now, &self.host.taps);
        }
    }

    /// The next event; nothing when a deadline comes first.
    fn next(&self) -> Event {
        let at = self.core.next_deadline().into_iter().chain(self.announcer.next()).min();
        let timeout = at.map_or_else(never, |at| {
            crossbeam_channel::after(Duration::from_nanos(at.saturating_sub(monotonic_ns())))
        });
        let inputs = &self.inputs;
        select_biased! {
            recv(inputs.reports) -> report => {
                let gone = || Report::Failed("the vCPU thread is gone".to_owned());
                Event::Input(Input::Machine(report.unwrap_or_else(|_| gone())))
            }
            recv(inputs.links) -> event => event.map_or(Event::Nothing, link_event),
            recv(inputs.disk) -> report => report.map_or(Event::Nothing, |r| Event::Input(Input::Disk(r))),
            recv(inputs.answers) -> answer => answer.map_or(Event::Nothing, |(ticket, answer)| {
                Event::Input(Input::Arbiter { ticket, answer })
            }),
            recv(inputs.frames) -> frame => frame.map_or(Event::Nothing, |(nic, frame)| {
                Event::Input(Input::FrameIn { nic, frame })
            }),
            recv(self.host.asked) -> answer => answer.map_or(Event::Nothing, Event::Status),
            recv(timeout) -> _ => Event::Nothing,
        }
    }

    fn step(&mut self, input: Input) -> anyhow::Result<()> {
        let outputs = self.core.step(input, monotonic_ns());
        self.obey(outputs)
    }

    fn obey(&mut self, outputs: Vec<Output>) -> anyhow::Result<()> {
        let mut later = Vec::new();
        for output in outputs {
            match output {
                Output::Machine(command) => self.vcpu.order(command),
                Output::Send { session, message } => {
                    // A session that is over reports itself.
                    let _ = self.links.send(session, &message);
                }
                Output::Close { session } => self.links.close(session),
                Output::Dial(on) => self.links.dial(on),
                Output::FrameOut { nic, frame } => self.frame_out(nic, &frame),
                Output::Console(bytes) => console(&bytes),
                Output::Announce => {
                    self.first_frame = true;
                    self.announcer.begin(monotonic_ns());
                    self.announcer.run(monotonic_ns(), &self.host.taps);
                }
                Output::Disk(command) => self.disks.send(command),
                Output::Ask { ticket, ask } => self.arbiter.ask(ticket, ask),
                Output::Persist { ticket, state } => {
                    self.host.state.save(&state)?;
                    later.push(Input::Persisted { ticket });
                }
                Output::Notice(notice) => self.notice(&notice),
                Output::Exit(reason) => self.exit = Some(reason),
            }
        }
        for input in later {
            self.step(input)?;
        }
        Ok(())
    }

    fn frame_out(&mut self, nic: u8, frame: &[u8]) {
        if let Some(tap) = self.host.taps.get(usize::from(nic)) {
            tap.send(frame);
        }
        if self.first_frame {
            self.first_frame = false;
            self.core.first_frame_left(monotonic_ns());
        }
    }

    fn notice(&mut self, notice: &Notice) {
        tracing::info!(event = notice.event, generation = notice.generation, "{}", notice.text);
        if let Err(error) = self.host.journal.append(notice) {
            tracing::warn!("the journal cannot be written: {error}");
        }
        self.host.last_notice.clone_from(&notice.text);
    }

    fn refused(&mut self, peer: &str, why: &str) {
        let generation = self.core.status(monotonic_ns()).generation;
        let text = format!("{peer}: {why}");
        self.host.refusal = Some(text.clone());
        self.notice(&Notice { event: "link-refused", generation, text, at: monotonic_ns() });
    }

    fn status(&self) -> Value {
        let status = self.core.status(monotonic_ns());
        let mut value =
            serde_json::to_value(&status).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let counters = self.links.counters();
        value["link"] =
            json!({ "bytes_sent": counters.bytes_sent, "bytes_received": counters.bytes_received });
        value["level"] = json!(self.host.loaded.config.level.name());
        value["last_notice"] = json!(self.host.last_notice);
        if let Some(trouble) = self.arbiter.trouble() {
            value["arbiter_trouble"] = json!(trouble);
        }
        value
    }
}

fn link_event(event: LinkEvent) -> Event {
    Event::Input(match event {
        LinkEvent::Up { session, peer, dialed } => Input::LinkUp { session, peer, dialed },
        LinkEvent::Down { session } => Input::LinkDown { session },
        LinkEvent::Message { session, message } => Input::Message { session, message },
        LinkEvent::Heard { session } => Input::Heard { session },
        LinkEvent::Refused { peer, why } => return Event::Refused { peer, why },
    })
}

fn core_config(host: &Host<'_>, disks: Vec<u64>) -> anyhow::Result<CoreConfig> {
    let config = &host.loaded.config;
    let rank = config.hosts.keys().position(|name| name == host.name).unwrap_or(0);
    Ok(CoreConfig {
        host: host.name.to_owned(),
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        identity: Identity {
            pair: config.pair.clone(),
            table: Vm::table_digest(),
            guest: host.loaded.kernel_digest,
            settings: config.shared(),
            pages: config.guest.memory_mib * 256,
            disks,
        },
        timing: Timing {
            silence: nanos(config.timing.silence),
            no_ack: nanos(config.timing.no_ack),
            ..Timing::default()
        },
        attempt_base: u128::from_le_bytes(random()?),
        #[cfg(feature = "sabotage")]
        sabotage: sabotage()?,
    })
}

/// Which fault to commit; the code exists only in a binary that was built to prove that a drill sees it.
#[cfg(feature = "sabotage")]
fn sabotage() -> anyhow::Result<Option<lockstep::core::Sabotage>> {
    use lockstep::core::Sabotage;
    Ok(match std::env::var("TWINRUN_SABOTAGE").as_deref() {
        Ok("release-early") => Some(Sabotage::ReleaseEarly),
        Ok("no-arbitration") => Some(Sabotage::NoArbitration),
        Ok(other) => anyhow::bail!("TWINRUN_SABOTAGE={other} is unknown: release-early or no-arbitration"),
        Err(_) => None,
    })
}

/// The guest's console goes to standard output until a console of its own exists.
fn console(bytes: &[u8]) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // A closed terminal must not stop the guest.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}
