//! What a vCPU backend is: exits and answers are owned values, so that a run can be logged and replayed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::VcpuError;
use crate::table::cpuid::Vendor;

/// Which places of the guest's execution a backend can find again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Any instruction boundary, by instruction count.
    pub exact: bool,
    /// The n-th deterministic exit.
    pub exit: bool,
    /// The first store to a clean page, in user mode.
    pub landing: bool,
    /// In kernel mode too; not so where the host emulates kernel code.
    pub landing_kernel: bool,
    /// It can be stopped anywhere, at a place that cannot be found again.
    pub asynchronous: bool,
}

/// A place in the guest's execution: the instruction at `rip`, not yet executed, is the first to store to
/// `page` since that was protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Landing {
    /// Number of the guest-physical page of 4 KiB.
    pub page: u32,
    /// Instruction pointer.
    pub rip: u64,
}

/// What landings cost so far; all counts are since the machine was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LandingCounts {
    /// Searches begun, or begun anew.
    pub armed: u64,
    /// Stops of a search at something that was not what it looked for.
    pub passed: u64,
    /// Stops without a search, because the ring was full.
    pub background: u64,
    /// Pages protected.
    pub protected: u64,
    /// Times that the ring ran over, and every page had to count as written. Only where KVM emulates code.
    pub overflows: u64,
}

/// How the vCPU is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmEntry {
    /// Run the guest.
    Run,
    /// Run the guest, but stop with [`VmExit::Landing`] at the first landing.
    Seek,
    /// Run the guest, but stop with [`VmExit::Landing`] at this one, or with [`VmExit::Missed`]. The page is
    /// protected first, unless this goes on with the last entry's search. So many first stores to other pages
    /// come before it and need not be looked at.
    Find(Landing, u32),
    /// Run the guest, but stop with [`VmExit::Reached`] once so many instructions were retired since the boot.
    /// Only for a backend whose positions are exact.
    Until(u64),
    /// Finish the instruction that made the last exit. The guest does *not* go on after it, so that the
    /// registers can be read.
    Complete(Answer),
}

/// What the devices answered to an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A write was taken. When it is the last piece of its instruction ([`VmExit::ends_its_instruction`])
    /// this answer may be left out: the next [`VmEntry::Run`] finishes the instruction on its way.
    Taken,
    /// Bytes for [`VmExit::PioIn`], `size * count` of them.
    Pio(Vec<u8>),
    /// Bytes for [`VmExit::MmioRead`]; the first `size` count.
    Mmio([u8; 8]),
    /// Value for [`VmExit::MsrRead`].
    Msr(u64),
    /// The guest gets a general-protection fault for its RDMSR or WRMSR.
    MsrFault,
}

/// Why the vCPU stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmExit {
    /// IN or INS: `count` elements of `size` (1, 2, 4) bytes.
    PioIn { port: u16, size: u8, count: u32 },
    /// OUT or OUTS: elements of `size` bytes.
    PioOut { port: u16, size: u8, data: Vec<u8> },
    /// A load from device space, 1 to 8 bytes.
    MmioRead { addr: u64, size: u8 },
    /// A store to device space; the first `size` bytes count.
    MmioWrite { addr: u64, size: u8, data: [u8; 8] },
    /// RDMSR of a register that the backend does not own.
    MsrRead { index: u32 },
    /// WRMSR to a register that the backend does not own.
    MsrWrite { index: u32, value: u64 },
    /// CR8 was lowered.
    TaskPriority,
    /// HLT.
    Halt,
    /// The requested interrupt window is open.
    Window,
    /// A [`Kicker`] stopped the guest.
    Interrupted,
    /// The guest is at a landing.
    Landing(Landing),
    /// The landing that was to be found will not come. With where that showed: the first store to the page
    /// came from here, or the search ended here.
    Missed(Landing),
    /// The count of [`VmEntry::Until`] is reached, exactly.
    Reached,
    /// [`VmEntry::Complete`] is done.
    Completed,
    /// Triple fault.
    Shutdown,
}

impl VmExit {
    /// Whether the instruction is known to make no further exit: an OUT of one element, or a store of at
    /// most four bytes that does not end at the end of a page (a longer or page-crossing one comes in
    /// pieces, the first of which is eight bytes long or ends there). A load may be one half of a
    /// read-modify-write.
    pub(crate) fn ends_its_instruction(&self) -> bool {
        match self {
            VmExit::PioOut { size, data, .. } => data.len() == usize::from(*size),
            VmExit::MmioWrite { addr, size, .. } => *size <= 4 && (addr + u64::from(*size)) % 4096 != 0,
            _ => false,
        }
    }
}

