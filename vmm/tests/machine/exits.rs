//! Exits, sleep and wake, kicks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::guest::{Program, RESULTS, booted, read_u64};
use devices::{Effect, Stimulus};
use vmm::{BootError, ExitKind, RunError, Stop, Vm, VmConfig, VmError};

/// Runs to the next deterministic exit.
fn next_exit(vm: &mut Vm) -> ExitKind {
    match vm.run().expect("the guest runs") {
        Stop::Exit(kind) => kind,
        other => panic!("{other:?} instead of an exit"),
    }
}

#[test]
fn devices_answer_every_kind_of_access() {
    let Some(mut vm) = booted("io", Program::Io) else { return };
    let exits: Vec<ExitKind> = (0..9).map(|_| next_exit(&mut vm)).collect();
    use ExitKind::{Mmio, Pio};
    // Console; version; SVR; task priority (read and write are one instruction, so one exit); SVR; task
    // priority; configuration address and data; power off.
    assert_eq!(exits, [Pio, Mmio, Mmio, Mmio, Mmio, Mmio, Pio, Pio, Pio]);
}

#[test]
fn what_the_devices_answered_is_in_the_guest() {
    let Some(mut vm) = booted("answers", Program::Io) else { return };
    for _ in 0..9 {
        next_exit(&mut vm);
    }
    assert_eq!(vm.take_effects(), [Effect::Console(b"A".to_vec()), Effect::PowerOff]);
    assert_eq!(read_u64(&vm, RESULTS, 0) & 0xff, 0x14, "version of the local APIC");
    assert_eq!(read_u64(&vm, RESULTS, 0x10), 0x20_0000_01ff, "SVR and task priority");
    assert_eq!(read_u64(&vm, RESULTS, 0x18), 0x1237_8086, "host bridge");
}

#[test]
fn a_halted_guest_wakes_by_its_timer() {
    let Some(mut vm) = booted("sleep", Program::Sleep) else { return };
    for round in 0..5 {
        while !vm.waits() {
            assert!(matches!(vm.run().expect("runs"), Stop::Exit(_)));
        }
        assert!(matches!(vm.run(), Err(RunError::Halted)));
        assert_eq!(read_u64(&vm, RESULTS, 0), round, "sleeps so far");
        let deadline = vm.next_deadline().expect("the timer is armed");
        assert_eq!(deadline, vm.now() + 1_000_000);
        vm.place(&Stimulus::Time(deadline - 1)).expect("time goes on");
        assert!(vm.waits(), "one nanosecond early");
        vm.place(&Stimulus::Time(deadline)).expect("time goes on");
        assert!(!vm.waits());
    }
}

/// A kick that is lost leaves the guest computing, and this test running, for ever.
#[test]
fn no_kick_is_lost() {
    const ROUNDS: u32 = 3000;
    let Some(mut vm) = booted("spin", Program::Spin) else { return };
    let kicker = vm.kicker();
    // Both threads spin, so that a kick can come at any step of the entry, not only well inside the guest.
    let round = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&round);
    let thread = thread::spawn(move || {
        for number in 1..=ROUNDS {
            while seen.load(Ordering::Acquire) < number {
                std::hint::spin_loop();
            }
            for _ in 0..number % 64 {
                std::hint::spin_loop();
            }
            if number % 64 == 0 {
                // Now and then long after the entry: such a kick finds a guest that runs.
                thread::sleep(Duration::from_millis(1));
            }
            kicker.kick();
        }
    });
    for number in 1..=ROUNDS {
        round.store(number, Ordering::Release);
        assert_eq!(vm.run().expect("the guest runs"), Stop::Kicked);
    }
    thread.join().expect("the kicker ends");
    assert!(read_u64(&vm, RESULTS, 0) > 0, "the guest never ran between the kicks");
}

#[test]
fn kicks_before_a_run_are_one() {
    let Some(mut vm) = booted("early", Program::Io) else { return };
    vm.kicker().kick();
    vm.kicker().kick();
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Pio));
}

