//! The interrupt rule, on a vCPU that does what the test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::boot::tests_support::boot_state;
use crate::table::cpuid::Vendor;
use crate::vcpu::{CpuState, Kick, Landing, LandingCounts};

/// What the machine did to the vCPU, and what the vCPU does next.
#[derive(Default)]
struct Script {
    exits: VecDeque<VmExit>,
    ready: bool,
    window: bool,
    injected: Vec<u8>,
    completed: u32,
    protected: Vec<u32>,
}

struct Scripted(Arc<Mutex<Script>>);

impl Kick for Mutex<Script> {
    fn kick(&self) {
        self.lock().expect("no panic").exits.push_front(VmExit::Interrupted);
    }
}

impl Vcpu for Scripted {
    fn capabilities(&self) -> Capabilities {
        Capabilities { exact: false, exit: true, landing: false, landing_kernel: false, asynchronous: true }
    }
    fn vendor(&self) -> Vendor {
        Vendor::Intel
    }
    fn landing_obstacle(&self) -> Option<String> {
        None
    }
    fn landing_counts(&self) -> LandingCounts {
        LandingCounts::default()
    }
    fn protect(&mut self, pages: &[u32]) -> Result<(), VcpuError> {
        self.0.lock().expect("no panic").protected.extend(pages);
        Ok(())
    }
    fn open_pages(&mut self) -> Result<Vec<u32>, VcpuError> {
        Ok(Vec::new())
    }
    fn first_stores(&mut self) -> Result<u64, VcpuError> {
        Ok(0)
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit, VcpuError> {
        let mut script = self.0.lock().expect("no panic");
        if !matches!(entry, VmEntry::Complete(_)) {
            return Ok(script.exits.pop_front().expect("the script goes on"));
        }
        script.completed += 1;
        Ok(VmExit::Completed)
    }
    fn kicker(&self) -> Kicker {
        let kick: Arc<Mutex<Script>> = Arc::clone(&self.0);
        Kicker(kick)
    }
    fn retired(&self) -> u64 {
        0
    }
    fn ready_for_interrupt(&self) -> bool {
        self.0.lock().expect("no panic").ready
    }
    fn inject(&mut self, vector: u8) -> Result<(), VcpuError> {
        self.0.lock().expect("no panic").injected.push(vector);
        Ok(())
    }
    fn request_window(&mut self, wanted: bool) {
        self.0.lock().expect("no panic").window = wanted;
    }
    fn task_priority(&self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, priority: u8) {
        assert_eq!(priority, 0, "the script leaves the task priority alone");
    }
    fn take_dirty(&mut self) -> Result<Vec<u64>, VcpuError> {
        Ok(Vec::new())
    }
    fn state(&mut self) -> Result<CpuState, VcpuError> {
        Ok(boot_state())
    }
    fn set_state(&mut self, _state: &CpuState) -> Result<(), VcpuError> {
        Ok(())
    }
}

/// A store to a register of the local APIC.
fn store(register: u64, value: u32) -> VmExit {
    let mut data = [0; 8];
    data[..4].copy_from_slice(&value.to_le_bytes());
    VmExit::MmioWrite { addr: 0xfee0_0000 + register, size: 4, data }
}

/// A machine whose guest enabled its APIC and sent itself vector 0x30, and the script behind it.
fn interrupted(then: &[VmExit]) -> (Vm, Arc<Mutex<Script>>) {
    let mut exits = VecDeque::from([store(0xf0, 0x1ff), store(0x300, 0x44030)]);
    exits.extend(then.iter().cloned());
    let script = Arc::new(Mutex::new(Script { exits, ..Script::default() }));
    let platform =
        PlatformConfig { macs: vec![[2, 0, 0, 0, 0, 1]], disks: vec![64], ..PlatformConfig::default() };
    let config =
        VmConfig { memory_mib: 1, kernel: PathBuf::new(), initrd: None, cmdline: String::new(), platform };
    let mut vm = Vm {
        ram: memory::allocate(1).expect("1 MiB"),
        vcpu: Box::new(Scripted(Arc::clone(&script))),
        platform: Platform::new(&config.platform).expect("a valid platform"),
        life: Life::Running,
        evaluate: true,
        unfinished: false,
        cr8: 0,
        config,
    };
    for _ in 0..2 {
        assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Mmio));
    }
    (vm, script)
}

fn set_ready(script: &Mutex<Script>, ready: bool) {
    script.lock().expect("no panic").ready = ready;
}

fn outcome(script: &Mutex<Script>) -> (bool, Vec<u8>) {
    let script = script.lock().expect("no panic");
    (script.window, script.injected.clone())
}

