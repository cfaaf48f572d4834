//! A drill told by hand, without a fault; and for every rule a change that must be found.

use std::collections::BTreeMap;

use super::{Evidence, Verdict, judge};
use crate::load::capture::{HostCapture, digest, frames};
use crate::load::event::DrillEvent;
use crate::load::message::{Reply, Request};
use crate::load::record::{Proto, Record};

const MAC: [u8; 6] = [2, 0x77, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0x77, 0, 0, 0, 2];
const MS: u64 = 1_000_000;
const WORKERS: u32 = 12;
/// Odd workers use TCP.
const TCP_WORKER: u32 = 1;

type Frames = BTreeMap<&'static str, Vec<(u64, Vec<u8>)>>;

/// Everything the judge gets, still open to changes. Times of its functions are in milliseconds.
struct Scene {
    records: Vec<Record>,
    left: Frames,
    delivered: Frames,
    events: Vec<DrillEvent>,
    asked: BTreeMap<u32, u64>,
}

impl Scene {
    fn proto(worker: u32) -> Proto {
        if worker % 2 == TCP_WORKER { Proto::Tcp } else { Proto::Udp }
    }

    fn wire(worker: u32) -> u8 {
        if Self::proto(worker) == Proto::Tcp { 6 } else { 17 }
    }

    fn send(&mut self, worker: u32, at: u64, attempt: u32, id: u64) {
        let (proto, client, counter) = (Self::proto(worker), worker + 1, worker * 2);
        self.records.push(Record::Send { at: at * MS, w: worker, proto, client, id, counter, attempt });
    }

    fn reply(&mut self, worker: u32, at: u64, id: u64, value: u64) {
        let (proto, client, counter) = (Self::proto(worker), worker + 1, worker * 2);
        let uptime = at * MS - MS / 2;
        let (w, boot, flags) = (worker, 0xb007, 0);
        let at = at * MS;
        self.records.push(Record::Reply { at, w, proto, client, id, counter, value, boot, uptime, flags });
    }

    fn deliver(&mut self, host: &'static str, worker: u32, at: u64, id: u64) {
        let payload = Request { client: worker + 1, id, counter: worker * 2 }.encode();
        let frame = frames::ip(CLIENT_MAC, Self::wire(worker), (9000, 7000), &payload);
        self.delivered.entry(host).or_default().push((at * MS, frame));
    }

    fn reply_frame(worker: u32, id: u64) -> Vec<u8> {
        let reply = Reply {
            client: worker + 1,
            id,
            counter: worker * 2,
            flags: 0,
            value: id,
            boot: 0xb007,
            uptime: 1,
        };
        frames::ip(MAC, Self::wire(worker), (7000, 9000), &reply.encode())
    }

    fn leave(&mut self, host: &'static str, at: u64, frame: Vec<u8>) {
        self.left.entry(host).or_default().push((at * MS, frame));
    }

    /// A whole request: sent, delivered at once, answered.
    fn ask(&mut self, host: &'static str, worker: u32, sent: u64, answered: u64) -> u64 {
        let id = self.asked.entry(worker).and_modify(|id| *id += 1).or_insert(1);
        let id = *id;
        self.send(worker, sent, 1, id);
        self.deliver(host, worker, sent, id);
        self.leave(host, answered, Self::reply_frame(worker, id));
        self.reply(worker, answered, id, id);
        id
    }

