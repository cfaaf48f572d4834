//! The MC146818 real-time clock with 128 bytes of CMOS, IRQ8 (Motorola MC146818 data sheet; the century byte and
//! the upper 64 bytes are the PC's).
//!
//! At virtual time 0 it shows a time that the configuration gives; from there its seconds are those of virtual
//! time. The registers hold what the guest writes to them, and time is added to that at each second: setting
//! the clock moves only what this clock shows.
//!
//! Updates, alarms and the periodic interrupt follow from how much virtual time has passed, whatever the steps.
//! An update is done in an instant; the update-in-progress bit is set for 244 µs before it (t_BUC), which is
//! what a guest may rely on. After the divider was reset the first update comes in half a second.
//!
//! Not there: the daylight saving rule (the bit is storage), the square wave output, and other time bases than
//! 32,768 Hz (they count as that one).

mod calendar;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::Ns;
use crate::state::Invalid;
use calendar::{Alarm, Format, Registers};

/// Selects a byte. Bit 7 would disable the NMI, which does not exist.
pub(crate) const INDEX: u16 = 0x70;
pub(crate) const DATA: u16 = 0x71;

/// Where the century is kept, as the ACPI FADT has to say.
pub(crate) const CENTURY: u8 = 0x32;

/// The bytes that are not memory.
mod reg {
    pub(super) const SECOND: u8 = 0;
    pub(super) const SECOND_ALARM: u8 = 1;
    pub(super) const MINUTE: u8 = 2;
    pub(super) const MINUTE_ALARM: u8 = 3;
    pub(super) const HOUR: u8 = 4;
    pub(super) const HOUR_ALARM: u8 = 5;
    pub(super) const WEEKDAY: u8 = 6;
    pub(super) const DAY: u8 = 7;
    pub(super) const MONTH: u8 = 8;
    pub(super) const YEAR: u8 = 9;
    pub(super) const A: u8 = 10;
    pub(super) const B: u8 = 11;
    pub(super) const C: u8 = 12;
    pub(super) const D: u8 = 13;
}

const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Normal operation at 32,768 Hz, periodic interrupt (if enabled) 1,024 times a second.
const A_POWER_UP: u8 = 0x26;

const B_SET: u8 = 1 << 7;
const B_UPDATE_INTERRUPT: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;

/// Flags of register C, enabled by the same bits of register B.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE: u8 = 1 << 4;
const FLAGS: u8 = PERIODIC | ALARM | UPDATE;
const C_INTERRUPT: u8 = 1 << 7;

/// Valid RAM and time.
const D_VALID: u8 = 1 << 7;

const SECOND: Ns = 1_000_000_000;
/// The periodic interrupt is counted in periods of 32,768 Hz.
const TICKS_PER_SECOND: u64 = 32_768;
/// Eight of them.
const UPDATE_IN_PROGRESS: Ns = 244_141;

/// The clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rtc {
    index: u8,
    /// All 128 bytes, the registers among them.
    bytes: [[u8; 32]; 4],
    /// Virtual time of the last access or [`advance`](Self::advance).
    now: Ns,
    /// When the divider next completes a second; nothing while it is held in reset.
    next_second: Option<Ns>,
}

impl Rtc {
    /// A clock that shows `wall_base_s` seconds after 1970-01-01 00:00:00 at virtual time 0, in BCD and with 24
    /// hours.
    pub(crate) fn new(wall_base_s: u64) -> Self {
        let mut rtc = Rtc { index: 0, bytes: [[0; 32]; 4], now: 0, next_second: Some(SECOND) };
        rtc.set(reg::A, A_POWER_UP);
        rtc.set(reg::B, B_24_HOURS);
        rtc.set(reg::D, D_VALID);
        rtc.set_time(Registers::from_unix(wall_base_s, rtc.format()));
        rtc
    }

    /// IN of a byte.
    pub(crate) fn read(&mut self, port: u16, now: Ns) -> u8 {
        self.advance(now);
        match (port, self.index) {
            (DATA, reg::A) => self.get(reg::A) | self.update_in_progress(),
            (DATA, reg::C) => {
                let interrupt = if self.irq() { C_INTERRUPT } else { 0 };
                let flags = self.get(reg::C);
                self.set(reg::C, 0);
                flags | interrupt
            }
            (DATA, index) => self.get(index),
            // The index cannot be read.
            _ => 0xff,
        }
    }

    /// OUT of a byte.
    pub(crate) fn write(&mut self, port: u16, value: u8, now: Ns) {
        self.advance(now);
        match (port, self.index) {
            (INDEX, _) => self.index = value & 0x7f,
            (DATA, reg::A) => self.write_a(value & !A_UPDATE_IN_PROGRESS),
            // "The UIE bit is cleared by the SET bit going high."
            (DATA, reg::B) if value & B_SET != 0 => self.set(reg::B, value & !B_UPDATE_INTERRUPT),
            (DATA, reg::C | reg::D) => {}
            (DATA, index) => self.set(index, value),
            _ => {}
        }
    }

    fn write_a(&mut self, value: u8) {
        self.set(reg::A, value);
        self.next_second = if divider_is_reset(value) {
            None
        } else {
            Some(self.next_second.unwrap_or(self.now + SECOND / 2))
        };
    }

    /// Virtual time is now `now`.
    pub(crate) fn advance(&mut self, now: Ns) {
        let now = now.max(self.now);
        let before = std::mem::replace(&mut self.now, now);
        let Some(next) = self.next_second else { return };
        let seconds = if next <= now { 1 + (now - next) / SECOND } else { 0 };
        let next_after = next + seconds * SECOND;
        self.next_second = Some(next_after);

        let ticks_before = ticks(before, next);
        let ticks_after = seconds * TICKS_PER_SECOND + ticks(now, next_after);
        if self.period().is_some_and(|period| ticks_after / period > ticks_before / period) {
            self.raise(PERIODIC);
        }
        if seconds > 0 && self.get(reg::B) & B_SET == 0 {
            self.update(seconds);
        }
    }

