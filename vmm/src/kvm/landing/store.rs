//! What the instruction at RIP is about to store to.

use iced_x86::{
    Decoder, DecoderOptions, InstructionInfoFactory, InstructionInfoOptions, OpAccess, Register, UsedMemory,
};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use crate::PAGE_SIZE;
use crate::memory::Ram;
use crate::walk::{Paging, translate};

/// Bytes of the longest instruction (SDM volume 2 section 2.3.11).
const INSTRUCTION_MAX: usize = 15;
const PAGE: u64 = PAGE_SIZE as u64;

/// Pages that an instruction uses.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// It stores to these. Empty if it stores nothing, or cannot be fetched or decoded.
    pub pages: Vec<u32>,
    /// Page tables on the way to the instruction and to those.
    pub tables: Vec<u32>,
}

/// Of the instruction at RIP, executed with these registers; of a repeated string instruction its next
/// element.
pub(super) fn stored(ram: &Ram, regs: &kvm_regs, sregs: &kvm_sregs) -> Stored {
    let (mut pages, mut tables) = (Vec::new(), Vec::new());
    for (start, length) in stores(ram, regs, sregs, &mut tables) {
        let last = start.wrapping_add(length.max(1) - 1);
        // At most two: the longest store of a known length has 512 bytes.
        for linear in [start, last] {
            let at = translate(ram, &paging(sregs), linear, &mut tables);
            if let Some(page) = at.and_then(|at| u32::try_from(at / PAGE).ok())
                && !pages.contains(&page)
            {
                pages.push(page);
            }
        }
    }
    Stored { pages, tables }
}

