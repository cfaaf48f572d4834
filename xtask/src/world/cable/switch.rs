//! The cable's decisions: a learning switch per segment, a seeded schedule, holds and cuts.
//!
//! Pure: time comes in as a number and frames go out through a closure, so the whole schedule is tested without a network.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::proto::{Segment, SegmentStats};

/// A port of the cable, numbered in the order of creation.
pub type PortId = u32;

/// Most bytes that wait on one segment; a real cable loses what does not fit.
const QUEUE_LIMIT: usize = 64 << 20;
/// Most addresses remembered per segment; beyond, frames are flooded.
const TABLE_LIMIT: usize = 4096;

type Mac = [u8; 6];

#[derive(Debug)]
struct Port {
    host: String,
    segment: Segment,
    cut: bool,
}

#[derive(Debug)]
struct Waiting {
    from: PortId,
    to: PortId,
    frame: Rc<[u8]>,
}

#[derive(Debug, Default)]
struct Line {
    delay_ns: u64,
    jitter_ns: u64,
    held: bool,
    /// Frames whose due time passed while the line was held are late on purpose.
    held_until: u64,
    table: BTreeMap<Mac, PortId>,
    /// Ordered by due time, then by arrival.
    queue: BTreeMap<(u64, u64), Waiting>,
    queued_bytes: usize,
    /// The last due time per pair of ports: a frame never overtakes an earlier one of its pair.
    last_due: BTreeMap<(PortId, PortId), u64>,
    stats: SegmentStats,
}

/// All ports and the three segments.
#[derive(Debug)]
pub struct Switch {
    ports: BTreeMap<PortId, Port>,
    lines: [Line; 3],
    random: ChaCha8Rng,
    sequence: u64,
}

fn index(segment: Segment) -> usize {
    match segment {
        Segment::Link => 0,
        Segment::Mgmt => 1,
        Segment::Lan => 2,
    }
}

