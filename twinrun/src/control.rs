//! The control socket of a running host: JSON lines over a Unix socket in its state directory.
//!
//! A request is one line, `{"cmd":"status"}`; the answer is one line of JSON. An error answers
//! `{"error":"…"}`. Only the user who runs the host can open the socket (mode 0600).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// Longest request in bytes.
const REQUEST_MAX: u64 = 4096;
/// Longest answer in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// Connections served at a time.
const CLIENTS_MAX: usize = 16;
/// How long each side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest path of a socket in bytes (`sockaddr_un` has 108 with the closing NUL).
pub const SOCKET_PATH_MAX: usize = 107;

/// Makes the status object: schema `twinrun.status/1`.
pub type StatusSource = Arc<dyn Fn() -> Value + Send + Sync>;

/// The control socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("Cannot make the control socket {}: {error}. Its directory must be on a local file system and the whole path at most {SOCKET_PATH_MAX} bytes", path.display())]
pub struct ControlError {
    path: PathBuf,
    error: io::Error,
}

/// The serving side. Dropping it removes the socket.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Status,
}

impl Control {
    /// Serves at `path`. The caller holds the lock of the state directory, so a socket that is there
    /// already was left by a process that died, and is replaced.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn start(path: &Path, status: StatusSource) -> Result<Self, ControlError> {
        let stop = Arc::new(AtomicBool::new(false));
        let start = || {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            let stop = Arc::clone(&stop);
            let serve = move || accept(&listener, &stop, &status);
            std::thread::Builder::new().name("control".to_owned()).spawn(serve)
        };
        let thread = start().map_err(|error| ControlError { path: path.to_owned(), error })?;
        Ok(Control { path: path.to_owned(), stop, thread: Some(thread) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A connection wakes the thread. If none can be made, the thread is left to the process's end.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken)
            && thread.join().is_err()
        {
            tracing::error!("the control thread had panicked");
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the control socket could not be removed");
        }
    }
}

fn accept(listener: &UnixListener, stop: &AtomicBool, status: &StatusSource) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of file descriptors, most likely: not worth a busy loop.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if clients.load(Ordering::Acquire) >= CLIENTS_MAX {
            continue;
        }
        clients.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(&clients));
        let status = Arc::clone(status);
        let client = move || {
            let _place = place;
            if let Err(error) = serve(&stream, &status) {
                tracing::debug!(%error, "a control connection failed");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("control-client".to_owned()).spawn(client) {
            tracing::warn!(%error, "no thread for a control connection");
        }
    }
}

/// One of the places for clients; free again when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(stream: &UnixStream, status: &StatusSource) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    while let Some(line) = read_line(&mut reader, REQUEST_MAX)? {
        let answer = match serde_json::from_str(&line) {
            Ok(Request::Status) => status(),
            Err(error) => json!({ "error": format!("not a request: {error}") }),
        };
        let mut writer = stream;
        writer.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}

/// The next line without its end, `None` at the end of the stream.
fn read_line(reader: &mut impl BufRead, max: u64) -> io::Result<Option<String>> {
    let mut line = String::new();
    let got = reader.take(max).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(Some(line.to_owned())),
        None if got == 0 => Ok(None),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end, or too long")),
    }
}

/// Why a running host's status is not known.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Nobody serves at the socket.
    #[error("not running on this machine (nobody serves {})", .0.display())]
    NotRunning(PathBuf),
    /// Somebody may, but gives no answer.
    #[error("cannot tell: {} gives no usable answer: {why}", path.display())]
    NoAnswer {
        /// Path of the socket.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
}

/// Asks the host behind this socket for its status.
///
/// # Errors
/// [`QueryError`].
pub fn query_status(path: &Path) -> Result<Value, QueryError> {
    let no_answer = |why: String| QueryError::NoAnswer { path: path.to_owned(), why };
    let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => QueryError::NotRunning(path.to_owned()),
        _ => no_answer(error.to_string()),
    })?;
    let line = ask(&stream).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => no_answer(format!("silent for {} s", PATIENCE.as_secs())),
        _ => no_answer(error.to_string()),
    })?;
    let status: Value = serde_json::from_str(&line).map_err(|error| no_answer(error.to_string()))?;
    match status.get("error") {
        Some(error) => Err(no_answer(error.to_string())),
        None => Ok(status),
    }
}

fn ask(stream: &UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream;
    writer.write_all(b"{\"cmd\":\"status\"}\n")?;
    let line = read_line(&mut BufReader::new(stream), ANSWER_MAX)?;
    line.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> (tempfile::TempDir, PathBuf, Control) {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("control.sock");
        let control = Control::start(&path, Arc::new(|| json!({ "generation": 7 }))).expect("start");
        (dir, path, control)
    }

    fn send(path: &Path, text: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).expect("connect");
        // A refused request may be answered by a closed connection while it is still being written.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn status_is_answered_and_the_end_is_seen() {
        let (_dir, path, control) = served();
        assert_eq!(query_status(&path).expect("status"), json!({ "generation": 7 }));
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        drop(control);
        assert!(!path.exists());
        assert!(matches!(query_status(&path), Err(QueryError::NotRunning(_))));
    }

    #[test]
    fn a_socket_left_by_a_dead_process_is_replaced() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("control.sock");
        drop(UnixListener::bind(&path).expect("bind"));
        assert!(matches!(query_status(&path), Err(QueryError::NotRunning(_))));
        let _control = Control::start(&path, Arc::new(|| json!({}))).expect("start");
        assert_eq!(query_status(&path).expect("status"), json!({}));
    }

    #[test]
    fn bad_requests_are_refused_and_the_next_is_served() {
        let (_dir, path, _control) = served();
        for bad in [&b"nonsense\n"[..], b"{\"cmd\":\"format\"}\n", b"{}\n", b"[]\n"] {
            let answer = send(&path, bad);
            assert!(answer.starts_with("{\"error\":\"not a request: "), "{answer}");
        }
        assert_eq!(send(&path, &vec![b'x'; 100_000]), "", "no line of this length");
        assert_eq!(send(&path, b"\xff\xfe\n"), "");
        assert_eq!(send(&path, b"{\"cmd\":\"status\"}\n{\"cmd\":\"status\"}\n").lines().count(), 2);
    }
}
