//! One counter of the 8254: its registers, its gate, and what it is doing.

use serde::{Deserialize, Serialize};

use super::mode::{Mode, Ticks};

/// No count is larger: 0 stands for it.
const BINARY_MODULUS: Ticks = 0x1_0000;
const BCD_MODULUS: Ticks = 10_000;

/// Status byte ("Read-Back Command").
const STATUS_OUT: u8 = 1 << 7;
const STATUS_NULL_COUNT: u8 = 1 << 6;

/// Which bytes of the count are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

/// What the counting element does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Counting {
    /// Nothing: no count was loaded since the control word, or half of a new one was written in mode 0.
    Stopped { shown: u16 },
    /// It counts since the pulse `start`, which may lie one ahead.
    Running { start: Ticks, count: Ticks, next: Option<Next> },
    /// The gate holds it after `elapsed` pulses.
    Held { elapsed: Ticks, count: Ticks },
}

/// A count that waits for the end of the running period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    at: Ticks,
    count: Ticks,
}

/// A counter. Its methods take the number of the last clock pulse, which never goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Channel {
    mode: Mode,
    bcd: bool,
    access: Access,
    gate: bool,
    /// The count register: what was written last since the control word.
    written: Option<Ticks>,
    /// The first of two bytes of a count.
    write_low: Option<u8>,
    /// The next byte read is the second of two.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    counting: Counting,
}

impl Channel {
    /// A counter that was never programmed: it stands still, and OUT is high. (The data sheet leaves that state
    /// open.)
    pub(super) fn new(gate: bool) -> Self {
        Channel {
            mode: Mode::Square,
            bcd: false,
            access: Access::LowThenHigh,
            gate,
            written: None,
            write_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
            counting: Counting::Stopped { shown: 0 },
        }
    }

