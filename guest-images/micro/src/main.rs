#![no_std]
#![no_main]
//! The micro guest: a unikernel with two services, whose kernel half is a few dozen instructions (stub.s).

extern crate alloc;

mod apic;
mod boot;
mod counters;
mod cpu;
mod disk;
mod downloads;
mod net;
mod pci;
mod peer;
mod runtime;
mod virtio;

use core::fmt::Write;
use core::net::Ipv4Addr;
use micro_guest::config::Config;
use micro_guest::log;
use micro_guest::wire::splitmix64;
use smoltcp::iface::{self, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};

use counters::Counters;
use downloads::Downloads;

/// Frames taken before the services get their turn.
const FRAMES: usize = 256;
/// A stack that wants to be polled at once, and then has nothing to do, must not keep the processor from sleeping.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// Called by stub.s in user mode, with the address of the zero page.
#[unsafe(no_mangle)]
extern "C" fn micro_main(zero_page: u64) -> ! {
    // SAFETY: stub.s passes on what the loader put into RSI.
    let boot = unsafe { boot::ZeroPage::new(zero_page) };
    boot.init_heap();
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
}

impl Guest {
    fn start(config: &Config) -> Self {
        let timer = apic::Timer::new();
        let mut disk = disk::Disk::start();
        let (store, ledger) = log::open(&mut disk).unwrap_or_else(|error| panic!("{error}"));
        let boot_id = splitmix64(splitmix64(config.seed) ^ store.boots());
        let mut nic = net::Nic::start();
        let interface = interface(config, &mut nic, boot_id);
        let mut sockets = SocketSet::new(alloc::vec![]);
        let counters = Counters::new(&mut sockets, disk, (store, ledger), boot_id);
        let downloads = Downloads::new(&mut sockets);
        let address = Ipv4Addr::from(config.address);
        // Writing to the console cannot fail.
        let _ = writeln!(cpu::Console, "micro: boot_id={boot_id:016x} ip={address} ready");
        Self { timer, nic, interface, sockets, counters, downloads }
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
        while matches!(interface.poll_egress(now, nic, sockets), PollResult::SocketStateChanged) {}
        nic.flush();
    }

    /// Sleeps until there is something to do.
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
            cpu::idle();
        }
        self.nic.awake();
        self.counters.disk().awake();
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
