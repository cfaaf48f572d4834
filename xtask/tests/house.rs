//! The rules of the house: who may import whom, and what must be absent where. Each rule is a pure function over
//! text, tried on a planted violation before it is believed.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use source::{Token, is_test_module, tokens, without_tests};

/// Their types meet at our interfaces: two versions of one would not fit together.
const ONE_VERSION: [&str; 7] = [
    "kvm-ioctls",
    "kvm-bindings",
    "vm-memory",
    "vmm-sys-util",
    "virtio-queue",
    "virtio-bindings",
    "linux-loader",
];

/// The rooms that each room may import. A room that is not here may import any.
const FLOORS: [(&str, &[&str]); 5] = [
    ("devices", &[]),
    ("vmm", &["devices"]),
    ("lockstep", &[]),
    ("guest-images", &[]),
    ("twinrun", &["devices", "vmm", "lockstep"]),
];

/// Where `unsafe` may be written. Each block says why it is sound; clippy sees to that.
const UNSAFE: [&str; 4] = ["vmm/", "guest-images/micro/", "twinrun/src/host/sys.rs", "xtask/src/ns.rs"];

/// No clock, thread, socket, file, environment or random order in here.
const SANS_IO: [&str; 9] = [
    "devices/src",
    "lockstep/src/core",
    "lockstep/src/runner",
    "lockstep/src/log.rs",
    "lockstep/src/machine.rs",
    "lockstep/src/message.rs",
    "lockstep/src/arbiter.rs",
    "lockstep/src/codec.rs",
    "lockstep/src/wire.rs",
];

/// The one file that may use more of bincode than its two traits.
const CODEC: &str = "lockstep/src/codec.rs";

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `.rs` file at or below `path`, relative to the workspace, sorted.
fn rust_files(path: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![PathBuf::from(path)];
    while let Some(path) = left.pop() {
        let full = workspace().join(&path);
        if full.is_dir() {
            let entries = fs::read_dir(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
            let names = entries.map(|entry| entry.expect("a directory entry").file_name());
            left.extend(names.filter(|name| name != "target").map(|name| path.join(name)));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path.to_str().expect("our file names are ASCII").to_owned());
        }
    }
    assert!(!found.is_empty(), "{path} has no Rust file: the rule looks at the wrong place");
    found.into_iter().collect()
}

/// Every `.rs` file of the workspace and of the micro guest.
fn all_rust_files() -> Vec<String> {
    let rooms = ["devices", "vmm", "lockstep", "twinrun", "guest-images", "benches", "xtask"];
    rooms.into_iter().flat_map(rust_files).collect()
}

// --- one version of each crate ---

/// The crates of `wanted` that a lock file does not have exactly once.
fn not_exactly_once(lock: &str, wanted: &[&str]) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(value) = line.strip_prefix("name = ") {
            name = value.trim_matches('"');
        } else if let Some(value) = line.strip_prefix("version = ") {
            versions.entry(name).or_default().push(value.trim_matches('"'));
        }
    }
    let found = |name: &&str| versions.get(*name).cloned().unwrap_or_default();
    wanted
        .iter()
        .map(|name| (name, found(name)))
        .filter(|(_, found)| found.len() != 1)
        .map(|(name, found)| format!("{name}: {found:?}"))
        .collect()
}

#[test]
fn there_is_one_version_of_each_virtualisation_crate() {
    let lock = read("Cargo.lock");
    assert_eq!(not_exactly_once(&lock, &ONE_VERSION), [""; 0]);

    let second = lock.clone() + "\n[[package]]\nname = \"vm-memory\"\nversion = \"0.16.2\"\n";
    let found = not_exactly_once(&second, &ONE_VERSION);
    assert!(
        matches!(&found[..], [one] if one.starts_with("vm-memory: [") && one.contains("0.16.2")),
        "{found:?}"
    );
    assert_eq!(not_exactly_once("", &["vm-memory"]), ["vm-memory: []"]);
}

// --- floors ---

