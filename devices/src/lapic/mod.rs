//! The local APIC in xAPIC mode (Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller").
//!
//! One processor, APIC id 0. Interrupts come from messages (MSI and I/O APIC), from the processor to itself,
//! and from the local timer. LINT0 is the 8259A pair's output, and passes it on in ExtINT mode only; LINT1,
//! thermal and performance entries have registers but no source. Of the interrupt commands only fixed and
//! lowest-priority ones to this processor have an effect: NMI, SMI, INIT and start-up are dropped, there is no
//! second processor to start.

mod timer;
mod vectors;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::{Ns, state::Invalid};
use timer::Timer;
use vectors::Vectors;

/// Guest-physical address of the register page.
pub(crate) const BASE: u64 = 0xfee0_0000;
/// Size of the register page in bytes.
pub(crate) const SIZE: u64 = 0x1000;

/// Version 0x14, highest LVT entry 5 (six entries), no directed EOI.
const VERSION: u32 = 0x0005_0014;

/// Register offsets (SDM table "Local APIC Register Address Map").
mod reg {
    pub(super) const ID: u64 = 0x20;
    pub(super) const VERSION: u64 = 0x30;
    pub(super) const TPR: u64 = 0x80;
    pub(super) const APR: u64 = 0x90;
    pub(super) const PPR: u64 = 0xa0;
    pub(super) const EOI: u64 = 0xb0;
    pub(super) const REMOTE_READ: u64 = 0xc0;
    pub(super) const LDR: u64 = 0xd0;
    pub(super) const DFR: u64 = 0xe0;
    pub(super) const SVR: u64 = 0xf0;
    pub(super) const ISR: u64 = 0x100;
    pub(super) const TMR: u64 = 0x180;
    pub(super) const IRR: u64 = 0x200;
    pub(super) const ESR: u64 = 0x280;
    pub(super) const ICR_LOW: u64 = 0x300;
    pub(super) const ICR_HIGH: u64 = 0x310;
    pub(super) const LVT_TIMER: u64 = 0x320;
    pub(super) const LVT_ERROR: u64 = 0x370;
    pub(super) const INITIAL_COUNT: u64 = 0x380;
    pub(super) const CURRENT_COUNT: u64 = 0x390;
    pub(super) const DIVIDE: u64 = 0x3e0;
}

const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
const LVT_DELIVERY_MODE: u32 = 0b111 << 8;
const LVT_EXT_INT: u32 = 0b111 << 8;
const SVR_ENABLE: u32 = 1 << 8;

/// Index of the timer in `lvt`.
const TIMER: usize = 0;
/// Index of the LINT0 entry in `lvt`.
const LINT0: usize = 3;
/// Index of the error entry in `lvt`.
const ERROR: usize = 5;

/// Writable bits of timer, thermal, performance, LINT0, LINT1 and error entry.
const LVT_WRITABLE: [u32; 6] = [0x0003_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];

/// Error status bits (SDM "Error Handling").
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Vectors below this one are the processor's exceptions and illegal for interrupts.
const FIRST_VECTOR: u8 = 16;

/// The local APIC's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lapic {
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    esr: u32,
    /// Errors since the last write to ESR; that write makes them readable.
    esr_collected: u32,
    icr: u64,
    lvt: [u32; 6],
    divide: u32,
    timer: Timer,
}

impl Lapic {
    /// The state after power-up (SDM "Local APIC State After Power-Up or Reset"), but for LINT0: it is a
    /// virtual wire, as firmware leaves it, so that the 8259A pair works until the guest takes the APIC.
    pub(crate) fn new() -> Self {
        let mut lvt = [LVT_MASKED; 6];
        lvt[LINT0] = LVT_EXT_INT;
        Lapic {
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            esr_collected: 0,
            icr: 0,
            lvt,
            divide: 0,
            timer: Timer::default(),
        }
    }

