//! Running the vCPU.

use std::sync::Arc;

use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::area::RunArea;
use super::kick::KickState;
use super::landing::{Landings, MAIN_SLOT, Quarry};
use super::{ext, io_error, state};
use crate::error::VcpuError;
use crate::memory::Ram;
use crate::table::cpuid::Vendor;
use crate::vcpu::{Answer, Capabilities, CpuState, Kicker, LandingCounts, Vcpu, VmEntry, VmExit};

/// How the guest's stores are tracked.
#[derive(Debug)]
pub(super) enum DirtyLog {
    /// By KVM's bitmap, of so many bytes of memory; why not by the ring.
    Bitmap { slot_bytes: usize, obstacle: String },
    /// By the dirty ring.
    Ring(Box<Landings>),
}

/// A virtual machine of KVM with its one vCPU.
#[derive(Debug)]
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    vm: VmFd,
    area: Arc<RunArea>,
    kick: Arc<KickState>,
    log: DirtyLog,
    vendor: Vendor,
    /// An interrupt was queued since the last KVM_RUN. The shared page does not know yet, and KVM would
    /// let a second one overwrite it.
    queued: bool,
    /// KVM holds addresses into this; it must not be unmapped while the guest can run.
    _ram: Ram,
}

impl KvmVcpu {
    /// Joins the parts.
    pub(super) fn new(
        vm: VmFd,
        fd: VcpuFd,
        area: Arc<RunArea>,
        kick: Arc<KickState>,
        ram: Ram,
        log: DirtyLog,
        vendor: Vendor,
    ) -> Self {
        KvmVcpu { fd, vm, area, kick, log, vendor, queued: false, _ram: ram }
    }

