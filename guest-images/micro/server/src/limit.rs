//! Threads for connections, up to a limit.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Our threads need little.
const STACK: usize = 256 * 1024;
/// A peer that neither reads nor writes for this long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Starts a thread.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work).map(drop)
}

/// Serves connections on a port, at most `most` at a time, each on a thread of its own; more are closed at once. An
/// error of `work` ends the connection.
pub(crate) fn accept(
    name: &'static str,
    port: u16,
    most: usize,
    work: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let (work, open) = (Arc::new(work), Arc::new(AtomicUsize::new(0)));
    spawn(name, move || {
        for stream in listener.incoming() {
            // One that was reset before it was taken, or no descriptor left: others may come.
            let Ok(stream) = stream else { continue };
            if open.load(Ordering::Relaxed) >= most {
                continue;
            }
            open.fetch_add(1, Ordering::Relaxed);
            let (work, counted) = (Arc::clone(&work), Arc::clone(&open));
            let started = spawn(name, move || {
                // Whatever ends a connection, its client sees it.
                let _ = prepare(&stream).and_then(|()| work(stream));
                counted.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_read_timeout(Some(SILENCE))
}
