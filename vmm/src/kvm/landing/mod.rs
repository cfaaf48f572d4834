//! Landing on the first write: an exact position in a busy guest, on stock KVM, without a PMU.
//!
//! # The problem
//!
//! A replica can repeat what a virtual machine did only if each interrupt enters it at the very instruction
//! where it entered the original. Where the guest exits by itself (port, device, MSR, HLT) there is such a
//! place: the n-th exit of this kind is the same instruction on both hosts. A guest that computes does not
//! exit. The way out has been to count: instructions (Bressoud and Schneider's recovery counter) or branches
//! (ReVirt, VMware FT, rr), which takes a performance counter that is exact, that the host has, and that the
//! hypervisor lets through. Cloud hosts have none; upstream KVM cannot stop a guest at a count.
//!
//! # The idea
//!
//! A replicated machine tracks dirty pages anyway: each epoch begins with every page write-protected. So *the
//! first store to a page that is clean since the last common position* is an architectural event. It happens
//! once per protection, at one instruction, with one set of registers, and whoever protects that page at the
//! same position of the same execution meets it again. It does not matter how many other pages were dirtied
//! in between, nor in which order: page-table pages are dirtied by walks at moments that nobody controls, so
//! neither count nor sequence of faults can be relied on. (Page, instruction pointer) can.
//!
//! Such a store becomes an exit through the dirty ring (`KVM_CAP_DIRTY_LOG_RING`, Linux 5.11), made for live
//! migration. A fault on a write-protected page *pushes* the page's number into a ring shared with user space
//! and makes the page writable; and KVM_RUN returns `KVM_EXIT_DIRTY_RING_FULL`, *before it enters the guest
//! again*, once the ring has reached its soft limit. Keep the ring one entry below that limit, and the next
//! newly dirtied page is an exit at the storing instruction, which has not executed. Re-entering executes it
//! without a second fault; an interrupt queued there is taken before it. No signal, no single step, no patch.
//!
//! # The operations
//!
//! The ring was not meant to be driven like this, yet two of its properties suffice ([`ring`] has the
//! arithmetic, [`mapped`] the calls):
//!
//! - User space gives an entry back by setting a flag in the shared page and calling
//!   `KVM_RESET_DIRTY_RINGS`, and the kernel then write-protects *what the entry says now*. Unchanged it is
//!   the page that was pushed. Rewritten, it protects any page one likes (**protect**), or, with a slot that
//!   does not exist, no page at all (**free**).
//! - Whatever writes guest memory inside the kernel pushes too. A host write of `MSR_KVM_WALL_CLOCK_NEW` has
//!   KVM store the time of day at an address of our choice, here a page beyond the guest's memory: three
//!   pushes per register, or exactly one if the twelve bytes end in a logged page and begin in one that is
//!   not. So the ring can be brought to any level without running the guest (**fill**).
//!
//! **Arm** is to fill to one below the soft limit, **disarm** to free down to a floor. Arming costs about
//! 0.25 µs per entry; each reset costs the guest its TLB, so the ring is armed only while a place is wanted.
//!
//! # Finding a place, and finding it again
//!
//! *Seek* (the primary; an interrupt is due): arm, run, and at each ring-full exit ask whether it is a
//! landing. Pushes have other causes than stores: a page walk that sets an accessed bit or is treated as a
//! write by the processor, a read that KVM answered with a writable mapping, an emulated instruction (pushed
//! after its store, with RIP behind it), the delivery of an event onto a clean stack. None of these need
//! recur. So a landing counts only if
//!
//! 1. the page was clean in our own books, so that this is its *first* store ([`books`]);
//! 2. the instruction at RIP, decoded, stores to that page ([`store`]), by way of the guest's own page tables
//!    as we walk them ([`walk`]; the kernel's own walk would set accessed bits in the guest);
//!    and it is not one of those tables;
//! 3. no event is on its way into the guest;
//! 4. the processor executes that code natively: a software KVM that emulates kernel mode lands in user mode
//!    only. Which is the case is not guessed but tried, once, on a guest of three stores ([`probe`]).
//!
//! Anything else is passed by: one entry is freed and the guest goes on. Its page is then no longer clean,
//! and it is not protected again, for two reasons: it may have been written, and if the instruction needs it
//! (a walk does), protecting it again would never let the guest get on.
//!
//! *Find* (the secondary; it knows page and RIP): protect the page, arm, run. The first store to that page
//! decides. The primary also says how many pages it saw written since the position before, and all but a margin
//! of these may pass unseen: the ring is armed by so much lower, which saves most of the exits. From the same RIP, it is the place. From another, the executions differ, and the answer is
//! *missed*. A push of that page without a store is passed by, and here the page *must* be protected again;
//! should the same registers push it over and over, the guest cannot get on without it, and that is *missed*
//! as well. So is a place that has not come after [`PASSES_MAX`] passes. Registers are not part of a place:
//! what differs there is a difference in data, which the comparison of states finds.
//!
//! At a landing both sides may protect warm pages again, so that the next landing is near. The pages which
//! the waiting instruction itself stores to are left out of it: a store across two pages would else fault on
//! either in turn, for ever.
//!
//! # What it needs
//!
//! Write protection must be what tracks dirty pages: page-modification logging (Intel) notes the page after
//! the store and must be off (`pml=0`). It shows by its larger reserve in the ring, which then does not fit
//! the minimum. Slots log from their creation on, so that every mapping is of 4 KiB, and memory is populated
//! and locked, without huge or merged pages: each mapping that the host takes away comes back by a push that
//! is no store. That costs passes, never exactness.
//!
//! A KVM that emulates code may push many times between two looks at the ring's level, even over its own
//! entries. The ring's true level can be found out again, what the lost entries said cannot: all pages then
//! count as written.
//!
//! What it does not give: a loop that dirties nothing new has no landing, and a replica that is stopped there
//! must be given the difference. And nothing here is trusted: a landing that both sides took and that was
//! not one is a difference of states, which the pair finds and repairs like any other.