    fn enter_guest(&mut self, quarry: Option<Quarry>) -> Result<VmExit, VcpuError> {
        match &mut self.log {
            DirtyLog::Ring(landings) => landings.prepare(&self.vm, &self.fd, quarry)?,
            DirtyLog::Bitmap { obstacle, .. } if quarry.is_some() => {
                return Err(VcpuError::NoLandings(obstacle.clone()));
            }
            DirtyLog::Bitmap { .. } => {}
        }
        loop {
            if !self.kick.enter() {
                self.kick.leave();
                return Ok(VmExit::Interrupted);
            }
            // A landing is judged by the registers.
            self.area.want_registers(quarry.is_some());
            let exit = self.kvm_run();
            self.area.want_registers(false);
            self.kick.leave();
            match exit? {
                // A signal that was not a kick (a debugger, a timer of the process): not an event.
                Ran::Exit(VmExit::Interrupted) if !self.kick.take() => {}
                Ran::Exit(exit) => return Ok(exit),
                Ran::RingFull => {
                    if let Some(exit) = self.ring_full()? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    fn ring_full(&mut self) -> Result<Option<VmExit>, VcpuError> {
        match &mut self.log {
            DirtyLog::Ring(landings) => landings.full(&self.vm, &self.fd, &self.area.registers()),
            DirtyLog::Bitmap { .. } => Err(VcpuError::UnexpectedExit("a full ring without a ring".into())),
        }
    }

    /// KVM_RUN with `immediate_exit`: the exit's instruction is finished, and the guest not entered. A kick
    /// that comes meanwhile stays pending, for the next entry.
    fn complete(&mut self, answer: &Answer) -> Result<VmExit, VcpuError> {
        match answer {
            Answer::Taken => {}
            Answer::Pio(data) => {
                if !self.area.answer_pio(data) {
                    return Err(VcpuError::WrongAnswer);
                }
            }
            Answer::Mmio(data) => self.area.answer_mmio(*data),
            Answer::Msr(value) => self.area.answer_msr(Some(*value)),
            Answer::MsrFault => self.area.answer_msr(None),
        }
        self.area.set_immediate_exit(true);
        match self.kvm_run()? {
            Ran::Exit(VmExit::Interrupted) => Ok(VmExit::Completed),
            Ran::Exit(exit) => Ok(exit),
            // `immediate_exit` is looked at first.
            Ran::RingFull => {
                Err(VcpuError::UnexpectedExit("a full ring before the guest was entered".into()))
            }
        }
    }

    fn kvm_run(&mut self) -> Result<Ran, VcpuError> {
        self.queued = false;
        let result = self.fd.run();
        let owned = match result {
            Ok(exit) => Raw::from(exit),
            Err(error) if error.errno() == libc::EINTR => Raw::Exit(VmExit::Interrupted),
            Err(error) => {
                return Err(VcpuError::Ioctl { what: "run the guest", source: io_error(error) });
            }
        };
        match owned {
            Raw::Exit(VmExit::PioIn { port, .. }) => {
                let (size, count) = self.area.pio_shape();
                Ok(Ran::Exit(VmExit::PioIn { port, size, count }))
            }
            Raw::Exit(VmExit::PioOut { port, data, .. }) => {
                Ok(Ran::Exit(VmExit::PioOut { port, size: self.area.pio_shape().0, data }))
            }
            Raw::Exit(exit) => Ok(Ran::Exit(exit)),
            Raw::RingFull => Ok(Ran::RingFull),
            Raw::Internal => Err(VcpuError::Internal { suberror: self.area.suberror(), rip: self.rip() }),
            Raw::EntryFailed(reason) => Err(VcpuError::EntryFailed { reason }),
            Raw::Unexpected(text) => Err(VcpuError::UnexpectedExit(text)),
        }
    }

    /// For messages only; 0 if it cannot be read.
    fn rip(&self) -> u64 {
        self.fd.get_regs().map_or(0, |regs| regs.rip)
    }
}

/// What KVM_RUN came back with.
enum Ran {
    Exit(VmExit),
    /// The dirty ring is at its soft limit; the guest was not entered again.
    RingFull,
}

/// An exit that no longer borrows the shared page. PIO sizes are filled in later.
enum Raw {
    Exit(VmExit),
    RingFull,
    Internal,
    EntryFailed(u64),
    Unexpected(String),
}

impl From<VcpuExit<'_>> for Raw {
    fn from(exit: VcpuExit<'_>) -> Self {
        Raw::Exit(match exit {
            VcpuExit::IoIn(port, _) => VmExit::PioIn { port, size: 0, count: 0 },
            VcpuExit::IoOut(port, data) => VmExit::PioOut { port, size: 0, data: data.to_vec() },
            VcpuExit::MmioRead(addr, data) => VmExit::MmioRead { addr, size: length(data) },
            VcpuExit::MmioWrite(addr, data) => {
                let mut bytes = [0; 8];
                bytes[..data.len()].copy_from_slice(data);
                VmExit::MmioWrite { addr, size: length(data), data: bytes }
            }
            VcpuExit::X86Rdmsr(msr) => VmExit::MsrRead { index: msr.index },
            VcpuExit::X86Wrmsr(msr) => VmExit::MsrWrite { index: msr.index, value: msr.data },
            VcpuExit::SetTpr => VmExit::TaskPriority,
            VcpuExit::Hlt => VmExit::Halt,
            VcpuExit::IrqWindowOpen => VmExit::Window,
            VcpuExit::Intr => VmExit::Interrupted,
            VcpuExit::Shutdown => VmExit::Shutdown,
            VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => return Raw::RingFull,
            VcpuExit::InternalError => return Raw::Internal,
            VcpuExit::FailEntry(reason, _) => return Raw::EntryFailed(reason),
            other => return Raw::Unexpected(format!("{other:?}")),
        })
    }
}

fn length(data: &[u8]) -> u8 {
    u8::try_from(data.len()).unwrap_or(u8::MAX)
}

impl Vcpu for KvmVcpu {
    fn capabilities(&self) -> Capabilities {
        let (landing, landing_kernel) = match &self.log {
            DirtyLog::Ring(landings) => (true, landings.in_kernel_mode()),
            DirtyLog::Bitmap { .. } => (false, false),
        };
        Capabilities { exact: false, exit: true, landing, landing_kernel, asynchronous: true }
    }

    fn vendor(&self) -> Vendor {
        self.vendor
    }

    fn landing_obstacle(&self) -> Option<String> {
        match &self.log {
            DirtyLog::Ring(_) => None,
            DirtyLog::Bitmap { obstacle, .. } => Some(obstacle.clone()),
        }
    }

    fn landing_counts(&self) -> LandingCounts {
        match &self.log {
            DirtyLog::Ring(landings) => landings.counts(),
            DirtyLog::Bitmap { .. } => LandingCounts::default(),
        }
    }

    fn protect(&mut self, pages: &[u32]) -> Result<(), VcpuError> {
        match &mut self.log {
            DirtyLog::Ring(landings) => landings.protect(&self.vm, &self.fd, pages),
            DirtyLog::Bitmap { obstacle, .. } => Err(VcpuError::NoLandings(obstacle.clone())),
        }
    }

    fn open_pages(&mut self) -> Result<Vec<u32>, VcpuError> {
        match &mut self.log {
            DirtyLog::Ring(landings) => landings.open_pages(&self.vm, &self.fd),
            DirtyLog::Bitmap { obstacle, .. } => Err(VcpuError::NoLandings(obstacle.clone())),
        }
    }

    fn first_stores(&mut self) -> Result<u64, VcpuError> {
        match &mut self.log {
            DirtyLog::Ring(landings) => landings.first_stores(&self.vm, &self.fd),
            DirtyLog::Bitmap { .. } => Ok(0),
        }
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit, VcpuError> {
        match entry {
            VmEntry::Run => self.enter_guest(None),
            VmEntry::Seek => self.enter_guest(Some(Quarry::Any)),
            VmEntry::Find(landing, unseen) => self.enter_guest(Some(Quarry::This(landing, unseen))),
            VmEntry::Until(_) => Err(VcpuError::NoCount),
            VmEntry::Complete(answer) => self.complete(&answer),
        }
    }

    fn kicker(&self) -> Kicker {
        let kick: Arc<KickState> = Arc::clone(&self.kick);
        Kicker(kick)
    }

    fn retired(&self) -> u64 {
        0
    }

    fn ready_for_interrupt(&self) -> bool {
        !self.queued && self.area.ready_for_interrupt()
    }

    fn inject(&mut self, vector: u8) -> Result<(), VcpuError> {
        ext::interrupt(&self.fd, vector)
            .map_err(|source| VcpuError::Ioctl { what: "queue an interrupt", source })?;
        self.queued = true;
        Ok(())
    }

    fn request_window(&mut self, wanted: bool) {
        self.area.request_window(wanted);
    }

    fn task_priority(&self) -> u8 {
        self.area.cr8()
    }

    fn set_task_priority(&mut self, priority: u8) {
        self.area.set_cr8(priority & 0xf);
    }

    fn take_dirty(&mut self) -> Result<Vec<u64>, VcpuError> {
        match &mut self.log {
            DirtyLog::Ring(landings) => landings.take_log(&self.vm, &self.fd),
            // Without KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 this also clears the log and protects the pages again.
            DirtyLog::Bitmap { slot_bytes, .. } => self
                .vm
                .get_dirty_log(MAIN_SLOT, *slot_bytes)
                .map_err(|error| VcpuError::Ioctl { what: "tell the dirty pages", source: io_error(error) }),
        }
    }

    fn state(&mut self) -> Result<CpuState, VcpuError> {
        // One KVM_RUN that enters nothing finishes the last exit and reads most registers at once.
        self.area.want_registers(true);
        let exit = self.complete(&Answer::Taken);
        self.area.want_registers(false);
        match exit? {
            VmExit::Completed => state::read(&self.fd, &self.area.registers()),
            other => Err(VcpuError::UnexpectedExit(format!("{other:?} instead of the registers"))),
        }
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        if let DirtyLog::Ring(landings) = &mut self.log {
            landings.forget();
        }
        state::write(&self.fd, state)?;
        let [.., cr8] = state.control;
        self.area.set_cr8(u8::try_from(cr8 & 0xf).unwrap_or(0));
        // Inputs of KVM_RUN that belong to the state before.
        self.area.request_window(false);
        // KVM computes ready_for_interrupt_injection when KVM_RUN returns, so it has to run once.
        match self.complete(&Answer::Taken)? {
            VmExit::Completed => Ok(()),
            other => Err(VcpuError::UnexpectedExit(format!("{other:?} before the first instruction"))),
        }
    }
}