    /// A drill in which all is well: load, a hold, a slow link, a plug, protection again.
    fn good() -> Self {
        let mut scene = Self {
            records: Vec::new(),
            left: Frames::new(),
            delivered: Frames::new(),
            events: vec![
                protected(1, "alpha", "beta", 1),
                DrillEvent::Window { name: "before".into(), from: 0, to: 1000 * MS, min_per_s: 100.0 },
                DrillEvent::Hold { from: 2000 * MS, to: 2150 * MS },
                DrillEvent::Rtt { from: 3000 * MS, to: 3300 * MS, us: 80_000 },
                DrillEvent::Plug {
                    at: 4000 * MS,
                    host: "alpha".into(),
                    killed: 4001 * MS,
                    survivor: "beta".into(),
                },
                protected(6000, "beta", "gamma", 2),
            ],
            asked: BTreeMap::new(),
        };
        for worker in 0..WORKERS {
            let proto = Self::proto(worker);
            let counters = vec![worker * 2, worker * 2 + 1];
            scene.records.push(Record::Start { at: MS, w: worker, proto, client: worker + 1, counters });
            for round in 0..10 {
                scene.ask("alpha", worker, 10 + round * 10, 12 + round * 10);
            }
            scene.ask("alpha", worker, 2001, 2151);
            scene.ask("alpha", worker, 3001, 3081);
        }
        scene.around_the_plug();
        scene.records.push(Record::Down { at: 100 * MS, w: 20, bytes: 1000 });
        scene.records.push(Record::Down { at: 900 * MS, w: 20, bytes: 5000 });
        scene.records.push(Record::Stall { at: 4310 * MS, from: 3990 * MS, w: 20 });
        scene.records.push(Record::End { at: 9000 * MS, workers: WORKERS });
        scene
    }

    /// Alpha's plug at 4000: worker 0's reply had left and was lost, worker 1's request reached beta by TCP.
    fn around_the_plug(&mut self) {
        self.send(0, 3998, 1, 13);
        self.deliver("alpha", 0, 3998, 13);
        self.leave("alpha", 3999, Self::reply_frame(0, 13));
        self.leave("beta", 4250, frames::other(MAC, 0x8035, &[0; 46]));
        self.leave("beta", 4251, Self::reply_frame(0, 13));
        self.send(0, 4298, 2, 13);
        self.reply(0, 4300, 13, 13);
        self.asked.insert(0, 13);
        self.send(1, 3999, 1, 13);
        self.deliver("beta", 1, 4290, 13);
        self.leave("beta", 4294, Self::reply_frame(1, 13));
        self.reply(1, 4295, 13, 13);
        self.asked.insert(1, 13);
        for worker in 0..WORKERS {
            self.ask("beta", worker, 5000, 5002);
        }
    }

    fn verdict_of(&self, fresh_counters: bool) -> Verdict {
        let captures: Vec<HostCapture> = ["alpha", "beta", "gamma"]
            .into_iter()
            .map(|host| HostCapture {
                host: host.to_owned(),
                left: digest(self.left.get(host).into_iter().flatten().map(|(at, frame)| (*at, &frame[..]))),
                delivered: digest(
                    self.delivered.get(host).into_iter().flatten().map(|(at, frame)| (*at, &frame[..])),
                ),
            })
            .collect();
        judge(&Evidence {
            records: &self.records,
            captures: &captures,
            events: &self.events,
            guest_mac: MAC,
            fresh_counters,
        })
    }

    fn verdict(&self) -> Verdict {
        self.verdict_of(true)
    }

    /// The verdict, which must be bad, and for no other reason than `rule`.
    fn only(&self, rule: &str) -> Verdict {
        let verdict = self.verdict();
        assert!(!verdict.ok, "not found: {rule}");
        for sentence in &verdict.violations {
            assert!(sentence.starts_with(&format!("{rule}: ")), "`{sentence}` besides {rule}");
        }
        verdict
    }

    /// Changes the reply records of one request.
    fn edit_reply(&mut self, worker: u32, number: u64, edit: impl Fn(&mut Record)) {
        for record in &mut self.records {
            if matches!(record, Record::Reply { w, id, .. } if *w == worker && *id == number) {
                edit(record);
            }
        }
    }
}

fn protected(at: u64, primary: &str, secondary: &str, generation: u64) -> DrillEvent {
    DrillEvent::Protected { at: at * MS, primary: primary.into(), secondary: secondary.into(), generation }
}

