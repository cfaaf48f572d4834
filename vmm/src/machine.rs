//! The machine: memory, one vCPU, the devices, and the loop step that joins them.

use std::path::PathBuf;

use devices::{Effect, Ns, PlaceError, Platform, PlatformConfig, Stimulus};

pub use self::landing::Reached;
use crate::error::{BootError, DirtyError, RestoreError, RunError, SaveError, VcpuError, VmError};
use crate::kvm::Tracking;
use crate::memory::Ram;
use crate::saved::{self, SavedVm};
use crate::table::cpuid::Vendor;
use crate::table::layout::LAPIC_TPR;
use crate::vcpu::{Answer, Capabilities, Kicker, Vcpu, VmEntry, VmExit};
use crate::{PAGE_SIZE, boot, dirty, kvm, memory, soft, table};

/// Device accesses that one instruction may make: KVM's emulator turns at most 1,024 rounds of a string
/// instruction into one, each with a read and a write of up to eight pieces.
const ACCESSES_MAX: u32 = 16_384;
/// Bytes of one string instruction's PIO exit: KVM has one page for them.
const PIO_BYTES_MAX: usize = 4096;

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The kernel: a static ELF64 executable, or the bzImage of a Linux kernel for x86-64.
    pub kernel: PathBuf,
    /// The initial file system for a bzImage.
    pub initrd: Option<PathBuf>,
    /// Its command line, at most 2,047 bytes.
    pub cmdline: String,
    /// The devices.
    pub platform: PlatformConfig,
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The host's processor, by KVM.
    Kvm,
    /// This program: on any host, exact at every instruction, slower.
    Soft(Vendor),
}

/// A deterministic exit: with the same state and the same stimuli it happens again at the same instruction.
/// The numbers are part of formats outside this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitKind {
    /// A port access.
    Pio = 1,
    /// An access to device space, or a change of the task priority by way of CR8.
    Mmio = 2,
    /// An access to a model-specific register.
    Msr = 3,
    /// HLT.
    Halt = 4,
    /// The guest became ready for an interrupt that waits.
    Window = 5,
}

impl ExitKind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [ExitKind::Pio, ExitKind::Mmio, ExitKind::Msr, ExitKind::Halt, ExitKind::Window]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// Why [`Vm::run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A deterministic exit, answered by the devices and finished.
    Exit(ExitKind),
    /// A [`Kicker`]; the guest is at some instruction boundary.
    Kicked,
    /// A triple fault: a PC resets then.
    Shutdown,
}

/// What the machine holds.
///
/// ```text
/// Fresh --boot--> Running <--> Halted        any --write_page, failed restore--> Filling
/// any --restore--> Running or Halted         Running --triple fault--> ShutDown
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// As made: zeroed memory.
    Fresh,
    /// Memory is being written from outside; there is no processor state yet.
    Filling,
    /// The guest can run.
    Running,
    /// After HLT.
    Halted,
    /// After a triple fault.
    ShutDown,
}

/// One machine. It has no thread and no clock: its owner runs it.
pub struct Vm {
    config: VmConfig,
    ram: Ram,
    vcpu: Box<dyn Vcpu>,
    platform: Platform,
    life: Life,
    /// The next entry decides anew about interrupts. Not set by a kick: a kicked run goes on with the very
    /// inputs that it had.
    evaluate: bool,
    /// The last exit's instruction is done but for the step that any next entry does: a system call saved.
    unfinished: bool,
    /// CR8 as last agreed between the vCPU and the local APIC.
    cr8: u8,
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").field("config", &self.config).field("life", &self.life).finish_non_exhaustive()
    }
}

impl Vm {
    /// Makes memory, vCPU and devices; loads nothing.
    ///
    /// # Errors
    ///
    /// See [`VmError`].
    pub fn new(config: &VmConfig) -> Result<Self, VmError> {
        Self::with_tracking(config, Tracking::Best)
    }

