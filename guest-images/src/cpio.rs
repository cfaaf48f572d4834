//! A cpio archive in the kernel's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst), the same
//! bytes for the same content: sorted, owned by root, dated 1970.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

#[derive(Clone, Debug)]
struct Entry {
    /// Type and permissions, as stat(2) has them.
    mode: u32,
    data: Vec<u8>,
    /// Major and minor number of a device.
    device: (u32, u32),
}

/// What goes into an archive. Paths are absolute; directories above them are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a file with these permissions (such as 0o755), in the place of what was there.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, data: Vec<u8>) {
        self.add(path, Entry { mode: FILE | permissions, data, device: (0, 0) });
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry { mode: LINK, data: target.as_bytes().to_vec(), device: (0, 0) });
    }

    /// Adds a directory.
    pub(crate) fn directory(&mut self, path: &str) {
        self.add(path, Entry { mode: DIRECTORY, data: Vec::new(), device: (0, 0) });
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, Entry { mode: CHARACTER_DEVICE, data: Vec::new(), device: (major, minor) });
    }

    /// Whether something lies at this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_start_matches('/'))
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            let above = Entry { mode: DIRECTORY, data: Vec::new(), device: (0, 0) };
            self.entries.entry(path[..at].to_owned()).or_insert(above);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// A file has 4 GiB or more, which the form cannot say.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        // The order of a map puts a directory before what lies in it.
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            append(&mut out, number, path, entry)?;
        }
        append(&mut out, 0, "TRAILER!!!", &Entry { mode: 0, data: Vec::new(), device: (0, 0) })?;
        Ok(out)
    }
}

fn append(out: &mut Vec<u8>, number: u32, path: &str, entry: &Entry) -> Result<()> {
    if path.split('/').any(|part| part == ".." || part == "." || part.is_empty()) {
        bail!("{path:?} is no path for an archive");
    }
    let size = u32::try_from(entry.data.len()).with_context(|| format!("{path} is too large (4 GiB)"))?;
    let name = u32::try_from(path.len() + 1).context("a path is too long")?;
    let links = if entry.mode == DIRECTORY { 2 } else { 1 };
    let (major, minor) = entry.device;
    let mut header = String::from("070701");
    // Number, mode, user, group, links, date, size, device, device of a special file, length of the name, checksum.
    for field in [number, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, name, 0] {
        write!(header, "{field:08x}")?;
    }
    out.extend(header.as_bytes());
    out.extend(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(&entry.data);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mode, content and name of every entry, read back by the offsets of the format.
    fn decode(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>, String)> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let field = |n: usize| {
                u32::from_str_radix(std::str::from_utf8(&bytes[6 + 8 * n..][..8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[..6], b"070701");
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let path = String::from_utf8(bytes[110..][..name - 1].to_vec()).unwrap();
            let start = (110 + name).next_multiple_of(4);
            entries.push((mode, bytes[start..][..size].to_vec(), path));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn what_goes_in_comes_out_sorted_with_its_directories() {
        let mut archive = Archive::default();
        archive.link("/bin/sh", "busybox");
        archive.file("/init", 0o755, b"#!/bin/sh\n".to_vec());
        archive.file("bin/busybox", 0o755, vec![1, 2, 3, 4, 5]);
        archive.device("/dev/console", 5, 1);
        archive.directory("/proc");
        assert!(archive.has("/bin/sh") && !archive.has("/sh"));
        let entries = decode(&archive.encode().unwrap());
        let expected: [(u32, &[u8], &str); 8] = [
            (0o040_755, b"", "bin"),
            (0o100_755, &[1, 2, 3, 4, 5], "bin/busybox"),
            (0o120_777, b"busybox", "bin/sh"),
            (0o040_755, b"", "dev"),
            (0o020_600, b"", "dev/console"),
            (0o100_755, b"#!/bin/sh\n", "init"),
            (0o040_755, b"", "proc"),
            (0, b"", "TRAILER!!!"),
        ];
        let expected = expected.map(|(mode, data, path)| (mode, data.to_vec(), path.to_owned()));
        assert_eq!(entries, expected);
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let paths = ["/a", "/b/c", "/b/a", "/d"];
        let build = |paths: &[&str]| {
            let mut archive = Archive::default();
            for path in paths {
                archive.file(path, 0o644, path.as_bytes().to_vec());
            }
            archive.encode().unwrap()
        };
        let backwards: Vec<&str> = paths.into_iter().rev().collect();
        assert_eq!(build(&paths), build(&backwards));
        assert_ne!(build(&paths), build(&paths[1..]));
    }

    #[test]
    fn a_path_that_leaves_the_archive_is_refused() {
        let mut archive = Archive::default();
        archive.file("/a/../../b", 0o644, Vec::new());
        assert!(archive.encode().is_err());
    }
}
