//! What goes wrong: classes of faults and their rates are drawn first, then faults of these classes.

use super::disk::SimDisk;
use super::guest::Noise;
use super::world::{Event, HOSTS, MS, PAIR, World};
use crate::Ns;
use crate::core::{LocalState, RoleKind};
use crate::runner::Level;

/// Classes of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process dies; the kernel tells its peers.
    Crash,
    /// A process dies in the middle of what a step of its core ordered.
    CrashInStep,
    /// A host and its disk are gone, in silence.
    Plug,
    /// Every host loses its power.
    PowerLoss,
    /// A host stands still and wakes up later.
    Freeze,
    /// A link is silent in both directions.
    Cut,
    /// A link is silent in one direction.
    OneWay,
    /// A connection is reset.
    Reset,
    /// The witness cannot be reached by anybody.
    WitnessDown,
    /// The witness cannot be reached by one host.
    WitnessCut,
    /// The link of the pair and the witness are lost; the link comes back first.
    Hold,
}

const FAULTS: [Fault; 11] = [
    Fault::Crash,
    Fault::CrashInStep,
    Fault::Plug,
    Fault::PowerLoss,
    Fault::Freeze,
    Fault::Cut,
    Fault::OneWay,
    Fault::Reset,
    Fault::WitnessDown,
    Fault::WitnessCut,
    Fault::Hold,
];

/// Something that happens at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Start(usize),
    Inject,
    /// A direction is free again.
    Unblock(usize, usize),
    WitnessUp,
    WitnessJoin(usize),
    /// The link is back while both hold.
    HoldLink(usize, usize),
    /// Both must have resumed.
    HoldResumed(usize, usize, u64),
    HealAll,
    /// The primary dies while its guest shuts down.
    CrashPrimary,
}

/// How slow this run's hosts are: factors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Of the disks.
    pub(crate) disk: u64,
    /// Of what threads of a host tell each other.
    pub(crate) channel: u64,
}

/// What this run has in store.
#[derive(Default)]
pub(crate) struct Plan {
    classes: Vec<Fault>,
    left: u32,
    pause: Ns,
    /// From here on nothing goes wrong any more.
    pub(crate) healed_at: Option<Ns>,
    pub(crate) answered_at_healing: u64,
    /// The run ends with the guest's shutdown.
    pub(crate) shutdown: bool,
    /// When the shutdown was asked for.
    pub(crate) off_at: Option<Ns>,
    /// Until then a pair may be lost for something that was done to it.
    pub(crate) calm_at: Ns,
    /// This host was destroyed and never comes back: the spare must take its place.
    gone: Option<usize>,
}

