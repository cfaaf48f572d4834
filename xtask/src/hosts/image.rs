//! What an emulated host boots: Debian's kernel, and an initial file system with busybox, the agent and our programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use guest_images::{Initramfs, cloud_kernel};

use super::agent;

/// Where the agent lies inside.
const AGENT: &str = "/bin/host-agent";

const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "tun",
    "bridge",
    "kvm",
    "kvm_amd",
];

/// The first process, after the modules. Cards are told by the last but one part of their address; see `machine.rs`.
const INIT: &str = "
for word in $(cat /proc/cmdline); do
    case $word in host=*) hostname ${word#host=} ;; number=*) number=${word#number=} ;; esac
done
for card in /sys/class/net/eth*; do
    case $(cat $card/address) in
        52:54:00:00:78:*) ip link set dev ${card##*/} name link0 ;;
        52:54:00:00:79:*) ip link set dev ${card##*/} name mgmt0 ;;
        52:54:00:00:77:*) ip link set dev ${card##*/} name lan0 ;;
    esac
done
ip link set lo up
ip address add 10.78.0.$number/24 dev link0
ip address add 10.79.0.$number/24 dev mgmt0
brctl addbr br0
tunctl -t twin0
brctl addif br0 lan0
brctl addif br0 twin0
for card in link0 mgmt0 lan0 twin0 br0; do ip link set $card up; done
for port in /sys/class/virtio-ports/*; do
    [ \"$(cat $port/name)\" = agent ] && port=/dev/${port##*/} && break
done
export HOME=/root
cd /root
while :; do
    host-agent host-agent $port
    echo \"the agent has ended ($?)\"
    sleep 1
done";

/// A kernel and an initial file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostImage {
    /// The bzImage.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
}

/// Makes the image of an emulated host. `executable` is this program, or a copy: it becomes the agent. `programs` are put
/// in at the given absolute paths, with their libraries and without what only a debugger reads.
///
/// # Errors
/// A package cannot be fetched, or a program cannot be read.
pub fn build(executable: &Path, programs: &[(&str, &Path)]) -> anyhow::Result<HostImage> {
    let kernel = cloud_kernel()?;
    let mut initramfs = Initramfs::new()?;
    initramfs.load(&kernel, &MODULES)?;
    let workshop = tempfile::tempdir().context("making a temporary directory")?;
    let agent = [(AGENT, executable)];
    for (index, (inside, program)) in agent.iter().chain(programs).enumerate() {
        let lean = workshop.path().join(index.to_string());
        strip(program, &lean)?;
        initramfs.program(inside, &lean)?;
    }
    debug_assert!(INIT.contains(agent::WORD) && INIT.contains(agent::PORT));
    initramfs.run(INIT);
    Ok(HostImage { kernel: kernel.image, initrd: initramfs.finish("host")? })
}

/// Everything here is unpacked into the emulated host's memory, at every boot.
fn strip(program: &Path, lean: &Path) -> anyhow::Result<()> {
    let output = Command::new("strip").arg("--strip-debug").arg("-o").arg(lean).arg(program).output();
    let output = output.context("cannot run strip, of Debian's package binutils")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "strip {} failed: {}", program.display(), text.trim());
    Ok(())
}
