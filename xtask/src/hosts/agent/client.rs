//! The orchestrator's end of an agent. Can be used by several threads at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::proto::{self, Answer, Answered, Ask, Asked, End, PIECE};

/// An agent answers simple questions within this time, even when its host is busy.
const PATIENCE: Duration = Duration::from_secs(30);

type Waiting = BTreeMap<u64, Sender<(Answer, Vec<u8>)>>;

/// What a command printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How.
    pub end: End,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Did it end with exit code 0?
    pub fn success(&self) -> bool {
        self.end == End::Code(0)
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A connection to an agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    writer: Mutex<UnixStream>,
    /// `None`: the connection has ended.
    waiting: Arc<Mutex<Option<Waiting>>>,
    next: AtomicU64,
}

impl Agent {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn new(stream: UnixStream) -> anyhow::Result<Self> {
        let mut from = stream.try_clone()?;
        let waiting = Arc::new(Mutex::new(Some(Waiting::new())));
        let shared = Arc::clone(&waiting);
        thread::Builder::new().name("agent".to_owned()).spawn(move || {
            while let Ok((answered, payload)) = proto::read::<Answered>(&mut from) {
                let asker = lock(&shared).as_mut().and_then(|waiting| waiting.remove(&answered.id));
                // One that gave up does not listen any more.
                let _ = asker.map(|asker| asker.send((answered.what, payload)));
            }
            // All that still wait learn that nothing will come.
            *lock(&shared) = None;
        })?;
        Ok(Self { writer: Mutex::new(stream.try_clone()?), stream, waiting, next: AtomicU64::new(0) })
    }

    /// Waits until the agent is there: at most for `limit`, and only while `alive` says that it can come.
    ///
    /// # Errors
    /// It did not come.
    pub fn greet(&self, limit: Duration, alive: impl Fn() -> bool) -> anyhow::Result<()> {
        const LOOK: Duration = Duration::from_millis(100);
        let answer = self.send(Ask::Hello, &[])?;
        let looks = limit.as_millis() / LOOK.as_millis();
        for _ in 0..looks {
            match answer.recv_timeout(LOOK) {
                Ok((Answer::Done, _)) => return Ok(()),
                Ok((other, _)) => bail!("the agent answered {other:?} to a greeting"),
                Err(RecvTimeoutError::Timeout) if alive() => {}
                Err(_) => bail!("the emulator has ended"),
            }
        }
        bail!("the agent did not come within {limit:?}")
    }

    /// Runs a command to its end, with `input` as its standard input. It is killed after `limit`, which is an error.
    ///
    /// # Errors
    /// There is no such program, it took too long, or the host is gone. A failing command is none: see its end.
    pub fn run(&self, argv: &[&str], input: &[u8], limit: Duration) -> anyhow::Result<Output> {
        let limit_ms = u64::try_from(limit.as_millis())?;
        let ask = Ask::Run { argv: owned(argv), limit_ms };
        match self.ask(ask, input, limit + PATIENCE)? {
            (Answer::Ran { end, out }, mut bytes) if out as usize <= bytes.len() => {
                let stderr = bytes.split_off(out as usize);
                Ok(Output { end, stdout: bytes, stderr })
            }
            (other, _) => unexpected(&other),
        }
    }

    /// Starts a command and returns its process id inside; what it prints is appended to the file `log` there.
    ///
    /// # Errors
    /// There is no such program, or the host is gone.
    pub fn start(&self, argv: &[&str], log: &str) -> anyhow::Result<u32> {
        match self.ask(Ask::Start { argv: owned(argv), log: log.to_owned() }, &[], PATIENCE)? {
            (Answer::Started { pid }, _) => Ok(pid),
            (other, _) => unexpected(&other),
        }
    }