mod books;
mod mapped;
pub(super) mod probe;
mod ring;
mod store;

use std::io;

use kvm_bindings::{kvm_regs, kvm_sync_regs};
use kvm_ioctls::{VcpuFd, VmFd};

use self::books::Books;
pub(super) use self::mapped::enable_ring;
use self::mapped::{Line, RingPages};
use self::probe::Modes;
pub(super) use self::ring::MAIN_SLOT;
use self::ring::{Heard, Ring, RingError, SOFT_LIMIT};
use self::store::{Stored, stored};
use crate::error::{VcpuError, VmError};
use crate::memory::{Ram, page_count};
use crate::vcpu::{Landing, LandingCounts, VmExit};

/// Pushes that one search for a known place may pass by.
const PASSES_MAX: u32 = 1 << 16;
/// Times that the same registers may push the page that is looked for without storing to it.
const REPEATS_MAX: u32 = 3;
/// Ring-full exits in a row without a new entry. Each takes 256 pushes off a ring that ran over; more than
/// this means that the kernel's soft limit is not the one known here.
const EMPTY_MAX: u32 = 1 << 12;

/// What the ring is armed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quarry {
    /// Any landing.
    Any,
    /// This one.
    This(Landing, Unseen),
}

/// First stores that come before the landing for certain: they need not be looked at.
pub(super) type Unseen = u32;

/// A search that goes on over several entries.
#[derive(Debug)]
struct Hunt {
    quarry: Quarry,
    /// How many of these are still to come.
    unseen: Unseen,
    passes: u32,
    /// Registers at the last push of the wanted page that was no store, and how often they came.
    repeated: Option<(kvm_regs, u32)>,
}

