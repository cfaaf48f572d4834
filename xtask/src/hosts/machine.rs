//! One emulated host: the QEMU process and the two connections to it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::agent::client::{Agent, Output};
use super::image::HostImage;
use super::qmp::Qmp;
use super::{QEMU, agent};
use crate::world::{Plugged, Proc, Segment, World};

/// From the start of QEMU to the agent's first answer takes five to ten seconds; more on a busy machine.
const BOOT: Duration = Duration::from_secs(180);
/// QEMU makes its sockets in well under a second.
const SOCKETS: Duration = Duration::from_secs(30);
/// Limit of [`EmulatedHost::shell`].
const SHORT: Duration = Duration::from_secs(60);

/// A disk of an emulated host. Its image outlives the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Its name for [`EmulatedHost::fail_disk`], and its serial number inside: at most 20 of a-z and 0-9.
    pub name: String,
    /// A raw image. The first disk is /dev/vda, and so on.
    pub image: PathBuf,
}

/// What a host is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name, also that of its place in the world.
    pub name: String,
    /// Its number in the world, 1 to 99: the last part of its addresses.
    pub number: u8,
    /// What it boots.
    pub image: HostImage,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Its disks.
    pub disks: Vec<DiskSpec>,
    /// How nice the emulator is to other processes: 0 to 19.
    pub nice: u8,
}

impl HostSpec {
    /// A host with 1 GiB of memory and no disks.
    pub fn new(name: &str, number: u8, image: &HostImage) -> Self {
        Self {
            name: name.to_owned(),
            number,
            image: image.clone(),
            memory_mib: 1024,
            disks: Vec::new(),
            nice: 0,
        }
    }
}

/// What a disk does from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Reads fail with an input/output error.
    Reads,
    /// Writes fail with an input/output error.
    Writes,
    /// The next flush fails with an input/output error.
    Flush,
    /// Writes fail because there is no space left.
    Full,
}

impl DiskFault {
    /// The request that fails, and with which errno, as QEMU's blkdebug wants it.
    fn rule(self) -> (&'static str, i32) {
        match self {
            DiskFault::Reads => ("read", libc::EIO),
            DiskFault::Writes => ("write", libc::EIO),
            DiskFault::Flush => ("flush", libc::EIO),
            DiskFault::Full => ("write", libc::ENOSPC),
        }
    }
}

/// A running emulated host. Ends with its place in the world.
#[derive(Debug)]
pub struct EmulatedHost {
    name: String,
    process: Proc,
    agent: Agent,
    qmp: Qmp,
    /// From the start of QEMU to the agent's first answer.
    boot: Duration,
}

impl EmulatedHost {
    /// Adds a place to the world, boots the host in it and waits for its agent. The host's console is
    /// `logs/NAME.console.log` below the world's root.
    ///
    /// # Errors
    /// The place cannot be made, QEMU does not start, or the host does not come up in time.
    pub fn boot(world: &World, spec: &HostSpec) -> anyhow::Result<Self> {
        for DiskSpec { name, image } in &spec.disks {
            let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            ensure!(
                plain && (1..=20).contains(&name.len()),
                "{name:?} is no name for a disk: 1 to 20 of a-z and 0-9"
            );
            ensure!(image.is_file(), "the disk image {} is missing", image.display());
        }
        world.add_host(&spec.name, spec.number)?;
        rewire(world, spec)?;
        let logs = world.root().join("logs");
        let console = logs.join(format!("{}.console.log", spec.name));
        let begin = Instant::now();
        let log = logs.join(format!("{}.qemu.log", spec.name));
        let process = world.spawn(&spec.name, "qemu", &argv(spec, &console), &log)?;
        let directory = File::open(world.host_dir(&spec.name)).context("opening the host's directory")?;
        let connect = |name| connect(&directory, name, &process).with_context(|| tail("QEMU's log", &log));
        let (agent, qmp) = (Agent::new(connect("agent.sock")?)?, Qmp::new(connect("qmp.sock")?)?);
        agent.greet(BOOT, || process.is_alive()).with_context(|| {
            format!(
                "{} does not come up\n{}\n{}",
                spec.name,
                tail("QEMU's log", &log),
                tail("its console", &console)
            )
        })?;
        Ok(Self { name: spec.name.clone(), process, agent, qmp, boot: begin.elapsed() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long it took to boot.
    pub fn boot_time(&self) -> Duration {
        self.boot
    }

    /// Carries out commands inside and copies files.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Does the emulator still run? It ends when the host is switched off or panics.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Runs a short script in the host's shell.
    ///
    /// # Errors
    /// The host is gone, or it took more than a minute. A failing script is none: see its end.
    pub fn shell(&self, script: &str) -> anyhow::Result<Output> {
        self.agent
            .run(&["sh", "-c", script], &[], SHORT)
            .with_context(|| format!("{script:?} in {}", self.name))
    }

    /// Runs a short script that must succeed, and returns what it prints.
    ///
    /// # Errors
    /// As [`EmulatedHost::shell`], and if the script fails.
    pub fn must(&self, script: &str) -> anyhow::Result<String> {
        let output = self.shell(script)?;
        if !output.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{script:?} in {} ended with {:?}: {}", self.name, output.end, text.trim());
        }
        Ok(output.text())
    }

    /// Pulls a network cable out of the host, or puts it back: the host sees that it has no carrier. A cut that it does not
    /// see is [`World::cut`].
    ///
    /// # Errors
    /// The host is gone.
    pub fn set_link(&self, segment: Segment, up: bool) -> anyhow::Result<()> {
        self.qmp.execute("set_link", &json!({ "name": segment.interface(), "up": up })).map(drop)
    }

    /// Lets a disk fail from now on, or (`None`) work again.
    ///
    /// # Errors
    /// There is no such disk, or the host is gone.
    pub fn fail_disk(&self, disk: &str, fault: Option<DiskFault>) -> anyhow::Result<()> {
        let (file, broken) = (format!("{disk}-file"), format!("{disk}-broken"));
        let insert = |child: &str| {
            let options = json!([{ "driver": "raw", "node-name": disk, "file": child }]);
            self.qmp.execute("blockdev-reopen", &json!({ "options": options }))
        };
        // QEMU flushes before it changes anything: a flush that was to fail fails here if it did not before.
        insert(&file).or_else(|_| insert(&file))?;
        // It is there only if the disk was failing.
        let _ = self.qmp.execute("blockdev-del", &json!({ "node-name": broken }));
        let Some(fault) = fault else { return Ok(()) };
        let (request, errno) = fault.rule();
        let once = fault == DiskFault::Flush;
        let rule = json!({ "event": "none", "iotype": request, "errno": errno, "once": once });
        let node =
            json!({ "driver": "blkdebug", "node-name": broken, "image": file, "inject-error": [rule] });
        self.qmp.execute("blockdev-add", &node)?;
        insert(&broken).map(drop)
    }

    /// Pulls the plug: cuts every cable of the host in one step, then kills it. What it had not flushed is lost; its disk images
    /// stay.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn pull_plug(self, world: &World) -> anyhow::Result<Plugged> {
        world.plug(&self.name)
    }
}

/// The place's own addresses go; each port becomes a bridge to the emulated card behind it.
fn rewire(world: &World, spec: &HostSpec) -> anyhow::Result<()> {
    let mut script = String::from("set -e\n");
    for (segment, bridge, tap) in [(Segment::Link, "br-link", "e-link"), (Segment::Mgmt, "br-mgmt", "e-mgmt")]
    {
        let port = segment.interface();
        script += &format!(
            "ip address flush dev {port}
             ip link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
             ip tuntap add {tap} mode tap
             for card in {port} {tap}; do ip link set $card master {bridge}; done
             for card in {port} {tap} {bridge}; do ip link set $card up; done\n"
        );
    }
    let argv = ["sh", "-c", &script].map(OsString::from);
    let output = world.run(&spec.name, &argv)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "setting up the cables of {}: {}", spec.name, text.trim());
    Ok(())
}

