//! Stopping the vCPU from another thread, without a lost wake-up.
//!
//! A kick stores `pending`, then `immediate_exit`, then sends a signal. The vCPU thread clears
//! `immediate_exit` and *then* looks at `pending`. Whatever the order of the two, one of them is seen: a
//! kick before the look is found there, one after it finds KVM_RUN with `immediate_exit` set, or in the
//! guest, where the signal ends it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use libc::c_int;

use super::area::RunArea;
use crate::error::VmError;
use crate::vcpu::Kick;

/// Above the first real-time signals, which other libraries of a process tend to use.
const SIGNAL_ABOVE_MIN: c_int = 5;
/// No thread is in the guest.
const NO_THREAD: i32 = 0;

/// State shared by the vCPU and its kickers.
#[derive(Debug)]
pub(super) struct KickState {
    area: Arc<RunArea>,
    pending: AtomicBool,
    thread: AtomicI32,
}

impl KickState {
    /// Installs the signal's handler on first use.
    pub(super) fn new(area: Arc<RunArea>) -> Result<Self, VmError> {
        install_handler()?;
        Ok(KickState { area, pending: AtomicBool::new(false), thread: AtomicI32::new(NO_THREAD) })
    }

    /// The vCPU thread is about to enter the guest. False: it was kicked and must not.
    pub(super) fn enter(&self) -> bool {
        self.thread.store(thread_id(), Ordering::SeqCst);
        self.area.set_immediate_exit(false);
        !self.take()
    }

    /// The vCPU thread is back.
    pub(super) fn leave(&self) {
        self.thread.store(NO_THREAD, Ordering::SeqCst);
    }

    /// Takes a pending kick.
    pub(super) fn take(&self) -> bool {
        self.pending.swap(false, Ordering::SeqCst)
    }
}

impl Kick for KickState {
    fn kick(&self) {
        self.pending.store(true, Ordering::SeqCst);
        self.area.set_immediate_exit(true);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != NO_THREAD {
            // A thread that ended meanwhile makes this fail, which is as good as done.
            // SAFETY: a system call on plain integers; the handler of the signal does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }
}

fn signal() -> c_int {
    libc::SIGRTMIN() + SIGNAL_ABOVE_MIN
}

extern "C" fn ignore(_signal: c_int) {}

/// Once per process. SA_RESTART: a signal that comes late must not disturb another system call; KVM_RUN
/// returns EINTR regardless.
fn install_handler() -> Result<(), VmError> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = INSTALLED.get_or_init(|| {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(c_int) = ignore;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the action is valid and its handler is async-signal-safe, for it is empty.
        let result = unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    });
    result.map_err(|code| VmError::Signal(io::Error::from_raw_os_error(code)))
}

/// The kernel's id of this thread, asked for once.
fn thread_id() -> i32 {
    thread_local! {
        // SAFETY: a system call without arguments.
        static ID: i32 = unsafe { libc::gettid() };
    }
    ID.with(|id| *id)
}
