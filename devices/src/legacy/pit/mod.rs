//! The 8254 interval timer and port 0x61 (Intel 8254 data sheet, order number 231164; 82371SB (PIIX3) data
//! sheet, "NMI Status and Control").
//!
//! Counter 0 gives IRQ0, counter 1 once refreshed memory, counter 2 drives the speaker, its gate is in port
//! 0x61. All count 1,193,182 clock pulses in a second of virtual time. Pulse n comes at n/1,193,182 s after
//! virtual time 0, rounded up to a nanosecond: nothing is added up, so nothing drifts. A counter keeps the
//! pulse at which it was loaded, its count and output are computed from it.
//!
//! A count is loaded by the pulse after the write or the trigger, as in the chip, so no period is shorter than
//! asked for. Between a gate's rise and that pulse OUT has the level that the mode begins with.
//!
//! Time goes on in steps that can be longer than a period. [`Pit::take_rise`] says whether counter 0's OUT has
//! risen since it was last asked, once or more often: as with an interrupt controller whose edge is pending,
//! several rises are one interrupt.

mod channel;
mod mode;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::Ns;
use crate::state::Invalid;
use channel::Channel;
use mode::Ticks;

pub(crate) const COUNTER_0: u16 = 0x40;
pub(crate) const COUNTER_2: u16 = 0x42;
pub(crate) const CONTROL: u16 = 0x43;
pub(crate) const SYSTEM_CONTROL: u16 = 0x61;

/// Clock pulses in a second.
const FREQUENCY: u64 = 1_193_182;
const SECOND: u64 = 1_000_000_000;

/// Port 0x61: gate of counter 2; with the speaker's and the two NMI enables it is readable and writable.
const GATE_2: u8 = 1 << 0;
const SYSTEM_CONTROL_WRITABLE: u8 = 0x0f;
const REFRESH: u8 = 1 << 4;
const OUT_2: u8 = 1 << 5;
/// Half a period of the refresh signal: it toggles about every 15 µs.
const REFRESH_PULSES: Ticks = 18;

/// Read-back command: what is *not* latched.
const READ_BACK_NO_COUNT: u8 = 1 << 5;
const READ_BACK_NO_STATUS: u8 = 1 << 4;

/// The timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pit {
    channels: [Channel; 3],
    /// The writable bits of port 0x61.
    system_control: u8,
    /// The last clock pulse.
    pulse: Ticks,
    /// Counter 0's OUT has risen and nobody has asked.
    risen: bool,
}

impl Pit {
    /// A timer whose counters stand still until they are programmed, at virtual time 0.
    pub(crate) fn new() -> Self {
        Pit {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            system_control: 0,
            pulse: 0,
            risen: false,
        }
    }

    /// IN of a byte.
    pub(crate) fn read(&mut self, port: u16, now: Ns) -> u8 {
        self.advance(now);
        match port {
            COUNTER_0..=COUNTER_2 => self.channels[usize::from(port - COUNTER_0)].read(self.pulse),
            SYSTEM_CONTROL => {
                let out = if self.channels[2].out(self.pulse) { OUT_2 } else { 0 };
                let refresh = if self.pulse / REFRESH_PULSES % 2 == 1 { REFRESH } else { 0 };
                self.system_control | out | refresh
            }
            // The control word cannot be read.
            _ => 0xff,
        }
    }

    /// OUT of a byte.
    pub(crate) fn write(&mut self, port: u16, value: u8, now: Ns) {
        self.advance(now);
        let before = self.out_0();
        match port {
            COUNTER_0..=COUNTER_2 => self.channels[usize::from(port - COUNTER_0)].write(value, self.pulse),
            CONTROL => self.write_control(value),
            SYSTEM_CONTROL => {
                self.system_control = value & SYSTEM_CONTROL_WRITABLE;
                self.channels[2].set_gate(value & GATE_2 != 0, self.pulse);
            }
            _ => {}
        }
        self.risen |= !before && self.out_0();
    }

    fn write_control(&mut self, word: u8) {
        if let Some(channel) = self.channels.get_mut(usize::from(word >> 6)) {
            return channel.control(word, self.pulse);
        }
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if word & (0b10 << index) == 0 {
                continue;
            }
            if word & READ_BACK_NO_COUNT == 0 {
                channel.latch_count(self.pulse);
            }
            if word & READ_BACK_NO_STATUS == 0 {
                channel.latch_status(self.pulse);
            }
        }
    }

    /// Virtual time is now `now`.
    pub(crate) fn advance(&mut self, now: Ns) {
        let pulse = pulse_at(now).max(self.pulse);
        self.risen |= self.channels[0].next_rise(self.pulse).is_some_and(|rise| rise <= pulse);
        self.channels.iter_mut().for_each(|channel| channel.advance(pulse));
        self.pulse = pulse;
    }

    /// The level of counter 0's OUT, which is IRQ0, as of the last access or [`advance`](Self::advance).
    pub(crate) fn out_0(&self) -> bool {
        self.channels[0].out(self.pulse)
    }

    /// Whether counter 0's OUT has risen since the last call: an edge of IRQ0, even if it is low again. For such
    /// an edge the platform lowers and raises the line before it sets it to [`out_0`](Self::out_0).
    pub(crate) fn take_rise(&mut self) -> bool {
        std::mem::take(&mut self.risen)
    }

    /// When counter 0's OUT next rises by itself.
    pub(crate) fn next_deadline(&self) -> Option<Ns> {
        self.channels[0].next_rise(self.pulse).map(time_of)
    }

    /// Checks what decoding cannot: that this is a state which the timer can reach by `now`, the time that it was
    /// given last.
    pub(crate) fn validate(&self, now: Ns) -> Result<(), Invalid> {
        let gate_2 = self.system_control & GATE_2 != 0;
        let gates = self.channels.iter().map(Channel::gate).eq([true, true, gate_2]);
        if self.pulse == pulse_at(now)
            && gates
            && self.system_control & !SYSTEM_CONTROL_WRITABLE == 0
            && self.channels.iter().all(|channel| channel.is_valid(self.pulse))
        {
            Ok(())
        } else {
            Err(Invalid("the interval timer (8254) holds an impossible value"))
        }
    }
}

/// The last clock pulse at this time.
fn pulse_at(now: Ns) -> Ticks {
    // Less than 2^55 for any 64-bit time.
    (u128::from(now) * u128::from(FREQUENCY) / u128::from(SECOND)) as Ticks
}

/// When this clock pulse comes: the first time at which [`pulse_at`] gives it.
fn time_of(pulse: Ticks) -> Ns {
    let pulse = u128::try_from(pulse).unwrap_or(0);
    Ns::try_from((pulse * u128::from(SECOND)).div_ceil(u128::from(FREQUENCY))).unwrap_or(Ns::MAX)
}
