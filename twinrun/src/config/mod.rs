//! The configuration: one TOML file for all hosts of a pair.
//!
//! The text is read in its own form (`low`), then resolved into [`Config`], in which everything is checked
//! and every path is relative to the file. All problems are reported at once.

mod low;
mod problem;
mod resolve;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep::runner::Level;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

pub use crate::key::Secret;
pub use problem::{ConfigError, Problem};

/// Longest configuration file in bytes.
const TEXT_MAX: u64 = 1 << 20;
/// Largest guest kernel in bytes.
pub const KERNEL_MAX: u64 = 256 << 20;
/// Longest kernel command line in bytes.
pub const CMDLINE_MAX: usize = 2047;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from.
    pub file: PathBuf,
    /// Name of the pair.
    pub pair: String,
    /// Key file of the pair: the secret of its link.
    pub key: PathBuf,
    /// What the secondary does.
    pub level: Level,
    /// Who decides when the hosts lose each other.
    pub arbiter: Arbiter,
    /// The guest.
    pub guest: Guest,
    /// All hosts by name: two or more.
    pub hosts: BTreeMap<String, Host>,
    /// Time limits.
    pub timing: Timing,
}

/// Who decides when the hosts lose each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arbiter {
    /// A witness server on a third machine.
    Witness {
        /// Its address.
        address: SocketAddr,
        /// Key file of the witness.
        key: PathBuf,
    },
}

/// The guest, equal on all hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// ELF file that is started.
    pub kernel: PathBuf,
    /// Size of its memory in MiB.
    pub memory_mib: u32,
    /// Command line.
    pub cmdline: String,
    /// MAC address of each network interface.
    pub nics: Vec<[u8; 6]>,
}

/// What one host lends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// It listens at these addresses; the other hosts dial them.
    pub link: Vec<SocketAddr>,
    /// Its state directory.
    pub state: PathBuf,
    /// Tap device of each network interface.
    pub taps: Vec<String>,
    /// Image of each disk.
    pub disks: Vec<PathBuf>,
}

/// Time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A peer that is silent for so long is dead.
    pub silence: Duration,
    /// So long may an output wait for an acknowledgement.
    pub no_ack: Duration,
    /// Interval between heartbeats.
    pub heartbeat: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let [silence, no_ack, heartbeat] = [250, 2000, 25].map(Duration::from_millis);
        Timing { silence, no_ack, heartbeat }
    }
}

/// A configuration with the content of the files that all hosts share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Secret of the pair's link.
    pub pair_secret: Secret,
    /// Secret of the witness.
    pub witness_secret: Secret,
    /// The guest's kernel.
    pub kernel: Vec<u8>,
    /// XXH3-128 of the kernel.
    pub kernel_digest: u128,
}

impl Config {
    /// Reads a configuration. Looks at no other file.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = read_text(file)?;
        resolve::config(file, &text)
    }

    /// All that must be equal on all hosts, as (key of the file, value), sorted by key: everything but paths
    /// and taps.
    #[must_use]
    pub fn shared(&self) -> Vec<(String, String)> {
        let Arbiter::Witness { address, .. } = &self.arbiter;
        let nics: Vec<String> = self.guest.nics.iter().map(mac_text).collect();
        let ms = |time: Duration| time.as_millis().to_string();
        let fixed = [
            ("pair.name", self.pair.clone()),
            ("pair.level", self.level.name().to_owned()),
            ("arbiter.witness", address.to_string()),
            ("guest.memory_mib", self.guest.memory_mib.to_string()),
            ("guest.cmdline", self.guest.cmdline.clone()),
            ("guest.nics", nics.join(" ")),
            ("timing.silence_ms", ms(self.timing.silence)),
            ("timing.no_ack_ms", ms(self.timing.no_ack)),
            ("timing.heartbeat_ms", ms(self.timing.heartbeat)),
        ];
        let mut shared: Vec<(String, String)> =
            fixed.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        for (name, host) in &self.hosts {
            let link: Vec<String> = host.link.iter().map(ToString::to_string).collect();
            shared.push((format!("hosts.{name}.link"), link.join(" ")));
            shared.push((format!("hosts.{name}.disks"), format!("{} disk(s)", host.disks.len())));
        }
        shared.sort();
        shared
    }

    /// Digest of [`Config::shared`].
    #[must_use]
    pub fn shared_digest(&self) -> u128 {
        let mut digest = Xxh3::new();
        for text in self.shared().iter().flat_map(|(key, value)| [key, value]) {
            // Each with its length, so that no two configurations give the same bytes.
            digest.update(&(text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        digest.digest128()
    }

    /// The host that this process is: the named one, else the one with this machine's host name.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn choose_host(&self, named: Option<&str>) -> Result<(&str, &Host), HostError> {
        let known = || self.hosts.keys().cloned().collect::<Vec<_>>().join(", ");
        if let Some(name) = named {
            let found = self.hosts.get_key_value(name).map(|(name, host)| (name.as_str(), host));
            return found.ok_or_else(|| HostError::Unknown {
                file: self.file.clone(),
                name: name.to_owned(),
                known: known(),
            });
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim();
        let short = name.split('.').next().unwrap_or(name);
        let found = [name, short].into_iter().find_map(|name| self.hosts.get_key_value(name));
        found.map(|(name, host)| (name.as_str(), host)).ok_or_else(|| HostError::NotThisMachine {
            file: self.file.clone(),
            name: name.to_owned(),
            known: known(),
        })
    }
}

impl Loaded {
    /// Reads a configuration and the files that all hosts share: keys and kernel.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = read_text(file)?;
        resolve::loaded(file, &text)
    }
}

/// None of the configured hosts is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// `--host` names none.
    #[error("{}: there is no host {name:?}. Use --host with one of: {known}", file.display())]
    Unknown {
        /// The configuration.
        file: PathBuf,
        /// What was asked for.
        name: String,
        /// The configured ones.
        known: String,
    },
    /// The machine's name is none.
    #[error("{}: this machine is called {name:?}, which is none of its hosts. Use --host with one of: {known}", file.display())]
    NotThisMachine {
        /// The configuration.
        file: PathBuf,
        /// Host name of the machine.
        name: String,
        /// The configured ones.
        known: String,
    },
}

fn read_text(file: &Path) -> Result<String, ConfigError> {
    let problem = |text: String| {
        let problems = vec![Problem { line: 0, key: String::new(), text }];
        ConfigError { file: file.to_owned(), problems }
    };
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(file)?.take(TEXT_MAX + 1).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    let bytes = read()
        .map_err(|error| problem(format!("cannot read it: {error}; give the path of a pair's TOML file")))?;
    if bytes.len() as u64 > TEXT_MAX {
        return Err(problem("larger than 1 MiB: this is not a pair's TOML file".to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| problem("not UTF-8 text: this is not a pair's TOML file".to_owned()))
}

fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// XXH3-128 of a file's content.
#[must_use]
pub fn content_digest(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

#[cfg(test)]
mod tests;
