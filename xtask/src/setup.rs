//! What must be installed, and installing it.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use xtask::ns;

/// Debian packages of the drill, by the command that shows that they are there.
pub(crate) const DRILL: [&str; 2] = ["iproute2", "librsvg2-bin"];

/// Debian packages of emulated hosts.
pub(crate) const HOSTS: [&str; 4] = ["iproute2", "qemu-system-x86", "e2fsprogs", "binutils"];

fn command_of(package: &str) -> &str {
    match package {
        "iproute2" => "ip",
        "librsvg2-bin" => "rsvg-convert",
        "qemu-system-x86" => "qemu-system-x86_64",
        "e2fsprogs" => "mkfs.ext4",
        "binutils" => "strip",
        other => other,
    }
}

fn is_there(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(sbin).any(|dir| dir.join(command).is_file())
}

/// Installs what is missing, or says the exact command.
pub(crate) fn packages(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<_> = packages.iter().filter(|package| !is_there(command_of(package))).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !ns::is_root() || !is_there("apt-get") {
        bail!("these packages are missing: {list}. Run this, then try again:  sudo apt-get install {list}");
    }
    println!("      installing {list} (apt-get)");
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"][..], &missing].concat())
}

fn apt(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words).output();
    let output = output.context("starting apt-get")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "apt-get {} failed: {text}", words.join(" "));
    Ok(())
}

/// Cargo subcommands of the test command, with the version that is installed when there is none.
const TOOLS: [(&str, &str); 2] = [("cargo-nextest", "0.9.143"), ("cargo-deny", "0.20.2")];

/// Installs the cargo subcommands that are missing.
pub(crate) fn cargo_tools() -> anyhow::Result<()> {
    for (tool, version) in TOOLS {
        let subcommand = tool.trim_start_matches("cargo-");
        let there =
            Command::new("cargo").args([subcommand, "--version"]).output().is_ok_and(|o| o.status.success());
        if there {
            continue;
        }
        println!("[setup] installing {tool} {version}: cargo install --locked {tool}");
        let status = Command::new("cargo")
            .args(["install", "--locked", "--quiet", "--version", version, tool])
            .status();
        ensure!(
            status.context("starting cargo")?.success(),
            "cargo install {tool} failed: see the messages above"
        );
    }
    Ok(())
}

/// `setup`: everything that any command here needs.
pub(crate) fn run() -> anyhow::Result<()> {
    packages(&[&DRILL[..], &HOSTS].concat())?;
    cargo_tools()?;
    println!("Everything that the commands here need is installed.");
    Ok(())
}
