//! The `mini` guest on the software processor: two boots, which must be the same boot.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::drill::{target_dir, workspace};

/// What the guest says when its services run.
const READY: &str = "ready";
/// A boot takes about 1.7 thousand million instructions; more than this is no boot any longer.
const LIMIT_MILLIONS: &str = "6000";

/// Boots twice; what was found, in one line.
pub(crate) fn carry_out() -> anyhow::Result<String> {
    let mut build = crate::cargo::cargo();
    build.current_dir(workspace()).args(["build", "--quiet", "--package", "vmm", "--example", "counted"]);
    ensure!(build.status().context("starting cargo")?.success(), "the example does not build: see above");
    let image = guest_images::mini().context("building the guest mini")?;

    let boot = || {
        let mut example = Command::new(target_dir()?.join("debug/examples/counted"));
        example.arg(&image.kernel).arg("--initrd").arg(&image.initrd);
        example.args(["--cmdline", &image.cmdline, "--until", READY, "--limit", LIMIT_MILLIONS]);
        let output = example.output().context("starting the example")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("the boot failed: {}\n{text}", String::from_utf8_lossy(&output.stderr));
        }
        found(&text).with_context(|| format!("the guest did not get to its services:\n{text}"))
    };
    let (first, second) = (boot()?, boot()?);
    ensure!(first.digests == second.digests, "two boots differ: {} and {}", first.digests, second.digests);
    Ok(format!("two boots are equal, {}; {}", first.digests, first.speed))
}

/// What a run of the example says at its end.
#[derive(Debug, PartialEq)]
struct Found {
    speed: String,
    digests: String,
}

/// Nothing if the guest's services did not come up.
fn found(text: &str) -> Option<Found> {
    let (console, end) = text.rsplit_once("\n[console ")?;
    let (console, speed) = console.rsplit_once("\n[")?;
    if !console.contains(READY) {
        return None;
    }
    let digests = format!("console {}", end.trim_end().strip_suffix(']')?);
    Some(Found { speed: speed.strip_suffix(']')?.to_owned(), digests })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_that_came_up_is_recognised() {
        let text = "[ 0.1] Linux\nmini: ready\n\n[170 instructions in 1 s]\n[console 01, state 02]\n";
        let expected =
            Found { speed: "170 instructions in 1 s".to_owned(), digests: "console 01, state 02".to_owned() };
        assert_eq!(found(text), Some(expected));
    }

    #[test]
    fn a_boot_that_did_not_is_not() {
        assert_eq!(found("[ 0.1] Linux\n\n[170 instructions in 1 s]\n[console 01, state 02]\n"), None);
        assert_eq!(found("mini: ready\n"), None);
    }
}
