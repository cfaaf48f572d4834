//! A run stops after exactly the instructions that it was asked for, and however it is cut, the result is one.

use crate::guest::{Program, memory};
use crate::{booted, run_to};

/// Instructions of the comparison. The programs take several ticks in it.
const LENGTH: u64 = 30_000;

/// Runs one program twice, in steps of one and in steps of `stride`, and compares everything at each stop of the
/// longer steps.
fn compare(name: &str, program: Program, stride: u64) {
    let mut steps = booted(&format!("{name}-steps"), &program.elf());
    let mut runs = booted(&format!("{name}-runs"), &program.elf());
    let mut count = 0;
    while count < LENGTH {
        let next = count + stride;
        while count < next {
            count += 1;
            run_to(&mut steps, count);
            assert_eq!(steps.retired(), count);
        }
        run_to(&mut runs, count);
        assert_eq!(runs.retired(), count);
        assert_eq!(runs.save().expect("saves"), steps.save().expect("saves"), "{name} at {count}");
    }
    assert!(memory(&runs) == memory(&steps), "{name}: memory differs after {count}");
}

#[test]
fn a_run_is_the_sum_of_its_steps() {
    compare("churn", Program::Churn, 997);
    compare("chaos", Program::Chaos, 1_009);
    compare("sleep", Program::Sleep, 313);
    compare("twice", Program::Twice, 89);
}

#[test]
fn a_restored_machine_goes_on_the_same_way() {
    let mut whole = booted("whole", &Program::Chaos.elf());
    run_to(&mut whole, 400_000);
    let mut first = booted("first", &Program::Chaos.elf());
    run_to(&mut first, 123_457);
    let mut second = booted("second", &Program::Spin.elf());
    for (page, bytes) in memory(&first).iter().enumerate() {
        second.write_page(page as u32, bytes);
    }
    second.restore(&first.save().expect("saves")).expect("restores");
    run_to(&mut second, 400_000);
    assert_eq!(second.save().expect("saves"), whole.save().expect("saves"));
    assert!(memory(&second) == memory(&whole));
}
