//! Virtual time: one queue of events, in order of time and then of their making.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::Xxh3;

use super::check::Checker;
use super::client::Client;
use super::fault::{Action, Pace, Plan};
use super::guest::Noise;
use super::host::Host;
use super::net::Net;
use super::rng::Dice;
use super::witness::Witness;
use super::{Options, Outcome, Stats, Violation};
use crate::Ns;
use crate::arbiter::{Answer, Ask};
use crate::core::{DiskCommand, Input, LocalState, RoleKind, Session};
use crate::machine::Command;
use crate::runner::Level;

pub(crate) const US: Ns = 1_000;
pub(crate) const MS: Ns = 1_000_000;
/// Hosts in the configuration; the last is a spare.
pub(crate) const HOSTS: usize = 3;
pub(crate) const NAMES: [&str; HOSTS] = ["alpha", "beta", "gamma"];
pub(crate) const PAIR: &str = "sim";
/// After healing, a protected pair that answers its client must stand within this time.
const HEALED_LIMIT: Ns = 30_000 * MS;
/// A guest that is told to shut down must be gone, for good, within this time.
const SHUT_DOWN_LIMIT: Ns = 4_000 * MS;
/// Requests that must be made and answered after healing.
const AFTER_HEALING: u64 = 8;
/// More events mean that something runs in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// More violations tell nothing new.
const VIOLATIONS_MAX: usize = 20;

/// What will happen.
pub(crate) enum Event {
    /// Something reaches a host's core.
    Core {
        host: usize,
        life: u32,
        input: Input,
    },
    /// The core's deadline.
    Tick {
        host: usize,
        life: u32,
        token: u64,
    },
    /// An order reaches the driver.
    Command {
        host: usize,
        life: u32,
        command: Command,
    },
    /// The driver works.
    Turn {
        host: usize,
        life: u32,
        token: u64,
    },
    /// An order reaches the disk thread.
    Disk {
        host: usize,
        life: u32,
        command: DiskCommand,
    },
    /// The durable state is written.
    Written {
        host: usize,
        life: u32,
        ticket: u64,
        state: LocalState,
    },
    Pump {
        session: Session,
        side: usize,
    },
    Beat {
        session: Session,
        side: usize,
    },
    Heard {
        session: Session,
        side: usize,
    },
    Dial {
        host: usize,
        life: u32,
    },
    Connect {
        from: (usize, u32),
        to: (usize, u32),
    },
    /// A question leaves its host.
    Ask {
        host: usize,
        life: u32,
        ticket: u64,
        ask: Ask,
    },
    Asked {
        host: usize,
        life: u32,
        ticket: u64,
        bytes: Vec<u8>,
    },
    Answered {
        host: usize,
        life: u32,
        ticket: u64,
        answer: Answer,
    },
    AskLimit {
        host: usize,
        life: u32,
        ticket: u64,
    },
    Client,
    Reply {
        frame: Vec<u8>,
    },
    /// A fault begins or ends.
    Fault(Action),
}

