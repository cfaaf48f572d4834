//! The system calls that the drill's world stands on: namespaces, mounts, taps, exact waiting.
//!
//! This is the only file of xtask with `unsafe`. Everything here is a thin, checked wrapper; what the calls are *for* is
//! told in [`crate::world`].

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

/// What a place owns besides its PID namespace: mounts, network, System V IPC and the host name.
const PLACE: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// CLOCK_MONOTONIC in nanoseconds: one clock for the orchestrator, the cable and everybody inside.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Is this process root (effective user 0)?
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a NUL byte"))
}

/// Starts `command` as PID 1 of new PID, mount, network, IPC and UTS namespaces.
///
/// # Errors
/// Whatever unshare(2), fork or exec answered.
pub fn spawn_first(command: &mut Command) -> io::Result<Child> {
    let root = c_path(Path::new("/"))?;
    let enter = move || {
        // SAFETY: runs in the forked child, which has one thread; unshare takes only flags.
        check(unsafe { libc::unshare(PLACE) })?;
        // Nothing mounted in here may ever reach the outer mount namespace.
        // SAFETY: `root` is a C string that lives as long as the closure; the other pointers may be null for a
        // change of propagation.
        check(unsafe {
            libc::mount(ptr::null(), root.as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null())
        })
    };
    // SAFETY: the closure makes system calls only: no allocation, no lock, as the time between fork and exec demands.
    unsafe { command.pre_exec(enter) };
    // A PID namespace takes effect for *children* and per thread: a thread of its own leaves the caller as it was.
    on_thread(|| {
        // SAFETY: takes only a flag; it changes the namespace of this thread's future children and nothing else.
        check(unsafe { libc::unshare(libc::CLONE_NEWPID) })?;
        command.spawn()
    })
}

/// Starts `command` inside all namespaces of the process behind `target` (a pidfd), with working directory `dir`.
///
/// The child is a direct child of the caller: its id is the outer PID and its exit status arrives here.
///
/// # Errors
/// `ESRCH` if the target has died; else whatever setns(2), chdir, fork or exec answered.
pub fn spawn_inside(command: &mut Command, target: BorrowedFd<'_>, dir: &Path) -> io::Result<Child> {
    let raw = target.as_raw_fd();
    let dir = c_path(dir)?;
    let enter = move || {
        // SAFETY: runs in the forked child (one thread), where `raw` is still open: it closes at exec only.
        check(unsafe { libc::setns(raw, PLACE) })?;
        // SAFETY: `dir` is a C string owned by the closure.
        check(unsafe { libc::chdir(dir.as_ptr()) })
    };
    // SAFETY: the closure makes system calls only: no allocation, no lock, as the time between fork and exec demands.
    unsafe { command.pre_exec(enter) };
    on_thread(|| {
        // SAFETY: `raw` is open for the whole call (borrowed above); this changes the namespace of this thread's
        // future children and nothing else.
        check(unsafe { libc::setns(raw, libc::CLONE_NEWPID) })?;
        command.spawn()
    })
}

/// Runs `work` on a thread of its own: namespaces of a thread cannot be put back, so the thread ends with them.
fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that enters a namespace has panicked")))
}

/// A descriptor of the process `pid` that never means another process (pidfd_open(2)).
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0_i64) };
    let fd = i32::try_from(fd).map_err(|_| io::Error::other("pidfd_open answered nonsense"))?;
    check(fd)?;
    // SAFETY: the kernel has just created this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends SIGKILL to the process behind a pidfd.
///
/// # Errors
/// `ESRCH` if it has ended and was reaped.
pub fn kill(target: BorrowedFd<'_>) -> io::Result<()> {
    let fd = libc::c_long::from(target.as_raw_fd());
    let signal = libc::c_long::from(libc::SIGKILL);
    // SAFETY: the descriptor is open (borrowed); a null siginfo means the same as kill(2).
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, ptr::null::<libc::siginfo_t>(), 0_i64)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the kernel reap orphans that fall to this process: all that a PID 1 here has to do.
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition; no handler code is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Mounts a fresh file system of type `kind` ("proc", "sysfs", "tmpfs") on `target`.
///
/// # Errors
/// Whatever mount(2) answered.
pub fn mount_fresh(kind: &str, target: &Path) -> io::Result<()> {
    let kind = c_path(Path::new(kind))?;
    let target = c_path(target)?;
    // SAFETY: both pointers are C strings that outlive the call; there is no data argument.
    check(unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, ptr::null()) })
}

/// Makes the directory `source` visible at `target` too (bind mount).
///
/// # Errors
/// Whatever mount(2) answered.
pub fn mount_bind(source: &Path, target: &Path) -> io::Result<()> {
    let source = c_path(source)?;
    let target = c_path(target)?;
    // SAFETY: both pointers are C strings that outlive the call; a bind mount ignores type and data.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) })
}

