//! The local APIC's timer (SDM "APIC Timer"): counts down from an initial value at 1 GHz of virtual time over
//! a divisor, so one tick of divisor 1 is one nanosecond.
//!
//! Only the moment of expiry is kept; the current count is computed from it. Between two placed times the
//! counter stands still, as all virtual time does.

use serde::{Deserialize, Serialize};

use crate::Ns;

/// The timer. Invariant: a deadline lies after the time that was placed last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    initial: u32,
    deadline: Option<Ns>,
}

impl Timer {
    /// The initial count register.
    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    /// When the counter reaches zero; nothing when it is stopped.
    pub(super) fn deadline(&self) -> Option<Ns> {
        self.deadline
    }

    /// A write to the initial count register: starts the timer, or stops it with zero.
    pub(super) fn start(&mut self, initial: u32, now: Ns, divisor: u32) {
        self.initial = initial;
        self.deadline = (initial != 0).then(|| now + u64::from(initial) * u64::from(divisor));
    }

    /// The current count register at `now`.
    pub(super) fn current(&self, now: Ns, divisor: u32) -> u32 {
        let left = self.deadline.map_or(0, |deadline| deadline.saturating_sub(now));
        u32::try_from(left.div_ceil(u64::from(divisor))).unwrap_or(u32::MAX)
    }

    /// The divisor changes while the timer may be running: the current count stays, its speed changes.
    pub(super) fn rescale(&mut self, now: Ns, before: u32, after: u32) {
        if self.deadline.is_some() {
            self.deadline = Some(now + u64::from(self.current(now, before)) * u64::from(after));
        }
    }

    /// Time is now `now`: whether the counter has reached zero since the last call, once or more often. A
    /// periodic timer starts again, its periods counted from its start and not from `now`.
    pub(super) fn expire(&mut self, now: Ns, periodic: bool, divisor: u32) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return false };
        let period = u64::from(self.initial) * u64::from(divisor);
        self.deadline = periodic.then(|| {
            // The number of whole periods missed is a division: catching up takes no loop.
            let missed = (now - deadline) / period;
            deadline + (missed + 1) * period
        });
        true
    }

    /// Whether this is a state that the timer can reach.
    pub(super) fn is_valid(&self, now: Ns, divisor: u32) -> bool {
        let period = u64::from(self.initial) * u64::from(divisor);
        self.deadline.is_none_or(|deadline| self.initial != 0 && deadline > now && deadline - now <= period)
    }
}
