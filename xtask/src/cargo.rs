//! Calls of cargo from a program that cargo itself started.

use std::process::Command;

/// What cargo tells a program that it runs of its own package. A build script that asks for one of these (ring's
/// does) would see another value than in a call by hand, and half of the workspace would be built anew each time.
const OUTER: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// `program`, not knowing that it is called from within cargo.
pub(crate) fn outside(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if OUTER.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Cargo, as if called by hand.
pub(crate) fn cargo() -> Command {
    outside("cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_outer_package_is_passed_on() {
        let removed: Vec<_> =
            cargo().get_envs().filter(|(_, value)| value.is_none()).map(|(n, _)| n.to_owned()).collect();
        assert!(
            removed.iter().any(|name| name == "CARGO_MANIFEST_DIR"),
            "a test is run by cargo: {removed:?}"
        );
        assert!(!removed.iter().any(|name| name == "CARGO_HOME"));
    }
}
