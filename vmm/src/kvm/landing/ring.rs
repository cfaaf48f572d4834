//! The arithmetic of the dirty ring: which entries are ours, how full it is, and how to change either.
//!
//! Three numbers govern it. The kernel's *dirty index* counts pushes, its *reset index* counts entries given
//! back; the ring is full, and KVM_RUN returns before it enters the guest, once the difference (the *level*)
//! is at the *soft limit*. Neither index can be read, but both are known here: no entry appears while the
//! vCPU is stopped but by our own doing, and none goes but by our request.
//!
//! An entry that is given back is a *request*: the kernel reads slot and offset from the shared page again
//! and write-protects what they name. So an entry can be spent to protect any page at all, or, by naming a
//! slot that does not exist, to protect nothing. Entries are given back in the order of their pushes.

/// Bytes of the ring: one page, the least that the kernel takes.
pub(super) const BYTES: u32 = 4096;
/// Entries of 16 bytes.
pub(super) const ENTRIES: u32 = BYTES / 16;
/// Entries that the kernel keeps for one pass through its own code. Those that page-modification logging
/// adds (512) do not fit into a ring of this size: where it is on, the kernel refuses the ring.
const RESERVED: u32 = 64;
/// From this level on KVM_RUN returns before it enters the guest.
pub(super) const SOFT_LIMIT: u32 = ENTRIES - RESERVED;
/// One push below it: the next page that the guest dirties is an exit.
pub(super) const ARMED: u32 = SOFT_LIMIT - 1;
/// Level that is left when no landing is wanted. High, so that arming costs few pushes (0.24 µs each); low
/// enough that a guest that dirties pages exits only once in as many.
pub(super) const FLOOR: u32 = SOFT_LIMIT - 64;

/// Slot of guest memory. Not 0: kernels before 6.12 send one bogus request for page 0 of slot 0 with every
/// reset.
pub(in crate::kvm) const MAIN_SLOT: u32 = 1;
/// A slot that does not exist: the entry is given back and nothing is protected.
const NO_SLOT: u32 = u32::MAX;

/// Resets without progress before the kernel is given up. It stops early when a signal is pending.
const RESET_TRIES: u32 = 64;

/// What the ring's arithmetic asks of the kernel.
pub(super) trait RingKernel {
    /// What can go wrong with the kernel.
    type Error;
    /// Slot and page of the entry at this index of the ring, if it was pushed and not given back.
    fn pushed(&self, at: u32) -> Option<(u32, u64)>;
    /// Rewrites the entry and marks it as given back.
    fn give_back(&mut self, at: u32, slot: u32, page: u64);
    /// Carries out what was given back; returns how many entries that were.
    fn reset(&mut self) -> Result<u32, Self::Error>;
    /// Makes the kernel push `count` entries of a page that is not the guest's.
    fn push(&mut self, count: u32) -> Result<(), Self::Error>;
}

/// Why an operation failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RingError<E> {
    /// The kernel refused.
    Kernel(E),
    /// The level is not what it must be.
    Level { want: u32, got: u32 },
    /// Entries were given back and not taken.
    Reset { left: u32 },
}

impl<E> From<E> for RingError<E> {
    fn from(error: E) -> Self {
        RingError::Kernel(error)
    }
}

/// What a look at the ring gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Heard {
    /// All that was pushed.
    All,
    /// Not all: any page may have been pushed.
    Lost,
}

/// Our side of the ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Entries given back since the beginning; the kernel's reset index.
    given_back: u32,
    /// Entries seen since the beginning; the kernel's dirty index after [`Self::harvest`].
    seen: u32,
}

impl Ring {
    /// Entries pushed, seen and not given back.
    pub(super) fn level(&self) -> u32 {
        self.seen.wrapping_sub(self.given_back)
    }

    /// Looks at what was pushed since the last look, oldest first; guest pages go to `page`. The entries stay.
    pub(super) fn harvest<K: RingKernel>(
        &mut self,
        kernel: &mut K,
        page: impl FnMut(u32),
    ) -> Result<Heard, RingError<K::Error>> {
        self.look(kernel, page);
        if self.level() < ENTRIES { Ok(Heard::All) } else { self.catch_up(kernel) }
    }

    fn look<K: RingKernel>(&mut self, kernel: &K, mut page: impl FnMut(u32)) {
        // An entry at this distance is the oldest one again.
        while self.level() < ENTRIES
            && let Some((slot, offset)) = kernel.pushed(self.seen % ENTRIES)
        {
            self.seen = self.seen.wrapping_add(1);
            if slot == MAIN_SLOT
                && let Ok(offset) = u32::try_from(offset)
            {
                page(offset);
            }
        }
    }

