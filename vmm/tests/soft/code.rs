//! Code that changes, by the guest's own stores and by somebody else's.

use vmm::{ExitKind, Stop};

use crate::booted;
use crate::guest::{PROGRAM, Program, RESULTS, read_u64, user_elf};

/// The operand of the second instruction is stored by the first, in the same block.
#[test]
fn a_store_into_the_running_block_is_seen_by_the_next_instruction() {
    let code = [
        &[0xc6, 0x05, 1, 0, 0, 0, 2][..],         // mov byte ptr [rip + 1], 2
        &[0xb9, 1, 0, 0, 0],                      // mov ecx, 1
        &[0x89, 0x0c, 0x25, 0, 0, 0x30, 0],       // mov [0x300000], ecx
        &[0xba, 0xe9, 0, 0, 0, 0xee, 0xeb, 0xfe], // mov edx, 0xe9; out dx, al; jmp $
    ];
    let mut vm = booted("own-code", &user_elf(&code.concat()));
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Pio));
    assert_eq!(read_u64(&vm, RESULTS, 0), 2);
}

/// Each round stores the operand of an instruction that ran, from a cached block, in the round before.
#[test]
fn a_store_into_another_cached_block_is_seen_when_that_runs_again() {
    let code = [
        &[0xbb, 1, 0, 0, 0][..],                   // mov ebx, 1
        &[0xb9, 0, 0, 0, 0],                       // 5: mov ecx, 0
        &[0x01, 0x0c, 0x25, 0, 0, 0x30, 0],        // add [0x300000], ecx
        &[0xeb, 0],                                // jmp to the next: the end of the block
        &[0x88, 0x1d, 0xed, 0xff, 0xff, 0xff],     // 19: mov [rip - 19], bl: the operand at 6
        &[0xff, 0xc3, 0x83, 0xfb, 11, 0x75, 0xe5], // inc ebx; cmp ebx, 11; jnz 5b
        &[0xba, 0xe9, 0, 0, 0, 0xee, 0xeb, 0xfe],
    ];
    let mut vm = booted("other-code", &user_elf(&code.concat()));
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Pio));
    assert_eq!(read_u64(&vm, RESULTS, 0), (0..10).sum::<u64>());
}

#[test]
fn code_written_from_outside_replaces_what_was_decoded() {
    let mut vm = booted("outside", &Program::Spin.elf());
    assert_eq!(vm.run_until(100_000).expect("runs"), None);
    let page = (PROGRAM >> 12) as u32;
    let mut bytes = [0; 4096];
    vm.read_page(page, &mut bytes);
    // hlt is not for user mode, out is: the program's ports are open.
    bytes[..10].fill(0xee);
    vm.write_page(page, &bytes);
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Pio));
}
