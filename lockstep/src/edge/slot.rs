//! Which of several sessions with one peer counts. Pure: no socket, no clock.
//!
//! Both hosts may dial at once. The host with the smaller name decides, at one moment under its lock: either
//! it has already taken the other's session and gives up its own attempt before it says a word, or it has
//! offered its own and lets the other wait. So at most one of two crossing attempts ever comes up, and the
//! host with the greater name may take whatever it is offered.

use super::preface::Preface;

/// How far the newest session with the peer has come. `W` leads to whoever waits for its heartbeat
/// connection.
#[derive(Debug)]
enum Stage<W> {
    /// None.
    Free,
    /// This host has dialed and offered one.
    Offered { token: u128 },
    /// The peer has dialed and offered one, this host took it.
    Accepted { token: u128, waiting: W },
    /// It is up.
    Live { token: u128, instance: u128, dialed: bool, session: u64 },
}

/// Answer to a peer's offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Take it. This session with the same peer is dead and must be closed.
    Take { replaces: Option<u64> },
    /// Decline: this host's own attempt or session comes first.
    Later,
}

/// The sessions with one peer.
#[derive(Debug)]
pub(super) struct Slot<W> {
    /// Whether this host's name is the smaller one.
    decides: bool,
    stage: Stage<W>,
    /// The newest session that is over here, 0 for none.
    ended: u128,
}

impl<W> Slot<W> {
    pub(super) fn new(decides: bool) -> Self {
        Self { decides, stage: Stage::Free, ended: 0 }
    }

    /// Whether a session is wanted.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.stage, Stage::Free)
    }

    /// The newest session that is over here.
    pub(super) fn ended(&self) -> u128 {
        self.ended
    }

    /// This host is about to offer a session. Whether it may.
    pub(super) fn offer(&mut self, token: u128) -> bool {
        let free = self.is_free();
        if free {
            self.stage = Stage::Offered { token };
        }
        free
    }

    /// The peer offers a session.
    pub(super) fn offered(&mut self, preface: &Preface, waiting: W) -> Offer {
        let replaces = match self.stage {
            Stage::Free => None,
            Stage::Offered { .. } if self.decides => return Offer::Later,
            Stage::Offered { token } | Stage::Accepted { token, .. } => {
                self.ended = token;
                None
            }
            // The peer did not know this session when it dialed, and has not lost it either.
            Stage::Live { token, instance, dialed: true, .. }
                if self.decides && instance == preface.instance && preface.ended != token =>
            {
                return Offer::Later;
            }
            Stage::Live { token, session, .. } => {
                self.ended = token;
                Some(session)
            }
        };
        self.stage = Stage::Accepted { token: preface.token, waiting };
        Offer::Take { replaces }
    }

    /// The heartbeat connection of an accepted session came: who waits for it.
    pub(super) fn heartbeat(&self, of: u128) -> Option<&W> {
        match &self.stage {
            Stage::Accepted { token, waiting } if *token == of => Some(waiting),
            _ => None,
        }
    }

    /// Both connections of the session `of` are there. Whether it still counts.
    pub(super) fn go_live(&mut self, of: u128, peer: u128, session: u64) -> bool {
        let dialed = match self.stage {
            Stage::Offered { token } if token == of => true,
            Stage::Accepted { token, .. } if token == of => false,
            _ => return false,
        };
        self.stage = Stage::Live { token: of, instance: peer, dialed, session };
        true
    }

    /// The session or attempt `of` is over, if it still counts.
    pub(super) fn end(&mut self, of: u128) {
        match self.stage {
            Stage::Offered { token } | Stage::Accepted { token, .. } | Stage::Live { token, .. }
                if token == of =>
            {
                self.stage = Stage::Free;
                self.ended = of;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests {
    use super::super::preface::Purpose;
    use super::*;

    const A: u128 = 100;
    const B: u128 = 200;

    fn preface(instance: u128, token: u128, ended: u128) -> Preface {
        let (pair, host) = (String::new(), String::new());
        Preface { purpose: Purpose::Log, pair, host, instance, token, ended }
    }

    fn live(decides: bool, token: u128) -> Slot<()> {
        let mut slot = Slot::new(decides);
        assert!(slot.offer(token));
        assert!(slot.go_live(token, B, 1));
        slot
    }

    #[test]
    fn of_two_crossing_offers_the_smaller_name_s_comes_up() {
        let (mut a, mut b) = (Slot::new(true), Slot::new(false));
        assert!(a.offer(1) && b.offer(2));
        assert_eq!(a.offered(&preface(B, 2, 0), ()), Offer::Later);
        assert_eq!(b.offered(&preface(A, 1, 0), ()), Offer::Take { replaces: None });
        assert!(!b.go_live(2, A, 7), "the declined attempt cannot come up");
        assert!(b.heartbeat(2).is_none() && b.heartbeat(1).is_some());
        assert!(a.go_live(1, B, 7) && b.go_live(1, A, 8));
    }

    #[test]
    fn an_offer_that_was_taken_first_is_kept() {
        let mut a = Slot::new(true);
        assert_eq!(a.offered(&preface(B, 2, 0), ()), Offer::Take { replaces: None });
        assert!(!a.offer(1), "its own attempt gives up before it says a word");
    }

    #[test]
    fn a_late_offer_does_not_close_a_live_session() {
        assert_eq!(live(true, 1).offered(&preface(B, 2, 0), ()), Offer::Later);
        assert_eq!(live(true, 1).offered(&preface(B, 2, 9), ()), Offer::Later);
    }

    #[test]
    fn an_offer_of_a_host_that_lost_the_session_replaces_it() {
        assert_eq!(live(true, 1).offered(&preface(B, 2, 1), ()), Offer::Take { replaces: Some(1) });
    }

    #[test]
    fn an_offer_of_a_restarted_host_replaces_the_session() {
        assert_eq!(live(true, 1).offered(&preface(B + 1, 2, 0), ()), Offer::Take { replaces: Some(1) });
    }

    #[test]
    fn the_greater_name_takes_what_it_is_offered() {
        let mut b = live(false, 2);
        assert_eq!(b.offered(&preface(A, 1, 0), ()), Offer::Take { replaces: Some(1) });
        assert_eq!(b.ended(), 2);
        assert_eq!(b.offered(&preface(A, 3, 1), ()), Offer::Take { replaces: None });
    }

    #[test]
    fn only_what_counts_can_end() {
        let mut slot = live(true, 5);
        slot.end(4);
        assert!(!slot.is_free());
        slot.end(5);
        assert!(slot.is_free());
        assert_eq!(slot.ended(), 5);
        assert!(!slot.go_live(5, B, 2));
    }
}
