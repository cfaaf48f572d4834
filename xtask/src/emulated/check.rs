//! What drills rely on, tried on one emulated host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use xtask::hosts::agent::proto::End;
use xtask::hosts::{DiskFault, DiskSpec, EmulatedHost, HostImage, HostSpec};
use xtask::world::{Segment, World};

/// Small disks: what is tried on them is a few blocks.
const DISK: u64 = 32 << 20;
/// A command that only waits for others.
const LONG: Duration = Duration::from_secs(60);
/// The witness's address in the world.
const WITNESS: &str = "10.79.0.200";
/// The outside client's.
const CLIENT: &str = "10.77.0.100";

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) found: String,
    pub(crate) wrong: Option<String>,
}

/// Everything that was tried.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proof {
    pub(crate) checks: Vec<Check>,
    /// What `twinrun doctor --json` said inside.
    pub(crate) doctor: Value,
    pub(crate) boot_seconds: f64,
}

impl Proof {
    pub(crate) fn held(&self) -> usize {
        self.checks.iter().filter(|check| check.wrong.is_none()).count()
    }

    fn add(&mut self, name: &'static str, outcome: anyhow::Result<String>) {
        let (found, wrong) = match outcome {
            Ok(found) => (found, None),
            Err(error) => (String::new(), Some(format!("{error:#}"))),
        };
        self.checks.push(Check { name, found, wrong });
    }
}

/// Tries everything. An error: there is no host to try it on.
pub(crate) fn all(world: &World, image: &HostImage, nice: u8, say: &dyn Fn(&str)) -> anyhow::Result<Proof> {
    let spec = HostSpec { disks: disks(world)?, nice, ..HostSpec::new("alpha", 1, image) };
    let host = EmulatedHost::boot(world, &spec)?;
    let mut proof =
        Proof { checks: Vec::new(), doctor: Value::Null, boot_seconds: host.boot_time().as_secs_f64() };
    say("exit codes and files");
    proof.add("exit codes", exit_codes(&host));
    proof.add("files both ways", files(&host, world.root()));
    say("twinrun doctor, inside");
    match doctor(&host) {
        Ok(doctor) => {
            proof.add("KVM with landings", kvm(&doctor));
            proof.doctor = doctor;
        }
        Err(error) => proof.add("KVM with landings", Err(error)),
    }
    say("links and disks that fail");
    proof.add("a link can be cut", links(&host));
    proof.add("a disk can fail", failing_disk(&host));
    say("pulling the plug, booting again");
    proof.add("a plug loses what was not flushed, and only that", plug(world, &spec, host));
    Ok(proof)
}

/// Disks lie beside the hosts' directories: they outlive a plug. One has a file system with a file in it.
fn disks(world: &World) -> anyhow::Result<Vec<DiskSpec>> {
    let [data, scratch] = ["data", "scratch"].map(|name| world.root().join(format!("{name}.img")));
    let tree = tempfile::tempdir().context("making a temporary directory")?;
    fs::write(tree.path().join("brought"), "brought\n").context("writing a file")?;
    guest_images::file_system(&data, DISK, tree.path())?;
    let blank = File::create(&scratch).and_then(|file| file.set_len(DISK));
    blank.with_context(|| format!("making {}", scratch.display()))?;
    let spec = |name: &str, image| DiskSpec { name: name.to_owned(), image };
    Ok(vec![spec("data", data), spec("scratch", scratch)])
}

fn exit_codes(host: &EmulatedHost) -> anyhow::Result<String> {
    let output = host.shell("echo out; echo err >&2; exit 7")?;
    ensure!(output.end == End::Code(7), "exit 7 arrived as {:?}", output.end);
    ensure!(output.stdout == b"out\n" && output.stderr == b"err\n", "the two outputs are mixed: {output:?}");
    let killed = host.shell("kill -9 $$")?;
    ensure!(killed.end == End::Signal(9), "SIGKILL arrived as {:?}", killed.end);
    let agent = host.agent();
    let echoed = agent.run(&["cat"], b"through", LONG)?;
    ensure!(echoed.stdout == b"through", "standard input does not arrive");
    ensure!(agent.run(&["/no/such/program"], &[], LONG).is_err(), "a program that is not there ran");
    let slow = agent.run(&["sleep", "1000"], &[], Duration::from_millis(100));
    ensure!(slow.is_err(), "a command that does not end was not ended");
    let pid = agent.start(&["sh", "-c", "read line; exit 3"], "/tmp/started.log")?;
    let end = agent.wait(pid, LONG)?;
    ensure!(end == Some(End::Code(3)), "a command that was left running ended as {end:?}");
    Ok("codes, signals, both outputs, standard input, a time limit".to_owned())
}

