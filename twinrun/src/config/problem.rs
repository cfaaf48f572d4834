//! What is wrong with a configuration: all of it at once, each with its place and a remedy.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, counted from 1; 0 when it is about the whole file.
    pub line: usize,
    /// The key, as `hosts.alpha.taps`; may be empty when the file is not TOML.
    pub key: String,
    /// What is wrong and what to do.
    pub text: String,
}

/// A configuration that cannot be used. Displayed with one problem per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Sorted by line. Never empty.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.file.display())?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.text)?;
        }
        Ok(())
    }
}

/// Gathers problems while a file is read.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Problems { text, found: Vec::new() }
    }

    /// Notes a problem at these bytes of the file.
    pub(super) fn at(&mut self, span: Range<usize>, key: impl Into<String>, text: impl Into<String>) {
        self.found.push(Problem { line: self.line(span.start), key: key.into(), text: text.into() });
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    /// `value` when nothing was found.
    pub(super) fn into_result<T>(mut self, file: &Path, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort_by_key(|problem| problem.line);
                Err(ConfigError { file: file.to_owned(), problems: self.found })
            }
        }
    }
}
