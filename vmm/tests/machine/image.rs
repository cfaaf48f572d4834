//! Whole machines, saved and continued.

use std::arch::global_asm;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::guest::{Program, between, booted, booted_from, empty, machine, memory, read_u64, user_elf};
use devices::{Effect, Stimulus};
use vmm::{LoadImageError, Stop, Vm, VmConfig};

// Counts to a million in memory and in a register, prints at every 50,000, powers off at the end.
global_asm!(
    ".pushsection .rodata.twinrun_test_count, \"a\"",
    ".global twinrun_count, twinrun_count_end",
    "twinrun_count:",
    "xor r8d, r8d",
    "2: inc r8",
    "inc qword ptr [0x300000]",
    "dec qword ptr [0x300008]",
    "xor edx, edx",
    "mov eax, r8d",
    "mov ecx, 50000",
    "div ecx",
    "test edx, edx",
    "jnz 2b",
    "mov edx, 0xe9",
    "add al, 64",
    "out dx, al",
    "cmp r8d, 1000000",
    "jb 2b",
    "mov edx, 0x604",
    "mov eax, 0x2000",
    "out dx, ax",
    "3: jmp 3b",
    "twinrun_count_end:",
    ".popsection",
);

unsafe extern "C" {
    static twinrun_count: u8;
    static twinrun_count_end: u8;
}

fn image(vm: &mut Vm) -> Vec<u8> {
    let mut bytes = Vec::new();
    vm.save_to(&mut bytes).expect("a list takes every byte");
    bytes
}

/// Runs until the guest has printed two letters or is off, or until a kick that comes after `patience`. What it
/// printed is added to `text`; whether it is off is returned.
fn run(vm: &mut Vm, patience: Option<Duration>, text: &mut Vec<u8>) -> bool {
    let kicker = vm.kicker();
    // A kick that came after the end would be the next run's.
    let (done, waiting) = mpsc::channel::<()>();
    let kicking = patience.map(|patience| {
        thread::spawn(move || {
            if waiting.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                kicker.kick();
            }
        })
    });
    let (mut off, enough) = (false, text.len() + 2);
    loop {
        let stop = vm.run().expect("the guest runs");
        for effect in vm.take_effects() {
            match effect {
                Effect::Console(bytes) => text.extend(bytes),
                Effect::PowerOff => off = true,
                other => panic!("{other:?}"),
            }
        }
        if off || text.len() == enough || stop == Stop::Kicked {
            drop(done);
            if let Some(kicking) = kicking {
                kicking.join().expect("it only waits");
            }
            return off;
        }
    }
}

#[test]
fn a_guest_that_counts_to_a_million_across_ten_saves_counts_right() {
    let elf = user_elf(between(&raw const twinrun_count, &raw const twinrun_count_end));
    let Some(mut vm) = booted_from("count", &elf) else { return };
    let mut text = Vec::new();
    for save in 0..10_u32 {
        // Wherever the kick finds it, or at a letter: the last two of them come before the end.
        let off = run(&mut vm, Some(Duration::from_micros(u64::from(save) * 200)), &mut text);
        assert!(!off, "save {save} is in the middle");
        let saved = image(&mut vm);
        let Some(mut next) = empty(&format!("count-{save}")) else { return };
        next.restore_from(&mut saved.as_slice()).expect("an intact image");
        assert_eq!(image(&mut next), saved, "what was restored is what was saved");
        vm = next;
    }
    while !run(&mut vm, None, &mut text) {}
    assert_eq!(text, b"ABCDEFGHIJKLMNOPQRST");
    let count = 1_000_000_u64;
    assert_eq!((read_u64(&vm, 0x300, 0), read_u64(&vm, 0x300, 8)), (count, count.wrapping_neg()));
}

fn churned(name: &str) -> Option<Vm> {
    let mut vm = booted(name, Program::Churn)?;
    for at in 0..200 {
        vm.place(&Stimulus::Time(at * 70_000)).expect("time goes on");
        while vm.run().expect("the guest runs") == Stop::Kicked {}
    }
    vm.take_effects();
    Some(vm)
}

/// A machine that held something else before has nothing of it afterwards.
#[test]
fn an_image_replaces_all_that_was_there() {
    let (Some(mut vm), Some(mut other)) = (churned("image-a"), booted("image-b", Program::Spin)) else {
        return;
    };
    other.write_page(0xf00, &[7; 4096]);
    let saved = image(&mut vm);
    assert!(saved.len() < 8 << 20, "zero pages are left out: {} bytes", saved.len());
    other.restore_from(&mut saved.as_slice()).expect("an intact image");
    assert!(memory(&vm) == memory(&other), "memory differs");
    assert_eq!(vm.save().expect("saves"), other.save().expect("saves"));
}

#[test]
fn images_that_are_not_intact_are_refused() {
    let (Some(mut vm), Some(mut fresh)) = (churned("intact"), empty("intact-b")) else { return };
    let saved = image(&mut vm);
    let mut refuse = |bytes: &[u8]| fresh.restore_from(&mut &*bytes).expect_err("refused");
    for at in [8, 9].into_iter().chain((0..saved.len()).step_by(9_973)).chain([saved.len() - 1]) {
        let mut flipped = saved.clone();
        flipped[at] ^= 0x10;
        refuse(&flipped);
        refuse(&saved[..at]);
    }
    assert!(matches!(refuse(b"TWNRUNPX"), LoadImageError::NotAnImage));
    assert!(matches!(refuse(b"TWNRUNPC\x02\0"), LoadImageError::Version { got: 2, want: 1 }));
    assert!(matches!(refuse(&[]), LoadImageError::Read(_)));
    assert!(fresh.run().is_err(), "a machine that refused an image cannot run");
    fresh.restore_from(&mut saved.as_slice()).expect("the intact one is taken after all");
}

#[test]
fn images_of_other_machines_are_refused() {
    let Some(mut vm) = churned("others") else { return };
    let saved = image(&mut vm);
    let kernel = crate::guest::Kernel::new("others-b", b"");
    let config = kernel.config();
    let mut disks = config.clone();
    disks.platform.disks = vec![65];
    for other in [VmConfig { memory_mib: 17, ..config }, disks] {
        let mut other = machine(&other).expect("there was one before");
        let error = other.restore_from(&mut saved.as_slice()).expect_err("refused");
        assert!(matches!(error, LoadImageError::OtherMachine(_)), "{error}");
    }
}