/// Runs `work` in the network namespace of the process `pid`, on a thread of its own. Sockets and taps that it makes belong to
/// that namespace for good, whoever uses them.
///
/// # Errors
/// The process is gone, or what `work` answered.
pub fn in_network<T: Send>(pid: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    on_thread(move || {
        // SAFETY: `namespace` is open; only this thread changes its network namespace, and it ends with `work`.
        check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
        work()
    })
}

/// Creates the tap `name` in the network namespace of the process `pid`; it lives as long as the file is open.
///
/// Each read returns one Ethernet frame and each write delivers one, without a header. The file does not block.
///
/// # Errors
/// The process is gone, the name is longer than 15 bytes or taken, or /dev/net/tun is missing.
pub fn open_tap(pid: u32, name: &str) -> io::Result<File> {
    in_network(pid, || {
        let tap = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        let mut request = empty_request(name)?;
        request.ifr_ifru.ifru_flags = tap_flags();
        // SAFETY: TUNSETIFF reads and writes one ifreq; `request` is one and outlives the call.
        check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        Ok(tap)
    })
}

fn tap_flags() -> libc::c_short {
    // Both constants are small (0x2 and 0x1000), so the sum fits.
    libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI).unwrap_or(0)
}

fn empty_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data (arrays, integers, pointers in a union): all zero is a valid value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // One byte less than the field: the name stays NUL-terminated.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("bad interface name {name:?}")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

/// Where the signal handler rings.
static BELL: AtomicI32 = AtomicI32::new(-1);

/// Runs `work` on a thread of its own at the first SIGINT, SIGTERM or SIGHUP; later ones are swallowed, so `work` should end
/// the process. To be called once. Child processes have the default dispositions again (exec resets handlers).
///
/// # Errors
/// It was called before, or no descriptor is left.
pub fn on_interrupt(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (mut ear, bell) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    if BELL.compare_exchange(-1, bell.as_raw_fd(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Err(io::Error::other("interrupts are handled already"));
    }
    thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        // The handler may ring as long as the process lives: the bell must never be closed.
        let _bell = bell;
        if ear.read_exact(&mut [0]).is_ok() {
            work();
        }
        loop {
            thread::park();
        }
    })?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = ring;
        // SAFETY: `ring` does only what is safe in a signal handler: an atomic load and a write(2).
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn ring(_: libc::c_int) {
    let byte = [1_u8];
    // SAFETY: `__errno_location` points to this thread's errno, which the interrupted code must find unchanged; the bell is
    // open for the rest of the process and does not block.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(BELL.load(Ordering::SeqCst), byte.as_ptr().cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// One descriptor to wait for, and what was found.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Watch(libc::pollfd);

impl Watch {
    /// Watches `fd` for something to read. The descriptor must stay open while the watch is used, or it reports `broken`.
    pub fn readable_of(fd: impl AsFd) -> Self {
        Self(libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 })
    }

    /// After a wait: is there something to read (or the end of the stream)?
    pub fn readable(&self) -> bool {
        self.0.revents & (libc::POLLIN | libc::POLLHUP) != 0
    }

    /// After a wait: is the descriptor unusable?
    pub fn broken(&self) -> bool {
        self.0.revents & (libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Sleeps until a watch has something or `timeout_ns` passed (none: for ever), with the precision of the kernel's
/// high-resolution timers.
///
/// # Errors
/// Whatever ppoll(2) answered; an interrupting signal counts as "nothing yet".
pub fn wait(watches: &mut [Watch], timeout_ns: Option<u64>) -> io::Result<()> {
    let count = libc::nfds_t::try_from(watches.len()).map_err(io::Error::other)?;
    let limit = timeout_ns.map(|ns| libc::timespec {
        tv_sec: libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::try_from(ns % 1_000_000_000).unwrap_or(0),
    });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: Watch is a transparent pollfd, `count` is the length of the slice, `limit` is null or points to a timespec
    // that lives until the end of this function.
    let found = unsafe { libc::ppoll(watches.as_mut_ptr().cast(), count, limit, ptr::null()) };
    match check(found) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

/// Makes the calling thread as punctual as hardware: first-in-first-out scheduling, no timer slack. Returns whether the
/// kernel agreed to the scheduling class.
pub fn be_punctual() -> bool {
    let parameters = libc::sched_param { sched_priority: 20 };
    // SAFETY: prctl with PR_SET_TIMERSLACK takes integers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64) };
    // SAFETY: `parameters` is a valid sched_param that outlives the call; pid 0 is the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) == 0
    }
}
