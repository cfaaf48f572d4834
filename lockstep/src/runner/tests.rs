//! Two drivers and what the core would pass between them, by hand.

use super::*;
use crate::log::{Effect, Event, LogItem, Place, Position, Seal};
use crate::machine::{Delivery, Machine as _, Repair, Sealed};
use crate::sim::guest::{Noise, Request, STEP, SimGuest, Snapshot};
use crate::sim::rng::Dice;

const MS: Ns = 1_000_000;
const NO_NOISE: Noise =
    Noise { memory: false, sided: false, effects: false, control: false, busy: false, landings: false };

/// One driver with its reports, and a disk full of zeroes.
struct Side {
    runner: Runner<SimGuest>,
    reports: Vec<Report>,
}

impl Side {
    fn new(noise: Noise, host: u64) -> Self {
        let guest = SimGuest::new(noise, Dice::new(1, host));
        Side { runner: Runner::new(guest, Limits::default()), reports: Vec::new() }
    }

    fn order(&mut self, command: Command, now: Ns) {
        self.runner.command(command, now, &mut self.reports);
    }

    fn take(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    fn snapshot(&self) -> Snapshot {
        self.runner.machine().snapshot()
    }
}

/// A filled pair.
struct Pair {
    now: Ns,
    primary: Side,
    secondary: Side,
    next_frame: u64,
    positions: Vec<Position>,
    sealed: Option<Sealed>,
    /// What each side found at its last seal.
    seen: (Option<Sealed>, Option<Sealed>),
    lost: u32,
}

fn zeroes(effects: Vec<Effect>) -> impl Iterator<Item = (u8, u64, Vec<u8>)> {
    effects.into_iter().filter_map(|effect| match effect {
        Effect::DiskRead { disk, id, len, .. } => Some((disk, id, vec![0; len as usize])),
        _ => None,
    })
}

impl Pair {
    /// Boots a guest, lets it run for a while, and fills the other side.
    fn new(noise: Noise) -> Self {
        let (primary, secondary) = (Side::new(noise, 1), Side::new(noise, 2));
        let seen = (None, None);
        let mut pair = Pair {
            now: 0,
            primary,
            secondary,
            next_frame: 0,
            positions: Vec::new(),
            sealed: None,
            seen,
            lost: 0,
        };
        pair.primary.order(Command::Boot, 0);
        pair.run(50 * MS);
        pair.primary.order(Command::FillStart, pair.now);
        pair.primary.order(Command::FillScan { from: 0, max: 1000 }, pair.now);
        pair.run(3 * MS);
        pair
    }

    fn filled(noise: Noise) -> Self {
        let mut pair = Self::new(noise);
        pair.finish_fill();
        pair
    }

    fn finish_fill(&mut self) {
        self.primary.order(Command::FillFinish, self.now);
        self.pass();
        assert_eq!(self.primary.snapshot(), self.secondary.snapshot(), "the fill is complete");
    }

    /// Passes on what was reported, as the core does.
    fn pass(&mut self) {
        let now = self.now;
        for report in self.primary.take() {
            match report {
                Report::Log(items) => {
                    for item in &items {
                        if let LogItem::RunTo(position) = item {
                            self.positions.push(*position);
                        }
                    }
                    self.secondary.order(Command::Follow(items), now);
                }
                Report::Effects(effects) => {
                    for (disk, id, data) in zeroes(effects) {
                        let done = Delivery::DiskDone { disk, id, ok: true, data };
                        self.primary.order(Command::Deliver(done), now);
                    }
                }
                Report::Sealed(sealed) => {
                    let seal = Seal { epoch: sealed.epoch, digest: sealed.digest, effects: 0 };
                    self.sealed = Some(sealed);
                    self.secondary.order(Command::Follow(vec![LogItem::Seal(seal)]), now);
                }
                Report::FillPages { pages, .. } => self.secondary.order(Command::Load(pages), now),
                Report::FillFinished { pages, state } => {
                    self.secondary.order(Command::Load(pages), now);
                    self.secondary.order(Command::Adopt { state }, now);
                }
                other => panic!("the primary said {other:?}"),
            }
        }
        for report in self.secondary.take() {
            match report {
                Report::Effects(effects) => self.answer_reads(effects),
                Report::Adopted { outstanding } => self.answer_reads(outstanding),
                Report::Sealed(sealed) => self.seen = (self.sealed.take(), Some(sealed)),
                Report::Lost { .. } => self.lost += 1,
                Report::Drained { .. } => {}
                other => panic!("the secondary said {other:?}"),
            }
        }
    }

