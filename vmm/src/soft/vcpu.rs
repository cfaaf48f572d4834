//! The backend's face to the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::GuestMemoryBackend;

use super::run::{Ended, Engine, Interpreter};
use super::state::Cpu;
use crate::error::VcpuError;
use crate::memory::Ram;
use crate::table::cpuid::Vendor;
use crate::vcpu::{Answer, Capabilities, CpuState, Kick, Kicker, LandingCounts, Vcpu, VmEntry, VmExit};

/// Blocks between two looks at the kick.
const BLOCKS_PER_LOOK: u32 = 64;

/// A processor in software.
pub(crate) struct SoftVcpu {
    engine: Engine<Interpreter>,
    ram: Ram,
    kick: Arc<KickFlag>,
    window: bool,
    /// An instruction waits for the answer to its exit.
    waiting: bool,
    /// The instruction that was completed last shut the processor down.
    shut_down: bool,
}

/// Set by a kick, taken by the run that it stops.
#[derive(Debug, Default)]
struct KickFlag(AtomicBool);

impl Kick for KickFlag {
    fn kick(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl SoftVcpu {
    /// Makes a processor for this memory.
    pub(crate) fn new(ram: &Ram, vendor: Vendor) -> Self {
        SoftVcpu {
            engine: Engine::new(Cpu::new(ram, vendor), Interpreter),
            ram: ram.clone(),
            kick: Arc::default(),
            window: false,
            waiting: false,
            shut_down: false,
        }
    }

    /// Tells of what this process wrote to guest memory since the last entry: blocks made from it must go.
    fn follow_outside_writes(&mut self) {
        let pages = &mut self.engine.cpu.pages;
        for region in self.ram.iter() {
            let log = (**region).bitmap();
            if let Some(recent) = log.take_recent() {
                recent.for_each(|page| pages.written_outside(page));
                continue;
            }
            for (at, mut word) in log.get_and_reset().into_iter().enumerate() {
                while word != 0 {
                    pages.written_outside(at as u32 * 64 + word.trailing_zeros());
                    word &= word - 1;
                }
            }
        }
        self.engine.blocks.follow_stores(&mut self.engine.cpu.pages);
    }

    /// Runs until something happens or `limit` instructions are retired in all.
    fn enter(&mut self, limit: u64) -> Result<VmExit, VcpuError> {
        self.follow_outside_writes();
        if self.waiting && self.complete(Answer::Taken)? != VmExit::Completed {
            return Err(VcpuError::WrongAnswer);
        }
        if self.shut_down {
            return Ok(VmExit::Shutdown);
        }
        loop {
            if self.kick.0.swap(false, Ordering::SeqCst) {
                return Ok(VmExit::Interrupted);
            }
            if let Some(ended) = self.deliver_queued()
                && let Some(exit) = self.judge(ended)?
            {
                return Ok(exit);
            }
            for _ in 0..BLOCKS_PER_LOOK {
                if self.window && self.engine.cpu.ready_for_interrupt() {
                    return Ok(VmExit::Window);
                }
                let left = limit.saturating_sub(self.engine.cpu.count);
                if left == 0 {
                    return Ok(VmExit::Reached);
                }
                let ended = self.engine.run_some(left);
                if let Some(exit) = self.judge(ended)? {
                    return Ok(exit);
                }
            }
        }
    }

    fn deliver_queued(&mut self) -> Option<Ended> {
        if let Some(fault) = self.engine.cpu.queued_exception.take() {
            return Some(self.engine.exception(fault));
        }
        let vector = self.engine.cpu.queued_interrupt.take()?;
        Some(self.engine.interrupt(vector))
    }

    fn judge(&mut self, ended: Ended) -> Result<Option<VmExit>, VcpuError> {
        match ended {
            Ended::Boundary => Ok(None),
            Ended::Exit { exit, complete } => {
                self.waiting = !complete;
                Ok(Some(exit))
            }
            Ended::Shutdown => match self.engine.cpu.unsupported {
                Some(what) => Err(VcpuError::Unsupported { what, rip: self.engine.cpu.rip }),
                None => Ok(Some(VmExit::Shutdown)),
            },
        }
    }

    /// Starts the waiting instruction anew, with one more answer.
    fn complete(&mut self, answer: Answer) -> Result<VmExit, VcpuError> {
        if !self.waiting {
            return if answer == Answer::Taken { Ok(VmExit::Completed) } else { Err(VcpuError::WrongAnswer) };
        }
        self.engine.cpu.answers.push(answer);
        self.waiting = false;
        let ended = self.engine.step(false);
        let exit = self.judge(ended)?;
        if !self.waiting {
            self.engine.cpu.answers.clear();
        }
        self.shut_down = exit == Some(VmExit::Shutdown);
        Ok(exit.filter(|_| !self.shut_down).unwrap_or(VmExit::Completed))
    }
}

impl Vcpu for SoftVcpu {
    fn vendor(&self) -> Vendor {
        self.engine.cpu.vendor
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { exact: true, exit: true, landing: false, landing_kernel: false, asynchronous: true }
    }

    fn landing_obstacle(&self) -> Option<String> {
        Some("the software processor has exact positions instead".into())
    }

    fn landing_counts(&self) -> LandingCounts {
        LandingCounts::default()
    }

    fn protect(&mut self, _pages: &[u32]) -> Result<(), VcpuError> {
        Err(VcpuError::NoLandings("the software processor has exact positions instead".into()))
    }

    fn open_pages(&mut self) -> Result<Vec<u32>, VcpuError> {
        Err(VcpuError::NoLandings("the software processor has exact positions instead".into()))
    }

    fn first_stores(&mut self) -> Result<u64, VcpuError> {
        Ok(0)
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit, VcpuError> {
        match entry {
            VmEntry::Run => self.enter(u64::MAX),
            VmEntry::Until(count) => self.enter(count),
            VmEntry::Complete(answer) => {
                self.follow_outside_writes();
                self.complete(answer)
            }
            VmEntry::Seek | VmEntry::Find(..) => {
                Err(VcpuError::NoLandings("the software processor has exact positions instead".into()))
            }
        }
    }

    fn kicker(&self) -> Kicker {
        let kick: Arc<KickFlag> = Arc::clone(&self.kick);
        Kicker(kick)
    }

    fn retired(&self) -> u64 {
        self.engine.cpu.count
    }

    fn ready_for_interrupt(&self) -> bool {
        !self.waiting && self.engine.cpu.ready_for_interrupt()
    }

    fn inject(&mut self, vector: u8) -> Result<(), VcpuError> {
        self.engine.cpu.queued_interrupt = Some(vector);
        Ok(())
    }

    fn request_window(&mut self, wanted: bool) {
        self.window = wanted;
    }

    fn task_priority(&self) -> u8 {
        self.engine.cpu.cr8 as u8
    }

    fn set_task_priority(&mut self, priority: u8) {
        self.engine.cpu.cr8 = u64::from(priority & 0xf);
    }

    fn take_dirty(&mut self) -> Result<Vec<u64>, VcpuError> {
        self.follow_outside_writes();
        let pages = &mut self.engine.cpu.pages;
        let mut bitmap = vec![0; pages.count().div_ceil(64)];
        for (page, _) in pages.take_dirty() {
            bitmap[page as usize / 64] |= 1 << (page % 64);
        }
        Ok(bitmap)
    }

    fn state(&mut self) -> Result<CpuState, VcpuError> {
        match self.complete(Answer::Taken)? {
            VmExit::Completed => Ok(self.engine.cpu.to_state()),
            other => Err(VcpuError::UnexpectedExit(format!("{other:?} instead of the registers"))),
        }
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        (self.waiting, self.shut_down) = (false, false);
        self.window = false;
        self.engine.cpu.take_state(state)
    }
}
