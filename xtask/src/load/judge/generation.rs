//! The pair's generation number and its epochs, as far as they are judged from outside or by its status.

use super::findings::Findings;
use crate::load::event::DrillEvent;

/// Between two moments of protection the generation must have grown by the number of hosts lost between them.
pub(super) fn judge(events: &[DrillEvent], found: &mut Findings) {
    let mut sorted: Vec<&DrillEvent> = events.iter().collect();
    sorted.sort_by_key(|event| event.begin());
    let mut before = None;
    let mut lost = 0;
    for event in sorted {
        match event {
            DrillEvent::Protected { at, generation, .. } => {
                if let Some(problem) = before.and_then(|before| grew_by(before, *generation, lost).err()) {
                    let when = found.moment(*at);
                    found.say("generation", format!("at {when}: {problem}"));
                }
                before = Some(*generation);
                lost = 0;
            }
            other => lost += u64::from(other.loss().is_some()),
        }
    }
}

/// Checks that one loss of a host made the generation grow by exactly one.
///
/// # Errors
/// A sentence that says what it did instead.
pub fn grew_by_one(before: u64, after: u64) -> Result<(), String> {
    grew_by(before, after, 1)
}

fn grew_by(before: u64, after: u64, steps: u64) -> Result<(), String> {
    if before.checked_add(steps) == Some(after) {
        return Ok(());
    }
    Err(format!("the generation went from {before} to {after}, and {steps} hosts were lost"))
}

/// The share of `exact` epochs (ended at a place both sides found, acked without a shipped page) among all under load.
///
/// # Errors
/// A sentence when there were none, or more exact ones than there were.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
pub fn epoch_share(exact: u64, all: u64) -> Result<f64, String> {
    if all == 0 {
        return Err("no epoch ended under load: nothing is proved about them".to_owned());
    }
    if exact > all {
        return Err(format!("{exact} exact epochs of {all}: the counts contradict each other"));
    }
    Ok(exact as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_one_step() {
        assert_eq!(grew_by_one(4, 5), Ok(()));
        assert!(grew_by_one(4, 4).is_err());
        assert!(grew_by_one(4, 6).is_err());
        assert!(grew_by_one(u64::MAX, 0).is_err());
    }

    #[test]
    fn shares_need_epochs() {
        assert_eq!(epoch_share(9, 10), Ok(0.9));
        assert!(epoch_share(0, 0).is_err());
        assert!(epoch_share(2, 1).is_err());
    }
}