    fn answer_reads(&mut self, effects: Vec<Effect>) {
        for (disk, id, data) in zeroes(effects) {
            self.secondary.order(Command::ReadData { disk, id, ok: true, data }, self.now);
        }
    }

    /// Both run for so long, in small pieces that end anywhere.
    fn run(&mut self, time: Ns) {
        let end = self.now + time;
        while self.now < end {
            for side in [&mut self.primary, &mut self.secondary] {
                let guest = side.runner.machine_mut();
                guest.budget = 7;
                side.runner.turn(self.now, &mut side.reports);
            }
            self.pass();
            self.now += 7 * STEP;
        }
    }

    fn frame(&mut self, id: u64) {
        self.next_frame += 1;
        let (nic, frame) = (0, Request { client: 1, counter: 2, id }.frame());
        let early = Command::EarlyFrame { id: self.next_frame, nic, frame: frame.clone() };
        self.secondary.order(early, self.now);
        let delivery = Delivery::Frame { id: self.next_frame, nic, frame };
        self.primary.order(Command::Deliver(delivery), self.now);
    }

    /// Ends an epoch, and runs until both sides have sealed it. Whether they are equal.
    fn seal(&mut self) -> bool {
        if self.primary.runner.ledger.open_epoch().is_none() {
            self.seen = (None, None);
            self.primary.order(Command::Seal, self.now);
        }
        for _ in 0..1_000 {
            self.run(100_000);
            if let (Some(theirs), Some(own)) = &self.seen {
                return theirs.digest == own.digest;
            }
        }
        panic!("the epoch does not end");
    }

    fn epoch(&self) -> Epoch {
        self.seen.0.as_ref().expect("sealed").epoch
    }

    fn saved(&self) -> (Snapshot, Snapshot) {
        let saved = |side: &Side| side.runner.machine().saved.clone().expect("sealed");
        (saved(&self.primary), saved(&self.secondary))
    }

    fn commit(&mut self) {
        let epoch = self.epoch();
        self.primary.order(Command::Commit(epoch), self.now);
        self.secondary.order(Command::Confirm(epoch), self.now);
    }

    /// Asks the primary for what differs.
    fn ask_repair(&mut self) -> (Repair, u32) {
        let own = self.seen.1.as_ref().expect("sealed");
        let (epoch, theirs) = (own.epoch, own.changed.clone());
        self.pass();
        self.primary.order(Command::Repair { epoch, theirs }, self.now);
        match self.primary.take().pop() {
            Some(Report::Repair { repair, moved }) => (repair, moved),
            other => panic!("no repair but {other:?}"),
        }
    }

    fn apply(&mut self, repair: Repair) -> Report {
        self.pass();
        self.secondary.order(Command::Apply(repair), self.now);
        self.secondary.take().pop().expect("an answer")
    }

