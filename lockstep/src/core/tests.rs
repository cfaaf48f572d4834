//! The core by hand: who fits, who may start, and what a slow disk does.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::arbiter::{Answer, Ask, Record, Records};
use crate::machine::{Command, Report};
use crate::message::{Identity, Standing};

const LINK: Session = 1;

/// A core and what it has put out so far.
struct Host {
    core: Core,
    now: Ns,
    out: Vec<Output>,
}

fn identity() -> Identity {
    let settings = vec![("guest.memory_mib".to_owned(), "32".to_owned())];
    Identity { pair: "shop".to_owned(), table: 1, guest: 2, settings, pages: 8, disks: vec![64] }
}

impl Host {
    fn new(name: &str, identity: Identity, local: LocalState) -> Self {
        // As random as it needs to be: no two starts have the same.
        static STARTS: AtomicU32 = AtomicU32::new(1);
        let start = STARTS.fetch_add(1, Ordering::Relaxed);
        let config = Config {
            host: name.to_owned(),
            rank: u32::from(name != "alpha"),
            identity,
            timing: Timing::default(),
            attempt_base: u128::from(start) << 64,
            #[cfg(feature = "sabotage")]
            sabotage: None,
        };
        let (core, out) = Core::new(config, local, 1);
        Host { core, now: 1, out }
    }

    fn step(&mut self, input: Input) {
        let outputs = self.core.step(input, self.now);
        self.out.extend(outputs);
    }

    /// Time passes until the next deadline.
    fn tick(&mut self) {
        self.now = self.core.next_deadline().expect("something is due");
        self.step(Input::Tick);
    }

    /// Lets the arbiter and the state directory answer everything that was asked.
    fn settle(&mut self, records: &mut Records) {
        while let Some(at) =
            self.out.iter().position(|out| matches!(out, Output::Ask { .. } | Output::Persist { .. }))
        {
            match self.out.remove(at) {
                Output::Ask { ticket, ask } => {
                    let (answer, _) = records.answer(&ask);
                    self.step(Input::Arbiter { ticket, answer: Some(answer) });
                }
                Output::Persist { ticket, .. } => self.step(Input::Persisted { ticket }),
                _ => {}
            }
        }
    }

    /// Until this host's guest runs.
    fn go_live(&mut self, records: &mut Records) {
        self.settle(records);
        self.tick();
        self.settle(records);
        assert_eq!(self.core.role(), RoleKind::Alone);
    }

    fn link_up(&mut self, peer: &str) {
        self.step(Input::LinkUp { session: LINK, peer: peer.to_owned(), dialed: true });
    }

    fn receive(&mut self, message: Message) {
        self.step(Input::Message { session: LINK, message });
    }

    /// The messages put out, which are taken away.
    fn sent(&mut self) -> Vec<Message> {
        let is_message = |out: &mut Output| matches!(out, Output::Send { .. });
        let sent = self.out.extract_if(.., is_message);
        sent.filter_map(|out| if let Output::Send { message, .. } = out { Some(message) } else { None })
            .collect()
    }

    fn notices(&self, event: &str) -> Vec<&str> {
        let notices = self
            .out
            .iter()
            .filter_map(|out| if let Output::Notice(notice) = out { Some(notice) } else { None });
        notices.filter(|notice| notice.event == event).map(|notice| notice.text.as_str()).collect()
    }

    /// Why the host ended, if it did.
    fn exit(&self) -> Option<&ExitReason> {
        self.out.iter().find_map(|out| if let Output::Exit(reason) = out { Some(reason) } else { None })
    }

    /// The stalls ordered, which are taken away with everything else.
    fn stalls(&mut self) -> Vec<bool> {
        let stall = |out| match out {
            Output::Machine(Command::Stall(on)) => Some(on),
            _ => None,
        };
        self.out.drain(..).filter_map(stall).collect()
    }
}

fn hello(name: &str, identity: Identity, generation: u64, standing: Standing) -> Message {
    Message::Hello(Hello { host: name.to_owned(), identity, generation, standing, attempts: Vec::new() })
}

fn state(generation: u64, holder: &str, in_sync: &[&str], consistent: bool) -> LocalState {
    let in_sync = in_sync.iter().map(|&name| name.to_owned()).collect();
    let attempt = 7 + u128::from(generation);
    let record = Record { generation, holder: holder.to_owned(), attempt, in_sync, stopped: false };
    LocalState { record: Some(record), withdrawn: Vec::new(), consistent }
}

/// An arbiter with this record in force.
fn records(state: &LocalState) -> Records {
    let mut records = Records::default();
    let last = state.record.clone().expect("a record");
    let mut expect = 0;
    for generation in 1..=last.generation {
        let attempt = 7 + u128::from(generation);
        let new = Record { generation, attempt, ..last.clone() };
        assert!(matches!(
            records.answer(&Ask::Swap { pair: "shop".to_owned(), expect, new }).0,
            Answer::Won(_)
        ));
        expect = attempt;
    }
    assert_eq!(records.get("shop"), Some(&last));
    records
}

