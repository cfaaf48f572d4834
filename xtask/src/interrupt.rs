//! Ctrl-C ends a drill without leaving anything behind.

use anyhow::Context as _;
use xtask::ns;
use xtask::world::Stopper;

/// Lets the world end at SIGINT, SIGTERM and SIGHUP, and this program with it.
pub(crate) fn on_interrupt(stopper: Stopper) -> anyhow::Result<()> {
    let work = move || {
        eprintln!("\nInterrupted: the drill's world is ended, nothing is left behind.");
        stopper.emergency_stop();
        std::process::exit(130);
    };
    ns::on_interrupt(work).context("listening for Ctrl-C")
}
