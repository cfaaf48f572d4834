//! What the client writes down: one JSON object a line, stamped with `CLOCK_MONOTONIC` nanoseconds, the clock of
//! the captures too.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Records that may wait for the writer; then the workers wait for it.
const QUEUE: usize = 1 << 16;

/// How a worker asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// One datagram per request, sent again by the client when no reply comes.
    Udp,
    /// One connection for the whole run; the kernel's TCP repeats what was lost.
    Tcp,
    /// One endless TCP download.
    Download,
}

/// One line of a record file. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "lowercase")]
pub enum Record {
    /// A worker began. Its counters are used by it alone.
    Start {
        /// When.
        at: u64,
        /// The worker's number in this client.
        w: u32,
        /// How it asks.
        proto: Proto,
        /// The client number of its requests (0 for a download).
        client: u32,
        /// The counters that it increments.
        counters: Vec<u32>,
    },
    /// A request was handed to the kernel.
    Send {
        /// When, taken just before.
        at: u64,
        /// Worker.
        w: u32,
        /// How.
        proto: Proto,
        /// Client number.
        client: u32,
        /// Request number.
        id: u64,
        /// Which counter.
        counter: u32,
        /// 1 for the first time, then counting up.
        #[serde(rename = "try")]
        attempt: u32,
    },
    /// A reply arrived, the first for its request or a later one.
    Reply {
        /// When, taken just after.
        at: u64,
        /// Worker.
        w: u32,
        /// How.
        proto: Proto,
        /// Client number.
        client: u32,
        /// Request number.
        id: u64,
        /// The counter that the reply names.
        counter: u32,
        /// The counter's value.
        value: u64,
        /// The guest's boot id.
        #[serde(with = "hex")]
        boot: u64,
        /// The guest's uptime in nanoseconds.
        uptime: u64,
        /// Bit 0: answered from the log.
        flags: u32,
    },
    /// Download progress, every 50 ms.
    Down {
        /// When.
        at: u64,
        /// Worker.
        w: u32,
        /// Bytes received so far.
        bytes: u64,
    },
    /// A download waited for its next byte.
    Stall {
        /// When it began to wait.
        from: u64,
        /// When the next byte came (or the run ended).
        at: u64,
        /// Worker.
        w: u32,
    },
    /// Bytes that must not be: download content or a malformed reply.
    Wrong {
        /// When.
        at: u64,
        /// Worker.
        w: u32,
        /// Byte offset in the worker's stream (0 for a datagram).
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// What is wrong with them.
        what: String,
    },
    /// A connection died.
    Broken {
        /// When.
        at: u64,
        /// Worker.
        w: u32,
        /// How: reset, end of stream, another error.
        why: String,
    },
    /// A remark of whoever steers the client.
    Mark {
        /// When.
        at: u64,
        /// The remark.
        text: String,
    },
    /// The client was told to stop, and has. A file without it is not complete.
    End {
        /// When.
        at: u64,
        /// How many workers had begun.
        workers: u32,
    },
}

/// 64-bit numbers that people compare by eye: 16 hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
        let text = String::deserialize(input)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

/// Where workers leave their records; cheap to clone, one per worker.
#[derive(Clone, Debug)]
pub struct Recorder(SyncSender<Record>);

impl Recorder {
    /// Creates the file and the thread that writes it. The thread ends, with everything written, once every clone of
    /// the recorder is gone; its result says whether all of it reached the file.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path) -> anyhow::Result<(Self, JoinHandle<std::io::Result<()>>)> {
        let file = File::create(path)
            .with_context(|| format!("cannot create the record file {}", path.display()))?;
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = std::thread::spawn(move || write_all(&receiver, BufWriter::new(file)));
        Ok((Self(sender), writer))
    }

    /// Queues one record. A writer that has failed is reported by its thread's result, not here.
    pub fn put(&self, record: Record) {
        let _ = self.0.send(record);
    }
}

fn write_all(records: &Receiver<Record>, mut out: BufWriter<File>) -> std::io::Result<()> {
    loop {
        match records.recv_timeout(Duration::from_millis(100)) {
            Ok(record) => {
                serde_json::to_writer(&mut out, &record)?;
                out.write_all(b"\n")?;
            }
            Err(RecvTimeoutError::Timeout) => out.flush()?,
            Err(RecvTimeoutError::Disconnected) => return out.flush(),
        }
    }
}

/// Reads a record file.
///
/// # Errors
/// When the file cannot be read or a line is no record. A torn last line (the client was killed) is left out: the
/// missing [`Record::End`] tells the judge.
pub fn read_records(path: &Path) -> anyhow::Result<Vec<Record>> {
    read_lines(path)
}

/// Reads JSON lines; only a last line without its newline may be torn.
pub(super) fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut input = BufReader::new(file);
    let mut parsed = Vec::new();
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let read = input.read_line(&mut line).with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(&line) {
            Ok(value) => parsed.push(value),
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => anyhow::bail!("{} line {number}: {error}", path.display()),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> Record {
        Record::Reply {
            at: 5,
            w: 1,
            proto: Proto::Udp,
            client: 2,
            id: 3,
            counter: 4,
            value: 5,
            boot: 0xfeed,
            uptime: 6,
            flags: 0,
        }
    }

    #[test]
    fn lines_have_the_documented_names() {
        let line = serde_json::to_string(&reply()).expect("a record is plain data");
        assert_eq!(
            line,
            r#"{"k":"reply","at":5,"w":1,"proto":"udp","client":2,"id":3,"counter":4,"value":5,"boot":"000000000000feed","uptime":6,"flags":0}"#
        );
        let send = Record::Send { at: 1, w: 0, proto: Proto::Tcp, client: 2, id: 3, counter: 4, attempt: 1 };
        let line = serde_json::to_string(&send).expect("a record is plain data");
        assert_eq!(line, r#"{"k":"send","at":1,"w":0,"proto":"tcp","client":2,"id":3,"counter":4,"try":1}"#);
    }

    #[test]
    fn files_are_read_back_and_a_torn_tail_is_left_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("records.jsonl");
        let (recorder, writer) = Recorder::create(&path).expect("a new file");
        recorder.put(reply());
        recorder.put(Record::End { at: 9, workers: 1 });
        drop(recorder);
        writer.join().expect("the writer does not panic").expect("the file can be written");
        assert_eq!(read_records(&path).expect("good lines"), [reply(), Record::End { at: 9, workers: 1 }]);

        let whole = std::fs::read(&path).expect("the file");
        std::fs::write(&path, &whole[..whole.len() - 4]).expect("the file can be written");
        assert_eq!(read_records(&path).expect("a torn tail is no error"), [reply()]);
        std::fs::write(&path, b"{\"k\":\"nonsense\"}\n").expect("the file can be written");
        let error = read_records(&path).expect_err("not a record").to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