    /// A machine that has no landings, as on a host that cannot have them.
    ///
    /// # Errors
    ///
    /// See [`VmError`].
    pub fn without_landings(config: &VmConfig) -> Result<Self, VmError> {
        Self::with_tracking(config, Tracking::Bitmap)
    }

    /// A machine whose processor is this one.
    ///
    /// # Errors
    ///
    /// See [`VmError`].
    pub fn with_backend(config: &VmConfig, backend: Backend) -> Result<Self, VmError> {
        match backend {
            Backend::Kvm => Self::new(config),
            Backend::Soft(vendor) => {
                Self::assemble(config, |ram| Ok(Box::new(soft::SoftVcpu::new(ram, vendor))))
            }
        }
    }

    fn with_tracking(config: &VmConfig, tracking: Tracking) -> Result<Self, VmError> {
        Self::assemble(config, |ram| Ok(Box::new(kvm::create(ram, tracking)?)))
    }

    fn assemble(
        config: &VmConfig,
        vcpu: impl FnOnce(&Ram) -> Result<Box<dyn Vcpu>, VmError>,
    ) -> Result<Self, VmError> {
        let platform = Platform::new(&config.platform)?;
        let ram = memory::allocate(config.memory_mib)?;
        let vcpu = vcpu(&ram)?;
        let (config, life) = (config.clone(), Life::Fresh);
        Ok(Vm { config, ram, vcpu, platform, life, evaluate: true, unfinished: false, cr8: 0 })
    }

    /// Loads the kernel and sets the boot state: 64-bit mode, the first 4 GiB mapped linearly for the
    /// supervisor, interrupts off, RSI at a Linux zero page with memory map, command line and ACPI tables.
    ///
    /// # Errors
    ///
    /// See [`BootError`]. The machine is then to be thrown away.
    pub fn boot(&mut self) -> Result<(), BootError> {
        if self.life != Life::Fresh {
            return Err(BootError::AlreadyStarted);
        }
        self.life = Life::Filling;
        let VmConfig { kernel, initrd, cmdline, .. } = &self.config;
        let sources = boot::Sources { kernel, initrd: initrd.as_deref(), command_line: cmdline };
        let state = boot::load(&self.ram, sources)?;
        self.vcpu.set_state(&state)?;
        self.cr8 = self.vcpu.task_priority();
        self.life = Life::Running;
        self.evaluate = true;
        Ok(())
    }

    /// A handle that stops [`Self::run`] from another thread.
    #[must_use]
    pub fn kicker(&self) -> Kicker {
        self.vcpu.kicker()
    }

    /// Enters the guest until one deterministic exit is answered and finished, or a kick.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. [`RunError::Halted`] if [`Self::waits`]; otherwise the machine is to be thrown away.
    pub fn run(&mut self) -> Result<Stop, RunError> {
        match self.enter(VmEntry::Run)? {
            Entered::Found(Reached::Stop(stop)) => Ok(stop),
            other => Err(VcpuError::UnexpectedExit(format!("{other:?} that nobody looked for")).into()),
        }
    }

    /// As [`Self::run`], but stops also, with `None`, when so many instructions were retired since the boot;
    /// at once if it were that many before. The count names the place exactly.
    ///
    /// # Errors
    ///
    /// As [`Self::run`]; and [`VcpuError::NoCount`] on a backend without exact positions.
    pub fn run_until(&mut self, count: u64) -> Result<Option<Stop>, RunError> {
        match self.enter(VmEntry::Until(count))? {
            Entered::Found(Reached::Stop(stop)) => Ok(Some(stop)),
            Entered::Count => Ok(None),
            other => Err(VcpuError::UnexpectedExit(format!("{other:?} that nobody looked for")).into()),
        }
    }