#[test]
fn a_good_drill_passes_with_its_numbers() {
    let verdict = Scene::good().verdict();
    assert_eq!(verdict.violations, Vec::<String>::new());
    assert!(verdict.ok);
    assert_eq!((verdict.requests, verdict.resends, verdict.download_bytes), (158, 1, 5000));
    assert_eq!((verdict.repeated_frames, verdict.outstanding_at_plugs.as_slice()), (1, &[2_u64][..]));
    assert_eq!(verdict.held_requests, [12, 12]);
    let gap = &verdict.gaps[0];
    assert_eq!((gap.first_frame_ns, gap.first_reply_ns), (Some(250 * MS), Some(251 * MS)));
    assert_eq!((gap.longest_request_ns, gap.download_stall_ns), (302 * MS, 320 * MS));
    // The other TCP workers ask nothing between 3081 and 5000.
    assert_eq!(gap.tcp_stall_ns, (5002 - 3081) * MS);
    assert_eq!(gap.longer.len(), 2);
    let reasons: Vec<&str> = gap.longer.iter().filter_map(|long| long.explanation.as_deref()).collect();
    assert_eq!(
        reasons,
        [
            "its reply had left alpha and was lost on the way; the client sent it again after 300.0 ms and had the answer 2.0 ms later",
            "it was lost on the way to alpha; the client's TCP sent it again, and it reached beta 290.0 ms after the loss",
        ]
    );
    let rate = &verdict.rates[0];
    assert!((rate.replies_per_s - 120.0).abs() < 1e-6, "{rate:?}");
    assert!((rate.download_bytes_per_s - 4000.0).abs() < 1e-6, "{rate:?}");
    assert_eq!(rate.median_ns, 2 * MS);
}

#[test]
fn an_unanswered_request_is_lost() {
    let mut scene = Scene::good();
    scene.send(2, 5500, 1, 99);
    let verdict = scene.only("lost");
    assert_eq!(verdict.lost, 1);
}

#[test]
fn a_vanished_effect_is_lost() {
    let mut scene = Scene::good();
    scene.edit_reply(3, 13, |record| {
        if let Record::Reply { value, .. } = record {
            *value = 12;
        }
    });
    assert_eq!(scene.only("lost").lost, 1);
}

#[test]
fn a_counter_that_moved_twice_is_duplicated() {
    let mut scene = Scene::good();
    scene.edit_reply(3, 13, |record| {
        if let Record::Reply { value, .. } = record {
            *value = 14;
        }
    });
    assert_eq!(scene.only("duplicated").duplicated, 1);
}

#[test]
fn a_first_value_counts_only_on_fresh_counters() {
    let mut scene = Scene::good();
    for record in &mut scene.records {
        if let Record::Reply { w: 4, value, .. } = record {
            *value += 1;
        }
    }
    assert_eq!(scene.only("duplicated").duplicated, 1);
    assert!(scene.verdict_of(false).ok);
}

#[test]
fn one_request_with_two_results_is_duplicated() {
    let mut scene = Scene::good();
    scene.reply(0, 4310, 13, 14);
    assert_eq!(scene.only("duplicated").duplicated, 1);
    let mut scene = Scene::good();
    scene.reply(0, 4310, 13, 13);
    assert!(scene.verdict().ok, "a second reply with the same value is what a repeat looks like");
}

#[test]
fn the_reply_lost_with_the_request_may_have_counted() {
    for (value, lost, duplicated) in [(14, 1, 0), (15, 1, 0), (16, 1, 1), (13, 2, 0)] {
        let mut scene = Scene::good();
        scene.send(2, 5500, 1, 14);
        scene.send(2, 5600, 1, 15);
        scene.reply(2, 5602, 15, value);
        let verdict = scene.verdict();
        assert_eq!((verdict.lost, verdict.duplicated), (lost, duplicated), "value {value}");
    }
}

#[test]
fn a_dead_connection_is_broken() {
    let mut scene = Scene::good();
    scene.records.push(Record::Broken { at: 4300 * MS, w: 1, why: "reset".into() });
    assert_eq!(scene.only("broken").broken, 1);
}

