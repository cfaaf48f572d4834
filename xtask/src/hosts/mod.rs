//! Emulated hosts: QEMU without acceleration, with a processor that has SVM, so that a stock Debian kernel's `kvm_amd`
//! works inside.
//!
//! An emulated host runs in a place of the drill's [`world`](crate::world): its network cards are joined to the place's
//! ports of the cable, and it ends with the place, however that ends. Inside, this very executable is the *agent*, which
//! carries out commands; from outside, QMP pulls links and lets disks fail.
//!
//! ```text
//!  place "alpha"                        emulated host "alpha"
//!  link0 - br-link - e-link             link0  10.78.0.N
//!  mgmt0 - br-mgmt - e-mgmt    [QEMU]   mgmt0  10.79.0.N
//!  lan0  - br0     - twin0              lan0 - br0 - twin0: the tap that TwinRun opens
//! ```
//!
//! ```no_run
//! # fn drill(own: &std::path::Path, twinrun: &std::path::Path) -> anyhow::Result<()> {
//! use xtask::hosts::{self, EmulatedHost, HostSpec};
//! use xtask::world::World;
//!
//! let image = hosts::build(own, &[("/bin/twinrun", twinrun)])?;
//! let world = World::create("target/hosts".as_ref(), 1)?;
//! let host = EmulatedHost::boot(&world, &HostSpec::new("alpha", 1, &image))?;
//! host.agent().put("pair.toml".as_ref(), "/root/pair.toml")?;
//! let pid = host.agent().start(&["twinrun", "run", "pair.toml", "--host", "alpha"], "/root/log")?;
//! println!("{pid}: {}", host.must("twinrun doctor")?);
//! host.agent().get("/root/log", "alpha.log".as_ref())?;
//! host.pull_plug(&world)?;
//! # Ok(())
//! # }
//! ```
//!
//! **What a plug is here.** What the host wrote and did not flush lies in *its* page cache and is lost when the QEMU process
//! is killed. What reached its disk is in the image, which outlives the place: the host can be booted again from it.

pub mod agent;
mod image;
mod machine;
mod qmp;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use self::image::{HostImage, build};
pub use self::machine::{DiskFault, DiskSpec, EmulatedHost, HostSpec};

/// The program.
const QEMU: &str = "qemu-system-x86_64";

/// Why no emulated host can be started here, in words for the user; `None` if one can.
pub fn obstacle() -> Option<String> {
    let found = find(QEMU).is_none();
    crate::world::obstacle()
        .or_else(|| found.then(|| format!("{QEMU} is missing: as root, apt-get install qemu-system-x86")))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// To be called first in `main`: if this process was started as an agent, runs it and returns its exit code.
pub fn hidden_main() -> Option<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [what, port] = words.as_slice() else { return None };
    (what == agent::WORD).then(|| match agent::inside::serve(Path::new(port)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}
