//! The manners in which a program stores, instruction by instruction.

use core::arch::asm;
use machine::virtio::dma;

const PAGE: usize = 4096;
/// The longest copy or fill, in bytes: it touches three pages at most.
const LONGEST: u64 = 5000;
/// Room beyond the last page for what begins in it and is long.
const BEYOND: usize = 3;

/// The memory that is stored to.
#[derive(Debug)]
pub(crate) struct Area {
    base: *mut u8,
    pages: u64,
}

/// Where a stroke goes.
#[derive(Clone, Copy)]
struct Place {
    /// Aligned to 16 bytes.
    aligned: *mut u8,
    /// Anywhere.
    any: *mut u8,
    /// 1 to 7 bytes before the end of the page: 8 bytes from here lie in two pages.
    crossing: *mut u8,
    /// Somewhere else, to copy from.
    source: *mut u8,
}

impl Area {
    /// An area of so many pages.
    pub(crate) fn new(pages: usize) -> Self {
        Self { base: dma((pages + BEYOND) * PAGE), pages: pages as u64 }
    }

    fn place(&self, draw: u64) -> Place {
        let page = |draw: u64| self.base.wrapping_add((draw % self.pages) as usize * PAGE);
        let (target, source) = (page(draw & 0xFFFF), page(draw >> 16 & 0xFFFF));
        let offset = (draw >> 32) as usize % PAGE;
        Place {
            aligned: target.wrapping_add(offset & !15),
            any: target.wrapping_add(offset),
            crossing: target.wrapping_add(PAGE - 1 - (draw >> 48) as usize % 7),
            source: source.wrapping_add((draw >> 52) as usize),
        }
    }

    /// Stores to a place in a manner, both drawn by lot, and returns some of what lies there now.
    pub(crate) fn stroke(&mut self, place: u64, manner: u64, word: u64) -> u64 {
        let at = self.place(place);
        let length = (manner >> 8) % LONGEST + 1;
        // SAFETY: each writes at most 5000 bytes from a place in the area on, which has room for that beyond its
        // last page; a source may lie anywhere in it too, and the two may overlap.
        unsafe {
            match manner % 16 {
                0 => plain(at.aligned, word),
                1 => plain(at.crossing, word),
                2 => small(at.any, word),
                3 => add(at.crossing, word),
                4 => exchange_add(at.aligned, word),
                5 => compare_exchange(at.aligned, word),
                6 => rotate(at.any, word),
                7 => vector(at.crossing, word),
                8 => non_temporal(at.aligned, word),
                9 => copy(at.any, at.source, length),
                10 => fill(at.crossing, word, length / 8),
                11 => copy_down(at.any, at.source, length),
                12 => extended(at.crossing, word),
                13 => push(at.aligned, word),
                14 => bit(at.aligned, word),
                _ => vector_aligned(at.aligned, word),
            }
            at.any.cast::<u64>().read_unaligned() ^ at.crossing.cast::<u64>().read_unaligned()
        }
    }
}

unsafe fn plain(at: *mut u8, word: u64) {
    // SAFETY: the caller's promise: the place may be written.
    unsafe { asm!("mov [{}], {}", in(reg) at, in(reg) word, options(nostack, preserves_flags)) }
}

/// 4, 2 and 1 bytes.
unsafe fn small(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("mov dword ptr [{at} + 4], {word:e}", "mov word ptr [{at} + 2], {word:x}", "mov byte ptr [{at}], {word:l}",
            at = in(reg) at, word = in(reg) word, options(nostack, preserves_flags));
    }
}

/// Reads, changes, writes.
unsafe fn add(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe { asm!("add [{}], {}", in(reg) at, in(reg) word, options(nostack)) }
}

unsafe fn exchange_add(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe { asm!("lock xadd [{}], {}", in(reg) at, inout(reg) word => _, options(nostack)) }
}

/// Equal, so that it stores the new word; then unequal, so that it stores the old one again.
unsafe fn compare_exchange(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("mov rax, [{at}]", "lock cmpxchg [{at}], {word}", "not rax", "lock cmpxchg [{at}], {word}",
            at = in(reg) at, word = in(reg) word, out("rax") _, options(nostack));
    }
}

unsafe fn rotate(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("rol dword ptr [{at}], cl", "inc byte ptr [{at} + 5]", at = in(reg) at, in("rcx") word & 31 | 1,
            options(nostack));
    }
}

unsafe fn vector(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("movq {x}, {word}", "punpcklqdq {x}, {x}", "movups [{at}], {x}", at = in(reg) at,
            word = in(reg) word, x = out(xmm_reg) _, options(nostack, preserves_flags));
    }
}

/// The place is aligned to 16 bytes.
unsafe fn vector_aligned(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("cvtsi2sd {x}, {word}", "mulsd {x}, {x}", "movapd [{at}], {x}", "movhpd [{at}], {x}", at = in(reg) at,
            word = in(reg) word >> 12, x = inout(xmm_reg) 0.0_f64 => _, options(nostack, preserves_flags));
    }
}

/// The place is aligned to 16 bytes.
unsafe fn non_temporal(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("movnti [{at}], {word}", "sfence", at = in(reg) at, word = in(reg) word,
            options(nostack, preserves_flags));
    }
}

unsafe fn copy(to: *mut u8, from: *const u8, length: u64) {
    // SAFETY: as above, for the whole length of both.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") length => _,
            options(nostack, preserves_flags));
    }
}

/// So many words.
unsafe fn fill(to: *mut u8, word: u64, count: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("rep stosq", inout("rdi") to => _, in("rax") word, inout("rcx") count => _,
            options(nostack, preserves_flags));
    }
}

/// From the last byte on.
unsafe fn copy_down(to: *mut u8, from: *const u8, length: u64) {
    let last = length as usize - 1;
    // SAFETY: as above; the direction flag is restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") to.wrapping_add(last) => _,
            inout("rsi") from.wrapping_add(last) => _, inout("rcx") length => _, options(nostack));
    }
}

/// x87: an integer squared, stored in 8 bytes and in 10.
unsafe fn extended(at: *mut u8, word: u64) {
    let word = word >> 1;
    // SAFETY: as above; the x87 stack is empty again at the end.
    unsafe {
        asm!("fild qword ptr [{word}]", "fmul st(0), st(0)", "fst qword ptr [{at} - 16]", "fstp tbyte ptr [{at}]",
            at = in(reg) at, word = in(reg) &raw const word, out("st(0)") _, out("st(1)") _, out("st(2)") _,
            out("st(3)") _, out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack, preserves_flags));
    }
}

/// The stack pointer strays into the area for one word. An interrupt has a stack of its own.
unsafe fn push(at: *mut u8, word: u64) {
    // SAFETY: as above; the stack pointer comes back before anything else uses it.
    unsafe {
        asm!("xchg rsp, {at}", "push {word}", "mov rsp, {at}", at = inout(reg) at.wrapping_add(8) => _,
            word = in(reg) word, options(preserves_flags));
    }
}

/// One of 64 bits, by number: the processor, not the operand, says which byte.
unsafe fn bit(at: *mut u8, word: u64) {
    // SAFETY: as above.
    unsafe { asm!("bts [{}], {}", in(reg) at, in(reg) word & 63, options(nostack)) }
}
