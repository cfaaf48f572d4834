//! The counters and their log, shared by all connections. Requests that come while a batch is on its way to the disk are
//! made durable together by the next one.

use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use micro_guest::ledger::{Ledger, Record};
use micro_guest::log::{MAX_BATCH, Store};
use micro_guest::wire::Request;

use crate::disk::Disk;

/// A request that was counted, now or earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) record: Record,
    /// It was known already.
    pub(crate) repeated: bool,
    /// The batch that makes it durable: no reply before that.
    batch: u64,
}

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    store: Store,
    /// Being collected; their batch is number `done + 1`, or one more while another is on its way.
    next: Vec<Record>,
    /// On their way to the disk.
    flying: Vec<Record>,
    /// Batches that are durable.
    done: u64,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct Book {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Book {
    /// A log that was opened.
    pub(crate) fn new(store: Store, ledger: Ledger) -> Self {
        let inner = Inner { ledger, store, next: Vec::new(), flying: Vec::new(), done: 0 };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Counts a request, unless it is known. Waits while there is no room.
    pub(crate) fn count(&self, request: &Request) -> Counted {
        let mut inner = self.wait(self.lock(), |inner| inner.store.accepts() && inner.next.len() < MAX_BATCH);
        let counted = inner.count(request);
        self.changed.notify_all();
        counted
    }

    /// Waits until a reply may be sent.
    pub(crate) fn wait_durable(&self, counted: &Counted) {
        drop(self.wait(self.lock(), |inner| inner.done >= counted.batch));
    }

    /// Writes the log until the disk fails.
    pub(crate) fn keep(&self, disk: &mut Disk) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut inner = self.lock();
        loop {
            if inner.flying.is_empty() {
                let inner = &mut *inner;
                mem::swap(&mut inner.flying, &mut inner.next);
            }
            let Inner { store, flying, ledger, .. } = &mut *inner;
            let Some(job) = store.next_job(flying, ledger, &mut bytes) else {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(inner);
            disk.put(job.sector, &bytes, job.flush)?;
            inner = self.lock();
            if inner.store.finished() {
                inner.flying.clear();
                inner.done += 1;
            }
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        guard: MutexGuard<'a, Inner>,
        ready: impl Fn(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        self.changed.wait_while(guard, |inner| !ready(inner)).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&mut self, request: &Request) -> Counted {
        let flying = u64::from(!self.flying.is_empty());
        let known = self.ledger.find(request.client, request.id);
        let record = known.unwrap_or_else(|| self.ledger.apply(request));
        if known.is_none() {
            self.next.push(record);
        }
        let same = |other: &Record| (other.client, other.id) == (record.client, record.id);
        let batch = if self.next.iter().any(same) {
            self.done + flying + 1
        } else if self.flying.iter().any(same) {
            self.done + 1
        } else {
            self.done
        };
        Counted { record, repeated: known.is_some(), batch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use micro_guest::log;
    use std::fs::File;
    use std::path::PathBuf;
    use std::sync::Arc;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mini-server-{name}-{}", std::process::id()));
            File::create(&path).unwrap().set_len(2 << 20).unwrap();
            Self(path)
        }

        fn open(&self) -> (Disk, Book) {
            let mut disk = Disk::open(self.0.to_str().unwrap()).unwrap();
            let (store, ledger) = log::open(&mut disk).unwrap();
            (disk, Book::new(store, ledger))
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    fn request(client: u32, id: u64) -> Request {
        Request { client, id, counter: client }
    }

    #[test]
    fn nothing_is_durable_before_it_is_on_the_disk_and_a_repeat_waits_for_the_first() {
        let file = Temporary::new("waits");
        let (_, book) = file.open();
        let first = book.count(&request(1, 10));
        let again = book.count(&request(1, 10));
        assert_eq!((first.record.value, first.repeated, first.batch), (1, false, 1));
        assert_eq!((again.record, again.repeated, again.batch), (first.record, true, 1));
        let mut inner = book.lock();
        let Inner { flying, next, .. } = &mut *inner;
        mem::swap(flying, next);
        assert_eq!(inner.count(&request(1, 10)).batch, 1, "it is on its way");
        assert_eq!(inner.count(&request(1, 11)).batch, 2, "it comes after");
        inner.flying.clear();
        inner.done = 1;
        assert_eq!(inner.count(&request(1, 10)).batch, 1, "it is durable");
    }

    #[test]
    fn what_was_answered_is_found_again_after_many_batches_and_snapshots() {
        const EACH: u64 = 3000;
        let file = Temporary::new("again");
        let (mut disk, book) = file.open();
        let book = Arc::new(book);
        let keeper = Arc::clone(&book);
        // It has no end: the process's is its.
        std::thread::spawn(move || keeper.keep(&mut disk));
        std::thread::scope(|scope| {
            for client in 0..3 {
                let book = &book;
                scope.spawn(move || {
                    for ids in (0..EACH).collect::<Vec<_>>().chunks(100) {
                        let counted: Vec<_> =
                            ids.iter().map(|id| (*id, book.count(&request(client, *id)))).collect();
                        for (id, counted) in counted {
                            book.wait_durable(&counted);
                            assert_eq!((counted.record.value, counted.repeated), (id + 1, false));
                        }
                    }
                });
            }
        });
        let (_, reopened) = file.open();
        for client in 0..3 {
            assert_eq!(reopened.lock().ledger.counters()[client as usize], EACH);
            let last = reopened.count(&request(client, EACH - 1));
            assert_eq!((last.record.value, last.repeated), (EACH, true));
        }
    }
}
