//! Single instructions in kernel mode whose exits are not simple.

use devices::{Effect, Stimulus};
use vmm::{ExitKind, RunError, Stop, Vm};

use crate::guest::{Kernel, RESULTS, elf, machine, read_u64};

/// A machine that executes `code` in kernel mode from its first instruction on.
fn executing(name: &str, code: &[u8]) -> Option<Vm> {
    let kernel = Kernel::new(name, &elf(0x20_0000, &[(0x20_0000, code)]));
    let mut vm = machine(&kernel.config())?;
    vm.boot().expect("boots");
    Some(vm)
}

#[test]
fn a_store_in_pieces_is_one_exit() {
    let code = [
        &[0xbf, 0xfc, 0x0f, 0xe0, 0xfe][..], // mov edi, 0xfee00ffc
        &[0x48, 0x89, 0x07],                 // mov [rdi], rax: crosses a page
        &[0xe6, 0xe9],                       // out 0xe9, al
        &[0xf4],                             // hlt
    ];
    let Some(mut vm) = executing("pieces", &code.concat()) else { return };
    for kind in [ExitKind::Mmio, ExitKind::Pio, ExitKind::Halt] {
        assert_eq!(vm.run().expect("runs"), Stop::Exit(kind));
        vm.save().expect("saves");
    }
    assert!(vm.waits());
}

#[test]
fn string_instructions_move_every_element() {
    let code = [
        &[0xba, 0xe9, 0, 0, 0][..], // mov edx, 0xe9
        &[0xbe, 0, 0, 0x20, 0],     // mov esi, 0x200000
        &[0xb9, 5, 0, 0, 0],        // mov ecx, 5
        &[0xf3, 0x6e],              // rep outsb
        &[0xba, 0xfc, 0x0c, 0, 0],  // mov edx, 0xcfc
        &[0xbf, 0, 0, 0x30, 0],     // mov edi, 0x300000
        &[0xb9, 3, 0, 0, 0],        // mov ecx, 3
        &[0xf3, 0x6c],              // rep insb
        &[0xf4],                    // hlt
    ];
    let Some(mut vm) = executing("strings", &code.concat()) else { return };
    while !vm.waits() {
        assert!(matches!(vm.run().expect("runs"), Stop::Exit(ExitKind::Pio | ExitKind::Halt)));
    }
    let printed: Vec<Effect> = vm.take_effects();
    let printed: Vec<u8> = printed
        .iter()
        .flat_map(|effect| match effect {
            Effect::Console(bytes) => bytes.clone(),
            other => panic!("{other:?} from a guest that only prints"),
        })
        .collect();
    assert_eq!(printed, [0xba, 0xe9, 0, 0, 0]);
    assert_eq!(read_u64(&vm, RESULTS, 0), 0xff_ffff, "no configuration address is set: all ones");
}

/// Copies device space onto itself, 2^32 times.
#[test]
fn one_instruction_cannot_keep_the_machine() {
    let code = [
        &[0xbf, 0x00, 0x04, 0xe0, 0xfe][..], // mov edi, 0xfee00400
        &[0xbe, 0x00, 0x05, 0xe0, 0xfe],     // mov esi, 0xfee00500
        &[0xb9, 0xff, 0xff, 0xff, 0xff],     // mov ecx, 0xffffffff
        &[0xf3, 0xa4],                       // rep movsb
    ];
    let Some(mut vm) = executing("endless", &code.concat()) else { return };
    for _ in 0..3 {
        let stop = vm.run();
        let bounded =
            matches!(stop, Ok(Stop::Exit(ExitKind::Mmio)) | Err(RunError::EndlessInstruction { .. }));
        assert!(bounded, "{stop:?}");
    }
}

#[test]
fn the_clock_page_is_ours() {
    let code = [
        &[0xb9, 0x01, 0x4d, 0x56, 0x4b][..], // mov ecx, 0x4b564d01
        &[0xb8, 0x01, 0x00, 0x30, 0x00],     // mov eax, 0x300001
        &[0x31, 0xd2],                       // xor edx, edx
        &[0x0f, 0x30],                       // wrmsr
        &[0xe6, 0xe9],                       // out 0xe9, al
        &[0xf4],                             // hlt
    ];
    let Some(mut vm) = executing("clock", &code.concat()) else { return };
    vm.take_dirty().expect("the log works");
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Msr));
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Pio));
    vm.place(&Stimulus::Time(123_456_789)).expect("time goes on");
    assert_eq!(read_u64(&vm, RESULTS, 16), 123_456_789);
    assert_eq!(read_u64(&vm, RESULTS, 24), 0x1c1_0000_0001, "multiplier 1, shift -63, stable");
    assert!(vm.take_dirty().expect("the log works").contains(&RESULTS), "our own writes are seen");
}

/// Real time must not come in by the time stamp counter's register; without an interrupt table the fault is
/// the end.
#[test]
fn the_time_stamp_register_is_shut() {
    let code = [0xb9, 0x10, 0, 0, 0, 0x0f, 0x32, 0xe6, 0xe9]; // mov ecx, 0x10; rdmsr; out 0xe9, al
    let Some(mut vm) = executing("tsc", &code) else { return };
    assert_eq!(vm.run().expect("runs"), Stop::Exit(ExitKind::Msr));
    assert_eq!(vm.run().expect("runs"), Stop::Shutdown);
    assert!(matches!(vm.run(), Err(RunError::Shutdown)));
    assert!(vm.save().is_err());
}
