//! Guest memory as the interpreter reaches it: the only `unsafe` of the software vCPU.
//!
//! Every access is checked against the length of the mapping, so no value of the guest's can reach anything
//! else. Only the thread that owns the vCPU and the devices touches guest memory while the guest runs.

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::Ram;

/// The mapping of guest-physical memory from address 0 on.
pub(super) struct GuestRam {
    base: *mut u8,
    bytes: u64,
    /// Keeps the mapping.
    _ram: Ram,
}

// SAFETY: the pointer is to a mapping that lives as long as `_ram` and is bound to no thread.
unsafe impl Send for GuestRam {}

/// Integers that any bytes are a valid value of.
pub(super) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for u128 {}

impl GuestRam {
    /// The first region, which begins at 0; the machine has no other.
    pub(super) fn new(ram: &Ram) -> Self {
        let region = ram.iter().next().map(|region| (region.as_ptr(), region.len()));
        let (base, bytes) = region.unwrap_or((std::ptr::null_mut(), 0));
        GuestRam { base, bytes, _ram: ram.clone() }
    }

    /// Bytes of guest memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where `length` bytes at `at` are, if all of them are memory.
    #[inline]
    fn place(&self, at: u64, length: u64) -> Option<*mut u8> {
        if at > self.bytes || length > self.bytes - at {
            return None;
        }
        // SAFETY: at most `bytes` past the start of the mapping, checked above.
        Some(unsafe { self.base.add(at as usize) })
    }

    /// Reads a little-endian integer; `None` outside of memory.
    #[inline]
    pub(super) fn load<T: Plain>(&self, at: u64) -> Option<T> {
        let place = self.place(at, size_of::<T>() as u64)?;
        // SAFETY: `place` is so many readable bytes of the mapping, and any bytes are a `T`.
        Some(unsafe { place.cast::<T>().read_unaligned() })
    }

    /// Writes a little-endian integer; `false` outside of memory.
    #[inline]
    pub(super) fn store<T: Plain>(&self, at: u64, value: T) -> bool {
        let Some(place) = self.place(at, size_of::<T>() as u64) else { return false };
        // SAFETY: `place` is so many writable bytes of the mapping, to which nobody holds a reference.
        unsafe { place.cast::<T>().write_unaligned(value) };
        true
    }

    /// Copies bytes out; `false`, and nothing done, if not all are memory.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> bool {
        let Some(place) = self.place(at, out.len() as u64) else { return false };
        // SAFETY: `place` is `out.len()` readable bytes; `out` is not guest memory, to which no reference exists.
        unsafe { place.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        true
    }

    /// Copies inside memory, as if through a buffer; `false`, and nothing done, if not all is memory.
    pub(super) fn copy(&self, from: u64, to: u64, length: u64) -> bool {
        let (Some(from), Some(to)) = (self.place(from, length), self.place(to, length)) else { return false };
        // SAFETY: both are `length` bytes of the mapping; the copy allows them to overlap.
        unsafe { from.copy_to(to, length as usize) };
        true
    }

    /// Fills `count` elements; `false`, and nothing done, if not all is memory.
    pub(super) fn fill<T: Plain>(&self, at: u64, value: T, count: u64) -> bool {
        let Some(length) = count.checked_mul(size_of::<T>() as u64) else { return false };
        let Some(place) = self.place(at, length) else { return false };
        for element in 0..count as usize {
            // SAFETY: element `count - 1` ends at `length`, which is inside the mapping.
            unsafe { place.cast::<T>().add(element).write_unaligned(value) };
        }
        true
    }
}
