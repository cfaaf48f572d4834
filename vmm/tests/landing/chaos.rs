//! A guest in which an interrupt one instruction early or late changes everything after it.

use devices::Stimulus;
use vmm::{Landing, Reached, RunError, SaveError, Stop, VcpuError, Vm};

use crate::guest::{self, Program, booted, booted_without_landings};
use crate::harness::{SMALL, find, record, replay, whole};

fn machine(name: &str) -> Option<Vm> {
    booted(name, Program::Chaos).and_then(guest::landing)
}

#[test]
fn interrupts_at_landings_are_found_again() {
    const COUNT: usize = 300;
    let (Some(mut a), Some(mut b), Some(mut c)) =
        (machine("chaos-a"), machine("chaos-b"), machine("chaos-c"))
    else {
        return;
    };
    let recording = record(&mut a, &SMALL, COUNT, 7).expect("the guest runs");
    let replayed = replay(&mut b, &recording.marks, None, 8).expect("the guest runs");
    assert!(
        replayed.equals(&recording),
        "{} of {COUNT} found, {} different, {} with other effects, missed: {:?}, end equal: {}",
        replayed.found,
        replayed.different,
        replayed.other_effects,
        replayed.missed,
        replayed.end == recording.end
    );
    let control = replay(&mut c, &recording.marks, Some(COUNT - 1), 9).expect("the guest runs");
    assert!(!control.equals(&recording), "one interrupt came one landing late");
    assert_ne!(control.end, recording.end);
    if !a.capabilities().landing_kernel {
        assert!(
            recording.marks.iter().all(|mark| mark.privilege == 3),
            "kernel code is emulated on this host"
        );
    }
}

/// The stub starts as a kernel, and the program's first exit is one of user mode.
#[test]
fn the_privilege_level_is_that_of_the_code() {
    let Some(mut vm) = booted_without_landings("privilege", Program::Chaos) else { return };
    assert_eq!(vm.privilege().expect("it was booted"), 0);
    vm.run().expect("runs");
    assert_eq!(vm.privilege().expect("it runs"), 3);
    let mut empty = guest::empty("privilege-empty").expect("there was a machine a moment ago");
    assert!(matches!(empty.privilege(), Err(SaveError::NotStarted)));
}

/// The landing after the first, looked for under the address of another instruction.
#[test]
fn a_store_by_another_instruction_is_a_miss() {
    let (Some(mut a), Some(mut b)) = (machine("miss-a"), machine("miss-b")) else { return };
    let marks = record(&mut a, &SMALL, 5, 1).expect("the guest runs").marks;
    assert!(replay(&mut b, &marks[..4], None, 2).expect("the guest runs").missed.is_none());
    let Landing { page, rip } = marks[4].landing;
    let reached = find(&mut b, Landing { page, rip: rip - 1 }).expect("the guest runs");
    assert_eq!(reached, Reached::Missed(Landing { page, rip }));
    b.save().expect("the machine can go on, as the repair that follows needs");
}

/// The landing after the first, with many more stores said to come before it than there are: the search wakes too late,
/// and says so.
#[test]
fn a_search_that_looks_too_late_is_a_miss() {
    let (Some(mut a), Some(mut b)) = (machine("late-a"), machine("late-b")) else { return };
    let marks = record(&mut a, &SMALL, 5, 1).expect("the guest runs").marks;
    assert!(replay(&mut b, &marks[..4], None, 2).expect("the guest runs").missed.is_none());
    let landing = marks[4].landing;
    // The kernel pushes some pages more than once, so it takes a good many to be late.
    let unseen = 190;
    assert!(marks[4].dirtied < 90, "{} stores come before it", marks[4].dirtied);
    let reached = loop {
        match b.find(landing, unseen).expect("the guest runs") {
            Reached::Stop(_) => {}
            reached => break reached,
        }
    };
    assert!(matches!(reached, Reached::Missed(Landing { page, .. }) if page == landing.page), "{reached:?}");
}

#[test]
fn pages_beyond_memory_are_refused() {
    let Some(mut vm) = machine("beyond") else { return };
    let pages = vm.page_count();
    assert!(matches!(vm.find(Landing { page: pages, rip: 0 }, 0), Err(RunError::NoSuchPage { .. })));
    assert!(vm.protect(&[0, pages]).is_err());
    vm.protect(&[0, pages - 1]).expect("these exist");
}

#[test]
fn a_machine_without_landings_says_so_and_runs() {
    let Some(mut vm) = booted_without_landings("without", Program::Chaos) else { return };
    assert!(!vm.capabilities().landing);
    assert!(vm.landing_obstacle().is_some());
    assert!(matches!(vm.seek(), Err(RunError::Vcpu(VcpuError::NoLandings(_)))));
    assert!(vm.protect(&[0x400]).is_err());
    assert!(vm.open_pages().is_err());
    assert!(matches!(vm.run().expect("runs"), Stop::Exit(_)));
    assert!(!vm.take_dirty().expect("the log works").is_empty());
}

/// A machine that was copied at a landing is as good as the one that landed.
#[test]
fn a_landing_can_be_moved() {
    let (Some(mut a), Some(mut b)) = (machine("move-a"), machine("move-b")) else { return };
    let first = record(&mut a, &SMALL, 20, 3).expect("the guest runs").marks;
    assert!(replay(&mut b, &first[..10], None, 4).expect("the guest runs").missed.is_none());
    let mut page = [0; vmm::PAGE_SIZE];
    for number in 0..a.page_count() {
        a.read_page(number, &mut page);
        b.write_page(number, &page);
    }
    b.restore(&a.save().expect("saves")).expect("restores");
    for vm in [&mut a, &mut b] {
        vm.take_dirty().expect("the ring works");
        vm.place(&Stimulus::Time(1_000_000)).expect("time goes on");
    }
    for _ in 0..20 {
        let Reached::Landing(landing) = a.seek().expect("the guest runs") else { continue };
        assert_eq!(find(&mut b, landing).expect("the guest runs"), Reached::Landing(landing));
        assert_eq!(whole(&mut a), whole(&mut b));
    }
}
