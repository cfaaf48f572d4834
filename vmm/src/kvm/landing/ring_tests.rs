//! The arithmetic against a model of the kernel's side.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The page that fills push; of another slot.
const FILL_SLOT: u32 = 3;
const PAGES: u32 = 600;

#[derive(Clone, Copy, PartialEq)]
enum Flag {
    Invalid,
    Pushed,
    GivenBack,
}

/// `virt/kvm/dirty_ring.c` in few words. It panics where the kernel would be corrupted.
struct Model {
    entries: Vec<(Flag, u32, u64)>,
    dirty_index: u32,
    reset_index: u32,
    /// Pages that the guest can store to without a push.
    writable: BTreeSet<u32>,
    /// Pages pushed by the guest and not yet heard of.
    unheard: BTreeSet<u32>,
    /// The next reset stops early.
    signal: bool,
}

impl Model {
    fn new() -> Self {
        Model {
            entries: vec![(Flag::Invalid, 0, 0); ENTRIES as usize],
            dirty_index: 0,
            reset_index: 0,
            writable: BTreeSet::new(),
            unheard: BTreeSet::new(),
            signal: false,
        }
    }

    fn level(&self) -> u32 {
        self.dirty_index - self.reset_index
    }

    fn add(&mut self, slot: u32, page: u64) {
        self.entries[(self.dirty_index % ENTRIES) as usize] = (Flag::Pushed, slot, page);
        self.dirty_index += 1;
    }

    /// The guest stores to these pages; true if it was stopped *before* one of the stores.
    fn guest(&mut self, pages: &[u32]) -> bool {
        for page in pages {
            if self.level() >= SOFT_LIMIT {
                return true;
            }
            if self.writable.insert(*page) {
                self.add(MAIN_SLOT, u64::from(*page));
                self.unheard.insert(*page);
            }
        }
        self.level() >= SOFT_LIMIT
    }
}

impl RingKernel for Model {
    type Error = ();

    fn pushed(&self, at: u32) -> Option<(u32, u64)> {
        let (flag, slot, page) = self.entries[at as usize];
        (flag == Flag::Pushed).then_some((slot, page))
    }

    fn give_back(&mut self, at: u32, slot: u32, page: u64) {
        self.entries[at as usize] = (Flag::GivenBack, slot, page);
    }

    fn reset(&mut self) -> Result<u32, ()> {
        let mut count = 0;
        loop {
            let at = (self.reset_index % ENTRIES) as usize;
            let (flag, slot, page) = self.entries[at];
            if flag != Flag::GivenBack || (self.signal && count == 1) {
                self.signal = false;
                return Ok(count);
            }
            if slot == MAIN_SLOT {
                self.writable.remove(&u32::try_from(page).expect("a page number"));
            }
            self.entries[at].0 = Flag::Invalid;
            assert!(self.reset_index < self.dirty_index, "more is given back than was pushed");
            self.reset_index += 1;
            count += 1;
        }
    }

    fn push(&mut self, count: u32) -> Result<(), ()> {
        let over = self.level() >= ENTRIES;
        (0..count).for_each(|_| self.add(FILL_SLOT, 0));
        assert!(over || self.level() <= ENTRIES, "the ring is made to run over");
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Stores that stop at a full ring.
    Guest(Vec<u32>),
    /// So many stores to one page each, which nothing stops.
    Emulated(u32),
    Arm,
    Disarm,
    Protect(BTreeSet<u32>),
    Signal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(0..PAGES, 0..300).prop_map(Step::Guest),
        1 => (0..PAGES).prop_map(Step::Emulated),
        3 => Just(Step::Arm),
        2 => Just(Step::Disarm),
        3 => proptest::collection::btree_set(0..PAGES, 0..500).prop_map(Step::Protect),
        1 => Just(Step::Signal),
    ]
}

/// Does the step; afterwards nothing that was pushed is unheard of.
fn apply(ring: &mut Ring, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    let mut heard = BTreeSet::new();
    let before = model.writable.clone();
    let mut lost = false;
    match step {
        Step::Guest(pages) => {
            if model.guest(&pages) {
                lost |= ring.disarm(model, |page| _ = heard.insert(page)).expect("disarms") == Heard::Lost;
            }
        }
        Step::Emulated(count) => {
            for page in 0..count {
                model.writable.insert(page);
                model.unheard.insert(page);
                model.add(MAIN_SLOT, u64::from(page));
            }
        }
        Step::Arm => {
            lost |= ring.arm(model, 0, |page| _ = heard.insert(page)).expect("arms") == Heard::Lost;
            prop_assert_eq!(model.level(), ARMED);
            prop_assert_eq!(&before, &model.writable, "arming protects nothing");
            let clean = (0..PAGES).find(|page| !model.writable.contains(page));
            let dirty = model.writable.first().copied();
            if let Some(dirty) = dirty {
                prop_assert!(!model.guest(&[dirty]), "a store to a dirty page is no exit");
            }
            if let Some(clean) = clean {
                prop_assert!(model.guest(&[clean]), "the first store to a clean page is one");
            }
        }
        Step::Disarm => {
            lost |= ring.disarm(model, |page| _ = heard.insert(page)).expect("disarms") == Heard::Lost;
            prop_assert!(model.level() <= FLOOR);
            prop_assert_eq!(&before, &model.writable, "disarming protects nothing");
        }
        Step::Protect(pages) => {
            let list: Vec<u32> = pages.iter().copied().collect();
            ring.protect(model, &list).expect("protects");
            let expected: BTreeSet<u32> = before.difference(&pages).copied().collect();
            prop_assert_eq!(&expected, &model.writable, "these pages and no others");
        }
        Step::Signal => model.signal = true,
    }
    lost |= ring.harvest(model, |page| _ = heard.insert(page)).expect("harvests") == Heard::Lost;
    // Each turn of a ring that ran over more than once shows as full.
    while ring.level() < SOFT_LIMIT && model.level() >= SOFT_LIMIT {
        lost |= ring.catch_up(model).expect("catches up") == Heard::Lost;
    }
    prop_assert_eq!(ring.level(), model.level());
    let pushed = std::mem::take(&mut model.unheard);
    prop_assert!(heard.is_subset(&pushed));
    prop_assert!(lost || heard == pushed, "a page is unheard of");
    Ok(())
}

proptest! {
    #[test]
    fn the_ring_does_what_it_says(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut ring, mut model) = (Ring::default(), Model::new());
        for step in steps {
            apply(&mut ring, &mut model, step)?;
        }
    }
}

#[test]
fn a_kernel_that_pushes_less_is_noticed() {
    struct Lame(Model);
    impl RingKernel for Lame {
        type Error = ();
        fn pushed(&self, at: u32) -> Option<(u32, u64)> {
            self.0.pushed(at)
        }
        fn give_back(&mut self, at: u32, slot: u32, page: u64) {
            self.0.give_back(at, slot, page);
        }
        fn reset(&mut self) -> Result<u32, ()> {
            Ok(0)
        }
        fn push(&mut self, count: u32) -> Result<(), ()> {
            self.0.push(count.min(2))
        }
    }
    let (mut ring, mut kernel) = (Ring::default(), Lame(Model::new()));
    assert_eq!(ring.arm(&mut kernel, 0, |_| {}), Err(RingError::Level { want: ARMED, got: 2 }));
    assert_eq!(ring.protect(&mut kernel, &[7, 8]), Err(RingError::Reset { left: 2 }));
}
