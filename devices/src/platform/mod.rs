//! The whole PC: routes accesses to devices, stimuli to where they belong, messages to the local APIC.

mod config;
mod functions;
mod interrupts;
mod persist;
mod ports;

use crate::ioapic::{self, Ioapic};
use crate::kvmclock::KvmClock;
use crate::lapic::{self, Lapic};
use crate::legacy::i8042::I8042;
use crate::legacy::pic::{self, Pic};
use crate::legacy::pit::{self, Pit};
use crate::legacy::rtc::Rtc;
use crate::legacy::uart::Uart;
use crate::pci::ConfigAddress;
use crate::pm::Pm;
use crate::pveoi::{MSR_PV_EOI, PvEoi};
use crate::virtio::Output;
use crate::{Effect, Memory, Ns, PlaceError, Stimulus};
pub use config::{ConfigError, PlatformConfig};
use functions::Functions;

/// IA32_APIC_BASE: enabled, boot processor, page at 0xFEE00000. It cannot be changed.
const MSR_APIC_BASE: u32 = 0x1b;
const APIC_BASE_VALUE: u64 = lapic::BASE | (1 << 11) | (1 << 8);

/// Virtual time ends here, so that sums of times never overflow.
const TIME_END: Ns = 1 << 62;

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
    /// Bytes typed at the console that the serial port had no room for.
    pub console_dropped: u64,
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
    ioapic: Ioapic,
    pic: Pic,
    pit: Pit,
    uart: Uart,
    rtc: Rtc,
    keyboard: I8042,
    pm: Pm,
    clock: KvmClock,
    pv_eoi: PvEoi,
    functions: Functions,
    out: Output,
}

