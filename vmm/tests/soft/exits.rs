//! The exits of [`guest::Program`]s are those of every backend.

use devices::{Effect, Stimulus};
use vmm::{ExitKind, RunError, Stop, Vm};

use crate::booted;
use crate::guest::{Program, RESULTS, read_u64};

fn next_exit(vm: &mut Vm) -> ExitKind {
    match vm.run().expect("the guest runs") {
        Stop::Exit(kind) => kind,
        other => panic!("{other:?} instead of an exit"),
    }
}

#[test]
fn devices_answer_every_kind_of_access() {
    let mut vm = booted("io", &Program::Io.elf());
    let exits: Vec<ExitKind> = (0..9).map(|_| next_exit(&mut vm)).collect();
    use ExitKind::{Mmio, Pio};
    assert_eq!(exits, [Pio, Mmio, Mmio, Mmio, Mmio, Mmio, Pio, Pio, Pio]);
    assert_eq!(vm.take_effects(), [Effect::Console(b"A".to_vec()), Effect::PowerOff]);
    assert_eq!(read_u64(&vm, RESULTS, 0) & 0xff, 0x14, "version of the local APIC");
    assert_eq!(read_u64(&vm, RESULTS, 0x10), 0x20_0000_01ff, "SVR and task priority");
    assert_eq!(read_u64(&vm, RESULTS, 0x18), 0x1237_8086, "host bridge");
}

#[test]
fn a_halted_guest_wakes_by_its_timer() {
    let mut vm = booted("sleep", &Program::Sleep.elf());
    for round in 0..5 {
        while !vm.waits() {
            assert!(matches!(vm.run().expect("runs"), Stop::Exit(_)));
        }
        assert!(matches!(vm.run(), Err(RunError::Halted)));
        assert_eq!(read_u64(&vm, RESULTS, 0), round, "sleeps so far");
        let deadline = vm.next_deadline().expect("the timer is armed");
        vm.place(&Stimulus::Time(deadline - 1)).expect("time goes on");
        assert!(vm.waits(), "one nanosecond early");
        vm.place(&Stimulus::Time(deadline)).expect("time goes on");
        assert!(!vm.waits());
    }
}

#[test]
fn a_kick_before_a_run_stops_it_and_loses_nothing() {
    let mut vm = booted("early", &Program::Io.elf());
    vm.kicker().kick();
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    assert_eq!(next_exit(&mut vm), ExitKind::Pio);
}

#[test]
fn a_kick_stops_a_guest_that_computes() {
    let mut vm = booted("spin", &Program::Spin.elf());
    let kicker = vm.kicker();
    let thread = std::thread::spawn(move || kicker.kick());
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    thread.join().expect("the kicker ends");
}
