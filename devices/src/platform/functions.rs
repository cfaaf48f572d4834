//! The functions on PCI bus 0: which device is in which slot.

use super::PlatformConfig;
use crate::Memory;
use crate::pci::{self, HOST_BRIDGE};
use crate::virtio::{Blk, Net, Output, Rng, VirtioPci};

/// The host bridge's slot.
const BRIDGE_SLOT: u8 = 0;
/// Slots of the network cards, the first one's first. Where a device is does not depend on how many others
/// there are.
pub(super) const NIC_SLOTS: [u8; 4] = [2, 12, 13, 14];
/// Slots of the disks.
pub(super) const DISK_SLOTS: [u8; 8] = [3, 5, 6, 7, 8, 9, 10, 11];

/// The entropy device's slot.
const RNG_SLOT: u8 = 4;

/// All functions but the host bridge, which has no state.
#[derive(Debug)]
pub(super) struct Functions {
    pub(super) nics: Vec<VirtioPci<Net>>,
    pub(super) disks: Vec<VirtioPci<Blk>>,
    pub(super) rng: VirtioPci<Rng>,
}

/// PCI interrupts: INTA of every slot, joined where slots share a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Intx {
    /// Bit n: slots whose number is n modulo 4.
    pub(super) pins: u32,
    /// Bit n: ISA interrupt n.
    pub(super) isa: u16,
}

/// One of them.
enum Function<'a> {
    Net(&'a mut VirtioPci<Net>),
    Blk(&'a mut VirtioPci<Blk>),
    Rng(&'a mut VirtioPci<Rng>),
}

/// The same call on whatever function it is.
macro_rules! each {
    ($function:expr, $inner:ident => $call:expr) => {
        match $function {
            Function::Net($inner) => $call,
            Function::Blk($inner) => $call,
            Function::Rng($inner) => $call,
        }
    };
}

impl Functions {
    /// The functions of a checked configuration, as firmware leaves them.
    pub(super) fn new(config: &PlatformConfig) -> Self {
        let nics = (0..).zip(NIC_SLOTS).zip(&config.macs);
        let disks = (0..).zip(DISK_SLOTS).zip(&config.disks);
        Functions {
            nics: nics.map(|((index, slot), mac)| VirtioPci::new(slot, Net::new(index, *mac))).collect(),
            disks: disks.map(|((index, slot), size)| VirtioPci::new(slot, Blk::new(index, *size))).collect(),
            rng: VirtioPci::new(RNG_SLOT, Rng::default()),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = (u8, Function<'_>)> {
        let nics = NIC_SLOTS.into_iter().zip(self.nics.iter_mut().map(Function::Net));
        let disks = DISK_SLOTS.into_iter().zip(self.disks.iter_mut().map(Function::Blk));
        nics.chain(disks).chain([(RNG_SLOT, Function::Rng(&mut self.rng))])
    }

    /// The interrupts that functions assert.
    pub(super) fn intx(&self) -> Intx {
        let nics = NIC_SLOTS.into_iter().zip(self.nics.iter().map(VirtioPci::intx));
        let disks = DISK_SLOTS.into_iter().zip(self.disks.iter().map(VirtioPci::intx));
        let mut intx = Intx::default();
        let rng = [(RNG_SLOT, self.rng.intx())];
        for (slot, _) in nics.chain(disks).chain(rng).filter(|(_, asserted)| *asserted) {
            intx.pins |= 1 << (slot % 4);
            intx.isa |= 1 << pci::isa_line(slot);
        }
        intx
    }

    fn at(&mut self, slot: u8) -> Option<Function<'_>> {
        self.all().find_map(|(at, function)| (at == slot).then_some(function))
    }

    /// Reads configuration space of a slot. Where no function is, `data` stays as it is.
    pub(super) fn config_read(&mut self, slot: u8, offset: usize, data: &mut [u8]) {
        if slot == BRIDGE_SLOT {
            let image = HOST_BRIDGE.image(0);
            return data.copy_from_slice(&image[offset..offset + data.len()]);
        }
        if let Some(function) = self.at(slot) {
            each!(function, inner => inner.config_read(offset, data));
        }
    }

    /// Writes configuration space of a slot.
    pub(super) fn config_write<M: Memory>(
        &mut self,
        slot: u8,
        offset: usize,
        data: &[u8],
        mem: &M,
        out: &mut Output,
    ) {
        if let Some(function) = self.at(slot) {
            each!(function, inner => inner.config_write(offset, data, mem, out));
        }
    }

    /// The first function that decodes an access, and the offset into its BAR.
    fn decode(&mut self, addr: u64, len: usize) -> Option<(Function<'_>, u64)> {
        self.all().find_map(|(_, function)| {
            let offset = each!(&function, inner => inner.decode(addr, len))?;
            Some((function, offset))
        })
    }

    /// Reads device memory, if a function decodes the access.
    pub(super) fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        if let Some((function, offset)) = self.decode(addr, data.len()) {
            each!(function, inner => inner.bar_read(offset, data));
        }
    }

    /// Writes device memory, if a function decodes the access.
    pub(super) fn mmio_write<M: Memory>(&mut self, addr: u64, data: &[u8], mem: &M, out: &mut Output) {
        if let Some((function, offset)) = self.decode(addr, data.len()) {
            each!(function, inner => inner.bar_write(offset, data, mem, out));
        }
    }
}
