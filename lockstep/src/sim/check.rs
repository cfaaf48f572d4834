//! What must hold, judged from outside: by what crosses the borders of the code under test, and by looking
//! at machines and disks directly.

use std::collections::{BTreeMap, VecDeque};

use super::guest::SECTOR;
use super::host::Host;
use super::world::{HOSTS, PAIR, World};
use crate::arbiter::Record;
use crate::core::{Input, Output, RoleKind, Session};
use crate::log::{Effect, EffectsDigest, Epoch};
use crate::machine::{Command, Delivery, Report};
use crate::message::Message;

/// What is known of one host's outputs.
#[derive(Default)]
struct Watch {
    /// It writes a log: what leaves needs an acknowledgement.
    logs: bool,
    /// Frames that the guest has sent and that have not left, with their epoch once that is sealed.
    frames: VecDeque<(Option<Epoch>, Vec<u8>)>,
    /// The newest acknowledgement that it received.
    acked: Epoch,
    /// The epoch's effects so far, and those of sealed epochs.
    effects: EffectsDigest,
    sealed_effects: BTreeMap<Epoch, u128>,
    /// The newest epoch that it compared as a secondary.
    compared: Epoch,
    differs: Option<Epoch>,
}

/// The checkers' memory.
#[derive(Default)]
pub(crate) struct Checker {
    watches: [Watch; HOSTS],
}

impl Checker {
    pub(crate) fn host_started(&mut self, host: usize) {
        self.watches[host] = Watch::default();
    }
}

impl World {
    /// Before a host's core takes an input.
    pub(crate) fn check_input(&mut self, host: usize, input: &Input) {
        let watch = &mut self.check.watches[host];
        match input {
            Input::Machine(Report::FillFinished { .. }) => {
                *watch = Watch { logs: true, ..Watch::default() };
            }
            Input::Machine(Report::Adopted { .. }) => {
                *watch = Watch::default();
                self.hosts[host].ghost = None;
            }
            Input::Machine(Report::Effects(effects)) => {
                for effect in effects {
                    watch.effects.add(effect);
                    if let Effect::Frame { frame, .. } = effect
                        && watch.logs
                    {
                        watch.frames.push_back((None, frame.clone()));
                    }
                }
            }
            Input::Machine(Report::Sealed(sealed)) => {
                for (epoch, _) in &mut watch.frames {
                    epoch.get_or_insert(sealed.epoch);
                }
                let effects = std::mem::take(&mut watch.effects).finish();
                watch.sealed_effects.insert(sealed.epoch, effects);
                watch.sealed_effects.retain(|old, _| *old + 4 > sealed.epoch);
            }
            Input::Message { message: Message::Ack { epoch, .. }, .. } if watch.logs => {
                watch.acked = watch.acked.max(*epoch);
            }
            Input::Message { message: Message::Reopened { .. }, .. } => self.stats.reopened += 1,
            _ => {}
        }
    }

    /// Before an output of a host's core is carried out.
    pub(crate) fn check_output(&mut self, host: usize, output: &Output) {
        match output {
            Output::Machine(Command::GoLive) => {
                self.check.watches[host].logs = false;
                self.check.watches[host].frames.clear();
            }
            Output::Machine(Command::Deliver(Delivery::DiskDone { id, ok: true, data, .. }))
                if data.is_empty() =>
            {
                self.flush_completes(host, *id);
            }
            Output::Send { message: Message::Differs { epoch, .. }, .. } => {
                self.check.watches[host].differs = Some(*epoch);
            }
            Output::Send { session, message: Message::Ack { epoch, .. } } => {
                self.acknowledged(host, *session, *epoch);
            }
            Output::FrameOut { frame, .. } => self.frame_leaves(host, frame),
            _ => {}
        }
    }

    /// I1 and I4: an output of a pair needs an acknowledgement, an output of a lone host the generation.
    fn frame_leaves(&mut self, host: usize, frame: &[u8]) {
        let name = self.hosts[host].name.clone();
        let watch = &mut self.check.watches[host];
        if watch.logs {
            let acked = watch.acked;
            let text = match watch.frames.pop_front() {
                Some((Some(epoch), expected)) if epoch <= acked && expected == frame => return,
                Some((_, expected)) if expected != frame => "a frame left out of order".to_owned(),
                Some((epoch, _)) => format!("a frame of epoch {epoch:?} left, acknowledged is {acked}"),
                None => "a frame left that the guest did not send".to_owned(),
            };
            return self.violate("I1", format!("{name}: {text}"));
        }
        let holder = self.witness.records.get(PAIR).map(|record| record.holder.clone());
        if holder.as_deref() != Some(&name) {
            self.violate("I4", format!("{name} released an output, and the record names {holder:?}"));
        }
    }