/// A virtual processor with its view of guest memory.
pub(crate) trait Vcpu: Send {
    /// Which places this backend can find again.
    fn capabilities(&self) -> Capabilities;
    /// Who the guest is told made the processor.
    fn vendor(&self) -> Vendor;
    /// Why there are no landings on this host, and what to change. `None`: there are.
    fn landing_obstacle(&self) -> Option<String>;
    /// What landings cost so far.
    fn landing_counts(&self) -> LandingCounts;
    /// These pages count as clean again, but for those which the instruction that waits at a landing stores
    /// to.
    fn protect(&mut self, pages: &[u32]) -> Result<(), VcpuError>;
    /// Pages that are not clean, in the order of their first stores.
    fn open_pages(&mut self) -> Result<Vec<u32>, VcpuError>;
    /// How often a clean page was written, since the beginning; 0 for ever without landings.
    fn first_stores(&mut self) -> Result<u64, VcpuError>;
    /// Enters the guest or finishes the last exit's instruction.
    fn run(&mut self, entry: VmEntry) -> Result<VmExit, VcpuError>;
    /// A handle that stops a running [`VmEntry::Run`] from another thread.
    fn kicker(&self) -> Kicker;
    /// Instructions retired since the boot; 0 on a backend whose positions are not exact.
    fn retired(&self) -> u64;
    /// Whether an external interrupt could be taken right now. Valid between a completed exit and the next
    /// entry.
    fn ready_for_interrupt(&self) -> bool;
    /// Queues an external interrupt, taken at the next entry before any instruction. Only when
    /// [`Self::ready_for_interrupt`].
    fn inject(&mut self, vector: u8) -> Result<(), VcpuError>;
    /// Asks for [`VmExit::Window`] as soon as an interrupt could be taken, or takes that back.
    fn request_window(&mut self, wanted: bool);
    /// CR8: the upper four bits of the task priority.
    fn task_priority(&self) -> u8;
    /// Sets CR8, at the next entry.
    fn set_task_priority(&mut self, priority: u8);
    /// Pages that the guest wrote since the last call, as a bitmap; starts a new log.
    fn take_dirty(&mut self) -> Result<Vec<u64>, VcpuError>;
    /// The processor's state in canonical form: equal states have equal values. Finishes the last exit if
    /// its answer was [`Answer::Taken`].
    fn state(&mut self) -> Result<CpuState, VcpuError>;
    /// Sets the state. After an error the processor must not run before a later call succeeded.
    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError>;
}

/// Stops a running guest from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Kicker(pub(crate) Arc<dyn Kick>);

impl Kicker {
    /// Makes a running or the next [`Vm::run`](crate::Vm::run) return
    /// [`Stop::Kicked`](crate::Stop::Kicked). Kicks are not counted: several before that return are one.
    pub fn kick(&self) {
        self.0.kick();
    }
}

impl std::fmt::Debug for Kicker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kicker")
    }
}

/// The backend's side of a [`Kicker`].
pub(crate) trait Kick: Send + Sync {
    /// See [`Kicker::kick`].
    fn kick(&self);
}

/// The state of an x86-64 processor with the features of the machine table, and no more.
///
/// Time stamp counter, machine check, performance and debug-store registers are not in it: the guest does
/// not have them. XCR0 is constant (1) without XSAVE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15 (the order of the instruction encoding).
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// CS, DS, ES, FS, GS, SS, TR, LDTR.
    pub segments: [Segment; 8],
    /// Base and limit of the global descriptor table.
    pub gdt: (u64, u16),
    /// Base and limit of the interrupt descriptor table.
    pub idt: (u64, u16),
    /// CR0, CR2, CR3, CR4, CR8.
    pub control: [u64; 5],
    /// Extended features.
    pub efer: u64,
    /// Local APIC base register.
    pub apic_base: u64,
    /// The FXSAVE image of x87, MMX and SSE (SDM volume 1 section 10.5.1), 512 bytes, MXCSR mask and the
    /// bytes left to software zeroed.
    pub fxsave: Vec<u8>,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// The registers of [`crate::table::msrs::SAVED`], in that order.
    pub msrs: Vec<u64>,
    /// Events on their way into the guest.
    pub events: Events,
    /// Instructions retired since the boot; 0 on a backend that cannot count them.
    pub retired: u64,
}

/// A segment register with its hidden part (SDM volume 3 section 3.4.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Access rights as VMX writes them (SDM volume 3 section 25.4.1): type 0-3, S 4, DPL 5-6, P 7, AVL 12,
    /// L 13, DB 14, G 15, unusable 16.
    pub access: u32,
}

/// Exceptions and interrupts that were accepted and not yet delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Events {
    /// An exception: vector and error code.
    pub exception: Option<(u8, Option<u32>)>,
    /// An external interrupt's vector, queued by [`Vcpu::inject`].
    pub interrupt: Option<u8>,
    /// Shadow of STI (bit 1) or MOV SS (bit 0).
    pub shadow: u8,
    /// A non-maskable interrupt is being handled.
    pub nmi_masked: bool,
}
