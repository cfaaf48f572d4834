//! The drill's world for real: namespaces, taps and the cable. Needs root and /dev/net/tun.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use xtask::ns;
use xtask::world::{Proc, Segment, World, obstacle, pcap};

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_xtask");
const LONG: Duration = Duration::from_secs(10);
/// Tells a copy of this test program that it is an orchestrator, and where.
const ROLE: &str = "XTASK_TEST_WORLD_ROOT";

/// Says why a test cannot run here.
macro_rules! need_world {
    () => {
        if let Some(why) = obstacle() {
            println!("SKIPPED: {why}");
            return;
        }
    };
}

struct Rig {
    world: World,
    // Deleted after the world has ended: fields drop in order.
    _directory: tempfile::TempDir,
}

fn rig(hosts: &[(&str, u8)]) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let world = World::create_with(Path::new(EXECUTABLE), &directory.path().join("run"), 1).unwrap();
    for (name, number) in hosts {
        world.add_host(name, *number).unwrap();
    }
    Rig { world, _directory: directory }
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

fn shell(world: &World, place: &str, script: &str) -> Proc {
    let log = world.root().join("logs").join(format!("{place}.shell.log"));
    world.spawn(place, "shell", &words(&["sh", "-c", script]), &log).unwrap()
}

fn run(world: &World, place: &str, script: &str) -> String {
    let output = world.run(place, &words(&["sh", "-c", script])).unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A socket inside a place.
fn socket(world: &World, place: &str, address: &str) -> UdpSocket {
    let socket = world.in_network(place, || UdpSocket::bind((address, 5000))).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

fn send(from: &UdpSocket, to: &UdpSocket, text: &str) {
    from.send_to(text.as_bytes(), to.local_addr().unwrap()).unwrap();
}

fn receive(at: &UdpSocket) -> String {
    let mut bytes = [0; 2000];
    let length = at.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Both sides know each other's hardware address afterwards.
fn greet(a: &UdpSocket, b: &UdpSocket) {
    send(a, b, "hello");
    assert_eq!(receive(b), "hello");
    send(b, a, "welcome");
    assert_eq!(receive(a), "welcome");
}

/// Waits for something that must come; its absence is an error, its lateness is not judged.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn times_of(captured: &[pcap::Captured], text: &str) -> Vec<u64> {
    let holds = |frame: &[u8]| frame.windows(text.len()).any(|window| window == text.as_bytes());
    captured.iter().filter(|entry| holds(&entry.frame)).map(|entry| entry.at_ns).collect()
}

fn lives(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

#[test]
fn places_have_namespaces_of_their_own() {
    need_world!();
    let rig = rig(&[("alpha", 1), ("beta", 2)]);
    let world = &rig.world;
    for place in ["alpha", "beta", "client", "witness"] {
        for kind in ["net", "pid", "mnt"] {
            let link = format!("/proc/self/ns/{kind}");
            let inside = run(world, place, &format!("readlink {link}"));
            assert_ne!(inside.trim(), fs::read_link(&link).unwrap().to_string_lossy(), "{kind} of {place}");
        }
    }
    assert_eq!(run(world, "alpha", "hostname 2>/dev/null || cat /proc/sys/kernel/hostname").trim(), "alpha");
    assert_eq!(run(world, "alpha", "pwd").trim(), world.host_dir("alpha").to_string_lossy());
    fs::write(world.host_dir("alpha").join("mine"), "a").unwrap();
    assert_eq!(run(world, "alpha", "ls").trim(), "mine");
    let hosts = world.root().join("hosts");
    assert_eq!(
        run(world, "beta", &format!("ls {}", hosts.display())).trim(),
        "beta",
        "beta sees alpha's files"
    );
    let bridge = run(world, "alpha", "ls /sys/class/net/br0/brif");
    assert_eq!(bridge.split_whitespace().collect::<Vec<_>>(), ["lan0", "twin0"]);
    assert!(run(world, "alpha", "cat /proc/mounts").lines().any(|line| line.starts_with("proc /proc ")));
}

#[test]
fn hosts_talk_over_the_link_and_what_passes_the_lan_is_captured() {
    need_world!();
    let rig = rig(&[("alpha", 1), ("beta", 2)]);
    let world = &rig.world;
    greet(&socket(world, "alpha", "10.78.0.1"), &socket(world, "beta", "10.78.0.2"));
    greet(&socket(world, "beta", "10.79.0.2"), &socket(world, "witness", "10.79.0.200"));
    run(world, "alpha", "ip addr add 10.77.0.10/24 dev br0");
    let (client, guest) = (socket(world, "client", "10.77.0.100"), socket(world, "alpha", "10.77.0.10"));
    greet(&client, &guest);
    world.flush_captures().unwrap();
    let seen = |place: &str, direction: &str, text: &str| {
        let times = times_of(&pcap::read(&world.capture(place, direction)).unwrap(), text);
        assert_eq!(times.len(), 1, "{text} {direction} {place}");
        times[0]
    };
    let asked = [seen("client", "out", "hello"), seen("alpha", "in", "hello")];
    let answered = [seen("alpha", "out", "welcome"), seen("client", "in", "welcome")];
    assert!(asked.is_sorted() && answered.is_sorted() && asked[1] < answered[0], "{asked:?} {answered:?}");
    world.finish().unwrap();
    world.finish().unwrap();
}

#[test]
fn the_tap_of_the_guest_reaches_the_client() {
    need_world!();
    let rig = rig(&[("alpha", 1)]);
    let world = &rig.world;
    let mut tap = ns::open_tap(world.processes("alpha").unwrap()[0], "twin0").unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.extend(b"from the guest, to everybody on the network.....");
    until("the guest's frame", || {
        // The bridge drops frames until it has noticed that the tap is in use.
        tap.write_all(&frame).unwrap();
        world.flush_captures().unwrap();
        !times_of(&pcap::read(&world.capture("client", "in")).unwrap(), "from the guest").is_empty()
    });
    let client = socket(world, "client", "10.77.0.100");
    client.set_broadcast(true).unwrap();
    client.send_to(b"to the guest", ("10.77.0.255", 5000)).unwrap();
    until("the client's frame", || {
        let mut bytes = [0; 2000];
        tap.read(&mut bytes).is_ok_and(|length| bytes[..length].ends_with(b"to the guest"))
    });
}

#[test]
fn a_cut_stops_everything_in_one_step() {
    need_world!();
    let rig = rig(&[("alpha", 1), ("beta", 2), ("gamma", 3)]);
    let world = &rig.world;
    let [alpha, beta, gamma] = [("alpha", 1), ("beta", 2), ("gamma", 3)]
        .map(|(name, number)| socket(world, name, &format!("10.78.0.{number}")));
    let (side, witness) = (socket(world, "alpha", "10.79.0.1"), socket(world, "witness", "10.79.0.200"));
    let other = socket(world, "beta", "10.79.0.2");
    for (a, b) in [(&alpha, &beta), (&gamma, &beta), (&gamma, &alpha), (&side, &witness), (&other, &witness)]
    {
        greet(a, b);
    }
    // Frames that are on their way when the cut comes, in both directions and on two segments.
    world.delay(Segment::Link, 100_000, 0).unwrap();
    world.delay(Segment::Mgmt, 100_000, 0).unwrap();
    send(&alpha, &beta, "too late");
    send(&gamma, &alpha, "too late");
    send(&side, &witness, "too late");
    until("three frames in the queue", || {
        world.stats().unwrap().segments.iter().map(|segment| segment.queued).sum::<u64>() == 3
    });
    world.cut("alpha").unwrap();
    send(&alpha, &beta, "nobody hears");
    send(&side, &witness, "nobody hears");
    // What was sent after the lost frames arrives first, so the lost ones never will.
    send(&gamma, &beta, "marker");
    send(&other, &witness, "marker");
    assert_eq!(receive(&beta), "marker");
    assert_eq!(receive(&witness), "marker");
    world.delay(Segment::Link, 0, 0).unwrap();
    greet(&gamma, &beta);
    alpha.set_nonblocking(true).unwrap();
    assert!(alpha.recv(&mut [0; 10]).is_err(), "alpha was cut and got a frame");
    assert!(world.cut("nobody").unwrap_err().to_string().contains("no cable leads to nobody"));
}

#[test]
fn a_hold_keeps_frames_and_delivers_them_in_order() {
    need_world!();
    let rig = rig(&[("alpha", 1)]);
    let world = &rig.world;
    run(world, "alpha", "ip addr add 10.77.0.10/24 dev br0");
    let (client, guest) = (socket(world, "client", "10.77.0.100"), socket(world, "alpha", "10.77.0.10"));
    greet(&client, &guest);
    let begin = world.hold(Segment::Lan, true).unwrap();
    let texts: Vec<_> = (0..20).map(|n| format!("numbered {n:02}")).collect();
    for text in &texts {
        send(&client, &guest, text);
    }
    until("all in the queue", || world.stats().unwrap().segments[2].queued >= 20);
    let end = world.hold(Segment::Lan, false).unwrap();
    for text in &texts {
        assert_eq!(receive(&guest), *text);
    }
    world.flush_captures().unwrap();
    let sent = times_of(&pcap::read(&world.capture("client", "out")).unwrap(), "numbered");
    let got = times_of(&pcap::read(&world.capture("alpha", "in")).unwrap(), "numbered");
    assert_eq!((sent.len(), got.len()), (20, 20));
    assert!(sent.iter().all(|at| (begin..end).contains(at)), "{begin} {sent:?} {end}");
    assert!(got.iter().all(|at| *at >= end), "{end} {got:?}");
}

#[test]
fn a_plugged_host_is_gone_and_comes_back_empty() {
    need_world!();
    let rig = rig(&[("alpha", 1), ("beta", 2)]);
    let world = &rig.world;
    let process = shell(world, "alpha", "setsid sleep 1000 & sleep 1000");
    until("three processes", || world.processes("alpha").unwrap().len() == 4);
    let pids = world.processes("alpha").unwrap();
    fs::write(world.host_dir("alpha").join("data"), "x").unwrap();
    let plugged = world.plug("alpha").unwrap();
    assert!(plugged.cut_ns < plugged.killed_ns && plugged.killed_ns < plugged.dead_ns);
    assert!(!process.is_alive() && !pids.into_iter().any(lives));
    assert!(!world.host_dir("alpha").exists());
    assert!(world.spawn("alpha", "x", &words(&["true"]), Path::new("/dev/null")).is_err());
    assert!(world.plug("alpha").is_err());
    world.add_host("alpha", 1).unwrap();
    assert_eq!(fs::read_dir(world.host_dir("alpha")).unwrap().count(), 0);
    greet(&socket(world, "alpha", "10.78.0.1"), &socket(world, "beta", "10.78.0.2"));
}

#[test]
fn a_crash_ends_one_process_and_leaves_the_links() {
    need_world!();
    let rig = rig(&[("alpha", 1), ("beta", 2)]);
    let world = &rig.world;
    let (first, second) =
        (shell(world, "alpha", "exec sleep 1000"), shell(world, "alpha", "exec sleep 1000"));
    world.crash(&first).unwrap();
    assert!(!first.is_alive() && second.is_alive());
    assert!(world.crash(&first).unwrap_err().to_string().contains("had ended before"));
    greet(&socket(world, "alpha", "10.78.0.1"), &socket(world, "beta", "10.78.0.2"));
    let status = shell(world, "beta", "exit 7").wait(LONG).unwrap().unwrap();
    assert_eq!(status.code(), Some(7));
    let slow = world.run_for("beta", &words(&["sleep", "1000"]), Duration::from_millis(20)).unwrap_err();
    assert!(format!("{slow:#}").contains("no end within"), "{slow:#}");
}

#[test]
fn a_shared_file_is_found_and_private_ones_are_only_listed() {
    need_world!();
    let rig = rig(&[("alpha", 1), ("beta", 2)]);
    let world = &rig.world;
    for host in ["alpha", "beta"] {
        // A child of a child, with two files of the host's own.
        shell(world, host, "exec 3>>disk.img 4>>state; (sleep 1000; true); true");
        until("the files", || {
            let seen = world.shared_files("alpha", "beta").unwrap();
            let list = if host == "alpha" { seen.seen_a } else { seen.seen_b };
            list.iter().filter(|path| path.ends_with("/disk.img") || path.ends_with("/state")).count() == 2
        });
    }
    let clean = world.shared_files("alpha", "beta").unwrap();
    assert_eq!(clean.shared, Vec::<String>::new(), "{clean:?}");
    let common = world.root().join("common");
    let other = world.root().join("link");
    fs::write(&common, "x").unwrap();
    fs::hard_link(&common, &other).unwrap();
    shell(world, "alpha", &format!("exec 3<{}; sleep 1000; true", common.display()));
    shell(world, "beta", &format!("exec 3<{}; sleep 1000; true", other.display()));
    until("the shared file", || !world.shared_files("alpha", "beta").unwrap().shared.is_empty());
    let found = world.shared_files("alpha", "beta").unwrap();
    assert_eq!(found.shared, [common.to_string_lossy()]);
}

/// Not a test of its own: the orchestrator that the next two tests end.
#[test]
fn orchestrator_to_be_ended() {
    let Some(root) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    let world = World::create_with(Path::new(EXECUTABLE), &root, 1).unwrap();
    let stopper = world.stopper();
    ns::on_interrupt(move || {
        stopper.emergency_stop();
        std::process::exit(130);
    })
    .unwrap();
    world.add_host("alpha", 1).unwrap();
    world.add_host("beta", 2).unwrap();
    let mut pids = Vec::new();
    for host in ["alpha", "beta"] {
        shell(&world, host, "exec sleep 1000");
        pids.extend(world.processes(host).unwrap().into_iter().map(|pid| pid.to_string()));
    }
    fs::write(root.join("pids.new"), pids.join(" ")).unwrap();
    fs::rename(root.join("pids.new"), root.join("pids")).unwrap();
    thread::sleep(Duration::from_secs(1000));
}

/// Starts the orchestrator above; returns it and all processes of its world.
fn orchestrator(root: &Path) -> (Child, Vec<u32>) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "orchestrator_to_be_ended", "--nocapture"])
        .env(ROLE, root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the world", || root.join("pids").exists());
    let text = fs::read_to_string(root.join("pids")).unwrap();
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join("world.json")).unwrap()).unwrap();
    let parts = state["processes"].as_array().unwrap().iter().map(|process| process["pid"].to_string());
    let pids = text.split(' ').map(str::to_owned).chain(parts);
    let pids: Vec<u32> = pids.map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 4 + 5, "two processes in each host; four places and the cable");
    assert!(pids.iter().copied().all(lives));
    (child, pids)
}