    /// The kernel's level is 256 or more: either every entry is pushed, or it says that the ring is full while
    /// our level, which is the same modulo 256, is below the limit. The kernel checks the level before it
    /// enters the guest; one that then emulates many storing instructions without coming by there again
    /// pushes over its own entries, and what they said is lost. The level can be found out still: give all
    /// entries back, push one, and see where it is. It is 0 afterwards, or, after an excess of twice the ring,
    /// a multiple of 256, which will show as full again.
    pub(super) fn catch_up<K: RingKernel>(&mut self, kernel: &mut K) -> Result<Heard, RingError<K::Error>> {
        self.give_back(kernel, ENTRIES)?;
        kernel.push(1)?;
        let ahead = (0..ENTRIES)
            .find(|ahead| kernel.pushed(self.given_back.wrapping_add(*ahead) % ENTRIES).is_some())
            .ok_or(RingError::Level { want: 1, got: 0 })?;
        self.give_back(kernel, ahead + 1)?;
        self.seen = self.given_back;
        Ok(Heard::Lost)
    }

    /// As many pushes away from an exit as shall pass unseen, up to [`ARMED`], and one. `page` hears of pages
    /// pushed before.
    pub(super) fn arm<K: RingKernel>(
        &mut self,
        kernel: &mut K,
        unseen: u32,
        page: impl FnMut(u32),
    ) -> Result<Heard, RingError<K::Error>> {
        let heard = self.harvest(kernel, page)?;
        let level = ARMED.saturating_sub(unseen);
        self.lower(kernel, level)?;
        self.raise(kernel, level)?;
        Ok(heard)
    }

    /// Far from an exit.
    pub(super) fn disarm<K: RingKernel>(
        &mut self,
        kernel: &mut K,
        page: impl FnMut(u32),
    ) -> Result<Heard, RingError<K::Error>> {
        let heard = self.harvest(kernel, page)?;
        self.lower(kernel, FLOOR)?;
        Ok(heard)
    }

    /// Write-protects pages, at one entry each. The ring is not armed afterwards. The pages must have been
    /// harvested as far as they were pushed.
    pub(super) fn protect<K: RingKernel>(
        &mut self,
        kernel: &mut K,
        pages: &[u32],
    ) -> Result<(), RingError<K::Error>> {
        let mut rest = pages;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(ARMED as usize));
            let count = u32::try_from(now.len()).unwrap_or(ARMED);
            self.raise(kernel, count)?;
            for page in now {
                self.spend(kernel, MAIN_SLOT, u64::from(*page));
            }
            Self::reset(kernel, count)?;
            rest = later;
        }
        Ok(())
    }

    /// Gives back the oldest entries, protecting nothing, until at most `level` are left.
    fn lower<K: RingKernel>(&mut self, kernel: &mut K, level: u32) -> Result<(), RingError<K::Error>> {
        self.give_back(kernel, self.level().saturating_sub(level))
    }

    /// Has the kernel push until there are at least `level`.
    fn raise<K: RingKernel>(&mut self, kernel: &mut K, level: u32) -> Result<(), RingError<K::Error>> {
        let missing = level.saturating_sub(self.level());
        if missing == 0 {
            return Ok(());
        }
        kernel.push(missing)?;
        self.look(kernel, |_| {});
        let got = self.level();
        if got == level { Ok(()) } else { Err(RingError::Level { want: level, got }) }
    }

    fn give_back<K: RingKernel>(&mut self, kernel: &mut K, count: u32) -> Result<(), RingError<K::Error>> {
        for _ in 0..count {
            self.spend(kernel, NO_SLOT, 0);
        }
        Self::reset(kernel, count)
    }

    /// Not more entries may be given back than the kernel's level: it does not check that, and its level would
    /// wrap round.
    fn spend<K: RingKernel>(&mut self, kernel: &mut K, slot: u32, page: u64) {
        kernel.give_back(self.given_back % ENTRIES, slot, page);
        self.given_back = self.given_back.wrapping_add(1);
    }

    fn reset<K: RingKernel>(kernel: &mut K, count: u32) -> Result<(), RingError<K::Error>> {
        let mut left = count;
        for _ in 0..RESET_TRIES {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(kernel.reset()?);
        }
        if left == 0 { Ok(()) } else { Err(RingError::Reset { left }) }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
