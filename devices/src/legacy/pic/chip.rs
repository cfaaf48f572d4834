//! One 8259A: registers, priorities, the initialisation sequence.

use serde::{Deserialize, Serialize};

/// ICW1 is told from the operation commands by this bit of a write to the command port.
const ICW1: u8 = 1 << 4;
const ICW1_IC4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
/// OCW3 is told from OCW2 by this bit.
const OCW3: u8 = 1 << 3;
const OCW3_READ_ISR: u8 = 1 << 0;
const OCW3_READ: u8 = 1 << 1;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_SPECIAL_MASK: u8 = 1 << 5;
const OCW3_SET_SPECIAL_MASK: u8 = 1 << 6;
/// A poll's answer says with this bit that there was a request.
const POLL_REQUEST: u8 = 1 << 7;
/// The input whose number a vector has if nothing is requested.
const DEFAULT_INPUT: u8 = 7;

/// What the next write to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    /// OCW1, the mask.
    Mask,
    /// ICW2, the vectors' upper five bits; then ICW3 and ICW4 as ICW1 announced.
    Base { icw3: bool, icw4: bool },
    /// ICW3, the cascade's wiring.
    Wiring { icw4: bool },
    /// ICW4, modes.
    Modes,
}

/// One controller. Sets of inputs are bytes, bit n for input n.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chip {
    /// Levels of the inputs.
    lines: u8,
    /// Which inputs are level-triggered (ELCR).
    level: u8,
    /// Interrupt request register.
    irr: u8,
    /// In-service register.
    isr: u8,
    /// Interrupt mask register.
    imr: u8,
    /// Upper five bits of the vectors.
    base: u8,
    /// The input that has the lowest priority; the next one has the highest.
    lowest: u8,
    expect: Expect,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    /// The next read is a poll.
    poll: bool,
    /// The command port reads the ISR, not the IRR.
    read_isr: bool,
}

impl Chip {
    pub(super) fn new() -> Self {
        Chip {
            lines: 0,
            level: 0,
            irr: 0,
            isr: 0,
            imr: 0xff,
            base: 0,
            lowest: 7,
            expect: Expect::Mask,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            poll: false,
            read_isr: false,
        }
    }

    /// Reads the command port. `cascade` is the set of inputs that slaves are wired to.
    pub(super) fn read_command(&mut self, cascade: u8) -> u8 {
        match (std::mem::take(&mut self.poll), self.read_isr) {
            (true, _) => self.answer_poll(cascade),
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    /// Reads the data port: the mask, unless a poll was asked for.
    pub(super) fn read_data(&mut self, cascade: u8) -> u8 {
        if std::mem::take(&mut self.poll) { self.answer_poll(cascade) } else { self.imr }
    }

    /// "Poll Command": the read is the acknowledgement. Without a request the answer is 0.
    fn answer_poll(&mut self, cascade: u8) -> u8 {
        self.acknowledge(cascade).0.map_or(0, |irq| POLL_REQUEST | irq)
    }

    pub(super) fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.begin_initialisation(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        let modes = |icw4: bool| if icw4 { Expect::Modes } else { Expect::Mask };
        self.expect = match self.expect {
            Expect::Mask => {
                self.imr = value;
                Expect::Mask
            }
            Expect::Base { icw3, icw4 } => {
                self.base = value & 0xf8;
                if icw3 { Expect::Wiring { icw4 } } else { modes(icw4) }
            }
            Expect::Wiring { icw4 } => modes(icw4),
            Expect::Modes => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                Expect::Mask
            }
        };
    }

    /// "Initialization Command Words 1 and 2": edges must come again, the mask is cleared, input 7 has the
    /// lowest priority, special mask mode is off, the command port reads the IRR, ICW4's functions are off.
    /// The trigger mode in ICW1 is replaced by the ELCR (PIIX3 data sheet, "ICW1").
    fn begin_initialisation(&mut self, icw1: u8) {
        self.irr = self.lines & self.level;
        self.isr = 0;
        self.imr = 0;
        self.lowest = 7;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_fully_nested = false;
        self.special_mask = false;
        self.poll = false;
        self.read_isr = false;
        self.expect = Expect::Base { icw3: icw1 & ICW1_SINGLE == 0, icw4: icw1 & ICW1_IC4 != 0 };
    }

    /// "Operation Control Word 2": the upper three bits are R, SL and EOI.
    fn write_ocw2(&mut self, value: u8) {
        let level = value & 0b111;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => {
                self.end_highest();
            }
            0b101 => {
                if let Some(irq) = self.end_highest() {
                    self.lowest = irq;
                }
            }
            0b011 => self.isr &= !(1 << level),
            0b111 => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
            0b110 => self.lowest = level,
            // 0b010: no operation.
            _ => {}
        }
    }

