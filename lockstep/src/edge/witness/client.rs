//! The witness's client: one thread, one connection that is kept warm.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::arbiter::{Answer, Ask};
use crate::codec;
use crate::edge::channel::{Channel, Counters, ReceiveError};
use crate::edge::noise::{HandshakeError, Secret, Service};
use crate::edge::threads::lock;
use crate::wire::FrameKind;

/// Time between two signs of life.
const KEEP_WARM: Duration = Duration::from_secs(1);
/// Most time that keeping warm may take: a question that comes meanwhile waits for it.
const WARM_LIMIT: Duration = Duration::from_millis(200);
/// Most questions that wait.
const ASKS_MAX: usize = 256;

/// What a client needs to know.
#[derive(Clone)]
pub struct WitnessClientConfig {
    /// Where the witness listens.
    pub addr: SocketAddr,
    /// The secret that it shares with the hosts.
    pub secret: Secret,
    /// How long one question may take; 400 ms is a good value.
    pub timeout: Duration,
}

/// Asks a witness. Dropping it gives up what is not answered yet.
pub struct WitnessClient {
    asks: Option<Sender<(u64, Ask)>>,
    answers: Sender<(u64, Option<Answer>)>,
    stopping: Arc<AtomicBool>,
    trouble: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl WitnessClient {
    /// Starts the client, which connects at once. Every question is answered on `answers`, which must not
    /// be a bounded channel that its receiver leaves full.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(config: WitnessClientConfig, answers: Sender<(u64, Option<Answer>)>) -> io::Result<Self> {
        let (asks, questions) = bounded(ASKS_MAX);
        let stopping = Arc::new(AtomicBool::new(false));
        let trouble = Arc::new(Mutex::new(None));
        let line = Line { config, channel: None, counters: Arc::default(), trouble: trouble.clone() };
        let (stop, out) = (stopping.clone(), answers.clone());
        let thread = thread::Builder::new()
            .name("arbiter".to_owned())
            .spawn(move || serve_questions(line, &questions, &out, &stop))?;
        Ok(Self { asks: Some(asks), answers, stopping, trouble, thread: Some(thread) })
    }

    /// Asks. The answer comes with the same ticket; `None` means not reachable or no answer in time, and a
    /// swap may have taken place nevertheless: ask again, with the same attempt.
    pub fn ask(&self, ticket: u64, ask: Ask) {
        let asks = self.asks.as_ref().expect("only dropping takes it");
        if asks.try_send((ticket, ask)).is_err() {
            // Nobody receives answers any more, then nobody misses this one.
            let _ = self.answers.send((ticket, None));
        }
    }

    /// Why the witness could not be reached at the last try, for the operator. `None`: it could.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }
}

impl Drop for WitnessClient {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by the runtime.
            let _ = thread.join();
        }
    }
}

fn serve_questions(
    mut line: Line,
    questions: &Receiver<(u64, Ask)>,
    answers: &Sender<(u64, Option<Answer>)>,
    stopping: &AtomicBool,
) {
    line.keep_warm();
    let mut next_warm = Instant::now() + KEEP_WARM;
    while !stopping.load(Ordering::SeqCst) {
        match questions.recv_deadline(next_warm) {
            Ok((ticket, ask)) => {
                let answer = line.ask(&ask);
                if answers.send((ticket, answer)).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                line.keep_warm();
                next_warm = Instant::now() + KEEP_WARM;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Why a try came to nothing.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("Cannot reach it: {0}")]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error("It sent something that is no answer; run the same release on all machines")]
    Answer,
}

/// The connection, when there is one.
struct Line {
    config: WitnessClientConfig,
    channel: Option<Channel>,
    counters: Arc<Counters>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Line {
    fn keep_warm(&mut self) {
        let limit = WARM_LIMIT.min(self.config.timeout);
        self.exchange(FrameKind::Heartbeat, &[], FrameKind::Heartbeat, limit);
    }

    fn ask(&mut self, ask: &Ask) -> Option<Answer> {
        let payload = codec::encode(ask);
        let answer = self.exchange(FrameKind::Ask, &payload, FrameKind::Answer, self.config.timeout)?;
        let answer = codec::decode(&answer);
        if answer.is_err() {
            self.channel = None;
            self.note(Some(&TryError::Answer));
        }
        answer.ok()
    }

    /// Sends a frame and waits for the answer, on the connection that is open for half of the time at most
    /// and then on a new one. Asking twice is harmless: an attempt has an id.
    fn exchange(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        due: FrameKind,
        limit: Duration,
    ) -> Option<Vec<u8>> {
        let start = Instant::now();
        if let Some(mut channel) = self.channel.take()
            && let Ok(answer) = call(&mut channel, kind, payload, due, start + limit / 2)
        {
            self.channel = Some(channel);
            self.note(None);
            return Some(answer);
        }
        let result = self.call_anew(kind, payload, due, start + limit);
        self.note(result.as_ref().err());
        result.ok()
    }

    fn call_anew(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        due: FrameKind,
        deadline: Instant,
    ) -> Result<Vec<u8>, TryError> {
        let left = deadline.saturating_duration_since(Instant::now());
        // A limit of zero is an error of its own kind.
        let stream = TcpStream::connect_timeout(&self.config.addr, left.max(Duration::from_millis(1)))?;
        let secret = &self.config.secret;
        let mut channel = Channel::dialed(stream, Service::Witness, secret, deadline, &self.counters)?;
        let answer = call(&mut channel, kind, payload, due, deadline)?;
        self.channel = Some(channel);
        Ok(answer)
    }

    fn note(&self, error: Option<&TryError>) {
        let now = error.map(|error| format!("witness {}: {error}", self.config.addr));
        let mut trouble = lock(&self.trouble);
        if *trouble != now {
            match &now {
                Some(why) => tracing::warn!("{why}"),
                None => tracing::info!("witness {}: reachable again", self.config.addr),
            }
            *trouble = now;
        }
    }
}

/// One question and its answer. After an error the connection is of no further use: a late answer to this
/// question would be taken for one to the next.
fn call(
    channel: &mut Channel,
    kind: FrameKind,
    payload: &[u8],
    due: FrameKind,
    deadline: Instant,
) -> Result<Vec<u8>, TryError> {
    channel.sender.send_by(kind, payload, deadline)?;
    let (kind, answer) = channel.receiver.next_by(deadline)?;
    if kind == due { Ok(answer) } else { Err(TryError::Answer) }
}
