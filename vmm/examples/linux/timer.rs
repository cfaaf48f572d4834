//! Kicks a guest when something is due, and at least every heartbeat.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use vmm::Kicker;

/// The handle of the thread that kicks.
pub(crate) struct Timer {
    thread: Thread,
    start: Instant,
    /// When, in nanoseconds since `start`.
    due: Arc<AtomicU64>,
}

impl Timer {
    /// Starts the thread, which lives as long as the program.
    pub(crate) fn start(kicker: Kicker, heartbeat: Duration) -> Self {
        let (start, due) = (Instant::now(), Arc::new(AtomicU64::new(u64::MAX)));
        let shared = Arc::clone(&due);
        let (hand, handle) = mpsc::channel();
        thread::spawn(move || {
            let _ = hand.send(thread::current());
            loop {
                let now = nanoseconds(start.elapsed());
                let next = shared.load(Ordering::SeqCst);
                if next <= now {
                    shared.store(u64::MAX, Ordering::SeqCst);
                    kicker.kick();
                    continue;
                }
                let wait = Duration::from_nanos(next - now).min(heartbeat);
                thread::park_timeout(wait);
                if nanoseconds(start.elapsed()).saturating_sub(now) >= nanoseconds(heartbeat) {
                    kicker.kick();
                }
            }
        });
        let thread = handle.recv().expect("the thread sends its handle first");
        Timer { thread, start, due }
    }

    /// The guest is to be stopped then.
    pub(crate) fn set(&self, due: Option<Instant>) {
        let due = due.map_or(u64::MAX, |due| nanoseconds(due.saturating_duration_since(self.start)));
        let before = self.due.swap(due, Ordering::SeqCst);
        if due < before {
            self.thread.unpark();
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
