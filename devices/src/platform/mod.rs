//! The whole PC: routes accesses to devices, stimuli to where they belong, messages to the local APIC.

mod persist;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::kvmclock::KvmClock;
use crate::lapic::{self, Lapic};
use crate::pci::{self, ConfigAddress, HOST_BRIDGE, Target};
use crate::virtio::{Blk, Net, Output, VirtioPci};
use crate::{Effect, Memory, Ns, PlaceError, Stimulus};

/// Slots on PCI bus 0.
const BRIDGE_SLOT: u8 = 0;
const NET_SLOT: u8 = 2;
const BLK_SLOT: u8 = 3;

/// One byte here is one byte on the console.
const CONSOLE_PORT: u16 = 0xe9;
/// The PC's reset control register; bit 2 resets.
const RESET_PORT: u16 = 0xcf9;
const RESET_BIT: u8 = 1 << 2;
/// A 16-bit write of 0x2000 here (sleep enable, as in ACPI's PM1 control register) powers off.
const POWER_PORT: u16 = 0x604;
const POWER_OFF: [u8; 2] = 0x2000u16.to_le_bytes();

/// IA32_APIC_BASE: enabled, boot processor, page at 0xFEE00000. It cannot be changed.
const MSR_APIC_BASE: u32 = 0x1b;
const APIC_BASE_VALUE: u64 = lapic::BASE | (1 << 11) | (1 << 8);

/// Virtual time ends here, so that sums of times never overflow.
const TIME_END: Ns = 1 << 62;

/// What the machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformConfig {
    /// MAC address of each network card: at most one, in slot 2.
    pub macs: Vec<[u8; 6]>,
    /// Size of each disk in sectors of 512 bytes: at most one, in slot 3.
    pub disks: Vec<u64>,
}

/// Why a machine cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Too many devices of one kind.
    #[error("the machine has room for {limit} {kind}, the configuration has {got}")]
    TooMany {
        /// What kind of device.
        kind: &'static str,
        /// How many are possible.
        limit: usize,
        /// How many were asked for.
        got: usize,
    },
    /// A disk whose size in bytes is no 64-bit number.
    #[error("a disk of {0} sectors is too large; the limit is 2^54 sectors")]
    DiskTooLarge(u64),
}

/// What the devices have dropped or refused since the machine was built: for status and diagnosis. The counts
/// are part of the saved state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames lost on the way to the guest.
    pub rx_dropped: u64,
    /// Frames lost on the way from the guest.
    pub tx_dropped: u64,
    /// Virtqueues that the guest broke.
    pub broken_rings: u64,
    /// Clock updates to addresses outside of memory.
    pub clock_updates_ignored: u64,
}

/// The PC's devices: one state machine.
///
/// Accesses of the guest and stimuli of the world change it; what it wants from the world is collected for
/// [`take_effects`](Self::take_effects), which the caller calls after each access and stimulus.
#[derive(Debug)]
pub struct Platform {
    config: PlatformConfig,
    now: Ns,
    config_address: ConfigAddress,
    lapic: Lapic,
    clock: KvmClock,
    nics: Vec<VirtioPci<Net>>,
    disks: Vec<VirtioPci<Blk>>,
    out: Output,
}

impl Platform {
    /// Builds the machine in its state after power-up, at virtual time 0. PCI is set up as firmware leaves it:
    /// BARs assigned, memory space and bus mastering on, MSI-X off.
    ///
    /// # Errors
    /// When the configuration asks for devices that the machine cannot have.
    pub fn new(config: &PlatformConfig) -> Result<Self, ConfigError> {
        check_count("network cards", config.macs.len())?;
        check_count("disks", config.disks.len())?;
        if let Some(sectors) = config.disks.iter().find(|sectors| **sectors > 1 << 54) {
            return Err(ConfigError::DiskTooLarge(*sectors));
        }
        let nics = config.macs.iter().map(|mac| VirtioPci::new(NET_SLOT, Net::new(0, *mac)));
        let disks = config.disks.iter().map(|sectors| VirtioPci::new(BLK_SLOT, Blk::new(0, *sectors)));
        Ok(Platform {
            config: config.clone(),
            now: 0,
            config_address: ConfigAddress::default(),
            lapic: Lapic::new(),
            clock: KvmClock::default(),
            nics: nics.collect(),
            disks: disks.collect(),
            out: Output::default(),
        })
    }

