//! `drill`: a protected pair in a world of its own, loaded from outside, whose plugs are pulled.
//!
//! Everything that decides is seen from outside: the client's records and the captures of the cable go to the
//! judge ([`xtask::load::judge`]). What the pair says of itself is only used to know when to go on, and for the
//! share of epochs that needed no repair.

mod client;
mod cluster;
mod report;
mod scenario;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::progress::Steps;
use scenario::{Outcome, Plan};
pub(crate) use stage::{Sabotage, obstacle, target_dir, workspace};
use xtask::world::World;

/// Which guest the pair runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Guest {
    /// The unikernel of `guest-images/micro`; needs a usable /dev/kvm.
    Micro,
}

/// What the guest does besides its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Load {
    /// It computes without pause.
    Cpu,
}

/// What the secondary does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    /// It runs the same guest.
    Lockstep,
    /// It takes the state of each epoch.
    Checkpoint,
}

impl Level {
    /// As configurations have it.
    fn name(self) -> &'static str {
        match self {
            Level::Lockstep => "lockstep",
            Level::Checkpoint => "checkpoint",
        }
    }
}

/// Arguments of `drill`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DrillArgs {
    /// Which guest.
    #[arg(long, value_enum, default_value = "micro")]
    pub(crate) guest: Guest,
    /// Instead of the story with its two plugs and a crash: so many losses at random instants on one running pair.
    #[arg(long, value_name = "N")]
    pub(crate) repeat: Option<u32>,
    /// Seed of the instants, the victims and the load.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write the report as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What the secondary does.
    #[arg(long, value_enum, default_value = "lockstep")]
    pub(crate) level: Level,
    /// What else the guest does.
    #[arg(long, value_enum)]
    pub(crate) load: Option<Load>,
    /// Commit this fault: the drill must then FAIL, by what is seen from outside.
    #[arg(long, value_enum)]
    pub(crate) sabotage: Option<Sabotage>,
}

/// Runs a drill. The exit code is 0 only when every check held.
pub(crate) fn run(args: &DrillArgs) -> anyhow::Result<ExitCode> {
    let Guest::Micro = args.guest;
    if let Some(why) = obstacle() {
        println!("CANNOT RUN HERE  {why}");
        return Ok(ExitCode::from(2));
    }
    let steps = Steps::new(5);
    steps.begin("packages", "looking for what the drill needs");
    crate::setup::packages(&crate::setup::DRILL)?;
    steps.done(&format!("{} present", crate::setup::DRILL.join(" ")));

    steps.begin("build", "twinrun and the micro guest");
    let built = stage::build(args.sabotage)?;
    steps.done(&built.guest.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()));

    let root = target_dir()?.join("drill");
    std::fs::create_dir_all(&root)?;
    let root = root.join(if args.repeat.is_some() { "repeat" } else { "story" });
    steps.begin("world", "namespaces, taps, bridges, the cable");
    let world = World::create(&root, args.seed).context("making the drill's world")?;
    crate::interrupt::on_interrupt(world.stopper())?;
    for leftover in world.cleaned() {
        println!("      ended what an earlier run had left: {leftover}");
    }
    steps.done("alpha beta gamma delta, a client and a witness [in namespaces, nothing outside is touched]");

    let plan = match args.repeat {
        None => Plan::Story,
        Some(losses) => Plan::Repeat { losses },
    };
    let outcome = scenario::play(&world, &steps, built, &plan, args);
    let finished = world.finish();
    let outcome: Outcome = outcome?;
    finished.context("ending the drill's world")?;
    report::conclude(args, &root, &outcome)
}