#[test]
fn wrong_bytes_are_counted() {
    let mut scene = Scene::good();
    let (at, what) = (4300 * MS, "download content".to_owned());
    scene.records.push(Record::Wrong { at, w: 20, offset: 77, bytes: 3, what });
    assert_eq!(scene.only("wrong bytes").wrong_bytes, 3);
}

#[test]
fn replies_to_nothing_are_wrong() {
    let mut scene = Scene::good();
    scene.reply(0, 4310, 77, 1);
    assert_eq!(scene.only("wrong bytes").wrong_bytes, 64);
}

#[test]
fn a_reply_of_another_counter_is_wrong() {
    let mut scene = Scene::good();
    scene.reply(0, 4310, 13, 13);
    if let Some(Record::Reply { counter, .. }) = scene.records.last_mut() {
        *counter = 1;
    }
    assert_eq!(scene.only("wrong bytes").wrong_bytes, 64);
}

#[test]
fn another_boot_is_a_reboot() {
    let mut scene = Scene::good();
    scene.edit_reply(3, 13, |record| {
        if let Record::Reply { boot, .. } = record {
            *boot = 1;
        }
    });
    scene.only("reboot");
}

#[test]
fn a_clock_that_goes_back_is_found() {
    let mut scene = Scene::good();
    scene.edit_reply(3, 13, |record| {
        if let Record::Reply { uptime, .. } = record {
            *uptime = 4000 * MS;
        }
    });
    scene.only("uptime");
}

#[test]
fn a_clock_that_stands_still_is_found() {
    let mut scene = Scene::good();
    for record in &mut scene.records {
        if let Record::Reply { uptime, .. } = record {
            *uptime = 5;
        }
    }
    scene.only("uptime");
}

#[test]
fn a_repeat_without_takeover_is_found() {
    let mut scene = Scene::good();
    scene.leave("beta", 9500, Scene::reply_frame(3, 3));
    let verdict = scene.only("repeated");
    assert_eq!((verdict.repeated_frames, verdict.repeated_without_takeover), (2, 1));
}

#[test]
fn announcements_and_the_same_hosts_repeats_are_not_judged() {
    let mut scene = Scene::good();
    scene.leave("beta", 9500, frames::other(MAC, 0x8035, &[0; 46]));
    scene.leave("alpha", 500, frames::other(MAC, 0x0806, &[1; 46]));
    scene.leave("beta", 9600, frames::other(MAC, 0x0806, &[1; 46]));
    scene.leave("alpha", 501, Scene::reply_frame(3, 3));
    let verdict = scene.verdict();
    assert!(verdict.ok, "{:?}", verdict.violations);
    assert_eq!(verdict.repeated_frames, 1);
}

#[test]
fn a_secondary_that_speaks_is_found() {
    let mut scene = Scene::good();
    scene.leave("beta", 500, frames::other(MAC, 0x86dd, &[7; 46]));
    assert_eq!(scene.only("two voices").foreign_frames, 1);
}

#[test]
fn a_pulled_host_that_speaks_is_found() {
    let mut scene = Scene::good();
    scene.leave("alpha", 4500, frames::other(MAC, 0x86dd, &[7; 46]));
    assert_eq!(scene.only("two voices").foreign_frames, 1);
}

#[test]
fn an_early_reply_in_a_hold_is_found_in_the_capture() {
    let mut scene = Scene::good();
    // Only the frame is early: the client saw it late.
    scene.leave("alpha", 2149, Scene::reply_frame(2, 11));
    assert_eq!(scene.only("released early").released_early, 1);
}

#[test]
fn an_early_reply_in_a_hold_is_found_in_the_records() {
    let mut scene = Scene::good();
    scene.reply(2, 2100, 11, 11);
    assert_eq!(scene.only("released early").released_early, 1);
}

#[test]
fn an_early_reply_on_a_slow_link_is_found() {
    let mut scene = Scene::good();
    scene.leave("alpha", 3080, Scene::reply_frame(3, 12));
    assert_eq!(scene.only("released early").released_early, 1);
    let mut scene = Scene::good();
    scene.reply(3, 3080, 12, 12);
    assert_eq!(scene.only("released early").released_early, 1);
}

