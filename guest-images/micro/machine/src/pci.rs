//! PCI configuration mechanism 1: find a device, its capabilities, its memory (PCI Local Bus 3.0, 3.2.2.3, 6.7, 6.8).

use crate::cpu::{self, Mmio};

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const VIRTIO_VENDOR: u32 = 0x1AF4;
const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;
/// A capability takes 4 bytes at least: a longer list is a loop.
const MOST_CAPABILITIES: usize = 48;

/// A function on bus 0.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    slot: u32,
}

/// A capability: its place in configuration space.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    function: Function,
    offset: u8,
}

impl Function {
    /// The first virtio device with this device number.
    pub fn find(device: u32) -> Option<Self> {
        (0..32).map(|slot| Self { slot }).find(|function| function.read(0) == device << 16 | VIRTIO_VENDOR)
    }

    fn read(self, offset: u8) -> u32 {
        cpu::out32(ADDRESS, 1 << 31 | self.slot << 11 | u32::from(offset & 0xFC));
        cpu::in32(DATA)
    }

    fn write(self, offset: u8, value: u32) {
        cpu::out32(ADDRESS, 1 << 31 | self.slot << 11 | u32::from(offset & 0xFC));
        cpu::out32(DATA, value);
    }

    /// Lets the device be seen in memory and reach memory itself.
    pub fn enable(self) {
        let command = self.read(4) & 0xFFFF;
        if command & 0b110 != 0b110 {
            self.write(4, command | 0b110);
        }
    }

    /// A part of a memory BAR.
    pub fn memory(self, bar: u8, offset: u32, length: u32) -> Option<Mmio> {
        let register = (bar < 6).then(|| self.read(0x10 + 4 * bar))?;
        let base = (register & 1 == 0).then_some(register & !0xF)?;
        Mmio::new(u64::from(base) + u64::from(offset), u64::from(length))
    }

    fn capabilities(self) -> impl Iterator<Item = (u8, Capability)> {
        let mut offset = self.read(0x34) as u8 & 0xFC;
        let next = move || {
            let header = (offset != 0).then(|| self.read(offset))?;
            let capability = Capability { function: self, offset };
            offset = (header >> 8) as u8 & 0xFC;
            Some((header as u8, capability))
        };
        core::iter::from_fn(next).take(MOST_CAPABILITIES)
    }

    /// The device's MSI-X capability.
    pub fn msix(self) -> Option<Capability> {
        self.capabilities().find(|&(id, _)| id == CAPABILITY_MSIX).map(|(_, capability)| capability)
    }

    /// The virtio capability of this type (virtio 1.2, 4.1.4).
    pub fn virtio(self, kind: u8) -> Option<Capability> {
        let vendor = self.capabilities().filter(|&(id, _)| id == CAPABILITY_VENDOR);
        vendor.map(|(_, capability)| capability).find(|capability| (capability.read(0) >> 24) as u8 == kind)
    }
}

impl Capability {
    /// Reads 32 bits at an offset (a multiple of 4) of the capability.
    pub fn read(self, offset: u8) -> u32 {
        self.function.read(self.offset.wrapping_add(offset))
    }

    /// The memory that a virtio capability describes.
    pub fn memory(self) -> Option<Mmio> {
        self.function.memory(self.read(4) as u8, self.read(8), self.read(12))
    }

    /// Fills the MSI-X table (one vector per entry, to this processor) and turns MSI-X on.
    pub fn enable_msix(self, vectors: &[u8]) -> Option<()> {
        let (control, table) = (self.read(0), self.read(4));
        let entries = (control >> 16 & 0x7FF) as usize + 1;
        if vectors.len() > entries {
            return None;
        }
        let table = self.function.memory((table & 7) as u8, table & !7, entries as u32 * 16)?;
        for (n, &vector) in vectors.iter().enumerate() {
            table.write(16 * n, 0xFEE0_0000_u32);
            table.write(16 * n + 4, 0_u32);
            table.write(16 * n + 8, u32::from(vector));
            table.write(16 * n + 12, 0_u32);
        }
        self.function.write(self.offset, control & !(1 << 30) | 1 << 31);
        Some(())
    }
}
