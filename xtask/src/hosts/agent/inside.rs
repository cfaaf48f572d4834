//! The agent's end: a thread per question.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::proto::{self, Answer, Answered, Ask, Asked, End, PIECE};
use crate::world::process;

/// Nobody is connected to the port: how long until the next look.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Agent {
    port: Mutex<File>,
    /// What was started and not waited for yet, by process id.
    running: Mutex<BTreeMap<u32, Child>>,
}

/// Serves the port for ever.
pub(in crate::hosts) fn serve(port: &Path) -> anyhow::Result<()> {
    let open = || OpenOptions::new().read(true).write(true).open(port);
    let file = open().with_context(|| format!("opening {}", port.display()))?;
    let mut from = file.try_clone()?;
    let agent = Arc::new(Agent { port: Mutex::new(file), running: Mutex::default() });
    loop {
        match proto::read::<Asked>(&mut from) {
            Ok((asked, payload)) => {
                let agent = Arc::clone(&agent);
                thread::Builder::new().spawn(move || agent.answer(asked, &payload)).context("a thread")?;
            }
            // Nobody is connected, or somebody was and is not any more.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => thread::sleep(LOOK),
            Err(error) => return Err(error).context("the orchestrator does not make sense"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    fn answer(&self, asked: Asked, input: &[u8]) {
        let (what, payload) = self
            .obey(asked.what, input)
            .unwrap_or_else(|error| (Answer::Failed { message: format!("{error:#}") }, Vec::new()));
        // Without a listener there is nobody to tell.
        let _ = proto::write(&mut *lock(&self.port), &Answered { id: asked.id, what }, &payload);
    }

    fn obey(&self, ask: Ask, input: &[u8]) -> anyhow::Result<(Answer, Vec<u8>)> {
        let done = |answer| Ok((answer, Vec::new()));
        match ask {
            Ask::Hello => done(Answer::Done),
            Ask::Run { argv, limit_ms } => run(&argv, input, Duration::from_millis(limit_ms)),
            Ask::Start { argv, log } => done(Answer::Started { pid: self.start(&argv, &log)? }),
            Ask::Wait { pid, limit_ms } => done(self.wait(pid, Duration::from_millis(limit_ms))?),
            Ask::Put { path, mode, append } => {
                put(&path, mode, append, input).with_context(|| format!("writing {path}"))?;
                done(Answer::Done)
            }
            Ask::Get { path, offset } => {
                Ok((Answer::Done, get(&path, offset).with_context(|| format!("reading {path}"))?))
            }
        }
    }

    fn start(&self, argv: &[String], log: &str) -> anyhow::Result<u32> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {log}"))?;
        let mut command = command(argv)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", argv.join(" ")))?;
        let pid = child.id();
        lock(&self.running).insert(pid, child);
        Ok(pid)
    }

    fn wait(&self, pid: u32, limit: Duration) -> anyhow::Result<Answer> {
        let taken = lock(&self.running).remove(&pid);
        let mut child =
            taken.with_context(|| format!("no process {pid} was started, or its end was told already"))?;
        let status = process::wait_for(&mut child, limit)?;
        Ok(match status {
            Some(status) => Answer::Ended { end: end(status) },
            None => {
                lock(&self.running).insert(pid, child);
                Answer::Running
            }
        })
    }
}

fn command(argv: &[String]) -> anyhow::Result<Command> {
    let Some((program, arguments)) = argv.split_first() else { bail!("no command") };
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    Ok(command)
}

fn end(status: ExitStatus) -> End {
    status.signal().map_or_else(|| End::Code(status.code().unwrap_or_default()), End::Signal)
}

fn run(argv: &[String], input: &[u8], limit: Duration) -> anyhow::Result<(Answer, Vec<u8>)> {
    let mut command = command(argv)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {}", argv.join(" ")))?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        // It may want to print before it has read everything.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        process::collect(child, limit)
    })?;
    let mut payload = output.stdout;
    payload.truncate(proto::PAYLOAD / 2);
    let out = u32::try_from(payload.len())?;
    payload.extend(output.stderr.iter().take(proto::PAYLOAD / 2));
    Ok((Answer::Ran { end: end(output.status), out }, payload))
}

fn put(path: &str, mode: u32, append: bool, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = Path::new(path).parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).write(true).append(append).truncate(!append).mode(mode);
    let mut file = options.open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)
}

fn get(path: &str, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PIECE as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
