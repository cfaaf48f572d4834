//! Tap devices: the guest's cable to the outside.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError};

use super::sys;

/// Shortest Ethernet frame (its header), in bytes.
pub const FRAME_MIN: usize = 14;
/// Longest Ethernet frame at an MTU of 1500, without checksum, in bytes.
pub const FRAME_MAX: usize = 1514;

/// Why a tap device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no such interface.
    #[error("No such tap device {0}: create it with `ip tuntap add {0} mode tap`")]
    Missing(String),
    /// Another process is attached to it.
    #[error("Tap device {0} is busy: another process has it. Stop that process or name another tap")]
    Busy(String),
    /// There is such an interface, but it is something else.
    #[error(
        "{0} is not a tap device of one queue without extra headers: remove it and create it with `ip tuntap add {0} mode tap`"
    )]
    NotATap(String),
    /// Not allowed.
    #[error(
        "Not allowed to use tap device {0}: run as root, or create it with `ip tuntap add {0} mode tap user NAME`"
    )]
    NotAllowed(String),
    /// The kernel has no tap devices.
    #[error("Cannot open /dev/net/tun: {0}. Load the module with `modprobe tun`")]
    NoTun(io::Error),
    /// Anything else.
    #[error("Tap device {name}: {error}. Check it with `ip -d link show {name}`")]
    Other {
        /// Name of the device.
        name: String,
        /// What the kernel says.
        error: io::Error,
    },
}

/// Frames that passed and frames that were dropped, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounters {
    /// Frames that came in from the outside.
    pub received: u64,
    /// Of the outside's frames, those that were dropped: too long, too short, or nobody took them in time.
    pub receive_dropped: u64,
    /// Frames that left.
    pub sent: u64,
    /// Frames that could not leave: the device's queue was full, or it is down.
    pub send_dropped: u64,
}

#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    receive_dropped: AtomicU64,
    sent: AtomicU64,
    send_dropped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An attached tap device.
#[derive(Debug)]
pub struct Tap {
    name: String,
    file: Arc<File>,
    counts: Arc<Counts>,
}

impl Tap {
    /// Attaches to an existing tap device. Never creates one: a mistyped name must be an error.
    ///
    /// # Errors
    /// [`TapError`], which says what to do.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => TapError::NotAllowed(name.to_owned()),
                _ => TapError::NoTun(error),
            })?;
        if !sys::interface_exists(name) {
            return Err(TapError::Missing(name.to_owned()));
        }
        sys::attach_tap(&file, name).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => TapError::Busy(name.to_owned()),
            Some(libc::EPERM | libc::EACCES) => TapError::NotAllowed(name.to_owned()),
            Some(libc::EINVAL) => TapError::NotATap(name.to_owned()),
            _ => TapError::Other { name: name.to_owned(), error },
        })?;
        Ok(Tap { name: name.to_owned(), file: Arc::new(file), counts: Arc::default() })
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends one frame without ever waiting; a network may lose frames, so what does not fit is dropped and
    /// counted.
    pub fn send(&self, frame: &[u8]) {
        match (&*self.file).write(frame) {
            Ok(len) if len == frame.len() => count(&self.counts.sent),
            Ok(_) | Err(_) => count(&self.counts.send_dropped),
        }
    }

    /// Starts the thread that reads frames and hands them on as `(nic, frame)`. A full channel drops the
    /// frame, as a network card does. The thread ends when the reader is dropped or the channel is closed.
    ///
    /// # Errors
    /// When the host gives no thread or pipe.
    pub fn start_reader(&self, nic: u8, frames: Sender<(u8, Vec<u8>)>) -> io::Result<TapReader> {
        let (stopped, stop) = io::pipe()?;
        let (file, counts) = (Arc::clone(&self.file), Arc::clone(&self.counts));
        let thread = std::thread::Builder::new()
            .name(format!("tap-{}", self.name))
            .spawn(move || read_frames(&file, &stopped, nic, &frames, &counts))?;
        Ok(TapReader { stop: Some(stop), thread: Some(thread) })
    }

    /// What passed and what was dropped.
    #[must_use]
    pub fn counters(&self) -> TapCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TapCounters {
            received: read(&self.counts.received),
            receive_dropped: read(&self.counts.receive_dropped),
            sent: read(&self.counts.sent),
            send_dropped: read(&self.counts.send_dropped),
        }
    }
}

/// The reading thread of a tap; dropping it ends the thread.
#[derive(Debug)]
pub struct TapReader {
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for TapReader {
    fn drop(&mut self) {
        // Closing the pipe wakes the thread.
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a tap's reading thread had panicked");
        }
    }
}

fn read_frames(
    mut file: &File,
    stopped: &io::PipeReader,
    nic: u8,
    frames: &Sender<(u8, Vec<u8>)>,
    counts: &Counts,
) {
    // Longer than any frame that is passed on: the kernel cuts what does not fit, and that must be seen.
    let mut buffer = [0; 2 * FRAME_MAX];
    loop {
        match file.read(&mut buffer) {
            Ok(len) if (FRAME_MIN..=FRAME_MAX).contains(&len) => {
                match frames.try_send((nic, buffer[..len].to_vec())) {
                    Ok(()) => count(&counts.received),
                    Err(TrySendError::Full(_)) => count(&counts.receive_dropped),
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
            Ok(_) => count(&counts.receive_dropped),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match sys::wait_readable([stopped.as_fd(), file.as_fd()], None) {
                    Ok([false, _]) => {}
                    Ok([true, _]) => return,
                    Err(error) => {
                        tracing::error!(%error, "waiting for frames failed: this interface receives no more");
                        return;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // EBADFD: the device was deleted under us.
                tracing::error!(%error, "the tap device is gone: this interface receives no more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
