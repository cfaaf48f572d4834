//! QEMU's control socket: one JSON object per line (QMP, docs/interop/qmp-spec.txt).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// An emulator that does not answer within this time is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events that may come before an answer.
const EVENTS: usize = 10_000;

/// A connection.
#[derive(Debug)]
pub(super) struct Qmp(Mutex<BufReader<UnixStream>>);

impl Qmp {
    /// Takes over a connected socket and ends the negotiation.
    pub(super) fn new(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let qmp = Self(Mutex::new(BufReader::new(stream)));
        // What comes first is a greeting, which is passed over like an event.
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Carries out a command and returns its answer.
    pub(super) fn execute(&self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        stream.get_mut().write_all(line.as_bytes()).context("the emulator has ended")?;
        for _ in 0..EVENTS {
            let mut line = String::new();
            if stream.read_line(&mut line).with_context(|| format!("waiting for QEMU's {command}"))? == 0 {
                bail!("the emulator has ended");
            }
            let mut answer: Value = serde_json::from_str(&line).context("QEMU's answer is no JSON")?;
            if let Some(answer) = answer.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = answer.get("error") {
                let why = error["desc"].as_str().unwrap_or("no reason given");
                bail!("QEMU refused {command}: {why}");
            }
        }
        bail!("QEMU does not answer {command}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A socket whose other end says these lines, one per line that it reads but for the first.
    fn emulator(lines: &'static [&'static str]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut theirs = BufReader::new(theirs);
            for line in lines {
                theirs.get_mut().write_all(line.as_bytes()).unwrap();
                theirs.read_line(&mut String::new()).unwrap();
            }
        });
        ours
    }

    #[test]
    fn events_are_passed_over_and_errors_are_told() {
        let lines = [
            "{\"QMP\":{}}\n{\"return\":{}}\n",
            "{\"event\":\"RESUME\"}\n{\"return\":{\"running\":true}}\n",
            "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such link\"}}\n",
        ];
        let qmp = Qmp::new(emulator(Box::leak(Box::new(lines)))).unwrap();
        assert_eq!(qmp.execute("query-status", &json!({})).unwrap(), json!({ "running": true }));
        let refused = qmp.execute("set_link", &json!({})).unwrap_err().to_string();
        assert!(refused.contains("no such link"), "{refused}");
        let gone = format!("{:#}", qmp.execute("quit", &json!({})).unwrap_err());
        assert!(gone.contains("ended"), "{gone}");
    }
}
