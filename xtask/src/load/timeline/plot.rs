//! The two panels: latency of requests on a logarithmic scale, and the download's rate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::scale::{Scale, label, ticks};
use super::{Canvas, DOWNLOAD, LATENCY, LEFT, RIGHT, text};
use crate::load::record::{Proto, Record};

pub(super) const UDP_COLOUR: &str = "#2b6cb0";
pub(super) const TCP_COLOUR: &str = "#c05621";
pub(super) const LOST_COLOUR: &str = "#e53e3e";
pub(super) const DOWNLOAD_COLOUR: &str = "#6b7f99";
/// Decades of latency: from 0.1 ms to 10 s.
const DECADES: (f64, f64) = (-1.0, 4.0);

/// Lines, frames and the names of the axes.
pub(super) fn grid(out: &mut String, canvas: &Canvas) {
    for (power, name) in
        [(-1.0, "0.1 ms"), (0.0, "1 ms"), (1.0, "10 ms"), (2.0, "100 ms"), (3.0, "1 s"), (4.0, "10 s")]
    {
        let y = latency_scale().place(power);
        horizontal(out, y);
        text(out, (LEFT - 8.0, y + 4.0), "end", "", name);
    }
    for second in ticks(canvas.span.seconds(), 12.0) {
        let x = canvas.x.place(second);
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {:.1}V{:.1}\" stroke=\"#a0aec0\"/>",
            DOWNLOAD.1,
            DOWNLOAD.1 + 5.0
        );
        text(out, (x, DOWNLOAD.1 + 18.0), "middle", "", &format!("{} s", label(second)));
    }
    for (name, panel) in [("request latency", LATENCY), ("download", DOWNLOAD)] {
        let (x, y) = (22.0, f64::midpoint(panel.0, panel.1));
        text(
            out,
            (x, y),
            "middle",
            &format!("transform=\"rotate(-90 {x:.1} {y:.1})\" fill=\"#718096\""),
            name,
        );
    }
}

fn horizontal(out: &mut String, y: f64) {
    let _ = writeln!(out, "<path d=\"M{LEFT:.1} {y:.1}H{RIGHT:.1}\" stroke=\"#e2e8f0\"/>");
}

fn latency_scale() -> Scale {
    Scale::linear(DECADES, (LATENCY.1, LATENCY.0))
}

/// A dot per request at the moment it was sent; dots that would cover each other are drawn once, so that the picture
/// stays small however long the drill was.
#[expect(clippy::cast_precision_loss, reason = "pixels need no 52 bits")]
pub(super) fn latency(out: &mut String, canvas: &Canvas, records: &[Record]) {
    let mut sent: BTreeMap<(u32, u64), (u64, Proto)> = BTreeMap::new();
    let mut dots: [BTreeSet<(i64, i64)>; 2] = [BTreeSet::new(), BTreeSet::new()];
    for record in records {
        if let Record::Send { at, client, id, proto, .. } = record {
            let first = sent.entry((*client, *id)).or_insert((*at, *proto));
            first.0 = first.0.min(*at);
        }
    }
    let mut lost = sent.clone();
    for record in records {
        let Record::Reply { at, client, id, .. } = record else { continue };
        // The first reply is the one that counted.
        let Some((begin, proto)) = lost.remove(&(*client, *id)) else { continue };
        let milliseconds = at.saturating_sub(begin).max(1000) as f64 / 1e6;
        let y = latency_scale().place(milliseconds.log10());
        dots[usize::from(proto == Proto::Tcp)].insert((half_pixels(canvas.x(begin)), half_pixels(y)));
    }
    for (places, colour) in dots.iter().zip([UDP_COLOUR, TCP_COLOUR]) {
        let _ = write!(
            out,
            "<path stroke=\"{colour}\" stroke-opacity=\"0.7\" stroke-width=\"2.6\" stroke-linecap=\"round\" d=\""
        );
        for (x, y) in places {
            let _ = write!(out, "M{} {}h0", *x as f64 / 2.0, *y as f64 / 2.0);
        }
        out.push_str("\"/>\n");
    }
    for (begin, _) in lost.values() {
        let (x, y) = (canvas.x(*begin), LATENCY.0 + 6.0);
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\" stroke=\"{LOST_COLOUR}\" stroke-width=\"2\"/>",
            x - 4.0,
            y - 4.0
        );
    }
}

#[expect(clippy::cast_possible_truncation, reason = "inside the picture")]
fn half_pixels(pixels: f64) -> i64 {
    (pixels * 2.0).round() as i64
}

/// The rate of all downloads as an area.
pub(super) fn download(out: &mut String, canvas: &Canvas, records: &[Record]) {
    let rates = rates(canvas, records);
    let top = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let round = ticks(top.max(0.1), 3.0);
    let step = round.get(1).copied().unwrap_or(0.1);
    let scale = Scale::linear((0.0, (top / step).ceil().max(1.0) * step), (DOWNLOAD.1, DOWNLOAD.0));
    let mut value = 0.0;
    while scale.place(value) >= DOWNLOAD.0 && value <= (top / step).ceil().max(1.0) * step * 1.000_001 {
        horizontal(out, scale.place(value));
        text(out, (LEFT - 8.0, scale.place(value) + 4.0), "end", "", &format!("{} MB/s", label(value)));
        value += step;
    }
    let Some((first, last)) = rates.first().zip(rates.last()) else { return };
    let mut path = format!("M{:.1} {:.1}", first.0, DOWNLOAD.1);
    for (x, rate) in &rates {
        let _ = write!(path, "L{x:.1} {:.1}", scale.place(*rate));
    }
    let _ = write!(path, "L{:.1} {:.1}Z", last.0, DOWNLOAD.1);
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"{DOWNLOAD_COLOUR}\" fill-opacity=\"0.55\" stroke=\"{DOWNLOAD_COLOUR}\"/>"
    );
}

/// Megabytes per second in slices of a few pixels, at their place.
#[expect(clippy::cast_precision_loss, reason = "pixels need no 52 bits")]
fn rates(canvas: &Canvas, records: &[Record]) -> Vec<(f64, f64)> {
    // No narrower than two progress records, or the slices would show their rhythm.
    let slice = ((canvas.span.to() - canvas.span.from()) / 400).max(100_000_000);
    let mut before: BTreeMap<u32, u64> = BTreeMap::new();
    let mut slices: BTreeMap<u64, u64> = BTreeMap::new();
    for record in records {
        if let Record::Down { at, w, bytes } = record {
            let known = before.insert(*w, *bytes).unwrap_or(0);
            let slot = at.saturating_sub(canvas.span.from()) / slice;
            *slices.entry(slot).or_insert(0) += bytes.saturating_sub(known);
        }
    }
    let (Some(first), Some(last)) =
        (slices.first_key_value().map(|(slot, _)| *slot), slices.last_key_value().map(|(slot, _)| *slot))
    else {
        return Vec::new();
    };
    // The last slice is cut short by the end of the run: its rate would be a lie.
    (first..last.max(first + 1))
        .map(|slot| {
            let bytes = slices.get(&slot).copied().unwrap_or(0);
            let x = canvas.x(canvas.span.from() + slot * slice + slice / 2);
            (x, bytes as f64 / (slice as f64 / 1e9) / 1e6)
        })
        .collect()
}
