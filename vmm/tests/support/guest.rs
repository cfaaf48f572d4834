//! Tiny guests for tests: a kernel stub that goes to user mode, and programs for it.
//!
//! The programs run in user mode because there are hosts whose KVM runs nothing else natively. All addresses
//! are fixed: stub 0x200000, program 0x201000, task state 0x202000, interrupt table 0x203000, results from
//! 0x300000 on, memory to play with from 0x400000 on.

#![allow(dead_code, reason = "shared by several programs, none of which uses all of it")]

use std::arch::global_asm;
use std::path::PathBuf;

use devices::PlatformConfig;
use vmm::{Vm, VmConfig, VmError};

/// Results of the programs.
pub(crate) const RESULTS: u32 = 0x300;
const STUB: u64 = 0x20_0000;
/// Where a program begins.
pub(crate) const PROGRAM: u64 = 0x20_1000;

global_asm!(
    ".pushsection .rodata.twinrun_test_guest, \"a\"",
    ".global twinrun_stub, twinrun_stub_end",
    "twinrun_stub:",
    // Let user mode have all pages.
    "mov edi, 0x10000",
    "or qword ptr [rdi], 4",
    "mov edi, 0x11000",
    "mov ecx, 4",
    "2: or qword ptr [rdi], 4",
    "add rdi, 8",
    "dec ecx",
    "jnz 2b",
    "mov edi, 0x12000",
    "mov ecx, 2048",
    "2: or qword ptr [rdi], 4",
    "add rdi, 8",
    "dec ecx",
    "jnz 2b",
    "mov rax, cr3",
    "mov cr3, rax",
    "lgdt [rip + 8f]",
    // Interrupt gates 0x30 (tick), 0x31 (sleep) and 0x50 (a tick of higher priority).
    "lea rax, [rip + 5f]",
    "mov edi, 0x203300",
    "call 4f",
    "lea rax, [rip + 6f]",
    "mov edi, 0x203310",
    "call 4f",
    "lea rax, [rip + 3f]",
    "mov edi, 0x203500",
    "call 4f",
    "lidt [rip + 9f]",
    // Stack for interrupts from user mode; a permission bitmap of zeroes, which lets user mode have the ports
    // (there are hosts whose KVM does not keep the I/O privilege level).
    "mov edi, 0x202000",
    "mov qword ptr [rdi + 4], 0x2f0000",
    "mov word ptr [rdi + 0x66], 0x68",
    "mov ax, 0x28",
    "ltr ax",
    "push 0x23",
    "push 0x2e0000",
    "push 0x202",
    "push 0x1b",
    "push 0x201000",
    "iretq",
    "4: mov word ptr [rdi], ax",
    "mov word ptr [rdi + 2], 8",
    "mov word ptr [rdi + 4], 0x8e00",
    "shr rax, 16",
    "mov word ptr [rdi + 6], ax",
    "mov qword ptr [rdi + 8], 0",
    "ret",
    "3: push rax",
    "inc qword ptr [0x300020]",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rax",
    "iretq",
    // Where the tick came: RIP and RCX go into a hash.
    "5: push rax",
    "inc qword ptr [0x300008]",
    "mov rax, [rsp + 8]",
    "add rax, rcx",
    "add rax, [0x300028]",
    "rol rax, 7",
    "mov [0x300028], rax",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rax",
    "iretq",
    "6: push rax",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rax",
    "sti",
    "hlt",
    "iretq",
    ".balign 8",
    "7: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff",
    ".quad 0x0000892020000fff, 0",
    // The stub is copied: no absolute address of the test program may be in it.
    "8: .word 55",
    ".quad 0x200000 + 7b - twinrun_stub",
    "9: .word 0xfff",
    ".quad 0x203000",
    "twinrun_stub_end:",
    // Port and device accesses of every kind, then power off.
    ".global twinrun_io, twinrun_io_end",
    "twinrun_io:",
    "mov edx, 0xe9",
    "mov al, 65",
    "out dx, al",
    "mov edi, 0xfee00000",
    "mov eax, [rdi + 0x30]",
    "mov [0x300000], eax",
    "mov dword ptr [rdi + 0xf0], 0x1ff",
    "or dword ptr [rdi + 0x80], 0x20",
    "mov eax, [rdi + 0xf0]",
    "mov [0x300010], eax",
    "mov eax, [rdi + 0x80]",
    "mov [0x300014], eax",
    "mov edx, 0xcf8",
    "mov eax, 0x80000000",
    "out dx, eax",
    "mov edx, 0xcfc",
    "in eax, dx",
    "mov [0x300018], eax",
    "mov edx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
    "2: jmp 2b",
    "twinrun_io_end:",
    // Sleeps for a millisecond of virtual time, again and again.
    ".global twinrun_sleep, twinrun_sleep_end",
    "twinrun_sleep:",
    "mov edi, 0xfee00000",
    "mov dword ptr [rdi + 0xf0], 0x1ff",
    "mov dword ptr [rdi + 0x3e0], 0xb",
    "mov dword ptr [rdi + 0x320], 0x30",
    "2: mov dword ptr [rdi + 0x380], 1000000",
    "mov dword ptr [rdi + 0x300], 0x44031",
    "inc qword ptr [0x300000]",
    "jmp 2b",
    "twinrun_sleep_end:",
    // Sends itself a tick, with a timer of higher priority armed, then prints for ever.
    ".global twinrun_twice, twinrun_twice_end",
    "twinrun_twice:",
    "mov edi, 0xfee00000",
    "mov dword ptr [rdi + 0xf0], 0x1ff",
    "mov dword ptr [rdi + 0x320], 0x50",
    "mov dword ptr [rdi + 0x380], 1000",
    "mov dword ptr [rdi + 0x300], 0x44030",
    "mov edx, 0xe9",
    "2: out dx, al",
    "jmp 2b",
    "twinrun_twice_end:",
    // Computes for ever.
    ".global twinrun_spin, twinrun_spin_end",
    "twinrun_spin:",
    "2: inc qword ptr [0x300000]",
    "jmp 2b",
    "twinrun_spin_end:",
    // Writes random pages, computes in SSE registers, prints, and takes a periodic tick.
    ".global twinrun_churn, twinrun_churn_end",
    "twinrun_churn:",
    "mov edi, 0xfee00000",
    "mov dword ptr [rdi + 0xf0], 0x1ff",
    "mov dword ptr [rdi + 0x3e0], 0xb",
    "mov dword ptr [rdi + 0x320], 0x20030",
    "mov dword ptr [rdi + 0x380], 100000",
    "movabs r11, 0x9e3779b97f4a7c15",
    "mov r8d, 1",
    "2: imul r8, r11",
    "add r8, [0x300008]",
    "rol r8, 13",
    "mov ecx, r8d",
    "and ecx, 0xfff",
    "inc ecx",
    "3: cvtsi2sd xmm1, ecx",
    "addsd xmm0, xmm1",
    "dec ecx",
    "jnz 3b",
    "mov rbx, r8",
    "and ebx, 0x3ff000",
    "movq [rbx + 0x400000], xmm0",
    "mov [rbx + 0x400008], r8",
    "test r8b, 7",
    "jnz 2b",
    "mov al, r8b",
    "mov edx, 0xe9",
    "out dx, al",
    "jmp 2b",
    "twinrun_churn_end:",
    // Computes for a random time and stores to the next of 512 pages, by one store or by repeated string
    // stores across their ends; the places of all ticks so far go into the hash that decides both. A tick one
    // instruction early or late changes everything after it.
    ".global twinrun_chaos, twinrun_chaos_end",
    "twinrun_chaos:",
    "mov edi, 0xfee00000",
    "mov dword ptr [rdi + 0xf0], 0x1ff",
    "mov dword ptr [rdi + 0x3e0], 0xb",
    "mov dword ptr [rdi + 0x320], 0x20030",
    "mov dword ptr [rdi + 0x380], 1000",
    "movabs r11, 0x9e3779b97f4a7c15",
    "mov r8d, 1",
    "xor r9d, r9d",
    "2: imul r8, r11",
    "add r8, [0x300028]",
    "rol r8, 13",
    "mov ecx, r8d",
    "and ecx, 0xffff",
    "inc ecx",
    "3: cvtsi2sd xmm1, ecx",
    "addsd xmm0, xmm1",
    "dec ecx",
    "jnz 3b",
    "mov rbx, r9",
    "and ebx, 511",
    "shl ebx, 12",
    "add ebx, 0x400000",
    "inc r9",
    "test r8b, 1",
    "jnz 4f",
    "mov [rbx], r8",
    "movq [rbx + 8], xmm0",
    "jmp 2b",
    "4: lea rdi, [rbx + 0xf80]",
    "mov rsi, rbx",
    "mov ecx, 0x90",
    "test r8b, 2",
    "jz 5f",
    "rep movsb",
    "jmp 2b",
    "5: mov eax, r8d",
    "rep stosb",
    "jmp 2b",
    "twinrun_chaos_end:",
    ".popsection",
);

