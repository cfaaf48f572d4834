//! Writes captures on a thread of its own, so that a slow disk delays no frame.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::proto::Reply;
use crate::ns;
use crate::world::pcap;

/// A buffer goes to the writer when it is this long, or every 100 ms.
const CHUNK: usize = 128 << 10;
/// Buffers between cable and disk (128 MiB); beyond, the cable waits: a capture with holes would prove nothing.
const BACKLOG: usize = 1024;
/// Longest time that a frame stays out of the file, ns.
pub(super) const FLUSH_NS: u64 = 100_000_000;

enum Job {
    Write(usize, Vec<u8>),
    Adopt(File),
    Answer(UnixStream),
}

/// A capture file, numbered in the order of opening.
#[derive(Debug, Clone, Copy)]
pub(super) struct CaptureId(usize);

/// All capture files of the cable.
pub(super) struct Captures {
    buffers: Vec<Vec<u8>>,
    dirty_since: Option<u64>,
    jobs: SyncSender<Job>,
    writer: JoinHandle<()>,
    error: Arc<Mutex<Option<String>>>,
}

impl Captures {
    pub(super) fn start() -> Self {
        let (jobs, work) = mpsc::sync_channel(BACKLOG);
        let error = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&error);
        let writer = thread::spawn(move || {
            let mut files: Vec<File> = Vec::new();
            for job in work {
                if let Err(problem) = perform(job, &mut files) {
                    let mut first = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert_with(|| format!("writing a capture: {problem}"));
                }
            }
        });
        Self { buffers: Vec::new(), dirty_since: None, jobs, writer, error }
    }

    /// Takes over a file that [`open`] has opened.
    pub(super) fn adopt(&mut self, file: File) -> CaptureId {
        self.send(Job::Adopt(file));
        self.buffers.push(Vec::new());
        CaptureId(self.buffers.len() - 1)
    }

    pub(super) fn record(&mut self, id: CaptureId, at_ns: u64, frame: &[u8]) {
        self.dirty_since.get_or_insert(at_ns);
        let buffer = &mut self.buffers[id.0];
        pcap::append(buffer, at_ns, frame);
        if buffer.len() >= CHUNK {
            let full = std::mem::take(buffer);
            self.send(Job::Write(id.0, full));
        }
    }

    /// When the next flush is due, if anything waits.
    pub(super) fn next_flush(&self) -> Option<u64> {
        self.dirty_since.map(|since| since + FLUSH_NS)
    }

    pub(super) fn flush(&mut self) {
        self.dirty_since = None;
        for id in 0..self.buffers.len() {
            if !self.buffers[id].is_empty() {
                let full = std::mem::take(&mut self.buffers[id]);
                self.send(Job::Write(id, full));
            }
        }
    }

    /// Answers on `to` when everything so far is in the files.
    pub(super) fn flush_and_answer(&mut self, to: UnixStream) {
        self.flush();
        self.send(Job::Answer(to));
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the rest and returns the first error of all.
    pub(super) fn finish(mut self) -> Option<String> {
        self.flush();
        drop(self.jobs);
        let joined = self.writer.join();
        let first = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.or_else(|| joined.is_err().then(|| "the writer of captures has panicked".to_owned()))
    }

    fn send(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            // The writer ends only by a panic; `finish` reports that.
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| "the writer of captures is gone".to_owned());
        }
    }
}

/// Opens `<name>.pcap`; a host that comes back continues its file.
pub(super) fn open(directory: &Path, name: &str) -> io::Result<File> {
    let path = directory.join(format!("{name}.pcap"));
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if file.metadata()?.len() == 0 {
        file.write_all(&pcap::header())?;
    }
    Ok(file)
}

fn perform(job: Job, files: &mut Vec<File>) -> io::Result<()> {
    match job {
        Job::Adopt(file) => files.push(file),
        Job::Write(id, bytes) => {
            files.get_mut(id).ok_or_else(|| io::Error::other("no such capture"))?.write_all(&bytes)?;
        }
        Job::Answer(mut to) => super::answer(&mut to, &Reply::Done { ns: ns::monotonic_ns() })?,
    }
    Ok(())
}
