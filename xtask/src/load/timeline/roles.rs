//! One ribbon per host: which role it had when.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Canvas, LABELS, LEFT, RIBBONS, text, text_width};
use crate::load::event::DrillEvent;

pub(super) const PRIMARY: &str = "#2f855a";
pub(super) const ALONE: &str = "#dd9b20";
pub(super) const SECONDARY: &str = "#7fb2dd";
pub(super) const FILLING: &str = "#cbd5e0";

/// A host's role for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) from: u64,
    /// `None`: to the end of the picture.
    pub(super) to: Option<u64>,
    pub(super) name: &'static str,
    pub(super) died: bool,
}

/// Reads the roles out of the events, hosts in the order of their first mention.
pub(super) fn roles(events: &[DrillEvent]) -> Vec<(String, Vec<Role>)> {
    let mut sorted: Vec<&DrillEvent> = events.iter().collect();
    sorted.sort_by_key(|event| event.begin());
    let mut ribbons = Ribbons::default();
    for event in sorted {
        match event {
            DrillEvent::Protected { at, primary, secondary, .. } => {
                ribbons.set(primary, *at, "primary");
                ribbons.set(secondary, *at, "secondary");
            }
            DrillEvent::Fill { from, host, .. } => ribbons.set(host, *from, "being filled"),
            other => {
                if let Some(loss) = other.loss() {
                    ribbons.end(loss.host, loss.at, true);
                    ribbons.set(loss.survivor, loss.at, "alone");
                }
            }
        }
    }
    let Ribbons { order, mut rows } = ribbons;
    order.into_iter().filter_map(|host| rows.remove(&host).map(|row| (host, row))).collect()
}

#[derive(Default)]
struct Ribbons {
    order: Vec<String>,
    rows: BTreeMap<String, Vec<Role>>,
}

impl Ribbons {
    fn row(&mut self, host: &str) -> &mut Vec<Role> {
        if !self.rows.contains_key(host) {
            self.order.push(host.to_owned());
        }
        self.rows.entry(host.to_owned()).or_default()
    }

    fn set(&mut self, host: &str, at: u64, name: &'static str) {
        let open = self.row(host).last().filter(|role| role.to.is_none()).map(|role| role.name);
        if open == Some(name) {
            return;
        }
        self.end(host, at, false);
        self.row(host).push(Role { from: at, to: None, name, died: false });
    }

    fn end(&mut self, host: &str, at: u64, died: bool) {
        if let Some(role) = self.row(host).last_mut().filter(|role| role.to.is_none()) {
            role.to = Some(at);
            role.died = died;
        }
    }
}

/// Draws the ribbons into their strip; many hosts make thin ones.
#[expect(clippy::cast_precision_loss, reason = "a handful of hosts")]
pub(super) fn draw(out: &mut String, canvas: &Canvas, events: &[DrillEvent]) {
    let rows = roles(events);
    let pitch = ((RIBBONS.1 - RIBBONS.0) / rows.len().max(1) as f64).min(24.0);
    let height = pitch * 0.75;
    for (number, (host, row)) in rows.iter().enumerate() {
        let y = RIBBONS.0 + pitch * number as f64;
        if pitch >= 10.0 {
            text(out, (LEFT - 8.0, y + height / 2.0 + 4.0), "end", "font-weight=\"bold\"", host);
        }
        for role in row {
            draw_role(out, canvas, role, (y, height));
        }
    }
}

fn draw_role(out: &mut String, canvas: &Canvas, role: &Role, (y, height): (f64, f64)) {
    let (from, to) = (canvas.x(role.from), canvas.x(role.to.unwrap_or(u64::MAX)));
    let (colour, ink) = match role.name {
        "primary" => (PRIMARY, "#ffffff"),
        "alone" => (ALONE, "#2d3748"),
        "secondary" => (SECONDARY, "#2d3748"),
        _ => (FILLING, "#2d3748"),
    };
    let width = (to - from).max(1.0);
    let _ = writeln!(
        out,
        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\" stroke=\"#ffffff\"/>"
    );
    if height >= 12.0 && text_width(role.name) + 8.0 < width {
        text(out, (from + 5.0, y + height / 2.0 + 4.0), "start", &format!("fill=\"{ink}\""), role.name);
    }
    if role.died {
        let (left, right, bottom) = (to - 4.0, to + 4.0, y + height);
        let _ = writeln!(
            out,
            "<path d=\"M{left:.1} {y:.1}L{right:.1} {bottom:.1}M{right:.1} {y:.1}L{left:.1} {bottom:.1}\" stroke=\"#c53030\" stroke-width=\"2.5\"/>\n\
             <path d=\"M{to:.1} {bottom:.1}V{:.1}\" stroke=\"#c53030\" stroke-dasharray=\"2 3\"/>",
            LABELS.0
        );
    }
}
