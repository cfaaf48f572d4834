//! Before the curtain: what must be there, what is built, and the files of each host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use guest_images::MicroOptions;

use super::{Level, Load};

/// The guest's MAC address.
pub(super) const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x00, 0x10];
/// The guest's IP address.
pub(super) const GUEST_IP: &str = "10.77.0.10";
/// Names of the hosts that may be part of the pair; a host's number is its place here, from 1.
pub(super) const HOSTS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
const DISK_BYTES: u64 = 32 << 20;
const WITNESS: &str = "10.79.0.200:7900";

/// A deliberate fault that the drill must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sabotage {
    /// The primary lets frames leave before the secondary has acknowledged.
    ReleaseEarly,
    /// The guest lets some requests take effect twice.
    DoubleApply,
}

/// What was built.
#[derive(Clone, Debug)]
pub(super) struct Built {
    pub(super) twinrun: PathBuf,
    pub(super) guest: PathBuf,
}

/// Why the drill with the micro guest cannot run here; `None` if it can.
pub(crate) fn obstacle() -> Option<String> {
    if let Some(why) = xtask::world::obstacle() {
        return Some(why);
    }
    let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    kvm.err().map(|error| {
        format!(
            "the micro guest needs a usable /dev/kvm ({error}): load the module (modprobe kvm_intel or \
             kvm_amd) on a machine with virtualisation, or run on one that has it"
        )
    })
}

/// Builds `twinrun` and the guest. A sabotaged build has a directory of its own: what ships never holds it.
pub(super) fn build(sabotage: Option<Sabotage>) -> anyhow::Result<Built> {
    let target = target_dir()?;
    let mut cargo = crate::cargo::cargo();
    cargo.current_dir(workspace()).args(["build", "--quiet", "--package", "twinrun"]);
    let target = if sabotage == Some(Sabotage::ReleaseEarly) {
        let target = target.join("sabotage");
        cargo.args(["--features", "sabotage", "--target-dir"]).arg(&target);
        target
    } else {
        target
    };
    let status = cargo.status().context("starting cargo")?;
    ensure!(status.success(), "twinrun does not build: see the messages above");
    let guest = guest_images::micro(MicroOptions { double_apply: sabotage == Some(Sabotage::DoubleApply) })?;
    Ok(Built { twinrun: target.join("debug/twinrun"), guest })
}

/// The checkout that this program was built from.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Cargo's target directory, taken from where this program lies.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this executable")?;
    let target = own.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "debug"));
    match target.and_then(Path::parent) {
        Some(target) => Ok(target.to_owned()),
        None => bail!("{} does not lie in a target directory: run it with ./xtask.sh", own.display()),
    }
}

/// Keys and configuration, the same for every host.
pub(super) struct Kit {
    built: Built,
    pair_key: String,
    witness_key: String,
    config: String,
}

impl Kit {
    pub(super) fn new(built: Built, load: Option<Load>, level: Level) -> anyhow::Result<Self> {
        Ok(Kit { built, pair_key: key()?, witness_key: key()?, config: config(load, level) })
    }

    /// Puts what a host needs into its directory: the same files everywhere, and a blank disk.
    pub(super) fn equip(&self, dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(dir.join("state"))?;
        secret(&dir.join("pair.key"), &self.pair_key)?;
        secret(&dir.join("witness.key"), &self.witness_key)?;
        fs::write(dir.join("pair.toml"), &self.config)?;
        fs::copy(&self.built.guest, dir.join("micro.elf")).context("copying the guest")?;
        let disk = dir.join("disk.img");
        fs::File::create(&disk)?.set_len(DISK_BYTES).context("making the disk")?;
        Ok(())
    }

    /// What the witness needs.
    pub(super) fn equip_witness(&self, dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(dir)?;
        secret(&dir.join("witness.key"), &self.witness_key)
    }

    pub(super) fn twinrun(&self) -> &Path {
        &self.built.twinrun
    }
}

/// Where the witness listens.
pub(super) fn witness_address() -> &'static str {
    WITNESS
}

fn secret(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn key() -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0u8; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n")
}

fn config(load: Option<Load>, level: Level) -> String {
    let level = level.name();
    let load = if load == Some(Load::Cpu) { " load=cpu" } else { "" };
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let mut text = format!(
        "[pair]\nname = \"micro\"\nkey = \"pair.key\"\nlevel = \"{level}\"\n\n[arbiter]\nwitness = \"{WITNESS}\"\nkey = \
         \"witness.key\"\n\n[guest]\nkernel = \"micro.elf\"\nmemory_mib = 32\ncmdline = \
         \"ip={GUEST_IP}/24{load}\"\nnics = [\"{mac}\"]\n"
    );
    for (name, number) in HOSTS.iter().zip(1..) {
        text += &format!(
            "\n[hosts.{name}]\nlink = [\"10.78.0.{number}:7800\"]\nstate = \"state\"\ntaps = \
             [\"twin0\"]\ndisks = [\"disk.img\"]\n"
        );
    }
    text
}
