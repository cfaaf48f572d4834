//! The guest's side: a small memory and drivers that speak to the devices as a guest does.

use devices::{Effect, Platform, PlatformConfig, Stimulus};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) type Memory = GuestMemoryMmap<AtomicBitmap>;

pub(crate) const MEMORY_BYTES: usize = 1 << 18;
pub(crate) const APIC: u64 = 0xfee0_0000;
pub(crate) const NET_BAR: u64 = 0xfeb0_8000;
pub(crate) const BLK_BAR: u64 = 0xfeb0_c000;
pub(crate) const RNG_BAR: u64 = 0xfeb1_0000;
pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
pub(crate) const SECTORS: u64 = 4096;
/// Descriptor flag: the device writes the buffer.
pub(crate) const WRITE: u16 = 2;
const NEXT: u16 = 1;

pub(crate) fn config() -> PlatformConfig {
    PlatformConfig { macs: vec![MAC], disks: vec![SECTORS], ..PlatformConfig::default() }
}

/// Devices and memory of one machine.
pub(crate) struct Machine {
    pub(crate) platform: Platform,
    pub(crate) mem: Memory,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Machine::of(&config())
    }

    pub(crate) fn of(config: &PlatformConfig) -> Self {
        let mem = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        Machine { platform: Platform::new(config).unwrap(), mem }
    }

    /// A second machine in the same state, built by save and restore.
    pub(crate) fn twin(&self) -> Self {
        let mut twin = Machine::new();
        twin.mem.write_slice(&self.memory(), GuestAddress(0)).unwrap();
        twin.platform.restore(&self.platform.save()).unwrap();
        twin
    }

    pub(crate) fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY_BYTES];
        self.mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub(crate) fn poke(&self, addr: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub(crate) fn write(&mut self, addr: u64, data: &[u8]) {
        self.platform.mmio_write(addr, data, &self.mem);
    }

    pub(crate) fn read<const N: usize>(&mut self, addr: u64) -> [u8; N] {
        let mut data = [0; N];
        self.platform.mmio_read(addr, &mut data);
        data
    }

    pub(crate) fn read32(&mut self, addr: u64) -> u32 {
        u32::from_le_bytes(self.read(addr))
    }

    pub(crate) fn read16(&mut self, addr: u64) -> u16 {
        u16::from_le_bytes(self.read(addr))
    }

    pub(crate) fn pci_read(&mut self, slot: u32, offset: u32) -> u32 {
        self.pci_select(slot, offset);
        let mut data = [0; 4];
        self.platform.pio_read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn pci_write(&mut self, slot: u32, offset: u32, value: u32) {
        self.pci_select(slot, offset);
        self.platform.pio_write(0xcfc, &value.to_le_bytes(), &self.mem);
    }

    fn pci_select(&mut self, slot: u32, offset: u32) {
        let address = 0x8000_0000 | (slot << 11) | offset;
        self.platform.pio_write(0xcf8, &address.to_le_bytes(), &self.mem);
    }

    pub(crate) fn place(&mut self, stimulus: &Stimulus) {
        self.platform.place(stimulus, &self.mem).unwrap();
    }

    pub(crate) fn frame(&mut self, frame: &[u8]) {
        self.place(&Stimulus::Frame { nic: 0, frame: frame.to_vec() });
    }

    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        self.platform.take_effects()
    }

    pub(crate) fn enable_apic(&mut self) {
        self.write(APIC + 0xf0, &0x1ffu32.to_le_bytes());
    }

    /// Takes the pending interrupt and ends it.
    pub(crate) fn interrupt(&mut self) -> Option<u8> {
        let vector = self.platform.accept_interrupt();
        self.write(APIC + 0xb0, &[0; 4]);
        vector
    }

    pub(crate) fn status(&mut self, bar: u64) -> u8 {
        self.read::<1>(bar + 0x14)[0]
    }

    /// Enables MSI-X: vector v of the function raises `base + v`.
    pub(crate) fn enable_msix(&mut self, slot: u32, bar: u64, vectors: u64, base: u32) {
        let control = self.pci_read(slot, 0x98);
        self.pci_write(slot, 0x98, control | 0x8000_0000);
        for vector in 0..vectors {
            let entry = bar + 0x3000 + vector * 16;
            self.write(entry, &APIC.to_le_bytes());
            self.write(entry + 8, &(base + vector as u32).to_le_bytes());
            self.write(entry + 12, &[0; 4]);
        }
    }

    /// Brings a device up to FEATURES_OK with VERSION_1 and these low features.
    pub(crate) fn negotiate(&mut self, bar: u64, features: u32) {
        self.write(bar + 0x14, &[0]);
        self.write(bar + 0x14, &[1]);
        self.write(bar + 0x14, &[3]);
        self.write(bar + 0x08, &0u32.to_le_bytes());
        self.write(bar + 0x0c, &features.to_le_bytes());
        self.write(bar + 0x08, &1u32.to_le_bytes());
        self.write(bar + 0x0c, &1u32.to_le_bytes());
        self.write(bar + 0x14, &[11]);
        assert_eq!(self.status(bar), 11);
    }

    /// Network card and disk up, MSI-X on, local APIC enabled.
    pub(crate) fn up() -> (Self, Ring, Ring, Ring) {
        let mut machine = Machine::new();
        machine.enable_apic();
        machine.enable_msix(2, NET_BAR, 3, 0x40);
        machine.enable_msix(3, BLK_BAR, 2, 0x50);
        let (rx, tx) = machine.up_net();
        let disk = machine.up_blk();
        (machine, rx, tx, disk)
    }

    pub(crate) fn up_net(&mut self) -> (Ring, Ring) {
        self.negotiate(NET_BAR, 1 << 5);
        self.write(NET_BAR + 0x10, &0u16.to_le_bytes());
        let rx = Ring::enable(self, NET_BAR, 0, 0x1000, 1);
        let tx = Ring::enable(self, NET_BAR, 1, 0x4000, 2);
        self.write(NET_BAR + 0x14, &[15]);
        (rx, tx)
    }

    pub(crate) fn up_blk(&mut self) -> Ring {
        self.up_queue(BLK_BAR, 0x7000)
    }

    /// Brings up a device that has one queue, with its rings at `base`.
    pub(crate) fn up_queue(&mut self, bar: u64, base: u64) -> Ring {
        self.negotiate(bar, 0);
        self.write(bar + 0x10, &0u16.to_le_bytes());
        let ring = Ring::enable(self, bar, 0, base, 1);
        self.write(bar + 0x14, &[15]);
        ring
    }
}