#[test]
fn a_hold_without_requests_proves_nothing() {
    let mut scene = Scene::good();
    scene.events.push(DrillEvent::Hold { from: 2001 * MS, to: 2001 * MS });
    scene.only("hold");
}

#[test]
fn a_hold_without_a_capture_proves_nothing() {
    let mut scene = Scene::good();
    scene.events.retain(|event| matches!(event, DrillEvent::Hold { .. } | DrillEvent::Window { .. }));
    let verdict = scene.verdict();
    assert!(
        verdict.violations.iter().any(|sentence| sentence.starts_with("hold: ")),
        "{:?}",
        verdict.violations
    );
}

#[test]
fn an_idle_plug_proves_nothing() {
    let mut scene = Scene::good();
    scene.events.push(DrillEvent::Crash { at: 4_500 * MS, host: "alpha".into(), survivor: "beta".into() });
    if let Some(DrillEvent::Protected { generation, .. }) =
        scene.events.iter_mut().find(|event| event.begin() == 6000 * MS)
    {
        *generation = 3;
    }
    let verdict = scene.only("idle");
    assert_eq!(verdict.outstanding_at_plugs, [2, 0]);
}

#[test]
fn a_silent_survivor_is_found() {
    let mut scene = Scene::good();
    scene.send(2, 7990, 1, 14);
    scene.reply(2, 8010, 14, 14);
    scene.events.push(DrillEvent::Crash { at: 8000 * MS, host: "beta".into(), survivor: "gamma".into() });
    scene.only("silence");
}

#[test]
fn a_slow_window_is_found() {
    let mut scene = Scene::good();
    scene.events.push(DrillEvent::Window {
        name: "late".into(),
        from: 4000 * MS,
        to: 5000 * MS,
        min_per_s: 3.0,
    });
    let verdict = scene.only("rate");
    assert!((verdict.rates[1].replies_per_s - 2.0).abs() < 1e-6);
}

#[test]
fn a_generation_that_stood_still_or_jumped_is_found() {
    for wrong in [1, 3] {
        let mut scene = Scene::good();
        scene.events.retain(|event| event.begin() != 6000 * MS);
        scene.events.push(protected(6000, "beta", "gamma", wrong));
        scene.only("generation");
    }
}

#[test]
fn records_without_an_end_are_not_enough() {
    let mut scene = Scene::good();
    scene.records.retain(|record| !matches!(record, Record::End { .. }));
    scene.only("records");
}

#[test]
fn a_shared_counter_proves_nothing() {
    let mut scene = Scene::good();
    for record in &mut scene.records {
        if let Record::Start { w: 3, counters, .. } = record {
            counters.push(0);
        }
    }
    scene.only("records");
}

#[test]
fn a_worker_without_an_answer_proves_nothing() {
    let mut scene = Scene::good();
    scene.records.push(Record::Start { at: MS, w: 40, proto: Proto::Udp, client: 41, counters: vec![80] });
    scene.records.push(Record::Start { at: MS, w: 41, proto: Proto::Download, client: 0, counters: vec![] });
    assert_eq!(scene.only("idle").violations.len(), 2);
}

#[test]
fn empty_captures_are_not_trusted() {
    let mut scene = Scene::good();
    scene.left.clear();
    let verdict = scene.verdict();
    assert!(
        verdict.violations.iter().any(|sentence| sentence.starts_with("captures: ")),
        "{:?}",
        verdict.violations
    );
}

#[test]
fn sentences_are_bounded() {
    let mut scene = Scene::good();
    for id in 100..200 {
        scene.send(2, 5500, 1, id);
    }
    let verdict = scene.only("lost");
    assert_eq!(verdict.lost, 100);
    assert_eq!(verdict.violations.len(), 6);
    assert!(verdict.violations[5].ends_with("and 95 more"));
}