    /// A control word for this counter: bits 5 and 4 say which bytes, 0 means to latch the count.
    pub(super) fn control(&mut self, word: u8, now: Ticks) {
        let access = match (word >> 4) & 0b11 {
            0 => return self.latch_count(now),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        *self = Channel {
            mode: Mode::from_bits(word >> 1),
            bcd: word & 1 != 0,
            access,
            counting: Counting::Stopped { shown: self.shown(now) },
            ..Channel::new(self.gate)
        };
    }

    /// Keeps the count until it is read. A second latch before that is ignored.
    pub(super) fn latch_count(&mut self, now: Ticks) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.shown(now));
        }
    }

    /// Keeps the status until it is read. A second latch before that is ignored.
    pub(super) fn latch_status(&mut self, now: Ticks) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(now));
        }
    }

    fn status(&self, now: Ticks) -> u8 {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowThenHigh => 3,
        };
        let out = if self.out(now) { STATUS_OUT } else { 0 };
        let null = if self.is_null(now) { STATUS_NULL_COUNT } else { 0 };
        out | null | (access << 4) | (self.mode.number() << 1) | u8::from(self.bcd)
    }

    /// Whether the last count written is not in the counting element yet.
    fn is_null(&self, now: Ticks) -> bool {
        match &self.counting {
            Counting::Stopped { .. } => true,
            Counting::Running { start, count, next } => {
                now < *start || next.is_some() || self.written != Some(*count)
            }
            Counting::Held { count, .. } => self.written != Some(*count),
        }
    }

    /// Reads a byte: of the latched status, else of the latched count, else of the running count.
    pub(super) fn read(&mut self, now: Ticks) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.shown(now)).to_le_bytes();
        if self.access == Access::LowThenHigh && !self.read_high {
            self.read_high = true;
            return low;
        }
        self.read_high = false;
        self.latched_count = None;
        if self.access == Access::Low { low } else { high }
    }

    /// Writes a byte of the count.
    pub(super) fn write(&mut self, byte: u8, now: Ticks) {
        let raw = match self.access {
            Access::Low => u16::from_le_bytes([byte, 0]),
            Access::High => u16::from_le_bytes([0, byte]),
            Access::LowThenHigh => match self.write_low.take() {
                Some(low) => u16::from_le_bytes([low, byte]),
                None => {
                    self.write_low = Some(byte);
                    if self.mode == Mode::TerminalCount {
                        // "Writing the first byte disables counting. OUT is set low immediately."
                        self.counting = Counting::Stopped { shown: self.shown(now) };
                    }
                    return;
                }
            },
        };
        self.load(self.decode(raw), now);
    }

    fn load(&mut self, count: Ticks, now: Ticks) {
        self.written = Some(count);
        let fresh = Counting::Running { start: now + 1, count, next: None };
        match &mut self.counting {
            _ if self.mode.is_triggered() => {}
            Counting::Running { start, count: old, next } if self.mode.is_periodic() && now >= *start => {
                let at = *start + self.mode.reload(now - *start, *old);
                // One that waits already is replaced; its moment is the same.
                *next = Some(Next { at, count });
            }
            counting if self.gate => *counting = fresh,
            // The gate's rise loads.
            _ if self.mode.is_periodic() => {}
            counting => *counting = Counting::Held { elapsed: 0, count },
        }
    }

    /// The level of the gate input.
    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// Sets the gate input, which only the speaker's counter has.
    pub(super) fn set_gate(&mut self, gate: bool, now: Ticks) {
        if gate == std::mem::replace(&mut self.gate, gate) {
            return;
        }
        match &self.counting {
            // A trigger: the count register is loaded.
            _ if gate && (self.mode.is_triggered() || self.mode.is_periodic()) => {
                if let Some(count) = self.written {
                    self.counting = Counting::Running { start: now + 1, count, next: None };
                }
            }
            Counting::Running { start, count, .. } if !gate && !self.mode.is_triggered() => {
                self.counting = Counting::Held { elapsed: now - start, count: *count };
            }
            Counting::Held { elapsed, count } if gate => {
                self.counting = Counting::Running { start: now - elapsed, count: *count, next: None };
            }
            _ => {}
        }
    }

    /// Time is now `now`: a count that waited for the end of a period may be due.
    pub(super) fn advance(&mut self, now: Ticks) {
        if let Counting::Running { start, count, next: Some(next) } = &self.counting
            && next.at <= now
        {
            self.counting = self.after_reload(*start, *count, next);
        }
    }

    fn after_reload(&self, start: Ticks, count: Ticks, next: &Next) -> Counting {
        let phase = self.mode.phase_of_new(next.at - start, count, next.count);
        Counting::Running { start: next.at - phase, count: next.count, next: None }
    }

    /// The level of OUT.
    pub(super) fn out(&self, now: Ticks) -> bool {
        match &self.counting {
            Counting::Stopped { .. } => self.mode.initial_out(),
            Counting::Running { start, count, .. } => self.mode.out(now - start, *count),
            // "If GATE goes low during an output pulse, OUT is set high immediately" in modes 2 and 3.
            Counting::Held { elapsed, count } => self.mode.is_periodic() || self.mode.out(*elapsed, *count),
        }
    }

    /// The next rise of OUT by itself, after `now`.
    pub(super) fn next_rise(&self, now: Ticks) -> Option<Ticks> {
        let Counting::Running { start, count, next } = &self.counting else { return None };
        let rise = self.mode.next_rise(now - start, *count).map(|elapsed| start + elapsed);
        match next {
            // The new count is loaded before: OUT does not rise at that moment, or this would be its rise.
            Some(next) if rise.is_none_or(|rise| next.at < rise) => {
                let Counting::Running { start, count, .. } = self.after_reload(*start, *count, next) else {
                    return None;
                };
                self.mode.next_rise(next.at - start, count).map(|elapsed| start + elapsed)
            }
            _ => rise,
        }
    }

    fn modulus(&self) -> Ticks {
        if self.bcd { BCD_MODULUS } else { BINARY_MODULUS }
    }

    /// What reading the counting element gives.
    fn shown(&self, now: Ticks) -> u16 {
        let value = match &self.counting {
            Counting::Stopped { shown } => return *shown,
            Counting::Running { start, count, .. } => self.mode.value(now - start, *count, self.modulus()),
            Counting::Held { elapsed, count } => self.mode.value(*elapsed, *count, self.modulus()),
        };
        let value = (value % self.modulus()) as u16;
        if !self.bcd {
            return value;
        }
        [1000, 100, 10, 1].iter().fold(0, |bcd, unit| (bcd << 4) | (value / unit % 10))
    }

    /// The count that two bytes mean. A hexadecimal digit in BCD carries into the next.
    fn decode(&self, raw: u16) -> Ticks {
        let digit = |at: u32| Ticks::from((raw >> (4 * at)) & 0xf);
        let value = if self.bcd {
            (0..4).rev().fold(0, |sum, at| sum * 10 + digit(at)) % BCD_MODULUS
        } else {
            Ticks::from(raw)
        };
        if value == 0 { self.modulus() } else { value }
    }

    /// Whether this is a state that the counter can reach by the pulse `now`.
    pub(super) fn is_valid(&self, now: Ticks) -> bool {
        let counts = 1..=self.modulus();
        let two_bytes = self.access == Access::LowThenHigh;
        let registers_ok = self.written.is_none_or(|count| counts.contains(&count))
            && (two_bytes || (self.write_low.is_none() && !self.read_high));
        let counting_ok = match &self.counting {
            Counting::Stopped { .. } => true,
            Counting::Running { start, count, next } => {
                let due = |next: &Next| {
                    self.mode.is_periodic()
                        && counts.contains(&next.count)
                        && next.at == start + self.mode.reload(now - start, *count)
                };
                // A square wave may seem to have begun half a period before time did.
                (-BINARY_MODULUS..=now + 1).contains(start)
                    && counts.contains(count)
                    && (self.gate || self.mode.is_triggered())
                    && next.as_ref().is_none_or(|next| *start <= now && due(next))
            }
            Counting::Held { elapsed, count } => {
                (-1..=now + BINARY_MODULUS).contains(elapsed)
                    && counts.contains(count)
                    && !self.gate
                    && !self.mode.is_triggered()
            }
        };
        registers_ok && counting_ok
    }
}
