//! Do two hosts share a file? The proof that the survivor did not simply read what the dead host wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Device and inode: the file itself, whatever it is called.
type Inode = (u64, u64);

/// What two hosts have open or mapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedFiles {
    /// Files that both have.
    pub shared: Vec<String>,
    /// All files of the first host, sorted.
    pub seen_a: Vec<String>,
    /// All files of the second host, sorted.
    pub seen_b: Vec<String>,
}

/// Compares the files of all processes in two PID namespaces (given by their first processes).
pub(super) fn compare(init_a: u32, init_b: u32) -> SharedFiles {
    let (a, b) = (files_of(init_a), files_of(init_b));
    let shared = a.iter().filter(|(inode, _)| b.contains_key(*inode)).map(|(_, path)| path.clone()).collect();
    SharedFiles { shared, seen_a: sorted(a), seen_b: sorted(b) }
}

fn sorted(files: BTreeMap<Inode, String>) -> Vec<String> {
    files.into_values().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The outer PIDs of all processes in the PID namespace of `init`.
pub(super) fn members(init: u32) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(init) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| namespace(*pid).is_some_and(|found| found == wanted)).collect()
}

fn files_of(init: u32) -> BTreeMap<Inode, String> {
    let mut files = BTreeMap::new();
    let mut programs = BTreeSet::new();
    for pid in members(init) {
        // The first process is ours and holds nothing of the host.
        if pid != init {
            open_files(pid, &mut files);
            mapped_files(pid, &mut files, &mut programs);
        }
    }
    files.retain(|inode, _| !programs.contains(inode));
    files
}

fn open_files(pid: u32, files: &mut BTreeMap<Inode, String>) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    for entry in entries.flatten() {
        if let Some((inode, path)) = regular(&entry.path()) {
            files.insert(inode, path.to_string_lossy().into_owned());
        }
    }
}

/// Adds the mappings of a process to `files` and those that are code to `programs`.
fn mapped_files(pid: u32, files: &mut BTreeMap<Inode, String>, programs: &mut BTreeSet<Inode>) {
    if let Ok(program) = fs::metadata(format!("/proc/{pid}/exe")) {
        programs.insert((program.dev(), program.ino()));
    }
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return };
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        // `map_files` leads to the very file, deleted or not; what is no file has no entry there.
        let Some((inode, path)) = regular(&PathBuf::from(format!("/proc/{pid}/map_files/{range}"))) else {
            continue;
        };
        if rights.contains('x') || is_library(&path) {
            programs.insert(inode);
        }
        files.insert(inode, path.to_string_lossy().into_owned());
    }
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".so") || name.contains(".so.")
}

fn regular(link: &Path) -> Option<(Inode, PathBuf)> {
    let meta = fs::metadata(link).ok()?;
    if !meta.is_file() {
        return None;
    }
    Some(((meta.dev(), meta.ino()), fs::read_link(link).ok()?))
}