    /// Ends an epoch, and makes the sides equal whatever they found. Pages shipped, if any.
    fn seal_and_repair(&mut self) -> Option<usize> {
        if self.seal() {
            let (primary, secondary) = self.saved();
            assert_eq!(primary, secondary);
            self.commit();
            return None;
        }
        for _ in 0..20 {
            let (repair, moved) = self.ask_repair();
            let epoch = self.epoch();
            if moved == 0 {
                let pages = repair.pages.len();
                let outstanding = match self.apply(repair) {
                    Report::Applied { outstanding, .. } => outstanding,
                    other => panic!("{other:?}"),
                };
                assert_eq!(self.saved().0, self.secondary.snapshot(), "equal after a repair");
                self.answer_reads(outstanding);
                self.primary.order(Command::Commit(epoch), self.now);
                return Some(pages);
            }
            self.primary.order(Command::Reopen(epoch), self.now);
            self.secondary.order(Command::Reopen(epoch), self.now);
            self.seal();
            assert_eq!(self.epoch(), epoch, "the same epoch is sealed again");
        }
        panic!("pages move for ever");
    }
}

#[test]
fn the_secondary_follows_exit_by_exit() {
    let mut pair = Pair::filled(NO_NOISE);
    for id in 0..40 {
        pair.frame(id);
        pair.run(4 * MS);
        assert_eq!(pair.seal_and_repair(), None, "epoch {}", pair.epoch());
    }
    assert!(pair.positions.is_sorted_by(|a, b| a.index + 1 == b.index), "positions are numbered in order");
    assert!(pair.positions.iter().all(|position| matches!(position.place, Place::Exit { .. })));
    assert_eq!(pair.secondary.runner.machine().table().len(), 40, "every request arrived");
    assert_eq!(pair.lost, 0);
}

#[test]
fn an_epoch_without_an_exit_ends_anywhere_and_its_rest_is_shipped() {
    let mut pair = Pair::filled(Noise { busy: true, ..NO_NOISE });
    let mut shipped = 0;
    for id in 0..150 {
        pair.frame(id);
        pair.run(MS);
        shipped += pair.seal_and_repair().unwrap_or(0);
    }
    let ends = pair.positions.iter().filter(|position| matches!(position.place, Place::Async { .. }));
    assert!(ends.count() > 0, "the guest computes for longer than a seal may wait");
    assert!(shipped > 0);
    assert_eq!(pair.secondary.runner.machine().table().len(), 150);
}

#[test]
fn what_a_host_s_noise_changed_is_repaired() {
    let noise =
        Noise { memory: true, sided: true, effects: true, control: true, busy: true, landings: false };
    let mut pair = Pair::filled(noise);
    let mut repaired = 0;
    for id in 0..150 {
        pair.frame(id);
        pair.run(3 * MS);
        repaired += u32::from(pair.seal_and_repair().is_some());
    }
    assert!((10..150).contains(&repaired), "{repaired} of 150 epochs were repaired");
    assert!(pair.lost > 0, "other exits than the primary's were noticed");
}

/// A page that the secondary alone has written, in an epoch that both have sealed.
fn page_written_by_the_secondary_alone(pair: &mut Pair) -> u32 {
    let page = 44;
    let mut bytes = [0; crate::machine::PAGE_SIZE];
    pair.secondary.runner.machine().read_page(page, &mut bytes);
    bytes[7] ^= 1;
    pair.secondary.runner.machine_mut().write_page(page, &bytes);
    assert!(!pair.seal(), "the page differs");
    assert!(pair.seen.1.as_ref().is_some_and(|own| own.changed.iter().any(|(changed, _)| *changed == page)));
    page
}

#[test]
fn a_page_that_only_the_secondary_wrote_is_served_from_live_memory() {
    let mut pair = Pair::filled(NO_NOISE);
    let page = page_written_by_the_secondary_alone(&mut pair);
    let (repair, moved) = pair.ask_repair();
    assert_eq!(moved, 0);
    assert_eq!(repair.pages.iter().map(|data| data.page).collect::<Vec<_>>(), [page]);
    assert!(matches!(pair.apply(repair), Report::Applied { .. }));
    assert_eq!(pair.saved().0, pair.secondary.snapshot());
}

#[test]
fn a_page_that_moved_reopens_the_epoch() {
    let mut pair = Pair::filled(NO_NOISE);
    let page = page_written_by_the_secondary_alone(&mut pair);
    // The primary writes it after its seal.
    let bytes = [9; crate::machine::PAGE_SIZE];
    pair.primary.runner.machine_mut().write_page(page, &bytes);
    let (_, moved) = pair.ask_repair();
    assert_eq!(moved, 1);
    let epoch = pair.epoch();
    pair.primary.order(Command::Reopen(epoch), pair.now);
    pair.secondary.order(Command::Reopen(epoch), pair.now);
    assert!(!pair.seal());
    assert_eq!(pair.epoch(), epoch, "both parts are one epoch");
    let (repair, moved) = pair.ask_repair();
    assert_eq!(moved, 0);
    assert!(repair.pages.iter().any(|data| data.page == page && data.bytes.as_deref() == Some(&bytes)));
    assert!(matches!(pair.apply(repair), Report::Applied { .. }));
    assert_eq!(pair.saved().0, pair.secondary.snapshot());
}

#[test]
fn a_repair_that_does_not_give_the_sealed_digests_is_refused_and_changes_nothing() {
    let mut pair = Pair::filled(NO_NOISE);
    page_written_by_the_secondary_alone(&mut pair);
    let (good, _) = pair.ask_repair();
    let before = pair.secondary.snapshot();
    let mut bad = good.clone();
    bad.pages[0].bytes = Some(Box::new([3; crate::machine::PAGE_SIZE]));
    assert_eq!(pair.apply(bad), Report::Refused { epoch: good.epoch });
    assert_eq!(pair.secondary.snapshot(), before);
    // One for another epoch is no answer at all.
    pair.secondary.order(Command::Apply(Repair { epoch: good.epoch + 1, ..good.clone() }), pair.now);
    assert_eq!(pair.secondary.take(), []);
    assert!(matches!(pair.apply(good), Report::Applied { .. }));
}

#[test]
fn a_secondary_drains_its_log_and_goes_on_with_what_had_arrived() {
    let mut pair = Pair::filled(NO_NOISE);
    for id in 0..10 {
        pair.frame(id);
        pair.run(3 * MS);
        pair.seal_and_repair();
    }
    // The last of the log has arrived and was not acknowledged; one frame more has, without a place.
    pair.frame(10);
    pair.run(5 * MS);
    let frame = Request { client: 1, counter: 2, id: 11 }.frame();
    pair.secondary.order(Command::EarlyFrame { id: 100, nic: 0, frame }, pair.now);
    let last_time = pair.secondary.runner.machine().guest_now();
    pair.secondary.order(Command::Drain, pair.now);
    let mut drained = None;
    for _ in 0..1_000 {
        pair.secondary.runner.turn(pair.now, &mut pair.secondary.reports);
        drained = pair.secondary.take().into_iter().find_map(|report| match report {
            Report::Drained { outstanding } => Some(outstanding),
            _ => None,
        });
        if drained.is_some() {
            break;
        }
    }
    let outstanding = drained.expect("the log ends");
    assert!(outstanding.iter().any(|effect| matches!(effect, Effect::DiskFlush { .. })), "{outstanding:?}");
    pair.secondary.order(Command::GoLive, pair.now);
    pair.primary = Side::new(NO_NOISE, 3);
    pair.now += 20 * MS;
    pair.run(30 * MS);
    let guest = pair.secondary.runner.machine();
    assert_eq!(guest.table().len(), 12, "the frame without a place is not lost");
    assert!(guest.guest_now() >= last_time + 45 * MS, "guest time went on while the guest stood");
}

#[test]
fn guest_time_stands_still_while_paused() {
    let mut pair = Pair::filled(NO_NOISE);
    pair.run(10 * MS);
    let before = pair.primary.runner.machine().guest_now();
    for side in [&mut pair.primary, &mut pair.secondary] {
        // Said twice by mistake, it is still one pause.
        side.order(Command::Pause, pair.now);
        side.order(Command::Pause, pair.now + 500 * MS);
        side.order(Command::Resume, pair.now + 1_000 * MS);
        side.order(Command::Resume, pair.now + 1_500 * MS);
    }
    pair.now += 1_000 * MS;
    pair.run(20 * MS);
    let after = pair.primary.runner.machine().guest_now();
    assert!((before..before + 40 * MS).contains(&after), "{before} {after}");

    pair.secondary.order(Command::Drain, pair.now);
    pair.run(MS);
    assert!(pair.secondary.runner.machine().guest_now() <= after + 40 * MS);
}

#[test]
fn a_frame_that_waits_when_the_log_begins_is_part_of_the_filled_state() {
    let mut pair = Pair::new(NO_NOISE);
    let frame = Request { client: 1, counter: 2, id: 1 }.frame();
    pair.primary.order(Command::Deliver(Delivery::Frame { id: 1, nic: 0, frame }), pair.now);
    pair.finish_fill();
    pair.run(10 * MS);
    assert_eq!(pair.seal_and_repair(), None);
    assert_eq!(pair.secondary.runner.machine().table().len(), 1);
}

#[test]
fn a_completion_of_a_request_that_was_not_made_here_is_a_divergence() {
    let mut pair = Pair::filled(NO_NOISE);
    let done = Event::DiskDone { disk: 0, id: 77_777, ok: true, hash: 5 };
    pair.secondary.order(Command::Follow(vec![LogItem::Place(done)]), pair.now);
    pair.run(MS);
    assert_eq!(pair.lost, 1);
    pair.seal_and_repair();
}
