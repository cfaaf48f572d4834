//! What a freestanding program has to bring along: memory functions, heap, panic.

use crate::cpu;
use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::ptr::{NonNull, null_mut};
use linked_list_allocator::Heap;

struct Allocator(UnsafeCell<Heap>);

// SAFETY: there is one processor and one thread; interrupt handlers do not allocate.
unsafe impl Sync for Allocator {}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(UnsafeCell::new(Heap::empty()));

// SAFETY: `Heap` hands out disjoint, aligned blocks of the range given to `init_heap`, or nothing.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, and `Heap` calls nothing back: the reference is the only one.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the caller passes a block that `alloc` returned, hence not null.
        unsafe { (*self.0.get()).deallocate(NonNull::new_unchecked(block), layout) }
    }
}

/// Gives the heap its memory, once.
///
/// # Safety
/// `start..end` must be memory that nothing else uses.
pub(crate) unsafe fn init_heap(start: usize, end: usize) {
    let start_pointer = core::ptr::with_exposed_provenance_mut(start);
    // SAFETY: one thread, called before the first allocation; the range is the caller's promise.
    unsafe { (*ALLOCATOR.0.get()).init(start_pointer, end - start) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (file, line) = info.location().map_or(("?", 0), |location| (location.file(), location.line()));
    // Writing to the console cannot fail.
    let _ = writeln!(cpu::Console, "guest: panic {} ({file}:{line})", info.message());
    cpu::power_off()
}

/// Named by the prebuilt `alloc`; never called, since a panic does not unwind.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise: both ranges valid and disjoint. The direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: copying upwards never overwrites what is still to be read; ranges are the caller's promise.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: downwards, from the last byte (count > 0 here); the direction flag is restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to.wrapping_add(count - 1) => _,
            inout("rsi") from.wrapping_add(count - 1) => _, options(nostack));
    }
    to
}

/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise: the range is valid.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller's promise: both ranges are valid for `count` bytes. Volatile, lest the compiler turn
        // the loop into a call of memcmp.
        let (a, b) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// As in C (of old): zero if equal.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(left, right, count) }
}
