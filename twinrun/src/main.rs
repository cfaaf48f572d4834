//! The `twinrun` command; see the library beside it.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    twinrun::cli::start_logging();
    twinrun::cli::execute(&twinrun::cli::Cli::parse())
}
