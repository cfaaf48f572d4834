//! The 16550A serial port at COM1, IRQ4 (National Semiconductor PC16550D data sheet).
//!
//! The line is infinitely fast: a byte is sent when it is written, and the transmitter is always empty. The
//! interrupt for that is raised as by the chip: after each byte, and when it is enabled.
//!
//! The other end is a console that is always there (DCD, DSR and CTS are on) and never overruns the receiver:
//! bytes that find no room wait in a backlog of [`BACKLOG`] bytes, further ones are dropped and counted. The
//! receiver takes from it whenever there is room.
//!
//! The chip raises the character timeout interrupt when bytes below the FIFO's trigger level were left alone
//! for four character times. Without a clock this is "at once": bytes below the trigger level are announced by
//! a timeout as soon as they are there. A driver sees its bytes no later than on the chip.
//!
//! OUT2 gates the interrupt line, as it does on a PC; in loopback mode OUT2 is off.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::Effect;
use crate::state::{COUNT_MAX, Invalid};

/// First of eight ports.
pub(crate) const BASE: u16 = 0x3f8;
pub(crate) const LAST: u16 = BASE + 7;

/// Bytes that wait for room in the receiver, at most.
pub(crate) const BACKLOG: usize = 16 * 1024;

/// Size of the receiver's FIFO.
const FIFO: usize = 16;

/// Register offsets. The divisor latch lies over the first two when DLAB is set.
mod reg {
    pub(super) const DATA: u16 = 0;
    pub(super) const IER: u16 = 1;
    /// IIR when read, FCR when written.
    pub(super) const IIR_FCR: u16 = 2;
    pub(super) const LCR: u16 = 3;
    pub(super) const MCR: u16 = 4;
    pub(super) const LSR: u16 = 5;
    pub(super) const MSR: u16 = 6;
    pub(super) const SCR: u16 = 7;
}

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MODEM_STATUS: u8 = 1 << 3;
const IER_WRITABLE: u8 = 0x0f;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;

const LCR_DLAB: u8 = 1 << 7;

const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOPBACK: u8 = 1 << 4;
const MCR_WRITABLE: u8 = 0x1f;

const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
/// THRE and TEMT: always on.
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
/// The console's end of the cable.
const CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// The receiver and transmitter FIFOs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Fifos {
    Off,
    /// On, with the receiver's trigger level in bytes.
    On {
        trigger: u8,
    },
}

/// The serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uart {
    ier: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    fifos: Fifos,
    /// The receiver: the FIFO, or the one byte of the buffer register.
    received: VecDeque<u8>,
    /// What waits for room in it. Invariant: empty while there is room and no loopback.
    backlog: VecDeque<u8>,
    /// Bytes dropped for lack of room in the backlog.
    dropped: u64,
    /// A byte was lost in the receiver since the line status was read.
    overrun: bool,
    /// The transmitter has become empty, and IIR has not told so yet.
    emptied: bool,
    /// Changes of the modem's lines since the modem status was read: its low four bits.
    modem_changes: u8,
}

impl Uart {
    /// The state after reset ("Reset Configuration"), with the divisor of 115,200 baud.
    pub(crate) fn new() -> Self {
        Uart {
            ier: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            divisor: 1,
            fifos: Fifos::Off,
            received: VecDeque::new(),
            backlog: VecDeque::new(),
            dropped: 0,
            overrun: false,
            emptied: false,
            modem_changes: 0,
        }
    }

