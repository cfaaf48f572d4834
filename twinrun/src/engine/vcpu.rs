//! The vCPU thread: owns machine and driver, obeys commands, returns reports. A watchdog thread kicks a guest
//! that runs past the moment at which something is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use lockstep::machine::{Command, Report};
use lockstep::runner::{Level, Limits, Runner, Wait};
use vmm::{Kicker, Vm, VmConfig};

use super::machine::PairMachine;
use crate::host::sys::monotonic_ns;

/// Nothing is due.
const NEVER: u64 = u64::MAX;

/// The other end of the vCPU thread. Dropping it ends the thread.
pub(super) struct Vcpu {
    commands: Option<Sender<Command>>,
    shared: Arc<Shared>,
    kicker: Kicker,
    threads: Vec<JoinHandle<()>>,
    watchdog: std::thread::Thread,
}

struct Shared {
    /// The thread is, or is about to be, in the guest: a command needs a kick to be noticed.
    running: AtomicBool,
    /// Host time at which the guest must be kicked.
    kick_at: AtomicU64,
    /// Host time until which the watchdog sleeps.
    asleep_until: AtomicU64,
    stop: AtomicBool,
}

impl Vcpu {
    /// Makes the machine in its own thread.
    pub(super) fn start(config: VmConfig, level: Level, reports: Sender<Report>) -> anyhow::Result<Self> {
        // Unbounded: the core bounds what it orders by windows and limits of its own.
        let (commands, orders) = unbounded();
        let (ready, made) = bounded(1);
        let shared = Arc::new(Shared {
            running: AtomicBool::new(false),
            kick_at: AtomicU64::new(NEVER),
            asleep_until: AtomicU64::new(NEVER),
            stop: AtomicBool::new(false),
        });
        let (for_watchdog, for_vcpu) = (Arc::clone(&shared), Arc::clone(&shared));
        let (kickers, kicker_of) = bounded::<Kicker>(1);
        let watchdog = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            if let Ok(kicker) = kicker_of.recv() {
                watch(&for_watchdog, &kicker);
            }
        })?;
        let watched = watchdog.thread().clone();
        let vcpu = std::thread::Builder::new().name("vcpu".to_owned()).spawn(move || {
            let vm = match Vm::new(&config) {
                Ok(vm) => vm,
                Err(error) => return drop(ready.send(Err(error))),
            };
            if ready.send(Ok(vm.kicker())).is_ok() {
                Thread { shared: for_vcpu, orders, reports, watchdog: watched }.run(vm, level);
            }
        })?;
        let made = made.recv()?;
        let threads = vec![vcpu, watchdog];
        let kicker = made?;
        kickers.send(kicker.clone())?;
        let watchdog = threads[1].thread().clone();
        Ok(Vcpu { commands: Some(commands), shared, kicker, threads, watchdog })
    }

    /// Orders something. The guest is stopped for it if it runs.
    pub(super) fn order(&self, command: Command) {
        // A replaying guest stops by itself at the next position; what only waits for its turn is no reason.
        let urgent = !matches!(
            command,
            Command::Follow(_) | Command::EarlyFrame { .. } | Command::ReadData { .. } | Command::Load(_)
        );
        if let Some(commands) = &self.commands
            && commands.send(command).is_ok()
            && urgent
            && self.shared.running.load(Ordering::SeqCst)
        {
            self.kicker.kick();
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.commands.take();
        self.kicker.kick();
        self.watchdog.unpark();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the vCPU thread or its watchdog had panicked");
            }
        }
    }
}

struct Thread {
    shared: Arc<Shared>,
    orders: Receiver<Command>,
    reports: Sender<Report>,
    watchdog: std::thread::Thread,
}

impl Thread {
    fn run(self, vm: Vm, level: Level) {
        let limits = Limits { level, ..Limits::default() };
        let mut runner = Runner::new(PairMachine(vm), limits);
        let mut out = Vec::new();
        let mut wait = Wait::Command;
        loop {
            self.shared.running.store(false, Ordering::SeqCst);
            let order = match wait {
                Wait::Again => self.orders.try_recv().ok(),
                Wait::Command => match self.orders.recv() {
                    Ok(order) => Some(order),
                    Err(_) => return,
                },
                Wait::Until(at) => {
                    let pause = Duration::from_nanos(at.saturating_sub(monotonic_ns()));
                    match self.orders.recv_timeout(pause) {
                        Ok(order) => Some(order),
                        Err(RecvTimeoutError::Timeout) => None,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            };
            // Whoever sends from here on sees that a kick is needed.
            self.shared.running.store(true, Ordering::SeqCst);
            for order in order.into_iter().chain(self.orders.try_iter()) {
                runner.command(order, monotonic_ns(), &mut out);
            }
            if self.shared.stop.load(Ordering::SeqCst) {
                return;
            }
            self.tell(&mut out);
            self.arm(runner.kick_at());
            wait = runner.turn(monotonic_ns(), &mut out);
            self.tell(&mut out);
        }
    }

    fn tell(&self, out: &mut Vec<Report>) {
        for report in out.drain(..) {
            if self.reports.send(report).is_err() {
                return;
            }
        }
    }

    fn arm(&self, at: Option<u64>) {
        let at = at.unwrap_or(NEVER);
        self.shared.kick_at.store(at, Ordering::SeqCst);
        if at < self.shared.asleep_until.load(Ordering::SeqCst) {
            self.watchdog.unpark();
        }
    }
}

fn watch(shared: &Shared, kicker: &Kicker) {
    while !shared.stop.load(Ordering::SeqCst) {
        let at = shared.kick_at.load(Ordering::SeqCst);
        let now = monotonic_ns();
        if at <= now {
            if shared.running.load(Ordering::SeqCst) {
                kicker.kick();
            }
            // Kick again only if the guest is still inside after a while.
            let again = now + 200_000;
            let _ = shared.kick_at.compare_exchange(at, again, Ordering::SeqCst, Ordering::SeqCst);
            sleep(shared, now, again);
        } else {
            sleep(shared, now, at);
        }
    }
}

fn sleep(shared: &Shared, now: u64, until: u64) {
    shared.asleep_until.store(until, Ordering::SeqCst);
    // An earlier deadline that was armed meanwhile must not be slept over.
    if shared.kick_at.load(Ordering::SeqCst) >= until {
        if until == NEVER {
            std::thread::park();
        } else {
            std::thread::park_timeout(Duration::from_nanos(until - now));
        }
    }
    shared.asleep_until.store(0, Ordering::SeqCst);
}
