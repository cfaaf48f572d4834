//! From the written form to the checked one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep::arbiter::{IN_SYNC_MAX, NAME_MAX};
use lockstep::runner::Level;
use toml::Spanned;

use super::low::{Low, LowGuest, LowHost, LowTiming};
use super::problem::Problems;
use super::{Arbiter, CMDLINE_MAX, Config, ConfigError, Guest, Host, KERNEL_MAX, Loaded, Timing};
use crate::control::SOCKET_PATH_MAX;
use crate::host::state::SOCKET_NAME;
use crate::key::{self, Secret};

/// The machine has one slot for each.
const NICS_MAX: usize = 1;
const DISKS_MAX: usize = 1;
/// Addresses of one host's link.
const LINKS_MAX: usize = 4;
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 4..=65_536;
/// Longest name of a Linux network interface in bytes.
const TAP_NAME_MAX: usize = 15;

pub(super) fn config(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let mut resolver = Resolver::new(file, text);
    let config = resolver.low(text).and_then(|low| resolver.config(&low));
    resolver.problems.into_result(file, config)
}

pub(super) fn loaded(file: &Path, text: &str) -> Result<Loaded, ConfigError> {
    let mut resolver = Resolver::new(file, text);
    let loaded = resolver.low(text).and_then(|low| resolver.loaded(&low));
    resolver.problems.into_result(file, loaded)
}

struct Resolver<'a> {
    file: &'a Path,
    /// Directory of the file: paths are relative to it.
    base: &'a Path,
    problems: Problems<'a>,
}

impl<'a> Resolver<'a> {
    fn new(file: &'a Path, text: &'a str) -> Self {
        let base = file.parent().unwrap_or_else(|| Path::new(""));
        Resolver { file, base, problems: Problems::new(text) }
    }

    fn low(&mut self, text: &str) -> Option<Low> {
        toml::from_str(text)
            .map_err(|error| {
                let span = error.span().unwrap_or_default();
                let message = error.message().trim().replace('\n', "; ");
                let remedy = if message.starts_with("missing field") {
                    ": add it to this table"
                } else if message.starts_with("unknown field") {
                    ": correct or remove this key"
                } else {
                    ": correct this line"
                };
                self.problems.at(span, "", format!("{message}{remedy}"));
            })
            .ok()
    }

    /// Always looks at everything; the value counts only when no problem was found.
    fn config(&mut self, low: &Low) -> Option<Config> {
        self.name(&low.pair.name, "pair.name");
        let address = self.address(&low.arbiter.get_ref().witness, "arbiter.witness");
        let key = self.path(&low.arbiter.get_ref().key, "arbiter.key");
        let guest = self.guest(&low.guest);
        let hosts = self.hosts(low, address);
        let level = self.level(low.pair.level.as_ref());
        let timing = low.timing.as_ref().map(|low| self.timing(low)).unwrap_or_default();
        Some(Config {
            file: self.file.to_owned(),
            pair: low.pair.name.get_ref().clone(),
            key: self.path(&low.pair.key, "pair.key"),
            level,
            arbiter: Arbiter::Witness { address: address?, key },
            guest,
            hosts,
            timing,
        })
    }

    fn loaded(&mut self, low: &Low) -> Option<Loaded> {
        let config = self.config(low);
        let pair_secret = self.secret(&low.pair.key, "pair.key");
        let witness_secret = self.secret(&low.arbiter.get_ref().key, "arbiter.key");
        let kernel = self.kernel(&low.guest.kernel)?;
        let kernel_digest = super::content_digest(&kernel);
        let (pair_secret, witness_secret) = (pair_secret?, witness_secret?);
        Some(Loaded { config: config?, pair_secret, witness_secret, kernel, kernel_digest })
    }

    fn problem<T>(&mut self, at: &Spanned<T>, key: &str, text: impl Into<String>) {
        self.problems.at(at.span(), key, text);
    }

    fn level(&mut self, low: Option<&Spanned<String>>) -> Level {
        let Some(text) = low else { return Level::default() };
        Level::from_name(text.get_ref()).unwrap_or_else(|| {
            self.problem(
                text,
                "pair.level",
                "the levels are \"lockstep\" (the second host runs the same guest) and \"checkpoint\" (it takes the \
                 state of each epoch): choose one of them",
            );
            Level::default()
        })
    }

    /// A name of a pair or host: it goes into file names, messages and the witness's record.
    fn name(&mut self, name: &Spanned<String>, key: &str) {
        let text = name.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(allowed) {
            self.problem(
                name,
                key,
                format!("a name has 1 to {NAME_MAX} letters, digits, '-', '_' or '.': choose another"),
            );
        }
    }