/// Imports that the floors do not allow, and the imports that are there. `metadata` is `cargo metadata`'s.
fn imports(metadata: &Value) -> (Vec<String>, BTreeSet<(String, String)>) {
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |package: &Value| package["name"].as_str().expect("a name").to_owned();
    let rooms: BTreeSet<String> = packages.iter().map(name).collect();
    let mut edges = BTreeSet::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let imported = name(dependency);
            if rooms.contains(&imported) {
                edges.insert((name(package), imported));
            }
        }
    }
    let forbidden = |(room, imported): &&(String, String)| {
        FLOORS.iter().any(|(name, may)| name == room && !may.contains(&imported.as_str()))
    };
    let wrong = edges.iter().filter(forbidden).map(|(room, imported)| format!("{room} imports {imported}"));
    (wrong.collect(), edges)
}

#[test]
fn rooms_import_only_what_is_below_them() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output =
        std::process::Command::new(cargo).args(arguments).current_dir(workspace()).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");

    let (wrong, edges) = imports(&metadata);
    assert_eq!(wrong, [""; 0]);
    for (room, imported) in [("vmm", "devices"), ("twinrun", "vmm"), ("twinrun", "lockstep")] {
        assert!(
            edges.contains(&(room.to_owned(), imported.to_owned())),
            "the import of {imported} by {room} is not seen"
        );
    }

    for package in metadata["packages"].as_array_mut().expect("packages") {
        if package["name"] == "lockstep" {
            let planted = json!({ "name": "vmm", "kind": "dev", "rename": "machines" });
            package["dependencies"].as_array_mut().expect("dependencies").push(planted);
        }
    }
    assert_eq!(imports(&metadata).0, ["lockstep imports vmm"]);
}

// --- unsafe ---

/// Lines of a file on which the keyword stands.
fn unsafe_lines(text: &str) -> Vec<usize> {
    tokens(text).into_iter().filter(|token| token.is("unsafe")).map(|token| token.line).collect()
}

/// Whether the file forbids `unsafe` to its whole crate.
fn forbids_unsafe(text: &str) -> bool {
    let attribute = ["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"];
    tokens(text)
        .windows(attribute.len())
        .any(|window| window.iter().zip(attribute).all(|(token, word)| token.is(word)))
}

#[test]
fn unsafe_code_is_where_it_belongs() {
    let mut wrong = Vec::new();
    for path in all_rust_files() {
        if !UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
            wrong.extend(unsafe_lines(&read(&path)).iter().map(|line| format!("{path}:{line}")));
        }
    }
    assert_eq!(wrong, [""; 0]);
    for allowed in UNSAFE {
        let used = rust_files(allowed).iter().any(|path| !unsafe_lines(&read(path)).is_empty());
        assert!(used, "{allowed} needs no unsafe any more: take it off the list");
    }
    for root in ["devices/src/lib.rs", "lockstep/src/lib.rs"] {
        assert!(forbids_unsafe(&read(root)), "{root} does not forbid unsafe code");
    }

    let planted = "//! unsafe\n#![deny(unsafe_code)]\n/* unsafe /* */ unsafe */\nlet a = \"unsafe \\\" unsafe\"; let b = r#\"\"unsafe\"#;\nlet c = '\"';\nunsafe { f::<'a>() }\n";
    assert_eq!(unsafe_lines(planted), [6]);
    assert!(!forbids_unsafe(planted) && !forbids_unsafe("// #![forbid(unsafe_code)]"));
    assert!(forbids_unsafe("#![forbid( unsafe_code )]"));
}

// --- no clock, thread, socket, file or random order ---

const BAD_NAMES: [&str; 9] = [
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
    "rand",
    "rand_chacha",
    "libc",
    "crossbeam_channel",
    "snow",
];
const BAD_STD: [&str; 6] = ["thread", "net", "fs", "process", "env", "os"];

/// What breaks the rule, with its line. Code of tests does not count.
fn impure(text: &str) -> Vec<(usize, String)> {
    let code = without_tests(&tokens(text));
    let mut found: Vec<_> = code
        .iter()
        .filter(|token| BAD_NAMES.iter().any(|name| token.is(name)))
        .map(|token| (token.line, token.text.clone()))
        .collect();
    for name in BAD_STD {
        found.extend(
            members_of("std", &code)
                .filter(|token| token.is(name))
                .map(|token| (token.line, format!("std::{name}"))),
        );
    }
    found.sort();
    found
}