    /// The update cycles of this many seconds.
    fn update(&mut self, seconds: u64) {
        let (time, format) = (self.time(), self.format());
        if time.until_alarm(self.alarm(), format).is_some_and(|until| until <= seconds) {
            self.raise(ALARM);
        }
        self.set_time(time.later(seconds, format));
        self.raise(UPDATE);
    }

    /// The level of the interrupt line.
    pub(crate) fn irq(&self) -> bool {
        self.get(reg::C) & self.get(reg::B) & FLAGS != 0
    }

    /// When the interrupt line next rises by itself, or a second cause joins.
    pub(crate) fn next_deadline(&self) -> Option<Ns> {
        let next_second = self.next_second?;
        let b = self.get(reg::B);
        let awaited = b & !self.get(reg::C) & FLAGS;
        let periodic = self.period().filter(|_| awaited & PERIODIC != 0).map(|period| {
            let next = (ticks(self.now, next_second) / period + 1) * period;
            next_second + time_of_tick(next) - SECOND
        });
        let running = b & B_SET == 0;
        let update = (running && awaited & UPDATE != 0).then_some(next_second);
        let alarm = (running && awaited & ALARM != 0)
            .then(|| self.time().until_alarm(self.alarm(), self.format()))
            .flatten()
            .map(|until| next_second + (until - 1) * SECOND);
        [periodic, update, alarm].into_iter().flatten().min()
    }

    fn update_in_progress(&self) -> u8 {
        let soon = self.next_second.is_some_and(|next| next - self.now <= UPDATE_IN_PROGRESS);
        if soon && self.get(reg::B) & B_SET == 0 { A_UPDATE_IN_PROGRESS } else { 0 }
    }

    /// The period of the periodic interrupt in ticks ("Periodic Interrupt Rate and Square Wave Output
    /// Frequency"): a power of two that divides a second.
    fn period(&self) -> Option<u64> {
        match self.get(reg::A) & 0xf {
            0 => None,
            // The two lowest selections are those of 256 and 128 Hz.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn format(&self) -> Format {
        let b = self.get(reg::B);
        Format { binary: b & B_BINARY != 0, hours_24: b & B_24_HOURS != 0 }
    }

    fn time(&self) -> Registers {
        Registers {
            second: self.get(reg::SECOND),
            minute: self.get(reg::MINUTE),
            hour: self.get(reg::HOUR),
            weekday: self.get(reg::WEEKDAY),
            day: self.get(reg::DAY),
            month: self.get(reg::MONTH),
            year: self.get(reg::YEAR),
            century: self.get(CENTURY),
        }
    }

    fn set_time(&mut self, time: Registers) {
        self.set(reg::SECOND, time.second);
        self.set(reg::MINUTE, time.minute);
        self.set(reg::HOUR, time.hour);
        self.set(reg::WEEKDAY, time.weekday);
        self.set(reg::DAY, time.day);
        self.set(reg::MONTH, time.month);
        self.set(reg::YEAR, time.year);
        self.set(CENTURY, time.century);
    }

    fn alarm(&self) -> Alarm {
        Alarm {
            second: self.get(reg::SECOND_ALARM),
            minute: self.get(reg::MINUTE_ALARM),
            hour: self.get(reg::HOUR_ALARM),
        }
    }

    fn raise(&mut self, flag: u8) {
        self.set(reg::C, self.get(reg::C) | flag);
    }

    fn get(&self, index: u8) -> u8 {
        self.bytes[usize::from(index / 32) % 4][usize::from(index % 32)]
    }

    fn set(&mut self, index: u8, value: u8) {
        self.bytes[usize::from(index / 32) % 4][usize::from(index % 32)] = value;
    }

    /// Checks what decoding cannot: that this is a state which the clock can reach by `now`, the time that it was
    /// given last.
    pub(crate) fn validate(&self, now: Ns) -> Result<(), Invalid> {
        let divider_ok = match self.next_second {
            None => divider_is_reset(self.get(reg::A)),
            Some(next) => !divider_is_reset(self.get(reg::A)) && next > self.now && next - self.now <= SECOND,
        };
        let b = self.get(reg::B);
        let registers_ok = self.get(reg::A) & A_UPDATE_IN_PROGRESS == 0
            && (b & B_SET == 0 || b & B_UPDATE_INTERRUPT == 0)
            && self.get(reg::C) & !FLAGS == 0
            && self.get(reg::D) == D_VALID;
        if self.now == now && self.index < 128 && divider_ok && registers_ok {
            Ok(())
        } else {
            Err(Invalid("the real-time clock (MC146818) holds an impossible value"))
        }
    }
}

/// Whether register A holds the divider in reset ("DV2, DV1, DV0": 11x).
fn divider_is_reset(a: u8) -> bool {
    a & 0x60 == 0x60
}

/// How many ticks of the second that ends at `next_second` have passed at `now`.
fn ticks(now: Ns, next_second: Ns) -> u64 {
    let passed = SECOND.saturating_sub(next_second.saturating_sub(now));
    passed * TICKS_PER_SECOND / SECOND
}

/// When a tick of a second comes: the first time at which [`ticks`] counts it.
fn time_of_tick(tick: u64) -> Ns {
    (tick * SECOND).div_ceil(TICKS_PER_SECOND)
}
