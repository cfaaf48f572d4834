//! A download worker: one connection, every byte checked, every wait written down.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{TICK, Worker};
use crate::load::message::{download_content, download_request};
use crate::load::record::Record;
use crate::ns::monotonic_ns;

/// Bytes per read: small, so that a slow reader reads evenly.
const CHUNK: usize = 16 << 10;
/// Distance of progress records.
const PROGRESS_NS: u64 = 50_000_000;
/// A wait for data that is shorter is not worth a record.
const STALL_NS: u64 = 20_000_000;
/// Longest sleep of a slow reader, so that a stop is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How far a slow reader may be behind its pace and still catch up.
const SLACK_NS: u128 = 100_000_000;
/// Records of wrong bytes per worker; a stream that went wrong goes on being wrong.
const WRONG_RECORDS: u32 = 100;

pub(super) fn run(worker: &Worker) {
    worker.begin();
    let now = monotonic_ns();
    let mut state = State { bytes: 0, began: now, told_at: now, waiting_since: now, wrong: 0 };
    if let Err(why) = follow(worker, &mut state) {
        worker.record_broken(why);
    }
    state.note_stall(worker, monotonic_ns());
    state.tell(worker, monotonic_ns());
}

/// Reads until the stop; an error is how the connection died.
fn follow(worker: &Worker, state: &mut State) -> Result<(), String> {
    let mut stream = open(worker).map_err(|error| format!("no download: {error}"))?;
    let mut got = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    while worker.stopped_at().is_none() {
        let length = match stream.read(&mut got) {
            Ok(0) => return Err("the guest closed the download".to_owned()),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(format!("the download failed: {error}")),
        };
        let now = monotonic_ns();
        if length > 0 {
            if state.bytes == 0 {
                worker.answered();
            }
            state.note_stall(worker, now);
            download_content(worker.seed, state.bytes, &mut expected[..length]);
            state.check(worker, &got[..length], &expected[..length]);
            state.bytes += u64::try_from(length).unwrap_or(0);
        }
        if now - state.told_at >= PROGRESS_NS {
            state.tell(worker, now);
        }
        if length > 0 {
            state.keep_pace(worker);
        }
    }
    Ok(())
}

fn open(worker: &Worker) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&worker.target, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(TICK))?;
    stream.write_all(&download_request(worker.seed, 0))?;
    Ok(stream)
}

struct State {
    /// Bytes received.
    bytes: u64,
    began: u64,
    /// Last progress record.
    told_at: u64,
    /// Since when the reader has been ready for data.
    waiting_since: u64,
    /// Records of wrong bytes so far.
    wrong: u32,
}

impl State {
    fn note_stall(&mut self, worker: &Worker, now: u64) {
        if now.saturating_sub(self.waiting_since) >= STALL_NS {
            worker.recorder.put(Record::Stall { from: self.waiting_since, at: now, w: worker.number });
        }
        self.waiting_since = now;
    }

    fn check(&mut self, worker: &Worker, got: &[u8], expected: &[u8]) {
        if got == expected || self.wrong >= WRONG_RECORDS {
            return;
        }
        let differs = |pair: &(&u8, &u8)| pair.0 != pair.1;
        let count = got.iter().zip(expected).filter(differs).count();
        let first = got.iter().zip(expected).take_while(|pair| !differs(pair)).count();
        let offset = self.bytes + u64::try_from(first).unwrap_or(0);
        worker.record_wrong(offset, u64::try_from(count).unwrap_or(u64::MAX), "download content");
        self.wrong += 1;
    }

    fn tell(&mut self, worker: &Worker, now: u64) {
        worker.recorder.put(Record::Down { at: now, w: worker.number, bytes: self.bytes });
        self.told_at = now;
    }

    /// Sleeps when the bytes are ahead of the rate; that pause is the client's own and no stall.
    fn keep_pace(&mut self, worker: &Worker) {
        if worker.download_rate == 0 {
            return;
        }
        let due = u128::from(self.bytes) * 1_000_000_000 / u128::from(worker.download_rate);
        let ahead = due.saturating_sub(u128::from(monotonic_ns() - self.began));
        if ahead > 0 {
            std::thread::sleep(Duration::from_nanos(u64::try_from(ahead).unwrap_or(0)).min(LONGEST_PAUSE));
        }
        // Time lost in a stall is not caught up in a burst.
        let behind = u128::from(monotonic_ns() - self.began).saturating_sub(due);
        self.began += u64::try_from(behind.saturating_sub(SLACK_NS)).unwrap_or(0);
        self.waiting_since = monotonic_ns();
    }
}
