//! Landings, as the machine's owner sees them.

use super::{Entered, Life, Stop, Vm};
use crate::error::{DirtyError, RunError, SaveError, VcpuError};
use crate::vcpu::{Landing, LandingCounts, VmEntry};

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// Something that [`Vm::run`] would have returned. The search goes on with the next call.
    Stop(Stop),
    /// The guest is at a landing: registers and memory are those before the store. As at an exit, the next
    /// entry decides anew about interrupts.
    Landing(Landing),
    /// The landing will not come. With where that showed: the first store to the page came from this RIP, or
    /// the search was given up there. This is no common position.
    Missed(Landing),
}

impl Vm {
    /// Why this machine has no landings, and what to change on the host. `None`: it has.
    #[must_use]
    pub fn landing_obstacle(&self) -> Option<String> {
        self.vcpu.landing_obstacle()
    }

    /// Counts since the machine was made.
    #[must_use]
    pub fn landing_counts(&self) -> LandingCounts {
        self.vcpu.landing_counts()
    }

    /// Privilege level of the guest's code, from 0 (kernel) to 3 (user): the two lowest bits of CS (SDM volume 3
    /// section 5.5). Changes nothing, as [`Self::save`].
    ///
    /// # Errors
    ///
    /// As [`Self::save`].
    pub fn privilege(&mut self) -> Result<u8, SaveError> {
        if !matches!(self.life, Life::Running | Life::Halted) {
            return Err(SaveError::NotStarted);
        }
        let cpu = self.vcpu.state()?;
        self.unfinished = false;
        let [low, _] = cpu.segments[0].selector.to_le_bytes();
        Ok(low & 3)
    }

    /// As [`Self::run`], but stops also where the guest is about to store to a page for the first time since
    /// that page was protected, by [`Self::take_dirty`] or [`Self::protect`]. Only stores by instructions
    /// count, and only where the host executes them natively. The first call arms, the next other entry
    /// disarms. A kick changes nothing but the moment.
    ///
    /// Call [`Self::take_dirty`] or [`Self::protect`] at common positions only: a page protected elsewhere
    /// may have been stored to before, and that landing will be missed by the other host.
    ///
    /// # Errors
    ///
    /// As [`Self::run`]; and [`VcpuError::NoLandings`], by which nothing is changed.
    pub fn seek(&mut self) -> Result<Reached, RunError> {
        self.search(VmEntry::Seek)
    }

    /// Runs to a landing that another machine found in the same execution, from the last common position on.
    /// The first call protects the page. `unseen`: so many first stores to other pages come before it and need not
    /// be looked at, which saves their exits; if there are fewer, the landing may be missed. To be called again, with the same landing, until it is reached or
    /// missed; [`Self::run`] in between begins the search anew.
    ///
    /// # Errors
    ///
    /// As [`Self::seek`]; [`RunError::NoSuchPage`], by which nothing is changed.
    pub fn find(&mut self, landing: Landing, unseen: u32) -> Result<Reached, RunError> {
        let pages = self.page_count();
        if landing.page >= pages {
            return Err(RunError::NoSuchPage { page: landing.page, pages });
        }
        self.search(VmEntry::Find(landing, unseen))
    }

    fn search(&mut self, entry: VmEntry) -> Result<Reached, RunError> {
        match self.vcpu.landing_obstacle() {
            Some(obstacle) => Err(VcpuError::NoLandings(obstacle).into()),
            None => match self.enter(entry)? {
                Entered::Found(reached) => Ok(reached),
                Entered::Count => {
                    Err(VcpuError::UnexpectedExit("a count that nobody asked for".into()).into())
                }
            },
        }
    }

    /// Makes pages clean again, so that the next store to each is a landing; at a common position, the same
    /// pages on both hosts. They stay in the log of [`Self::take_dirty`]. At a landing, the pages which the
    /// waiting instruction stores to are left out. Not for page tables: the processor needs those to get on.
    ///
    /// # Errors
    ///
    /// [`DirtyError`]; after [`DirtyError::NoSuchPage`] nothing is changed.
    pub fn protect(&mut self, pages: &[u32]) -> Result<(), DirtyError> {
        let count = self.page_count();
        if let Some(page) = pages.iter().find(|page| **page >= count) {
            return Err(DirtyError::NoSuchPage { page: *page, pages: count });
        }
        Ok(self.vcpu.protect(pages)?)
    }

    /// How often a clean page was written, since the machine was made; 0 for ever on a machine without landings.
    ///
    /// # Errors
    ///
    /// [`DirtyError`].
    pub fn first_stores(&mut self) -> Result<u64, DirtyError> {
        Ok(self.vcpu.first_stores()?)
    }

    /// Pages that are not clean: written, or at least made writable, since they were last protected; in the
    /// order of their first stores, without those that are known for page tables. The ones to protect again
    /// are among them. A machine without landings does not know.
    ///
    /// # Errors
    ///
    /// [`DirtyError`].
    pub fn open_pages(&mut self) -> Result<Vec<u32>, DirtyError> {
        Ok(self.vcpu.open_pages()?)
    }
}
