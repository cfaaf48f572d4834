use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lockstep::arbiter::Record;

use super::*;

fn state() -> LocalState {
    LocalState {
        record: Some(Record {
            generation: 7,
            holder: "alpha".into(),
            attempt: u128::MAX - 1,
            in_sync: vec!["alpha".into(), "beta".into()],
            stopped: false,
        }),
        withdrawn: vec![u128::MAX, 1],
        consistent: true,
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

#[test]
fn what_was_saved_is_found_again() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("deep/state");
    let open = StateDir::open(&path).expect("open");
    assert_eq!(open.load().expect("load"), LocalState::default());
    open.save(&state()).expect("save");
    assert!(matches!(StateDir::open(&path), Err(StateError::InUse(_))));
    drop(open);
    let open = StateDir::open(&path).expect("open again");
    assert_eq!(open.load().expect("load"), state());
    assert_eq!((mode(&path), mode(&path.join("state.json"))), (0o700, 0o600));
    assert!(!path.join("state.json.new").exists());
}

#[test]
fn a_damaged_or_newer_state_is_an_error_and_stays() {
    let dir = tempfile::tempdir().expect("directory");
    let open = StateDir::open(dir.path()).expect("open");
    let newer = r#"{"schema":"twinrun.state/2","state":{"record":null,"withdrawn":[],"consistent":true}}"#;
    for text in ["", "{", newer] {
        std::fs::write(dir.path().join("state.json"), text).expect("write");
        let error = open.load().expect_err("damaged");
        assert!(error.to_string().contains("let the other host refill this one"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("state.json")).expect("read"), text);
    }
}

#[test]
fn each_notice_is_one_line() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("journal.jsonl");
    let notice = Notice { event: "takeover", generation: 8, text: "first\nsecond \"x\"".into(), at: 12 };
    Journal::open(&path).expect("open").append(&notice).expect("append");
    Journal::open(&path).expect("open").append(&notice).expect("append");
    let text = std::fs::read_to_string(&path).expect("read");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["event"], "takeover");
    assert_eq!(lines[1]["generation"], 8);
    assert_eq!(lines[1]["monotonic_ns"], 12);
    assert_eq!(lines[1]["text"], "first\nsecond \"x\"");
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_full_journal_is_set_aside() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("journal.jsonl");
    File::create(&path).expect("create").set_len(JOURNAL_MAX).expect("set length");
    let notice = Notice { event: "start", generation: 1, text: "x".into(), at: 1 };
    Journal::open(&path).expect("open").append(&notice).expect("append");
    assert!(std::fs::metadata(&path).expect("metadata").len() < 200);
    let old = std::fs::metadata(dir.path().join("journal.jsonl.1")).expect("metadata");
    assert_eq!(old.len(), JOURNAL_MAX);
}

#[test]
fn times_are_written_as_rfc_3339() {
    // Reference values of `date -u -d @N +%FT%TZ`.
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000Z"),
        (4_102_444_799, "2099-12-31T23:59:59.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
    }
}
