//! The picture of a made-up drill, and what it must hold.

use super::roles::roles;
use super::scale::ticks;
use super::{escape, timeline_svg};
use crate::load::event::DrillEvent;
use crate::load::judge::{Gap, Verdict};
use crate::load::message::splitmix64;
use crate::load::record::{Proto, Record};

const MS: u64 = 1_000_000;

/// Forty seconds with two plugs, a crash, a hold and a slow link; one lost request.
fn drill() -> (Vec<Record>, Vec<DrillEvent>, Verdict) {
    let losses = [(8_400, "alpha", "beta"), (21_800, "beta", "gamma"), (33_000, "gamma", "delta")];
    let mut events = vec![DrillEvent::Protected {
        at: 1100 * MS,
        primary: "alpha".into(),
        secondary: "beta".into(),
        generation: 1,
    }];
    events.push(DrillEvent::Hold { from: 3000 * MS, to: 3150 * MS });
    events.push(DrillEvent::Rtt { from: 3800 * MS, to: 5800 * MS, us: 80_000 });
    let mut verdict = Verdict { requests: 15_812, lost: 1, repeated_frames: 14, ..Verdict::default() };
    for (number, (at, host, survivor)) in losses.into_iter().enumerate() {
        let (host, survivor) = (host.to_owned(), survivor.to_owned());
        verdict.gaps.push(Gap {
            at: at * MS,
            host: host.clone(),
            first_frame_ns: Some(300 * MS),
            ..Gap::default()
        });
        events.push(if number == 2 {
            DrillEvent::Crash { at: at * MS, host, survivor: survivor.clone() }
        } else {
            DrillEvent::Plug { at: at * MS, host, killed: at * MS, survivor: survivor.clone() }
        });
        if let Some(next) = ["gamma", "delta"].get(number) {
            let (from, to) = ((at + 1500) * MS, (at + 3600) * MS);
            events.push(DrillEvent::Fill { from, to, host: (*next).into() });
            events.push(DrillEvent::Protected {
                at: to,
                primary: survivor,
                secondary: (*next).into(),
                generation: u64::try_from(number).unwrap_or(0) + 2,
            });
        }
    }
    (records(&losses.map(|loss| loss.0)), events, verdict)
}

fn records(losses: &[u64]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut bytes = 0;
    for step in 0..8000_u64 {
        let at = 1000 + step * 5;
        let client = u32::try_from(step % 24).unwrap_or(0) + 1;
        let proto = if client.is_multiple_of(3) { Proto::Tcp } else { Proto::Udp };
        let (w, id, counter) = (client, step, 0);
        let stalled = losses.iter().any(|loss| (*loss..loss + 310).contains(&at));
        let slow = if (3800..5800).contains(&at) { 80 * MS } else { 0 };
        let wait =
            losses.iter().find(|loss| (**loss..**loss + 300).contains(&at)).map_or(0, |loss| loss + 310 - at);
        let at = at * MS;
        records.push(Record::Send { at, w, proto, client, id, counter, attempt: 1 });
        if step != 6000 {
            let took = wait * MS + slow + MS / 2 + splitmix64(step) % (3 * MS);
            let (boot, value, uptime, flags) = (1, 1, 1, 0);
            records.push(Record::Reply {
                at: at + took,
                w,
                proto,
                client,
                id,
                counter,
                value,
                boot,
                uptime,
                flags,
            });
        }
        if step.is_multiple_of(10) {
            bytes += if stalled { 0 } else { 150_000 + splitmix64(step) % 20_000 };
            records.push(Record::Down { at, w: 30, bytes });
        }
    }
    records
}

#[test]
fn the_picture_shows_what_happened() {
    let (records, events, verdict) = drill();
    let svg = timeline_svg("A <made-up> drill", &records, &events, &verdict);
    // To look at it: TIMELINE_SVG=FILE cargo test -p xtask picture
    if let Some(path) = std::env::var_os("TIMELINE_SVG") {
        std::fs::write(path, &svg).expect("the path can be written");
    }
    for expected in [
        "A &lt;made-up&gt; drill",
        "FAIL  15812 requests: 1 lost",
        ">plug alpha: 300 ms<",
        ">plug beta: 300 ms<",
        ">crash gamma: 300 ms<",
        ">hold 150 ms<",
        ">round trip 80 ms<",
        ">fill gamma<",
        ">fill delta<",
    ] {
        assert!(svg.contains(expected), "missing: {expected}");
    }
    assert_eq!(svg.matches("m0 -8l-8 8").count(), 1, "one lost request, one cross");
    assert!(svg.len() < 500_000, "{} bytes", svg.len());
}

#[test]
fn nothing_at_all_is_still_a_picture() {
    let svg = timeline_svg("empty", &[], &[], &Verdict::default());
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn roles_follow_the_events() {
    let (_, events, _) = drill();
    let told: Vec<String> = roles(&events)
        .into_iter()
        .map(|(host, row)| {
            let names: Vec<&str> = row.iter().map(|role| role.name).collect();
            format!("{host}: {}", names.join(", "))
        })
        .collect();
    assert_eq!(
        told,
        [
            "alpha: primary",
            "beta: secondary, alone, primary",
            "gamma: being filled, secondary, alone, primary",
            "delta: being filled, secondary, alone",
        ]
    );
}

#[test]
fn names_cannot_become_markup() {
    assert_eq!(escape("a<b>&\"\u{7}"), "a&lt;b&gt;&amp;&quot; ");
}

#[test]
fn ticks_are_round() {
    assert_eq!(ticks(40.0, 12.0), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0]);
    assert_eq!(ticks(0.0, 12.0), [0.0]);
    assert_eq!(ticks(f64::NAN, 12.0), [0.0]);
}

/// Thirty losses in a row: labels that find no room are left out, none covers another.
#[test]
fn crowded_labels_do_not_overlap() {
    let hosts = ["alpha", "beta", "gamma", "delta"];
    let events: Vec<DrillEvent> = (0..30_usize)
        .map(|number| DrillEvent::Plug {
            at: u64::try_from(number).unwrap_or(0) * 3000 * MS + 500 * MS,
            host: hosts[number % 4].into(),
            killed: 0,
            survivor: hosts[(number + 1) % 4].into(),
        })
        .collect();
    let svg = timeline_svg("thirty", &[], &events, &Verdict::default());
    if let Some(path) = std::env::var_os("TIMELINE_CROWDED_SVG") {
        std::fs::write(path, &svg).expect("the path can be written");
    }
    let mut labels: Vec<(String, f64, f64)> = Vec::new();
    for line in svg.lines().filter(|line| line.contains(">plug ")) {
        let number = |name: &str| -> f64 {
            let rest = line.split_once(name).map_or("", |parts| parts.1);
            rest.split('"').next().unwrap_or("").parse().expect("a coordinate")
        };
        let words =
            line.split_once('>').and_then(|parts| parts.1.split_once('<')).map_or("", |parts| parts.0);
        labels.push((format!("{:.1}", number("y=\"")), number("x=\""), super::text_width(words)));
    }
    assert!(labels.len() >= 20, "{} labels", labels.len());
    labels.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    for pair in labels.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1 + pair[0].2 <= pair[1].1, "{pair:?}");
    }
}