impl Switch {
    /// A cable without ports; all jitter comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            ports: BTreeMap::new(),
            lines: Default::default(),
            random: ChaCha8Rng::seed_from_u64(seed),
            sequence: 0,
        }
    }

    /// Joins a port to a segment.
    pub fn add(&mut self, id: PortId, host: &str, segment: Segment) {
        self.ports.insert(id, Port { host: host.to_owned(), segment, cut: false });
    }

    /// The ports of a host, cut ones included.
    pub fn ports_of(&self, host: &str) -> Vec<PortId> {
        self.ports.iter().filter(|(_, port)| port.host == host).map(|(id, _)| *id).collect()
    }

    /// Is this port still connected?
    pub fn connected(&self, id: PortId) -> bool {
        self.ports.get(&id).is_some_and(|port| !port.cut)
    }

    /// Cuts these ports: nothing enters or leaves any more, what waits from or to them is lost.
    pub fn cut(&mut self, ids: &[PortId]) {
        for id in ids {
            if let Some(port) = self.ports.get_mut(id) {
                port.cut = true;
            }
        }
        for line in &mut self.lines {
            line.table.retain(|_, port| !ids.contains(port));
            line.last_due.retain(|(from, to), _| !ids.contains(from) && !ids.contains(to));
            let before = line.queue.len();
            line.queue.retain(|_, waiting| {
                let lost = ids.contains(&waiting.from) || ids.contains(&waiting.to);
                if lost {
                    line.queued_bytes -= waiting.frame.len();
                }
                !lost
            });
            line.stats.cut += (before - line.queue.len()) as u64;
        }
    }

    /// Forgets ports that were closed.
    pub fn remove(&mut self, ids: &[PortId]) {
        self.cut(ids);
        self.ports.retain(|id, _| !ids.contains(id));
    }

    /// Begins or ends a hold. After the end, call [`Switch::deliver_due`].
    pub fn hold(&mut self, segment: Segment, on: bool, now: u64) {
        let line = &mut self.lines[index(segment)];
        if line.held && !on {
            line.held_until = now;
        }
        line.held = on;
    }

    /// Sets the delay of frames that arrive from now on, in ns.
    pub fn delay(&mut self, segment: Segment, delay_ns: u64, jitter_ns: u64) {
        let line = &mut self.lines[index(segment)];
        line.delay_ns = delay_ns;
        line.jitter_ns = jitter_ns;
    }

    /// A frame has left the host at port `from`. What needs no waiting goes to `deliver` at once.
    pub fn arrive(&mut self, now: u64, from: PortId, frame: &[u8], mut deliver: impl FnMut(PortId, &[u8])) {
        let Some(port) = self.ports.get(&from) else { return };
        let (Some(destination), Some(source)) = (mac_at(frame, 0), mac_at(frame, 6)) else { return };
        let segment = port.segment;
        if port.cut {
            self.lines[index(segment)].stats.cut += 1;
            return;
        }
        let targets = self.targets(segment, from, destination);
        let line = &mut self.lines[index(segment)];
        if source[0] & 1 == 0 && (line.table.len() < TABLE_LIMIT || line.table.contains_key(&source)) {
            line.table.insert(source, from);
        }
        if !line.held && line.queue.is_empty() && line.delay_ns == 0 && line.jitter_ns == 0 {
            for to in targets {
                deliver(to, frame);
            }
            return;
        }
        let shared: Rc<[u8]> = Rc::from(frame);
        for to in targets {
            let jitter = if line.jitter_ns == 0 { 0 } else { self.random.random_range(0..=line.jitter_ns) };
            self.sequence += 1;
            line.enqueue(now, jitter, self.sequence, Waiting { from, to, frame: Rc::clone(&shared) });
        }
    }

    fn targets(&self, segment: Segment, from: PortId, destination: Mac) -> VecDeque<PortId> {
        let known = self.lines[index(segment)].table.get(&destination).copied();
        match known {
            // The destination is on the side where the frame came from.
            Some(to) if to == from => VecDeque::new(),
            Some(to) => VecDeque::from([to]),
            None => self
                .ports
                .iter()
                .filter(|(id, port)| **id != from && port.segment == segment && !port.cut)
                .map(|(id, _)| *id)
                .collect(),
        }
    }

    /// Delivers everything whose time has come, in order.
    pub fn deliver_due(&mut self, now: u64, mut deliver: impl FnMut(PortId, &[u8])) {
        for line in &mut self.lines {
            if line.held {
                continue;
            }
            while let Some(entry) = line.queue.first_entry() {
                let due = entry.key().0;
                if due > now {
                    break;
                }
                let waiting = entry.remove();
                line.queued_bytes -= waiting.frame.len();
                line.stats.delayed += 1;
                let late = now - due.max(line.held_until).min(now);
                line.stats.latest_ns = line.stats.latest_ns.max(late);
                line.stats.late_sum_ns += late;
                deliver(waiting.to, &waiting.frame);
            }
        }
    }

    /// When the next frame is due, if any line that is not held has one.
    pub fn next_due(&self) -> Option<u64> {
        let lines = self.lines.iter().filter(|line| !line.held);
        lines.filter_map(|line| line.queue.first_key_value()).map(|((due, _), _)| *due).min()
    }

    /// Counters per segment.
    pub fn stats(&self) -> Vec<SegmentStats> {
        self.lines
            .iter()
            .map(|line| SegmentStats { queued: line.queue.len() as u64, ..line.stats.clone() })
            .collect()
    }
}

impl Line {
    fn enqueue(&mut self, now: u64, jitter: u64, sequence: u64, waiting: Waiting) {
        if self.queued_bytes + waiting.frame.len() > QUEUE_LIMIT {
            self.stats.overflow += 1;
            return;
        }
        let last = self.last_due.entry((waiting.from, waiting.to)).or_default();
        *last = (*last).max(now.saturating_add(self.delay_ns).saturating_add(jitter));
        self.queued_bytes += waiting.frame.len();
        self.queue.insert((*last, sequence), waiting);
    }
}