    fn path(&mut self, path: &Spanned<String>, key: &str) -> PathBuf {
        if path.get_ref().is_empty() || path.get_ref().contains('\0') {
            self.problem(path, key, "this is no path: name a file");
        }
        self.base.join(path.get_ref())
    }

    fn address(&mut self, address: &Spanned<String>, key: &str) -> Option<SocketAddr> {
        let Ok(parsed) = address.get_ref().parse::<SocketAddr>() else {
            let text = format!("{:?} is no address: write IP:PORT, as \"10.78.0.1:7800\"", address.get_ref());
            self.problem(address, key, text);
            return None;
        };
        if parsed.port() == 0 || parsed.ip().is_unspecified() || parsed.ip().is_multicast() {
            let text = format!("nobody can dial {parsed}: write the address and port of one interface");
            self.problem(address, key, text);
        }
        Some(parsed)
    }

    fn guest(&mut self, low: &LowGuest) -> Guest {
        let memory = *low.memory_mib.get_ref();
        if !MEMORY_MIB.contains(&memory) {
            let (low_limit, high_limit) = (MEMORY_MIB.start(), MEMORY_MIB.end());
            let text = format!("{memory} MiB cannot be given: write {low_limit} to {high_limit}");
            self.problem(&low.memory_mib, "guest.memory_mib", text);
        }
        let cmdline = low.cmdline.as_ref().map_or("", |cmdline| cmdline.get_ref());
        if let Some(at) = &low.cmdline
            && (cmdline.len() > CMDLINE_MAX || cmdline.contains(['\0', '\n']))
        {
            let text = format!("must be one line of at most {CMDLINE_MAX} bytes: shorten it");
            self.problem(at, "guest.cmdline", text);
        }
        let nics = low.nics.get_ref();
        if nics.len() > NICS_MAX {
            let text = format!("the machine has room for {NICS_MAX} interface: remove the others");
            self.problem(&low.nics, "guest.nics", text);
        }
        let mut macs = Vec::new();
        for nic in nics {
            match mac(nic.get_ref()) {
                Some(mac) if macs.contains(&mac) => {
                    self.problem(
                        nic,
                        "guest.nics",
                        "this address is there twice: give each interface its own",
                    );
                }
                Some(mac) => macs.push(mac),
                None => {
                    let text = format!(
                        "{:?} is no address of an interface: write as \"52:54:00:77:00:10\"",
                        nic.get_ref()
                    );
                    self.problem(nic, "guest.nics", text);
                }
            }
        }
        Guest {
            kernel: self.path(&low.kernel, "guest.kernel"),
            memory_mib: u32::try_from(memory).unwrap_or(u32::MAX),
            cmdline: cmdline.to_owned(),
            nics: macs,
        }
    }

    fn hosts(&mut self, low: &Low, witness: Option<SocketAddr>) -> BTreeMap<String, Host> {
        let hosts = low.hosts.get_ref();
        if !(2..=IN_SYNC_MAX).contains(&hosts.len()) {
            let text = format!(
                "{} given, a pair has 2 to {IN_SYNC_MAX}: write one table [hosts.NAME] for each",
                hosts.len()
            );
            self.problem(&low.hosts, "hosts", text);
        }
        let disks = hosts.values().map(|host| host.disks.get_ref().len()).max().unwrap_or(0);
        let mut addresses: BTreeSet<SocketAddr> = witness.into_iter().collect();
        let mut resolved = BTreeMap::new();
        for (name, host) in hosts {
            self.name(name, &format!("hosts.{}", name.get_ref()));
            let host = self.host(name.get_ref(), host, low.guest.nics.get_ref().len(), disks, &mut addresses);
            resolved.insert(name.get_ref().clone(), host);
        }
        resolved
    }

    fn host(
        &mut self,
        name: &str,
        low: &LowHost,
        nics: usize,
        disks: usize,
        addresses: &mut BTreeSet<SocketAddr>,
    ) -> Host {
        let key = |key: &str| format!("hosts.{name}.{key}");
        if !(1..=LINKS_MAX).contains(&low.link.get_ref().len()) {
            self.problem(&low.link, &key("link"), format!("write 1 to {LINKS_MAX} addresses"));
        }
        let mut link = Vec::new();
        for address in low.link.get_ref() {
            let Some(parsed) = self.address(address, &key("link")) else { continue };
            if !addresses.insert(parsed) {
                let text = format!("{parsed} is used twice: give every host and the witness their own");
                self.problem(address, &key("link"), text);
            }
            link.push(parsed);
        }
        Host {
            link,
            state: self.state(&low.state, &key("state")),
            taps: self.taps(low, nics, &key("taps")),
            disks: self.disks(low, disks, &key("disks")),
        }
    }

