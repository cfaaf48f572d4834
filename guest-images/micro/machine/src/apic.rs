//! The local APIC: interrupts on, and its timer (SDM vol. 3, chapter "APIC").

use crate::cpu::{Mmio, Ns};

/// Interrupt vectors; stub.s has their handlers.
pub mod vector {
    /// The timer.
    pub const TIMER: u8 = 0x40;
    /// Frames received.
    pub const NET: u8 = 0x41;
    /// Disk requests done.
    pub const DISK: u8 = 0x42;
    /// The timer, traced: see [`cpu::Trace`](crate::cpu::Trace).
    pub const TRACED_TIMER: u8 = 0x48;
    /// Frames received, traced.
    pub const TRACED_NET: u8 = 0x49;
    pub(super) const SPURIOUS: u32 = 0x4F;
}

const VERSION: usize = 0x30;
const SPURIOUS: usize = 0xF0;
const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const DIVIDE: usize = 0x3E0;
/// The input clock ticks once per nanosecond; this divisor lets 32 bits last for nine minutes.
const TICK: Ns = 128;
const DIVIDE_BY_128: u32 = 0b1010;
const SOFTWARE_ENABLE: u32 = 0x100;
const PERIODIC: u32 = 1 << 17;

fn enable(timer: u32) -> Mmio {
    let registers = Mmio::new(0xFEE0_0000, 0x1000).expect("the stub maps the APIC");
    registers.write(SPURIOUS, SOFTWARE_ENABLE | vector::SPURIOUS);
    registers.write(DIVIDE, DIVIDE_BY_128);
    registers.write(LVT_TIMER, timer);
    registers
}

/// Enables the APIC, with an interrupt every `period` from now on (rounded up to a tick; 0: none).
pub fn periodic(vector: u8, period: Ns) {
    let ticks = period.div_ceil(TICK).min(u64::from(u32::MAX)) as u32;
    enable(PERIODIC | u32::from(vector)).write(INITIAL_COUNT, ticks);
}

/// The APIC's version register: an exit that changes nothing.
pub fn version() -> u32 {
    Mmio::new(0xFEE0_0000, 0x1000).expect("the stub maps the APIC").read(VERSION)
}

/// The timer. Setting it is an exit, so a deadline is left alone if an earlier one is set: to wake once too often
/// is cheaper than to set the timer for every segment sent.
#[derive(Debug)]
pub struct Timer {
    registers: Mmio,
    armed: Option<Ns>,
}

impl Timer {
    /// Enables the APIC.
    pub fn start() -> Self {
        Self { registers: enable(u32::from(vector::TIMER)), armed: None }
    }

    /// The timer's interrupt came.
    pub fn fired(&mut self) {
        self.armed = None;
    }

    /// Makes sure that an interrupt comes at `deadline` or before.
    pub fn arm(&mut self, now: Ns, deadline: Ns) {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        let ticks = deadline.saturating_sub(now).div_ceil(TICK).clamp(1, u64::from(u32::MAX)) as u32;
        self.registers.write(INITIAL_COUNT, ticks);
        self.armed = Some(now + u64::from(ticks) * TICK);
    }
}
