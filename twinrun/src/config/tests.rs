use std::os::unix::fs::PermissionsExt;

use super::*;

const GOOD: &str = r#"[pair]
name = "micro"
key = "pair.key"
[arbiter]
witness = "10.79.0.200:7900"
key = "keys/witness.key"
[guest]
kernel = "micro.elf"
memory_mib = 32
cmdline = "ip=10.77.0.10/24"
nics = ["52:54:00:77:00:10"]
[hosts.alpha]
link = ["10.78.0.1:7800"]
state = "/var/lib/twinrun/micro"
taps = ["twin0"]
disks = ["disk.img"]
[hosts.beta]
link = ["10.78.0.2:7800"]
state = "state"
taps = ["twin0"]
disks = ["disk.img"]
"#;

fn config(text: &str) -> Result<Config, ConfigError> {
    resolve::config(Path::new("/etc/twinrun/pair.toml"), text)
}

/// Problems of `GOOD` after some replacements, without the path of the file.
fn problems(changes: &[(&str, &str)]) -> String {
    let mut text = GOOD.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    config(&text).expect_err("bad").to_string().replace("/etc/twinrun/", "")
}

#[test]
fn the_example_is_understood() {
    let config = config(GOOD).expect("good");
    assert_eq!(config.pair, "micro");
    assert_eq!(config.key, Path::new("/etc/twinrun/pair.key"));
    assert_eq!(config.level, Level::Lockstep);
    let key = PathBuf::from("/etc/twinrun/keys/witness.key");
    let address = "10.79.0.200:7900".parse().expect("address");
    assert_eq!(config.arbiter, Arbiter::Witness { address, key });
    assert_eq!(config.guest.nics, [[0x52, 0x54, 0, 0x77, 0, 0x10]]);
    assert_eq!(config.hosts["alpha"].state, Path::new("/var/lib/twinrun/micro"));
    assert_eq!(config.hosts["beta"].state, Path::new("/etc/twinrun/state"));
    assert_eq!(config.hosts["beta"].disks, [Path::new("/etc/twinrun/disk.img")]);
    assert_eq!(config.timing, Timing::default());
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let all = problems(&[
        ("\"micro\"", "\"mi cro\""),
        ("10.79.0.200:7900", "witness.example"),
        ("memory_mib = 32", "memory_mib = 3"),
        ("[\"52:54:00:77:00:10\"]", "[\"53:54:00:77:00:10\"]"),
        ("10.78.0.2:7800", "10.78.0.1:7800"),
        ("disks = [\"disk.img\"]", "disks = []"),
        ("taps = [\"twin0\"]", "taps = [\"a-very-long-name0\"]"),
    ]);
    assert_eq!(
        all,
        "\
pair.toml:2: pair.name: a name has 1 to 64 letters, digits, '-', '_' or '.': choose another
pair.toml:5: arbiter.witness: \"witness.example\" is no address: write IP:PORT, as \"10.78.0.1:7800\"
pair.toml:9: guest.memory_mib: 3 MiB cannot be given: write 4 to 65536
pair.toml:11: guest.nics: \"53:54:00:77:00:10\" is no address of an interface: write as \"52:54:00:77:00:10\"
pair.toml:15: hosts.alpha.taps: \"a-very-long-name0\" is no name of an interface (1 to 15 bytes): write as \"twin0\"
pair.toml:16: hosts.alpha.disks: 0 given, another host has 1: all hosts have the same number
pair.toml:18: hosts.beta.link: 10.78.0.1:7800 is used twice: give every host and the witness their own"
    );
}

