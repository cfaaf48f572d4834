//! Two machines that must stay equal.

use std::thread;
use std::time::Duration;

use crate::guest::{Program, booted, booted_without_landings, empty, memory};
use devices::{Effect, Stimulus};
use vmm::{RestoreError, Stop, Vm};

/// Runs over `exits` deterministic exits; before some of them time goes on, so that interrupts come.
fn advance(vm: &mut Vm, from: u64, exits: u64) -> Vec<Effect> {
    for at in from..from + exits {
        if at % 3 == 0 {
            vm.place(&Stimulus::Time(at * 70_000)).expect("time goes on");
        }
        while vm.run().expect("the guest runs") == Stop::Kicked {}
    }
    vm.take_effects()
}

fn copy(from: &mut Vm, to: &mut Vm) {
    let mut bytes = [0; 4096];
    for page in 0..from.page_count() {
        from.read_page(page, &mut bytes);
        to.write_page(page, &bytes);
    }
    to.restore(&from.save().expect("saves")).expect("restores");
}

fn assert_equal(a: &mut Vm, b: &mut Vm) {
    assert_eq!(a.save().expect("saves"), b.save().expect("saves"), "vCPU or devices differ");
    let differing: Vec<usize> = memory(a)
        .iter()
        .zip(memory(b))
        .enumerate()
        .filter(|(_, (a, b))| *a != b)
        .map(|(page, _)| page)
        .collect();
    assert!(differing.is_empty(), "pages {differing:x?} differ");
}

#[test]
fn the_same_events_give_the_same_machine() {
    let (Some(mut a), Some(mut b)) = (booted("same-a", Program::Churn), booted("same-b", Program::Churn))
    else {
        return;
    };
    for epoch in 0..20 {
        assert_eq!(advance(&mut a, epoch * 25, 25), advance(&mut b, epoch * 25, 25));
        assert_equal(&mut a, &mut b);
    }
}

/// Saving finishes an exit earlier than the next run would.
#[test]
fn looking_at_a_machine_does_not_change_its_course() {
    let (Some(mut a), Some(mut b)) = (booted("look-a", Program::Churn), booted("look-b", Program::Churn))
    else {
        return;
    };
    for at in 0..300 {
        advance(&mut a, at, 1);
        a.save().expect("saves");
    }
    for at in 0..300 {
        advance(&mut b, at, 1);
    }
    assert_equal(&mut a, &mut b);
}

#[test]
fn a_restored_machine_goes_on_equally() {
    let (Some(mut a), Some(mut b)) = (booted("restore-a", Program::Churn), empty("restore-b")) else {
        return;
    };
    for epoch in 0..5 {
        advance(&mut a, epoch * 200, 100);
        copy(&mut a, &mut b);
        assert_equal(&mut a, &mut b);
        assert_eq!(advance(&mut a, epoch * 200 + 100, 100), advance(&mut b, epoch * 200 + 100, 100));
        assert_equal(&mut a, &mut b);
    }
}

/// Stopped anywhere, even with an interrupt queued and not delivered.
#[test]
fn a_machine_moved_after_a_kick_goes_on_equally() {
    let (Some(mut a), Some(mut b)) = (booted("kick-a", Program::Churn), empty("kick-b")) else { return };
    let mut exits = 0;
    let mut queued = 0;
    for round in 0..40_u64 {
        advance(&mut a, exits, 5);
        exits += 9;
        // Long enough for a tick.
        a.place(&Stimulus::Time(exits * 70_000)).expect("time goes on");
        let before = a.save().expect("saves");
        exits += if round % 2 == 0 { kick_first(&mut a) } else { kick_inside(&mut a, round) };
        queued += u32::from(round % 2 == 0 && a.save().expect("saves") != before);
        copy(&mut a, &mut b);
        a.reevaluate();
        assert_equal(&mut a, &mut b);
        a.take_effects();
        b.take_effects();
        exits += 1;
        assert_eq!(advance(&mut a, exits, 10), advance(&mut b, exits, 10));
        assert_equal(&mut a, &mut b);
        exits += 10;
    }
    assert!(queued >= 10, "only {queued} machines were moved with an interrupt on its way");
}

