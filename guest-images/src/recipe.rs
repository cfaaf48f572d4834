//! The freestanding guests and the server of the Linux guests: programs with a Cargo workspace of their own, in
//! `guest-images/micro`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};
use xxhash_rust::xxh3::Xxh3;

use crate::cache;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What the guests are made of: files and directories.
const FILES: [&str; 3] = ["Cargo.toml", "Cargo.lock", "build.rs"];
const DIRECTORIES: [&str; 4] = ["src", "machine", "chaos", "server"];
/// Settings of cargo that say where it finds things, not what it builds.
const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP", "CARGO_NET", "CARGO_REGISTR", "CARGO_TERM"];

/// Which micro guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MicroOptions {
    /// The guest that is broken on purpose: about one request in 20 counts twice. A checker must notice.
    pub double_apply: bool,
}

/// A program of the guests' workspace.
#[derive(Clone, Copy)]
struct Program {
    package: &'static str,
    name: &'static str,
    features: &'static str,
    /// More for the compiler.
    flags: &'static [&'static str],
}

const CHAOS: Program = Program { package: "chaos-guest", name: "chaos", features: "", flags: &[] };
/// One file without libraries, at fixed addresses: fewer things that differ from boot to boot.
const SERVER: Program = Program {
    package: "mini-server",
    name: "server",
    features: "",
    flags: &["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-Cstrip=symbols"],
};

impl From<MicroOptions> for Program {
    fn from(options: MicroOptions) -> Self {
        let features = if options.double_apply { "double-apply" } else { "" };
        Self { package: "micro-guest", name: "micro", features, flags: &[] }
    }
}

/// Builds the micro guest, unless it is there already, and returns the path of its ELF file.
///
/// # Errors
/// A source file that cannot be read, a toolchain that does not start, a build that fails: cargo's own messages
/// have then gone to the standard error output.
pub fn micro(options: MicroOptions) -> Result<PathBuf> {
    guest(options.into())
}

/// Builds the chaos guest, unless it is there already, and returns the path of its ELF file.
///
/// # Errors
/// As for [`micro`].
pub fn chaos() -> Result<PathBuf> {
    guest(CHAOS)
}

/// Builds the test server of the Linux guests, unless it is there already: a static program for x86-64 with SSE2.
pub(crate) fn server() -> Result<PathBuf> {
    guest(SERVER)
}

fn guest(program: Program) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("micro");
    let target = cache::target();
    let digest = digest(&source, &toolchain(&source)?, program)?;
    let guest = cache::guests().join(format!("{}-{:016x}.elf", program.name, digest >> 64));
    if !guest.exists() {
        let built = build(&source, &target.join("guest-micro"), program)?;
        install(&built, &guest)?;
    }
    Ok(guest)
}