// --- hosts that do not fit ---

#[test]
fn a_host_with_another_machine_table_is_refused_and_the_live_one_goes_on() {
    let mut arbiter = Records::default();
    let mut alpha = Host::new("alpha", identity(), LocalState::default());
    alpha.go_live(&mut arbiter);
    let mut beta = Host::new("beta", Identity { table: 99, ..identity() }, LocalState::default());
    beta.settle(&mut arbiter);
    alpha.link_up("beta");
    beta.link_up("alpha");
    alpha.sent();
    let beta_says = beta.sent().remove(0);
    alpha.receive(beta_says);
    assert_eq!(alpha.core.role(), RoleKind::Alone, "the live host goes on");
    assert_eq!(alpha.exit(), None);
    let [told] = alpha.notices("mismatch")[..] else { panic!("one notice") };
    assert!(
        told.contains("the machine table's digest is") && told.contains("same version of twinrun"),
        "{told}"
    );
    let told = told.to_owned();
    let sent = alpha.sent();
    assert_eq!(sent, [Message::Refuse { why: told.clone() }]);
    assert!(alpha.out.contains(&Output::Close { session: LINK }), "nothing more crosses this link");

    beta.receive(sent[0].clone());
    assert_eq!(beta.exit(), Some(&ExitReason::Mismatch(told)));
}

#[test]
fn the_joiner_refuses_as_well_and_in_the_same_words() {
    let mut alpha = Host::new("alpha", identity(), LocalState::default());
    let mut beta = Host::new("beta", Identity { table: 99, ..identity() }, LocalState::default());
    beta.link_up("alpha");
    beta.receive(hello("alpha", identity(), 1, Standing::Live));
    alpha.link_up("beta");
    alpha.receive(hello("beta", Identity { table: 99, ..identity() }, 0, Standing::Empty));
    assert!(matches!(beta.exit(), Some(ExitReason::Mismatch(_))));
    assert_eq!(beta.notices("mismatch"), alpha.notices("mismatch"));
    assert!(!beta.out.iter().any(|out| matches!(out, Output::Machine(_) | Output::Disk(_))));
}

#[test]
fn a_claim_under_way_is_not_dropped_because_of_a_host_that_does_not_fit() {
    let mut arbiter = Records::default();
    let mut alpha = Host::new("alpha", identity(), LocalState::default());
    alpha.settle(&mut arbiter);
    alpha.tick();
    alpha.link_up("beta");
    alpha.receive(hello("beta", Identity { guest: 5, ..identity() }, 0, Standing::Empty));
    assert_eq!(alpha.core.role(), RoleKind::Starting);
    alpha.settle(&mut arbiter);
    assert_eq!(alpha.core.role(), RoleKind::Alone);
    assert_eq!(alpha.notices("mismatch").len(), 1);
}

#[test]
fn a_refusal_of_the_other_side_cannot_control_a_terminal() {
    let mut beta = Host::new("beta", identity(), LocalState::default());
    beta.link_up("alpha");
    beta.receive(Message::Refuse { why: format!("\x1b[2J{}", "x".repeat(100_000)) });
    let Some(ExitReason::Mismatch(why)) = beta.exit() else { panic!("refused") };
    assert!(!why.contains('\x1b') && why.len() < 3_000);
}

// --- who may start ---

fn start(name: &str, local: &LocalState, arbiter: &mut Records) -> Host {
    let mut host = Host::new(name, identity(), local.clone());
    host.settle(arbiter);
    host.tick();
    host.settle(arbiter);
    host
}

#[test]
fn the_side_with_the_older_generation_does_not_start_alone() {
    let old = state(3, "alpha", &["alpha", "beta"], true);
    let mut arbiter = records(&state(4, "alpha", &["alpha"], true));
    let beta = start("beta", &old, &mut arbiter);
    let Some(ExitReason::Stale(why)) = beta.exit() else { panic!("{:?}", beta.core.role()) };
    assert_eq!(
        why,
        "this disk stopped at generation 3; generation 4 is alpha's, as the arbiter says. Start alpha, and this \
         host will be filled from it"
    );
    assert!(!beta.out.iter().any(|out| matches!(out, Output::Machine(_) | Output::Disk(_))));
    assert_eq!(arbiter.get("shop").map(|record| record.generation), Some(4));
}

#[test]
fn a_half_filled_side_does_not_start_alone() {
    let filling = state(3, "alpha", &["alpha", "beta"], false);
    let beta = start("beta", &filling, &mut records(&filling));
    let Some(ExitReason::Stale(why)) = beta.exit() else { panic!("{:?}", beta.core.role()) };
    assert!(why.contains("was being filled in generation 3"), "{why}");
}