    /// Reads bytes of the register page. Each register has the low four bytes of a 16-byte slot; the other
    /// twelve read as zero.
    pub(crate) fn read(&mut self, offset: u64, data: &mut [u8], now: Ns) {
        let slot = offset & !0xf;
        let value = self.read_register(slot, now).to_le_bytes();
        let start = (offset - slot) as usize;
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = value.get(start + i).copied().unwrap_or(0);
        }
    }

    /// Writes a register. Only aligned 32-bit writes count, as the SDM demands of software; others have no
    /// effect. Gives the vector of a level interrupt that the write has ended: the I/O APIC must hear of it.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], now: Ns) -> Option<u8> {
        let bytes = <[u8; 4]>::try_from(data).ok().filter(|_| offset.is_multiple_of(16))?;
        if offset == reg::EOI {
            return self.end_of_interrupt();
        }
        self.write_register(offset, u32::from_le_bytes(bytes), now);
        None
    }

    fn read_register(&mut self, offset: u64, now: Ns) -> u32 {
        match offset {
            reg::ID | reg::APR | reg::EOI | reg::REMOTE_READ => 0,
            reg::VERSION => VERSION,
            reg::TPR => u32::from(self.tpr),
            reg::PPR => u32::from(self.ppr()),
            reg::LDR => self.ldr,
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..reg::TMR => self.isr.word(offset - reg::ISR),
            reg::TMR..reg::IRR => self.tmr.word(offset - reg::TMR),
            reg::IRR..reg::ESR => self.irr.word(offset - reg::IRR),
            reg::ESR => self.esr,
            reg::ICR_LOW => self.icr as u32,
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[((offset - reg::LVT_TIMER) / 16) as usize],
            reg::INITIAL_COUNT => self.timer.initial(),
            reg::CURRENT_COUNT => self.timer.current(now, self.divisor()),
            reg::DIVIDE => self.divide,
            _ => {
                self.error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    fn write_register(&mut self, offset: u64, value: u32, now: Ns) {
        match offset {
            reg::TPR => self.tpr = value as u8,
            reg::LDR => self.ldr = value & 0xff00_0000,
            reg::DFR => self.dfr = value | 0x0fff_ffff,
            reg::SVR => self.write_svr(value),
            reg::ESR => self.esr = std::mem::take(&mut self.esr_collected),
            reg::ICR_LOW => self.command(value),
            reg::ICR_HIGH => self.icr = (self.icr & 0xffff_ffff) | (u64::from(value & 0xff00_0000) << 32),
            reg::LVT_TIMER..=reg::LVT_ERROR => {
                self.write_lvt(((offset - reg::LVT_TIMER) / 16) as usize, value);
            }
            reg::INITIAL_COUNT => self.timer.start(value, now, self.divisor()),
            reg::DIVIDE => {
                let before = self.divisor();
                self.divide = value & 0b1011;
                self.timer.rescale(now, before, self.divisor());
            }
            // Read-only registers: a write has no effect.
            reg::ID | reg::VERSION | reg::APR | reg::PPR | reg::REMOTE_READ | reg::CURRENT_COUNT => {}
            reg::ISR..reg::ESR => {}
            _ => self.error(ESR_ILLEGAL_REGISTER),
        }
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & 0x1ff;
        if !self.enabled() {
            // SDM "Local APIC State After It Has Been Software Disabled": every LVT mask bit is set.
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let forced = if self.enabled() { 0 } else { LVT_MASKED };
        self.lvt[index] = (value & LVT_WRITABLE[index]) | forced;
    }

    /// An interrupt command (SDM "Interrupt Command Register"). The delivery status bit is never seen set.
    fn command(&mut self, low: u32) {
        self.icr = (self.icr & !0xffff_ffff) | u64::from(low & 0x000c_cfff);
        let to_self = match (low >> 18) & 0b11 {
            0b00 => self.is_destination((self.icr >> 56) as u8, low & (1 << 11) != 0),
            0b01 | 0b10 => true,
            _ => false,
        };
        let fixed_or_lowest = matches!((low >> 8) & 0b111, 0b000 | 0b001);
        if !fixed_or_lowest || !to_self {
            return;
        }
        let vector = low as u8;
        if vector < FIRST_VECTOR {
            self.error(ESR_SEND_ILLEGAL);
        } else {
            self.raise(vector, false);
        }
    }

    /// Whether a message to this destination means this processor (SDM "Determining IPI Destination").
    fn is_destination(&self, destination: u8, logical: bool) -> bool {
        if !logical {
            return destination == 0 || destination == 0xff;
        }
        if destination == 0xff {
            return true;
        }
        let own = (self.ldr >> 24) as u8;
        if self.dfr >> 28 == 0xf {
            // Flat: a bit for each processor.
            own & destination != 0
        } else {
            // Cluster: the number of the cluster, then a bit for each of its four processors.
            own >> 4 == destination >> 4 && own & destination & 0xf != 0
        }
    }

    /// A message-signalled interrupt (SDM "Message Signalled Interrupts"): the write of `data` to `addr`.
    /// Anything but a fixed or lowest-priority interrupt for this processor is ignored. Whether an interrupt was
    /// accepted.
    pub(crate) fn msi(&mut self, addr: u64, data: u32) -> bool {
        let destination = (addr >> 12) as u8;
        let logical = addr & (1 << 2) != 0;
        let fixed_or_lowest = matches!((data >> 8) & 0b111, 0b000 | 0b001);
        let level = data & (1 << 15) != 0;
        let deassert = level && data & (1 << 14) == 0;
        if addr >> 20 != BASE >> 20
            || !fixed_or_lowest
            || deassert
            || !self.enabled()
            || !self.is_destination(destination, logical)
        {
            return false;
        }
        let vector = data as u8;
        if vector < FIRST_VECTOR {
            self.error(ESR_RECEIVE_ILLEGAL);
            return false;
        }
        self.raise(vector, level);
        true
    }

    fn raise(&mut self, vector: u8, level: bool) {
        if self.enabled() {
            self.irr.set(vector);
            self.tmr.assign(vector, level);
        }
    }

    fn raise_lvt(&mut self, index: usize) {
        let entry = self.lvt[index];
        let vector = entry as u8;
        if entry & LVT_MASKED == 0 && vector >= FIRST_VECTOR {
            self.raise(vector, false);
        }
    }

    fn error(&mut self, bit: u32) {
        self.esr_collected |= bit;
        self.raise_lvt(ERROR);
    }

    /// The interrupt in service with the highest priority ends (SDM "Signaling Interrupt Servicing
    /// Completion"). Gives its vector if it was a level interrupt.
    pub(crate) fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.clear(vector);
        self.tmr.contains(vector).then_some(vector)
    }

    /// Whether the interrupt in service may end without anyone's notice: no other waits for that, and it is no
    /// level interrupt.
    pub(crate) fn ends_silently(&self) -> bool {
        let in_service = self.isr.highest();
        self.irr.highest().is_none() && in_service.is_some_and(|vector| !self.tmr.contains(vector))
    }

    /// Whether the 8259A pair's output reaches the processor through LINT0.
    pub(crate) fn takes_external(&self) -> bool {
        self.lvt[LINT0] & (LVT_MASKED | LVT_DELIVERY_MODE) == LVT_EXT_INT
    }

    fn enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    /// Processor priority (SDM "Task and Processor Priorities").
    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service { self.tpr } else { in_service }
    }

    /// The vector that the processor would take now if it could: the highest requested one whose priority
    /// class is above the processor priority's.
    pub(crate) fn pending(&self) -> Option<u8> {
        let vector = self.irr.highest().filter(|_| self.enabled())?;
        (vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// The processor takes the pending vector: it moves from requested to in service.
    pub(crate) fn accept(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.irr.clear(vector);
        self.isr.set(vector);
        Some(vector)
    }

    /// Divide configuration (SDM figure "Divide Configuration Register"): bits 3, 1 and 0.
    fn divisor(&self) -> u32 {
        let code = ((self.divide >> 1) & 0b100) | (self.divide & 0b11);
        if code == 0b111 { 1 } else { 2 << code }
    }

    /// When the timer will raise its interrupt. A masked timer runs without a deadline: its counter is
    /// computed when it is read.
    pub(crate) fn next_deadline(&self) -> Option<Ns> {
        self.timer.deadline().filter(|_| self.lvt[TIMER] & LVT_MASKED == 0)
    }

    /// Virtual time is now `now`.
    pub(crate) fn advance(&mut self, now: Ns) {
        let periodic = self.lvt[TIMER] & LVT_PERIODIC != 0;
        if self.timer.expire(now, periodic, self.divisor()) {
            self.raise_lvt(TIMER);
        }
    }

    /// Checks what decoding cannot: that this is a state which the register interface can reach.
    pub(crate) fn validate(&self, now: Ns) -> Result<(), Invalid> {
        let lvt_ok = self.lvt.iter().zip(LVT_WRITABLE).all(|(entry, mask)| entry & !(mask | LVT_MASKED) == 0);
        let masked_ok = self.enabled()
            || self.lvt.iter().enumerate().all(|(index, entry)| index == LINT0 || entry & LVT_MASKED != 0);
        let registers_ok = self.ldr & 0x00ff_ffff == 0
            && self.dfr | 0xf000_0000 == u32::MAX
            && self.svr & !0x1ff == 0
            && self.divide & !0b1011 == 0;
        let legal = [&self.isr, &self.irr, &self.tmr].iter().all(|set| set.all_at_least(FIRST_VECTOR));
        let timer_ok = self.timer.is_valid(now, self.divisor());
        if lvt_ok && masked_ok && registers_ok && legal && timer_ok {
            Ok(())
        } else {
            Err(Invalid("a local APIC register holds an impossible value"))
        }
    }
}
