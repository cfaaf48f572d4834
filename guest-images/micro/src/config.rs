//! The kernel command line: `ip=10.77.0.10/24 mac=… seed=<hexadecimal>`. Unknown words are left to others.

use core::fmt;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// IPv4 address.
    pub address: [u8; 4],
    /// Length of the network prefix, at most 32.
    pub prefix: u8,
    /// The only source of "randomness": ports, sequence numbers and the boot id follow from it.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: [10, 77, 0, 10], prefix: 24, seed: 0 }
    }
}

/// A word of the command line that makes no sense; which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// `ip=` without an address and prefix such as `10.77.0.10/24`.
    Address,
    /// `seed=` without 1 to 16 hexadecimal digits.
    Seed,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "command line: ip= wants an address and prefix such as 10.77.0.10/24",
            Self::Seed => "command line: seed= wants 1 to 16 hexadecimal digits",
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
        let expected = Config { address: [192, 168, 5, 6], prefix: 16, seed: 0x00ff_0000_0000_000a };
        assert_eq!(Config::parse(line), Ok(expected));
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn nonsense_is_named() {
        for line in ["ip=10.0.0.1", "ip=10.0.0/24", "ip=10.0.0.256/24", "ip=10.0.0.1.2/24", "ip=10.0.0.1/33"]
        {
            assert_eq!(Config::parse(line), Err(ConfigError::Address), "{line}");
        }
        for line in ["seed=", "seed=xyz", "seed=11112222333344445"] {
            assert_eq!(Config::parse(line), Err(ConfigError::Seed), "{line}");
        }
    }
}
