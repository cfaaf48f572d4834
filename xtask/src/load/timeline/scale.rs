//! From values to pixels.

use crate::load::event::DrillEvent;
use crate::load::record::Record;

/// The time that the picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    from: u64,
    to: u64,
}

impl Span {
    /// From the client's first record to its last; without records, what the events span.
    pub(super) fn of(records: &[Record], events: &[DrillEvent]) -> Self {
        let mut times: Vec<u64> = records
            .iter()
            .filter_map(|record| match record {
                Record::Start { at, .. } | Record::Send { at, .. } | Record::Reply { at, .. } => Some(*at),
                Record::Down { at, .. } | Record::End { at, .. } => Some(*at),
                _ => None,
            })
            .collect();
        if times.is_empty() {
            times = events.iter().map(DrillEvent::begin).collect();
        }
        let from = times.iter().min().copied().unwrap_or(0);
        Self { from, to: times.iter().max().copied().unwrap_or(0).max(from + 1_000_000) }
    }

    pub(super) fn from(&self) -> u64 {
        self.from
    }

    pub(super) fn to(&self) -> u64 {
        self.to
    }

    pub(super) fn seconds(&self) -> f64 {
        self.since(self.to)
    }

    /// Seconds from the begin to `at`.
    #[expect(clippy::cast_precision_loss, reason = "pixels need no 52 bits")]
    pub(super) fn since(&self, at: u64) -> f64 {
        at.saturating_sub(self.from) as f64 / 1e9
    }
}

/// A linear scale; values outside are drawn at its edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    value: (f64, f64),
    pixel: (f64, f64),
}

impl Scale {
    pub(super) fn linear(value: (f64, f64), pixel: (f64, f64)) -> Self {
        Self { value, pixel }
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        let width = self.value.1 - self.value.0;
        let share = if width > 0.0 { ((value - self.value.0) / width).clamp(0.0, 1.0) } else { 0.0 };
        self.pixel.0 + share * (self.pixel.1 - self.pixel.0)
    }
}

/// Round values from 0 to `top`, about `count` of them: steps of 1, 2 or 5 times a power of ten.
pub(super) fn ticks(top: f64, count: f64) -> Vec<f64> {
    if !top.is_finite() || top <= 0.0 {
        return vec![0.0];
    }
    let rough = top / count;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let mut values = Vec::new();
    let mut value = 0.0;
    while value <= top * 1.000_001 && values.len() < 100 {
        values.push(value);
        value += step;
    }
    values
}

/// A tick's value with as many decimals as it needs.
pub(super) fn label(value: f64) -> String {
    let rounded = format!("{value:.3}");
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}
