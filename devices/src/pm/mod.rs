//! ACPI fixed hardware (ACPI 6.4 section 4.8): PM1 event and control registers, the power management timer,
//! the power button and soft-off. The machine is always in ACPI mode: there is no SMI command port.
//!
//! | port | bytes | register |
//! |---|---|---|
//! | 0x600 | 2 | PM1a status |
//! | 0x602 | 2 | PM1a enable |
//! | 0x604 | 2 | PM1a control; sleep type 0 with sleep enable is S5, soft-off |
//! | 0x608 | 4 | PM timer, 24 bits at 3.579545 MHz |

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::Ns;
use crate::pci::put;
use crate::state::Invalid;

/// First port.
pub(crate) const FIRST_PORT: u16 = 0x600;
/// Last port.
pub(crate) const LAST_PORT: u16 = 0x60b;

const STATUS: usize = 0;
const ENABLE: usize = 2;
const CONTROL: usize = 4;
const TIMER: usize = 8;

/// Bits of PM1 status and PM1 enable (tables 4.12 and 4.13).
const TIMER_CARRY: u16 = 1 << 0;
const GLOBAL_LOCK: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_BUTTON: u16 = 1 << 9;
const RTC_ALARM: u16 = 1 << 10;
/// Enable bits that can be written. Global lock, sleep button and RTC alarm never happen here, but software
/// reads back what it enables.
const ENABLE_WRITABLE: u16 = TIMER_CARRY | GLOBAL_LOCK | POWER_BUTTON | SLEEP_BUTTON | RTC_ALARM;
/// Status bits that can be set.
const STATUS_POSSIBLE: u16 = TIMER_CARRY | POWER_BUTTON;

/// Bits of PM1 control (table 4.14). SCI_EN is hard-wired, GBL_RLS and SLP_EN read as zero.
const SCI_ENABLE: u16 = 1 << 0;
const BUS_MASTER_RELOAD: u16 = 1 << 1;
const SLEEP_TYPE: u16 = 0b111 << 10;
const SLEEP_ENABLE: u16 = 1 << 13;
const CONTROL_WRITABLE: u16 = BUS_MASTER_RELOAD | SLEEP_TYPE;

/// Frequency of the PM timer in Hz.
const TIMER_HZ: u128 = 3_579_545;
const NS_PER_SECOND: u128 = 1_000_000_000;
const TIMER_MASK: u64 = 0x00ff_ffff;
/// The carry status is set whenever the counter's highest bit changes: every 2^23 ticks.
const CARRY_SHIFT: u32 = 23;

/// The fixed hardware's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pm {
    status: u16,
    enable: u16,
    control: u16,
}

impl Pm {
    /// Reads ports from `offset` on.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8], now: Ns) {
        let mut image = [0; (LAST_PORT - FIRST_PORT + 1) as usize];
        put(&mut image, STATUS, &self.status.to_le_bytes());
        put(&mut image, ENABLE, &self.enable.to_le_bytes());
        put(&mut image, CONTROL, &(self.control | SCI_ENABLE).to_le_bytes());
        put(&mut image, TIMER, &((ticks(now) & TIMER_MASK) as u32).to_le_bytes());
        for (at, byte) in (offset..).zip(data) {
            *byte = image.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Writes ports from `offset` on. Whether the guest asks for soft-off.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        let mut sleep = false;
        for (at, value) in (offset..).zip(data) {
            let word = u16::from(*value) << (at % 2 * 8);
            let mask = 0xff << (at % 2 * 8);
            match at & !1 {
                STATUS => self.status &= !word,
                ENABLE => self.enable = (self.enable & !mask) | (word & ENABLE_WRITABLE),
                CONTROL => {
                    self.control = (self.control & !mask) | (word & CONTROL_WRITABLE);
                    sleep |= word & SLEEP_ENABLE != 0;
                }
                _ => {}
            }
        }
        // Sleep types other than soft-off's name states that the machine does not have.
        sleep && self.control & SLEEP_TYPE == 0
    }

    /// Virtual time goes from `before` to `now`.
    pub(crate) fn advance(&mut self, before: Ns, now: Ns) {
        if ticks(before) >> CARRY_SHIFT != ticks(now) >> CARRY_SHIFT {
            self.status |= TIMER_CARRY;
        }
    }

    /// The power button is pressed.
    pub(crate) fn press_button(&mut self) {
        self.status |= POWER_BUTTON;
    }

    /// The level of the system control interrupt.
    pub(crate) fn interrupt(&self) -> bool {
        self.status & self.enable != 0
    }

    /// When the timer's carry will next raise the interrupt.
    pub(crate) fn next_deadline(&self, now: Ns) -> Option<Ns> {
        if self.enable & TIMER_CARRY == 0 || self.status & TIMER_CARRY != 0 {
            return None;
        }
        let tick = u128::from((ticks(now) >> CARRY_SHIFT) + 1) << CARRY_SHIFT;
        Some((tick * NS_PER_SECOND).div_ceil(TIMER_HZ) as Ns)
    }

    /// Checks a decoded value.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        let ok = self.status & !STATUS_POSSIBLE == 0
            && self.enable & !ENABLE_WRITABLE == 0
            && self.control & !CONTROL_WRITABLE == 0;
        if ok { Ok(()) } else { Err(Invalid("an ACPI register holds an impossible value")) }
    }
}

/// Ticks of the PM timer since virtual time 0.
fn ticks(now: Ns) -> u64 {
    // Time ends at 2^62 ns: the quotient is below 2^54.
    (u128::from(now) * TIMER_HZ / NS_PER_SECOND) as u64
}
