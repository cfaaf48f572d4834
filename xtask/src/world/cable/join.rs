//! Opens taps and capture files on threads of their own: the kernel takes milliseconds for a new interface (far longer while a
//! namespace ends), and frames of the other hosts must not wait for it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::capture;
use super::proto::Segment;
use crate::ns;

/// What a new port needs.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) tap: File,
    /// For `out` and `in`, on the LAN only.
    pub(super) captures: Option<[File; 2]>,
}

type Result = (String, Segment, std::result::Result<Opened, String>);

/// Ports on their way.
#[derive(Debug)]
pub(super) struct Joining {
    done: Sender<Result>,
    results: Receiver<Result>,
    /// A byte per result, so that the cable can wait for it as for a frame.
    ring: UnixStream,
    bell: UnixStream,
}

impl Joining {
    pub(super) fn new() -> io::Result<Self> {
        let (ring, bell) = UnixStream::pair()?;
        let (done, results) = mpsc::channel();
        Ok(Self { done, results, ring, bell })
    }

    /// Readable when there is a result.
    pub(super) fn bell(&self) -> &UnixStream {
        &self.bell
    }

    pub(super) fn begin(&self, directory: &Path, host: String, segment: Segment, pid: u32) {
        let (directory, done, ring) = (directory.to_owned(), self.done.clone(), self.ring.try_clone());
        thread::spawn(move || {
            let opened = open(&directory, &host, segment, pid);
            // The other end is gone only when the cable ends.
            let _ = done.send((host, segment, opened));
            let _ = ring.and_then(|mut ring| ring.write_all(&[0]));
        });
    }

    /// The next result. To be called after the bell was readable, until it returns `None`.
    pub(super) fn finished(&mut self) -> Option<Result> {
        let result = self.results.try_recv().ok()?;
        // Its byte is there or about to be.
        let _ = self.bell.read(&mut [0]);
        Some(result)
    }
}

fn open(directory: &Path, host: &str, segment: Segment, pid: u32) -> std::result::Result<Opened, String> {
    let interface = segment.interface();
    let tap = ns::open_tap(pid, interface)
        .map_err(|error| format!("creating the tap {interface} for {host}: {error}"))?;
    let capture = |direction: &str| {
        capture::open(directory, &format!("{host}.lan.{direction}"))
            .map_err(|error| format!("creating a capture of {host}: {error}"))
    };
    let captures = match segment {
        Segment::Lan => Some([capture("out")?, capture("in")?]),
        Segment::Link | Segment::Mgmt => None,
    };
    Ok(Opened { tap, captures })
}
