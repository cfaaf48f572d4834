//! The kernel command line: `ip=10.77.0.10/24 seed=<hexadecimal> load=cpu dirty=<pages> job=<rounds>`. Unknown words
//! are left to others.

use crate::job::MAX_PAGES;
use core::fmt;

/// What the guest computes while it has nothing to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Nothing: it sleeps.
    Nothing,
    /// The CPU job, without end.
    Endless,
    /// So many rounds of the CPU job, which are then reported on the console.
    Rounds(u64),
}

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// IPv4 address.
    pub address: [u8; 4],
    /// Length of the network prefix, at most 32.
    pub prefix: u8,
    /// The only source of "randomness": ports, sequence numbers and the boot id follow from it.
    pub seed: u64,
    /// What to compute.
    pub load: Load,
    /// The CPU job's work area, in pages of 4 KiB.
    pub pages: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: [10, 77, 0, 10], prefix: 24, seed: 0, load: Load::Nothing, pages: 64 }
    }
}

/// A word of the command line that makes no sense; which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// `ip=` without an address and prefix such as `10.77.0.10/24`.
    Address,
    /// `seed=` without 1 to 16 hexadecimal digits.
    Seed,
    /// `load=` with anything but `cpu`.
    Load,
    /// `job=` without a number of rounds.
    Job,
    /// `dirty=` without a number of pages that the job can have.
    Dirty,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "command line: ip= wants an address and prefix such as 10.77.0.10/24",
            Self::Seed => "command line: seed= wants 1 to 16 hexadecimal digits",
            Self::Load => "command line: load= knows only cpu",
            Self::Job => "command line: job= wants a number of rounds",
            Self::Dirty => "command line: dirty= wants a number of pages from 1 to 1024",
        })
    }
}

impl Config {
    /// Reads a command line.
    ///
    /// # Errors
    /// A known word with an unusable value.
    pub fn parse(line: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for word in line.split_ascii_whitespace() {
            if let Some(value) = word.strip_prefix("ip=") {
                (config.address, config.prefix) = address(value).ok_or(ConfigError::Address)?;
            } else if let Some(value) = word.strip_prefix("load=") {
                // A number of rounds, wherever it stands, says more.
                if value != "cpu" {
                    return Err(ConfigError::Load);
                } else if config.load == Load::Nothing {
                    config.load = Load::Endless;
                }
            } else if let Some(value) = word.strip_prefix("job=") {
                config.load = Load::Rounds(value.parse().map_err(|_| ConfigError::Job)?);
            } else if let Some(value) = word.strip_prefix("dirty=") {
                let pages = value.parse().ok().filter(|pages| (1..=MAX_PAGES).contains(pages));
                config.pages = pages.ok_or(ConfigError::Dirty)?;
            } else if let Some(value) = word.strip_prefix("seed=") {
                config.seed = u64::from_str_radix(value, 16).map_err(|_| ConfigError::Seed)?;
            }
        }
        Ok(config)
    }
}

fn address(text: &str) -> Option<([u8; 4], u8)> {
    let (address, prefix) = text.split_once('/')?;
    let mut parts = address.split('.');
    let mut bytes = [0; 4];
    for byte in &mut bytes {
        *byte = parts.next()?.parse().ok()?;
    }
    let prefix = prefix.parse().ok().filter(|&length| length <= 32)?;
    parts.next().is_none().then_some((bytes, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_line_is_read() {
        let line = "console=ttyS0 ip=192.168.5.6/16 mac=02:00:00:00:00:01 seed=00ff00000000000a\n";
        let expected = Config {
            address: [192, 168, 5, 6],
            prefix: 16,
            seed: 0x00ff_0000_0000_000a,
            ..Config::default()
        };
        assert_eq!(Config::parse(line), Ok(expected));
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn a_load_is_read() {
        let load = |line| Config::parse(line).map(|config| (config.load, config.pages));
        assert_eq!(load("seed=1"), Ok((Load::Nothing, 64)));
        assert_eq!(load("load=cpu dirty=1024"), Ok((Load::Endless, 1024)));
        for line in ["job=12", "job=12 load=cpu", "load=cpu job=12"] {
            assert_eq!(load(line), Ok((Load::Rounds(12), 64)), "{line}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (line, error) in
            [("load=disk", ConfigError::Load), ("load=", ConfigError::Load), ("job=", ConfigError::Job)]
        {
            assert_eq!(Config::parse(line), Err(error), "{line}");
        }
        for line in ["dirty=0", "dirty=1025", "dirty=x"] {
            assert_eq!(Config::parse(line), Err(ConfigError::Dirty), "{line}");
        }
        for line in ["ip=10.0.0.1", "ip=10.0.0/24", "ip=10.0.0.256/24", "ip=10.0.0.1.2/24", "ip=10.0.0.1/33"]
        {
            assert_eq!(Config::parse(line), Err(ConfigError::Address), "{line}");
        }
        for line in ["seed=", "seed=xyz", "seed=11112222333344445"] {
            assert_eq!(Config::parse(line), Err(ConfigError::Seed), "{line}");
        }
    }
}
