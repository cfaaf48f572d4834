//! What can go wrong, one enum per operation. Every message says what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a machine cannot be built.
#[derive(Debug, Error)]
pub enum VmError {
    /// The hypervisor's device cannot be opened.
    #[error("cannot open /dev/kvm: {0}: load the kvm module or run as root")]
    OpenKvm(#[source] io::Error),
    /// The kernel speaks another KVM interface.
    #[error(
        "/dev/kvm speaks interface version {0}, this program needs 12: use a Linux kernel of version 5.15 or newer"
    )]
    KvmVersion(i32),
    /// The kernel's KVM lacks something that determinism needs.
    #[error("this host's KVM does not offer {0}: use a Linux kernel of version 5.15 or newer")]
    MissingCapability(&'static str),
    /// A processor feature of the machine table is absent.
    #[error(
        "this host's KVM cannot give the guest CPUID leaf {leaf:#x} {register} bits {missing:#010x}, \
         which the machine table requires: use another host"
    )]
    MissingCpuFeature {
        /// CPUID leaf.
        leaf: u32,
        /// Register name.
        register: &'static str,
        /// The bits that are required and absent.
        missing: u32,
    },
    /// The host's processor is of neither known vendor.
    #[error(
        "the host's processor says it is made by {0:?}; the machine table knows GenuineIntel and AuthenticAMD"
    )]
    UnknownVendor(String),
    /// Memory size out of range.
    #[error("memory of {got} MiB is not possible: give between 1 and {max} MiB")]
    MemorySize {
        /// MiB asked for.
        got: u32,
        /// MiB at most.
        max: u32,
    },
    /// No memory.
    #[error("cannot map {memory_mib} MiB of guest memory: {reason}: free memory or give the guest less")]
    MemoryMap {
        /// MiB asked for.
        memory_mib: u32,
        /// What the system said.
        reason: String,
    },
    /// The mapping cannot be kept out of core files.
    #[error("cannot set the properties of guest memory: {0}: this needs Linux's madvise system call")]
    MemoryAdvice(#[source] io::Error),
    /// An ioctl failed.
    #[error("KVM refused to {what}: {source}: see the kernel's log for the reason")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The signal that stops the vCPU cannot be set up.
    #[error("cannot install the handler of the signal that stops the vCPU: {0}")]
    Signal(#[source] io::Error),
    /// The devices refuse the configuration.
    #[error(transparent)]
    Platform(#[from] devices::ConfigError),
}

/// Why a guest cannot be started.
#[derive(Debug, Error)]
pub enum BootError {
    /// Memory is no longer as `Vm::new` left it.
    #[error("the machine was started or restored before: make a new one to boot it")]
    AlreadyStarted,
    /// The file cannot be opened.
    #[error("cannot open the guest's kernel {path}: {source}: check the path", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a kernel that this machine can start.
    #[error("cannot load the guest's kernel {path}: {reason}", path = path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The initial file system cannot be loaded.
    #[error("cannot load the guest's initial file system {path}: {reason}", path = path.display())]
    Initrd {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The command line does not fit.
    #[error("the guest's command line has {got} bytes, at most {max} fit: shorten it")]
    CommandLineTooLong {
        /// Bytes given.
        got: usize,
        /// Bytes possible.
        max: usize,
    },
    /// A NUL would cut the command line short.
    #[error("the guest's command line contains a NUL byte: remove it")]
    CommandLineNul,
    /// Boot structures do not fit in memory.
    #[error("cannot write the boot structures into guest memory: {0}: give the guest at least 4 MiB")]
    Memory(String),
    /// The vCPU refuses the boot state.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
}

/// Why the vCPU failed. None of these is the guest's business.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// An ioctl failed.
    #[error("KVM refused to {what}: {source}: see the kernel's log for the reason")]
    Ioctl {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The hypervisor could not go on.
    #[error(
        "the hypervisor cannot execute the guest's instruction at {rip:#x} (internal error {suberror}): \
         the guest uses an instruction that this host's KVM cannot emulate"
    )]
    Internal {
        /// KVM's reason.
        suberror: u32,
        /// Where.
        rip: u64,
    },
    /// The processor refused the guest's state.
    #[error(
        "the processor refused to enter the guest (hardware reason {reason:#x}): the vCPU state is not valid"
    )]
    EntryFailed {
        /// The processor's reason.
        reason: u64,
    },
    /// The backend cannot stop at stores to clean pages.
    #[error("there are no landings on this host: {0}")]
    NoLandings(String),
    /// The backend does not count instructions.
    #[error("instructions are not counted on KVM: use the software backend for exact positions")]
    NoCount,
    /// The guest does what the software processor cannot.
    #[error("the guest uses {what} at {rip:#x}, which the software processor does not have: run it on KVM")]
    Unsupported {
        /// What it is.
        what: &'static str,
        /// Where.
        rip: u64,
    },
    /// An exit that this machine never asks for.
    #[error("KVM stopped the guest for an unexpected reason ({0}): this kernel's KVM is not supported")]
    UnexpectedExit(String),
    /// The answer does not belong to the last exit.
    #[error("the answer does not fit the last exit: this is a bug of the run loop")]
    WrongAnswer,
    /// An MSR of the table cannot be read or written.
    #[error("KVM cannot {what} model-specific register {index:#x} of the machine table: use another host")]
    Msr {
        /// `read` or `write`.
        what: &'static str,
        /// Number of the register.
        index: u32,
    },
    /// A saved state that is not one of this machine.
    #[error("the vCPU state is not valid: {0}")]
    BadState(&'static str),
}