#[test]
fn both_sides_of_a_pair_that_lost_power_may_start_and_the_second_loses() {
    let both = state(3, "alpha", &["alpha", "beta"], true);
    let mut arbiter = records(&both);
    let beta = start("beta", &both, &mut arbiter);
    assert_eq!(beta.core.role(), RoleKind::Alone);
    assert_eq!(beta.core.status(1).generation, 4);
    let alpha = start("alpha", &both, &mut arbiter);
    assert!(matches!(alpha.exit(), Some(ExitReason::Stale(_))), "{:?}", alpha.core.role());
}

#[test]
fn a_host_that_died_before_it_heard_that_it_had_won_may_start() {
    let before = state(3, "alpha", &["alpha", "beta"], true);
    let mut arbiter = records(&state(4, "beta", &["beta"], true));
    let beta = start("beta", &before, &mut arbiter);
    assert_eq!(beta.core.role(), RoleKind::Alone);
    assert_eq!(beta.core.status(1).generation, 5);
    assert_eq!(arbiter.get("shop").map(|record| record.generation), Some(5));
}

#[test]
fn the_first_claim_survives_the_death_of_its_host_but_not_the_loss_of_its_disk() {
    let mut arbiter = Records::default();
    let mut alpha = Host::new("alpha", identity(), LocalState::default());
    alpha.settle(&mut arbiter);
    alpha.tick();
    let Some(Output::Persist { state, .. }) =
        alpha.out.iter().find(|out| matches!(out, Output::Persist { .. }))
    else {
        panic!("the claim is durable before it is made")
    };
    let durable = state.clone();
    let Some(Output::Ask { ask, .. }) = alpha.out.iter().find(|out| matches!(out, Output::Ask { .. })) else {
        panic!("a claim")
    };
    arbiter.answer(ask);

    let wiped = start("alpha", &LocalState::default(), &mut arbiter);
    assert!(matches!(wiped.exit(), Some(ExitReason::Stale(_))), "{:?}", wiped.core.role());
    let again = start("alpha", &durable, &mut arbiter);
    assert_eq!(again.core.role(), RoleKind::Alone);
    assert_eq!(again.core.status(1).generation, 2);
}

#[test]
fn an_arbiter_that_forgot_the_pair_does_not_make_an_old_disk_the_newest() {
    let alpha = start("alpha", &state(3, "alpha", &["alpha"], true), &mut Records::default());
    let Some(ExitReason::Stale(why)) = alpha.exit() else { panic!("{:?}", alpha.core.role()) };
    assert!(why.contains("has no record of this pair, but this host has seen generation 3"), "{why}");
}

// --- a slow disk stalls the guest ---

fn pressure(host: &mut Host, on: bool) -> Vec<bool> {
    host.out.clear();
    host.step(Input::Disk(DiskReport::Pressure(on)));
    host.stalls()
}

/// From alone to a pair that the record names.
fn protect(alpha: &mut Host, arbiter: &mut Records) {
    alpha.link_up("beta");
    alpha.receive(hello("beta", identity(), 0, Standing::Empty));
    alpha.step(Input::Disk(DiskReport::PassDone { left: 0 }));
    alpha.step(Input::Machine(Report::FillPages { pages: Vec::new(), next: None }));
    alpha.step(Input::Machine(Report::FillDirty { pages: Vec::new(), left: 0 }));
    alpha.step(Input::Machine(Report::FillFinished { pages: Vec::new(), state: vec![1] }));
    assert_eq!(alpha.core.role(), RoleKind::Primary);
    alpha.step(Input::Disk(DiskReport::PassDone { left: 0 }));
    alpha.receive(Message::Filled);
    alpha.settle(arbiter);
    assert!(alpha.core.status(alpha.now).protected);
}

#[test]
fn a_slow_disk_stalls_a_lone_guest_and_a_primary() {
    let mut arbiter = Records::default();
    let mut alpha = Host::new("alpha", identity(), LocalState::default());
    alpha.go_live(&mut arbiter);
    assert_eq!(pressure(&mut alpha, true), [true]);
    assert_eq!(pressure(&mut alpha, false), [false]);
    protect(&mut alpha, &mut arbiter);
    assert_eq!(pressure(&mut alpha, true), [true]);
    assert!(pressure(&mut alpha, true).is_empty(), "it is stalled already");
    assert_eq!(pressure(&mut alpha, false), [false]);
}

#[test]
fn a_guest_stays_stalled_through_a_fill_and_a_loss() {
    let mut arbiter = Records::default();
    let mut alpha = Host::new("alpha", identity(), LocalState::default());
    alpha.go_live(&mut arbiter);
    assert_eq!(pressure(&mut alpha, true), [true]);
    protect(&mut alpha, &mut arbiter);
    assert!(alpha.stalls().is_empty(), "nothing lets it go on");

    alpha.step(Input::LinkDown { session: LINK });
    alpha.settle(&mut arbiter);
    assert_eq!(alpha.core.role(), RoleKind::Alone);
    let live = alpha.out.iter().position(|out| *out == Output::Machine(Command::GoLive)).expect("live");
    assert_eq!(alpha.out.get(live + 1), Some(&Output::Machine(Command::Stall(true))), "still behind");
    assert_eq!(pressure(&mut alpha, false), [false]);
}
