//! Two slots and every order in which what they send may arrive.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::preface::{Preface, Purpose};
use super::{Offer, Slot, Stage};

/// What is under way to a host.
#[derive(Debug)]
enum Packet {
    Log {
        token: u128,
        ended: u128,
    },
    Heartbeat {
        token: u128,
    },
    /// Answer to either of them.
    Yes {
        token: u128,
        complete: bool,
    },
    No {
        token: u128,
    },
    /// The other side closed the session.
    Closed {
        token: u128,
    },
}

#[derive(Default)]
struct World {
    slots: Vec<Slot<()>>,
    /// What is under way to host 0 and to host 1.
    flight: [Vec<Packet>; 2],
    /// Whether a host is in the middle of dialing: it makes one attempt at a time.
    busy: [bool; 2],
    tokens: u128,
    /// Live sessions that were replaced by another.
    replaced: usize,
}

impl World {
    fn new() -> Self {
        Self { slots: vec![Slot::new(true), Slot::new(false)], ..Self::default() }
    }

    fn dial(&mut self, host: usize) {
        self.tokens += 1;
        let token = self.tokens;
        if !self.busy[host] && self.slots[host].offer(token) {
            self.busy[host] = true;
            let ended = self.slots[host].ended();
            self.flight[1 - host].push(Packet::Log { token, ended });
        }
    }

    /// One of the packets under way to `host` arrives.
    fn deliver(&mut self, host: usize, which: usize) {
        let count = self.flight[host].len();
        if count == 0 {
            return;
        }
        let packet = self.flight[host].remove(which % count);
        let answer = match packet {
            Packet::Log { token, ended } => self.offered(host, token, ended),
            Packet::Heartbeat { token } => {
                let known = self.slots[host].heartbeat(token).is_some();
                if known && self.slots[host].go_live(token, 1, 1) {
                    Packet::Yes { token, complete: true }
                } else {
                    Packet::No { token }
                }
            }
            Packet::Yes { token, complete: false } => Packet::Heartbeat { token },
            Packet::Yes { token, complete: true } => {
                self.busy[host] = false;
                if self.slots[host].go_live(token, 1, 1) {
                    return;
                }
                Packet::Closed { token }
            }
            Packet::No { token } => {
                self.busy[host] = false;
                self.slots[host].end(token);
                // The attempt's log connection is closed with it.
                Packet::Closed { token }
            }
            Packet::Closed { token } => return self.slots[host].end(token),
        };
        self.flight[1 - host].push(answer);
    }

    fn offered(&mut self, host: usize, token: u128, ended: u128) -> Packet {
        let old = self.live(host);
        let (pair, name) = (String::new(), String::new());
        let preface = Preface { purpose: Purpose::Log, pair, host: name, instance: 1, token, ended };
        match self.slots[host].offered(&preface, ()) {
            Offer::Later => Packet::No { token },
            Offer::Take { .. } => {
                if let Some(token) = old {
                    self.replaced += 1;
                    self.flight[1 - host].push(Packet::Closed { token });
                }
                Packet::Yes { token, complete: false }
            }
        }
    }

    fn live(&self, host: usize) -> Option<u128> {
        match self.slots[host].stage {
            Stage::Live { token, .. } => Some(token),
            _ => None,
        }
    }

    /// The host finds its session broken, or closes it.
    fn lose(&mut self, host: usize) {
        if let Some(token) = self.live(host) {
            self.slots[host].end(token);
            self.flight[1 - host].push(Packet::Closed { token });
        }
    }

    fn step(&mut self, step: usize) {
        match step % 5 {
            0 | 1 => self.dial(step % 5),
            _ => self.deliver(step / 5 % 2, step / 10),
        }
    }

    /// Everything arrives, and both go on dialing.
    fn settle(&mut self) {
        for _ in 0..100 {
            for host in [0, 1] {
                while !self.flight[host].is_empty() {
                    self.deliver(host, 0);
                }
            }
            self.dial(1);
            self.dial(0);
        }
    }
}

proptest! {
    #[test]
    fn crossing_attempts_end_with_one_session_that_is_never_replaced(steps in vec(any::<usize>(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
        prop_assert!(world.live(0).is_some());
        prop_assert_eq!(world.live(0), world.live(1));
        prop_assert_eq!(world.replaced, 0);
    }

    #[test]
    fn lost_sessions_come_back(steps in vec((any::<usize>(), 0u8..8), 0..120)) {
        let mut world = World::new();
        for (step, what) in steps {
            match what {
                host @ (0 | 1) => world.lose(host.into()),
                _ => world.step(step),
            }
        }
        world.settle();
        prop_assert!(world.live(0).is_some());
        prop_assert_eq!(world.live(0), world.live(1));
    }
}