fn mac_at(frame: &[u8], offset: usize) -> Option<Mac> {
    // A frame shorter than its header is no frame.
    if frame.len() < 14 {
        return None;
    }
    frame.get(offset..offset + 6)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8, mark: u8) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5, mark];
        if to == 0xff {
            frame[..6].fill(0xff);
        }
        frame
    }

    fn three_ports() -> Switch {
        let mut switch = Switch::new(7);
        for (id, host) in [(1, "alpha"), (2, "beta"), (3, "gamma")] {
            switch.add(id, host, Segment::Link);
        }
        switch.add(4, "client", Segment::Lan);
        switch
    }

    fn arrive(switch: &mut Switch, now: u64, from: PortId, frame: &[u8]) -> Vec<(PortId, u8)> {
        let mut got = Vec::new();
        switch.arrive(now, from, frame, |to, frame| got.push((to, frame[14])));
        got
    }

    fn due(switch: &mut Switch, now: u64) -> Vec<(PortId, u8)> {
        let mut got = Vec::new();
        switch.deliver_due(now, |to, frame| got.push((to, frame[14])));
        got
    }

    #[test]
    fn learns_floods_and_follows_an_address_that_moves() {
        let mut switch = three_ports();
        assert_eq!(arrive(&mut switch, 0, 1, &frame(2, 1, 10)), [(2, 10), (3, 10)], "unknown: flooded");
        assert_eq!(arrive(&mut switch, 0, 2, &frame(1, 2, 11)), [(1, 11)], "learnt");
        assert_eq!(arrive(&mut switch, 0, 3, &frame(2, 1, 12)), [(2, 12)], "address 1 has moved to port 3");
        assert_eq!(arrive(&mut switch, 0, 2, &frame(1, 2, 13)), [(3, 13)]);
        assert_eq!(arrive(&mut switch, 0, 3, &frame(1, 9, 14)), [], "already on its side");
        assert_eq!(arrive(&mut switch, 0, 2, &frame(0xff, 2, 15)), [(1, 15), (3, 15)], "broadcast");
        assert_eq!(arrive(&mut switch, 0, 1, &[0; 13]), [], "too short");
    }

    #[test]
    fn delay_with_jitter_keeps_the_order_of_a_pair() {
        let mut switch = three_ports();
        arrive(&mut switch, 0, 2, &frame(1, 2, 0));
        switch.delay(Segment::Link, 1_000, 5_000);
        for mark in 0..50 {
            assert_eq!(arrive(&mut switch, u64::from(mark) * 10, 1, &frame(2, 1, mark)), []);
        }
        assert_eq!(due(&mut switch, 999), []);
        let mut got = Vec::new();
        while let Some(next) = switch.next_due() {
            got.extend(due(&mut switch, next));
        }
        assert_eq!(got, (0..50).map(|mark| (2, mark)).collect::<Vec<_>>());
        assert_eq!(switch.stats()[0].delayed, 50);
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        let times = |seed| {
            let mut switch = Switch::new(seed);
            switch.add(1, "alpha", Segment::Link);
            switch.add(2, "beta", Segment::Link);
            switch.delay(Segment::Link, 100, 1_000_000);
            let mut times = Vec::new();
            for mark in 0..8 {
                arrive(&mut switch, 0, 1, &frame(2, 1, mark));
                times.push(switch.next_due());
                let _ = due(&mut switch, 1 << 40);
            }
            times
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }

    #[test]
    fn a_hold_keeps_frames_and_gives_them_back_in_order() {
        let mut switch = three_ports();
        arrive(&mut switch, 0, 2, &frame(1, 2, 0));
        switch.hold(Segment::Link, true, 0);
        for mark in 1..5 {
            assert_eq!(arrive(&mut switch, u64::from(mark), 1, &frame(2, 1, mark)), []);
        }
        assert_eq!(due(&mut switch, 1_000_000), []);
        assert_eq!(switch.next_due(), None, "a held line wakes nobody");
        switch.hold(Segment::Link, false, 1_000_000);
        assert_eq!(due(&mut switch, 1_000_000), [(2, 1), (2, 2), (2, 3), (2, 4)]);
        assert_eq!(switch.stats()[0].latest_ns, 0, "a hold is not lateness");
        assert_eq!(arrive(&mut switch, 0, 1, &frame(2, 1, 5)), [(2, 5)], "direct again");
    }

    #[test]
    fn a_cut_loses_what_is_queued_in_both_directions_and_nothing_else() {
        let mut switch = three_ports();
        switch.delay(Segment::Link, 100, 0);
        arrive(&mut switch, 0, 1, &frame(0xff, 1, 1));
        arrive(&mut switch, 0, 2, &frame(0xff, 2, 2));
        let alpha = switch.ports_of("alpha");
        switch.cut(&alpha);
        assert!(!switch.connected(1) && switch.connected(2));
        assert_eq!(due(&mut switch, 100), [(3, 2)]);
        assert_eq!(arrive(&mut switch, 200, 1, &frame(0xff, 1, 3)), []);
        assert_eq!(arrive(&mut switch, 200, 2, &frame(1, 2, 4)), []);
        assert_eq!(
            due(&mut switch, 300),
            [(3, 4)],
            "the address of alpha is forgotten, its port is not flooded"
        );
        assert_eq!(switch.stats()[0].cut, 4);
        assert_eq!(switch.stats()[0].queued, 0);
    }

    #[test]
    fn a_full_queue_loses_frames_and_counts_them() {
        let mut switch = three_ports();
        arrive(&mut switch, 0, 2, &frame(1, 2, 0));
        switch.hold(Segment::Link, true, 0);
        let mut big = frame(2, 1, 1);
        big.resize(1 << 20, 0);
        for _ in 0..65 {
            arrive(&mut switch, 0, 1, &big);
        }
        assert_eq!((switch.stats()[0].queued, switch.stats()[0].overflow), (64, 1));
    }
}