#[test]
fn nothing_survives_an_orchestrator_that_was_killed() {
    need_world!();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let (mut orchestrator, pids) = orchestrator(&root);
    let busy = World::create_with(Path::new(EXECUTABLE), &root, 1).unwrap_err();
    assert!(busy.to_string().contains("is in use by process"), "{busy}");
    orchestrator.kill().unwrap();
    orchestrator.wait().unwrap();
    until("the end of all", || !pids.iter().copied().any(lives));
    let world = World::create_with(Path::new(EXECUTABLE), &root, 1).unwrap();
    assert_eq!(world.cleaned(), Vec::<String>::new());
    world.add_host("alpha", 1).unwrap();
    world.finish().unwrap();
}

#[test]
fn nothing_survives_an_orchestrator_that_was_interrupted() {
    need_world!();
    let directory = tempfile::tempdir().unwrap();
    let (mut orchestrator, pids) = orchestrator(&directory.path().join("run"));
    let sent =
        Command::new("sh").args(["-c", &format!("kill -TERM {}", orchestrator.id())]).status().unwrap();
    assert!(sent.success());
    assert_eq!(orchestrator.wait().unwrap().code(), Some(130), "the handler has run");
    until("the end of all", || !pids.iter().copied().any(lives));
}

#[test]
fn a_leftover_is_ended_and_strangers_are_not() {
    need_world!();
    let directory = tempfile::tempdir().unwrap();
    let earlier = directory.path().join("earlier");
    fs::create_dir(&earlier).unwrap();
    // A cable whose orchestrator's socket is still open somewhere: it does not end by itself.
    let (_held, theirs) = UnixStream::pair().unwrap();
    let mut leftover = Command::new(EXECUTABLE)
        .arg("world-cable")
        .args([earlier.as_os_str(), "1".as_ref()])
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut reborn = Command::new("sleep").arg("1000").spawn().unwrap();
    let identity = |pid: u32, shift: u64| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let started: u64 =
            stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
        format!(r#"{{"pid":{pid},"started":{}}}"#, started + shift)
    };
    let state = format!(
        r#"{{"orchestrator":{},"processes":[{},{},{}]}}"#,
        identity(std::process::id(), 1),
        identity(leftover.id(), 0),
        identity(stranger.id(), 0),
        identity(reborn.id(), 1),
    );
    fs::write(earlier.join("world.json"), state).unwrap();
    let world = World::create_with(Path::new(EXECUTABLE), &directory.path().join("next"), 1).unwrap();
    assert_eq!(world.cleaned(), [format!("ended process {} of an earlier run", leftover.id())]);
    assert!(!leftover.wait().unwrap().success());
    for bystander in [&mut stranger, &mut reborn] {
        assert!(bystander.try_wait().unwrap().is_none(), "a stranger was killed");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
    assert!(!earlier.join("world.json").exists());
}

#[test]
fn an_emergency_stop_from_another_thread_ends_all_and_keeps_the_captures() {
    need_world!();
    let rig = rig(&[("alpha", 1)]);
    let world = &rig.world;
    run(world, "alpha", "ip addr add 10.77.0.10/24 dev br0");
    greet(&socket(world, "client", "10.77.0.100"), &socket(world, "alpha", "10.77.0.10"));
    let process = shell(world, "alpha", "exec sleep 1000");
    let stopper = world.stopper();
    thread::spawn(move || stopper.emergency_stop()).join().unwrap();
    until("the end", || !process.is_alive());
    until("the capture", || {
        times_of(&pcap::read(&world.capture("client", "in")).unwrap(), "welcome").len() == 1
    });
    assert!(world.hold(Segment::Lan, true).is_err());
    assert!(world.plug("beta").is_err());
}
