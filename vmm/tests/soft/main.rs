//! The machine on the software processor: no `/dev/kvm` needed.

#[path = "../support/guest.rs"]
mod guest;

mod code;
mod exact;
mod exits;
mod x87;

use devices::Stimulus;
use vmm::table::cpuid::Vendor;
use vmm::{Backend, RunError, Stop, Vm};

/// A machine that is about to run this kernel.
fn booted(name: &str, elf: &[u8]) -> Vm {
    let kernel = guest::Kernel::new(&format!("soft-{name}"), elf);
    let mut vm =
        Vm::with_backend(&kernel.config(), Backend::Soft(Vendor::Intel)).expect("no host is too poor");
    vm.boot().expect("the test guest boots");
    vm
}

/// Runs to a count; at each exit on the way, virtual time goes on by 10 us, and on to the next deadline where
/// the guest sleeps.
fn run_to(vm: &mut Vm, count: u64) {
    loop {
        match vm.run_until(count) {
            Ok(None) => return,
            Ok(Some(Stop::Exit(_))) => {
                let later = vm.now() + 10_000;
                vm.place(&Stimulus::Time(later)).expect("time goes on");
            }
            Ok(Some(other)) => panic!("{other:?} in the middle of a test"),
            Err(RunError::Halted) => {
                let deadline = vm.next_deadline().expect("a timer is armed");
                vm.place(&Stimulus::Time(deadline)).expect("time goes on");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