/// Everything that the result depends on.
fn digest(source: &Path, toolchain: &[u8], program: Program) -> Result<u128> {
    let mut files: Vec<PathBuf> = FILES.iter().map(|name| source.join(name)).collect();
    for name in DIRECTORIES {
        collect(&source.join(name), &mut files)?;
    }
    files.sort();
    let mut digest = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    for file in &files {
        let name = file.strip_prefix(source).context("the file was found in this directory")?;
        part(name.as_os_str().as_encoded_bytes());
        part(&fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    part(toolchain);
    for text in [program.package, program.name, program.features] {
        part(text.as_bytes());
    }
    part(flags(Path::new("/"), Path::new("/"), program).as_encoded_bytes());
    Ok(digest.digest128())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = || format!("cannot read the directory {}", directory.display());
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        if entry.file_type().with_context(unreadable)?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The compiler's version, as it is chosen in the guest's directory.
fn toolchain(source: &Path) -> Result<Vec<u8>> {
    let output = Command::new("rustc").arg("-vV").current_dir(source).output();
    let output = output.context("cannot run rustc: install the toolchain of rust-toolchain.toml")?;
    if !output.status.success() {
        bail!("rustc -vV failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn build(source: &Path, target: &Path, program: Program) -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(source).args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]);
    cargo.arg(target).args(["--package", program.package, "--bin", program.name]);
    cargo.args(["--features", program.features]);
    // The settings of an outer build are not for the guest: its code must be the same whoever asks for it.
    for (name, _) in env::vars_os().filter(|(name, _)| leaks(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(source, &home.unwrap_or_default(), program));
    let status = cargo.status().context("cannot run cargo: install the toolchain of rust-toolchain.toml")?;
    if !status.success() {
        bail!("the guest {} does not build ({status}): see cargo's messages above", program.name);
    }
    Ok(target.join(TARGET).join("release").join(program.name))
}

fn leaks(name: &str) -> bool {
    let outer = name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept));
    outer || ["RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"].contains(&name)
}

/// The plainest x86-64, and no directory of this machine in the result: each host builds its own guest, and a pair
/// wants them equal.
fn flags(source: &Path, home: &Path, program: Program) -> OsString {
    let mut flags = OsString::from("-Ctarget-cpu=x86-64");
    for (path, name) in [(source, "/micro"), (home, "/cargo")] {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(path);
        flags.push(format!("={name}"));
    }
    for flag in program.flags {
        flags.push("\u{1f}");
        flags.push(flag);
    }
    flags
}

/// Puts the result in place in one step: whoever looks meanwhile sees all of it or nothing.
fn install(built: &Path, guest: &Path) -> Result<()> {
    let failed = || format!("cannot install {}", guest.display());
    fs::create_dir_all(guest.parent().context("the guest has a directory")?).with_context(failed)?;
    let draft = guest.with_extension(format!("{}.tmp", process::id()));
    fs::copy(built, &draft).with_context(failed)?;
    fs::rename(&draft, guest).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Program {
        MicroOptions { double_apply: false }.into()
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_guest_is_built_once_and_lies_where_the_machine_expects_it() {
        for program in [sound(), CHAOS] {
            let path = guest(program).unwrap();
            let made = fs::metadata(&path).unwrap().modified().unwrap();
            assert_eq!(guest(program).unwrap(), path);
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);
            check(&fs::read(&path).unwrap());
        }
    }

    fn check(elf: &[u8]) {
        assert_eq!(elf[..6], *b"\x7fELF\x02\x01");
        assert_eq!(elf[16..20], [2, 0, 62, 0], "a static executable for x86-64");
        let (entry, headers) = (long(elf, 24), usize::try_from(long(elf, 32)).unwrap());
        let segments: Vec<&[u8]> =
            elf[headers..].chunks(56).take(usize::from(elf[56])).filter(|segment| segment[0] == 1).collect();
        let starts: Vec<u64> = segments.iter().map(|segment| long(segment, 24)).collect();
        assert_eq!(starts.first(), Some(&0x20_0000));
        assert!(starts.contains(&entry), "{entry:#x} is not the start of one of {starts:x?}");
    }

    #[test]
    fn each_guest_has_a_digest_of_its_own() {
        let copy = env::temp_dir().join(format!("micro-digest-{}", process::id()));
        for name in FILES.iter().chain(&[
            "src/log/mod.rs",
            "machine/guest.ld",
            "chaos/Cargo.toml",
            "server/Cargo.toml",
        ]) {
            let file = copy.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, name).unwrap();
        }
        let first = digest(&copy, b"rustc 1", sound()).unwrap();
        assert_eq!(digest(&copy, b"rustc 1", sound()).unwrap(), first);
        assert_ne!(digest(&copy, b"rustc 2", sound()).unwrap(), first);
        assert_ne!(digest(&copy, b"rustc 1", MicroOptions { double_apply: true }.into()).unwrap(), first);
        assert_ne!(digest(&copy, b"rustc 1", CHAOS).unwrap(), first);
        for name in ["src/log/mod.rs", "machine/guest.ld", "chaos/Cargo.toml"] {
            fs::write(copy.join(name), "changed").unwrap();
            assert_ne!(digest(&copy, b"rustc 1", sound()).unwrap(), first, "{name}");
            fs::write(copy.join(name), name).unwrap();
        }
        fs::remove_file(copy.join("build.rs")).unwrap();
        let missing = format!("{:#}", digest(&copy, b"rustc 1", sound()).unwrap_err());
        assert!(missing.contains("build.rs"), "{missing}");
        fs::remove_dir_all(&copy).unwrap();
    }

    #[test]
    fn settings_of_an_outer_build_do_not_leak() {
        for name in ["CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_PROFILE_RELEASE_LTO"]
        {
            assert!(leaks(name), "{name}");
        }
        for name in
            ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_REGISTRIES_X_INDEX", "PATH", "RUSTUP_TOOLCHAIN"]
        {
            assert!(!leaks(name), "{name}");
        }
    }
}
