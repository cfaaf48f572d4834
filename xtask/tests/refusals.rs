//! The pair as its operators meet it: what `twinrun` says, what it refuses, and what it leaves alone. Needs root,
//! /dev/net/tun and /dev/kvm.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read as _};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use guest_images::MicroOptions;
use serde_json::Value;
use xtask::load::message::{COUNTER_PORT, FLAG_REPEATED, Reply, Request};
use xtask::world::{Proc, World};

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_xtask");
/// What has not come by now never comes.
const LONG: Duration = Duration::from_secs(40);
/// Between two looks, and between two tries of the client.
const LOOK: Duration = Duration::from_millis(30);
const RETRY: Duration = Duration::from_millis(200);
const HOSTS: [&str; 2] = ["alpha", "beta"];
const DISK_BYTES: u64 = 8 << 20;

const PAIR: &str = r#"[pair]
name = "shop"
key = "pair.key"

[arbiter]
witness = "10.79.0.200:7900"
key = "witness.key"

[guest]
kernel = "micro.elf"
memory_mib = 32
cmdline = "ip=10.77.0.10/24"
nics = ["52:54:00:77:00:10"]

[hosts.alpha]
link = ["10.78.0.1:7800"]
state = "state"
taps = ["twin0"]
disks = ["disk.img"]

[hosts.beta]
link = ["10.78.0.2:7800"]
state = "state"
taps = ["twin0"]
disks = ["disk.img"]
"#;

/// Why these tests cannot run here; `None` if they can.
fn obstacle() -> Option<String> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    let kvm = || kvm.err().map(|error| format!("the guest needs a usable /dev/kvm ({error})"));
    xtask::world::obstacle().or_else(kvm)
}

/// Says why a test cannot run here.
macro_rules! need_kvm {
    () => {
        if let Some(why) = obstacle() {
            println!("SKIPPED: {why}");
            return;
        }
    };
}

/// The command that is tested: built with this test in a workspace build, else now.
fn twinrun() -> PathBuf {
    let beside = Path::new(EXECUTABLE).with_file_name("twinrun");
    if !beside.exists() {
        let target = Path::new(EXECUTABLE).ancestors().nth(2).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--quiet", "--package", "twinrun", "--target-dir"];
        assert!(Command::new(cargo).args(build).arg(target).status().unwrap().success());
    }
    beside
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

/// Waits for something that must come; its absence is an error, its lateness is not judged.
fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "never came: {what}; last seen: {seen}"),
        }
        thread::sleep(LOOK);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn key() -> String {
    let mut bytes = [0; 32];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn secret(path: &Path, key: &str) {
    fs::write(path, key).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Two hosts, a client and a witness; nothing runs yet.
struct Site {
    world: World,
    twinrun: PathBuf,
    starts: AtomicU32,
    // Deleted after the world has ended: fields drop in order.
    _directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = World::create_with(Path::new(EXECUTABLE), &directory.path().join("run"), 1).unwrap();
        let site = Site { world, twinrun: twinrun(), starts: AtomicU32::new(0), _directory: directory };
        let (pair_key, witness_key) = (key(), key());
        let guest = guest_images::micro(MicroOptions::default()).unwrap();
        for (name, number) in HOSTS.into_iter().zip(1..) {
            site.world.add_host(name, number).unwrap();
            secret(&site.file(name, "pair.key"), &pair_key);
            secret(&site.file(name, "witness.key"), &witness_key);
            fs::write(site.file(name, "pair.toml"), PAIR).unwrap();
            fs::copy(&guest, site.file(name, "micro.elf")).unwrap();
            File::create(site.file(name, "disk.img")).unwrap().set_len(DISK_BYTES).unwrap();
        }
        secret(&site.file("witness", "witness.key"), &witness_key);
        site
    }

    fn file(&self, place: &str, name: &str) -> PathBuf {
        self.world.host_dir(place).join(name)
    }

    fn argv(&self, arguments: &[&str]) -> Vec<OsString> {
        [vec![self.twinrun.as_os_str().to_owned()], words(arguments)].concat()
    }

    fn witness(&self) -> Proc {
        let arguments =
            ["witness", "--listen", "10.79.0.200:7900", "--key", "witness.key", "--state", "records.json"];
        self.world.spawn("witness", "witness", &self.argv(&arguments), &self.log("witness")).unwrap()
    }

    /// Starts a host's process in the background.
    fn start(&self, name: &str) -> Host<'_> {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let log = self.log(&format!("{name}.{start}"));
        let argv = self.argv(&["run", "pair.toml", "--host", name]);
        let process = self.world.spawn(name, "twinrun", &argv, &log).unwrap();
        Host { site: self, name: name.to_owned(), process, log }
    }

    /// Starts both; the first one becomes the primary.
    fn protected_pair(&self) -> (Host<'_>, Host<'_>) {
        let alpha = self.start("alpha");
        alpha.until_role("alone");
        let beta = self.start("beta");
        alpha.until_protected("primary");
        beta.until_protected("secondary");
        (alpha, beta)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.world.root().join("logs").join(format!("{name}.log"))
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Output {
        self.world.run(name, &self.argv(arguments)).unwrap()
    }

    fn client(&self) -> Client {
        let socket = self.world.in_network("client", || UdpSocket::bind("10.77.0.100:0")).unwrap();
        socket.set_read_timeout(Some(RETRY)).unwrap();
        Client { socket }
    }

    /// Changes a host's file.
    fn edit(&self, name: &str, from: &str, to: &str) {
        assert!(PAIR.contains(from), "{from}");
        fs::write(self.file(name, "pair.toml"), PAIR.replace(from, to)).unwrap();
    }
}

/// A started `twinrun run`.
struct Host<'s> {
    site: &'s Site,
    name: String,
    process: Proc,
    log: PathBuf,
}

