//! The waveforms of the 8254's six modes (data sheet, "Mode Definitions"), as functions of the clock pulses
//! since the count was loaded.
//!
//! -1 is the time between the write or trigger and the pulse that loads; 0 is just after that pulse.

use serde::{Deserialize, Serialize};

/// Clock pulses, or a number of them.
pub(super) type Ticks = i64;

/// The mode of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    /// Mode 0: interrupt on terminal count.
    TerminalCount,
    /// Mode 1: hardware retriggerable one-shot.
    OneShot,
    /// Mode 2: rate generator.
    Rate,
    /// Mode 3: square wave.
    Square,
    /// Mode 4: software triggered strobe.
    SoftStrobe,
    /// Mode 5: hardware triggered strobe.
    HardStrobe,
}

impl Mode {
    /// From bits 3 to 1 of a control word; the uppermost does not count in modes 2 and 3.
    pub(super) fn from_bits(bits: u8) -> Self {
        match bits & 0b111 {
            0 => Mode::TerminalCount,
            1 => Mode::OneShot,
            2 | 6 => Mode::Rate,
            3 | 7 => Mode::Square,
            4 => Mode::SoftStrobe,
            _ => Mode::HardStrobe,
        }
    }

    /// The mode's number.
    pub(super) fn number(self) -> u8 {
        match self {
            Mode::TerminalCount => 0,
            Mode::OneShot => 1,
            Mode::Rate => 2,
            Mode::Square => 3,
            Mode::SoftStrobe => 4,
            Mode::HardStrobe => 5,
        }
    }

    /// Whether the count is loaded by a rise of the gate, not by its being written.
    pub(super) fn is_triggered(self) -> bool {
        matches!(self, Mode::OneShot | Mode::HardStrobe)
    }

    /// Whether the count is loaded again and again.
    pub(super) fn is_periodic(self) -> bool {
        matches!(self, Mode::Rate | Mode::Square)
    }

    /// OUT before a count is loaded.
    pub(super) fn initial_out(self) -> bool {
        self != Mode::TerminalCount
    }

    /// OUT after this many pulses with this count. A count of 1 is illegal in modes 2 and 3; here OUT then stays
    /// high.
    pub(super) fn out(self, elapsed: Ticks, count: Ticks) -> bool {
        match self {
            Mode::TerminalCount => elapsed >= count,
            Mode::OneShot => !(0..count).contains(&elapsed),
            Mode::Rate | Mode::Square if count == 1 || elapsed < 0 => true,
            Mode::Rate => elapsed % count != count - 1,
            Mode::Square => elapsed % count < high_half(count),
            Mode::SoftStrobe | Mode::HardStrobe => elapsed != count,
        }
    }

    /// The counting element, from `modulus` (shown as 0) down. Modes 0, 1, 4 and 5 wrap around.
    pub(super) fn value(self, elapsed: Ticks, count: Ticks, modulus: Ticks) -> Ticks {
        let elapsed = elapsed.max(0);
        match self {
            Mode::Rate => count - elapsed % count,
            Mode::Square => {
                // Counts by twos and runs through twice; an odd count is loaded less one.
                let phase = elapsed % count;
                let high = high_half(count);
                let step = if phase < high { phase } else { phase - high };
                (count & !1) - 2 * step
            }
            _ => (count - elapsed).rem_euclid(modulus),
        }
    }

    /// The first rise of OUT after this many pulses, in pulses.
    pub(super) fn next_rise(self, elapsed: Ticks, count: Ticks) -> Option<Ticks> {
        let once = match self {
            Mode::TerminalCount | Mode::OneShot => count,
            Mode::SoftStrobe | Mode::HardStrobe => count + 1,
            Mode::Rate | Mode::Square if count == 1 => return None,
            Mode::Rate | Mode::Square => return Some((elapsed.max(0) / count + 1) * count),
        };
        (once > elapsed).then_some(once)
    }

    /// When a count written now, after this many pulses, takes effect in a periodic mode: at the end of the
    /// period, or of the square wave's half.
    pub(super) fn reload(self, elapsed: Ticks, count: Ticks) -> Ticks {
        let phase = elapsed % count;
        let whole = elapsed - phase;
        let high = high_half(count);
        if self == Mode::Square && phase < high { whole + high } else { whole + count }
    }

    /// How many pulses the wave of a new count is in when it begins at [`reload`](Self::reload) after `elapsed`
    /// pulses of the old one: none, or the high half if the square wave is about to go low.
    pub(super) fn phase_of_new(self, elapsed: Ticks, old: Ticks, new: Ticks) -> Ticks {
        if self == Mode::Square && elapsed % old != 0 { high_half(new) } else { 0 }
    }
}

/// How long a square wave is high: one pulse longer than low if the count is odd.
fn high_half(count: Ticks) -> Ticks {
    (count + 1) / 2
}