fn argv(spec: &HostSpec, console: &Path) -> Vec<OsString> {
    let HostSpec { name, number, image, memory_mib, nice, .. } = spec;
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |list: &[&str]| words.extend(list.iter().map(OsString::from));
    add(&["nice", "-n", &nice.to_string(), QEMU, "-name", name]);
    add(&[
        "-accel",
        "tcg",
        "-machine",
        "pc",
        "-cpu",
        "EPYC,+svm,+npt",
        "-smp",
        "1",
        "-m",
        &memory_mib.to_string(),
    ]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    let cmdline = format!("console=ttyS0 quiet panic=-1 ipv6.disable=1 host={name} number={number}");
    add(&["-kernel", &image.kernel.to_string_lossy(), "-initrd", &image.initrd.to_string_lossy()]);
    add(&["-append", &cmdline, "-serial", &format!("file:{}", escaped(console))]);
    // Relative: a socket's path is limited to 107 bytes.
    add(&[
        "-qmp",
        "unix:qmp.sock,server=on,wait=off",
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-serial-pci",
    ]);
    add(&["-chardev", "socket,id=agent,path=agent.sock,server=on,wait=off"]);
    add(&["-device", &format!("virtserialport,chardev=agent,name={}", agent::PORT)]);
    let cards = [(Segment::Link, "e-link", 78), (Segment::Mgmt, "e-mgmt", 79), (Segment::Lan, "twin0", 77)];
    for (segment, tap, net) in cards {
        let id = segment.interface();
        add(&["-netdev", &format!("tap,id={id},ifname={tap},script=no,downscript=no")]);
        add(&["-device", &format!("virtio-net-pci,netdev={id},mac=52:54:00:00:{net}:{number:02x}")]);
    }
    for DiskSpec { name, image } in &spec.disks {
        add(&["-blockdev", &format!("driver=file,node-name={name}-file,filename={}", escaped(image))]);
        add(&["-blockdev", &format!("driver=raw,node-name={name},file={name}-file")]);
        add(&["-device", &format!("virtio-blk-pci,drive={name},serial={name},werror=report,rerror=report")]);
    }
    words
}

/// A comma ends a value in QEMU's options, unless there are two.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Connects to a socket that QEMU makes in its directory.
fn connect(directory: &File, name: &str, process: &Proc) -> anyhow::Result<UnixStream> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let deadline = Instant::now() + SOCKETS;
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => return Ok(stream),
            Err(_) if process.is_alive() && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error).with_context(|| format!("connecting to QEMU's {name}")),
        }
    }
}

/// The last lines of a log, for an error's text.
fn tail(what: &str, log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    format!("{what} ({}) ends:\n{}", log.display(), lines[lines.len().saturating_sub(10)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_does_not_become_an_option() {
        let image = HostImage { kernel: "/k".into(), initrd: "/i".into() };
        let disks = vec![DiskSpec { name: "data".into(), image: "/a,readonly=on".into() }];
        let spec = HostSpec { disks, nice: 3, ..HostSpec::new("alpha", 10, &image) };
        let words: Vec<String> =
            argv(&spec, Path::new("/log")).iter().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(words[..4], ["nice", "-n", "3", QEMU]);
        let wanted = "driver=file,node-name=data-file,filename=/a,,readonly=on".to_owned();
        assert!(words.contains(&wanted), "{words:?}");
        assert!(words.contains(&"virtio-net-pci,netdev=lan0,mac=52:54:00:00:77:0a".to_owned()));
    }
}
