//! The kernel command line: `seed=<hexadecimal> rounds=<number> timer=<microseconds> pages=<number>`. Unknown words
//! are left to others.

use core::fmt;
use machine::cpu::Ns;

/// The largest work area, in pages of 4 KiB.
const MAX_PAGES: usize = 2048;
/// The longest period of the timer, in microseconds: nine minutes, what its 32 bits hold.
const MAX_PERIOD: u64 = 540_000_000;

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Where the hash begins.
    pub(crate) seed: u64,
    /// After so many rounds it ends; 0: never.
    pub(crate) rounds: u64,
    /// Period of the timer's interrupt; 0: none.
    pub(crate) timer: Ns,
    /// Size of the work area, in pages of 4 KiB.
    pub(crate) pages: usize,
}

/// A word of the command line that makes no sense; which one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OptionsError {
    /// `seed=` without 1 to 16 hexadecimal digits.
    Seed,
    /// `rounds=` without a number.
    Rounds,
    /// `timer=` without a period that the timer can have.
    Timer,
    /// `pages=` without a number of pages that the guest can have.
    Pages,
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seed => "command line: seed= wants 1 to 16 hexadecimal digits",
            Self::Rounds => "command line: rounds= wants a number, 0 for no end",
            Self::Timer => "command line: timer= wants microseconds, at most 540000000, 0 for none",
            Self::Pages => "command line: pages= wants a number from 1 to 2048",
        })
    }
}

impl Options {
    /// Reads a command line.
    pub(crate) fn parse(line: &str) -> Result<Self, OptionsError> {
        let mut options = Self { seed: 0, rounds: 0, timer: 1_000_000, pages: 256 };
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("seed", value)) => {
                    options.seed = u64::from_str_radix(value, 16).map_err(|_| OptionsError::Seed)?;
                }
                Some(("rounds", value)) => {
                    options.rounds = value.parse().map_err(|_| OptionsError::Rounds)?;
                }
                Some(("timer", value)) => {
                    let period = value.parse::<u64>().ok().filter(|&period| period <= MAX_PERIOD);
                    options.timer = period.ok_or(OptionsError::Timer)? * 1000;
                }
                Some(("pages", value)) => {
                    let pages = value.parse().ok().filter(|pages| (1..=MAX_PAGES).contains(pages));
                    options.pages = pages.ok_or(OptionsError::Pages)?;
                }
                _ => {}
            }
        }
        Ok(options)
    }
}
