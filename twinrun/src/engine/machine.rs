//! `vmm`'s machine as `lockstep` sees it: the same things under the names of either room.

use lockstep::Ns;
use lockstep::log::{Effect, ExitKind, Page};
use lockstep::machine::{Landing, Machine, MachineFailure, PageBytes, Stimulus, Stop};
use vmm::Vm;

use crate::host::sys::thread_time_ns;

/// A virtual machine that obeys the pair. It is used from one thread, whose processor time is the guest's.
pub(super) struct PairMachine(pub(super) Vm);

fn failure(error: impl std::error::Error) -> MachineFailure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    MachineFailure(text)
}

fn exit_kind(kind: vmm::ExitKind) -> ExitKind {
    match kind {
        vmm::ExitKind::Pio => ExitKind::Pio,
        vmm::ExitKind::Mmio => ExitKind::Mmio,
        vmm::ExitKind::Msr => ExitKind::Msr,
        vmm::ExitKind::Halt => ExitKind::Halt,
        vmm::ExitKind::Window => ExitKind::Window,
    }
}

fn stop(stop: vmm::Stop) -> Stop {
    match stop {
        vmm::Stop::Exit(kind) => Stop::Exit(exit_kind(kind)),
        vmm::Stop::Kicked => Stop::Kicked,
        vmm::Stop::Shutdown => Stop::Shutdown,
    }
}

fn reached(reached: vmm::Reached) -> Stop {
    match reached {
        vmm::Reached::Stop(found) => stop(found),
        vmm::Reached::Landing(vmm::Landing { page, rip }) => Stop::Landing(Landing { page, rip }),
        vmm::Reached::Missed(_) => Stop::Missed,
    }
}

/// What the pair makes of a device's effect. It has no source of entropy yet, and takes no note of panics: such
/// a request stays unanswered.
fn effect(effect: devices::Effect) -> Option<Effect> {
    Some(match effect {
        devices::Effect::Frame { nic, frame } => Effect::Frame { nic, frame },
        devices::Effect::DiskRead { disk, id, sector, len } => Effect::DiskRead { disk, id, sector, len },
        devices::Effect::DiskWrite { disk, sector, data } => Effect::DiskWrite { disk, sector, data },
        devices::Effect::DiskFlush { disk, id } => Effect::DiskFlush { disk, id },
        devices::Effect::Console(bytes) => Effect::Console(bytes),
        devices::Effect::Reset => Effect::Reset,
        devices::Effect::PowerOff => Effect::PowerOff,
        devices::Effect::Entropy { .. } | devices::Effect::GuestPanicked => return None,
    })
}

fn stimulus(stimulus: &Stimulus) -> devices::Stimulus {
    match stimulus {
        Stimulus::Time(time) => devices::Stimulus::Time(*time),
        Stimulus::Frame { nic, frame } => devices::Stimulus::Frame { nic: *nic, frame: frame.clone() },
        Stimulus::DiskDone { disk, id, ok, data } => {
            devices::Stimulus::DiskDone { disk: *disk, id: *id, ok: *ok, data: data.clone() }
        }
    }
}

impl Machine for PairMachine {
    fn run(&mut self) -> Result<Stop, MachineFailure> {
        self.0.run().map(stop).map_err(failure)
    }

    fn has_landings(&self) -> bool {
        self.0.capabilities().landing
    }

    fn seek(&mut self) -> Result<Stop, MachineFailure> {
        self.0.seek().map(reached).map_err(failure)
    }

    fn find(&mut self, landing: Landing, unseen: u32) -> Result<Stop, MachineFailure> {
        let Landing { page, rip } = landing;
        self.0.find(vmm::Landing { page, rip }, unseen).map(reached).map_err(failure)
    }

    fn protect(&mut self, pages: &[Page]) -> Result<(), MachineFailure> {
        self.0.protect(pages).map_err(failure)
    }

    fn first_stores(&mut self) -> Result<u64, MachineFailure> {
        self.0.first_stores().map_err(failure)
    }

    fn open_pages(&mut self) -> Result<Vec<Page>, MachineFailure> {
        self.0.open_pages().map_err(failure)
    }

    fn waits(&self) -> bool {
        self.0.waits()
    }

    fn place(&mut self, what: &Stimulus) -> Result<(), MachineFailure> {
        self.0.place(&stimulus(what)).map_err(failure)
    }

    fn reevaluate(&mut self) {
        self.0.reevaluate();
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        self.0.take_effects().into_iter().filter_map(effect).collect()
    }

    fn outstanding_disk(&self) -> Vec<Effect> {
        self.0.outstanding_disk().into_iter().filter_map(effect).collect()
    }

    fn run_time(&self) -> Ns {
        thread_time_ns()
    }

    fn next_deadline(&self) -> Option<Ns> {
        self.0.next_deadline()
    }

    fn guest_now(&self) -> Ns {
        self.0.now()
    }

    fn page_count(&self) -> Page {
        self.0.page_count()
    }

    fn take_dirty(&mut self) -> Result<Vec<Page>, MachineFailure> {
        self.0.take_dirty().map_err(failure)
    }

    fn read_page(&self, page: Page, out: &mut PageBytes) {
        self.0.read_page(page, out);
    }

    fn write_page(&mut self, page: Page, bytes: &PageBytes) {
        self.0.write_page(page, bytes);
    }

    fn save(&mut self) -> Result<Vec<u8>, MachineFailure> {
        self.0.save().map_err(failure)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), MachineFailure> {
        self.0.restore(state).map_err(failure)
    }

    fn boot(&mut self) -> Result<(), MachineFailure> {
        self.0.boot().map_err(failure)
    }
}
