//! System calls that the standard library does not have: the only `unsafe` of this crate.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Error};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The host's monotonic clock in nanoseconds. It starts at some point in the past and never goes back.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The processor time that the calling thread has used, a guest that it runs included, in nanoseconds.
#[must_use]
pub fn thread_time_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that the call fills; it keeps no pointer to it.
    let result = unsafe { libc::clock_gettime(clock, &raw mut now) };
    assert_eq!(result, 0, "every Linux has this clock");
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Whether this network namespace has an interface of this name.
#[must_use]
pub fn interface_exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: `name` is a NUL-terminated string that lives during the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// Makes `tun` (an open `/dev/net/tun`) the other end of the tap device `name`: whole Ethernet frames,
/// nothing in front of them. The call creates the device if there is none and the caller may.
///
/// # Errors
/// The kernel's: `EBUSY` when another process has the device, `EPERM`, `EINVAL` when it is no tap device.
pub fn attach_tap(tun: &File, name: &str) -> io::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(Error::from_raw_os_error(libc::EINVAL));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("both flags fit 15 bits");
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is; the kernel keeps no pointer to it.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Waits until one of `files` can be read (or is closed at the other end). `None` waits for ever.
///
/// # Errors
/// The kernel's. An interrupting signal is not an error: the wait goes on, from its beginning.
pub fn wait_readable<const N: usize>(
    files: [BorrowedFd<'_>; N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polls = files.map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let limit = limit.map_or(-1, |limit| i32::try_from(limit.as_millis()).unwrap_or(i32::MAX));
    let count = libc::nfds_t::try_from(N).expect("a handful of files");
    loop {
        // SAFETY: `polls` is an array of `count` pollfd, valid and exclusively ours during the call.
        if unsafe { libc::poll(polls.as_mut_ptr(), count, limit) } >= 0 {
            return Ok(polls.map(|poll| poll.revents != 0));
        }
        let error = Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Offset of the first byte at or after `offset` that is not in a hole of the file; `None` when only holes
/// follow. A file system that knows no holes answers `offset`.
///
/// # Errors
/// The kernel's.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let Ok(offset) = libc::off_t::try_from(offset) else { return Ok(None) };
    // SAFETY: plain integers. The call moves the file's position, which this crate never uses.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_DATA) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Moves the calling thread into a fresh network namespace, for a test's own taps.
#[cfg(test)]
pub(crate) fn enter_empty_network() -> io::Result<()> {
    // SAFETY: no pointers; only this thread's namespace changes.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_clock_does_not_go_back() {
        let first = monotonic_ns();
        assert!(first > 0);
        assert!(monotonic_ns() >= first);
    }

    #[test]
    fn a_thread_that_sleeps_uses_no_time() {
        let (wall, used) = (monotonic_ns(), thread_time_ns());
        std::thread::sleep(Duration::from_millis(20));
        assert!(thread_time_ns() - used < monotonic_ns() - wall);
        let before = thread_time_ns();
        while thread_time_ns() == before {}
    }

    #[test]
    fn waiting_tells_which_file_can_be_read() {
        let (quiet, _writer) = io::pipe().expect("pipe");
        let (ready, mut writer) = io::pipe().expect("pipe");
        writer.write_all(b"x").expect("write");
        let result = wait_readable([quiet.as_fd(), ready.as_fd()], None).expect("poll");
        assert_eq!(result, [false, true]);
        assert_eq!(wait_readable([quiet.as_fd()], Some(Duration::ZERO)).expect("poll"), [false]);
    }

    #[test]
    fn data_after_a_hole_is_found() {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(1 << 20).expect("set length");
        file.write_all_at(&[1], 700_000).expect("write");
        let found = next_data(&file, 0).expect("seek").expect("there is data");
        assert!(found <= 700_000);
        assert_eq!(next_data(&file, 1 << 20).expect("seek"), None);
    }

    #[test]
    fn loopback_exists_and_a_made_up_name_does_not() {
        assert!(interface_exists("lo"));
        assert!(!interface_exists("no-such-if0"));
    }
}