unsafe extern "C" {
    static twinrun_chaos: u8;
    static twinrun_chaos_end: u8;
    static twinrun_stub: u8;
    static twinrun_stub_end: u8;
    static twinrun_io: u8;
    static twinrun_io_end: u8;
    static twinrun_sleep: u8;
    static twinrun_sleep_end: u8;
    static twinrun_twice: u8;
    static twinrun_twice_end: u8;
    static twinrun_spin: u8;
    static twinrun_spin_end: u8;
    static twinrun_churn: u8;
    static twinrun_churn_end: u8;
}

/// What is between two labels.
pub(crate) fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both are labels of the same read-only section above, in this order, a few hundred bytes apart.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// What the guest does in user mode.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// Port and device accesses, then power off.
    Io,
    /// Sleeps for 1 ms by timer, again and again.
    Sleep,
    /// Sends itself a tick, with a timer of higher priority armed, then prints for ever.
    Twice,
    /// Computes, without an exit.
    Spin,
    /// Writes pages and prints, with a tick every 0.1 ms.
    Churn,
    /// Computes and writes pages without an exit, but for those of its ticks, one every microsecond.
    Chaos,
}

impl Program {
    fn code(self) -> &'static [u8] {
        match self {
            Program::Io => between(&raw const twinrun_io, &raw const twinrun_io_end),
            Program::Sleep => between(&raw const twinrun_sleep, &raw const twinrun_sleep_end),
            Program::Twice => between(&raw const twinrun_twice, &raw const twinrun_twice_end),
            Program::Spin => between(&raw const twinrun_spin, &raw const twinrun_spin_end),
            Program::Churn => between(&raw const twinrun_churn, &raw const twinrun_churn_end),
            Program::Chaos => between(&raw const twinrun_chaos, &raw const twinrun_chaos_end),
        }
    }

    pub(crate) fn elf(self) -> Vec<u8> {
        user_elf(self.code())
    }
}