    /// A non-specific end of interrupt. In special mask mode it does not see inputs that are masked ("End of
    /// Interrupt").
    fn end_highest(&mut self) -> Option<u8> {
        let visible = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let irq = self.first(visible)?;
        self.isr &= !(1 << irq);
        Some(irq)
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & OCW3_SET_SPECIAL_MASK != 0 {
            self.special_mask = value & OCW3_SPECIAL_MASK != 0;
        }
        if value & OCW3_POLL != 0 {
            // "If both P and RR are set, poll has precedence": the register selection stays.
            self.poll = true;
        } else if value & OCW3_READ != 0 {
            self.read_isr = value & OCW3_READ_ISR != 0;
        }
    }

    pub(super) fn level_triggered(&self) -> u8 {
        self.level
    }

    /// Sets which inputs are level-triggered. One that becomes edge-triggered needs an edge from then on.
    pub(super) fn set_level_triggered(&mut self, level: u8) {
        let changed = self.level ^ level;
        self.level = level;
        self.irr = (self.irr & !changed) | (self.lines & changed & level);
    }

    /// An input's level.
    pub(super) fn set_line(&mut self, irq: u8, high: bool) {
        let bit = 1 << irq;
        let level = self.level & bit != 0;
        if high {
            if level || self.lines & bit == 0 {
                self.irr |= bit;
            }
            self.lines |= bit;
        } else {
            self.lines &= !bit;
            if level {
                self.irr &= !bit;
            }
        }
    }

    /// An input that is requested exactly while it is high, as the one from a slave.
    pub(super) fn follow(&mut self, irq: u8, high: bool) {
        self.irr = (self.irr & !(1 << irq)) | (u8::from(high) << irq);
    }

    /// Whether [`follow`](Self::follow) would change nothing.
    pub(super) fn follows(&self, irq: u8, high: bool) -> bool {
        (self.irr & (1 << irq) != 0) == high && self.lines & (1 << irq) == 0
    }

    /// The member with the highest priority.
    fn first(&self, set: u8) -> Option<u8> {
        (1..=8).map(|step| (self.lowest + step) & 7).find(|irq| set & (1 << irq) != 0)
    }

    /// 0 for the input with the highest priority, 7 for the one with the lowest.
    fn rank(&self, irq: u8) -> u8 {
        irq.wrapping_sub(self.lowest + 1) & 7
    }

    /// The request that the output announces: unmasked and of higher priority than all that is in service. In
    /// special mask mode what is masked holds nothing back ("Special Mask Mode"); in special fully nested mode
    /// a slave in service does not hold back its own further requests ("The Special Fully Nested Mode").
    pub(super) fn pending(&self, cascade: u8) -> Option<u8> {
        let irq = self.first(self.irr & !self.imr)?;
        let busy = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let Some(serving) = self.first(busy) else { return Some(irq) };
        let nested = self.special_fully_nested && serving == irq && cascade & (1 << irq) != 0;
        (nested || self.rank(irq) < self.rank(serving)).then_some(irq)
    }

    /// Acknowledges: the input, which is now in service (or, in automatic mode, done), and its vector. The
    /// vector of the default input if nothing is requested.
    pub(super) fn acknowledge(&mut self, cascade: u8) -> (Option<u8>, u8) {
        let Some(irq) = self.pending(cascade) else { return (None, self.base | DEFAULT_INPUT) };
        let bit = 1 << irq;
        if self.level & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = irq;
        }
        (Some(irq), self.base | irq)
    }

    /// Whether this is a state that the chip can reach, of which these inputs can be level-triggered.
    pub(super) fn is_valid(&self, level_mask: u8) -> bool {
        self.level & !level_mask == 0
            && self.irr & self.level == self.lines & self.level
            && self.base & 0b111 == 0
            && self.lowest < 8
    }
}