#[test]
fn shape_is_checked_with_line_and_remedy() {
    let cases: [(&str, &str, &str); 6] = [
        (
            "memory_mib",
            "memory_mb",
            "pair.toml:9: unknown field `memory_mb`, expected one of `kernel`, `memory_mib`, `cmdline`, `nics`: correct or remove this key",
        ),
        ("memory_mib = 32\n", "", "pair.toml:7: missing field `memory_mib`: add it to this table"),
        (
            "memory_mib = 32",
            "memory_mib = \"32\"",
            "pair.toml:9: invalid type: string \"32\", expected u64: correct this line",
        ),
        ("memory_mib = 32", "memory_mib = -1", "pair.toml:9: "),
        ("[guest]", "[guest", "pair.toml:7: "),
        ("name = \"micro\"", "name = \"micro\"\nname = \"x\"", "pair.toml:3: "),
    ];
    for (from, to, expected) in cases {
        let text = problems(&[(from, to)]);
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert!(config("").is_err());
}

#[test]
fn each_rule_names_its_key() {
    let long = "x".repeat(120);
    let beta = &GOOD[GOOD.find("[hosts.beta]").expect("beta")..];
    let cases: &[(&str, &str, &str)] = &[
        (beta, "", "pair.toml:12: hosts: 1 given, a pair has 2 to 8"),
        (
            "10.78.0.2:7800",
            "10.79.0.200:7900",
            "pair.toml:18: hosts.beta.link: 10.79.0.200:7900 is used twice",
        ),
        ("10.78.0.2:7800", "0.0.0.0:7800", "pair.toml:18: hosts.beta.link: nobody can dial 0.0.0.0:7800"),
        ("10.78.0.2:7800", "10.78.0.2:0", "pair.toml:18: hosts.beta.link: nobody can dial"),
        ("[\"10.78.0.2:7800\"]", "[]", "pair.toml:18: hosts.beta.link: write 1 to 4 addresses"),
        ("taps = [\"twin0\"]", "taps = []", "pair.toml:15: hosts.alpha.taps: 0 given for 1 in guest.nics"),
        (
            "disks = [\"disk.img\"]",
            "disks = [\"a\", \"b\"]",
            "pair.toml:16: hosts.alpha.disks: the machine has room for 1 disk",
        ),
        (
            "\"52:54:00:77:00:10\"",
            "\"52:54:00:77:00:10\", \"52:54:00:77:00:10\"",
            "pair.toml:11: guest.nics: the machine has room for 1",
        ),
        (
            "\"52:54:00:77:00:10\"",
            "\"52:54:00:77:00:10\", \"52:54:00:77:00:10\"",
            "pair.toml:11: guest.nics: this address is there twice",
        ),
        ("/var/lib", &long, "pair.toml:14: hosts.alpha.state: its control socket's path has "),
        ("ip=10", &"i".repeat(2050), "pair.toml:10: guest.cmdline: must be one line of at most 2047 bytes"),
        ("micro.elf", "", "pair.toml:8: guest.kernel: this is no path"),
        ("[hosts.alpha]", "[hosts.\"al/pha\"]", "pair.toml:12: hosts.al/pha: a name has 1 to 64"),
        (
            "[hosts.alpha]",
            "[timing]\nsilence_ms = 90\n[hosts.alpha]",
            "pair.toml:13: timing.silence_ms: 90 ms cannot be used: write 4 × heartbeat_ms to 60000",
        ),
        ("[hosts.alpha]", "[timing]\nno_ack_ms = 90\n[hosts.alpha]", "pair.toml:13: timing.no_ack_ms: 90 ms"),
        (
            "[hosts.alpha]",
            "[timing]\nheartbeat_ms = 0\n[hosts.alpha]",
            "pair.toml:13: timing.heartbeat_ms: 0 ms",
        ),
        (
            "[hosts.alpha]",
            "[timing]\nheartbeat_ms = 9223372036854775807\n[hosts.alpha]",
            "pair.toml:12: timing.silence_ms: 250 ms",
        ),
    ];
    for (from, to, expected) in cases {
        let text = problems(&[(from, to)]);
        assert!(text.lines().any(|line| line.starts_with(expected)), "{expected}\n{text}");
    }
}

#[test]
fn the_shared_digest_leaves_out_what_may_differ() {
    let digest = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        config(&GOOD.replacen(from, to, 1)).expect("good").shared_digest()
    };
    let plain = digest("micro", "micro");
    for (from, to) in [
        ("pair.key", "other.key"),
        ("keys/witness.key", "w.key"),
        ("micro.elf", "else.elf"),
        ("/var/lib", "/srv"),
        ("twin0", "twin1"),
        ("disk.img", "sda.img"),
        ("[pair]", "# a remark\n[pair]"),
        ("[pair]", "[pair]\nlevel = \"lockstep\""),
    ] {
        assert_eq!(digest(from, to), plain, "{from}");
    }
    for (from, to) in [
        ("micro", "macro"),
        ("10.79.0.200", "10.79.0.201"),
        ("32", "33"),
        ("ip=10", "ip=11"),
        ("77:00:10", "77:00:11"),
        ("alpha", "gamma"),
        ("10.78.0.1", "10.78.0.3"),
        ("[pair]", "[timing]\nsilence_ms = 251\n[pair]"),
        ("[pair]", "[pair]\nlevel = \"checkpoint\""),
    ] {
        assert_ne!(digest(from, to), plain, "{from}");
    }
    let without_disks = config(&GOOD.replace("[\"disk.img\"]", "[]")).expect("good");
    assert_ne!(without_disks.shared_digest(), plain);
}