/// A kernel that runs `code` in user mode, at [`PROGRAM`].
pub(crate) fn user_elf(code: &[u8]) -> Vec<u8> {
    let stub = between(&raw const twinrun_stub, &raw const twinrun_stub_end);
    elf(STUB, &[(STUB, stub), (PROGRAM, code)])
}

/// A static ELF64 executable with these segments (System V ABI, chapters "ELF Header" and "Program Header").
pub(crate) fn elf(entry: u64, segments: &[(u64, &[u8])]) -> Vec<u8> {
    let headers = 64 + 56 * segments.len();
    let mut file = vec![0; 64];
    file[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    file[20] = 1;
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    file[32] = 64;
    file[52] = 64;
    file[54] = 56;
    file[56] = u8::try_from(segments.len()).expect("few segments");
    let mut offset = headers as u64;
    for (address, bytes) in segments {
        let length = bytes.len() as u64;
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&7_u32.to_le_bytes());
        for word in [offset, *address, *address, length, length, 1] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        offset += length;
    }
    file.extend(segments.iter().flat_map(|(_, bytes)| bytes.iter()));
    file
}

/// A file that goes away with the value.
pub(crate) struct Kernel(PathBuf);

impl Kernel {
    /// Writes a kernel file under a name that no other test uses.
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("twinrun-{}-{name}.elf", std::process::id()));
        std::fs::write(&path, bytes).expect("the directory for temporary files is writable");
        Kernel(path)
    }

    /// The configuration of a small machine that boots it.
    pub(crate) fn config(&self) -> VmConfig {
        VmConfig {
            memory_mib: 16,
            kernel: self.0.clone(),
            initrd: None,
            cmdline: "test".into(),
            platform: PlatformConfig {
                macs: vec![[2, 0, 0, 0, 0, 1]],
                disks: vec![64],
                ..PlatformConfig::default()
            },
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // Nothing depends on it: a file that is left over is only untidy.
        std::fs::remove_file(&self.0).ok();
    }
}

