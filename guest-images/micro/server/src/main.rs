#![forbid(unsafe_code)]
//! The test server of the Linux guests: what the micro guest serves, with the same messages and the same log on disk,
//! from `guest-images/micro`'s library. Usage: `server /dev/vda`.

mod book;
mod counters;
mod disk;
mod downloads;
mod job;
mod limit;

use std::error::Error;
use std::fs;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use micro_guest::config::Config;
use micro_guest::log;
use micro_guest::wire::splitmix64;

use book::Book;
use disk::Disk;
use job::Report;

/// What replies say about this boot.
#[derive(Clone, Copy, Debug)]
struct Boot {
    /// Another one each time.
    id: u64,
    begin: Instant,
}

impl Boot {
    /// Time since the start, in ns.
    fn uptime_ns(self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn main() -> ExitCode {
    let Some(disk) = std::env::args().nth(1) else {
        eprintln!("server: usage: server DISK, a blank disk or one with a log of counters");
        return ExitCode::from(2);
    };
    match serve(&disk) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until something breaks.
fn serve(disk: &str) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let config = Config::parse(&fs::read_to_string("/proc/cmdline")?).map_err(|error| error.to_string())?;
    let mut disk = Disk::open(disk).map_err(|error| format!("cannot open {disk}: {error}"))?;
    let (store, ledger) = log::open(&mut disk).map_err(|error| error.to_string())?;
    let boot = Boot { id: splitmix64(splitmix64(config.seed) ^ store.boots()), begin };
    let book = Arc::new(Book::new(store, ledger));
    let report = Arc::new(Report::default());

    downloads::start()?;
    counters::start(&book, boot)?;
    job::start(&config, &report, boot)?;
    println!("mini: boot_id={:016x} ip={} ready", boot.id, Ipv4Addr::from(config.address));
    Ok(book.keep(&mut disk)?)
}
