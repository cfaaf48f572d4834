//! The first encrypted frames of a link connection: who dials, for what, and whether that is welcome.

use bincode::{Decode, Encode};

use crate::arbiter::NAME_MAX;

/// Most characters of a reason that are shown.
const WHY_MAX: usize = 400;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Purpose {
    /// Messages. Comes first and offers the session.
    Log,
    /// Signs of life. Completes the session.
    Heartbeat,
}

/// The dialer's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Preface {
    pub(super) purpose: Purpose,
    /// Name of the pair.
    pub(super) pair: String,
    /// Name of the dialing host.
    pub(super) host: String,
    /// Random, one per start of a program: tells a restarted host from one that goes on.
    pub(super) instance: u128,
    /// Random, one per session, the same on both of its connections.
    pub(super) token: u128,
    /// The newest session with the dialed host that is over for the dialer, 0 for none.
    pub(super) ended: u128,
}

impl Preface {
    /// Whether this host, in this pair, with these peers, lets the dialer in; else why not.
    pub(super) fn check<'a>(
        &self,
        pair: &str,
        host: &str,
        mut peers: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        if self.pair.len() > NAME_MAX || self.host.len() > NAME_MAX {
            return Err(format!("names have at most {NAME_MAX} bytes"));
        }
        if self.pair != pair {
            let theirs = &self.pair;
            return Err(format!("host {host} belongs to pair {pair:?}, not to {theirs:?}"));
        }
        if self.host == host {
            return Err(format!("both hosts are called {host:?}; each needs a name of its own"));
        }
        if !peers.any(|peer| peer == self.host) {
            let theirs = &self.host;
            return Err(format!(
                "host {host} of pair {pair:?} knows no host {theirs:?}; use the same file on all"
            ));
        }
        Ok(())
    }
}

/// Answer to a [`Preface`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Reply {
    /// Welcome.
    Accepted {
        /// Name of the answering host.
        host: String,
        /// As in the preface.
        instance: u128,
    },
    /// Not now: the answering host dials itself, or the session was given up meanwhile.
    Later,
    /// Not until somebody changes something.
    Refused {
        /// For the dialer's operator.
        why: String,
    },
}

/// A text of the other side, fit for a terminal and a journal.
pub(super) fn printable(text: &str) -> String {
    crate::message::printable(text, WHY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pair: &str, host: &str) -> Result<(), String> {
        let preface = Preface {
            purpose: Purpose::Log,
            pair: pair.into(),
            host: host.into(),
            instance: 1,
            token: 2,
            ended: 0,
        };
        preface.check("shop", "alpha", ["beta", "gamma"].into_iter())
    }

    #[test]
    fn only_known_hosts_of_the_same_pair_come_in() {
        assert_eq!(check("shop", "gamma"), Ok(()));
        assert!(check("bank", "gamma").expect_err("pair").contains("pair \"shop\", not to \"bank\""));
        assert!(check("shop", "delta").expect_err("host").contains("no host \"delta\""));
        assert!(check("shop", "alpha").expect_err("self").contains("both hosts are called \"alpha\""));
        assert!(check("shop", &"x".repeat(65)).expect_err("long").contains("at most 64"));
    }

    #[test]
    fn a_reason_cannot_control_a_terminal() {
        assert_eq!(printable("no\x1b[2Jway\n"), "no [2Jway ");
        assert_eq!(printable(&"é".repeat(1000)).chars().count(), WHY_MAX);
    }
}