/// The kick is there before the guest is entered: no instruction runs, but the interrupt is in the queue.
fn kick_first(vm: &mut Vm) -> u64 {
    vm.kicker().kick();
    assert_eq!(vm.run().expect("the guest runs"), Stop::Kicked);
    0
}

/// The kick comes some time later. Returns the exits before it.
fn kick_inside(vm: &mut Vm, round: u64) -> u64 {
    let kicker = vm.kicker();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_micros(round * 3));
        kicker.kick();
    });
    let mut exits = 0;
    while vm.run().expect("the guest runs") != Stop::Kicked {
        exits += 1;
    }
    thread.join().expect("the kicker ends");
    exits
}

#[test]
fn a_sleeping_machine_is_restored_asleep() {
    let (Some(mut a), Some(mut b)) = (booted("sleep-a", Program::Sleep), empty("sleep-b")) else { return };
    while !a.waits() {
        a.run().expect("the guest runs");
    }
    copy(&mut a, &mut b);
    assert!(b.waits());
    assert_equal(&mut a, &mut b);
    for vm in [&mut a, &mut b] {
        let deadline = vm.next_deadline().expect("the timer is armed");
        vm.place(&Stimulus::Time(deadline)).expect("time goes on");
        while !vm.waits() {
            vm.run().expect("the guest runs");
        }
    }
    assert_equal(&mut a, &mut b);
}

/// What the log says against what the bytes say, with writes of the guest and of this process.
#[test]
fn dirty_pages_are_those_that_changed() {
    for vm in [booted("dirty", Program::Churn), booted_without_landings("dirty-bitmap", Program::Churn)] {
        let Some(vm) = vm else { return };
        check_log(vm);
    }
}

fn check_log(mut vm: Vm) {
    advance(&mut vm, 0, 10);
    vm.take_dirty().expect("the log works");
    let mut before = memory(&vm);
    for epoch in 1..30_u64 {
        let ours = u32::try_from(0xa00 + epoch * 7).expect("a page number");
        let mut page = before[ours as usize];
        page[epoch as usize] ^= 0xff;
        vm.write_page(ours, &page);
        advance(&mut vm, epoch * 10, 10);
        let dirty = vm.take_dirty().expect("the log works");
        let after = memory(&vm);
        let changed = |page: u32| before[page as usize] != after[page as usize];
        let missed: Vec<u32> =
            (0..vm.page_count()).filter(|page| changed(*page) && !dirty.contains(page)).collect();
        assert!(missed.is_empty(), "pages {missed:x?} changed unnoticed");
        assert!(dirty.is_sorted_by(|a, b| a < b), "sorted and unique");
        assert!(dirty.contains(&ours));
        // Below are stacks and page tables, where the same value may be written again.
        let idle: Vec<u32> = dirty.iter().copied().filter(|page| *page >= 0x300 && !changed(*page)).collect();
        assert!(idle.is_empty(), "pages {idle:x?} are listed and did not change");
        before = after;
    }
    assert!(vm.take_dirty().expect("the log works").is_empty(), "a new log begins empty");
}

#[test]
fn garbage_is_not_restored() {
    let (Some(mut a), Some(mut b)) = (booted("garbage-a", Program::Churn), empty("garbage-b")) else {
        return;
    };
    advance(&mut a, 0, 10);
    let good = a.save().expect("saves");
    assert!(matches!(b.restore(&[]), Err(RestoreError::NotAMachine)));
    assert!(matches!(
        b.restore(&good[..good.len() - 1]),
        Err(RestoreError::Damaged(_) | RestoreError::Devices(_))
    ));
    assert!(b.run().is_err(), "a refused machine does not run");
    // Whatever a flipped bit does, it is a clear refusal or a machine that can be saved.
    for at in 0..good.len().min(400) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        if b.restore(&bad).is_ok() {
            b.save().expect("saves");
        }
    }
    copy(&mut a, &mut b);
    assert_equal(&mut a, &mut b);
}