impl World {
    /// Swarm: what can happen at all in this run.
    pub(crate) fn draw_plan(&mut self) {
        let dice = &mut self.dice.fault;
        self.noise = Noise {
            memory: dice.chance(500),
            sided: dice.chance(400),
            effects: dice.chance(300),
            control: dice.chance(300),
            busy: dice.chance(500),
            landings: dice.chance(500),
        };
        self.pace = Pace {
            disk: if dice.chance(300) { dice.range(5, 150) } else { 1 },
            channel: if dice.chance(300) { dice.range(5, 100) } else { 1 },
        };
        self.net.delay = [MS, 5 * MS, 20 * MS, 60 * MS][dice.index(4)];
        self.witness.late = if dice.chance(300) { dice.range(20, 400) } else { 0 };
        self.witness.lost = if dice.chance(300) { dice.range(20, 400) } else { 0 };
        self.client.loss = if dice.chance(500) { dice.range(5, 150) } else { 0 };
        self.plan.classes = FAULTS.into_iter().filter(|_| dice.chance(400)).collect();
        self.plan.shutdown = dice.chance(200);
        if dice.chance(60) {
            self.plan.classes.clear();
        }
        self.plan.left = if self.plan.classes.is_empty() { 0 } else { dice.range(1, 7) as u32 };
        self.plan.pause = [200 * MS, 800 * MS, 2_000 * MS][dice.index(3)];
        let spare = if dice.chance(500) { 0 } else { dice.range(100, 4_000) * MS };
        let first = dice.range(0, 2) as usize;
        let starts = [if first == 0 { 50 * MS } else { 0 }, if first == 1 { 90 * MS } else { 0 }, spare];
        let begin = dice.range(400, 1_500) * MS;
        for (host, at) in starts.into_iter().enumerate() {
            self.schedule(at, Event::Fault(Action::Start(host)));
        }
        self.schedule(begin, Event::Fault(Action::Inject));
        if self.dice.fault.chance(200) {
            self.level = Level::Checkpoint;
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.trace(|_| format!("fault: {action:?}"));
        match action {
            Action::Start(host) => self.start(host),
            Action::Inject => self.inject(),
            Action::Unblock(from, to) => {
                self.net.blocked[from][to] = self.net.blocked[from][to].saturating_sub(1);
                self.unblocked();
            }
            Action::WitnessUp => self.witness.down = self.witness.down.saturating_sub(1),
            Action::WitnessJoin(host) => {
                self.witness.cut[host] = self.witness.cut[host].saturating_sub(1);
            }
            Action::HoldLink(a, b) => self.hold_link(a, b),
            Action::HoldResumed(a, b, generation) => self.hold_resumed(a, b, generation),
            Action::HealAll => self.heal_all(),
            Action::CrashPrimary => {
                if let Some(host) = self.protecting() {
                    self.crash(host);
                }
            }
        }
    }

    fn inject(&mut self) {
        if self.plan.left == 0 {
            let calm = if self.stats.faults == 0 { 6_000 * MS } else { 0 };
            let at = self.now + calm + self.dice.fault.range(100, 1_500) * MS;
            return self.schedule(at, Event::Fault(Action::HealAll));
        }
        self.plan.left -= 1;
        let class = self.plan.classes[self.dice.fault.index(self.plan.classes.len())];
        let busy = self.inject_one(class);
        let pause = self.dice.fault.range(self.plan.pause / 8, self.plan.pause * 2);
        self.schedule(self.now + busy + pause, Event::Fault(Action::Inject));
    }

    /// Does it. Answers how long nothing else may be done.
    fn inject_one(&mut self, class: Fault) -> Ns {
        self.stats.faults += 1;
        let up = self.up();
        self.trace(|_| format!("fault: {class:?}"));
        if up.is_empty() {
            return 0;
        }
        let host = up[self.dice.fault.index(up.len())];
        let other = (host + 1 + self.dice.fault.index(HOSTS - 1)) % HOSTS;
        let time = self.fault_time();
        self.trouble(time);
        match class {
            Fault::Crash => self.crash(host),
            Fault::CrashInStep => self.hosts[host].dies_in_step = true,
            Fault::Plug => self.plug(host),
            Fault::PowerLoss => self.power_loss(),
            Fault::Freeze => {
                let until = &mut self.hosts[host].frozen_until;
                *until = (*until).max(self.now + time);
                self.trace(|world| format!("{} freezes for {} ms", world.hosts[host].name, time / MS));
            }
            Fault::Cut => self.block(&[(host, other), (other, host)], time),
            Fault::OneWay => self.block(&[(host, other)], time),
            Fault::Reset => {
                let open = self.open_sessions();
                if !open.is_empty() {
                    let session = open[self.dice.fault.index(open.len())];
                    self.reset(session);
                }
            }
            Fault::WitnessDown => {
                self.witness.down += 1;
                self.schedule(self.now + time, Event::Fault(Action::WitnessUp));
            }
            Fault::WitnessCut => {
                self.witness.cut[host] += 1;
                self.schedule(self.now + time, Event::Fault(Action::WitnessJoin(host)));
            }
            Fault::Hold => return self.hold(),
        }
        0
    }

    /// Something goes wrong for so long, and may have consequences for a while.
    pub(crate) fn trouble(&mut self, time: Ns) {
        self.plan.calm_at = self.plan.calm_at.max(self.now + time + 3_000 * MS);
    }

    /// Often near the limit of the failure detector.
    fn fault_time(&mut self) -> Ns {
        let dice = &mut self.dice.fault;
        match dice.range(0, 3) {
            0 => dice.range(20, 240) * MS,
            1 => dice.range(200, 400) * MS,
            _ => dice.range(300, 4_000) * MS,
        }
    }

    fn block(&mut self, ways: &[(usize, usize)], time: Ns) {
        for (from, to) in ways {
            self.net.blocked[*from][*to] += 1;
            self.schedule(self.now + time, Event::Fault(Action::Unblock(*from, *to)));
        }
    }

    pub(crate) fn restart_later(&mut self, host: usize) {
        if self.plan.gone == Some(host) || self.plan.off_at.is_some() {
            return;
        }
        let pause = self.dice.fault.range(200, 2_500) * MS;
        self.schedule(self.now + pause, Event::Fault(Action::Start(host)));
    }

    pub(crate) fn crash(&mut self, host: usize) {
        self.trace(|world| format!("{} crashes", world.hosts[host].name));
        self.host_gone(host, true, true);
        self.stop(host);
        self.restart_later(host);
    }

    /// The client tells the guest to power itself off; from here on nothing is started any more.
    pub(crate) fn shut_down(&mut self) {
        self.plan.off_at = Some(self.now);
        self.trouble(10_000 * MS);
        if self.dice.fault.chance(400) {
            let at = self.now + self.dice.fault.range(0, 60) * MS;
            self.schedule(at, Event::Fault(Action::CrashPrimary));
        }
    }

    /// A host may be destroyed for good only while another one could go on.
    fn plug(&mut self, host: usize) {
        let Some(record) = self.witness.records.get(PAIR).cloned() else { return };
        let in_sync = self.in_sync();
        let survives = self.hosts.iter().any(|other| {
            let local = other.local.record.as_ref();
            let withdrew = other.local.withdrawn.contains(&record.attempt);
            let current = withdrew || local.is_some_and(|local| local.generation == record.generation);
            other.index != host
                && in_sync.contains(&other.name)
                && other.ghost.is_none()
                && (other.local.consistent && current)
        });
        // A swap that is under way may still make it the only one that holds everything.
        if in_sync.contains(&self.hosts[host].name) && (!survives || self.witness.under_way[host] > 0) {
            return;
        }
        self.trace(|world| format!("{} is destroyed", world.hosts[host].name));
        self.host_gone(host, false, true);
        self.stop(host);
        let slot = &mut self.hosts[host];
        slot.ghost = Some(slot.disk.durable());
        slot.disk = SimDisk::new();
        slot.local = LocalState::default();
        if self.plan.gone.is_none() && self.up().len() == HOSTS - 1 && self.dice.fault.chance(500) {
            self.plan.gone = Some(host);
        }
        self.restart_later(host);
    }

    fn power_loss(&mut self) {
        for host in 0..HOSTS {
            self.host_gone(host, false, true);
            self.stop(host);
            self.hosts[host].disk.power_lost(&mut self.dice.fault);
            self.restart_later(host);
        }
    }

    /// The hosts of a protected pair, primary first.
    fn pair(&self) -> Option<(usize, usize)> {
        let is = |host: &usize, role| self.hosts[*host].role() == Some(role);
        let primary = self.protecting()?;
        Some((primary, (0..HOSTS).find(|host| is(host, RoleKind::Secondary))?))
    }

    fn hold(&mut self) -> Ns {
        let Some((a, b)) = self.pair() else { return 0 };
        let time = self.dice.fault.range(300, 2_000) * MS;
        self.trouble(time + 4_000 * MS);
        self.witness.down += 1;
        self.net.blocked[a][b] += 1;
        self.net.blocked[b][a] += 1;
        self.schedule(self.now + time, Event::Fault(Action::HoldLink(a, b)));
        time + 4_000 * MS
    }

    fn generation(&self) -> u64 {
        self.witness.records.get(PAIR).map_or(0, |record| record.generation)
    }

    fn hold_link(&mut self, a: usize, b: usize) {
        self.act(Action::Unblock(a, b));
        self.act(Action::Unblock(b, a));
        let holding = |host: usize| self.hosts[host].role() == Some(RoleKind::Holding);
        let free = self.net.blocked[a][b] + self.net.blocked[b][a] == 0;
        if holding(a) && holding(b) && free {
            let check = Action::HoldResumed(a, b, self.generation());
            self.schedule(self.now + 3_000 * MS, Event::Fault(check));
        }
        let up = self.now + 3_500 * MS;
        self.schedule(up, Event::Fault(Action::WitnessUp));
    }

    fn hold_resumed(&mut self, a: usize, b: usize, generation: u64) {
        let role = |host: usize| self.hosts[host].role();
        let mut roles = [role(a), role(b)];
        roles.sort_unstable();
        if roles != [Some(RoleKind::Primary), Some(RoleKind::Secondary)] || self.generation() != generation {
            let hosts = format!("{}, {}", self.hosts[a].describe(), self.hosts[b].describe());
            let text = format!("the link was back for 3 s while both held, and they did not resume: {hosts}");
            self.violate("hold", text);
        }
    }

    fn heal_all(&mut self) {
        self.trouble(0);
        self.net.blocked = Default::default();
        self.witness.down = 0;
        self.witness.cut = [0; HOSTS];
        self.witness.late = 0;
        self.witness.lost = 0;
        self.client.loss = 0;
        self.unblocked();
        for host in 0..HOSTS {
            self.hosts[host].dies_in_step = false;
        }
        self.plan.healed_at = Some(self.now);
        self.plan.answered_at_healing = self.client.answered();
        self.client.limit = u64::MAX;
    }
}
