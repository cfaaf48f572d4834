//! The drill as a picture: roles, what was done, every request's latency and the download's rate over time. Pure: the
//! text of an SVG of 1200 by 600 pixels that needs no font, script or file besides itself.

mod bands;
mod plot;
mod roles;
mod scale;

use std::fmt::Write as _;

use super::event::DrillEvent;
use super::judge::Verdict;
use super::record::Record;
use scale::{Scale, Span};

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 600.0;
/// Left and right edge of everything that has a time.
const LEFT: f64 = 92.0;
const RIGHT: f64 = 1180.0;
/// Top and bottom of the latency panel and of the download panel.
const LATENCY: (f64, f64) = (222.0, 430.0);
const DOWNLOAD: (f64, f64) = (448.0, 532.0);
/// Top of the ribbons, and of the lanes of labels below them.
const RIBBONS: (f64, f64) = (70.0, 168.0);
const LABELS: (f64, f64) = (174.0, 220.0);

/// Draws the timeline. `title` is the first line; the verdict gives the second.
pub fn timeline_svg(title: &str, records: &[Record], events: &[DrillEvent], verdict: &Verdict) -> String {
    let span = Span::of(records, events);
    let x = Scale::linear((0.0, span.seconds()), (LEFT, RIGHT));
    let canvas = Canvas { span, x };
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#2d3748\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    heading(&mut out, title, verdict);
    bands::draw(&mut out, &canvas, events, verdict);
    plot::grid(&mut out, &canvas);
    plot::download(&mut out, &canvas, records);
    plot::latency(&mut out, &canvas, records);
    roles::draw(&mut out, &canvas, events);
    legend(&mut out);
    out.push_str("</svg>\n");
    out
}

/// The common measure of all parts.
struct Canvas {
    span: Span,
    x: Scale,
}

impl Canvas {
    /// Where a moment (`CLOCK_MONOTONIC` nanoseconds) is, kept inside the picture.
    fn x(&self, at: u64) -> f64 {
        self.x.place(self.span.since(at))
    }
}

fn heading(out: &mut String, title: &str, verdict: &Verdict) {
    text(out, (LEFT, 28.0), "start", "font-size=\"17\" font-weight=\"bold\"", title);
    let (word, colour) = if verdict.ok { ("PASS", "#276749") } else { ("FAIL", "#c53030") };
    let line = format!(
        "{word}  {} requests: {} lost, {} doubled; {} connections broken, {} wrong bytes, {} frames released early, {} repeated",
        verdict.requests,
        verdict.lost,
        verdict.duplicated,
        verdict.broken,
        verdict.wrong_bytes,
        verdict.released_early,
        verdict.repeated_frames
    );
    text(out, (LEFT, 50.0), "start", &format!("font-size=\"13\" fill=\"{colour}\""), &line);
}

fn legend(out: &mut String) {
    let y = 586.0;
    let entries = [
        (plot::UDP_COLOUR, "UDP request"),
        (plot::TCP_COLOUR, "TCP request"),
        (plot::LOST_COLOUR, "lost request"),
        (plot::DOWNLOAD_COLOUR, "download"),
        (roles::PRIMARY, "primary"),
        (roles::ALONE, "alone"),
        (roles::SECONDARY, "secondary"),
        (roles::FILLING, "being filled"),
    ];
    let mut x = LEFT;
    for (colour, name) in entries {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            y - 9.0
        );
        text(out, (x + 15.0, y), "start", "", name);
        x += 38.0 + text_width(name);
    }
}

/// One line of text at a point; `anchor` is `start`, `middle` or `end`, `more` further attributes.
fn text(out: &mut String, at: (f64, f64), anchor: &str, more: &str, words: &str) {
    let (x, y) = at;
    let words = escape(words);
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>");
}

/// About how wide a text of 11 pixels is; fonts differ, so this errs on the wide side.
#[expect(clippy::cast_precision_loss, reason = "labels are short")]
fn text_width(words: &str) -> f64 {
    words.chars().count() as f64 * 6.3
}

/// Names come from configs: nothing in them may be taken for markup.
fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for letter in words.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests;