/// A vCPU's dirty ring, and what was learnt from it.
#[derive(Debug)]
pub(super) struct Landings {
    ring: Ring,
    pages: RingPages,
    ram: Ram,
    books: Books,
    modes: Modes,
    hunt: Option<Hunt>,
    /// Ring-full exits without a new entry, in a row.
    empty: u32,
    /// Pages which the instruction stores to that waits at a landing, until the next entry.
    waiting: Vec<u32>,
    counts: LandingCounts,
}

impl Landings {
    /// Of a machine that was made with [`enable_ring`].
    pub(super) fn new(vm: &VmFd, fd: &VcpuFd, ram: &Ram, modes: Modes) -> Result<Self, VmError> {
        Ok(Landings {
            ring: Ring::default(),
            pages: RingPages::map(vm, fd)?,
            books: Books::new(page_count(ram)),
            ram: ram.clone(),
            modes,
            hunt: None,
            empty: 0,
            waiting: Vec::new(),
            counts: LandingCounts::default(),
        })
    }

    /// Before the guest is entered: armed for `quarry`, or disarmed.
    pub(super) fn prepare(
        &mut self,
        vm: &VmFd,
        fd: &VcpuFd,
        quarry: Option<Quarry>,
    ) -> Result<(), VcpuError> {
        self.waiting.clear();
        let Some(quarry) = quarry else {
            if self.hunt.take().is_some() || self.ring.level() >= SOFT_LIMIT {
                self.disarm(vm, fd)?;
            }
            return Ok(());
        };
        // A search that goes on may have a push that was not looked at yet, because a kick came first. The
        // ring is full then, and the guest is not entered before it was.
        if self.hunt.as_ref().is_none_or(|hunt| hunt.quarry != quarry) {
            let mut unseen = 0;
            if let Quarry::This(landing, to_come) = quarry {
                unseen = to_come;
                self.harvest(vm, fd)?;
                if self.books.is_open(landing.page) {
                    self.protect_all(vm, fd, &[landing.page])?;
                }
            }
            self.arm(vm, fd, unseen)?;
            self.counts.armed += 1;
            self.hunt = Some(Hunt { quarry, unseen, passes: 0, repeated: None });
        }
        Ok(())
    }

    /// The ring is full. `None`: the guest may go on.
    pub(super) fn full(
        &mut self,
        vm: &VmFd,
        fd: &VcpuFd,
        registers: &kvm_sync_regs,
    ) -> Result<Option<VmExit>, VcpuError> {
        // Each with whether it was clean.
        let mut fresh: Vec<(u32, bool)> = Vec::new();
        let heard = self.look(vm, fd, &mut fresh)?;
        let Some(mut hunt) = self.hunt.take() else {
            self.counts.background += 1;
            self.disarm(vm, fd)?;
            return Ok(None);
        };
        let exit = match hunt.quarry {
            Quarry::Any if heard == Heard::All => self.any(&fresh, registers),
            // It was among those that were not looked at: its store is over.
            Quarry::This(landing, _) if over(&fresh, landing.page) => {
                Some(VmExit::Missed(Landing { page: landing.page, rip: registers.regs.rip }))
            }
            Quarry::This(landing, _)
                if heard == Heard::Lost || fresh.iter().any(|(page, _)| *page == landing.page) =>
            {
                self.this(landing, &mut hunt, registers)
            }
            Quarry::Any | Quarry::This(..) => None,
        };
        if exit.is_some() {
            return Ok(exit);
        }
        hunt.unseen = hunt.unseen.saturating_sub(u32::try_from(fresh.len()).unwrap_or(u32::MAX));
        self.pass(vm, fd, hunt, registers)
    }

    /// What filled the ring. The pages go to `fresh`, each with whether it was clean.
    fn look(&mut self, vm: &VmFd, fd: &VcpuFd, fresh: &mut Vec<(u32, bool)>) -> Result<Heard, VcpuError> {
        let Landings { ring, pages, books, .. } = self;
        let mut line = Line { vm, fd, pages };
        let before = ring.level();
        let mut heard =
            ring.harvest(&mut line, |page| fresh.push((page, books.push(page)))).map_err(failed)?;
        self.empty = if ring.level() == before { self.empty + 1 } else { 0 };
        if ring.level() < SOFT_LIMIT && heard == Heard::All {
            if self.empty > EMPTY_MAX {
                return Err(VcpuError::UnexpectedExit("a full dirty ring without a new entry".into()));
            }
            heard = ring.catch_up(&mut line).map_err(failed)?;
        }
        self.note(heard);
        Ok(heard)
    }

