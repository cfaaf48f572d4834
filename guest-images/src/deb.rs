//! Debian's packages: the version that the archive offers, fetched once and kept unpacked under its SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

use crate::cache;

/// A package, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// Where its files lie, as below `/`.
    pub(crate) tree: PathBuf,
}

/// What apt says about a package without fetching it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    sha256: String,
    bytes: u64,
}

/// Fetches a package, unless it is there already. apt checks the archive's signature and the package's digest.
///
/// # Errors
/// apt is missing, does not know the package or cannot fetch it; what to do is said.
pub(crate) fn fetch(name: &str) -> Result<Package> {
    let offer = offer(name)?;
    let tree = packages().join(format!("{name}-{}", &offer.sha256[..16]));
    if !tree.exists() {
        eprintln!("fetching Debian's package {name} ({:.1} MB)", offer.bytes as f64 / 1e6);
        let workshop = cache::workshop()?;
        download(name, workshop.path())?;
        let fresh = workshop.path().join("tree");
        unpack(workshop.path(), &fresh)?;
        fs::create_dir_all(packages()).context("cannot create a directory for packages")?;
        cache::move_in(&fresh, &tree)?;
    }
    Ok(Package { tree })
}

/// The SHA-256 of the version that the archive offers, in hexadecimal. Nothing is fetched.
///
/// # Errors
/// apt is missing, or does not know the package.
pub(crate) fn offered(name: &str) -> Result<String> {
    offer(name).map(|offer| offer.sha256)
}

fn offer(name: &str) -> Result<Offer> {
    let known = || format!("apt offers no package {name}. As root, run this and try again:  apt-get update");
    let text = remembered(&format!("{name}.offer"), || {
        // apt says nothing about a package whose file lies in the working directory already.
        let empty = cache::workshop()?;
        let text = run(apt().args(["--print-uris", "download", name]).current_dir(empty.path()))?;
        Offer::parse(&text).with_context(known)?;
        Ok(text)
    })?;
    Offer::parse(&text).with_context(known)
}

/// The first package that `name` depends on and whose name begins with `prefix`: what a meta package stands for.
///
/// # Errors
/// apt is missing, or knows no such package.
pub(crate) fn depends(name: &str, prefix: &str) -> Result<String> {
    remembered(&format!("{name}.stands-for"), || {
        let text = run(Command::new("apt-cache").args(["show", "--no-all-versions", name]))?;
        first_dependency(&text, prefix)
            .with_context(|| format!("apt knows no {name}. As root, run this and try again:  apt-get update"))
    })
}

/// What apt answers, or what it answered last time. Without its lists (no network yet, or just being renewed by another
/// process) it knows nothing, and what was fetched is as good as it was.
fn remembered(name: &str, ask: impl FnOnce() -> Result<String>) -> Result<String> {
    let path = packages().join(name);
    let before = fs::read_to_string(&path).ok();
    match (ask(), before) {
        (Ok(now), before) if before.as_ref() == Some(&now) => Ok(now),
        (Ok(now), _) => {
            cache::put(&path, now.as_bytes())?;
            Ok(now)
        }
        (Err(error), Some(before)) => {
            eprintln!("{error:#}\nUntil then it is what it was last time.");
            Ok(before)
        }
        (Err(error), None) => Err(error),
    }
}

fn packages() -> PathBuf {
    cache::guests().join("packages")
}

fn first_dependency(text: &str, prefix: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let names = line.split(',').filter_map(|part| part.split_whitespace().next());
    names.into_iter().find(|name| name.starts_with(prefix)).map(str::to_owned)
}

impl Offer {
    /// Reads a line such as `'http://…/x.deb' x_1_amd64.deb 26713492 SHA256:e7d0…`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.lines().find(|line| line.starts_with('\''))?.split_whitespace().skip(2);
        let bytes = words.next()?.parse().ok()?;
        let sha256 = words.next()?.strip_prefix("SHA256:")?;
        let sound = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        sound.then(|| Self { sha256: sha256.to_owned(), bytes })
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // The unprivileged user that apt fetches as cannot write into our directory.
    command.args(["-qq", "-o", "APT::Sandbox::User=root"]);
    command
}

fn download(name: &str, directory: &Path) -> Result<()> {
    let fetched = run(apt().args(["download", name]).current_dir(directory));
    fetched.map(drop).context("if the archive has moved on, run this as root and try again:  apt-get update")
}

/// Unpacks the one package in `directory` to `tree`.
fn unpack(directory: &Path, tree: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).context("reading the directory of a fetched package")?;
    let package = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.context("apt-get download has left no package")?;
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(tree)).map(drop)
}

/// Runs a command of Debian's and returns what it prints.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output();
    let Output { status, stdout, stderr } = output
        .with_context(|| format!("cannot run {name}: these recipes need Debian or a system made from it"))?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        bail!("{name} {} failed: {}", words.join(" "), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Why no package can be fetched here at all.
#[cfg(test)]
pub(crate) fn obstacle() -> Option<&'static str> {
    let known = Command::new("apt-cache").args(["show", "busybox-static"]).output();
    match known {
        Err(_) => Some("this system has no apt"),
        Ok(output) if !output.status.success() => Some("apt has no lists: as root, apt-get update"),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_read_and_half_of_one_is_none() {
        let digest = "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee";
        let line = format!("'http://a/x.deb' x_1%3a2_amd64.deb 26713492 SHA256:{digest}\n");
        assert_eq!(Offer::parse(&line), Some(Offer { sha256: digest.to_owned(), bytes: 26_713_492 }));
        assert_eq!(Offer::parse(&format!("W: something\n{line}")), Offer::parse(&line));
        for spoilt in [
            String::new(),
            line.replace("SHA256", "MD5Sum"),
            line.replace("26713492", "much"),
            line.replace("15ee", "15e"),
            line.replace("e7d0", "../x"),
        ] {
            assert_eq!(Offer::parse(&spoilt), None, "{spoilt}");
        }
    }

    #[test]
    fn what_apt_said_last_is_used_when_it_says_nothing() {
        let name = format!("test-{}.offer", std::process::id());
        let refuse = || bail!("no lists");
        assert!(remembered(&name, refuse).is_err());
        for version in ["1", "2"] {
            assert_eq!(remembered(&name, || Ok(version.to_owned())).unwrap(), version);
            assert_eq!(remembered(&name, refuse).unwrap(), version);
        }
        fs::remove_file(packages().join(name)).unwrap();
    }

    #[test]
    fn a_meta_package_names_the_real_one() {
        let text = "Package: linux-image-cloud-amd64\nPre-Depends: x\n\
                    Depends: base (>= 1), linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        let found = first_dependency(text, "linux-image-");
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(first_dependency(text, "nginx"), None);
        assert_eq!(first_dependency("Package: x\n", "x"), None);
    }
}
