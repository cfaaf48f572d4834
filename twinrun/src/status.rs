//! A host's status for people: one loud line, and what a tired person can act on.
//!
//! The object (schema `twinrun.status/1`) comes from another process, perhaps of another version: a value
//! that is missing or of another type is shown as `unknown`, never guessed.

use serde_json::Value;

/// Documented exit codes of `twinrun status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// A host may die now and nobody would notice.
    Protected = 0,
    /// The guest runs, and a host failure would stop it.
    Unprotected = 1,
    /// This host runs no process of the pair, or no guest yet, or its guest is off.
    NotRunning = 2,
    /// No usable answer.
    CannotTell = 3,
}

/// What the status object says.
#[must_use]
pub fn level(status: &Value) -> Level {
    match (text(status, "/role"), status.pointer("/protected").and_then(Value::as_bool)) {
        (Some("stopped" | "starting"), _) => Level::NotRunning,
        (Some(_), Some(true)) => Level::Protected,
        (Some(_), Some(false)) => Level::Unprotected,
        _ => Level::CannotTell,
    }
}

/// The object as people read it: two or three lines without the last line's end.
#[must_use]
pub fn render(status: &Value) -> String {
    let pair = text(status, "/pair").unwrap_or("unknown");
    let indent = " ".repeat(pair.chars().count() + 3);
    let mut out = format!("{pair}   {}", headline(status));
    if let Some(epochs) = epochs(status) {
        out += &format!("\n{indent}{epochs}");
    }
    out += &format!("\n{indent}last failover: {}", takeover(status));
    if let Some(trouble) = text(status, "/arbiter_trouble") {
        let then = match level(status) {
            Level::Protected => {
                "; if a host fails meanwhile, the other one holds the guest until this is over"
            }
            _ => "",
        };
        out += &format!("\n{indent}WARNING: no arbiter: {}{then}", trouble.replace('\n', " "));
    }
    if let Some(notice) = text(status, "/last_notice").filter(|notice| !notice.is_empty()) {
        out += &format!("\n{indent}{}", notice.replace('\n', " "));
    }
    out
}

fn headline(status: &Value) -> String {
    let generation = number(status, "/generation");
    let host = text(status, "/host").unwrap_or("unknown");
    let peer = text(status, "/peer").unwrap_or("unknown");
    let since = status.pointer("/since_ms").and_then(Value::as_u64).map_or_else(unknown, duration);
    let percent = status.pointer("/fill_percent").and_then(Value::as_u64);
    let filled = percent.map_or_else(String::new, |percent| format!(" ({percent} %)"));
    let what = match text(status, "/role") {
        Some("alone") => format!("running alone on {host} (generation {generation})"),
        Some("filling") => {
            format!("running alone on {host} (generation {generation}), filling {peer}{filled}")
        }
        Some("joining") => format!("{host} is being filled by {peer} (generation {generation})"),
        Some("arbitrating") => format!("{host} asks the arbiter who goes on (generation {generation})"),
        Some("holding") => format!(
            "HELD: {host} has lost {peer} and cannot reach the arbiter; the guest is frozen until one of them answers, and \
             both are asked all the time"
        ),
        Some("starting") => format!("{host} is starting and looks for the other hosts"),
        Some("taking-over") => format!("{host} takes over from {peer} (generation {generation})"),
        Some("stopped") => format!("the guest is off (generation {generation})"),
        Some("primary") => protected(status, host, peer, host),
        Some("secondary") => protected(status, peer, host, host),
        _ => format!("{host} is in a state that this program does not know; use the same version"),
    };
    match level(status) {
        Level::Protected => {
            format!("PROTECTED  {} · {what}", text(status, "/level").unwrap_or("unknown level"))
        }
        Level::Unprotected => format!("NOT PROTECTED since {since}  {what}"),
        Level::NotRunning => format!("NOT RUNNING  {what}"),
        Level::CannotTell => format!("CANNOT TELL  {what}"),
    }
}

