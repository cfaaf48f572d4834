//! Threads that end when they are told to, and listeners that can be told.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long an accept thread rests after an error such as "too many open files".
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Locks; a thread that panicked while it held the lock left nothing half-done in the users of this.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that happens once and can be waited for.
#[derive(Debug, Default)]
pub(super) struct Latch {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    pub(super) fn open(&self) {
        *lock(&self.open) = true;
        self.opened.notify_all();
    }

    /// Waits until it is open, or `deadline`. Whether it is open.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let guard = lock(&self.open);
        let (guard, _) = self
            .opened
            .wait_timeout_while(guard, left, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

/// Counts threads, so that their owner can wait for the last one.
#[derive(Debug, Default)]
pub(super) struct Threads {
    running: Mutex<usize>,
    ended: Condvar,
}

struct Running(Arc<Threads>);

impl Drop for Running {
    fn drop(&mut self) {
        *lock(&self.0.running) -= 1;
        self.0.ended.notify_all();
    }
}

impl Threads {
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        *lock(&self.running) += 1;
        let running = Running(self.clone());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _running = running;
            body();
        })?;
        Ok(())
    }

    /// Waits until all threads have ended, at most `limit`. Whether they have.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let guard = lock(&self.running);
        let (guard, _) = self
            .ended
            .wait_timeout_while(guard, limit, |running| *running > 0)
            .unwrap_or_else(PoisonError::into_inner);
        *guard == 0
    }
}

/// Hands out a limited number of permits.
#[derive(Clone, Debug)]
pub(super) struct Limiter {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limiter {
    pub(super) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    pub(super) fn take(&self) -> Option<Permit> {
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < self.most).then_some(taken + 1)
            })
            .ok()
            .map(|_| Permit(self.taken.clone()))
    }
}

/// A listening socket with a thread that accepts.
#[derive(Debug)]
pub(super) struct Listening {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    socket: TcpStream,
}

impl Listening {
    /// Starts to accept; `each` gets every connection and must not block.
    pub(super) fn start(
        listener: TcpListener,
        threads: &Arc<Threads>,
        each: impl Fn(TcpStream) + Send + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        // Linux lets a listening socket be shut down, which wakes its `accept`; only std's type for
        // connected sockets offers the call.
        let socket = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        let stop = stopping.clone();
        threads.spawn("accept", move || accept(&listener, &stop, each))?;
        Ok(Self { address, stopping, socket })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the accept thread.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // A second stop finds the socket no longer listening.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &TcpListener, stopping: &AtomicBool, each: impl Fn(TcpStream)) {
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _)) => each(stream),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                thread::sleep(ACCEPT_REST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_limited_and_given_back() {
        let limiter = Limiter::new(2);
        let first = limiter.take().expect("one");
        let _second = limiter.take().expect("two");
        assert!(limiter.take().is_none());
        drop(first);
        assert!(limiter.take().is_some());
    }

    #[test]
    fn an_accept_thread_ends_when_told() {
        let threads = Arc::new(Threads::default());
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let listening = Listening::start(listener, &threads, drop).expect("start");
        TcpStream::connect(listening.address()).expect("it accepts");
        listening.stop();
        assert!(threads.wait(Duration::from_secs(20)));
        TcpStream::connect(listening.address()).expect_err("it no longer accepts");
    }

    #[test]
    fn a_panicking_thread_counts_as_ended() {
        let threads = Arc::new(Threads::default());
        threads.spawn("fails", || panic!("on purpose")).expect("spawn");
        assert!(threads.wait(Duration::from_secs(20)));
    }
}