impl Host<'_> {
    fn status(&self) -> Value {
        let output = self.site.command(&self.name, &["status", "pair.toml", "--host", &self.name, "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Status as a person sees it, with the exit code.
    fn told(&self) -> (Option<i32>, String) {
        let output = self.site.command(&self.name, &["status", "pair.toml", "--host", &self.name]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    fn until(&self, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{} {what}", self.name), || {
            assert!(self.process.is_alive(), "{} has ended: {}", self.name, self.said());
            let status = self.status();
            if accept(&status) { Ok(status) } else { Err(status.to_string()) }
        })
    }

    fn until_role(&self, role: &str) -> Value {
        self.until(role, |status| status["role"] == role)
    }

    fn until_protected(&self, role: &str) -> Value {
        self.until(&format!("the protected {role}"), |status| {
            status["role"] == role && status["protected"] == true
        })
    }

    /// What the process has printed.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.site.file(&self.name, "state/journal.jsonl")).unwrap_or_default()
    }

    fn until_journal(&self, text: &str) {
        until(&format!("{text:?} in the journal of {}", self.name), || {
            let journal = self.journal();
            if journal.contains(text) { Ok(()) } else { Err(journal) }
        });
    }

    /// Kills the process and nothing else.
    fn crash(self) {
        self.site.world.crash(&self.process).unwrap();
    }

    /// Waits until it ends by itself, as a failure; answers its last words.
    fn refused(self) -> String {
        let ended = self.process.wait(LONG).unwrap();
        let status = ended.unwrap_or_else(|| panic!("{} goes on: {}", self.name, self.said()));
        assert_eq!(status.code(), Some(1), "{}", self.said());
        let said = self.said();
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("twinrun: "), "the last line says why: {said}");
        last.to_owned()
    }
}

/// Asks the guest from outside, and asks again until it answers.
struct Client {
    socket: UdpSocket,
}

impl Client {
    fn ask(&self, id: u64) -> Reply {
        let request = Request { client: 9, id, counter: 3 };
        until(&format!("an answer to request {id}"), || {
            // The bridge may not know the guest's new place yet, or the guest not run.
            let _ = self.socket.send_to(&request.encode(), ("10.77.0.10", COUNTER_PORT));
            self.answer(id)
        })
    }

    fn answer(&self, id: u64) -> Result<Reply, String> {
        let mut bytes = [0; 2000];
        loop {
            match self.socket.recv(&mut bytes) {
                Ok(length) => {
                    let reply = Reply::decode(&bytes[..length]).unwrap();
                    // Answers to earlier tries of an earlier request may still come.
                    if reply.id == id {
                        return Ok(reply);
                    }
                }
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                    return Err("silence".to_owned());
                }
                // As "no route": the guest's address is not known at the moment.
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Every file below a directory: when it was written and what is in it.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                open.push(path.clone());
                found.insert(path, (metadata.modified().unwrap(), Vec::new()));
            } else {
                let content = fs::read(&path).unwrap();
                found.insert(path, (metadata.modified().unwrap(), content));
            }
        }
    }
    found
}

fn disk(site: &Site, name: &str) -> (SystemTime, Vec<u8>) {
    let path = site.file(name, "disk.img");
    (path.metadata().unwrap().modified().unwrap(), fs::read(path).unwrap())
}