impl Platform {
    /// Builds the machine as firmware leaves it, at virtual time 0: BARs and interrupt lines assigned, memory
    /// space and bus mastering on, MSI-X off, the 8259A pair wired through the local APIC.
    ///
    /// # Errors
    /// When the configuration asks for devices that the machine cannot have.
    pub fn new(config: &PlatformConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Platform {
            config: config.clone(),
            now: 0,
            config_address: ConfigAddress::default(),
            lapic: Lapic::new(),
            ioapic: Ioapic::new(),
            pic: pic_after_firmware(),
            pit: pit_after_firmware(),
            uart: Uart::new(),
            rtc: Rtc::new(u64::from(config.wall_base_s)),
            keyboard: I8042::new(),
            pm: Pm::default(),
            clock: KvmClock::new(config.wall_base_s),
            pv_eoi: PvEoi::default(),
            functions: Functions::new(config),
            out: Output::default(),
        })
    }

    /// A load from device memory: `data` has the access's width. Where no device is, all ones.
    pub fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(offset) = offset_in(lapic::BASE, lapic::SIZE, addr, data.len()) {
            self.lapic.read(offset, data, self.now);
        } else if let Some(offset) = offset_in(ioapic::BASE, ioapic::SIZE, addr, data.len()) {
            self.ioapic.read(offset, data);
        } else {
            self.functions.mmio_read(addr, data);
        }
        self.settle();
    }

    /// A store to device memory: `data` has the access's width. Where no device is, it is ignored.
    pub fn mmio_write<M: Memory>(&mut self, addr: u64, data: &[u8], mem: &M) {
        if let Some(offset) = offset_in(lapic::BASE, lapic::SIZE, addr, data.len()) {
            self.lapic_write(offset, data);
        } else if let Some(offset) = offset_in(ioapic::BASE, ioapic::SIZE, addr, data.len()) {
            self.ioapic.write(offset, data);
        } else {
            self.functions.mmio_write(addr, data, mem, &mut self.out);
        }
        self.settle();
    }

    /// RDMSR. Nothing means that the register does not exist: the backend raises #GP.
    pub fn msr_read(&mut self, index: u32) -> Option<u64> {
        match index {
            MSR_APIC_BASE => Some(APIC_BASE_VALUE),
            MSR_PV_EOI => Some(self.pv_eoi.read()),
            _ => self.clock.read(index),
        }
    }

    /// WRMSR. Nothing means that the register does not exist or refuses the value: the backend raises #GP.
    pub fn msr_write<M: Memory>(&mut self, index: u32, value: u64, mem: &M) -> Option<()> {
        match index {
            MSR_APIC_BASE => (value == APIC_BASE_VALUE).then_some(()),
            MSR_PV_EOI => self.pv_eoi.write(value),
            _ => self.clock.write(index, value, self.now, mem),
        }
    }

    /// Places a stimulus at the guest's present position.
    ///
    /// A frame that the guest has no room for is dropped, as is the answer to a request that the guest has
    /// cancelled by a reset of the device: neither is an error.
    ///
    /// # Errors
    /// When the stimulus cannot be meant for this machine in this state. The machine is then unchanged.
    pub fn place<M: Memory>(&mut self, stimulus: &Stimulus, mem: &M) -> Result<(), PlaceError> {
        match stimulus {
            Stimulus::Time(now) => self.place_time(*now, mem)?,
            Stimulus::Frame { nic, frame } => {
                let nic =
                    self.functions.nics.get_mut(usize::from(*nic)).ok_or(PlaceError::NoDevice("frame"))?;
                nic.receive(frame, mem, &mut self.out);
            }
            Stimulus::DiskDone { disk, id, ok, data } => {
                let no_disk = PlaceError::NoDevice("disk completion");
                let disk = self.functions.disks.get_mut(usize::from(*disk)).ok_or(no_disk)?;
                disk.done(*id, *ok, data, mem, &mut self.out)?;
            }
            Stimulus::Entropy(bytes) => self.functions.rng.answer(bytes, mem, &mut self.out)?,
            Stimulus::ConsoleInput(bytes) => self.uart.receive(bytes),
            Stimulus::Stopped => self.clock.mark_stopped(self.now, mem),
            Stimulus::Button => self.pm.press_button(),
        }
        self.settle();
        Ok(())
    }

    fn place_time<M: Memory>(&mut self, now: Ns, mem: &M) -> Result<(), PlaceError> {
        if now < self.now {
            return Err(PlaceError::TimeWentBack { now: self.now, asked: now });
        }
        if now > TIME_END {
            return Err(PlaceError::EndOfTime(now));
        }
        self.pm.advance(self.now, now);
        self.pit.advance(now);
        self.rtc.advance(now);
        self.now = now;
        self.clock.publish(now, mem);
        self.lapic.advance(now);
        Ok(())
    }

    /// The effects since the last call, in the order of occurrence.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out.effects)
    }

    /// When a device next does something by itself: the virtual time at which [`Stimulus::Time`] is to be
    /// placed at the latest. Always after [`now`](Self::now).
    pub fn next_deadline(&self) -> Option<Ns> {
        let chips = [
            self.lapic.next_deadline(),
            self.pit.next_deadline(),
            self.rtc.next_deadline(),
            self.pm.next_deadline(self.now),
        ];
        chips.into_iter().flatten().min()
    }

    /// Disk reads and flushes that were submitted and are not done, as the effects they were. To be issued
    /// again after a restore, since [`restore`](Self::restore) itself has no effects.
    pub fn outstanding_disk(&self) -> Vec<Effect> {
        self.functions.disks.iter().flat_map(|disk| disk.device().outstanding()).collect()
    }

    /// Requests for entropy that were submitted and not answered, as the effects they were, the oldest first.
    /// To be answered after a restore.
    pub fn outstanding_entropy(&self) -> Vec<Effect> {
        self.functions.rng.device().outstanding().collect()
    }

    /// Virtual time: the value that was placed last.
    pub fn now(&self) -> Ns {
        self.now
    }

    /// What was dropped or refused so far.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters {
            clock_updates_ignored: self.clock.ignored(),
            console_dropped: self.uart.dropped(),
            ..Counters::default()
        };
        for nic in &self.functions.nics {
            let (rx, tx) = nic.device().dropped();
            counters.rx_dropped += rx;
            counters.tx_dropped += tx;
            counters.broken_rings += nic.broken_rings();
        }
        for disk in &self.functions.disks {
            counters.broken_rings += disk.broken_rings();
        }
        counters.broken_rings += self.functions.rng.broken_rings();
        counters
    }
}

/// The 8259A pair as firmware leaves it: the interrupts of PCI and ACPI, 9 to 11, are level-triggered. All else
/// is up to the operating system.
fn pic_after_firmware() -> Pic {
    let mut pic = Pic::new();
    pic.write(pic::SLAVE_ELCR, 0b1110);
    pic
}

/// The timer as firmware leaves it: counter 0 runs. Linux draws random numbers from it before it has any use for
/// it, and waits for ever if it stands still. Firmware leaves it ticking; here (mode 4) it comes to its end once,
/// while IRQ0 is masked, and counts on without, so that a guest that never looks at it has no deadlines by it.
fn pit_after_firmware() -> Pit {
    let mut pit = Pit::new();
    for (port, value) in [(pit::CONTROL, 0x38), (pit::COUNTER_0, 0), (pit::COUNTER_0, 0)] {
        pit.write(port, value, 0);
    }
    pit
}

/// The offset into a device's page of an access that lies within it.
fn offset_in(base: u64, size: u64, addr: u64, len: usize) -> Option<u64> {
    let offset = addr.checked_sub(base)?;
    let end = offset.checked_add(len as u64)?;
    (end <= size).then_some(offset)
}
