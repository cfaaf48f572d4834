//! The hosts of a drill: started, asked, waited for, and ended, as an operator would.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::stage::{HOSTS, Kit, Sabotage, witness_address};
use xtask::ns::monotonic_ns;
use xtask::world::{Plugged, Proc, World};

/// A host that does not answer within this time after it was started has failed.
const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(30);

/// A pair (at times a lone host) in a world of its own.
pub(super) struct Cluster<'w> {
    world: &'w World,
    kit: Kit,
    sabotage: Option<Sabotage>,
    processes: BTreeMap<&'static str, Proc>,
    starts: u32,
}

/// A protected pair, as it says itself.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) primary: &'static str,
    pub(super) secondary: &'static str,
    pub(super) generation: u64,
    /// When it was seen.
    pub(super) at: u64,
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

impl<'w> Cluster<'w> {
    pub(super) fn new(world: &'w World, kit: Kit, sabotage: Option<Sabotage>) -> anyhow::Result<Self> {
        kit.equip_witness(&world.host_dir("witness"))?;
        let mut argv = vec![kit.twinrun().as_os_str().to_owned()];
        argv.extend(words(&["witness", "--listen", witness_address(), "--key", "witness.key", "--state"]));
        argv.push("witness.json".into());
        world.spawn("witness", "witness", &argv, &log(world, "witness"))?;
        Ok(Cluster { world, kit, sabotage, processes: BTreeMap::new(), starts: 0 })
    }

    /// A new host: namespaces, cables, files, and the process.
    pub(super) fn add(&mut self, name: &'static str) -> anyhow::Result<()> {
        let number = HOSTS.iter().position(|host| *host == name).context("a host of the drill")? + 1;
        self.world.add_host(name, u8::try_from(number)?)?;
        self.kit.equip(&self.world.host_dir(name))?;
        self.start(name)
    }

    /// Starts the process of a host that is there.
    pub(super) fn start(&mut self, name: &'static str) -> anyhow::Result<()> {
        self.starts += 1;
        let mut argv = Vec::new();
        if self.sabotage == Some(Sabotage::ReleaseEarly) {
            argv.extend(words(&["env", "TWINRUN_SABOTAGE=release-early"]));
        }
        argv.push(self.kit.twinrun().as_os_str().to_owned());
        argv.extend(words(&["run", "pair.toml", "--host", name]));
        let log = log(self.world, &format!("{name}.{}", self.starts));
        let process = self.world.spawn(name, "twinrun", &argv, &log)?;
        self.processes.insert(name, process);
        Ok(())
    }

    /// What a host says of itself; `None` when it does not answer.
    pub(super) fn status(&self, name: &str) -> Option<Value> {
        let mut argv = vec![self.kit.twinrun().as_os_str().to_owned()];
        argv.extend(words(&["status", "pair.toml", "--host", name, "--json"]));
        let output = self.world.run(name, &argv).ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until `accept` is content with what the host says.
    pub(super) fn wait(
        &self,
        name: &'static str,
        what: &str,
        accept: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let begin = Instant::now();
        let mut last = None;
        while begin.elapsed() < START_LIMIT {
            if let Some(process) = self.processes.get(name) {
                ensure!(process.is_alive(), "twinrun on {name} has ended: see {}", self.logs());
            }
            last = self.status(name).or(last);
            if let Some(status) = last.as_ref().filter(|status| accept(status)) {
                return Ok(status.clone());
            }
            std::thread::sleep(POLL);
        }
        let said = last.map_or_else(|| "nothing".to_owned(), |status| status["role"].to_string());
        bail!("{name} did not become {what} within {START_LIMIT:?} (it says {said}): see {}", self.logs())
    }

    /// Waits until the primary and the secondary both say that they are protected.
    pub(super) fn wait_protected(
        &self,
        primary: &'static str,
        secondary: &'static str,
    ) -> anyhow::Result<Pair> {
        let protected =
            |role: &'static str| move |status: &Value| status["role"] == role && status["protected"] == true;
        self.wait(primary, "the protected primary", protected("primary"))?;
        self.wait(secondary, "the protected secondary", protected("secondary"))?;
        let status = self.wait(primary, "the protected primary", protected("primary"))?;
        let generation = status["generation"].as_u64().context("a status names its generation")?;
        Ok(Pair { primary, secondary, generation, at: monotonic_ns() })
    }

    /// Waits until this host runs the guest alone.
    pub(super) fn wait_alone(&self, name: &'static str) -> anyhow::Result<Value> {
        self.wait(name, "the lone survivor", |status| {
            matches!(status["role"].as_str(), Some("alone" | "filling" | "primary"))
        })
    }

    /// Every cable cut in one step, then the processes killed, then the directory deleted.
    pub(super) fn plug(&mut self, name: &'static str) -> anyhow::Result<Plugged> {
        self.processes.remove(name);
        self.world.plug(name)
    }

    /// The process killed; links and files stay.
    pub(super) fn crash(&mut self, name: &'static str) -> anyhow::Result<u64> {
        let process = self.processes.remove(name).context("that host runs no process")?;
        self.world.crash(&process)
    }

    fn logs(&self) -> String {
        self.world.root().join("logs").display().to_string()
    }
}

fn log(world: &World, name: &str) -> std::path::PathBuf {
    Path::new(world.root()).join("logs").join(format!("{name}.log"))
}