fn protected(status: &Value, primary: &str, secondary: &str, here: &str) -> String {
    let lag =
        status.pointer("/lag_ms").and_then(Value::as_f64).map_or_else(unknown, |ms| format!("{ms:.1} ms"));
    let traffic = |way: &str| status.pointer(way).and_then(Value::as_u64).map_or_else(unknown, bytes);
    format!(
        "primary {primary} (generation {}) · secondary {secondary} {lag} behind · link {} out, {} in at {here}",
        number(status, "/generation"),
        traffic("/link/bytes_sent"),
        traffic("/link/bytes_received"),
    )
}

/// How the epochs of a primary ended, since it was started. Nothing if none was acknowledged.
fn epochs(status: &Value) -> Option<String> {
    let count = |name: &str| status.pointer(&format!("/epochs/{name}")).and_then(Value::as_u64);
    let acked = count("acked").filter(|acked| *acked > 0)?;
    let share = |part: u64| part.saturating_mul(100) / acked;
    let landed = |key: &str| number(status, &format!("/latency_us/due_to_landed/{key}"));
    Some(format!(
        "{acked} epochs: ended at an exit {} %, at a landing {} % (due to landed {} µs, 99 of 100 within {} µs), anywhere \
         {} %; {} % needed no repair, the others {} pages",
        share(count("exit")?),
        share(count("landing")?),
        landed("p50"),
        landed("p99"),
        share(count("async")?),
        share(count("unrepaired")?),
        count("pages_shipped")?
    ))
}

fn takeover(status: &Value) -> String {
    let Some(takeover) = status.pointer("/takeover") else { return unknown() };
    if takeover.is_null() {
        return "never".to_owned();
    }
    let ms = |key: &str| takeover.get(key).and_then(Value::as_f64);
    let shown = |key: &str| ms(key).map_or_else(unknown, |ms| format!("{ms:.0} ms"));
    let cause = takeover.get("cause").and_then(Value::as_str).unwrap_or("unknown");
    // Each span begins where the one before it ends.
    let parts = ["silence_ms", "arbitration_ms", "replay_ms", "first_frame_ms"];
    let gap = match parts.map(ms).into_iter().sum::<Option<f64>>() {
        Some(gap) => format!("first frame out after {gap:.0} ms"),
        None => "no frame out since".to_owned(),
    };
    let [silence, arbitration, replay, frame] = parts.map(shown);
    format!(
        "{cause}; {gap} (silence {silence}, arbitration {arbitration}, replay {replay}, first frame {frame})"
    )
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn text<'a>(status: &'a Value, pointer: &str) -> Option<&'a str> {
    status.pointer(pointer).and_then(Value::as_str)
}

fn number(status: &Value, pointer: &str) -> String {
    status.pointer(pointer).and_then(Value::as_u64).map_or_else(unknown, |number| number.to_string())
}

