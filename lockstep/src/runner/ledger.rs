//! What each page held at the last commit, what was written since, and the sealed epoch that waits for its
//! acknowledgement.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::log::{Epoch, Page, Position, SealDigest};
use crate::machine::{Machine, MachineFailure, PAGE_SIZE, PageBytes, PageData, Repair, Sealed};

/// A sealed epoch that is not committed.
struct Open {
    epoch: Epoch,
    digest: SealDigest,
    exits: u64,
    state: Vec<u8>,
    /// Digests of the pages that differ from the last commit.
    changed: BTreeMap<Page, u128>,
    /// Every page written in the epoch; with copies on the side that serves repairs.
    written: BTreeMap<Page, Option<Box<PageBytes>>>,
}

/// Page digests of the last commit, and the difference since.
pub(super) struct Ledger {
    committed: Vec<u128>,
    dirty: BTreeSet<Page>,
    open: Option<Open>,
}

/// Why staged pages were not applied.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApplyError {
    /// They do not give the digests of the seal.
    NotEqual,
    /// The machine failed.
    Failed(String),
}

fn page_digest(bytes: &PageBytes) -> u128 {
    xxh3_128(bytes)
}

fn root(changed: &BTreeMap<Page, u128>) -> u128 {
    let mut hasher = Xxh3::new();
    for (page, digest) in changed {
        hasher.update(&page.to_le_bytes());
        hasher.update(&digest.to_le_bytes());
    }
    hasher.digest128()
}

fn page_data(page: Page, bytes: &PageBytes) -> PageData {
    let zero = bytes.iter().all(|byte| *byte == 0);
    PageData { page, bytes: if zero { None } else { Some(Box::new(*bytes)) } }
}

const ZERO: PageBytes = [0; PAGE_SIZE];

impl Ledger {
    /// For a machine whose memory is all zeroes.
    pub(super) fn new(pages: Page) -> Self {
        Ledger { committed: vec![page_digest(&ZERO); pages as usize], dirty: BTreeSet::new(), open: None }
    }

    fn collect<M: Machine>(&mut self, machine: &mut M) -> Result<(), MachineFailure> {
        self.dirty.extend(machine.take_dirty()?);
        Ok(())
    }

    /// Ends the epoch here.
    pub(super) fn seal<M: Machine>(
        &mut self,
        machine: &mut M,
        epoch: Epoch,
        position: Position,
        exits: u64,
        keep_copies: bool,
    ) -> Result<Sealed, MachineFailure> {
        debug_assert!(self.open.is_none(), "at most one sealed epoch waits");
        self.collect(machine)?;
        let state = machine.save()?;
        let mut changed = BTreeMap::new();
        let mut written = BTreeMap::new();
        let mut bytes = ZERO;
        for page in std::mem::take(&mut self.dirty) {
            machine.read_page(page, &mut bytes);
            let digest = page_digest(&bytes);
            if digest != self.committed[page as usize] {
                changed.insert(page, digest);
            }
            written.insert(page, keep_copies.then(|| Box::new(bytes)));
        }
        let digest = SealDigest { machine: xxh3_128(&state), memory_root: root(&changed) };
        let sealed = Sealed {
            epoch,
            position,
            digest,
            changed: changed.iter().map(|(page, digest)| (*page, *digest)).collect(),
            dirty: u32::try_from(written.len()).unwrap_or(u32::MAX),
            delays: Vec::new(),
        };
        self.open = Some(Open { epoch, digest, exits, state, changed, written });
        Ok(sealed)
    }

    /// Deliberate fault, for the checkers to see.
    #[cfg(feature = "sabotage")]
    pub(super) fn forget_last_dirty<M: Machine>(&mut self, machine: &mut M) -> Result<(), MachineFailure> {
        self.collect(machine)?;
        self.dirty.pop_last();
        Ok(())
    }

    /// The epoch that is sealed and not committed.
    pub(super) fn open_epoch(&self) -> Option<Epoch> {
        self.open.as_ref().map(|open| open.epoch)
    }

    /// The sealed epoch is equal on both sides.
    pub(super) fn commit(&mut self, epoch: Epoch) {
        if let Some(open) = self.open.take_if(|open| open.epoch == epoch) {
            for (page, digest) in open.changed {
                self.committed[page as usize] = digest;
            }
        }
    }

    /// The sealed epoch goes on: what it wrote counts for the next seal.
    pub(super) fn reopen(&mut self) {
        if let Some(open) = self.open.take() {
            self.dirty.extend(open.written.keys());
        }
    }

