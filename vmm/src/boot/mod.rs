//! Starting a guest: the kernel, the boot structures, the first processor state.

mod acpi;
mod bzimage;
mod elf;
mod initrd;
mod paging;
#[cfg(test)]
mod tests;
mod zero_page;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use self::zero_page::Contents;
use crate::error::BootError;
use crate::memory::Ram;
use crate::table::layout::{APIC_BASE_MSR, BOOT_GDT, BOOT_PARAMS, BOOT_STACK, PAGE_TABLES};
use crate::table::msrs;
use crate::vcpu::{CpuState, Events, Segment};

/// What a guest is started from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// An ELF executable or a bzImage.
    pub kernel: &'a Path,
    /// An initial file system for the latter.
    pub initrd: Option<&'a Path>,
    /// The kernel's command line.
    pub command_line: &'a str,
}

/// Loads the guest and writes the boot structures; returns the state to start with.
pub(crate) fn load(ram: &Ram, sources: Sources<'_>) -> Result<CpuState, BootError> {
    let Sources { kernel, command_line, .. } = sources;
    let path = || kernel.to_path_buf();
    let mut file = File::open(kernel).map_err(|source| BootError::Open { path: path(), source })?;
    let wrong = |reason| BootError::Load { path: path(), reason };
    let memory_end = ram.last_addr().0.saturating_add(1);
    let (state, header, initrd) = match kind(&mut file).map_err(wrong)? {
        Kind::Elf => {
            if let Some(initrd) = sources.initrd {
                let reason = "an ELF kernel takes none: remove it, or give a bzImage as kernel".into();
                return Err(BootError::Initrd { path: initrd.to_path_buf(), reason });
            }
            let entry = elf::load(ram, &mut file).map_err(wrong)?;
            (bare(ram, entry, Privilege::Kernel)?, None, None)
        }
        Kind::BzImage => {
            let loaded = bzimage::load(ram, &mut file, memory_end).map_err(wrong)?;
            let initrd = sources
                .initrd
                .map(|path| initrd::load(ram, path, &loaded.header, loaded.end, memory_end))
                .transpose()?;
            (linux(ram, loaded.entry)?, Some(loaded.header), initrd)
        }
    };
    let acpi = acpi::write(ram)?;
    zero_page::write(ram, &Contents { header, command_line, initrd, acpi, memory_end })?;
    Ok(state)
}

/// Kernels that this machine starts.
enum Kind {
    Elf,
    BzImage,
}

/// Tells them apart by their marks.
fn kind(file: &mut File) -> Result<Kind, String> {
    let mut head = Vec::new();
    let limit = (bzimage::MARK_AT + bzimage::MARK.len()) as u64;
    let read = file.take(limit).read_to_end(&mut head).and_then(|_| file.seek(SeekFrom::Start(0)));
    read.map_err(|error| format!("it cannot be read ({error}): give a regular file"))?;
    if head.starts_with(b"\x7fELF") {
        Ok(Kind::Elf)
    } else if head.get(bzimage::MARK_AT..) == Some(&bzimage::MARK) {
        Ok(Kind::BzImage)
    } else {
        Err("it is neither a static ELF64 executable nor a bzImage: give one of them".into())
    }
}

/// Who the first instruction belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// A kernel, as at every boot.
    Kernel,
    /// A program, with all memory to itself; for trying a host out.
    User,
}

/// Writes page tables and descriptors alone; returns the state to start at `entry` with.
pub(crate) fn bare(ram: &Ram, entry: u64, privilege: Privilege) -> Result<CpuState, BootError> {
    let user = privilege == Privilege::User;
    paging::write(ram, user).map_err(|error| BootError::Memory(error.to_string()))?;
    write_descriptors(ram, &GDT)?;
    let mut state = long_mode(entry);
    if user {
        let [_, .., task, local] = state.segments;
        let (code, data) = (USER_CODE, USER_DATA);
        state.segments = [code, data, data, data, data, data, task, local];
        // Interrupts are on in every program.
        state.rflags |= 1 << 9;
    }
    Ok(state)
}

/// As [`bare`] for a kernel, with the selectors that Linux's boot protocol demands: code 0x10, data 0x18.
fn linux(ram: &Ram, entry: u64) -> Result<CpuState, BootError> {
    let mut state = bare(ram, entry, Privilege::Kernel)?;
    let [null, code, data] = GDT;
    write_descriptors(ram, &[null, null, code, data])?;
    state.gdt.1 += 8;
    for segment in &mut state.segments[..6] {
        segment.selector += 8;
    }
    Ok(state)
}

fn write_descriptors(ram: &Ram, table: &[u64]) -> Result<(), BootError> {
    let bytes: Vec<u8> = table.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect();
    ram.write_slice(&bytes, GuestAddress(BOOT_GDT)).map_err(|error| BootError::Memory(error.to_string()))
}

/// Null, 64-bit code (selector 8), data (selector 16).
const GDT: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE: Segment = Segment { base: 0, limit: u32::MAX, selector: 8, access: 0xa09b };
const DATA: Segment = Segment { base: 0, limit: u32::MAX, selector: 16, access: 0xc093 };
const USER_CODE: Segment = Segment { base: 0, limit: u32::MAX, selector: 0x1b, access: 0xa0fb };
const USER_DATA: Segment = Segment { base: 0, limit: u32::MAX, selector: 0x23, access: 0xc0f3 };
/// A busy 64-bit task state segment: VMX demands one.
const TASK: Segment = Segment { base: 0, limit: 0xffff, selector: 0, access: 0x8b };
const NO_LDT: Segment = Segment { base: 0, limit: 0, selector: 0, access: 1 << 16 };

/// PE, MP, ET, NE, WP, AM, PG.
const CR0: u64 = 0x8005_0033;
/// PAE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 0x620;
/// Long mode enabled and active.
const EFER: u64 = 0x500;

/// 64-bit mode, interrupts off, RSI at the zero page (Linux's 64-bit boot protocol).
fn long_mode(entry: u64) -> CpuState {
    let mut general = [0; 16];
    general[4] = BOOT_STACK;
    general[6] = BOOT_PARAMS;
    let mut fxsave = vec![0; 512];
    // FCW and MXCSR after FNINIT and reset: all exceptions masked.
    fxsave[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    fxsave[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    let gdt_limit = u16::try_from(GDT.len() * 8 - 1).unwrap_or(0);
    CpuState {
        general,
        rip: entry,
        rflags: 2,
        segments: [CODE, DATA, DATA, DATA, DATA, DATA, TASK, NO_LDT],
        gdt: (BOOT_GDT, gdt_limit),
        idt: (0, 0),
        control: [CR0, 0, PAGE_TABLES, CR4, 0],
        efer: EFER,
        apic_base: APIC_BASE_MSR,
        fxsave,
        // DR6 and DR7 after reset.
        debug: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
        msrs: msrs::SAVED.iter().map(|msr| msr.reset).collect(),
        events: Events::default(),
        retired: 0,
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    use crate::vcpu::CpuState;

    /// Some valid state.
    pub(crate) fn boot_state() -> CpuState {
        super::long_mode(0x0020_0000)
    }
}
