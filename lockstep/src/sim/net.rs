//! Links between hosts: sessions of ordered byte streams that can be delayed, held, cut and reset.

use std::collections::VecDeque;

use super::world::{Event, HOSTS, MS, US, World};
use crate::Ns;
use crate::codec;
use crate::core::{Input, Session};
use crate::message::Message;
use crate::wire::{FrameDecoder, FrameEncoder, FrameKind};

/// Time between two heartbeats.
const BEAT: Ns = 50 * MS;
/// Time between two attempts to reach a peer.
const REDIAL: Ns = 200 * MS;

enum Item {
    Bytes(Vec<u8>),
    /// Closed in order, or reset.
    End,
}

/// One side of a session.
pub(crate) struct End {
    pub(crate) host: usize,
    pub(crate) life: u32,
    /// The host's core knows of it and has not closed it.
    pub(crate) open: bool,
    incoming: VecDeque<(Ns, Item)>,
    /// No later item may arrive before this.
    ready: Ns,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
}

impl End {
    fn new(host: usize, life: u32) -> Self {
        End {
            host,
            life,
            open: true,
            incoming: VecDeque::new(),
            ready: 0,
            encoder: FrameEncoder::default(),
            decoder: FrameDecoder::default(),
        }
    }
}

/// The network's state.
#[derive(Default)]
pub(crate) struct Net {
    /// Index is the session's number less one.
    pub(crate) sessions: Vec<[End; 2]>,
    /// How many faults block this direction now.
    pub(crate) blocked: [[u32; HOSTS]; HOSTS],
    /// Most one-way delay in this run.
    pub(crate) delay: Ns,
}

impl World {
    fn link_delay(&mut self) -> Ns {
        let most = self.net.delay;
        // Mostly short, sometimes long.
        if self.dice.net.chance(950) {
            50 * US + self.dice.net.range(0, most / 4)
        } else {
            50 * US + self.dice.net.range(0, most)
        }
    }

    fn side_of(&self, session: Session, host: usize) -> Option<usize> {
        let ends = self.net.sessions.get(usize::try_from(session).ok()?.checked_sub(1)?)?;
        ends.iter().position(|end| end.host == host)
    }

    fn side(&mut self, session: Session, side: usize) -> &mut End {
        &mut self.net.sessions[session as usize - 1][side]
    }

    fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.net.blocked[from][to] > 0
    }

    /// The peer of a host's session, as long as it listens.
    pub(crate) fn peer_of(&self, session: Session, host: usize) -> Option<(usize, u32)> {
        let side = self.side_of(session, host)?;
        let end = &self.net.sessions[session as usize - 1][1 - side];
        end.open.then_some((end.host, end.life))
    }

    /// A host's core sends.
    pub(crate) fn send(&mut self, host: usize, session: Session, message: &Message) {
        let Some(side) = self.side_of(session, host) else { return };
        let payload = codec::encode(message);
        let mut bytes = Vec::new();
        let end = self.side(session, side);
        if !end.open {
            return;
        }
        if let Err(error) = end.encoder.encode(FrameKind::Message, &payload, &mut bytes) {
            self.violate("failed", format!("a message is too long: {error}"));
            return;
        }
        self.note(&payload);
        self.push(session, 1 - side, Item::Bytes(bytes));
    }

    fn push(&mut self, session: Session, to: usize, item: Item) {
        let at = self.now + self.link_delay();
        let end = self.side(session, to);
        let at = at.max(end.ready);
        end.ready = at;
        end.incoming.push_back((at, item));
        self.schedule(at, Event::Pump { session, side: to });
    }

    /// Delivers what has arrived at this side, unless the way is blocked.
    pub(crate) fn pump(&mut self, session: Session, side: usize) {
        loop {
            let now = self.now;
            let from = self.side(session, 1 - side).host;
            let end = self.side(session, side);
            let (host, life, open) = (end.host, end.life, end.open);
            if !open || !self.is_alive(host, life) {
                self.side(session, side).incoming.clear();
                return;
            }
            if self.is_blocked(from, host) {
                return;
            }
            let end = self.side(session, side);
            if end.incoming.front().is_none_or(|(ready, _)| *ready > now) {
                return;
            }
            match end.incoming.pop_front() {
                Some((_, Item::Bytes(bytes))) => self.receive(session, side, &bytes),
                _ => {
                    end.open = false;
                    self.step(host, Input::LinkDown { session });
                    return;
                }
            }
        }
    }

    fn receive(&mut self, session: Session, side: usize, bytes: &[u8]) {
        let host = self.side(session, side).host;
        // A stream has no message borders.
        let cut = self.dice.net.index(bytes.len());
        for part in [&bytes[..cut], &bytes[cut..]] {
            let end = self.side(session, side);
            end.decoder.push(part);
            let message = match end.decoder.next_frame() {
                Ok(None) => continue,
                Ok(Some(frame)) => codec::decode::<Message>(frame.payload).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match message {
                Ok(message) => self.step(host, Input::Message { session, message }),
                Err(why) => self.violate("failed", format!("a message cannot be read: {why}")),
            }
        }
    }

    /// A host's core closes.
    pub(crate) fn close(&mut self, host: usize, session: Session) {
        if let Some(side) = self.side_of(session, host)
            && std::mem::take(&mut self.side(session, side).open)
        {
            self.push(session, 1 - side, Item::End);
        }
    }

    /// The connection is reset; both sides learn it, what was under way is lost.
    pub(crate) fn reset(&mut self, session: Session) {
        for side in 0..2 {
            self.lose_tail(session, side);
            self.push(session, side, Item::End);
        }
    }

    /// What is under way to this side ends anywhere.
    fn lose_tail(&mut self, session: Session, to: usize) {
        let count = self.side(session, to).incoming.len();
        let keep = self.dice.net.index(count + 1);
        self.side(session, to).incoming.truncate(keep);
    }

    /// A host's process ended. The kernel tells the peers, unless it is gone too.
    pub(crate) fn host_gone(&mut self, host: usize, kernel_tells: bool, loses_tail: bool) {
        for session in 1..=self.net.sessions.len() as Session {
            let Some(side) = self.side_of(session, host) else { continue };
            if !std::mem::take(&mut self.side(session, side).open) {
                continue;
            }
            if loses_tail {
                self.lose_tail(session, 1 - side);
            }
            if kernel_tells {
                self.push(session, 1 - side, Item::End);
            }
        }
    }

    /// Open sessions.
    pub(crate) fn open_sessions(&self) -> Vec<Session> {
        let open = |ends: &[End; 2]| ends.iter().any(|end| end.open);
        let sessions = self.net.sessions.iter().enumerate().filter(|(_, ends)| open(ends));
        sessions.map(|(index, _)| index as Session + 1).collect()
    }

    /// A blocked direction is free again, perhaps.
    pub(crate) fn unblocked(&mut self) {
        for session in self.open_sessions() {
            for side in 0..2 {
                self.schedule(self.now, Event::Pump { session, side });
            }
        }
    }

    pub(crate) fn beat(&mut self, session: Session, side: usize) {
        let end = self.side(session, side);
        let (host, life, open) = (end.host, end.life, end.open);
        if !open || !self.is_alive(host, life) {
            return;
        }
        let to = self.side(session, 1 - side).host;
        if !self.is_blocked(host, to) {
            let at = self.now + self.link_delay();
            self.schedule(at, Event::Heard { session, side: 1 - side });
        }
        self.schedule(self.now + BEAT, Event::Beat { session, side });
    }

    pub(crate) fn heard(&mut self, session: Session, side: usize) {
        let from = self.side(session, 1 - side).host;
        let end = self.side(session, side);
        let (host, life, open) = (end.host, end.life, end.open);
        if open && self.is_alive(host, life) && !self.is_blocked(from, host) {
            self.step(host, Input::Heard { session });
        }
    }

    /// Tries every host that this one has no session with.
    pub(crate) fn dial(&mut self, host: usize) {
        if !self.hosts[host].dialing {
            return;
        }
        for peer in (0..HOSTS).filter(|peer| *peer != host) {
            let at = self.now + 2 * self.link_delay();
            let (from, to) = ((host, self.hosts[host].life), (peer, self.hosts[peer].life));
            self.schedule(at, Event::Connect { from, to });
        }
        let at = self.now + REDIAL + self.dice.net.range(0, 20 * MS);
        let life = self.hosts[host].life;
        self.schedule(at, Event::Dial { host, life });
    }

    pub(crate) fn connect(&mut self, from: (usize, u32), to: (usize, u32)) {
        let ((a, life_a), (b, life_b)) = (from, to);
        let reachable =
            !self.is_blocked(a, b) && !self.is_blocked(b, a) && self.hosts[b].frozen_until <= self.now;
        if !self.hosts[a].dialing || !reachable || !self.is_alive(a, life_a) || !self.is_alive(b, life_b) {
            return;
        }
        let open = self.open_sessions();
        let between = |world: &World, session: Session| {
            let ends = &world.net.sessions[session as usize - 1];
            let end = |host| ends.iter().find(|end| end.host == host).is_some_and(|end| end.open);
            (end(a) && world.side_of(session, b).is_some(), end(b) && world.side_of(session, a).is_some())
        };
        if open.iter().any(|session| between(self, *session).0) {
            return;
        }
        for session in open {
            // The peer has not noticed yet that its last session is over.
            if between(self, session).1
                && let Some(side) = self.side_of(session, b)
            {
                self.side(session, side).open = false;
                self.step(b, Input::LinkDown { session });
            }
        }
        if !self.is_alive(a, life_a) || !self.is_alive(b, life_b) {
            return;
        }
        self.net.sessions.push([End::new(a, life_a), End::new(b, life_b)]);
        let session = self.net.sessions.len() as Session;
        for side in 0..2 {
            let at = self.now + self.dice.net.range(0, BEAT);
            self.schedule(at, Event::Beat { session, side });
        }
        for (host, peer, dialed) in [(a, b, true), (b, a, false)] {
            let peer = self.hosts[peer].name.clone();
            self.step(host, Input::LinkUp { session, peer, dialed });
        }
    }
}