/// An interrupt is in the vCPU's queue when one of higher priority comes up.
#[test]
fn a_queued_interrupt_is_not_overwritten() {
    let Some(mut vm) = booted("twice", Program::Twice) else { return };
    for _ in 0..4 {
        assert_eq!(next_exit(&mut vm), ExitKind::Mmio);
    }
    vm.kicker().kick();
    assert_eq!(vm.run().expect("runs"), Stop::Kicked);
    let deadline = vm.next_deadline().expect("the timer is armed");
    vm.place(&Stimulus::Time(deadline)).expect("time goes on");
    for _ in 0..20 {
        next_exit(&mut vm);
    }
    assert_eq!(read_u64(&vm, RESULTS, 0x08), 1, "the first interrupt arrived");
    assert_eq!(read_u64(&vm, RESULTS, 0x20), 1, "the second interrupt arrived");
}

#[test]
fn kicks_between_exits_are_not_lost_and_exits_not_repeated() {
    let Some(mut vm) = booted("storm", Program::Churn) else { return };
    let kicker = vm.kicker();
    let (go, start) = mpsc::channel::<()>();
    let thread = thread::spawn(move || start.iter().for_each(|()| kicker.kick()));
    let mut printed = Vec::new();
    for _ in 0..300 {
        go.send(()).expect("the kicker lives");
        while vm.run().expect("the guest runs") != Stop::Kicked {}
        printed.extend(console(&mut vm));
    }
    drop(go);
    thread.join().expect("the kicker ends");
    let Some(mut calm) = booted("calm", Program::Churn) else { return };
    let mut expected = Vec::new();
    while expected.len() < printed.len() {
        next_exit(&mut calm);
        expected.extend(console(&mut calm));
    }
    assert_eq!(printed, expected);
}

fn console(vm: &mut Vm) -> Vec<u8> {
    let bytes = |effect| match effect {
        Effect::Console(bytes) => bytes,
        other => panic!("{other:?} from a guest that only prints"),
    };
    vm.take_effects().into_iter().flat_map(bytes).collect()
}

#[test]
fn kernels_that_cannot_be_loaded_are_refused() {
    let config = |kernel: &crate::guest::Kernel| VmConfig { memory_mib: 4, ..kernel.config() };
    let code = [0xf4_u8; 16];
    let cases = [
        ("empty", Vec::new(), "ELF64"),
        ("text", b"#!/bin/sh\nexit 0\n".repeat(10), "ELF64"),
        (
            "low",
            crate::guest::elf(0x20_0000, &[(0x20_0000, &code), (0x8000, &code)]),
            "between 0x0 and 0x20000",
        ),
        (
            "table",
            crate::guest::elf(0x20_0000, &[(0x20_0000, &code), (0xe_8000, &code)]),
            "between 0xe0000 and",
        ),
        ("entry", crate::guest::elf(0x30_0000, &[(0x20_0000, &code)]), "entry 0x300000"),
        ("high", crate::guest::elf(0x20_0000, &[(0x20_0000, &code), (0x40_0000, &code)]), "between"),
    ];
    for (name, bytes, words) in cases {
        let kernel = crate::guest::Kernel::new(&format!("bad-{name}"), &bytes);
        let Some(mut vm) = crate::guest::machine(&config(&kernel)) else { return };
        let error = vm.boot().expect_err(name).to_string();
        assert!(error.contains(words), "{name}: {error}");
        assert!(matches!(vm.run(), Err(RunError::NotStarted)));
        assert!(matches!(vm.boot(), Err(BootError::AlreadyStarted)));
    }
}

#[test]
fn impossible_machines_are_refused() {
    let kernel = crate::guest::Kernel::new("none", b"");
    for memory_mib in [0, 3073, u32::MAX] {
        let error = Vm::new(&VmConfig { memory_mib, ..kernel.config() }).expect_err("refused");
        assert!(matches!(error, VmError::MemorySize { .. }), "{error}");
    }
}
