//! Which chip answers at which port.

use super::Platform;
use crate::legacy::{i8042, pic, pit, rtc, uart};
use crate::pci;
use crate::{Effect, Memory, pm};

/// One byte here is one byte on the console.
const CONSOLE_PORT: u16 = 0xe9;
/// The PC's reset control register, inside the PCI address register: bit 2 of a byte written resets.
const RESET_PORT: u16 = 0xcf9;
const RESET_BIT: u8 = 1 << 2;
/// The panic notifier: reading tells which events it takes, writing reports them (QEMU `docs/specs/pvpanic`).
const PANIC_PORT: u16 = 0x505;
const PANICKED: u8 = 1 << 0;

impl Platform {
    /// IN: `data` has the access's width. Bytes that no device drives are all ones.
    pub fn pio_read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if port == pci::ADDRESS_PORT && data.len() == 4 {
            data.copy_from_slice(&self.config_address.read().to_le_bytes());
        } else if let Some(target) = self.config_address.target(port, data.len()) {
            self.functions.config_read(target.slot, target.offset, data);
        } else if let pm::FIRST_PORT..=pm::LAST_PORT = port {
            self.pm.read(usize::from(port - pm::FIRST_PORT), data, self.now);
        } else {
            for (at, byte) in (u32::from(port)..).zip(data) {
                *byte = u16::try_from(at).map_or(0xff, |port| self.read_byte(port));
            }
        }
        self.settle();
    }

    /// OUT: `data` has the access's width. Ports without a device ignore it.
    pub fn pio_write<M: Memory>(&mut self, port: u16, data: &[u8], mem: &M) {
        if let (pci::ADDRESS_PORT, [a, b, c, d]) = (port, data) {
            self.config_address.write(u32::from_le_bytes([*a, *b, *c, *d]));
        } else if let (RESET_PORT, [value]) = (port, data) {
            if value & RESET_BIT != 0 {
                self.out.effects.push(Effect::Reset);
            }
        } else if let Some(target) = self.config_address.target(port, data.len()) {
            self.functions.config_write(target.slot, target.offset, data, mem, &mut self.out);
        } else if let pm::FIRST_PORT..=pm::LAST_PORT = port {
            if self.pm.write(usize::from(port - pm::FIRST_PORT), data) {
                self.out.effects.push(Effect::PowerOff);
            }
        } else {
            for (at, value) in (u32::from(port)..).zip(data) {
                if let Ok(port) = u16::try_from(at) {
                    self.write_byte(port, *value);
                }
            }
        }
        self.settle();
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        match port {
            pic::MASTER_COMMAND
            | pic::MASTER_DATA
            | pic::SLAVE_COMMAND
            | pic::SLAVE_DATA
            | pic::MASTER_ELCR
            | pic::SLAVE_ELCR => self.pic.read(port),
            pit::COUNTER_0..=pit::CONTROL | pit::SYSTEM_CONTROL => self.pit.read(port, self.now),
            i8042::DATA | i8042::COMMAND | i8042::PORT_92 => self.keyboard.read(port),
            rtc::INDEX | rtc::DATA => self.rtc.read(port, self.now),
            uart::BASE..=uart::LAST => self.uart.read(port),
            PANIC_PORT => PANICKED,
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        match port {
            pic::MASTER_COMMAND
            | pic::MASTER_DATA
            | pic::SLAVE_COMMAND
            | pic::SLAVE_DATA
            | pic::MASTER_ELCR
            | pic::SLAVE_ELCR => self.pic.write(port, value),
            pit::COUNTER_0..=pit::CONTROL | pit::SYSTEM_CONTROL => self.pit.write(port, value, self.now),
            i8042::DATA | i8042::COMMAND | i8042::PORT_92 => {
                self.out.effects.extend(self.keyboard.write(port, value));
            }
            rtc::INDEX | rtc::DATA => self.rtc.write(port, value, self.now),
            uart::BASE..=uart::LAST => self.out.effects.extend(self.uart.write(port, value)),
            CONSOLE_PORT => self.out.effects.push(Effect::Console(vec![value])),
            PANIC_PORT if value & PANICKED != 0 => self.out.effects.push(Effect::GuestPanicked),
            _ => {}
        }
    }
}