/// The names that directly follow `root::`, also inside the braces of a `use`.
fn members_of<'t>(root: &'static str, code: &'t [Token]) -> impl Iterator<Item = &'t Token> {
    let starts =
        code.windows(4).enumerate().filter(move |(_, w)| w[0].is(root) && w[1].is(":") && w[2].is(":"));
    starts.flat_map(|(at, window)| if window[3].is("{") { group(&code[at + 3..]) } else { vec![&window[3]] })
}

/// The first name of each entry of the braces that `code` begins with.
fn group(code: &[Token]) -> Vec<&Token> {
    let mut names = Vec::new();
    let mut depth = 0;
    for pair in code.windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (pair[0].is("{") || pair[0].is(",")) {
            names.push(&pair[1]);
        }
    }
    names
}

#[test]
fn the_deterministic_part_owns_no_clock_thread_socket_file_or_random_order() {
    let mut wrong = Vec::new();
    let files: BTreeMap<String, String> =
        SANS_IO.into_iter().flat_map(rust_files).map(|path| (path.clone(), read(&path))).collect();
    for (path, text) in &files {
        if !is_test_module(path, &files) {
            wrong.extend(impure(text).into_iter().map(|(line, what)| format!("{path}:{line}: {what}")));
        }
    }
    assert_eq!(wrong, [""; 0]);

    let planted = "use std::{collections::HashMap,\n io::{self, net}, fs};\nlet t = std::time::Instant::now();\n\
                   std :: thread::sleep(d);\n#[cfg(test)]\nmod tests { use std::fs; fn f() { HashSet::new(); } }\nlet s = SystemTime;\n\
                   // HashSet\nlet thread = \"std::net\";\n#[cfg(test)]\nmod more;\nlet r = rand::rng();";
    let found: Vec<_> = impure(planted).into_iter().map(|(line, what)| format!("{line} {what}")).collect();
    assert_eq!(found, ["1 HashMap", "2 std::fs", "3 Instant", "4 std::thread", "7 SystemTime", "12 rand"]);

    let mut files = BTreeMap::from([
        ("a/src/lib.rs".to_owned(), "#[cfg(test)]\nmod tests;\nmod real;".to_owned()),
        ("a/src/tests.rs".to_owned(), String::new()),
        ("a/src/tests/more.rs".to_owned(), String::new()),
        ("a/src/real.rs".to_owned(), String::new()),
    ]);
    let test_modules = |files: &BTreeMap<String, String>| -> Vec<String> {
        files.keys().filter(|path| is_test_module(path, files)).cloned().collect()
    };
    assert_eq!(test_modules(&files), ["a/src/tests.rs", "a/src/tests/more.rs"]);
    files.insert("a/src/lib.rs".to_owned(), "mod tests;\nmod real;".to_owned());
    assert_eq!(test_modules(&files), [""; 0], "a name alone makes no test module");
}

// --- bincode ---

/// Uses of bincode beyond its two traits and what belongs to their derives.
fn bincode_uses(text: &str) -> Vec<(usize, String)> {
    let code = tokens(text);
    let named = code.iter().filter(|token| token.is("bincode")).count();
    let members: Vec<&Token> = members_of("bincode", &code).collect();
    let paths = code.windows(3).filter(|w| w[0].is("bincode") && w[1].is(":") && w[2].is(":")).count();
    let mut wrong: Vec<_> = members
        .into_iter()
        .filter(|token| !token.is("Encode") && !token.is("Decode"))
        .map(|token| (token.line, format!("bincode::{}", token.text)))
        .collect();
    if named > paths {
        wrong.push((0, "bincode under another name".to_owned()));
    }
    wrong
}

#[test]
fn one_module_knows_bincode() {
    let mut wrong = Vec::new();
    for path in all_rust_files() {
        if path != CODEC {
            wrong.extend(
                bincode_uses(&read(&path)).into_iter().map(|(line, what)| format!("{path}:{line}: {what}")),
            );
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(!bincode_uses(&read(CODEC)).is_empty(), "{CODEC} no longer uses bincode: the rule is blind");

    let planted = "use bincode::{Decode, Encode, config};\nuse bincode::Encode;\nbincode::encode_to_vec(x);\n\"bincode::y\"";
    let found: Vec<_> =
        bincode_uses(planted).into_iter().map(|(line, what)| format!("{line} {what}")).collect();
    assert_eq!(found, ["1 bincode::config", "3 bincode::encode_to_vec"]);
    assert_eq!(bincode_uses("use bincode as b;").len(), 1);
}