/// Why the guest cannot run.
#[derive(Debug, Error)]
pub enum RunError {
    /// Nothing was loaded.
    #[error("the machine holds no guest: boot or restore it first")]
    NotStarted,
    /// The guest sleeps.
    #[error("the guest is halted and no interrupt is deliverable: place a stimulus first")]
    Halted,
    /// A landing on nothing.
    #[error("there is no page {page} to land on, the guest has {pages}: the other host sent nonsense")]
    NoSuchPage {
        /// The page asked for.
        page: u32,
        /// How many there are.
        pages: u32,
    },
    /// The guest shut the processor down.
    #[error("the processor is shut down (triple fault): make a new machine or restore this one")]
    Shutdown,
    /// One instruction made the guest exit over and over.
    #[error("one guest instruction at {rip:#x} made more than {limit} device accesses: the guest is broken")]
    EndlessInstruction {
        /// Where.
        rip: u64,
        /// Accesses possible.
        limit: u32,
    },
    /// The vCPU failed.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
}

/// Why the dirty pages cannot be told or protected.
#[derive(Debug, Error)]
pub enum DirtyError {
    /// A page that does not exist.
    #[error("there is no page {page} to protect, the guest has {pages}: the other host sent nonsense")]
    NoSuchPage {
        /// The page asked for.
        page: u32,
        /// How many there are.
        pages: u32,
    },
    /// The backend's log failed.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
}

/// Why a state cannot be saved.
#[derive(Debug, Error)]
pub enum SaveError {
    /// There is no guest in it.
    #[error("the machine holds no guest that could go on: boot or restore it first")]
    NotStarted,
    /// The vCPU failed.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The state cannot be written down.
    #[error("the machine's state cannot be encoded: {0}")]
    Encode(String),
}

/// Why a saved state was refused.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// Not a saved machine.
    #[error("this is not a saved machine: it does not begin with the mark of one")]
    NotAMachine,
    /// Another version of the program wrote it.
    #[error(
        "the saved machine has format {got}, this program reads format {want}: use the same version on both hosts"
    )]
    Version {
        /// Format found.
        got: u16,
        /// Format known.
        want: u16,
    },
    /// Short, long or garbled.
    #[error("the saved machine is damaged: {0}: save it again")]
    Damaged(String),
    /// The vCPU refuses its part.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The devices refuse their part.
    #[error("the devices refuse their part of the saved machine: {0}")]
    Devices(#[from] devices::RestoreError),
}

/// Why a whole machine cannot be written.
#[derive(Debug, Error)]
pub enum SaveImageError {
    /// The machine has no state.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Writing failed.
    #[error("the machine cannot be written: {0}: make room, or choose another place")]
    Write(#[from] io::Error),
}

/// Why a whole machine that was written is refused.
#[derive(Debug, Error)]
pub enum LoadImageError {
    /// Reading failed, or the image ends too early.
    #[error("the saved machine cannot be read: {0}: it is cut short or unreadable, take another copy")]
    Read(#[from] io::Error),
    /// Not an image of a machine.
    #[error("this is not a whole saved machine: it does not begin with the mark of one")]
    NotAnImage,
    /// Another version of the program wrote it.
    #[error(
        "the saved machine has image format {got}, this program reads format {want}: use the same version"
    )]
    Version {
        /// Format found.
        got: u16,
        /// Format known.
        want: u16,
    },
    /// It was saved on a machine of another kind.
    #[error(
        "the saved machine had another {0}: restore it with the same configuration, program version and \
         processor vendor"
    )]
    OtherMachine(&'static str),
    /// Impossible contents, or a wrong checksum.
    #[error("the saved machine is damaged ({0}): take another copy")]
    Damaged(&'static str),
    /// The machine refuses its state.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}
