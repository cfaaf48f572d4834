//! Guest virtual time against this host's monotonic clock. The clock is read by the caller.

use crate::Ns;

/// Guest time as a function of host time; stands still while frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuestClock {
    guest: Ns,
    /// Host time at which guest time was `guest`; `None` while frozen.
    since: Option<Ns>,
}

impl GuestClock {
    /// A clock that stands at `guest`.
    pub(super) fn frozen(guest: Ns) -> Self {
        GuestClock { guest, since: None }
    }

    /// A clock that showed `guest` at host time `since` and runs.
    pub(super) fn running(guest: Ns, since: Ns) -> Self {
        GuestClock { guest, since: Some(since) }
    }

    /// Guest time at host time `now`.
    pub(super) fn at(&self, now: Ns) -> Ns {
        self.guest + self.since.map_or(0, |since| now.saturating_sub(since))
    }

    /// Host time at which guest time will be `guest`; `None` while frozen.
    pub(super) fn host_time_of(&self, guest: Ns) -> Option<Ns> {
        self.since.map(|since| since.saturating_add(guest.saturating_sub(self.guest)))
    }

    /// Stops the clock.
    pub(super) fn freeze(&mut self, now: Ns) {
        *self = GuestClock::frozen(self.at(now));
    }

    /// Lets the clock go on from where it stands.
    pub(super) fn thaw(&mut self, now: Ns) {
        if self.since.is_none() {
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_clock_stands_and_goes_on_from_there() {
        let mut clock = GuestClock::running(1_000, 50);
        assert_eq!(clock.at(150), 1_100);
        assert_eq!(clock.host_time_of(1_300), Some(350));
        clock.freeze(150);
        assert_eq!(clock.at(900), 1_100);
        assert_eq!(clock.host_time_of(1_300), None);
        clock.thaw(1_000);
        assert_eq!(clock.at(1_010), 1_110);
    }
}