    fn state(&mut self, state: &Spanned<String>, key: &str) -> PathBuf {
        let path = self.path(state, key);
        let len = path.join(SOCKET_NAME).as_os_str().len();
        if len > SOCKET_PATH_MAX {
            let text = format!(
                "its control socket's path has {len} bytes, {SOCKET_PATH_MAX} are possible: choose a shorter path"
            );
            self.problem(state, key, text);
        }
        path
    }

    fn taps(&mut self, low: &LowHost, nics: usize, key: &str) -> Vec<String> {
        let taps = low.taps.get_ref();
        if taps.len() != nics {
            let text =
                format!("{} given for {nics} in guest.nics: name one tap device per interface", taps.len());
            self.problem(&low.taps, key, text);
        }
        let mut names = Vec::new();
        for tap in taps {
            let name = tap.get_ref();
            if name.is_empty()
                || name.len() > TAP_NAME_MAX
                || name.contains(|c: char| !c.is_ascii_graphic() || "/%:".contains(c))
            {
                let text = format!(
                    "{name:?} is no name of an interface (1 to {TAP_NAME_MAX} bytes): write as \"twin0\""
                );
                self.problem(tap, key, text);
            } else if names.contains(name) {
                self.problem(tap, key, format!("{name} is there twice: one tap device per interface"));
            }
            names.push(name.clone());
        }
        names
    }

    fn disks(&mut self, low: &LowHost, disks: usize, key: &str) -> Vec<PathBuf> {
        let images = low.disks.get_ref();
        if images.len() > DISKS_MAX {
            self.problem(
                &low.disks,
                key,
                format!("the machine has room for {DISKS_MAX} disk: remove the others"),
            );
        } else if images.len() != disks {
            let text =
                format!("{} given, another host has {disks}: all hosts have the same number", images.len());
            self.problem(&low.disks, key, text);
        }
        images.iter().map(|image| self.path(image, key)).collect()
    }

    fn timing(&mut self, low: &Spanned<LowTiming>) -> Timing {
        let table = low.get_ref();
        let given = |value: &Option<Spanned<u64>>, default: Duration| {
            value.as_ref().map_or(default, |value| Duration::from_millis(*value.get_ref()))
        };
        let default = Timing::default();
        let timing = Timing {
            silence: given(&table.silence_ms, default.silence),
            no_ack: given(&table.no_ack_ms, default.no_ack),
            heartbeat: given(&table.heartbeat_ms, default.heartbeat),
        };
        let four_beats = timing.heartbeat.saturating_mul(4);
        let limits = [
            ("silence_ms", &table.silence_ms, timing.silence, four_beats, "4 × heartbeat_ms"),
            ("no_ack_ms", &table.no_ack_ms, timing.no_ack, timing.silence, "silence_ms"),
            ("heartbeat_ms", &table.heartbeat_ms, timing.heartbeat, Duration::from_millis(1), "1"),
        ];
        for (key, at, value, least, name) in limits {
            if value < least || value > Duration::from_mins(1) {
                let text = format!("{} ms cannot be used: write {name} to 60000", value.as_millis());
                let span = at.as_ref().map_or_else(|| low.span(), Spanned::span);
                self.problems.at(span, format!("timing.{key}"), text);
            }
        }
        timing
    }

    fn secret(&mut self, path: &Spanned<String>, name: &str) -> Option<Secret> {
        let found = key::read(&self.base.join(path.get_ref()));
        found.map_err(|error| self.problem(path, name, error.to_string())).ok()
    }

    fn kernel(&mut self, path: &Spanned<String>) -> Option<Vec<u8>> {
        let name = self.base.join(path.get_ref());
        let read = || {
            let mut bytes = Vec::new();
            File::open(&name)?.take(KERNEL_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > KERNEL_MAX {
                return Err(io::Error::other("larger than 256 MiB"));
            }
            Ok(bytes)
        };
        let text =
            |error: io::Error| format!("cannot read {}: {error}; name the guest's ELF file", name.display());
        read().map_err(|error| self.problem(path, "guest.kernel", text(error))).ok()
    }
}

/// A unicast MAC address.
fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}
