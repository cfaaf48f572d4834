//! PID 1 of a place: makes its surroundings private and then waits for its orchestrator to go.
//!
//! All other processes of the place end with it, whatever they do: that is the kernel's promise about a PID namespace.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::ns;

/// Runs as PID 1 of a place until `control` closes.
///
/// `name` becomes the host name; of the directory `hosts` only `own` stays visible (if it lies in there).
///
/// # Errors
/// A mount was refused; the place must not be used then.
pub fn init_main(mut control: UnixStream, name: &str, hosts: &Path, own: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        std::process::id() == 1,
        "world-init is started by the drill only, as PID 1 of a namespace"
    );
    ns::ignore_children();
    ns::mount_fresh("proc", Path::new("/proc")).context("mounting /proc")?;
    // The network's view of /sys and the volatile directories are conveniences: without them nothing is shared that counts.
    let _ = ns::mount_fresh("sysfs", Path::new("/sys"));
    for volatile in ["/run", "/dev/shm"].map(Path::new) {
        if !own.starts_with(volatile) && !executable()?.starts_with(volatile) {
            ns::mount_fresh("tmpfs", volatile)
                .with_context(|| format!("mounting a tmpfs on {}", volatile.display()))?;
        }
    }
    hide_others(hosts, own)?;
    let _ = fs::write("/proc/sys/kernel/hostname", name);
    // Router solicitations and the like would be noise in the captures.
    for which in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
    }
    control.write_all(b"ready\n").context("telling the orchestrator")?;
    let mut byte = [0];
    while control.read(&mut byte).is_ok_and(|length| length != 0) {}
    Ok(())
}

fn executable() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("finding this executable")
}

/// One host's files must not even be *reachable* for another one.
fn hide_others(hosts: &Path, own: &Path) -> anyhow::Result<()> {
    let mine = fs::File::open(own).with_context(|| format!("opening {}", own.display()))?;
    ns::mount_fresh("tmpfs", hosts).with_context(|| format!("covering {}", hosts.display()))?;
    if own.starts_with(hosts) {
        fs::create_dir_all(own).with_context(|| format!("creating {} anew", own.display()))?;
        let held = PathBuf::from(format!("/proc/self/fd/{}", mine.as_raw_fd()));
        ns::mount_bind(&held, own).with_context(|| format!("mounting {}", own.display()))?;
    }
    Ok(())
}
