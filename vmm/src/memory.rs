//! Guest memory: one anonymous mapping from guest-physical 0.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::PAGE_SIZE;
use crate::error::VmError;
use crate::table::layout::MEMORY_MIB_MAX;
use crate::write_log::WriteLog;

/// Guest memory whose bitmap records what this process writes (KVM's log records what the guest writes).
pub(crate) type Ram = GuestMemoryMmap<WriteLog>;

/// Maps `memory_mib` MiB of zeroes.
pub(crate) fn allocate(memory_mib: u32) -> Result<Ram, VmError> {
    if memory_mib == 0 || memory_mib > MEMORY_MIB_MAX {
        return Err(VmError::MemorySize { got: memory_mib, max: MEMORY_MIB_MAX });
    }
    let bytes = usize::try_from(memory_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20);
    let ram = Ram::from_ranges(&[(GuestAddress(0), bytes)])
        .map_err(|source| VmError::MemoryMap { memory_mib, reason: source.to_string() })?;
    for advice in ADVICES {
        advise(&ram, advice)?;
    }
    lock(&ram);
    Ok(ram)
}

/// Guest memory is secret and has no place in a core file, nor in a child process. And its mappings must
/// stay as they are: a huge page would be split by the first write-protection, a merged one copied by the
/// first store, and either costs the guest a fault that its replica does not have.
const ADVICES: [libc::c_int; 4] =
    [libc::MADV_DONTDUMP, libc::MADV_DONTFORK, libc::MADV_NOHUGEPAGE, libc::MADV_UNMERGEABLE];

/// Populates memory and keeps it. Without that everything works, but the host may take pages away.
fn lock(ram: &Ram) {
    for region in ram.iter() {
        let (start, bytes) = (region.as_ptr().cast(), region.size());
        // SAFETY: start and size describe the region's own mapping; locking changes no content.
        if unsafe { libc::mlock(start, bytes) } == 0 {
            continue;
        }
        let error = std::io::Error::last_os_error();
        tracing::warn!(
            "guest memory cannot be locked ({error}): the host may swap it; raise the limit of locked memory \
             (ulimit -l, LimitMEMLOCK=) above {} MiB",
            bytes >> 20
        );
        // SAFETY: as above; populating writes to no page that has content.
        if unsafe { libc::madvise(start, bytes, libc::MADV_POPULATE_WRITE) } != 0 {
            let error = std::io::Error::last_os_error();
            tracing::warn!("guest memory cannot be populated ({error}): it is as the guest touches it");
        }
    }
}

fn advise(ram: &Ram, advice: libc::c_int) -> Result<(), VmError> {
    for region in ram.iter() {
        let start = region.as_ptr();
        // SAFETY: start and size describe exactly the region's own private mapping, and none of the advices
        // changes its content.
        let result = unsafe { libc::madvise(start.cast(), region.size(), advice) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            // A kernel without transparent huge pages, or without page merging, refuses the advice about
            // them: nothing to switch off.
            let about_feature = matches!(advice, libc::MADV_NOHUGEPAGE | libc::MADV_UNMERGEABLE);
            if !about_feature || error.raw_os_error() != Some(libc::EINVAL) {
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