    /// IN of a byte.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        let [low, high] = self.divisor.to_le_bytes();
        match port.wrapping_sub(BASE) {
            reg::DATA if self.dlab() => low,
            reg::IER if self.dlab() => high,
            reg::DATA => self.read_received(),
            reg::IER => self.ier,
            reg::IIR_FCR => self.read_iir(),
            reg::LCR => self.lcr,
            reg::MCR => self.mcr,
            reg::LSR => {
                let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
                let ready = if self.received.is_empty() { 0 } else { LSR_DATA_READY };
                LSR_TRANSMITTER_EMPTY | overrun | ready
            }
            reg::MSR => self.modem_lines() | std::mem::take(&mut self.modem_changes),
            reg::SCR => self.scr,
            _ => 0xff,
        }
    }

    /// OUT of a byte. The effect is a byte for the console.
    pub(crate) fn write(&mut self, port: u16, value: u8) -> Option<Effect> {
        match port.wrapping_sub(BASE) {
            reg::DATA if self.dlab() => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            reg::IER if self.dlab() => self.divisor = (self.divisor & 0x00ff) | (u16::from(value) << 8),
            reg::DATA => return self.transmit(value),
            reg::IER => {
                // The transmitter is empty: enabling its interrupt raises it.
                self.emptied |= value & !self.ier & IER_TRANSMITTER_EMPTY != 0;
                self.ier = value & IER_WRITABLE;
            }
            reg::IIR_FCR => self.write_fcr(value),
            reg::LCR => self.lcr = value,
            reg::MCR => self.write_mcr(value & MCR_WRITABLE),
            reg::SCR => self.scr = value,
            // LSR and MSR: "writing to them is not recommended", and does nothing here.
            _ => {}
        }
        None
    }

    /// Bytes from the console.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        let room = BACKLOG.saturating_sub(self.backlog.len());
        let (taken, lost) = bytes.split_at(bytes.len().min(room));
        self.backlog.extend(taken);
        self.dropped = self.dropped.saturating_add(lost.len() as u64).min(COUNT_MAX);
        self.fill_receiver();
    }

    /// Bytes from the console that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The level of the interrupt line.
    pub(crate) fn irq(&self) -> bool {
        self.mcr & (MCR_OUT2 | MCR_LOOPBACK) == MCR_OUT2 && self.source() != IIR_NONE
    }

    /// The pending interrupt of the highest priority ("Interrupt Identification Register"), without the FIFO
    /// bits.
    fn source(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(IER_LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && !self.received.is_empty() {
            match self.fifos {
                Fifos::On { trigger } if self.received.len() < usize::from(trigger) => IIR_TIMEOUT,
                Fifos::On { .. } | Fifos::Off => IIR_RECEIVED,
            }
        } else if enabled(IER_TRANSMITTER_EMPTY) && self.emptied {
            IIR_TRANSMITTER_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.modem_changes != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Reading IIR ends the transmitter's interrupt, if that is what it tells of.
    fn read_iir(&mut self) -> u8 {
        let source = self.source();
        if source == IIR_TRANSMITTER_EMPTY {
            self.emptied = false;
        }
        source | if self.fifos == Fifos::Off { 0 } else { IIR_FIFOS }
    }

    fn read_received(&mut self) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        self.fill_receiver();
        byte
    }

    fn transmit(&mut self, byte: u8) -> Option<Effect> {
        self.emptied = true;
        if self.loopback() {
            self.loop_back(byte);
            return None;
        }
        Some(Effect::Console(vec![byte]))
    }

    /// A byte from the own transmitter. If it finds no room, the FIFO keeps what it has, the buffer register is
    /// overwritten (LSR "Overrun Error").
    fn loop_back(&mut self, byte: u8) {
        if self.received.len() < self.capacity() {
            self.received.push_back(byte);
            return;
        }
        self.overrun = true;
        if self.fifos == Fifos::Off {
            self.received.clear();
            self.received.push_back(byte);
        }
    }

    /// "FIFO Control Register". Switching the FIFOs on or off empties them. The transmitter's is always empty;
    /// DMA does not exist.
    fn write_fcr(&mut self, value: u8) {
        let fifos = if value & FCR_ENABLE == 0 {
            Fifos::Off
        } else {
            Fifos::On { trigger: [1, 4, 8, 14][usize::from(value >> 6)] }
        };
        let switched = (fifos == Fifos::Off) != (self.fifos == Fifos::Off);
        self.fifos = fifos;
        // "Bit 0 must be a 1 when other FCR bits are written to or they will not be programmed."
        if switched || (value & FCR_CLEAR_RECEIVER != 0 && fifos != Fifos::Off) {
            self.received.clear();
        }
        self.fill_receiver();
    }

    /// "Modem Control Register". Loopback connects the modem's outputs to its inputs.
    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = value;
        let after = self.modem_lines();
        // For the ring indicator only its end counts.
        let changed = (before ^ after) & !MSR_RI | (before & !after & MSR_RI);
        self.modem_changes |= changed >> 4;
        self.fill_receiver();
    }

    /// The upper four bits of the modem status.
    fn modem_lines(&self) -> u8 {
        if !self.loopback() {
            return CONNECTED;
        }
        // DTR, RTS, OUT1 and OUT2 are bits 0 to 3, they go to DSR, CTS, RI and DCD.
        [MSR_DSR, MSR_CTS, MSR_RI, MSR_DCD]
            .into_iter()
            .enumerate()
            .filter(|(output, _)| self.mcr & (1 << output) != 0)
            .fold(0, |lines, (_, input)| lines | input)
    }

    fn fill_receiver(&mut self) {
        // In loopback mode the serial input is disconnected.
        if !self.loopback() {
            let room = self.capacity().saturating_sub(self.received.len());
            let taken = room.min(self.backlog.len());
            self.received.extend(self.backlog.drain(..taken));
        }
    }

    fn capacity(&self) -> usize {
        if self.fifos == Fifos::Off { 1 } else { FIFO }
    }

    fn loopback(&self) -> bool {
        self.mcr & MCR_LOOPBACK != 0
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    /// Checks what decoding cannot: that this is a state which the line and the registers can reach.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        let registers_ok = self.ier & !IER_WRITABLE == 0
            && self.mcr & !MCR_WRITABLE == 0
            && self.modem_changes & 0xf0 == 0
            && matches!(self.fifos, Fifos::Off | Fifos::On { trigger: 1 | 4 | 8 | 14 })
            && self.dropped <= COUNT_MAX;
        let receiver_ok = self.received.len() <= self.capacity()
            && self.backlog.len() <= BACKLOG
            && (self.backlog.is_empty() || self.loopback() || self.received.len() == self.capacity());
        if registers_ok && receiver_ok {
            Ok(())
        } else {
            Err(Invalid("the serial port (16550A) holds an impossible value"))
        }
    }
}
