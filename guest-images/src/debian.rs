//! `debian`: an ordinary Debian 12 server, made by mmdebstrap: systemd, OpenSSH, nginx, and redis that makes every write
//! durable before it answers, on a disk of its own.
//!
//! Its address is 10.77.0.10/24. Root may log in by ssh with [`client_key`], or at the serial console with the password
//! `twinrun`. Keys and password are known to everybody: it is for tests.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xxhash_rust::xxh3::Xxh3;

use crate::ext4::{self, Content, EPOCH};
use crate::{Disk, LinuxImage, cache, deb};

/// What is installed besides the smallest Debian.
const PACKAGES: [&str; 13] = [
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "iproute2",
    "iputils-ping",
    "e2fsprogs",
    "openssh-server",
    "nginx-light",
    "redis-server",
    "procps",
    "linux-image-cloud-amd64",
    "initramfs-tools",
];
/// Packages whose new version makes a new guest: those that tests are about.
const DECISIVE: [&str; 5] = ["systemd", "openssh-server", "nginx-light", "redis-server", "libc6"];
/// Directories that a server without readers does without.
const LEFT_OUT: [&str; 3] = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"];
/// What the guest is made of, besides packages.
const OWN: [&str; 4] = ["customize.sh", "host_key", "host_key.pub", "client_key.pub"];

/// Size of the root disk: the system takes a fifth of it.
const ROOT_DISK: u64 = 2 << 30;
/// Size of redis's disk.
const DATA_DISK: u64 = 256 << 20;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("debian")
}

/// Makes the guest `debian`, unless it is there already: one to five minutes, as root.
///
/// # Errors
/// Not root (the message names the command), mmdebstrap is missing, or the archive cannot be reached.
pub fn debian() -> Result<LinuxImage> {
    let guest = cache::guests().join(format!("debian-{:016x}", digest()? >> 64));
    if !guest.exists() {
        need_root()?;
        let workshop = cache::workshop()?;
        let fresh = workshop.path().join("guest");
        build(workshop.path(), &fresh)?;
        cache::move_in(&fresh, &guest)?;
    }
    let disk = |name: &'static str| Disk { name, template: guest.join(format!("{name}.img")) };
    Ok(LinuxImage {
        kernel: guest.join("kernel"),
        initrd: guest.join("initrd"),
        cmdline: "root=/dev/vda ro console=ttyS0 quiet panic=-1".to_owned(),
        disks: vec![disk("root"), disk("data")],
    })
}

/// The key with which root may log in by ssh, as a file that ssh accepts.
///
/// # Errors
/// It cannot be written.
pub fn client_key() -> Result<PathBuf> {
    let key = source().join("client_key");
    let bytes = fs::read(&key).with_context(|| format!("cannot read {}", key.display()))?;
    cache::keep_secret("client-key", "key", &bytes)
}

/// Everything that the result depends on.
fn digest() -> Result<u128> {
    let mut digest = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    for name in OWN {
        let file = source().join(name);
        part(&fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    for word in PACKAGES.iter().chain(&LEFT_OUT) {
        part(word.as_bytes());
    }
    for number in [u64::from(EPOCH), ROOT_DISK, DATA_DISK] {
        part(&number.to_le_bytes());
    }
    let kernel = deb::depends("linux-image-cloud-amd64", "linux-image-")?;
    for package in DECISIVE.into_iter().chain([kernel.as_str()]) {
        part(deb::offered(package)?.as_bytes());
    }
    Ok(digest.digest128())
}

fn need_root() -> Result<()> {
    let own = fs::metadata("/proc/self").context("looking at this process")?;
    if own.uid() != 0 {
        bail!(
            "making the guest debian needs root. Run this, then try again:\n  \
             sudo env \"PATH=$PATH\" cargo run -p guest-images -- debian"
        );
    }
    Ok(())
}

fn build(workshop: &Path, guest: &Path) -> Result<()> {
    let root = workshop.join("root");
    eprintln!("debian: installing Debian 12 with {} packages and what they need", PACKAGES.len());
    install(&root)?;
    eprintln!("debian: configuring");
    let own = source();
    let script = own.join("customize.sh");
    deb::run(Command::new("sh").arg(script).args([&root, &own]).env("SOURCE_DATE_EPOCH", EPOCH.to_string()))?;
    eprintln!("debian: making disks");
    fs::create_dir(guest).with_context(|| format!("cannot create {}", guest.display()))?;
    for (name, kind) in [("kernel", "vmlinuz-"), ("initrd", "initrd.img-")] {
        let to = guest.join(name);
        fs::copy(only(&root.join("boot"), kind)?, &to).with_context(|| format!("cannot create {name}"))?;
        cache::seal(&to)?;
    }
    let (user, group) = redis(&fs::read_to_string(root.join("etc/passwd")).context("reading the users")?)?;
    let disks = [("root", ROOT_DISK, Content::Tree(&root)), ("data", DATA_DISK, Content::Empty(user, group))];
    for (name, bytes, content) in disks {
        let image = guest.join(format!("{name}.img"));
        ext4::make(&image, bytes, content)?;
        cache::seal(&image)?;
    }
    Ok(())
}

fn install(root: &Path) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    mmdebstrap.arg(format!("--include={}", PACKAGES.join(",")));
    for path in LEFT_OUT {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    mmdebstrap.arg("bookworm").arg(root).env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    deb::run(&mut mmdebstrap).context(
        "installing Debian failed (if mmdebstrap is missing, as root: apt-get install mmdebstrap)",
    )?;
    Ok(())
}

/// The one file of a directory whose name begins so.
fn only(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let fits = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    };
    let found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(fits).collect();
    ensure!(found.len() == 1, "{} holds {} of {prefix}… instead of one", directory.display(), found.len());
    found.into_iter().next().context("there is one")
}

/// User and group of redis, from the text of /etc/passwd.
fn redis(users: &str) -> Result<(u32, u32)> {
    let line = users.lines().find_map(|line| line.strip_prefix("redis:")).context("redis has no user")?;
    let mut fields = line.split(':').skip(1);
    let mut number = || fields.next()?.parse().ok();
    number().zip(number()).context("the line of redis in /etc/passwd makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_the_data_is_read() {
        let users = "root:x:0:0:root:/root:/bin/bash\nredis:x:100:102::/var/lib/redis:/usr/sbin/nologin\n";
        assert_eq!(redis(users).unwrap(), (100, 102));
        assert!(redis("root:x:0:0::/:/bin/sh\n").is_err());
        assert!(redis("redis:x:100\n").is_err());
    }

    #[test]
    fn the_kernel_is_found_and_two_are_too_many() {
        let boot = tempfile::tempdir().unwrap();
        assert!(only(boot.path(), "vmlinuz-").is_err());
        fs::write(boot.path().join("vmlinuz-6.1"), "").unwrap();
        fs::write(boot.path().join("initrd.img-6.1"), "").unwrap();
        assert_eq!(only(boot.path(), "vmlinuz-").unwrap(), boot.path().join("vmlinuz-6.1"));
        fs::write(boot.path().join("vmlinuz-6.2"), "").unwrap();
        assert!(only(boot.path(), "vmlinuz-").is_err());
    }

    #[test]
    fn the_key_that_lets_in_is_the_one_that_is_handed_out() {
        let path = client_key().unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o400, "ssh refuses a key that others can read");
        let public = fs::read_to_string(source().join("client_key.pub")).unwrap();
        assert!(public.starts_with("ssh-ed25519 "), "{public}");
        assert_eq!(fs::read(path).unwrap(), fs::read(source().join("client_key")).unwrap());
    }
}
