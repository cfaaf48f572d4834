//! `twinrun run`: this host, until its guest is off or it cannot go on.

use std::process::ExitCode;

use lockstep::core::ExitReason;

use crate::cli::RunOptions;
use crate::config::Loaded;
use crate::engine::Host;

/// Runs this host of the pair. A host that lost the pair to another one begins again, to be filled by it.
///
/// # Errors
/// When the host cannot go on; the message says what to do.
pub fn run(loaded: &Loaded, host: &str, options: &RunOptions) -> anyhow::Result<ExitCode> {
    let mut host = Host::open(loaded, host, options.journal.as_ref())?;
    loop {
        match host.live()? {
            ExitReason::PoweredOff => {
                println!("The guest is off, and this is recorded: no host will revive it.");
                return Ok(ExitCode::SUCCESS);
            }
            ExitReason::LostArbitration(why) => {
                tracing::warn!("this host does not own the pair ({why}); it begins again, to be filled");
            }
            ExitReason::Stale(why) => match host.refusal() {
                Some(refusal) => anyhow::bail!("Refused to start: no link with {refusal}. Without it: {why}"),
                None => anyhow::bail!("Refused to start: {why}"),
            },
            ExitReason::Mismatch(why) => anyhow::bail!("The hosts do not fit together: {why}"),
            ExitReason::Failed(why) => anyhow::bail!("This host failed: {why}"),
        }
    }
}
