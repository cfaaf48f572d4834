//! What was done to the pair, as vertical bands with labels that keep out of each other's way.

use std::fmt::Write as _;

use super::{Canvas, DOWNLOAD, LABELS, LATENCY, RIGHT, text, text_width};
use crate::load::event::DrillEvent;
use crate::load::judge::Verdict;

/// Lanes for labels.
const LANES: usize = 3;

/// Something with a begin, an end and a name.
struct Band {
    from: u64,
    to: u64,
    colour: &'static str,
    /// A line at the begin: something died.
    hard: bool,
    label: String,
}

pub(super) fn draw(out: &mut String, canvas: &Canvas, events: &[DrillEvent], verdict: &Verdict) {
    let mut bands: Vec<Band> = events.iter().filter_map(|event| band(event, verdict)).collect();
    // Losses get their place for a label first; the others take what is left.
    bands.sort_by_key(|band| (!band.hard, band.from));
    let mut lanes = Lanes::default();
    for band in &bands {
        let (from, to) = (canvas.x(band.from), canvas.x(band.to));
        let (top, bottom, width) = (LATENCY.0, DOWNLOAD.1, (to - from).max(1.5));
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\" fill-opacity=\"0.16\"/>",
            bottom - top,
            band.colour
        );
        if band.hard {
            let _ = writeln!(
                out,
                "<path d=\"M{from:.1} {top:.1}V{bottom:.1}\" stroke=\"{}\" stroke-width=\"1.5\"/>",
                band.colour
            );
        }
        if let Some((x, y)) = lanes.find(from, &band.label) {
            let _ = writeln!(
                out,
                "<path d=\"M{from:.1} {:.1}V{top:.1}\" stroke=\"{}\" stroke-opacity=\"0.6\"/>",
                y - 9.0,
                band.colour
            );
            text(out, (x, y), "start", &format!("fill=\"{}\"", band.colour), &band.label);
        }
    }
}

fn band(event: &DrillEvent, verdict: &Verdict) -> Option<Band> {
    if let Some(loss) = event.loss() {
        let colour = if loss.kind == "plug" { "#c53030" } else { "#b7440c" };
        let frame = verdict
            .gaps
            .iter()
            .find(|gap| gap.at == loss.at && gap.host == loss.host)
            .and_then(|gap| gap.first_frame_ns);
        let label = frame.map_or_else(
            || format!("{} {}", loss.kind, loss.host),
            |gap| format!("{} {}: {} ms", loss.kind, loss.host, gap / 1_000_000),
        );
        return Some(Band { from: loss.at, to: loss.at + frame.unwrap_or(0), colour, hard: true, label });
    }
    let (from, to, colour, label) = match event {
        DrillEvent::Hold { from, to } => {
            let held = to.saturating_sub(*from) / 1_000_000;
            (*from, *to, "#6b46c1", format!("hold {held} ms"))
        }
        DrillEvent::Rtt { from, to, us } => (*from, *to, "#2a4a9b", format!("round trip {} ms", us / 1000)),
        DrillEvent::Fill { from, to, host } => (*from, *to, "#3d7a6b", format!("fill {host}")),
        _ => return None,
    };
    Some(Band { from, to, colour, hard: false, label })
}

/// Where labels are already.
#[derive(Default)]
struct Lanes([Vec<(f64, f64)>; LANES]);

impl Lanes {
    /// A free place for a label right of `x` (left of it at the picture's right edge); `None` when all lanes are taken
    /// there: the band then stays without a name rather than over another's.
    fn find(&mut self, x: f64, label: &str) -> Option<(f64, f64)> {
        let width = text_width(label) + 8.0;
        let begin = if x + 4.0 + width > RIGHT { x - width } else { x + 4.0 };
        // The leader line at `x` is part of what must stay free.
        let (low, high) = (begin.min(x) - 2.0, begin + width);
        let lane =
            self.0.iter().position(|taken| taken.iter().all(|(from, to)| high < *from || low > *to))?;
        // A leader crosses the lanes below its label.
        let crossed =
            self.0[lane + 1..].iter().any(|taken| taken.iter().any(|(from, to)| x > *from && x < *to));
        if crossed {
            return None;
        }
        self.0[lane].push((low, high));
        for below in &mut self.0[lane + 1..] {
            below.push((x - 2.0, x + 2.0));
        }
        let pitch = (LABELS.1 - LABELS.0) / 3.0;
        let row = [0.0, 1.0, 2.0][lane];
        Some((begin, LABELS.0 + pitch * row + 11.0))
    }
}
