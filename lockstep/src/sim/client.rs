//! The client outside: makes requests, repeats them, and keeps its own record of what it was told.

use std::collections::BTreeMap;

use super::guest::Request;
use super::world::{Event, HOSTS, MS, US, World};
use crate::Ns;
use crate::core::Input;

const CLIENT: u32 = 7;
const COUNTERS: u64 = 4;
const OUTSTANDING_MAX: usize = 4;
const RETRY: Ns = 120 * MS;
const RETRY_MAX: Ns = 1_000 * MS;

struct Open {
    sent: Ns,
    retry_at: Ns,
    pause: Ns,
}

struct Replied {
    value: u64,
    sent: Ns,
    at: Ns,
}

/// The client and the switch in front of the hosts.
#[derive(Default)]
pub(crate) struct Client {
    next_id: u64,
    open: BTreeMap<Request, Open>,
    replied: BTreeMap<Request, Replied>,
    /// The port that the guest's address was last seen at.
    port: Option<usize>,
    /// Per mille of frames that are lost.
    pub(crate) loss: u64,
    /// No new requests from here on.
    pub(crate) quiet: bool,
    /// Most requests.
    pub(crate) limit: u64,
}

impl Client {
    /// Requests that are not answered.
    pub(crate) fn outstanding(&self) -> usize {
        self.open.len()
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.replied.len() as u64
    }

    /// Every answer, with its value.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (Request, u64)> + '_ {
        self.replied.iter().map(|(request, replied)| (*request, replied.value))
    }
}

impl World {
    pub(crate) fn client_tick(&mut self) {
        let now = self.now;
        if !self.client.quiet
            && self.client.open.len() < OUTSTANDING_MAX
            && self.client.next_id < self.client.limit
        {
            self.client.next_id += 1;
            let counter = self.dice.client.range(0, COUNTERS - 1) as u32;
            let request = Request { client: CLIENT, counter, id: self.client.next_id };
            self.client.open.insert(request, Open { sent: now, retry_at: now, pause: RETRY });
        }
        if self.plan.off_at.is_some() {
            self.send_to_guest(b"OFF!");
        }
        let due: Vec<_> = self.client.open.iter_mut().filter(|(_, open)| open.retry_at <= now).collect();
        let mut frames = Vec::new();
        for (request, open) in due {
            open.retry_at = now + open.pause;
            open.pause = (open.pause * 2).min(RETRY_MAX);
            frames.push(request.frame());
        }
        for frame in frames {
            self.send_to_guest(&frame);
        }
        let pause = self.dice.client.range(10 * MS, 60 * MS);
        self.schedule(now + pause, Event::Client);
    }

    /// Sends a frame to the guest's address: to the port where it was seen, or everywhere.
    pub(crate) fn send_to_guest(&mut self, frame: &[u8]) {
        for host in 0..HOSTS {
            let there = self.client.port.is_none_or(|port| port == host);
            if (there || self.dice.client.chance(50)) && !self.dice.client.chance(self.client.loss) {
                let at = self.now + self.dice.client.range(50 * US, 500 * US);
                let life = self.hosts[host].life;
                let input = Input::FrameIn { nic: 0, frame: frame.to_vec() };
                self.schedule(at, Event::Core { host, life, input });
            }
        }
    }

    /// A frame leaves a host.
    pub(crate) fn send_to_client(&mut self, host: usize, frame: Vec<u8>) {
        self.client.port = Some(host);
        if !self.dice.client.chance(self.client.loss) {
            let at = self.now + self.dice.client.range(50 * US, 500 * US);
            self.schedule(at, Event::Reply { frame });
        }
    }

    /// A host says that the guest is with it.
    pub(crate) fn announced(&mut self, host: usize) {
        self.client.port = Some(host);
    }

    pub(crate) fn reply(&mut self, frame: &[u8]) {
        let Some((request, value)) = Request::reply(frame) else { return };
        self.trace(|_| format!("client: {request:?} = {value}"));
        if let Some(replied) = self.client.replied.get(&request) {
            if replied.value != value {
                let text = format!("{request:?} was answered {} and then {value}", replied.value);
                self.violate("client", text);
            }
            return;
        }
        let Some(open) = self.client.open.remove(&request) else {
            return self.violate("client", format!("an answer to {request:?}, which was never made"));
        };
        let wrong = self.client.replied.iter().find(|(other, replied)| {
            other.counter == request.counter
                && (replied.value == value
                    // Whoever asked after another's answer must see its effect.
                    || (replied.at < open.sent && replied.value > value)
                    || (self.now < replied.sent && replied.value < value))
        });
        if let Some((other, replied)) = wrong {
            let text = format!("{request:?} = {value} contradicts {other:?} = {}", replied.value);
            self.violate("client", text);
        }
        self.client.replied.insert(request, Replied { value, sent: open.sent, at: self.now });
    }

    /// When all is answered: each counter was moved once by each request.
    pub(crate) fn check_counters(&mut self) {
        let mut values: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (request, value) in self.client.answers() {
            values.entry(request.counter).or_default().push(value);
        }
        for (counter, mut values) in values {
            values.sort_unstable();
            if !values.iter().copied().eq(1..=values.len() as u64) {
                self.violate("client", format!("counter {counter} went through {values:?}"));
            }
        }
    }
}