    /// IN: `data` has the access's width. Bytes that no device drives are all ones.
    pub fn pio_read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if port == pci::ADDRESS_PORT && data.len() == 4 {
            data.copy_from_slice(&self.config_address.read().to_le_bytes());
        } else if let Some(Target { slot, offset }) = self.config_address.target(port, data.len()) {
            match slot {
                BRIDGE_SLOT => {
                    let image = HOST_BRIDGE.image(0);
                    data.copy_from_slice(&image[offset..offset + data.len()]);
                }
                NET_SLOT => self.nics.iter_mut().for_each(|nic| nic.config_read(offset, data)),
                BLK_SLOT => self.disks.iter_mut().for_each(|disk| disk.config_read(offset, data)),
                _ => {}
            }
        }
    }

    /// OUT: `data` has the access's width. Ports without a device ignore it.
    pub fn pio_write<M: Memory>(&mut self, port: u16, data: &[u8], mem: &M) {
        match (port, data) {
            (pci::ADDRESS_PORT, [a, b, c, d]) => {
                self.config_address.write(u32::from_le_bytes([*a, *b, *c, *d]));
            }
            (RESET_PORT, [value]) if value & RESET_BIT != 0 => self.out.effects.push(Effect::Reset),
            (POWER_PORT, data) if data == POWER_OFF => self.out.effects.push(Effect::PowerOff),
            (CONSOLE_PORT, [byte]) => self.out.effects.push(Effect::Console(vec![*byte])),
            _ => self.config_write(port, data, mem),
        }
    }

    fn config_write<M: Memory>(&mut self, port: u16, data: &[u8], mem: &M) {
        let Some(Target { slot, offset }) = self.config_address.target(port, data.len()) else { return };
        let out = &mut self.out;
        match slot {
            NET_SLOT => self.nics.iter_mut().for_each(|nic| nic.config_write(offset, data, mem, out)),
            BLK_SLOT => self.disks.iter_mut().for_each(|disk| disk.config_write(offset, data, mem, out)),
            _ => {}
        }
        self.deliver_messages();
    }

    /// A load from device memory: `data` has the access's width. Where no device is, all ones.
    pub fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(offset) = lapic_offset(addr, data.len()) {
            return self.lapic.read(offset, data, self.now);
        }
        for nic in &mut self.nics {
            if let Some(offset) = nic.decode(addr, data.len()) {
                return nic.bar_read(offset, data);
            }
        }
        for disk in &mut self.disks {
            if let Some(offset) = disk.decode(addr, data.len()) {
                return disk.bar_read(offset, data);
            }
        }
    }

    /// A store to device memory: `data` has the access's width. Where no device is, it is ignored.
    pub fn mmio_write<M: Memory>(&mut self, addr: u64, data: &[u8], mem: &M) {
        if let Some(offset) = lapic_offset(addr, data.len()) {
            return self.lapic.write(offset, data, self.now);
        }
        for nic in &mut self.nics {
            if let Some(offset) = nic.decode(addr, data.len()) {
                nic.bar_write(offset, data, mem, &mut self.out);
                return self.deliver_messages();
            }
        }
        for disk in &mut self.disks {
            if let Some(offset) = disk.decode(addr, data.len()) {
                disk.bar_write(offset, data, mem, &mut self.out);
                return self.deliver_messages();
            }
        }
    }

    /// RDMSR. Nothing means that the register does not exist: the backend raises #GP.
    pub fn msr_read(&mut self, index: u32) -> Option<u64> {
        match index {
            MSR_APIC_BASE => Some(APIC_BASE_VALUE),
            _ => self.clock.read(index),
        }
    }

    /// WRMSR. Nothing means that the register does not exist or refuses the value: the backend raises #GP.
    pub fn msr_write<M: Memory>(&mut self, index: u32, value: u64, mem: &M) -> Option<()> {
        match index {
            MSR_APIC_BASE => (value == APIC_BASE_VALUE).then_some(()),
            _ => self.clock.write(index, value, self.now, mem),
        }
    }

    /// Places a stimulus at the guest's present position.
    ///
    /// A frame that the guest has no room for is dropped, as is the completion of a request that the guest has
    /// cancelled by a reset of the disk: neither is an error.
    ///
    /// # Errors
    /// When the stimulus cannot be meant for this machine in this state. The machine is then unchanged.
    pub fn place<M: Memory>(&mut self, stimulus: &Stimulus, mem: &M) -> Result<(), PlaceError> {
        match stimulus {
            Stimulus::Time(now) => self.place_time(*now, mem)?,
            Stimulus::Frame { nic, frame } => {
                let nic = self.nics.get_mut(usize::from(*nic)).ok_or(PlaceError::NoDevice("frame"))?;
                nic.receive(frame, mem, &mut self.out);
            }
            Stimulus::DiskDone { disk, id, ok, data } => {
                let no_disk = PlaceError::NoDevice("disk completion");
                let disk = self.disks.get_mut(usize::from(*disk)).ok_or(no_disk)?;
                disk.done(*id, *ok, data, mem, &mut self.out)?;
            }
            Stimulus::Entropy(_) => return Err(PlaceError::NoDevice("entropy")),
            Stimulus::ConsoleInput(_) => return Err(PlaceError::NoDevice("console input")),
            Stimulus::Button => return Err(PlaceError::NoDevice("power button")),
        }
        self.deliver_messages();
        Ok(())
    }

    fn place_time<M: Memory>(&mut self, now: Ns, mem: &M) -> Result<(), PlaceError> {
        if now < self.now {
            return Err(PlaceError::TimeWentBack { now: self.now, asked: now });
        }
        if now > TIME_END {
            return Err(PlaceError::EndOfTime(now));
        }
        self.now = now;
        self.clock.publish(now, mem);
        self.lapic.advance(now);
        Ok(())
    }

    fn deliver_messages(&mut self) {
        for message in self.out.msis.drain(..) {
            self.lapic.msi(message.addr, message.data);
        }
    }

    /// The effects since the last call, in the order of occurrence.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out.effects)
    }

    /// When a device next does something by itself: the virtual time at which [`Stimulus::Time`] is to be
    /// placed at the latest. Always after [`now`](Self::now).
    pub fn next_deadline(&self) -> Option<Ns> {
        self.lapic.next_deadline()
    }

    /// The interrupt vector that the processor would take now, if its interrupt flag allowed.
    pub fn pending_interrupt(&self) -> Option<u8> {
        self.lapic.pending()
    }

    /// The processor takes the pending interrupt: it is in service until the guest writes EOI.
    pub fn accept_interrupt(&mut self) -> Option<u8> {
        self.lapic.accept()
    }

    /// Disk reads and flushes that were submitted and are not done, as the effects they were. To be issued
    /// again after a restore, since [`restore`](Self::restore) itself has no effects.
    pub fn outstanding_disk(&self) -> Vec<Effect> {
        self.disks.iter().flat_map(|disk| disk.device().outstanding()).collect()
    }

    /// Virtual time: the value that was placed last.
    pub fn now(&self) -> Ns {
        self.now
    }

    /// What was dropped or refused so far.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters { clock_updates_ignored: self.clock.ignored(), ..Counters::default() };
        for nic in &self.nics {
            let (rx, tx) = nic.device().dropped();
            counters.rx_dropped += rx;
            counters.tx_dropped += tx;
            counters.broken_rings += nic.broken_rings();
        }
        for disk in &self.disks {
            counters.broken_rings += disk.broken_rings();
        }
        counters
    }
}

fn check_count(kind: &'static str, got: usize) -> Result<(), ConfigError> {
    const LIMIT: usize = 1;
    if got > LIMIT { Err(ConfigError::TooMany { kind, limit: LIMIT, got }) } else { Ok(()) }
}

/// The offset into the local APIC's page of an access that lies within it.
fn lapic_offset(addr: u64, len: usize) -> Option<u64> {
    let offset = addr.checked_sub(lapic::BASE)?;
    let end = offset.checked_add(len as u64)?;
    (end <= lapic::SIZE).then_some(offset)
}