/// Independent streams of chance.
pub(crate) struct DiceSet {
    pub(crate) net: Dice,
    pub(crate) client: Dice,
    pub(crate) host: Dice,
    pub(crate) fault: Dice,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) options: Options,
    pub(crate) now: Ns,
    queue: BTreeMap<(Ns, u64), Event>,
    sequence: u64,
    pub(crate) dice: DiceSet,
    pub(crate) hosts: Vec<Host>,
    pub(crate) net: Net,
    pub(crate) witness: Witness,
    pub(crate) client: Client,
    pub(crate) plan: Plan,
    pub(crate) check: Checker,
    pub(crate) noise: Noise,
    pub(crate) level: Level,
    pub(crate) pace: Pace,
    pub(crate) stats: Stats,
    pub(crate) transitions: BTreeSet<(RoleKind, RoleKind)>,
    /// The run came to its end.
    finished: bool,
    violations: Vec<Violation>,
    digest: Xxh3,
    lines: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let dice = DiceSet {
            net: Dice::new(seed, 1),
            client: Dice::new(seed, 2),
            host: Dice::new(seed, 3),
            fault: Dice::new(seed, 4),
        };
        let mut world = World {
            seed,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            dice,
            hosts: Vec::new(),
            net: Net::default(),
            witness: Witness::default(),
            client: Client::default(),
            plan: Plan::default(),
            check: Checker::default(),
            noise: Noise::default(),
            level: Level::Lockstep,
            pace: Pace { disk: 1, channel: 1 },
            stats: Stats::default(),
            transitions: BTreeSet::new(),
            finished: false,
            violations: Vec::new(),
            digest: Xxh3::new(),
            lines: Vec::new(),
            options,
        };
        for (index, name) in NAMES.iter().enumerate() {
            let host = Host::new(&mut world, index, name);
            world.hosts.push(host);
        }
        world.client.limit = u64::from(world.options.requests);
        world.draw_plan();
        world
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Outcome {
        self.schedule(0, Event::Client);
        while !self.is_over() && !self.is_late() {
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            self.now = at;
            self.stats.events += 1;
            if self.stats.events > EVENTS_MAX || self.violations.len() >= VIOLATIONS_MAX {
                break;
            }
            self.dispatch(event);
        }
        self.end()
    }

    fn end(mut self) -> Outcome {
        if !self.finished && self.violations.is_empty() {
            let hosts: Vec<_> = self.hosts.iter().map(Host::describe).collect();
            let text = format!(
                "after {} events: {}; {} requests unanswered; record {:?}",
                self.stats.events,
                hosts.join(", "),
                self.client.outstanding(),
                self.witness.records.get(PAIR)
            );
            self.violate("progress", text);
        }
        self.stats.virtual_ns = self.now;
        self.stats.requests = self.client.answered();
        let digest = self.digest.digest128();
        Outcome {
            ok: self.violations.is_empty(),
            violations: self.violations,
            stats: self.stats,
            transitions: self.transitions,
            digest,
            trace: self.lines,
        }
    }

    /// Healed, protected, and everything is answered.
    fn is_finished(&self) -> bool {
        self.plan.healed_at.is_some()
            && self.client.answered() >= self.plan.answered_at_healing + AFTER_HEALING
            && self.client.quiet
            && self.client.outstanding() == 0
            && self.protecting().is_some()
    }

    fn is_late(&self) -> bool {
        let healed = self.plan.healed_at.filter(|_| self.plan.off_at.is_none());
        healed.is_some_and(|at| self.now >= at + HEALED_LIMIT)
    }

    /// The end of a run: with the guest shut down, in some.
    fn is_over(&mut self) -> bool {
        if self.plan.off_at.is_none() && self.is_finished() {
            self.check_end();
            if !self.plan.shutdown {
                self.finished = true;
                return true;
            }
            self.shut_down();
        }
        let over = self.plan.off_at.is_some_and(|at| self.now >= at + SHUT_DOWN_LIMIT);
        if over {
            self.check_shut_down();
            self.finished = true;
        }
        over
    }

    /// After healing the client makes some more requests, and then no more.
    pub(crate) fn quieten(&mut self) {
        let answered = self.client.answered();
        if self.plan.healed_at.is_some() && answered >= self.plan.answered_at_healing + AFTER_HEALING {
            self.client.quiet = true;
        }
    }

    pub(crate) fn schedule(&mut self, at: Ns, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    pub(crate) fn violate(&mut self, rule: &'static str, text: String) {
        self.trace(|_| format!("VIOLATION {rule}: {text}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { rule, at: self.now, text });
        }
    }

    /// A readable line, if anybody reads.
    pub(crate) fn trace(&mut self, line: impl FnOnce(&World) -> String) {
        if self.options.trace {
            let line = format!("{:>12.6} {}", self.now as f64 / 1e9, line(self));
            self.lines.push(line);
        }
    }

    /// Enters the run's digest.
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        self.digest.update(&self.now.to_le_bytes());
        self.digest.update(bytes);
    }

    pub(crate) fn is_alive(&self, host: usize, life: u32) -> bool {
        self.hosts[host].is_up() && self.hosts[host].life == life
    }

    /// The host that an event belongs to, which may be frozen.
    fn owner(&self, event: &Event) -> Option<(usize, u32)> {
        match event {
            Event::Core { host, life, .. }
            | Event::Tick { host, life, .. }
            | Event::Command { host, life, .. }
            | Event::Turn { host, life, .. }
            | Event::Disk { host, life, .. }
            | Event::Written { host, life, .. }
            | Event::Dial { host, life }
            | Event::Ask { host, life, .. }
            | Event::Answered { host, life, .. }
            | Event::AskLimit { host, life, .. } => Some((*host, *life)),
            Event::Connect { from, .. } => Some(*from),
            Event::Pump { session, side }
            | Event::Beat { session, side }
            | Event::Heard { session, side } => {
                let end = &self.net.sessions[*session as usize - 1][*side];
                Some((end.host, end.life))
            }
            Event::Asked { .. } | Event::Client | Event::Reply { .. } | Event::Fault(_) => None,
        }
    }

    fn dispatch(&mut self, event: Event) {
        if let Some((host, life)) = self.owner(&event) {
            if !self.is_alive(host, life) {
                return;
            }
            let until = self.hosts[host].frozen_until;
            if until > self.now {
                return self.schedule(until, event);
            }
        }
        match event {
            Event::Core { host, input, .. } => self.step(host, input),
            Event::Tick { host, token, .. } => self.tick(host, token),
            Event::Command { host, command, .. } => self.order_arrived(host, command),
            Event::Turn { host, token, .. } => self.turn(host, token),
            Event::Disk { host, command, .. } => self.disk(host, command),
            Event::Written { host, ticket, state, .. } => self.written(host, ticket, state),
            Event::Pump { session, side } => self.pump(session, side),
            Event::Beat { session, side } => self.beat(session, side),
            Event::Heard { session, side } => self.heard(session, side),
            Event::Dial { host, .. } => self.dial(host),
            Event::Connect { from, to } => self.connect(from, to),
            Event::Ask { host, ticket, ask, .. } => self.ask(host, ticket, &ask),
            Event::Asked { host, life, ticket, bytes } => self.asked(host, life, ticket, &bytes),
            Event::Answered { host, ticket, answer, .. } => self.answered(host, ticket, Some(answer)),
            Event::AskLimit { host, ticket, .. } => self.answered(host, ticket, None),
            Event::Client => {
                self.quieten();
                self.client_tick();
            }
            Event::Reply { frame } => self.reply(&frame),
            Event::Fault(action) => self.act(action),
        }
    }
}