#[test]
fn a_kicked_run_goes_on_with_the_same_inputs() {
    let (mut vm, script) =
        interrupted(&[VmExit::Interrupted, VmExit::Interrupted, VmExit::Window, VmExit::Halt]);
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    assert_eq!(outcome(&script), (true, vec![]), "a closed vCPU is asked for a window");
    set_ready(&script, true);
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    assert_eq!(outcome(&script), (true, vec![]), "the kick changed nothing");
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Window));
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Halt));
    assert_eq!(outcome(&script), (false, vec![0x30]), "the window's exit is the place");
}

#[test]
fn a_stimulus_or_a_word_after_a_kick_decides_anew() {
    for by_word in [false, true] {
        let (mut vm, script) = interrupted(&[VmExit::Interrupted, VmExit::Interrupted]);
        assert_eq!(vm.run().expect("runs"), Stop::Kicked);
        set_ready(&script, true);
        if by_word {
            vm.reevaluate();
        } else {
            vm.place(&Stimulus::Time(5)).expect("time goes on");
        }
        assert_eq!(vm.run().expect("runs"), Stop::Kicked);
        assert_eq!(outcome(&script), (false, vec![0x30]));
    }
}

#[test]
fn a_store_is_finished_before_an_interrupt_is_decided_on() {
    let (mut vm, script) = interrupted(&[VmExit::Interrupted]);
    assert_eq!(script.lock().expect("no panic").completed, 0, "both stores were left to the next entry");
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    assert_eq!(script.lock().expect("no panic").completed, 1);
}

#[test]
fn a_halt_with_interrupts_off_waits_for_ever() {
    let (mut vm, script) = interrupted(&[VmExit::Halt, VmExit::Interrupted]);
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Halt));
    assert!(vm.waits(), "an interrupt waits, and the vCPU does not take it");
    vm.place(&Stimulus::Time(5)).expect("time goes on");
    assert!(matches!(vm.run(), Err(RunError::Halted)));
    set_ready(&script, true);
    assert!(!vm.waits());
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    assert_eq!(outcome(&script), (false, vec![0x30]));
    assert!(!vm.waits(), "the interrupt ended the halt");
}

#[test]
fn exit_numbers_are_fixed() {
    for (number, kind) in
        (1..).zip([ExitKind::Pio, ExitKind::Mmio, ExitKind::Msr, ExitKind::Halt, ExitKind::Window])
    {
        assert_eq!(ExitKind::from_number(number), Some(kind));
    }
    assert_eq!(ExitKind::from_number(0), None);
    assert_eq!(ExitKind::from_number(6), None);
}

#[test]
fn a_machine_can_move_to_its_thread() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync + Clone>() {}
    sendable::<Vm>();
    shareable::<Kicker>();
}

#[test]
fn a_landing_is_a_place_for_an_interrupt_and_a_miss_is_none() {
    let landing = Landing { page: 7, rip: 0x40_0000 };
    let (mut vm, script) =
        interrupted(&[VmExit::Missed(landing), VmExit::Landing(landing), VmExit::Interrupted]);
    assert_eq!(vm.find(landing, 0).expect("runs"), Reached::Missed(landing));
    set_ready(&script, true);
    assert_eq!(vm.seek().expect("runs"), Reached::Landing(landing));
    assert_eq!(outcome(&script), (true, vec![]), "a miss is no place");
    assert_eq!(vm.seek().expect("runs"), Reached::Stop(Stop::Kicked));
    assert_eq!(outcome(&script), (false, vec![0x30]));
}

#[test]
fn a_landing_with_interrupts_off_asks_for_a_window() {
    let landing = Landing { page: 7, rip: 0x40_0000 };
    let (mut vm, script) = interrupted(&[VmExit::Landing(landing), VmExit::Window, VmExit::Halt]);
    assert_eq!(vm.find(landing, 0).expect("runs"), Reached::Landing(landing));
    script.lock().expect("no panic").window = false;
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Window));
    assert_eq!(outcome(&script), (true, vec![]));
    set_ready(&script, true);
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Halt));
    assert_eq!(outcome(&script), (false, vec![0x30]));
}

#[test]
fn pages_that_do_not_exist_are_refused() {
    let (mut vm, script) = interrupted(&[]);
    assert!(matches!(
        vm.find(Landing { page: 256, rip: 0 }, 0),
        Err(RunError::NoSuchPage { page: 256, pages: 256 })
    ));
    assert!(matches!(vm.protect(&[255, 256]), Err(DirtyError::NoSuchPage { page: 256, pages: 256 })));
    assert_eq!(script.lock().expect("no panic").protected, [0_u32; 0]);
    vm.protect(&[255, 3]).expect("both exist");
    assert_eq!(script.lock().expect("no panic").protected, [255, 3]);
}
