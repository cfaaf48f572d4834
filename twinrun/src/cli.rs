//! What people type. Every command ends with one line that says what happened.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lockstep::edge::witness::{WitnessConfig, serve};

use crate::config::{Config, Loaded};
use crate::control::{QueryError, query_status};
use crate::doctor;
use crate::host::disk::Disk;
use crate::host::state::{SOCKET_NAME, StateDir, StateError};
use crate::host::tap::Tap;
use crate::key;
use crate::status::{self, Level};

/// One unmodified x86-64 server on two hosts at once: when either dies, the other goes on.
#[derive(Debug, Parser)]
#[command(name = "twinrun", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Action,
}

const AFTER_HELP: &str = "\
Exit codes of `status`: 0 protected, 1 running unprotected, 2 not running, 3 cannot tell.
Exit codes of `doctor`: 0 a host of a pair can run here, 1 it cannot.
Exit codes of the others: 0 done, 1 failed (the last line says why and what to do), 2 wrong arguments.
Set TWINRUN_LOG (as `debug` or `lockstep=trace`) for more or less on standard error.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run this host of a pair.
    Run(RunArgs),
    /// Ask the host of a pair on this machine how it stands.
    Status(StatusArgs),
    /// Make a key file (mode 0600); never overwrites.
    Keygen {
        /// The file to make.
        file: PathBuf,
    },
    /// Decide for pairs which host goes on: run this on a third machine.
    Witness(WitnessArgs),
    /// Say what would go wrong with a pair's file, before it does.
    Check {
        /// The pair's file.
        file: PathBuf,
        /// Which host of the file this machine is [default: the one with this machine's host name].
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// Say what this machine offers to a pair, what each thing means, and what to do about it.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say which version this is.
    Version {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The pair's file.
    pub file: PathBuf,
    /// Which host of the file this machine is [default: the one with this machine's host name].
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// How to run.
    #[command(flatten)]
    pub options: RunOptions,
}

/// How to run a host.
#[derive(Clone, Debug, Default, Args)]
pub struct RunOptions {
    /// Append the journal to this file instead of the one in the state directory.
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The pair's file.
    pub file: PathBuf,
    /// Which host of the file this machine is [default: the one with this machine's host name].
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// The whole status object as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `witness`.
#[derive(Debug, Args)]
pub struct WitnessArgs {
    /// Where to listen, as 10.79.0.200:7900.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Key file: the same on every host that asks.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// File in which the records of all pairs are kept; made if there is none.
    #[arg(long, value_name = "FILE")]
    pub state: PathBuf,
}

/// Sends log lines to standard error, filtered by `TWINRUN_LOG`.
pub fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TWINRUN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Does what was typed.
#[must_use]
pub fn execute(cli: &Cli) -> ExitCode {
    let result = match &cli.command {
        Action::Run(args) => run(args),
        Action::Status(args) => return ExitCode::from(status(args) as u8),
        Action::Keygen { file } => keygen(file),
        Action::Witness(args) => witness(args),
        Action::Check { file, host } => check(file, host.as_deref()),
        Action::Doctor { json } => Ok(doctor(*json)),
        Action::Version { json } => {
            println!("{}", version(*json));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("twinrun: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::read(&args.file)?;
    let (host, _) = loaded.config.choose_host(args.host.as_deref())?;
    crate::run::run(&loaded, host, &args.options)
}

fn status(args: &StatusArgs) -> Level {
    let cannot_tell = |error: &dyn std::fmt::Display| {
        eprintln!("twinrun: cannot tell: {error}");
        Level::CannotTell
    };
    let config = match Config::read(&args.file) {
        Ok(config) => config,
        Err(error) => return cannot_tell(&error),
    };
    let (name, host) = match config.choose_host(args.host.as_deref()) {
        Ok(found) => found,
        Err(error) => return cannot_tell(&error),
    };
    match query_status(&host.state.join(SOCKET_NAME)) {
        Ok(value) => {
            println!("{}", if args.json { value.to_string() } else { status::render(&value) });
            status::level(&value)
        }
        Err(error) => {
            eprintln!("{}   {name}: {error}", config.pair);
            match error {
                QueryError::NotRunning(_) => Level::NotRunning,
                QueryError::NoAnswer { .. } => Level::CannotTell,
            }
        }
    }
}

fn keygen(file: &Path) -> anyhow::Result<ExitCode> {
    key::generate(file)?;
    println!("Made {} (mode 0600): copy it to every host of the pair, and to nobody else.", file.display());
    Ok(ExitCode::SUCCESS)
}

fn witness(args: &WitnessArgs) -> anyhow::Result<ExitCode> {
    let secret = key::read(&args.key)?.0;
    let state = args.state.clone();
    let _witness = serve(WitnessConfig { listen: args.listen, secret, state })?;
    println!("Witness listens on {} and keeps its records in {}.", args.listen, args.state.display());
    // Every record is durable before it is answered: the process may be killed at any time.
    loop {
        std::thread::park();
    }
}

/// Looks at everything that `run` would need; makes nothing but the lock file of an existing state directory.
fn check(file: &Path, host: Option<&str>) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::read(file)?;
    let (name, host) = loaded.config.choose_host(host)?;
    let mut problems: Vec<String> = Vec::new();
    for tap in &host.taps {
        problems.extend(Tap::open(tap).err().map(|error| error.to_string()));
    }
    for disk in &host.disks {
        problems.extend(Disk::open(disk).err().map(|error| error.to_string()));
    }
    if host.state.exists() {
        let state = StateDir::open(&host.state).and_then(|state| state.load());
        problems.extend(state.err().map(|error: StateError| error.to_string()));
    }
    if !problems.is_empty() {
        anyhow::bail!("host {name} of {} cannot run yet:\n{}", file.display(), problems.join("\n"));
    }
    println!(
        "OK  host {name} of pair {} can run: {} MiB guest, {} interface(s), {} disk(s). Shared part of the file: {:032x} (equal on all hosts), kernel: {:032x}.",
        loaded.config.pair,
        loaded.config.guest.memory_mib,
        host.taps.len(),
        host.disks.len(),
        loaded.config.shared_digest(),
        loaded.kernel_digest,
    );
    Ok(ExitCode::SUCCESS)
}

fn doctor(json: bool) -> ExitCode {
    let facts = doctor::look();
    println!("{}", if json { doctor::object(&facts).to_string() } else { doctor::render(&facts) });
    ExitCode::from(u8::from(!doctor::can_run(&doctor::judge(&facts))))
}

fn version(json: bool) -> String {
    let (version, wire) = (env!("CARGO_PKG_VERSION"), lockstep::WIRE_VERSION);
    if json {
        serde_json::json!({ "schema": "twinrun.version/1", "version": version, "wire": wire }).to_string()
    } else {
        format!("twinrun {version} (wire protocol {wire})")
    }
}