#[test]
fn an_unknown_level_is_told_with_the_known_ones() {
    let text = problems(&[("[pair]", "[pair]\nlevel = \"logged\"")]);
    assert!(text.contains("pair.toml:2: pair.level: the levels are \"lockstep\""), "{text}");
    assert!(text.contains("\"checkpoint\""), "{text}");
}

#[test]
fn the_host_is_the_named_one() {
    let config = config(GOOD).expect("good");
    assert_eq!(config.choose_host(Some("beta")).expect("beta").0, "beta");
    assert_eq!(
        config.choose_host(Some("gamma")).expect_err("none").to_string(),
        "/etc/twinrun/pair.toml: there is no host \"gamma\". Use --host with one of: alpha, beta"
    );
    // No machine of these names runs the tests, or this line would be reached with another host.
    let hosts = BTreeMap::from([("no.such.host".to_owned(), config.hosts["alpha"].clone())]);
    let error = Config { hosts, ..config }.choose_host(None).expect_err("none").to_string();
    assert!(error.ends_with("which is none of its hosts. Use --host with one of: no.such.host"), "{error}");
}

#[test]
fn shared_files_are_read_and_checked_with_the_rest() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("pair.toml");
    std::fs::write(&file, GOOD.replace("memory_mib = 32", "memory_mib = 0")).expect("write");
    crate::key::generate(&dir.path().join("pair.key")).expect("key");
    std::fs::set_permissions(dir.path().join("pair.key"), PermissionsExt::from_mode(0o644)).expect("chmod");
    let error = Loaded::read(&file).expect_err("bad");
    let keys: Vec<(usize, &str)> =
        error.problems.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    assert_eq!(keys, [(3, "pair.key"), (6, "arbiter.key"), (8, "guest.kernel"), (9, "guest.memory_mib")]);
    let text = error.to_string();
    for remedy in ["run `chmod 600 ", "make it with `twinrun keygen ", "name the guest's ELF file"] {
        assert!(text.contains(remedy), "{text}");
    }

    std::fs::write(&file, GOOD.replace("keys/witness.key", "pair.key")).expect("write");
    std::fs::set_permissions(dir.path().join("pair.key"), PermissionsExt::from_mode(0o600)).expect("chmod");
    std::fs::write(dir.path().join("micro.elf"), b"ELF").expect("write");
    let loaded = Loaded::read(&file).expect("good");
    assert_eq!(loaded.kernel, b"ELF");
    assert_eq!(loaded.kernel_digest, content_digest(b"ELF"));
    assert_eq!(loaded.pair_secret, loaded.witness_secret);
}

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("pair.toml");
    let problem = |file: &Path| Config::read(file).expect_err("bad").problems.remove(0).text;
    assert!(problem(&file).starts_with("cannot read it: "));
    std::fs::write(&file, [0xff, 0xfe]).expect("write");
    assert!(problem(&file).starts_with("not UTF-8"));
    std::fs::write(&file, vec![b'#'; (1 << 20) + 1]).expect("write");
    assert!(problem(&file).starts_with("larger than 1 MiB"));
}