/// Linear address and bytes of each store. A length of 0 is not known.
fn stores(ram: &Ram, regs: &kvm_regs, sregs: &kvm_sregs, tables: &mut Vec<u32>) -> Vec<(u64, u64)> {
    let bits = match (sregs.cs.l, sregs.cs.db) {
        (1, _) => 64,
        (_, 1) => 32,
        _ => 16,
    };
    let flat = bits == 64;
    let start = if flat { regs.rip } else { sregs.cs.base.wrapping_add(regs.rip) & u64::from(u32::MAX) };
    let code = fetch(ram, sregs, start, tables);
    let mut decoder = Decoder::with_ip(bits, &code, regs.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return Vec::new();
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(&instruction, InstructionInfoOptions::NO_REGISTER_USAGE);
    let register = |register: Register, _, _| value(register, regs, sregs, flat);
    let length = |memory: &UsedMemory| match memory.memory_size().size() {
        // A repeated string instruction, whose count the decoder does not know.
        0 => instruction.memory_size().size() as u64,
        bytes => bytes as u64,
    };
    info.used_memory()
        .iter()
        .filter(|memory| stores_by(memory.access()))
        .filter_map(|memory| Some((memory.virtual_address(0, register)?, length(memory))))
        .collect()
}

/// A conditional store too: CMPXCHG stores the old value back, so that it faults either way.
fn stores_by(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// The bytes at a linear address, up to the first that is not mapped.
fn fetch(ram: &Ram, sregs: &kvm_sregs, start: u64, tables: &mut Vec<u32>) -> Vec<u8> {
    let mut code = Vec::with_capacity(INSTRUCTION_MAX);
    let to_page_end = usize::try_from(PAGE - start % PAGE).unwrap_or(0).min(INSTRUCTION_MAX);
    for (from, length) in [(0, to_page_end), (to_page_end, INSTRUCTION_MAX - to_page_end)] {
        let mut part = [0; INSTRUCTION_MAX];
        let part = &mut part[..length];
        if length == 0 {
            break;
        }
        let Some(at) = translate(ram, &paging(sregs), start.wrapping_add(from as u64), tables) else { break };
        if ram.read_slice(part, GuestAddress(at)).is_err() {
            break;
        }
        code.extend_from_slice(part);
    }
    code
}

/// The value of a general register, or the base of a segment. Vector registers are not known: a scatter is
/// no landing.
fn value(register: Register, regs: &kvm_regs, sregs: &kvm_sregs, flat: bool) -> Option<u64> {
    if register.is_segment_register() {
        return Some(segment_base(register, sregs, flat));
    }
    let full = match register.full_register() {
        Register::RAX => regs.rax,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RBX => regs.rbx,
        Register::RSP => regs.rsp,
        Register::RBP => regs.rbp,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        _ => return None,
    };
    Some(match register.size() {
        8 => full,
        4 => full & u64::from(u32::MAX),
        2 => full & u64::from(u16::MAX),
        _ if matches!(register, Register::AH | Register::BH | Register::CH | Register::DH) => {
            full >> 8 & 0xff
        }
        _ => full & 0xff,
    })
}

/// In 64-bit mode only FS and GS have a base.
fn segment_base(register: Register, sregs: &kvm_sregs, flat: bool) -> u64 {
    let base = |segment: &kvm_segment| if flat { 0 } else { segment.base };
    match register {
        Register::FS => sregs.fs.base,
        Register::GS => sregs.gs.base,
        Register::ES => base(&sregs.es),
        Register::CS => base(&sregs.cs),
        Register::SS => base(&sregs.ss),
        _ => base(&sregs.ds),
    }
}

/// What of the registers says how addresses are translated.
fn paging(sregs: &kvm_sregs) -> Paging {
    Paging { cr0: sregs.cr0, cr3: sregs.cr3, cr4: sregs.cr4, efer: sregs.efer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    /// Pages stored to by `code` at 0x1000, without paging, in 64-bit code.
    fn pages(code: &[u8], regs: kvm_regs) -> Vec<u32> {
        let ram = memory::allocate(1).expect("1 MiB");
        ram.write_slice(code, GuestAddress(0x1000)).expect("fits");
        let mut sregs = kvm_sregs::default();
        sregs.cs.l = 1;
        sregs.ds.base = 0x7000;
        sregs.gs.base = 0x9_0000;
        stored(&ram, &kvm_regs { rip: 0x1000, ..regs }, &sregs).pages
    }

    #[test]
    fn stores_of_every_kind() {
        let regs = kvm_regs {
            rdi: 0x2_0ffd,
            rsi: 0x3_0000,
            rsp: 0x4_0000,
            rbx: 0x5_0ffc,
            rcx: 9,
            ..Default::default()
        };
        let cases: [(&str, &[u8], &[u32]); 18] = [
            ("mov [rbx], al", &[0x88, 0x03], &[0x50]),
            ("mov [rbx], rax, which crosses", &[0x48, 0x89, 0x03], &[0x50, 0x51]),
            ("mov [rip + 0x2ff9], eax", &[0x89, 0x05, 0xf9, 0x2f, 0, 0], &[3, 4]),
            ("mov gs:[0x1000], al", &[0x65, 0x88, 0x04, 0x25, 0, 0x10, 0, 0], &[0x91]),
            ("mov rax, [rbx]", &[0x48, 0x8b, 0x03], &[]),
            ("cmp [rbx], eax", &[0x39, 0x03], &[]),
            ("add [rbx], eax", &[0x01, 0x03], &[0x50]),
            ("xchg [rbx], rax", &[0x48, 0x87, 0x03], &[0x50, 0x51]),
            ("lock cmpxchg [rbx], eax", &[0xf0, 0x0f, 0xb1, 0x03], &[0x50]),
            ("lock inc dword [rbx]", &[0xf0, 0xff, 0x03], &[0x50]),
            ("push rax", &[0x50], &[0x3f]),
            ("call rax", &[0xff, 0xd0], &[0x3f]),
            ("ret", &[0xc3], &[]),
            ("rep stosb", &[0xf3, 0xaa], &[0x20]),
            ("rep movsq, whose next element crosses", &[0xf3, 0x48, 0xa5], &[0x20, 0x21]),
            ("fxsave [rdi + 0x13]", &[0x0f, 0xae, 0x47, 0x13], &[0x21]),
            ("movups [rdi], xmm0, which crosses", &[0x0f, 0x11, 0x07], &[0x20, 0x21]),
            ("prefetchw [rbx]", &[0x0f, 0x0d, 0x0b], &[]),
        ];
        for (name, code, expected) in cases {
            assert_eq!(pages(code, regs), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_fetched_stores_nothing() {
        let regs = kvm_regs::default();
        assert_eq!(pages(&[0x0f, 0xff], regs), [0_u32; 0], "undefined");
        let ram = memory::allocate(1).expect("1 MiB");
        let mut sregs = kvm_sregs::default();
        sregs.cs.l = 1;
        for rip in [u64::MAX - 3, 0x10_0000] {
            assert!(stored(&ram, &kvm_regs { rip, ..regs }, &sregs).pages.is_empty());
        }
    }
}