/// A span of time with one unit.
fn duration(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// A number of bytes in decimal units, rounded down.
fn bytes(count: u64) -> String {
    let mut unit = 1;
    for name in ["B", "kB", "MB", "GB"] {
        if count / unit < 1000 {
            let tenths = count % unit * 10 / unit;
            return if unit == 1 {
                format!("{count} B")
            } else {
                format!("{}.{tenths} {name}", count / unit)
            };
        }
        unit *= 1000;
    }
    format!("{} TB", count / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(role: &str, protected: bool) -> Value {
        json!({
            "schema": "twinrun.status/1", "pair": "micro", "host": "alpha", "role": role,
            "protected": protected, "level": "lockstep", "generation": 7, "peer": "beta", "since_ms": 12_400,
            "link": { "bytes_sent": 1_250_000, "bytes_received": 999 }, "lag_ms": 3.04,
            "takeover": null, "last_notice": "",
        })
    }

    #[test]
    fn a_protected_pair_in_two_lines() {
        let protected = status("primary", true);
        assert_eq!(
            render(&protected),
            "micro   PROTECTED  lockstep · primary alpha (generation 7) · secondary beta 3.0 ms behind · link 1.2 MB out, 999 B in at alpha\n\
             \x20       last failover: never"
        );
        assert_eq!(level(&protected), Level::Protected);
        assert!(render(&status("secondary", true)).contains("primary beta (generation 7) · secondary alpha"));
    }

    #[test]
    fn a_primary_tells_how_its_epochs_ended() {
        let mut protected = status("primary", true);
        protected["epochs"] = json!({
            "acked": 200, "exit": 60, "landing": 120, "async": 20, "unrepaired": 176, "pages_shipped": 310,
        });
        protected["latency_us"] = json!({ "due_to_landed": { "count": 120, "p50": 110, "p99": 900 } });
        let line = "\n        200 epochs: ended at an exit 30 %, at a landing 60 % (due to landed 110 µs, 99 of 100 \
                    within 900 µs), anywhere 10 %; 88 % needed no repair, the others 310 pages\n";
        assert!(render(&protected).contains(line), "{}", render(&protected));
    }

    #[test]
    fn an_arbiter_out_of_reach_is_a_warning_that_says_what_it_means() {
        let mut protected = status("primary", true);
        protected["arbiter_trouble"] = json!("witness 10.79.0.200:7900: silent");
        assert_eq!(level(&protected), Level::Protected);
        let told = render(&protected);
        assert!(
            told.contains("\n        WARNING: no arbiter: witness 10.79.0.200:7900: silent; if a host"),
            "{told}"
        );
        let mut held = status("holding", false);
        held["arbiter_trouble"] = json!("witness: silent");
        assert!(render(&held).ends_with("WARNING: no arbiter: witness: silent"), "{}", render(&held));
    }

    #[test]
    fn a_lone_host_is_loud_about_it() {
        let mut alone = status("alone", false);
        alone["takeover"] = json!({
            "silence_ms": 251, "arbitration_ms": 9.2, "replay_ms": 4, "first_frame_ms": 48, "cause": "beta was silent",
        });
        alone["last_notice"] = json!("beta: no answer\non the link");
        assert_eq!(
            render(&alone),
            "micro   NOT PROTECTED since 12 s  running alone on alpha (generation 7)\n\
             \x20       last failover: beta was silent; first frame out after 312 ms (silence 251 ms, arbitration 9 ms, replay 4 ms, first frame 48 ms)\n\
             \x20       beta: no answer on the link"
        );
        assert_eq!(level(&alone), Level::Unprotected);
        alone["takeover"]["first_frame_ms"] = json!(null);
        assert!(render(&alone).contains("beta was silent; no frame out since (silence 251 ms, "));
    }

    #[test]
    fn what_is_missing_or_strange_is_unknown() {
        for odd in
            [json!({}), json!([]), json!(null), json!({ "role": 5, "pair": {}, "takeover": 3, "link": [] })]
        {
            assert_eq!(level(&odd), Level::CannotTell);
            assert!(render(&odd).starts_with("unknown   CANNOT TELL"), "{}", render(&odd));
        }
        let mut newer = status("dancing", false);
        assert!(render(&newer).contains("use the same version"));
        newer["protected"] = json!("yes");
        assert_eq!(level(&newer), Level::CannotTell);
    }

    #[test]
    fn a_fill_shows_how_far_it_is() {
        let mut filling = status("filling", false);
        filling["fill_percent"] = json!(41);
        assert!(render(&filling).contains("running alone on alpha (generation 7), filling beta (41 %)\n"));
    }

    #[test]
    fn a_guest_that_is_off_or_not_started_is_not_running() {
        assert_eq!(level(&status("starting", false)), Level::NotRunning);
        assert_eq!(level(&status("stopped", false)), Level::NotRunning);
        assert!(render(&status("stopped", false)).starts_with("micro   NOT RUNNING  the guest is off"));
    }

    #[test]
    fn figures_have_one_unit() {
        assert_eq!(
            [0, 999, 1000, 1_990_000, 12_000_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "1.9 MB", "12.0 GB"]
        );
        assert_eq!(bytes(u64::MAX), "18446744 TB");
        assert_eq!(
            [9_999, 119_999, 7_199_999, 36_000_000].map(duration),
            ["9.9 s", "119 s", "119 min", "10 h"]
        );
    }
}