    /// Whether the waiting instruction's store is the first to one of the pages.
    fn any(&mut self, fresh: &[(u32, bool)], registers: &kvm_sync_regs) -> Option<VmExit> {
        if !fresh.iter().any(|(_, clean)| *clean) || !self.counts_here(registers) {
            return None;
        }
        let pages = self.stored_here(registers);
        let books = &self.books;
        let counts = |page: &u32| pages.contains(page) && !books.is_table(*page);
        let (page, _) = fresh.iter().find(|(page, clean)| *clean && counts(page))?;
        self.waiting = pages;
        Some(VmExit::Landing(Landing { page: *page, rip: registers.regs.rip }))
    }

    /// The wanted page was pushed.
    fn this(&mut self, landing: Landing, hunt: &mut Hunt, registers: &kvm_sync_regs) -> Option<VmExit> {
        let rip = registers.regs.rip;
        let pages = self.stored_here(registers);
        if self.counts_here(registers) && pages.contains(&landing.page) {
            self.waiting = pages;
            let here = Landing { page: landing.page, rip };
            return Some(if here == landing { VmExit::Landing(here) } else { VmExit::Missed(here) });
        }
        let times = match hunt.repeated.take() {
            Some((regs, times)) if regs == registers.regs => times + 1,
            _ => 1,
        };
        hunt.repeated = Some((registers.regs, times));
        (times > REPEATS_MAX).then_some(VmExit::Missed(Landing { page: landing.page, rip }))
    }

    /// The pages that the waiting instruction stores to. What it tells of page tables is kept.
    fn stored_here(&mut self, registers: &kvm_sync_regs) -> Vec<u32> {
        let Stored { pages, tables } = stored(&self.ram, &registers.regs, &registers.sregs);
        self.books.note_tables(&tables);
        pages
    }

    /// Goes on with the search.
    fn pass(
        &mut self,
        vm: &VmFd,
        fd: &VcpuFd,
        mut hunt: Hunt,
        registers: &kvm_sync_regs,
    ) -> Result<Option<VmExit>, VcpuError> {
        hunt.passes += 1;
        self.counts.passed += 1;
        if let Quarry::This(landing, _) = hunt.quarry {
            if hunt.passes > PASSES_MAX {
                return Ok(Some(VmExit::Missed(Landing { page: landing.page, rip: registers.regs.rip })));
            }
            if self.books.is_open(landing.page) {
                self.protect_all(vm, fd, &[landing.page])?;
            }
        }
        self.arm(vm, fd, hunt.unseen)?;
        self.hunt = Some(hunt);
        Ok(None)
    }

    /// Whether a store of the instruction at RIP can be met again: native code, no event being delivered.
    fn counts_here(&self, registers: &kvm_sync_regs) -> bool {
        let kvm_sync_regs { sregs, events, .. } = registers;
        let user = sregs.cs.selector & 3 == 3;
        let event = events.exception.injected
            | events.exception.pending
            | events.interrupt.injected
            | events.nmi.injected;
        (user || self.modes.kernel) && event == 0
    }

    /// These pages are clean again, but for those that the waiting instruction stores to.
    pub(super) fn protect(&mut self, vm: &VmFd, fd: &VcpuFd, list: &[u32]) -> Result<(), VcpuError> {
        let list: Vec<u32> = list.iter().copied().filter(|page| !self.waiting.contains(page)).collect();
        self.protect_all(vm, fd, &list)
    }