/// A machine that was not booted, or `None` (and a word about it) on a machine without KVM.
pub(crate) fn machine(config: &VmConfig) -> Option<Vm> {
    usable(if std::env::var_os("TWINRUN_TEST_BITMAP").is_some() {
        Vm::without_landings(config)
    } else {
        Vm::new(config)
    })
}

fn usable(vm: Result<Vm, VmError>) -> Option<Vm> {
    match vm {
        Ok(vm) => Some(vm),
        Err(error @ VmError::OpenKvm(_)) => {
            println!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A machine that is about to run `program`.
pub(crate) fn booted(name: &str, program: Program) -> Option<Vm> {
    booted_from(name, &program.elf())
}

/// A machine that is about to run this kernel.
pub(crate) fn booted_from(name: &str, elf: &[u8]) -> Option<Vm> {
    let kernel = Kernel::new(name, elf);
    let mut vm = machine(&kernel.config())?;
    vm.boot().expect("the test guest boots");
    Some(vm)
}

/// As [`booted`], on a machine that tracks writes by the bitmap.
pub(crate) fn booted_without_landings(name: &str, program: Program) -> Option<Vm> {
    let kernel = Kernel::new(name, &program.elf());
    let mut vm = usable(Vm::without_landings(&kernel.config()))?;
    vm.boot().expect("the test guest boots");
    Some(vm)
}

/// The machine if it has landings, or `None` and a word about it.
pub(crate) fn landing(vm: Vm) -> Option<Vm> {
    let obstacle = vm.landing_obstacle();
    if let Some(obstacle) = &obstacle {
        println!("SKIPPED: {obstacle}");
    }
    obstacle.is_none().then_some(vm)
}

/// A machine without a guest, for `restore`.
pub(crate) fn empty(name: &str) -> Option<Vm> {
    let kernel = Kernel::new(name, b"");
    machine(&kernel.config())
}

/// Eight bytes of guest memory, little endian.
pub(crate) fn read_u64(vm: &Vm, page: u32, offset: usize) -> u64 {
    let mut bytes = [0; 4096];
    vm.read_page(page, &mut bytes);
    u64::from_le_bytes(*bytes[offset..].first_chunk().expect("inside the page"))
}

/// The whole memory.
pub(crate) fn memory(vm: &Vm) -> Vec<[u8; 4096]> {
    (0..vm.page_count())
        .map(|page| {
            let mut bytes = [0; 4096];
            vm.read_page(page, &mut bytes);
            bytes
        })
        .collect()
}
