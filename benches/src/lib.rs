//! What the benchmarks share: a machine without a processor, so that only the pair's own work is measured.

use std::collections::BTreeSet;

use lockstep::Ns;
use lockstep::log::{Effect, ExitKind, Page};
use lockstep::machine::{Landing, Machine, MachineFailure, PAGE_SIZE, PageBytes, Stimulus, Stop};

/// Memory whose guest sleeps for ever. Its owner writes the pages.
#[derive(Debug)]
pub struct Sleeper {
    memory: Vec<PageBytes>,
    dirty: BTreeSet<Page>,
    now: Ns,
}

impl Sleeper {
    /// Zeroed memory of so many pages.
    #[must_use]
    pub fn new(pages: Page) -> Self {
        Sleeper { memory: vec![[0; PAGE_SIZE]; pages as usize], dirty: BTreeSet::new(), now: 0 }
    }

    /// Writes `value` into the first `pages` pages, one word each.
    ///
    /// # Panics
    /// When there are fewer pages.
    pub fn touch(&mut self, pages: Page, value: u64) {
        for page in 0..pages {
            self.memory[page as usize][..8].copy_from_slice(&value.to_le_bytes());
        }
        self.dirty.extend(0..pages);
    }
}

impl Machine for Sleeper {
    fn run(&mut self) -> Result<Stop, MachineFailure> {
        Ok(Stop::Exit(ExitKind::Halt))
    }

    fn has_landings(&self) -> bool {
        false
    }

    fn seek(&mut self) -> Result<Stop, MachineFailure> {
        self.run()
    }

    fn find(&mut self, _: Landing, _: u32) -> Result<Stop, MachineFailure> {
        Ok(Stop::Missed)
    }

    fn protect(&mut self, _: &[Page]) -> Result<(), MachineFailure> {
        Err(MachineFailure("a sleeper has no landings".to_owned()))
    }

    fn first_stores(&mut self) -> Result<u64, MachineFailure> {
        Ok(0)
    }

    fn open_pages(&mut self) -> Result<Vec<Page>, MachineFailure> {
        Ok(Vec::new())
    }

    fn waits(&self) -> bool {
        true
    }

    fn place(&mut self, stimulus: &Stimulus) -> Result<(), MachineFailure> {
        match stimulus {
            Stimulus::Time(now) => self.now = *now,
            Stimulus::Frame { .. } | Stimulus::DiskDone { .. } => {
                return Err(MachineFailure("a sleeper has neither network card nor disk".to_owned()));
            }
        }
        Ok(())
    }

    fn reevaluate(&mut self) {}

    fn take_effects(&mut self) -> Vec<Effect> {
        Vec::new()
    }

    fn outstanding_disk(&self) -> Vec<Effect> {
        Vec::new()
    }

    fn next_deadline(&self) -> Option<Ns> {
        None
    }

    fn run_time(&self) -> Ns {
        0
    }

    fn guest_now(&self) -> Ns {
        self.now
    }

    fn page_count(&self) -> Page {
        Page::try_from(self.memory.len()).unwrap_or(Page::MAX)
    }

    fn take_dirty(&mut self) -> Result<Vec<Page>, MachineFailure> {
        Ok(std::mem::take(&mut self.dirty).into_iter().collect())
    }

    fn read_page(&self, page: Page, out: &mut PageBytes) {
        *out = self.memory[page as usize];
    }

    fn write_page(&mut self, page: Page, bytes: &PageBytes) {
        self.memory[page as usize] = *bytes;
        self.dirty.insert(page);
    }

    fn save(&mut self) -> Result<Vec<u8>, MachineFailure> {
        Ok(self.now.to_le_bytes().to_vec())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), MachineFailure> {
        let bytes = state.try_into().map_err(|_| MachineFailure("no state of a sleeper".to_owned()))?;
        self.now = Ns::from_le_bytes(bytes);
        Ok(())
    }

    fn boot(&mut self) -> Result<(), MachineFailure> {
        Ok(())
    }
}
