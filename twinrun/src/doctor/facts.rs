//! What there is on this host.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use devices::PlatformConfig;
use vmm::{Capabilities, Stop, Vm, VmConfig};

use crate::host::sys::monotonic_ns;

/// Exits that are timed.
pub(super) const EXITS: usize = 300;
/// Memory of the machine that is made for trying, in MiB.
const MEMORY_MIB: u32 = 4;
/// Where the guest that makes exits is loaded.
const CODE: u64 = 0x20_0000;
/// `mov edx, 0xe9; 2: out dx, al; jmp 2b`
const EXITING: [u8; 8] = [0xba, 0xe9, 0, 0, 0, 0xee, 0xeb, 0xfd];

/// The kind of KVM, by the module that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// VMX.
    Intel,
    /// SVM.
    Amd,
    /// Without the processor's help: user mode runs natively, kernel mode is emulated.
    Pvm,
    /// None of these, or more than one.
    Unknown,
}

impl Kvm {
    /// As the module is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kvm::Intel => "kvm_intel",
            Kvm::Amd => "kvm_amd",
            Kvm::Pvm => "kvm_pvm",
            Kvm::Unknown => "unknown",
        }
    }

    fn loaded(modules: &Path) -> Self {
        let all = [Kvm::Intel, Kvm::Amd, Kvm::Pvm];
        let mut there = all.into_iter().filter(|kind| modules.join(kind.name()).is_dir());
        match (there.next(), there.next()) {
            (Some(kind), None) => kind,
            _ => Kvm::Unknown,
        }
    }
}

/// A small machine that was made and thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Places that can be found again.
    pub capabilities: Capabilities,
    /// Why there are no landings, and what to change.
    pub obstacle: Option<String>,
    /// Digest of the machine table.
    pub table: u128,
}

/// Everything that was looked at. An error is a text for people.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether /dev/kvm can be opened for reading and writing.
    pub kvm_device: Result<(), String>,
    /// Which module.
    pub kvm: Kvm,
    /// A machine, or why there cannot be one.
    pub machine: Result<Tried, String>,
    /// Whether kvm_intel logs modified pages by itself; `None`: another kind, or it does not say.
    pub pml: Option<bool>,
    /// What an exit costs, in ns; `None`: it could not be measured.
    pub exit_ns: Option<u64>,
    /// Whether the processor says that it can scale a guest's time stamp counter.
    pub tsc_scaling: bool,
    /// Whether the kernel has the processor's performance counters.
    pub pmu: bool,
    /// Whether /dev/net/tun can be opened for reading and writing.
    pub tun: Result<(), String>,
    /// Whether this process belongs to root.
    pub root: bool,
    /// Most memory that this process may lock, in bytes, unless it is root's; `None`: no limit, or unknown.
    pub lock_limit: Option<u64>,
}

/// Looks at this host. Leaves nothing behind.
#[must_use]
pub fn look() -> Facts {
    let machine = try_machine();
    Facts {
        kvm_device: opens("/dev/kvm"),
        kvm: Kvm::loaded(Path::new("/sys/module")),
        exit_ns: machine.as_ref().ok().and_then(|_| cost_of_exit()),
        machine,
        pml: fs::read_to_string("/sys/module/kvm_intel/parameters/pml").ok().map(|text| text.trim() == "Y"),
        tsc_scaling: fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| scales_tsc(&text)),
        pmu: ["cpu", "cpu_core"]
            .iter()
            .any(|pmu| Path::new("/sys/bus/event_source/devices").join(pmu).exists()),
        tun: opens("/dev/net/tun"),
        root: fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0),
        lock_limit: fs::read_to_string("/proc/self/limits").ok().and_then(|text| lock_limit(&text)),
    }
}

fn opens(device: &str) -> Result<(), String> {
    OpenOptions::new().read(true).write(true).open(device).map(drop).map_err(|error| error.to_string())
}

/// AMD lists it among the processor's flags, Intel among those of VMX.
fn scales_tsc(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags") || line.starts_with("vmx flags"));
    flags.flat_map(str::split_whitespace).any(|flag| matches!(flag, "tsc_scale" | "tsc_scaling"))
}

/// The soft limit in the text of `/proc/self/limits`.
fn lock_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn config(kernel: &Path) -> VmConfig {
    VmConfig {
        memory_mib: MEMORY_MIB,
        kernel: kernel.to_owned(),
        initrd: None,
        cmdline: String::new(),
        platform: PlatformConfig::default(),
    }
}

fn try_machine() -> Result<Tried, String> {
    let vm = Vm::new(&config(Path::new("none"))).map_err(|error| error.to_string())?;
    Ok(Tried { capabilities: vm.capabilities(), obstacle: vm.landing_obstacle(), table: Vm::table_digest() })
}

/// The median time that an exit takes, from the guest to its devices and back.
fn cost_of_exit() -> Option<u64> {
    // A file without a name: it goes away with the handle.
    let dir = std::env::temp_dir();
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(dir).ok()?;
    file.write_all(&kernel()).ok()?;
    let mut vm = Vm::new(&config(Path::new(&path_of(&file)))).ok()?;
    vm.boot().ok()?;
    let mut times = Vec::with_capacity(EXITS);
    for _ in 0..EXITS {
        let begin = monotonic_ns();
        let Ok(Stop::Exit(_)) = vm.run() else { return None };
        times.push(monotonic_ns().saturating_sub(begin));
        // What it printed is not kept.
        vm.take_effects();
    }
    times.sort_unstable();
    times.get(EXITS / 2).copied()
}

fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A static ELF64 executable of one segment (System V ABI, "ELF Header" and "Program Header").
fn kernel() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    elf.extend([CODE, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend([0u16, 0, 64, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let length = EXITING.len() as u64;
    elf.extend([120, CODE, CODE, length, length, 1].iter().flat_map(|word: &u64| word.to_le_bytes()));
    elf.extend(EXITING);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_locked_memory_is_the_soft_one() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max locked memory         8388608              16777216             bytes     \n";
        assert_eq!(lock_limit(text), Some(8 << 20));
        assert_eq!(
            lock_limit("Max locked memory         unlimited            unlimited            bytes"),
            None
        );
        assert_eq!(lock_limit(""), None);
    }

    #[test]
    fn scaling_is_found_with_either_vendor_and_not_in_other_words() {
        assert!(scales_tsc("processor : 0\nflags\t\t: fpu tsc_scale lbrv\n"));
        assert!(scales_tsc("vmx flags\t: vnmi ept tsc_scaling\n"));
        assert!(!scales_tsc("flags\t\t: fpu tsc constant_tsc tsc_adjust\nbugs : tsc_scale\n"));
    }

    #[test]
    fn one_module_tells_the_kind_and_two_do_not() {
        let modules = tempfile::tempdir().expect("a directory");
        assert_eq!(Kvm::loaded(modules.path()), Kvm::Unknown);
        fs::create_dir(modules.path().join("kvm_amd")).expect("a directory");
        assert_eq!(Kvm::loaded(modules.path()), Kvm::Amd);
        fs::create_dir(modules.path().join("kvm_pvm")).expect("a directory");
        assert_eq!(Kvm::loaded(modules.path()), Kvm::Unknown);
    }

    #[test]
    fn where_a_machine_can_be_made_its_exits_can_be_timed() {
        match try_machine() {
            Err(why) => println!("SKIPPED: {why}"),
            Ok(_) => assert!(cost_of_exit().is_some_and(|ns| ns > 0)),
        }
    }
}