    /// Waits at most `limit` for a command that was started; `None`: it still runs. Its end is told once.
    ///
    /// # Errors
    /// There is no such process, or the host is gone.
    pub fn wait(&self, pid: u32, limit: Duration) -> anyhow::Result<Option<End>> {
        let limit_ms = u64::try_from(limit.as_millis())?;
        match self.ask(Ask::Wait { pid, limit_ms }, &[], limit + PATIENCE)? {
            (Answer::Ended { end }, _) => Ok(Some(end)),
            (Answer::Running, _) => Ok(None),
            (other, _) => unexpected(&other),
        }
    }

    /// Copies a file into the host, with its permissions.
    ///
    /// # Errors
    /// It cannot be read or written, or the host is gone.
    pub fn put(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let mut append = false;
        loop {
            let mut piece = Vec::new();
            (&file).take(PIECE as u64).read_to_end(&mut piece).context("reading a file")?;
            if append && piece.is_empty() {
                return Ok(());
            }
            self.done(Ask::Put { path: to.to_owned(), mode, append }, &piece)?;
            append = true;
        }
    }

    /// Copies a file out of the host.
    ///
    /// # Errors
    /// It cannot be read or written, or the host is gone.
    pub fn get(&self, from: &str, to: &Path) -> anyhow::Result<()> {
        let mut file = File::create(to).with_context(|| format!("creating {}", to.display()))?;
        let mut offset = 0;
        loop {
            let piece = self.done(Ask::Get { path: from.to_owned(), offset }, &[])?;
            if piece.is_empty() {
                return Ok(());
            }
            file.write_all(&piece).with_context(|| format!("writing {}", to.display()))?;
            offset += piece.len() as u64;
        }
    }

    fn done(&self, ask: Ask, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        match self.ask(ask, payload, PATIENCE)? {
            (Answer::Done, bytes) => Ok(bytes),
            (other, _) => unexpected(&other),
        }
    }

    fn ask(&self, ask: Ask, payload: &[u8], limit: Duration) -> anyhow::Result<(Answer, Vec<u8>)> {
        match self.send(ask, payload)?.recv_timeout(limit) {
            Ok((Answer::Failed { message }, _)) => bail!("{message}"),
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => bail!("the agent does not answer"),
            Err(RecvTimeoutError::Disconnected) => bail!("the emulated host is gone"),
        }
    }

    fn send(&self, what: Ask, payload: &[u8]) -> anyhow::Result<Receiver<(Answer, Vec<u8>)>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = channel();
        lock(&self.waiting).as_mut().context("the emulated host is gone")?.insert(id, sender);
        let mut writer = lock(&self.writer);
        proto::write(&mut *writer, &Asked { id, what }, payload).context("the emulated host is gone")?;
        Ok(receiver)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Lets the reading thread end.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn owned(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|&word| word.to_owned()).collect()
}

fn unexpected<T>(answer: &Answer) -> anyhow::Result<T> {
    bail!("the agent answered something else than asked: {answer:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_find_their_questions_and_the_end_is_noticed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = Agent::new(ours).unwrap();
        let inside = thread::spawn(move || {
            let (first, _) = proto::read::<Asked>(&mut theirs).unwrap();
            let (second, input) = proto::read::<Asked>(&mut theirs).unwrap();
            let ran = Answer::Ran { end: End::Code(2), out: 2 };
            proto::write(&mut theirs, &Answered { id: second.id, what: ran }, &input).unwrap();
            let started = Answer::Failed { message: "no program".into() };
            proto::write(&mut theirs, &Answered { id: first.id, what: started }, &[]).unwrap();
        });
        let first = agent.send(Ask::Hello, &[]).unwrap();
        let output = agent.run(&["x"], b"outerr", PATIENCE).unwrap();
        assert_eq!(output, Output { end: End::Code(2), stdout: b"ou".to_vec(), stderr: b"terr".to_vec() });
        assert!(matches!(first.recv().unwrap(), (Answer::Failed { .. }, _)));
        inside.join().unwrap();
        let gone = format!("{:#}", agent.start(&["x"], "/log").unwrap_err());
        assert!(gone.contains("is gone"), "{gone}");
        assert!(agent.greet(PATIENCE, || true).is_err());
    }
}