    /// Instructions retired since the boot; 0 on a backend without exact positions.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.vcpu.retired()
    }

    fn enter(&mut self, entry: VmEntry) -> Result<Entered, RunError> {
        match self.life {
            Life::Fresh | Life::Filling => return Err(RunError::NotStarted),
            Life::ShutDown => return Err(RunError::Shutdown),
            Life::Halted if self.waits() => return Err(RunError::Halted),
            Life::Running | Life::Halted => {}
        }
        if self.evaluate {
            self.offer_interrupt()?;
            self.evaluate = false;
        }
        // Offered anew at each entry: a kick in between changes nothing.
        self.platform.before_entry(&self.ram);
        let exit = self.vcpu.run(entry);
        self.platform.after_exit(&self.ram);
        let exit = exit?;
        // A kick may have come before the entry.
        self.unfinished &= exit == VmExit::Interrupted;
        self.follow_task_priority();
        match exit {
            VmExit::Interrupted => Ok(Entered::Found(Reached::Stop(Stop::Kicked))),
            VmExit::Shutdown => {
                self.life = Life::ShutDown;
                Ok(Entered::Found(Reached::Stop(Stop::Shutdown)))
            }
            VmExit::Landing(landing) => {
                self.evaluate = true;
                Ok(Entered::Found(Reached::Landing(landing)))
            }
            VmExit::Missed(landing) => Ok(Entered::Found(Reached::Missed(landing))),
            VmExit::Reached => {
                self.evaluate = true;
                Ok(Entered::Count)
            }
            exit => self.answer(exit).map(|kind| Entered::Found(Reached::Stop(Stop::Exit(kind)))),
        }
    }

    /// Gives the vCPU the interrupt that the local APIC has for it, or asks to be told when it can take it.
    fn offer_interrupt(&mut self) -> Result<(), VcpuError> {
        let priority = self.apic_task_priority() >> 4;
        if priority != self.cr8 {
            self.vcpu.set_task_priority(priority);
            self.cr8 = priority;
        }
        let waiting = self.platform.pending_interrupt().is_some();
        if waiting {
            self.finish()?;
        }
        let ready = self.vcpu.ready_for_interrupt();
        self.vcpu.request_window(waiting && !ready);
        if waiting
            && ready
            && let Some(vector) = self.platform.accept_interrupt()
        {
            self.vcpu.inject(vector)?;
            self.life = Life::Running;
        }
        Ok(())
    }

    /// Takes the step that was left to the next entry. An interrupt must be decided on after it.
    fn finish(&mut self) -> Result<(), VcpuError> {
        if self.unfinished {
            match self.vcpu.run(VmEntry::Complete(Answer::Taken))? {
                VmExit::Completed => self.unfinished = false,
                other => return Err(VcpuError::UnexpectedExit(format!("{other:?} after a finished store"))),
            }
        }
        Ok(())
    }

    /// CR8 and the local APIC's task priority are one register seen through two doors.
    fn follow_task_priority(&mut self) {
        let priority = self.vcpu.task_priority();
        if priority != self.cr8 {
            self.cr8 = priority;
            let value = u32::from(priority) << 4;
            self.platform.mmio_write(LAPIC_TPR, &value.to_le_bytes(), &self.ram);
        }
    }

    fn apic_task_priority(&mut self) -> u8 {
        let mut value = [0; 4];
        self.platform.mmio_read(LAPIC_TPR, &mut value);
        value[0]
    }

    /// Answers an exit and all that its instruction still asks for (an unaligned or read-modify-write access
    /// comes in pieces), until the instruction is finished.
    fn answer(&mut self, first: VmExit) -> Result<ExitKind, RunError> {
        self.evaluate = true;
        self.unfinished = first.ends_its_instruction();
        let (kind, mut answer) = match self.serve(first)? {
            Served::Answer(kind, _) if self.unfinished => return Ok(kind),
            Served::Done(kind) => return Ok(kind),
            Served::Answer(kind, answer) => (kind, answer),
        };
        for _ in 0..ACCESSES_MAX {
            answer = match self.vcpu.run(VmEntry::Complete(answer))? {
                VmExit::Completed => return Ok(kind),
                piece => match self.serve(piece)? {
                    Served::Answer(_, answer) => answer,
                    Served::Done(_) => return Err(VcpuError::WrongAnswer.into()),
                },
            };
        }
        let rip = self.vcpu.state()?.rip;
        Err(RunError::EndlessInstruction { rip, limit: ACCESSES_MAX })
    }

    fn serve(&mut self, exit: VmExit) -> Result<Served, VcpuError> {
        let served = match exit {
            VmExit::PioIn { port, size, count } => {
                Served::Answer(ExitKind::Pio, Answer::Pio(self.pio_in(port, size, count)?))
            }
            VmExit::PioOut { port, size, data } => {
                for element in data.chunks(usize::from(size.max(1))) {
                    self.platform.pio_write(port, element, &self.ram);
                }
                Served::Answer(ExitKind::Pio, Answer::Taken)
            }
            VmExit::MmioRead { addr, size } => {
                let mut data = [0; 8];
                self.platform.mmio_read(addr, &mut data[..usize::from(size.min(8))]);
                Served::Answer(ExitKind::Mmio, Answer::Mmio(data))
            }
            VmExit::MmioWrite { addr, size, data } => {
                self.platform.mmio_write(addr, &data[..usize::from(size.min(8))], &self.ram);
                Served::Answer(ExitKind::Mmio, Answer::Taken)
            }
            VmExit::MsrRead { index } => {
                let answer = self.platform.msr_read(index).map_or(Answer::MsrFault, Answer::Msr);
                Served::Answer(ExitKind::Msr, answer)
            }
            VmExit::MsrWrite { index, value } => {
                let done = self.platform.msr_write(index, value, &self.ram);
                // The value goes back unchanged; only whether it faults matters.
                let answer = done.map_or(Answer::MsrFault, |()| Answer::Msr(value));
                Served::Answer(ExitKind::Msr, answer)
            }
            VmExit::Halt => {
                self.life = Life::Halted;
                Served::Done(ExitKind::Halt)
            }
            VmExit::TaskPriority => Served::Done(ExitKind::Mmio),
            VmExit::Window => Served::Done(ExitKind::Window),
            VmExit::Interrupted
            | VmExit::Landing(_)
            | VmExit::Missed(_)
            | VmExit::Reached
            | VmExit::Completed
            | VmExit::Shutdown => {
                return Err(VcpuError::UnexpectedExit(format!("{exit:?} in the middle of an instruction")));
            }
        };
        Ok(served)
    }

    fn pio_in(&mut self, port: u16, size: u8, count: u32) -> Result<Vec<u8>, VcpuError> {
        let size = usize::from(size.max(1));
        let bytes = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(size);
        if bytes > PIO_BYTES_MAX {
            return Err(VcpuError::UnexpectedExit(format!("a port access of {bytes} bytes")));
        }
        let mut data = vec![0; bytes];
        for element in data.chunks_mut(size) {
            self.platform.pio_read(port, element);
        }
        Ok(data)
    }

    /// Whether the guest sleeps and nothing placed so far can wake it: [`Self::run`] must not be called.
    #[must_use]
    pub fn waits(&self) -> bool {
        let deliverable = self.platform.pending_interrupt().is_some() && self.vcpu.ready_for_interrupt();
        self.life == Life::Halted && !deliverable
    }

    /// Does something to the devices, at this place of the guest's execution. The next [`Self::run`] decides
    /// anew about interrupts.
    ///
    /// # Errors
    ///
    /// [`PlaceError`]; the machine is unchanged.
    pub fn place(&mut self, stimulus: &Stimulus) -> Result<(), PlaceError> {
        self.platform.place(stimulus, &self.ram)?;
        self.evaluate = true;
        Ok(())
    }

    /// Makes the next [`Self::run`] decide anew about interrupts, as a restored machine does. For a kicked
    /// machine whose state was handed to a replica.
    pub fn reevaluate(&mut self) {
        self.evaluate = true;
    }

    /// Takes what the guest did to the world since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.platform.take_effects()
    }

    /// Disk reads and flushes that were submitted and not completed.
    #[must_use]
    pub fn outstanding_disk(&self) -> Vec<Effect> {
        self.platform.outstanding_disk()
    }

    /// Requests for entropy that were submitted and not answered, the oldest first.
    #[must_use]
    pub fn outstanding_entropy(&self) -> Vec<Effect> {
        self.platform.outstanding_entropy()
    }

    /// When the devices want time placed next, in ns of virtual time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Ns> {
        self.platform.next_deadline()
    }

    /// Virtual time as last placed, in ns.
    #[must_use]
    pub fn now(&self) -> Ns {
        self.platform.now()
    }

    /// Pages of 4 KiB; page `n` begins at guest-physical address `n * 4096`.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        memory::page_count(&self.ram)
    }

    /// Pages written since the last call (or since [`Self::new`]), by the guest, by the devices or by
    /// [`Self::write_page`]; ascending, each once. A page in it need not differ from before.
    ///
    /// # Errors
    ///
    /// [`DirtyError`]; the pages of this epoch are then not known.
    pub fn take_dirty(&mut self) -> Result<Vec<u32>, DirtyError> {
        dirty::take(self.vcpu.as_mut(), &self.ram)
    }

    /// Copies a page out.
    ///
    /// # Panics
    ///
    /// If `page` is not below [`Self::page_count`].
    pub fn read_page(&self, page: u32, out: &mut [u8; PAGE_SIZE]) {
        memory::read_page(&self.ram, page, out);
    }

    /// Copies a page in. The page is then one of the next [`Self::take_dirty`]: whoever fills or repairs
    /// memory takes the list afterwards and drops it. A machine that is written to before it was started can
    /// be restored but not booted.
    ///
    /// # Panics
    ///
    /// If `page` is not below [`Self::page_count`].
    pub fn write_page(&mut self, page: u32, data: &[u8; PAGE_SIZE]) {
        memory::write_page(&self.ram, page, data);
        if self.life == Life::Fresh {
            self.life = Life::Filling;
        }
    }

    /// Everything but memory, in canonical form: equal states give equal bytes. An interrupt that was queued
    /// and not delivered, as after a kick, is part of it.
    ///
    /// # Errors
    ///
    /// See [`SaveError`].
    pub fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        let halted = match self.life {
            Life::Running => false,
            Life::Halted => true,
            Life::Fresh | Life::Filling | Life::ShutDown => return Err(SaveError::NotStarted),
        };
        let cpu = self.vcpu.state()?;
        self.unfinished = false;
        saved::encode(&SavedVm { halted, cpu, devices: self.platform.save() })
    }

    /// Takes over what [`Self::save`] wrote on a machine of the same configuration; memory is filled
    /// separately, with [`Self::write_page`]. The next [`Self::run`] decides anew about interrupts.
    ///
    /// # Errors
    ///
    /// See [`RestoreError`]. The machine cannot run or be saved until a later restore succeeds.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.life = Life::Filling;
        let saved = saved::decode(bytes)?;
        self.finish()?;
        self.vcpu.set_state(&saved.cpu)?;
        self.platform.restore(&saved.devices)?;
        self.cr8 = self.vcpu.task_priority();
        self.life = if saved.halted { Life::Halted } else { Life::Running };
        self.evaluate = true;
        Ok(())
    }

    /// Guest memory, for those who only look.
    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Which places of the guest's execution can be found again on this backend.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.vcpu.capabilities()
    }

    /// Who the guest is told made the processor. A guest may be moved between machines of one vendor only.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        self.vcpu.vendor()
    }

    /// Digest of the machine table: CPUID profile, memory map, model-specific registers. Two hosts may pair
    /// only if it is equal.
    #[must_use]
    pub fn table_digest() -> u128 {
        table::digest()
    }
}

/// What an entry came to.
#[derive(Debug)]
enum Entered {
    Found(Reached),
    /// The count that was asked for.
    Count,
}

/// What [`Vm::serve`] did.
enum Served {
    /// Nothing of the instruction is left.
    Done(ExitKind),
    /// The vCPU has to be given this to finish its instruction.
    Answer(ExitKind, Answer),
}

mod image;
mod landing;
#[cfg(test)]
mod tests;