/// The driver's half of a virtqueue of 16 descriptors.
pub(crate) struct Ring {
    bar: u64,
    index: u16,
    base: u64,
    next_descriptor: u16,
    offered: u16,
    seen: u16,
}

impl Ring {
    pub(crate) const SIZE: u16 = 16;

    /// Gives the device a queue: table at `base`, available ring 4 KiB above, used ring 8 KiB above.
    pub(crate) fn enable(machine: &mut Machine, bar: u64, index: u16, base: u64, vector: u16) -> Self {
        machine.poke(base, &[0; 0x3000]);
        machine.write(bar + 0x16, &index.to_le_bytes());
        machine.write(bar + 0x18, &Self::SIZE.to_le_bytes());
        machine.write(bar + 0x1a, &vector.to_le_bytes());
        machine.write(bar + 0x20, &base.to_le_bytes());
        machine.write(bar + 0x28, &((base + 0x1000) as u32).to_le_bytes());
        machine.write(bar + 0x2c, &0u32.to_le_bytes());
        machine.write(bar + 0x30, &(base + 0x2000).to_le_bytes());
        machine.write(bar + 0x1c, &1u16.to_le_bytes());
        Ring { bar, index, base, next_descriptor: 0, offered: 0, seen: 0 }
    }

    /// Offers a chain of buffers (address, length, flags); returns its head.
    pub(crate) fn offer(&mut self, machine: &Machine, buffers: &[(u64, u32, u16)]) -> u16 {
        let head = self.next_descriptor;
        for (i, (addr, len, flags)) in buffers.iter().enumerate() {
            let at = self.base + u64::from(self.next_descriptor) * 16;
            self.next_descriptor = (self.next_descriptor + 1) % Self::SIZE;
            let chained = if i + 1 < buffers.len() { NEXT } else { 0 };
            machine.poke(at, &addr.to_le_bytes());
            machine.poke(at + 8, &len.to_le_bytes());
            machine.poke(at + 12, &(flags | chained).to_le_bytes());
            machine.poke(at + 14, &self.next_descriptor.to_le_bytes());
        }
        let slot = u64::from(self.offered % Self::SIZE);
        machine.poke(self.base + 0x1004 + slot * 2, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.set_index(machine, self.offered);
        head
    }

    /// Writes the available ring's index.
    pub(crate) fn set_index(&self, machine: &Machine, index: u16) {
        machine.poke(self.base + 0x1002, &index.to_le_bytes());
    }

    /// Asks for no interrupts, or for interrupts.
    pub(crate) fn suppress_interrupts(&self, machine: &Machine, suppress: bool) {
        machine.poke(self.base + 0x1000, &u16::from(suppress).to_le_bytes());
    }

    pub(crate) fn notify(&self, machine: &mut Machine) {
        machine.write(self.bar + 0x2000 + u64::from(self.index) * 4, &self.index.to_le_bytes());
    }

    /// The chains used since the last call: head and bytes written.
    pub(crate) fn used(&mut self, machine: &Machine) -> Vec<(u16, u32)> {
        let index = u16::from_le_bytes(machine.bytes(self.base + 0x2002, 2).try_into().unwrap());
        let mut used = Vec::new();
        while self.seen != index {
            let at = self.base + 0x2004 + u64::from(self.seen % Self::SIZE) * 8;
            let [a, b, _, _, len @ ..]: [u8; 8] = machine.bytes(at, 8).try_into().unwrap();
            used.push((u16::from_le_bytes([a, b]), u32::from_le_bytes(len)));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }
}
