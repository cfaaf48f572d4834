//! ELF64 executables, loaded at their physical addresses.

use std::fs::File;

use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::Ram;
use crate::table::layout::{ACPI_END, ACPI_TABLES, BOOT_END};

/// Loads the segments and returns the entry address. The error says what is wrong with the file.
pub(super) fn load(ram: &Ram, file: &mut File) -> Result<u64, String> {
    let memory_end = ram.last_addr().0.saturating_add(1);
    let loaded = Elf::load(ram, None, file, Some(GuestAddress(BOOT_END))).map_err(|error| {
        format!("{error}: give a static ELF64 executable for x86-64 that is linked between {BOOT_END:#x} and {memory_end:#x}")
    })?;
    let entry = loaded.kernel_load.0;
    if loaded.kernel_end > memory_end || entry >= loaded.kernel_end {
        return Err(format!(
            "it ends at {:#x} with entry {entry:#x}, guest memory ends at {memory_end:#x}: give the guest more memory",
            loaded.kernel_end
        ));
    }
    // Boot structures go there; the bitmap of untouched memory shows whether a segment is there too.
    for range in [0..BOOT_END, ACPI_TABLES..ACPI_END] {
        if ram.iter().any(|region| range.clone().step_by(4096).any(|at| is_written(region, at))) {
            return Err(format!(
                "a segment lies between {:#x} and {:#x}, where the boot structures are: link it at 1 MiB or higher",
                range.start, range.end
            ));
        }
    }
    Ok(entry)
}

fn is_written(region: &impl GuestMemoryRegion, at: u64) -> bool {
    usize::try_from(at).is_ok_and(|at| region.bitmap().dirty_at(at))
}
