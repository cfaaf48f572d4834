//! The roles of a host and the transitions between them.
//!
//! ```text
//!              ┌──────────────── joins a live host ───────────────▶ Joining ──▶ Secondary ◀─┐
//! Starting ────┤                                                                   │        │ link heals
//!              └─ claims ─▶ Alone ◀──▶ Filling ──▶ Primary ─── peer gone ──▶ Arbitrating ─▶ Holding
//!                             ▲                      ▲                             │        │
//!                             └────── TakingOver ◀───┼──────────── won ────────────┴────────┤
//!                                                    └──────────── link heals ──────────────┘
//! any ──▶ Stopped
//! ```

use super::alone::Alone;
use super::arbitrate::{Arbitrating, TakingOver};
use super::fill::Filling;
use super::io::ExitReason;
use super::joining::Joining;
use super::primary::Primary;
use super::secondary::Secondary;
use super::start::Starting;

/// What a host is, with what it needs to be it.
pub(super) enum Role {
    /// Looks for a live host, or for the right to be one.
    Starting(Starting),
    /// Its guest runs, unprotected.
    Alone(Alone),
    /// Its guest runs, unprotected, while a new secondary is filled.
    Filling(Filling),
    /// Its guest runs and its outputs wait for a secondary.
    Primary(Box<Primary>),
    /// Is being filled.
    Joining(Joining),
    /// Replays.
    Secondary(Box<Secondary>),
    /// Has lost its peer and asks the arbiter.
    Arbitrating(Arbitrating),
    /// Could not reach the arbiter: nothing runs, nothing is released.
    Holding(Arbitrating),
    /// Has won: replays what is left, then is alone.
    TakingOver(TakingOver),
    /// Has ended.
    Stopped(ExitReason),
}

/// The roles without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleKind {
    /// See [`RoleKind::name`].
    Starting,
    /// Unprotected.
    Alone,
    /// Unprotected, a secondary is being filled.
    Filling,
    /// With a secondary.
    Primary,
    /// Is being filled.
    Joining,
    /// Replays.
    Secondary,
    /// Asks the arbiter.
    Arbitrating,
    /// Waits for the arbiter.
    Holding,
    /// Has won.
    TakingOver,
    /// Has ended.
    Stopped,
}

impl RoleKind {
    /// Every role.
    pub const ALL: [RoleKind; 10] = [
        RoleKind::Starting,
        RoleKind::Alone,
        RoleKind::Filling,
        RoleKind::Primary,
        RoleKind::Joining,
        RoleKind::Secondary,
        RoleKind::Arbitrating,
        RoleKind::Holding,
        RoleKind::TakingOver,
        RoleKind::Stopped,
    ];

    /// The word in the status document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RoleKind::Starting => "starting",
            RoleKind::Alone => "alone",
            RoleKind::Filling => "filling",
            RoleKind::Primary => "primary",
            RoleKind::Joining => "joining",
            RoleKind::Secondary => "secondary",
            RoleKind::Arbitrating => "arbitrating",
            RoleKind::Holding => "holding",
            RoleKind::TakingOver => "taking-over",
            RoleKind::Stopped => "stopped",
        }
    }

    /// Whether a host in this role may take that role next.
    #[must_use]
    pub fn may_become(self, next: RoleKind) -> bool {
        use RoleKind::{
            Alone, Arbitrating, Filling, Holding, Joining, Primary, Secondary, Starting, Stopped, TakingOver,
        };
        match (self, next) {
            (Stopped, _) | (_, Starting) => false,
            (_, Stopped) => true,
            (Starting, Alone | Joining) => true,
            (Alone, Filling) => true,
            (Filling, Alone | Primary) => true,
            // A secondary that is not in the record yet can be dropped without a word to anybody.
            (Primary, Alone | Arbitrating) => true,
            (Joining, Secondary) => true,
            (Secondary, Arbitrating) => true,
            (Arbitrating, Holding | TakingOver) => true,
            (Holding, TakingOver | Primary | Secondary) => true,
            (TakingOver, Alone) => true,
            _ => false,
        }
    }
}

impl Role {
    pub(super) fn kind(&self) -> RoleKind {
        match self {
            Role::Starting(_) => RoleKind::Starting,
            Role::Alone(_) => RoleKind::Alone,
            Role::Filling(_) => RoleKind::Filling,
            Role::Primary(_) => RoleKind::Primary,
            Role::Joining(_) => RoleKind::Joining,
            Role::Secondary(_) => RoleKind::Secondary,
            Role::Arbitrating(_) => RoleKind::Arbitrating,
            Role::Holding(_) => RoleKind::Holding,
            Role::TakingOver(_) => RoleKind::TakingOver,
            Role::Stopped(_) => RoleKind::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RoleKind::{self, *};

    #[test]
    fn the_transition_table_is_walked() {
        let legal = [
            (Starting, Alone),
            (Starting, Joining),
            (Alone, Filling),
            (Filling, Alone),
            (Filling, Primary),
            (Primary, Alone),
            (Primary, Arbitrating),
            (Joining, Secondary),
            (Secondary, Arbitrating),
            (Arbitrating, Holding),
            (Arbitrating, TakingOver),
            (Holding, TakingOver),
            (Holding, Primary),
            (Holding, Secondary),
            (TakingOver, Alone),
        ];
        for from in RoleKind::ALL {
            for to in RoleKind::ALL {
                let expected = legal.contains(&(from, to)) || (to == Stopped && from != Stopped);
                assert_eq!(from.may_become(to), expected, "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn nobody_goes_live_without_arbitration() {
        // Every way from a replaying or paired role to Alone leads through TakingOver, except that a
        // primary may drop a secondary that no record names.
        for from in [Secondary, Arbitrating, Holding, Joining] {
            assert!(!from.may_become(Alone));
        }
    }
}
