//! What was done to the pair, and when: written by the drill, read by the judge and the picture.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// One line of the drill's event file. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum DrillEvent {
    /// Every cable of a host was cut in one step, then its processes were killed.
    Plug {
        /// The moment of the cut.
        at: u64,
        /// The host that died.
        host: String,
        /// The moment of the kill.
        #[serde(default)]
        killed: u64,
        /// The host that must go on.
        survivor: String,
    },
    /// A host's process was killed; its links stayed up.
    Crash {
        /// The moment of the kill.
        at: u64,
        /// The host whose process died.
        host: String,
        /// The host that must go on.
        survivor: String,
    },
    /// The cable kept every frame of the link.
    Hold {
        /// From this moment on nothing crossed the link.
        from: u64,
        /// The moment of delivery.
        to: u64,
    },
    /// The link had a longer round trip.
    Rtt {
        /// Begin.
        from: u64,
        /// End.
        to: u64,
        /// The round trip (twice the one-way delay), in microseconds.
        us: u64,
    },
    /// A new secondary was being filled.
    Fill {
        /// Begin.
        from: u64,
        /// End.
        to: u64,
        /// The new secondary.
        host: String,
    },
    /// The pair said that it is protected.
    Protected {
        /// When it was seen.
        at: u64,
        /// Who runs the guest.
        primary: String,
        /// Who follows.
        secondary: String,
        /// The pair's generation number.
        generation: u64,
    },
    /// A span of time in which the client's rate is judged.
    Window {
        /// For people.
        name: String,
        /// Begin.
        from: u64,
        /// End.
        to: u64,
        /// Least replies per second; 0 asks for nothing.
        #[serde(default)]
        min_per_s: f64,
    },
}

/// Reads the drill's event file (JSON lines).
///
/// # Errors
/// When the file cannot be read or a line is no event.
pub fn read_events(path: &Path) -> anyhow::Result<Vec<DrillEvent>> {
    super::record::read_lines(path)
}

/// A host that died, and the one that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss<'a> {
    /// `plug` or `crash`.
    pub kind: &'static str,
    /// The moment of the cut (plug) or kill (crash).
    pub at: u64,
    /// Who died.
    pub host: &'a str,
    /// Who goes on.
    pub survivor: &'a str,
}

impl DrillEvent {
    /// The event as the loss of a host, if it is one.
    pub fn loss(&self) -> Option<Loss<'_>> {
        match self {
            Self::Plug { at, host, survivor, .. } => Some(Loss { kind: "plug", at: *at, host, survivor }),
            Self::Crash { at, host, survivor } => Some(Loss { kind: "crash", at: *at, host, survivor }),
            _ => None,
        }
    }

    /// When it happened or began.
    pub fn begin(&self) -> u64 {
        match self {
            Self::Plug { at, .. } | Self::Crash { at, .. } | Self::Protected { at, .. } => *at,
            Self::Hold { from, .. }
            | Self::Rtt { from, .. }
            | Self::Fill { from, .. }
            | Self::Window { from, .. } => *from,
        }
    }
}

/// All losses of hosts, in order of time.
pub fn losses(events: &[DrillEvent]) -> Vec<Loss<'_>> {
    let mut found: Vec<Loss<'_>> = events.iter().filter_map(DrillEvent::loss).collect();
    found.sort_by_key(|loss| loss.at);
    found
}

/// Who ran the guest when: as the events tell it, not as the hosts do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners<'a>(Vec<(u64, &'a str)>);

impl<'a> Owners<'a> {
    /// Reads the owners out of the events.
    pub fn new(events: &'a [DrillEvent]) -> Self {
        let mut spans: Vec<(u64, &str)> = events
            .iter()
            .filter_map(|event| match event {
                DrillEvent::Protected { at, primary, .. } => Some((*at, primary.as_str())),
                _ => event.loss().map(|loss| (loss.at, loss.survivor)),
            })
            .collect();
        spans.sort_by_key(|span| span.0);
        Self(spans)
    }

    /// Who ran the guest at `at`: before the first event, whoever that event names as primary.
    pub fn at(&self, at: u64) -> Option<&'a str> {
        let begun = self.0.partition_point(|span| span.0 <= at);
        self.0.get(begun.saturating_sub(1)).map(|span| span.1)
    }

    /// Whether the events name any owner.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_lines_are_read() {
        let lines = [
            r#"{"at":5,"event":"plug","host":"alpha","killed":6,"survivor":"beta"}"#,
            r#"{"at":5,"event":"crash","host":"alpha","survivor":"beta"}"#,
            r#"{"event":"hold","from":1,"to":2}"#,
            r#"{"event":"rtt","from":1,"to":2,"us":80000}"#,
            r#"{"event":"protected","at":9,"primary":"beta","secondary":"gamma","generation":2}"#,
            r#"{"event":"window","name":"before","from":1,"to":2}"#,
        ];
        let events: Vec<DrillEvent> =
            lines.iter().map(|line| serde_json::from_str(line).expect("a documented line")).collect();
        assert_eq!(losses(&events).len(), 2);
        assert_eq!(events[3], DrillEvent::Rtt { from: 1, to: 2, us: 80_000 });
    }

    #[test]
    fn ownership_passes_at_a_loss() {
        let events = [
            DrillEvent::Protected { at: 10, primary: "a".into(), secondary: "b".into(), generation: 1 },
            DrillEvent::Plug { at: 20, host: "a".into(), killed: 21, survivor: "b".into() },
        ];
        let owners = Owners::new(&events);
        assert_eq!([owners.at(0), owners.at(19), owners.at(20)], [Some("a"), Some("a"), Some("b")]);
        assert_eq!(Owners::new(&[]).at(5), None);
    }
}