fn files(host: &EmulatedHost, root: &Path) -> anyhow::Result<String> {
    // Larger than a piece, and not a multiple of one.
    let bytes: Vec<u8> = (0..2_500_001_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let (there, back): (PathBuf, PathBuf) = (root.join("there.bin"), root.join("back.bin"));
    fs::write(&there, &bytes)?;
    host.agent().put(&there, "/tmp/deep/there.bin")?;
    let size = host.must("wc -c < /tmp/deep/there.bin")?;
    ensure!(size.trim() == bytes.len().to_string(), "{size} bytes arrived");
    host.agent().get("/tmp/deep/there.bin", &back)?;
    ensure!(fs::read(&back)? == bytes, "what came back is not what was sent");
    Ok(format!("{} bytes there and back", bytes.len()))
}

fn doctor(host: &EmulatedHost) -> anyhow::Result<Value> {
    let output = host.agent().run(&["twinrun", "doctor", "--json"], &[], LONG)?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("twinrun doctor ended with {:?}: {}", output.end, String::from_utf8_lossy(&output.stderr))
    })
}

fn kvm(doctor: &Value) -> anyhow::Result<String> {
    ensure!(doctor["kvm"] == json!("kvm_amd"), "its KVM is {}", doctor["kvm"]);
    ensure!(doctor["ok"] == json!(true), "doctor is not content: {}", doctor["findings"]);
    let positions = &doctor["positions"];
    ensure!(positions["landing"] == json!(true), "no landings: {positions}");
    ensure!(positions["landing_kernel"] == json!(true), "no landings in kernel mode: {positions}");
    Ok(format!("kvm_amd; an exit costs {} ns", doctor["exit_ns"]))
}

fn links(host: &EmulatedHost) -> anyhow::Result<String> {
    let reaches = || host.shell(&format!("ping -c 1 -W 5 {WITNESS}")).map(|output| output.success());
    ensure!(reaches()?, "the witness does not answer");
    // The host has no address where guests live: it borrows one.
    host.must(&format!(
        "ip address add 10.77.0.50/24 dev br0 && ping -c 1 -W 5 {CLIENT} && ip address flush dev br0"
    ))
    .context("the outside client does not answer on the guests' network")?;
    host.set_link(Segment::Mgmt, false)?;
    let carrier = host.must("cat /sys/class/net/mgmt0/carrier")?;
    let cut = reaches()?;
    host.set_link(Segment::Mgmt, true)?;
    ensure!(!cut, "the witness answers through a link that was cut");
    ensure!(carrier.trim() == "0", "the host sees a carrier ({}) on a link that was cut", carrier.trim());
    ensure!(reaches()?, "the witness does not answer after the link came back");
    Ok("the client is reached; the witness is reached, not reached, and reached again".to_owned())
}

fn failing_disk(host: &EmulatedHost) -> anyhow::Result<String> {
    let write = "dd if=/dev/zero of=/dev/vdb bs=4096 count=1 oflag=direct conv=fsync";
    let read = "dd if=/dev/vdb of=/dev/null bs=4096 count=1 iflag=direct";
    let tries = |fault: Option<DiskFault>| -> anyhow::Result<[bool; 2]> {
        host.fail_disk("scratch", fault)?;
        Ok([host.shell(write)?.success(), host.shell(read)?.success()])
    };
    let expected = [
        (None, [true, true]),
        (Some(DiskFault::Writes), [false, true]),
        (Some(DiskFault::Reads), [true, false]),
        (Some(DiskFault::Flush), [false, true]),
        (Some(DiskFault::Flush), [false, true]),
        (Some(DiskFault::Full), [false, true]),
        (None, [true, true]),
    ];
    for (fault, works) in expected {
        let got = tries(fault)?;
        ensure!(got == works, "with {fault:?} writing and reading worked: {got:?} instead of {works:?}");
    }
    Ok("writes, reads, a flush and space, and it works again".to_owned())
}

/// Writes two files and flushes one. Both are read back, so both were written; after the plug only one is there.
fn plug(world: &World, spec: &HostSpec, host: EmulatedHost) -> anyhow::Result<String> {
    // The kernel would write by itself after half a minute: then this check would depend on how fast the machine is.
    host.must(
        "echo 0 > /proc/sys/vm/dirty_writeback_centisecs && mkdir -p /mnt && mount -t ext4 /dev/vda /mnt && \
         echo flushed > /mnt/flushed && sync && echo volatile > /mnt/volatile",
    )?;
    let look = |host: &EmulatedHost| -> anyhow::Result<[String; 3]> {
        let read = |name| host.shell(&format!("cat /mnt/{name}")).map(|output| output.text());
        Ok([read("brought")?, read("flushed")?, read("volatile")?])
    };
    let before = look(&host)?;
    ensure!(before == ["brought\n", "flushed\n", "volatile\n"], "before the plug the files hold {before:?}");
    host.pull_plug(world)?;
    let host = EmulatedHost::boot(world, spec).context("booting again")?;
    host.must("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")?;
    let after = look(&host)?;
    ensure!(after[..2] == before[..2], "of what was durable there is {after:?}");
    ensure!(after[2] != "volatile\n", "what was not flushed has survived");
    Ok("of two files the flushed one is there after the plug".to_owned())
}
