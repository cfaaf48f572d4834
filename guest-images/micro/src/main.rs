#![no_std]
#![no_main]
//! The micro guest: a unikernel with a few services, whose kernel half is a few dozen instructions (stub.s).

extern crate alloc;

mod counters;
mod disk;
mod downloads;
mod peer;
mod progress;

use core::fmt::Write;
use core::net::Ipv4Addr;
use machine::apic::{self, vector};
use machine::{boot, cpu, net};
use micro_guest::config::{Config, Load};
use micro_guest::job::Job;
use micro_guest::log;
use micro_guest::wire::{Progress, splitmix64};
use smoltcp::iface::{self, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};

use counters::Counters;
use downloads::Downloads;
use progress::Reporter;

/// What the services may need at most, and some more.
const SMALLEST_HEAP: usize = 16 << 20;

/// Frames taken before the services get their turn.
const FRAMES: usize = 256;
/// A stack that wants to be polled at once, and then has nothing to do, must not keep the processor from sleeping.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// Called by stub.s in user mode, with the address of the zero page.
#[unsafe(no_mangle)]
extern "C" fn guest_main(zero_page: u64) -> ! {
    // SAFETY: stub.s passes on what the loader put into RSI.
    let boot = unsafe { boot::ZeroPage::new(zero_page) };
    boot.init_heap(SMALLEST_HEAP);
    let config = Config::parse(boot.command_line()).unwrap_or_else(|error| panic!("{error}"));
    Guest::start(&config).run()
}

struct Guest {
    timer: apic::Timer,
    nic: net::Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    counters: Counters,
    downloads: Downloads,
    reporter: Reporter,
    /// What is computed while there is nothing to serve.
    job: Option<Job>,
    started: cpu::Ns,
}

impl Guest {
    fn start(config: &Config) -> Self {
        let timer = apic::Timer::start();
        let mut disk = disk::Disk::start();
        let (store, ledger) = log::open(&mut disk).unwrap_or_else(|error| panic!("{error}"));
        let boot_id = splitmix64(splitmix64(config.seed) ^ store.boots());
        let mut nic = net::Nic::start(vector::NET);
        let interface = interface(config, &mut nic, boot_id);
        let mut sockets = SocketSet::new(alloc::vec![]);
        let counters = Counters::new(&mut sockets, disk, (store, ledger), boot_id);
        let downloads = Downloads::new(&mut sockets);
        let reporter = Reporter::new(&mut sockets);
        let job = match config.load {
            Load::Nothing => None,
            Load::Endless => Some(Job::new(config.seed, config.pages, None)),
            Load::Rounds(rounds) => Some(Job::new(config.seed, config.pages, Some(rounds))),
        };
        let address = Ipv4Addr::from(config.address);
        // Writing to the console cannot fail.
        let _ = writeln!(cpu::Console, "micro: boot_id={boot_id:016x} ip={address} ready");
        let started = cpu::now();
        Self { timer, nic, interface, sockets, counters, downloads, reporter, job, started }
    }

    fn run(mut self) -> ! {
        loop {
            if cpu::Pending::take().timer() {
                self.timer.fired();
            }
            self.work();
            self.sleep();
        }
    }

    /// Everything that can be done now: frames in, services, frames out. The disk's exit comes before the card's,
    /// so that its answer is on the way while frames are sent.
    fn work(&mut self) {
        let Self { nic, interface, sockets, .. } = self;
        let now = instant();
        for _ in 0..FRAMES {
            if matches!(interface.poll_ingress_single(now, nic, sockets), PollIngressSingleResult::None) {
                break;
            }
        }
        self.counters.work(sockets);
        self.downloads.work(sockets);
        let progress = self.job.as_ref().map_or_else(Progress::default, Job::progress);
        self.reporter.work(sockets, progress);
        while matches!(interface.poll_egress(now, nic, sockets), PollResult::SocketStateChanged) {}
        nic.flush();
    }

    /// Sleeps, or computes, until there is something to do.
    fn sleep(&mut self) {
        let now = instant();
        if let Some(delay) = self.interface.poll_delay(now, &self.sockets) {
            let delay = delay.max(SHORTEST_SLEEP);
            let now = cpu::now();
            self.timer.arm(now, now + delay.total_micros() * 1000);
        }
        // Interrupts on first, then a last look: what comes after the look is noted and ends the sleep at once.
        let quiet = self.nic.may_sleep();
        if self.counters.disk().may_sleep() && quiet {
            match &mut self.job {
                Some(job) if !job.is_over() => compute(job, self.started),
                _ => cpu::idle(),
            }
        }
        self.nic.awake();
        self.counters.disk().awake();
    }
}

/// Computes until an interrupt was noted or the job is over, which is then said.
fn compute(job: &mut Job, started: cpu::Ns) {
    job.run(cpu::interrupted);
    if job.is_over() {
        let Progress { rounds, hash } = job.progress();
        // The first bytes are exits, at which the host tells the time. Writing to the console cannot fail.
        let _ = write!(cpu::Console, "micro: job ");
        let ns = cpu::now() - started;
        let _ = writeln!(cpu::Console, "{rounds} rounds hash={hash:016x} ns={ns}");
    }
}

fn instant() -> Instant {
    Instant::from_micros((cpu::now() / 1000) as i64)
}

fn interface(config: &Config, nic: &mut net::Nic, boot_id: u64) -> Interface {
    let mut settings = iface::Config::new(HardwareAddress::Ethernet(EthernetAddress(nic.mac())));
    // Sequence numbers differ from boot to boot: a client's old connections are not mistaken for new ones.
    settings.random_seed = splitmix64(boot_id);
    let mut interface = Interface::new(settings, nic, instant());
    interface.update_ip_addrs(|addresses| {
        let address = Ipv4Cidr::new(Ipv4Addr::from(config.address), config.prefix);
        addresses.push(IpCidr::Ipv4(address)).expect("the list is empty and has room for two");
    });
    interface
}