#[test]
fn a_pair_is_protected_and_when_one_is_killed_the_other_goes_on() {
    need_kvm!();
    let site = Site::new();
    let _witness = site.witness();
    let alpha = site.start("alpha");
    let lone = alpha.until_role("alone");
    let (code, told) = alpha.told();
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.starts_with("shop   NOT PROTECTED since ") && told.contains("running alone on alpha"),
        "{told}"
    );
    let beta = site.start("beta");
    alpha.until_protected("primary");
    beta.until_protected("secondary");
    for host in [&alpha, &beta] {
        let (code, told) = host.told();
        assert_eq!(code, Some(0), "{told}");
        assert!(told.starts_with("shop   PROTECTED  lockstep · primary alpha"), "{told}");
        assert!(told.contains("secondary beta") && told.contains("last failover: never"), "{told}");
        assert!(told.contains("PROTECTED: "), "the last notice: {told}");
    }
    let first = site.client().ask(1);

    alpha.crash();
    let after = beta.until_role("alone");
    assert_eq!(after["generation"].as_u64(), lone["generation"].as_u64().map(|before| before + 1));
    let (code, told) = beta.told();
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.starts_with("shop   NOT PROTECTED since ") && told.contains("running alone on beta"),
        "{told}"
    );
    assert!(told.contains("without alpha, which was lost") && told.contains("filled by itself"), "{told}");
    let status = site.command("alpha", &["status", "pair.toml", "--host", "alpha"]);
    assert_eq!(status.status.code(), Some(2));
    let again = site.client().ask(1);
    assert_eq!((again.value, again.boot), (first.value, first.boot), "the same guest, the same answer");
    assert!(again.uptime > first.uptime && again.flags == FLAG_REPEATED);
    site.world.finish().unwrap();
}

#[test]
fn a_host_with_another_key_never_joins_and_both_say_why() {
    need_kvm!();
    let site = Site::new();
    let _witness = site.witness();
    let alpha = site.start("alpha");
    alpha.until_role("alone");
    secret(&site.file("beta", "pair.key"), &key());
    let before = disk(&site, "beta");
    let beta = site.start("beta");
    alpha.until_journal("has another key");
    beta.until_journal("has another key");
    assert!(beta.journal().contains("link-refused") && alpha.journal().contains("link-refused"));
    let last = beta.refused();
    assert!(last.contains("Start alpha") && last.contains("has another key"), "{last}");
    assert_eq!(alpha.status()["role"], "alone");
    assert!(alpha.process.is_alive());
    assert!(disk(&site, "beta") == before, "beta's disk was not touched");
    site.world.finish().unwrap();
}

#[test]
fn a_host_that_does_not_fit_is_told_what_differs_and_the_live_one_goes_on() {
    need_kvm!();
    let site = Site::new();
    let _witness = site.witness();
    let alpha = site.start("alpha");
    alpha.until_role("alone");
    let before = disk(&site, "beta");
    let cases = [
        ("memory_mib = 32", "memory_mib = 64", "guest.memory_mib is \"32\" on alpha and \"64\" on beta. "),
        (
            "10/24\"",
            "10/24 quiet\"",
            "guest.cmdline is \"ip=10.77.0.10/24\" on alpha and \"ip=10.77.0.10/24 quiet\" on beta. ",
        ),
    ];
    for (from, to, sentence) in cases {
        site.edit("beta", from, to);
        let last = site.start("beta").refused();
        assert!(last.contains(sentence) && last.ends_with("Copy the same pair file to both hosts"), "{last}");
        alpha.until_journal(&sentence.replace('"', "\\\""));
    }
    fs::write(site.file("beta", "pair.toml"), PAIR).unwrap();
    let kernel = fs::read(site.file("beta", "micro.elf")).unwrap();
    fs::write(site.file("beta", "micro.elf"), [&kernel[..], &[0]].concat()).unwrap();
    let last = site.start("beta").refused();
    assert!(
        last.contains("kernel's digest") && last.ends_with("Copy the same kernel file to both hosts"),
        "{last}"
    );
    assert!(disk(&site, "beta") == before, "beta's disk was not touched");

    assert_eq!(alpha.status()["role"], "alone");
    fs::write(site.file("beta", "micro.elf"), kernel).unwrap();
    let beta = site.start("beta");
    beta.until_protected("secondary");
    site.world.finish().unwrap();
}

