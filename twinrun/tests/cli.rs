//! The command as people meet it: exit codes, last lines, errors with a remedy.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::json;
use twinrun::control::Control;

const PAIR: &str = r#"
[pair]
name = "micro"
key = "pair.key"
[arbiter]
witness = "10.79.0.200:7900"
key = "pair.key"
[guest]
kernel = "micro.elf"
memory_mib = 32
nics = []
[hosts.alpha]
link = ["10.78.0.1:7800"]
state = "alpha"
taps = []
disks = ["disk.img"]
[hosts.beta]
link = ["10.78.0.2:7800"]
state = "beta"
taps = []
disks = ["disk.img"]
"#;

fn twinrun(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twinrun")).args(arguments).current_dir(dir).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("directory");
    std::fs::write(dir.path().join("pair.toml"), PAIR).expect("write");
    std::fs::write(dir.path().join("micro.elf"), "ELF").expect("write");
    std::fs::write(dir.path().join("disk.img"), [0; 1024]).expect("write");
    dir
}

#[test]
fn check_finds_what_is_missing_and_then_is_content() {
    let dir = files();
    let output = twinrun(dir.path(), &["check", "pair.toml", "--host", "alpha"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr)
            .contains("pair.toml:4: pair.key: no key file pair.key: make it with `twinrun keygen pair.key`"),
        "{output:?}"
    );

    let output = twinrun(dir.path(), &["keygen", "pair.key"]);
    assert!(output.status.success(), "{output:?}");
    let again = twinrun(dir.path(), &["keygen", "pair.key"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("exists already and is left as it is"));

    let output = twinrun(dir.path(), &["check", "pair.toml", "--host", "alpha"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).starts_with("OK  host alpha of pair micro can run: 32 MiB guest"));
    assert!(!dir.path().join("alpha").exists(), "check changes nothing");

    std::fs::write(dir.path().join("disk.img"), [0; 1000]).expect("write");
    let output = twinrun(dir.path(), &["check", "pair.toml", "--host", "alpha"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("disk.img has 1000 bytes"), "{output:?}");
}

#[test]
fn status_tells_with_its_exit_code() {
    let dir = files();
    let status = |arguments: &[&str]| twinrun(dir.path(), &[&["status", "pair.toml"], arguments].concat());
    let output = status(&["--host", "alpha"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("micro   alpha: not running on this machine"));
    assert_eq!(status(&["--host", "gamma"]).status.code(), Some(3));

    std::fs::create_dir(dir.path().join("alpha")).expect("directory");
    let socket = dir.path().join("alpha/control.sock");
    for (role, protected, code, start) in [
        ("primary", true, 0, "micro   PROTECTED  lockstep"),
        ("alone", false, 1, "micro   NOT PROTECTED since 1.5 s  running alone on alpha"),
        ("stopped", false, 2, "micro   NOT RUNNING"),
    ] {
        let value = json!({ "pair": "micro", "host": "alpha", "role": role, "level": "lockstep", "protected": protected, "since_ms": 1500 });
        let answer = value.clone();
        let control = Control::start(&socket, Arc::new(move || answer.clone())).expect("control");
        let output = status(&["--host", "alpha"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(text(&output.stdout).starts_with(start), "{output:?}");
        let output = status(&["--host", "alpha", "--json"]);
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON"), value);
        drop(control);
    }
}

#[test]
fn a_machine_that_is_no_host_is_told_the_names() {
    let dir = files();
    twinrun(dir.path(), &["keygen", "pair.key"]);
    let output = twinrun(dir.path(), &["run", "pair.toml", "--host", "gamma"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no host \"gamma\". Use --host with one of: alpha, beta"));
}

#[test]
fn version_is_one_line_or_json() {
    let dir = files();
    let line = text(&twinrun(dir.path(), &["version"]).stdout);
    assert!(line.starts_with("twinrun 0.") && line.ends_with(")\n"), "{line}");
    let value: serde_json::Value =
        serde_json::from_slice(&twinrun(dir.path(), &["version", "--json"]).stdout).expect("JSON");
    assert_eq!(value["wire"], lockstep::WIRE_VERSION);
}
