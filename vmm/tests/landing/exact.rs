//! A guest whose stores are known one by one: a landing is at the instruction, not near it.

use std::arch::global_asm;
use std::collections::BTreeSet;

use vmm::{ExitKind, Landing, PAGE_SIZE, Reached, Stop, Vm};

use crate::guest::{self, PROGRAM, between, booted_from, user_elf};
use crate::harness::{Alarm, Random, find, state, whole};

/// Pages below hold stacks, tables and code.
const FIRST_PAGE: u32 = 0x300;

global_asm!(
    ".pushsection .rodata.twinrun_exact_guest, \"a\"",
    ".global twinrun_exact, twinrun_exact_end, twinrun_exact_table, twinrun_exact_table_end",
    "twinrun_exact:",
    "mov edx, 0xe9",
    "mov eax, 0x11223344",
    "mov ebx, 0x500000",
    "2: out dx, al",
    ".Ltwx1: mov [rbx], rax",
    // Crosses into the next page.
    ".Ltwx2: mov [rbx + 0x2ffc], rax",
    "lea rdi, [rbx + 0x4ff0]",
    "mov ecx, 32",
    ".Ltwx3: rep stosb",
    "lea rdi, [rbx + 0x6ff8]",
    "mov esi, 0x380000",
    "mov ecx, 16",
    ".Ltwx4: rep movsb",
    // Backwards from one page into the one before.
    "std",
    "lea rdi, [rbx + 0x15004]",
    "mov ecx, 16",
    ".Ltwx5: rep stosb",
    "cld",
    // Read-modify-write.
    ".Ltwx6: add qword ptr [rbx + 0x8000], 1",
    ".Ltwx7: xchg [rbx + 0x9008], rsi",
    ".Ltwx8: lock cmpxchg [rbx + 0xa010], rcx",
    ".Ltwx9: lock inc dword ptr [rbx + 0xb000]",
    ".Ltwx10: add qword ptr [rbx + 0x12ffc], 1",
    // Implicit stores.
    "lea rsp, [rbx + 0xd000]",
    ".Ltwx11: push rax",
    "lea rsp, [rbx + 0xe000]",
    ".Ltwx12: call 3f",
    "3:",
    ".Ltwx13: fxsave [rbx + 0xef00]",
    ".Ltwx14: movups [rbx + 0x10ff8], xmm0",
    // A page just mapped: the walk sets accessed and dirty bits on the way to the store.
    "mov edi, 0x13000",
    "mov qword ptr [rdi], 0",
    "mov ecx, 0x600087",
    "mov [rdi], rcx",
    "mov edi, 0x40000000",
    ".Ltwx15: mov [rdi + 0x18], rax",
    ".Ltwx16: inc qword ptr [0x300000]",
    "add rax, rbx",
    "jmp 2b",
    "twinrun_exact_end:",
    ".balign 8",
    // Offset of the instruction, the pages that it stores to (0: no second one).
    "twinrun_exact_table:",
    ".quad .Ltwx1 - twinrun_exact, 0x500, 0",
    ".quad .Ltwx2 - twinrun_exact, 0x502, 0x503",
    ".quad .Ltwx3 - twinrun_exact, 0x504, 0x505",
    ".quad .Ltwx4 - twinrun_exact, 0x506, 0x507",
    ".quad .Ltwx5 - twinrun_exact, 0x515, 0x514",
    ".quad .Ltwx6 - twinrun_exact, 0x508, 0",
    ".quad .Ltwx7 - twinrun_exact, 0x509, 0",
    ".quad .Ltwx8 - twinrun_exact, 0x50a, 0",
    ".quad .Ltwx9 - twinrun_exact, 0x50b, 0",
    ".quad .Ltwx10 - twinrun_exact, 0x512, 0x513",
    ".quad .Ltwx11 - twinrun_exact, 0x50c, 0",
    ".quad .Ltwx12 - twinrun_exact, 0x50d, 0",
    ".quad .Ltwx13 - twinrun_exact, 0x50e, 0x50f",
    ".quad .Ltwx14 - twinrun_exact, 0x510, 0x511",
    ".quad .Ltwx15 - twinrun_exact, 0x600, 0",
    ".quad .Ltwx16 - twinrun_exact, 0x300, 0",
    "twinrun_exact_table_end:",
    ".popsection",
);