    /// I3: both sides' states at the seal are equal, and so are their effects unless they were repaired.
    fn acknowledged(&mut self, host: usize, session: Session, epoch: Epoch) {
        let Some((peer, life)) = self.peer_of(session, host) else { return };
        if epoch <= self.check.watches[host].compared {
            return;
        }
        self.check.watches[host].compared = epoch;
        self.stats.epochs += 1;
        let repaired = self.check.watches[host].differs == Some(epoch);
        self.stats.repairs += u64::from(repaired);
        if self.hosts[peer].life != life {
            return;
        }
        let (Some(own), Some(theirs)) =
            (self.hosts[host].snapshots.get(&epoch), self.hosts[peer].snapshots.get(&epoch))
        else {
            let text = format!("epoch {epoch} was acknowledged, and one side has not sealed it");
            return self.violate("I3", text);
        };
        if own != theirs {
            let text = format!("epoch {epoch} was acknowledged: {}", own.differences(theirs));
            self.violate("I3", text);
        }
        let effects = |host: usize| self.check.watches[host].sealed_effects.get(&epoch).copied();
        if !repaired && effects(host) != effects(peer) {
            self.violate("I3", format!("epoch {epoch} was acknowledged, and its effects differ"));
        }
    }

    /// I5: what the guest is told is durable is so on every replica that the record names.
    fn flush_completes(&mut self, host: usize, id: u64) {
        let Some(sectors) = self.hosts[host].guest().and_then(|guest| guest.covered_by_flush(id)) else {
            return;
        };
        let in_sync = self.in_sync();
        for replica in 0..HOSTS {
            let replica = &self.hosts[replica];
            if !in_sync.contains(&replica.name) {
                continue;
            }
            let durable = |sector: u64| match &replica.ghost {
                Some(ghost) => &ghost[sector as usize * SECTOR..][..SECTOR],
                None => replica.disk.durable_sector(sector),
            };
            if let Some((sector, _)) = sectors.iter().find(|(sector, data)| durable(*sector) != data) {
                let text = format!(
                    "{} completes flush {id}, and sector {sector} is not durable on {}",
                    self.hosts[host].name, replica.name
                );
                return self.violate("I5", text);
            }
        }
    }

    /// I4: how the record may change.
    pub(crate) fn record_changed(&mut self, old: Option<&Record>, new: &Record) {
        let Some(old) = old else { return };
        let withdrawn = || {
            let holder = self.hosts.iter().find(|host| host.name == new.holder);
            holder.is_some_and(|holder| holder.local.withdrawn.contains(&old.attempt))
        };
        let fair = if new.generation == old.generation {
            new.holder == old.holder
        } else {
            new.generation == old.generation + 1 && (old.in_sync.contains(&new.holder) || withdrawn())
        };
        // A shut-down guest is booted again by whoever starts a host then, and revived by nobody.
        let starts = |host: &Host| host.name == new.holder && host.role() == Some(RoleKind::Starting);
        if !fair || old.stopped && !self.hosts.iter().any(starts) {
            self.violate("I4", format!("the record became {new:?} after {old:?}"));
        }
    }

    /// A guest that was shut down is gone on every host, and the record says so.
    pub(crate) fn check_shut_down(&mut self) {
        let stopped = self.witness.records.get(PAIR).is_some_and(|record| record.stopped);
        let gone =
            |role: Option<RoleKind>| matches!(role, None | Some(RoleKind::Starting | RoleKind::Stopped));
        if !stopped || !self.hosts.iter().all(|host| gone(host.role())) {
            let hosts: Vec<_> = self.hosts.iter().map(Host::describe).collect();
            let text = format!("the guest was shut down: {}, recorded: {stopped}", hosts.join(", "));
            self.violate("stopped", text);
        }
    }

    /// At the end, with everything healed: nothing that was answered is lost, nothing happened twice.
    pub(crate) fn check_end(&mut self) {
        self.check_counters();
        let live = self.protecting().map(|host| &self.hosts[host]);
        let Some(table) = live.and_then(|host| host.guest()).map(|guest| guest.table()) else { return };
        let mut wrong = Vec::new();
        for (request, value) in self.client.answers() {
            let found: Vec<_> = table.iter().filter(|entry| entry.request == request).collect();
            if found.len() != 1 || found[0].value != value {
                wrong.push(format!("{request:?} was answered {value}, the guest has {found:?}"));
            }
        }
        for text in wrong {
            self.violate("client", text);
        }
    }
}
