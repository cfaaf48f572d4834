//! Developer tasks: `./xtask.sh drill`, `./xtask.sh test`, and what they are made of.

mod cargo;
mod counted;
mod drill;
mod emulated;
mod interrupt;
mod landing;
mod progress;
mod setup;
mod sim;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{hosts, world};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Developer tasks of TwinRun", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Set up everything and run the plug-pull drill.
    Drill(drill::DrillArgs),
    /// Set up everything and run all tests.
    Test(test::TestArgs),
    /// Run the whole-pair simulator.
    Sim(sim::SimArgs),
    /// Prove that a busy guest's landings are found again.
    Landing(landing::LandingArgs),
    /// Start an emulated host, and check that it is what proofs can be built on.
    Hosts(emulated::HostsArgs),
    /// Install what the other commands need.
    Setup,
}

fn main() -> ExitCode {
    if let Some(code) = world::hidden_main().or_else(hosts::hidden_main) {
        return code;
    }
    let result = match Cli::parse().task {
        Task::Drill(args) => drill::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Sim(args) => sim::run(&args),
        Task::Landing(args) => landing::run(&args),
        Task::Hosts(args) => emulated::run(&args),
        Task::Setup => setup::run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(3)
    })
}