unsafe extern "C" {
    static twinrun_exact: u8;
    static twinrun_exact_end: u8;
    static twinrun_exact_table: u8;
    static twinrun_exact_table_end: u8;
}

/// Instructions in their order, each with its pages.
fn table() -> Vec<(u64, BTreeSet<u32>)> {
    let bytes = between(&raw const twinrun_exact_table, &raw const twinrun_exact_table_end);
    let word = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"));
    let page = |bytes: &[u8]| u32::try_from(word(bytes)).expect("a page number");
    bytes
        .chunks(24)
        .map(|row| {
            let pages = [page(&row[8..]), page(&row[16..])];
            (PROGRAM + word(row), pages.into_iter().filter(|page| *page != 0).collect())
        })
        .collect()
}

/// At the first exit of the program, all pages clean.
fn machine(name: &str) -> Option<Vm> {
    let code = between(&raw const twinrun_exact, &raw const twinrun_exact_end);
    let mut vm = booted_from(name, &user_elf(code)).and_then(guest::landing)?;
    assert_eq!(vm.run().expect("the guest runs"), Stop::Exit(ExitKind::Pio));
    vm.take_dirty().expect("the ring works");
    Some(vm)
}

/// The landings up to the next exit, each with the state there. At each, the page must not be written yet.
fn round(vm: &mut Vm) -> Vec<(Landing, u128)> {
    let page_of = |vm: &Vm, page| {
        let mut bytes = [0; PAGE_SIZE];
        vm.read_page(page, &mut bytes);
        bytes
    };
    let before: Vec<_> = (0..vm.page_count()).map(|page| page_of(vm, page)).collect();
    let mut landings = Vec::new();
    loop {
        match vm.seek().expect("the guest runs") {
            Reached::Landing(landing) => {
                if landing.page >= FIRST_PAGE {
                    let page = landing.page as usize;
                    assert!(page_of(vm, landing.page) == before[page], "{landing:x?} is after the store");
                    landings.push((landing, state(vm)));
                }
            }
            Reached::Stop(Stop::Exit(kind)) => {
                assert_eq!(kind, ExitKind::Pio);
                return landings;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_first_store_is_a_landing_at_its_instruction() {
    let Some(mut vm) = machine("exact") else { return };
    for _ in 0..3 {
        let mut landings = round(&mut vm).into_iter().map(|(landing, _)| landing);
        for (rip, pages) in table() {
            // Which page of two comes first is the processor's choice.
            let here: Vec<Landing> = landings.by_ref().take(pages.len()).collect();
            assert!(here.iter().all(|landing| landing.rip == rip), "{here:x?} instead of {rip:x}");
            assert_eq!(here.iter().map(|landing| landing.page).collect::<BTreeSet<_>>(), pages, "at {rip:x}");
        }
        assert_eq!(landings.next(), None);
        vm.take_dirty().expect("the ring works");
    }
}

/// The second machine looks for every landing, for every third, for the last alone, and is kicked all along.
#[test]
fn every_first_store_is_found_again() {
    for step in [1, 3, 100] {
        let (Some(mut a), Some(mut b)) = (machine("found-a"), machine("found-b")) else { return };
        let alarm = Alarm::new(b.kicker());
        let mut random = Random(step as u64);
        for _ in 0..10 {
            let landings = round(&mut a);
            for (landing, expected) in landings.iter().rev().step_by(step).rev() {
                alarm.set(random.micros(1, 200));
                let reached = find(&mut b, *landing).expect("the guest runs");
                assert_eq!(reached, Reached::Landing(*landing));
                assert_eq!(state(&mut b), *expected, "registers at {landing:x?}");
            }
            while b.run().expect("the guest runs") == Stop::Kicked {}
            assert_eq!(whole(&mut a), whole(&mut b));
            assert_eq!(a.take_dirty().expect("the ring works"), b.take_dirty().expect("the ring works"));
        }
    }
}

/// Protecting everything at every landing must not keep a store that needs two pages from ever being done.
#[test]
fn the_guest_gets_on_whatever_is_protected() {
    let Some(mut vm) = machine("livelock") else { return };
    let all: Vec<u32> = (FIRST_PAGE..vm.page_count()).collect();
    let mut landings = 0;
    while let Reached::Landing(_) = vm.seek().expect("the guest runs") {
        landings += 1;
        assert!(landings < 200, "the guest does not get on");
        vm.protect(&all).expect("the ring works");
    }
    assert!(landings >= table().len());
}
