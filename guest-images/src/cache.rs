//! Where results are kept, and how they get there: in one step, so that whoever looks meanwhile sees all or nothing.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::{NamedTempFile, TempDir};
use xxhash_rust::xxh3::xxh3_128;

/// The workspace's directory for what is built.
pub(crate) fn target() -> PathBuf {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    room.parent().unwrap_or(room).join("target")
}

/// Where finished guests lie.
pub(crate) fn guests() -> PathBuf {
    target().join("guests")
}

/// A directory for work in progress, gone when dropped; what is finished moves from here to its place.
pub(crate) fn workshop() -> Result<TempDir> {
    let guests = guests();
    fs::create_dir_all(&guests).with_context(|| format!("cannot create {}", guests.display()))?;
    let made = tempfile::Builder::new().prefix(".work-").tempdir_in(&guests);
    made.with_context(|| format!("cannot create a directory in {}", guests.display()))
}

/// Keeps `bytes` as `NAME-DIGEST.KIND`, read-only, and returns the path.
pub(crate) fn keep(name: &str, kind: &str, bytes: &[u8]) -> Result<PathBuf> {
    keep_as(name, kind, bytes, 0o444)
}

/// As [`keep`], readable by its owner alone.
pub(crate) fn keep_secret(name: &str, kind: &str, bytes: &[u8]) -> Result<PathBuf> {
    keep_as(name, kind, bytes, 0o400)
}

/// Writes a file in one step, in the place of what was there.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, 0o644)
}

fn keep_as(name: &str, kind: &str, bytes: &[u8], permissions: u32) -> Result<PathBuf> {
    let path = guests().join(format!("{name}-{:016x}.{kind}", xxh3_128(bytes) >> 64));
    if !path.exists() {
        write(&path, bytes, permissions)?;
    }
    Ok(path)
}

fn write(path: &Path, bytes: &[u8], permissions: u32) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let directory = path.parent().context("the file has a directory")?;
    fs::create_dir_all(directory).with_context(failed)?;
    let mut draft = NamedTempFile::new_in(directory).with_context(failed)?;
    draft.write_all(bytes).with_context(failed)?;
    permit(draft.path(), permissions)?;
    draft.persist(path).with_context(failed)?;
    Ok(())
}

/// Keeps a file of so many zero bytes, which takes no space.
pub(crate) fn keep_blank(bytes: u64) -> Result<PathBuf> {
    let path = guests().join(format!("blank-{}m.img", bytes >> 20));
    if !path.exists() {
        let failed = || format!("cannot write {}", path.display());
        fs::create_dir_all(guests()).with_context(failed)?;
        let draft = NamedTempFile::new_in(guests()).with_context(failed)?;
        draft.as_file().set_len(bytes).with_context(failed)?;
        seal(draft.path())?;
        draft.persist(&path).with_context(failed)?;
    }
    Ok(path)
}

/// Everybody may read it, nobody may write it.
pub(crate) fn seal(path: &Path) -> Result<()> {
    permit(path, 0o444)
}

fn permit(path: &Path, permissions: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(permissions))
        .with_context(|| format!("cannot set the permissions of {}", path.display()))
}

/// Moves the directory `from`, just made, to its place `to`. Another process may have been faster: its result is as good.
pub(crate) fn move_in(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if !to.exists() => Err(error).with_context(|| format!("cannot create {}", to.display())),
        _ => Ok(()),
    }
}
