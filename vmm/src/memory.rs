//! Guest memory: one anonymous mapping from guest-physical 0.

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::PAGE_SIZE;
use crate::error::VmError;
use crate::table::layout::MEMORY_MIB_MAX;

/// Guest memory whose bitmap records what this process writes (KVM's log records what the guest writes).
pub(crate) type Ram = GuestMemoryMmap<AtomicBitmap>;

/// Maps `memory_mib` MiB of zeroes.
pub(crate) fn allocate(memory_mib: u32) -> Result<Ram, VmError> {
    if memory_mib == 0 || memory_mib > MEMORY_MIB_MAX {
        return Err(VmError::MemorySize { got: memory_mib, max: MEMORY_MIB_MAX });
    }
    let bytes = usize::try_from(memory_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20);
    let ram = Ram::from_ranges(&[(GuestAddress(0), bytes)])
        .map_err(|source| VmError::MemoryMap { memory_mib, reason: source.to_string() })?;
    for advice in [libc::MADV_DONTDUMP, libc::MADV_NOHUGEPAGE] {
        // Guest memory is secret and has no place in a core file; a huge page would be split by the first
        // write-protection anyway, at a bad moment.
        advise(&ram, advice)?;
    }
    Ok(ram)
}

fn advise(ram: &Ram, advice: libc::c_int) -> Result<(), VmError> {
    for region in ram.iter() {
        let start = region.as_ptr();
        // SAFETY: start and size describe exactly the region's own private mapping, and neither of the two
        // advices changes its content.
        let result = unsafe { libc::madvise(start.cast(), region.size(), advice) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            // A kernel without transparent huge pages refuses the advice about them: nothing to switch off.
            if advice != libc::MADV_NOHUGEPAGE || error.raw_os_error() != Some(libc::EINVAL) {
                return Err(VmError::MemoryAdvice(error));
            }
        }
    }
    Ok(())
}

/// Number of 4 KiB pages.
pub(crate) fn page_count(ram: &Ram) -> u32 {
    let bytes: u64 = ram.iter().map(GuestMemoryRegion::len).sum();
    u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX)
}

fn page_address(ram: &Ram, page: u32) -> GuestAddress {
    let pages = page_count(ram);
    assert!(page < pages, "page {page} is outside the guest's {pages} pages: the caller checks page numbers");
    GuestAddress(u64::from(page) * PAGE_SIZE as u64)
}

/// Copies one page out.
///
/// # Panics
///
/// If there is no such page.
pub(crate) fn read_page(ram: &Ram, page: u32, out: &mut [u8; PAGE_SIZE]) {
    ram.read_slice(out, page_address(ram, page)).expect("a page below page_count is readable");
}

/// Copies one page in; the bitmap records it.
///
/// # Panics
///
/// If there is no such page.
pub(crate) fn write_page(ram: &Ram, page: u32, data: &[u8; PAGE_SIZE]) {
    ram.write_slice(data, page_address(ram, page)).expect("a page below page_count is writable");
}