#[test]
fn the_side_with_the_older_disk_does_not_start_alone() {
    need_kvm!();
    let site = Site::new();
    let _witness = site.witness();
    let (alpha, beta) = site.protected_pair();
    beta.crash();
    let alone = alpha.until_role("alone")["generation"].as_u64().unwrap();
    let answer = site.client().ask(7);
    alpha.crash();

    let before = disk(&site, "beta");
    let last = site.start("beta").refused();
    let sentence = format!("this disk stopped at generation {}; generation {alone} is alpha's", alone - 1);
    assert!(last.contains("Refused to start: ") && last.contains(&sentence), "{last}");
    assert!(last.contains("Start alpha"), "{last}");
    assert!(disk(&site, "beta") == before, "beta's disk was not touched");

    let alpha = site.start("alpha");
    assert_eq!(alpha.until_role("alone")["generation"], alone + 1);
    let beta = site.start("beta");
    beta.until_protected("secondary");
    alpha.until_protected("primary");
    alpha.crash();
    beta.until_role("alone");
    let again = site.client().ask(7);
    assert_eq!(
        (again.value, again.flags),
        (answer.value, FLAG_REPEATED),
        "what alpha did alone is on beta now"
    );
    site.world.finish().unwrap();
}

#[test]
fn a_pair_that_lost_power_starts_again_as_one() {
    need_kvm!();
    let site = Site::new();
    let witness = site.witness();
    let (alpha, beta) = site.protected_pair();
    let generation = alpha.status()["generation"].as_u64().unwrap();
    let client = site.client();
    let first: Vec<Reply> = (1..=5).map(|id| client.ask(id)).collect();
    // The whole site: with the witness gone first, neither host can go on alone in between.
    site.world.crash(&witness).unwrap();
    alpha.crash();
    beta.crash();

    let _witness = site.witness();
    let (alpha, beta) = (site.start("alpha"), site.start("beta"));
    let status = alpha.until("protected again", |status| status["protected"] == true);
    beta.until("protected again", |status| status["protected"] == true);
    let roles =
        [alpha.status(), beta.status()].map(|status| status["role"].as_str().unwrap_or("").to_owned());
    assert!(["primary", "secondary"].iter().all(|role| roles.contains(&(*role).to_owned())), "{roles:?}");
    assert_eq!(status["generation"], generation + 1);
    for answer in &first {
        let again = client.ask(answer.id);
        assert_eq!((again.value, again.flags), (answer.value, FLAG_REPEATED), "request {}", answer.id);
        assert_ne!(again.boot, answer.boot, "the guest was booted from its disk");
    }
    assert_eq!(client.ask(6).value, first[4].value + 1);
    site.world.finish().unwrap();
}

/// `twinrun run` on alpha must fail at once with these words and change nothing.
fn fails(site: &Site, expected: &[&str]) {
    let before = snapshot(&site.world.host_dir("alpha"));
    let output = site.command("alpha", &["run", "pair.toml", "--host", "alpha"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in expected {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert_eq!(said.lines().filter(|line| line.starts_with("twinrun: ")).count(), 1, "one error: {said}");
    assert!(snapshot(&site.world.host_dir("alpha")) == before, "files of alpha were changed");
}

#[test]
fn what_is_wrong_on_one_host_is_one_clear_error_and_changes_nothing() {
    need_kvm!();
    let site = Site::new();
    site.edit("alpha", "memory_mib = 32", "memory_mib = 32\nmemory_mb = 32");
    fails(&site, &["pair.toml:12", "unknown field `memory_mb`", "correct or remove this key"]);
    site.edit("alpha", "twin0", "twin9");
    fails(
        &site,
        &["pair.toml: hosts.alpha.taps: No such tap device twin9: create it with `ip tuntap add twin9"],
    );
    fs::write(site.file("alpha", "pair.toml"), PAIR).unwrap();

    fs::rename(site.file("alpha", "micro.elf"), site.file("alpha", "away.elf")).unwrap();
    fails(&site, &["pair.toml:10: guest.kernel: cannot read micro.elf", "name the guest's ELF file"]);
    fs::rename(site.file("alpha", "away.elf"), site.file("alpha", "micro.elf")).unwrap();

    let key = site.file("alpha", "pair.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    fails(&site, &["pair.toml:3: pair.key: others may read key file pair.key", "run `chmod 600 pair.key`"]);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();

    let image = File::open(site.file("alpha", "disk.img")).unwrap();
    image.lock().unwrap();
    fails(
        &site,
        &["pair.toml: hosts.alpha.disks: Disk image disk.img is in use by another process: stop it"],
    );
    drop(image);

    // All of it was the reason: without it the same file runs.
    let _witness = site.witness();
    site.start("alpha").until_role("alone");
    site.world.finish().unwrap();
}
