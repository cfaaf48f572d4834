//! Key files: 32 secret bytes as 64 hexadecimal digits, readable by their owner only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A secret. Its bytes are never displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a key file cannot be used or made. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("no key file {}: make it with `twinrun keygen {}` on one host and copy it to the others", .0.display(), .0.display())]
    Missing(PathBuf),
    /// The file system refuses.
    #[error("cannot use key file {}: {error}; check its directory and owner", path.display())]
    Io {
        /// Path of the key file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// Others may read it.
    #[error("others may read key file {} (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// Path of the key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else is in it.
    #[error("key file {} does not hold 64 hexadecimal digits: copy it again from the other host, or make a new one with `twinrun keygen`", .0.display())]
    Malformed(PathBuf),
    /// `keygen` never overwrites.
    #[error("{} exists already and is left as it is: name another file, or remove it first", .0.display())]
    Exists(PathBuf),
}

/// Reads a key file.
///
/// # Errors
/// [`KeyError`].
pub fn read(path: &Path) -> Result<Secret, KeyError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
        _ => KeyError::Io { path: path.to_owned(), error },
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(128).read_to_end(&mut text).map_err(failed)?;
    parse(&text).ok_or_else(|| KeyError::Malformed(path.to_owned()))
}

fn parse(text: &[u8]) -> Option<Secret> {
    let digits = text.trim_ascii_end();
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut secret = [0; 32];
    if digits.len() != 2 * secret.len() {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(Secret(secret))
}

/// Makes a key file from the kernel's random source. Refuses to overwrite.
///
/// # Errors
/// [`KeyError`].
pub fn generate(path: &Path) -> Result<(), KeyError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
        _ => KeyError::Io { path: path.to_owned(), error },
    };
    let mut secret = [0; 32];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret)).map_err(failed)?;
    let mut text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_made_key_can_be_read_and_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("directory");
        let (one, two) = (dir.path().join("one.key"), dir.path().join("two.key"));
        assert!(matches!(read(&one), Err(KeyError::Missing(_))));
        generate(&one).expect("generate");
        generate(&two).expect("generate");
        let text = std::fs::read_to_string(&one).expect("read");
        assert_eq!(text.len(), 65);
        assert_ne!(read(&one).expect("one"), read(&two).expect("two"));
        assert!(matches!(generate(&one), Err(KeyError::Exists(_))));
        assert_eq!(std::fs::read_to_string(&one).expect("read"), text);
    }

    #[test]
    fn an_exposed_or_malformed_key_is_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("pair.key");
        generate(&path).expect("generate");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("chmod");
        let error = read(&path).expect_err("exposed").to_string();
        assert!(error.contains("(mode 0640): run `chmod 600 "), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
        for text in ["", "00", &"g".repeat(64), &"é".repeat(32), &"0".repeat(66), &"0".repeat(1000)] {
            std::fs::write(&path, text).expect("write");
            assert!(matches!(read(&path), Err(KeyError::Malformed(_))), "{text}");
        }
        std::fs::write(&path, format!("{}\r\n", "0a".repeat(32))).expect("write");
        assert_eq!(read(&path).expect("read"), Secret([10; 32]));
        assert_eq!(format!("{:?}", Secret([10; 32])), "Secret(…)");
    }
}