    fn protect_all(&mut self, vm: &VmFd, fd: &VcpuFd, list: &[u32]) -> Result<(), VcpuError> {
        self.harvest(vm, fd)?;
        // Entries are spent: the ring is no longer armed.
        self.hunt = None;
        let Landings { ring, pages, books, .. } = self;
        ring.protect(&mut Line { vm, fd, pages }, list).map_err(failed)?;
        books.protected(list);
        self.counts.protected += list.len() as u64;
        Ok(())
    }

    /// Pages that the guest may write unnoticed and that are not known for page tables, in the order of their
    /// first stores.
    pub(super) fn open_pages(&mut self, vm: &VmFd, fd: &VcpuFd) -> Result<Vec<u32>, VcpuError> {
        self.harvest(vm, fd)?;
        let open = self.books.open_pages().iter().copied();
        Ok(open.filter(|page| !self.books.is_table(*page)).collect())
    }

    /// How often a clean page was written, since the beginning.
    pub(super) fn first_stores(&mut self, vm: &VmFd, fd: &VcpuFd) -> Result<u64, VcpuError> {
        self.harvest(vm, fd)?;
        Ok(self.books.first_stores())
    }

    /// The state is replaced: whatever was looked for, it is elsewhere now.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.hunt = None;
    }

    /// The log since the last call, as a bitmap; all pages are clean again.
    pub(super) fn take_log(&mut self, vm: &VmFd, fd: &VcpuFd) -> Result<Vec<u64>, VcpuError> {
        self.harvest(vm, fd)?;
        let open = self.books.open_pages().to_vec();
        self.protect(vm, fd, &open)?;
        Ok(self.books.take_log())
    }

    /// Whether kernel code lands too.
    pub(super) fn in_kernel_mode(&self) -> bool {
        self.modes.kernel
    }

    /// What happened so far.
    pub(super) fn counts(&self) -> LandingCounts {
        self.counts
    }

    /// A push that a search has not looked at is lost to it, so the search begins anew.
    fn harvest(&mut self, vm: &VmFd, fd: &VcpuFd) -> Result<(), VcpuError> {
        let Landings { ring, pages, books, .. } = self;
        let before = ring.level();
        let heard = ring.harvest(&mut Line { vm, fd, pages }, |page| _ = books.push(page)).map_err(failed)?;
        if ring.level() != before {
            self.hunt = None;
        }
        self.note(heard);
        Ok(())
    }

    fn arm(&mut self, vm: &VmFd, fd: &VcpuFd, unseen: Unseen) -> Result<(), VcpuError> {
        let Landings { ring, pages, books, .. } = self;
        let heard =
            ring.arm(&mut Line { vm, fd, pages }, unseen, |page| _ = books.push(page)).map_err(failed)?;
        self.note(heard);
        Ok(())
    }

    fn disarm(&mut self, vm: &VmFd, fd: &VcpuFd) -> Result<(), VcpuError> {
        let Landings { ring, pages, books, .. } = self;
        let heard = ring.disarm(&mut Line { vm, fd, pages }, |page| _ = books.push(page)).map_err(failed)?;
        self.note(heard);
        Ok(())
    }

    fn note(&mut self, heard: Heard) {
        if heard == Heard::Lost {
            self.counts.overflows += 1;
            self.books.push_all();
        }
    }
}

/// Whether the page is among those pushed, and not the last: the guest is past the store.
fn over(fresh: &[(u32, bool)], page: u32) -> bool {
    fresh
        .split_last()
        .is_some_and(|(last, before)| last.0 != page && before.iter().any(|(pushed, _)| *pushed == page))
}

fn failed(error: RingError<io::Error>) -> VcpuError {
    let source = match error {
        RingError::Kernel(source) => source,
        RingError::Level { want, got } => {
            io::Error::other(format!("{got} entries are in the ring instead of {want}"))
        }
        RingError::Reset { left } => io::Error::other(format!("{left} entries were not taken back")),
    };
    VcpuError::Ioctl { what: "move the dirty ring", source }
}
