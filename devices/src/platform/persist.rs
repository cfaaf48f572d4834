//! Saving and restoring the machine.

use super::{Platform, PlatformConfig, TIME_END};
use crate::RestoreError;
use crate::pci::ConfigAddress;
use crate::state::{Reader, Section, Writer};
use crate::virtio::{Device, VirtioPci};

/// The sections in their order. A change of what a section holds takes a new version.
const CONFIG: Section = Section { tag: *b"CONF", version: 2, name: "configuration" };
const BOARD: Section = Section { tag: *b"BORD", version: 1, name: "board" };
const LAPIC: Section = Section { tag: *b"APIC", version: 1, name: "local APIC" };
const IOAPIC: Section = Section { tag: *b"IOAP", version: 1, name: "I/O APIC" };
const PIC: Section = Section { tag: *b"8259", version: 1, name: "8259A pair" };
const PIT: Section = Section { tag: *b"8254", version: 1, name: "interval timer" };
const UART: Section = Section { tag: *b"COM1", version: 1, name: "serial port" };
const RTC: Section = Section { tag: *b"CMOS", version: 1, name: "real-time clock" };
const KEYBOARD: Section = Section { tag: *b"8042", version: 1, name: "keyboard controller" };
const PM: Section = Section { tag: *b"ACPI", version: 1, name: "ACPI hardware" };
const CLOCK: Section = Section { tag: *b"CLCK", version: 2, name: "paravirtual clock" };
const PV_EOI: Section = Section { tag: *b"PEOI", version: 1, name: "end of interrupts in memory" };
const NET: Section = Section { tag: *b"VNET", version: 1, name: "network card" };
const BLK: Section = Section { tag: *b"VBLK", version: 1, name: "disk" };
const RNG: Section = Section { tag: *b"VRNG", version: 1, name: "entropy device" };

impl Platform {
    /// The whole state of the devices in canonical bytes: two machines have equal bytes if and only if they
    /// behave alike from here on. Effects that were not taken are not part of it: take them first.
    pub fn save(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.section(CONFIG, &self.config);
        writer.section(BOARD, &(self.now, &self.config_address));
        writer.section(LAPIC, &self.lapic);
        writer.section(IOAPIC, &self.ioapic);
        writer.section(PIC, &self.pic);
        writer.section(PIT, &self.pit);
        writer.section(UART, &self.uart);
        writer.section(RTC, &self.rtc);
        writer.section(KEYBOARD, &self.keyboard);
        writer.section(PM, &self.pm);
        writer.section(CLOCK, &self.clock);
        writer.section(PV_EOI, &self.pv_eoi);
        for nic in &self.functions.nics {
            writer.section(NET, nic);
        }
        for disk in &self.functions.disks {
            writer.section(BLK, disk);
        }
        writer.section(RNG, &self.functions.rng);
        writer.finish()
    }

    /// Takes over a saved state. Effects that were not taken are forgotten; those for requests in flight are
    /// in [`outstanding_disk`](Self::outstanding_disk).
    ///
    /// # Errors
    /// When the bytes are not exactly what [`save`](Self::save) of the same program version gives for a machine
    /// of the same configuration. The machine is then unchanged.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut reader = Reader::new(bytes)?;
        let config: PlatformConfig = reader.section(CONFIG)?;
        let mut machine = Platform::new(&self.config).map_err(|_| RestoreError::OtherConfig)?;
        if config != self.config {
            return Err(RestoreError::OtherConfig);
        }
        (machine.now, machine.config_address) = reader.section::<(u64, ConfigAddress)>(BOARD)?;
        machine.lapic = reader.section(LAPIC)?;
        machine.ioapic = reader.section(IOAPIC)?;
        machine.pic = reader.section(PIC)?;
        machine.pit = reader.section(PIT)?;
        machine.uart = reader.section(UART)?;
        machine.rtc = reader.section(RTC)?;
        machine.keyboard = reader.section(KEYBOARD)?;
        machine.pm = reader.section(PM)?;
        machine.clock = reader.section(CLOCK)?;
        machine.pv_eoi = reader.section(PV_EOI)?;
        for nic in &mut machine.functions.nics {
            *nic = checked(reader.section(NET)?, nic)?;
        }
        for disk in &mut machine.functions.disks {
            *disk = checked(reader.section(BLK)?, disk)?;
        }
        machine.functions.rng = checked(reader.section(RNG)?, &machine.functions.rng)?;
        machine.check_board()?;
        // One comparison covers bytes at the end and numbers that are longer than needed.
        if machine.save() != bytes {
            return Err(RestoreError::NotCanonical);
        }
        *self = machine;
        Ok(())
    }

    fn check_board(&self) -> Result<(), RestoreError> {
        if self.now > TIME_END {
            return Err(RestoreError::Impossible("virtual time is beyond its end"));
        }
        self.clock.validate(self.config.wall_base_s)?;
        self.pv_eoi.validate()?;
        self.config_address.validate()?;
        self.lapic.validate(self.now)?;
        self.ioapic.validate()?;
        self.pic.validate()?;
        self.pit.validate(self.now)?;
        self.uart.validate()?;
        self.rtc.validate(self.now)?;
        self.keyboard.validate()?;
        self.pm.validate()?;
        Ok(())
    }
}

fn checked<D: Device>(decoded: VirtioPci<D>, fresh: &VirtioPci<D>) -> Result<VirtioPci<D>, RestoreError> {
    decoded.validate(fresh)?;
    Ok(decoded)
}