    /// What a secondary with these digests needs to become equal to the sealed epoch. The second value
    /// counts the pages that can no longer be served as they were.
    pub(super) fn repair<M: Machine>(&self, machine: &M, theirs: &[(Page, u128)]) -> Option<(Repair, u32)> {
        let open = self.open.as_ref()?;
        let theirs: BTreeMap<Page, u128> =
            theirs.iter().copied().filter(|(page, _)| (*page as usize) < self.committed.len()).collect();
        let union: BTreeSet<Page> = open.changed.keys().chain(theirs.keys()).copied().collect();
        let mut repair =
            Repair { epoch: open.epoch, state: open.state.clone(), exits: open.exits, pages: Vec::new() };
        let mut moved = 0;
        let mut live = ZERO;
        for page in union {
            let committed = self.committed[page as usize];
            let mine = open.changed.get(&page).copied().unwrap_or(committed);
            if mine == theirs.get(&page).copied().unwrap_or(committed) {
                continue;
            }
            match open.written.get(&page) {
                Some(Some(copy)) => repair.pages.push(page_data(page, copy)),
                // Not written in the epoch: what it held at the seal has the committed digest. Asking the
                // machine what is dirty would protect pages here, at no common position.
                _ => {
                    machine.read_page(page, &mut live);
                    if page_digest(&live) == committed {
                        repair.pages.push(page_data(page, &live));
                    } else {
                        moved += 1;
                    }
                }
            }
        }
        Some((repair, moved))
    }

    /// Stages a repair, verifies that it gives `expected`, applies it and commits.
    pub(super) fn apply<M: Machine>(
        &mut self,
        machine: &mut M,
        repair: &Repair,
        expected: SealDigest,
    ) -> Result<(), ApplyError> {
        let Some(open) = &self.open else { return Err(ApplyError::NotEqual) };
        let mut changed = open.changed.clone();
        for PageData { page, bytes } in &repair.pages {
            let Some(committed) = self.committed.get(*page as usize) else {
                return Err(ApplyError::NotEqual);
            };
            let digest = page_digest(bytes.as_deref().unwrap_or(&ZERO));
            if digest == *committed {
                changed.remove(page);
            } else {
                changed.insert(*page, digest);
            }
        }
        let staged = SealDigest { machine: xxh3_128(&repair.state), memory_root: root(&changed) };
        if staged != expected || open.epoch != repair.epoch {
            return Err(ApplyError::NotEqual);
        }
        for PageData { page, bytes } in &repair.pages {
            machine.write_page(*page, bytes.as_deref().unwrap_or(&ZERO));
        }
        machine.restore(&repair.state).map_err(|error| ApplyError::Failed(error.to_string()))?;
        // Those writes are part of the commit, not of the next epoch.
        machine.take_dirty().map_err(|error| ApplyError::Failed(error.to_string()))?;
        let epoch = open.epoch;
        self.open = Some(Open {
            epoch,
            digest: expected,
            exits: repair.exits,
            state: Vec::new(),
            changed,
            written: BTreeMap::new(),
        });
        self.commit(epoch);
        Ok(())
    }

    /// The digests of the sealed epoch, as this side computed them.
    pub(super) fn open_digest(&self) -> Option<SealDigest> {
        self.open.as_ref().map(|open| open.digest)
    }

    // --- filling a new secondary ---

    /// From here on every write counts; the table is rebuilt by the rounds that follow.
    pub(super) fn fill_start<M: Machine>(&mut self, machine: &mut M) -> Result<(), MachineFailure> {
        machine.take_dirty()?;
        *self = Ledger::new(machine.page_count());
        Ok(())
    }

    /// Reads pages `from..from + max`, leaving out zero pages.
    pub(super) fn fill_scan<M: Machine>(
        &mut self,
        machine: &M,
        from: Page,
        max: u32,
    ) -> (Vec<PageData>, Option<Page>) {
        let end = from.saturating_add(max).min(machine.page_count());
        let pages = (from..end).map(|page| self.fill_page(machine, page)).filter(|p| p.bytes.is_some());
        let pages = pages.collect();
        (pages, (end < machine.page_count()).then_some(end))
    }

    /// Reads up to `max` of the pages that were written since they were last read; says how many are left.
    pub(super) fn fill_dirty<M: Machine>(
        &mut self,
        machine: &mut M,
        max: u32,
    ) -> Result<(Vec<PageData>, u32), MachineFailure> {
        self.collect(machine)?;
        let mut pages = Vec::new();
        while pages.len() < max as usize
            && let Some(page) = self.dirty.pop_first()
        {
            pages.push(self.fill_page(machine, page));
        }
        Ok((pages, u32::try_from(self.dirty.len()).unwrap_or(u32::MAX)))
    }

    fn fill_page<M: Machine>(&mut self, machine: &M, page: Page) -> PageData {
        let mut bytes = ZERO;
        machine.read_page(page, &mut bytes);
        self.committed[page as usize] = page_digest(&bytes);
        page_data(page, &bytes)
    }

    /// The secondary's side of a fill. Pages beyond memory are refused.
    pub(super) fn load<M: Machine>(&mut self, machine: &mut M, pages: &[PageData]) -> Result<(), Page> {
        for PageData { page, bytes } in pages {
            let slot = self.committed.get_mut(*page as usize).ok_or(*page)?;
            let bytes = bytes.as_deref().unwrap_or(&ZERO);
            *slot = page_digest(bytes);
            machine.write_page(*page, bytes);
        }
        Ok(())
    }

    /// The fill is complete: what it wrote is no part of the first epoch.
    pub(super) fn loaded<M: Machine>(&mut self, machine: &mut M) -> Result<(), MachineFailure> {
        machine.take_dirty()?;
        self.dirty.clear();
        self.open = None;
        Ok(())
    }
}
