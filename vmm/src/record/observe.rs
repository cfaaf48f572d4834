//! What an exit has changed, and a copy of everything to find that out.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::MachineError;
use crate::machine::Vm;
use crate::{PAGE_SIZE, memory};

/// Equal bytes between two changes that are cheaper to repeat than to begin a new run.
const GAP: usize = 8;

/// Everything that differs from the exit before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changes {
    /// Of what [`Vm::save`] gives.
    pub state: Patch,
    /// Of memory: page numbers, ascending.
    pub pages: Vec<(u32, Patch)>,
}

/// Turns one list of bytes into another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Patch {
    /// Length afterwards.
    length: u32,
    /// Where, and what is there now; ascending, apart.
    runs: Vec<(u32, Vec<u8>)>,
}

impl Patch {
    fn between(old: &[u8], new: &[u8]) -> Self {
        let same = |at: usize| old.get(at) == new.get(at);
        let mut runs: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut end = 0;
        for at in (0..new.len()).filter(|at| !same(*at)) {
            match runs.last_mut() {
                Some((_, run)) if at - end <= GAP => run.extend_from_slice(&new[end..=at]),
                _ => runs.push((u32::try_from(at).unwrap_or(u32::MAX), vec![new[at]])),
            }
            end = at + 1;
        }
        Patch { length: u32::try_from(new.len()).unwrap_or(u32::MAX), runs }
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// What becomes of `old`; nothing if this patch cannot be one of it.
    pub(super) fn applied(&self, old: &[u8], limit: usize) -> Option<Vec<u8>> {
        let length = usize::try_from(self.length).ok().filter(|length| *length <= limit)?;
        let mut new = old.to_vec();
        new.resize(length, 0);
        for (at, run) in &self.runs {
            let at = usize::try_from(*at).ok()?;
            new.get_mut(at..at.checked_add(run.len())?)?.copy_from_slice(run);
        }
        Some(new)
    }
}

/// The machine as of the last exit.
pub(super) struct Shadow {
    pub state: Vec<u8>,
    memory: Vec<u8>,
    sum: Xxh3,
}

impl Shadow {
    /// Looks at a machine for the first time. From here on its log of changed pages belongs to this shadow.
    pub(super) fn of(vm: &mut Vm) -> Result<Self, MachineError> {
        let state = vm.save()?;
        vm.take_dirty()?;
        let mut memory = vec![0; vm.page_count() as usize * PAGE_SIZE];
        let (pages, _) = memory.as_chunks_mut();
        for (page, bytes) in (0..).zip(pages) {
            vm.read_page(page, bytes);
        }
        Ok(Shadow { state, memory, sum: Xxh3::new() })
    }

    /// What has changed since.
    pub(super) fn changes(&self, vm: &mut Vm) -> Result<Changes, MachineError> {
        let state = Patch::between(&self.state, &vm.save()?);
        let mut pages = Vec::new();
        let mut bytes = [0; PAGE_SIZE];
        for page in vm.take_dirty()? {
            memory::read_page(vm.ram(), page, &mut bytes);
            let patch = self.page(page).map(|old| Patch::between(old, &bytes));
            pages.extend(patch.filter(|patch| !patch.is_empty()).map(|patch| (page, patch)));
        }
        Ok(Changes { state, pages })
    }

    /// A page as of the last exit.
    pub(super) fn page(&self, page: u32) -> Option<&[u8; PAGE_SIZE]> {
        let (pages, _) = self.memory.as_chunks();
        pages.get(usize::try_from(page).ok()?)
    }

    /// Follows these changes. Whether they can be changes of this machine.
    #[must_use]
    pub(super) fn follow(&mut self, changes: &Changes, encoded: &[u8], limit: usize) -> bool {
        self.sum.update(encoded);
        let Some(state) = changes.state.applied(&self.state, limit) else { return false };
        self.state = state;
        for (page, patch) in &changes.pages {
            let new = self.page(*page).and_then(|old| patch.applied(old, PAGE_SIZE));
            let (pages, _) = self.memory.as_chunks_mut::<PAGE_SIZE>();
            let old = usize::try_from(*page).ok().and_then(|page| pages.get_mut(page));
            let Some((old, new)) = old.zip(new.filter(|new| new.len() == PAGE_SIZE)) else { return false };
            old.copy_from_slice(&new);
        }
        true
    }

    /// XXH3-128 over all that happened at exits so far.
    pub(super) fn digest(&self) -> u128 {
        self.sum.digest128()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_patch_makes_the_new_from_the_old(
            old in proptest::collection::vec(0u8..3, 0..100),
            new in proptest::collection::vec(0u8..3, 0..100),
        ) {
            let patch = Patch::between(&old, &new);
            prop_assert_eq!(patch.applied(&old, 100), Some(new.clone()));
            prop_assert_eq!(patch.is_empty(), new.len() <= old.len() && old.starts_with(&new));
        }

        #[test]
        fn no_patch_is_applied_beyond_its_bounds(
            length in any::<u32>(),
            runs in proptest::collection::vec((any::<u32>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..3),
        ) {
            let new = Patch { length, runs }.applied(&[1; 50], 60);
            prop_assert!(new.is_none_or(|new| new.len() <= 60));
        }
    }
}
