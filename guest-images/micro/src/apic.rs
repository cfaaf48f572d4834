//! The local APIC: interrupts on, and its one-shot timer (SDM vol. 3, chapter "APIC").

use crate::cpu::{Mmio, Ns};

/// Interrupt vectors; stub.s has their handlers.
pub(crate) mod vector {
    /// Frames received.
    pub(crate) const NET: u8 = 0x41;
    /// Disk requests done.
    pub(crate) const DISK: u8 = 0x42;
    pub(super) const TIMER: u32 = 0x40;
    pub(super) const SPURIOUS: u32 = 0x4F;
}

const SPURIOUS: usize = 0xF0;
const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const DIVIDE: usize = 0x3E0;
/// The input clock ticks once per nanosecond; this divisor lets 32 bits last for nine minutes.
const TICK: Ns = 128;
const DIVIDE_BY_128: u32 = 0b1010;
const SOFTWARE_ENABLE: u32 = 0x100;

/// The timer. Setting it is an exit, so a deadline is left alone if an earlier one is set: to wake once too often
/// is cheaper than to set the timer for every segment sent.
#[derive(Debug)]
pub(crate) struct Timer {
    registers: Mmio,
    armed: Option<Ns>,
}

impl Timer {
    /// Enables the APIC.
    pub(crate) fn new() -> Self {
        let registers = Mmio::new(0xFEE0_0000, 0x1000).expect("the stub maps the APIC");
        registers.write(SPURIOUS, SOFTWARE_ENABLE | vector::SPURIOUS);
        registers.write(DIVIDE, DIVIDE_BY_128);
        registers.write(LVT_TIMER, vector::TIMER);
        Self { registers, armed: None }
    }

    /// The timer's interrupt came.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }

    /// Makes sure that an interrupt comes at `deadline` or before.
    pub(crate) fn arm(&mut self, now: Ns, deadline: Ns) {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        let ticks = deadline.saturating_sub(now).div_ceil(TICK).clamp(1, u64::from(u32::MAX)) as u32;
        self.registers.write(INITIAL_COUNT, ticks);
        self.armed = Some(now + u64::from(ticks) * TICK);
    }
}
