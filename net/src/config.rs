//! Configuration files: TOML, read once, every flaw named with its file and line.

use std::fmt::Display;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a configuration is refused. Whoever wrote it is to blame; nothing was started.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not TOML, or has a key or a value that the daemon does not know.
    #[error("{}:{line}: {what} (in `{text}`)", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line of the flaw, from 1.
        line: usize,
        /// The flaw.
        what: String,
        /// The line, cut to a bounded length.
        text: String,
    },
    /// A value is out of its range.
    #[error("`{name}` is {value}, expected {low} to {high}")]
    Range {
        /// The key.
        name: String,
        /// Its value.
        value: String,
        /// Least value allowed.
        low: String,
        /// Greatest value allowed.
        high: String,
    },
    /// A value is wrong in another way.
    #[error("`{name}`: {why}")]
    Invalid {
        /// The key.
        name: String,
        /// The flaw.
        why: String,
    },
}

impl ConfigError {
    /// `name` is wrong because of `why`.
    pub fn invalid(name: impl Into<String>, why: impl Display) -> Self {
        Self::Invalid { name: name.into(), why: why.to_string() }
    }
}

/// Reads a TOML file into `T`. `T` and every table in it carry `#[serde(deny_unknown_fields)]`, so that a misspelt key
/// is an error and never a default. Ranges are the caller's, see [`in_range`].
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// The same of a text, whose place is only named.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count();
        ConfigError::Parse {
            path: path.to_owned(),
            line: line + 1,
            what: error.message().to_owned(),
            text: text.lines().nth(line).unwrap_or_default().trim().chars().take(80).collect(),
        }
    })
}

/// `value` if it lies in `range`, which the error names.
pub fn in_range<T: PartialOrd + Display>(
    name: impl Into<String>,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = range.into_inner();
    Err(ConfigError::Range {
        name: name.into(),
        value: value.to_string(),
        low: low.to_string(),
        high: high.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the errors are looked at")]
    struct Example {
        port: u16,
        group: Option<Group>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the errors are looked at")]
    struct Group {
        degree: u32,
    }

    fn flaw(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = load::<Example>(file.path()).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "names the file: {error}");
        error
    }

    #[test]
    fn errors_name_line_and_key() {
        let unknown = flaw("port = 1\n\n[group]\ndegree = 4\ndegre = 5\n");
        assert!(unknown.contains(":5:") && unknown.contains("`degre`"), "{unknown}");
        let kind = flaw("# comment\nport = \"x\"\n");
        assert!(kind.contains(":2:") && kind.contains("port"), "{kind}");
        let range = flaw("port = 70000\n");
        assert!(range.contains(":1:") && range.contains("70000"), "{range}");
        let missing = flaw("\n[group]\ndegree = 4\n");
        assert!(missing.contains("`port`"), "{missing}");
        let syntax = flaw("port = 1\ngroup = [\n");
        assert!(syntax.contains(":2:") || syntax.contains(":3:"), "{syntax}");
        assert!(flaw("port = 1\nport = 2").contains(":2:"));
        let missing_file = load::<Example>("/nonexistent/x.toml").unwrap_err().to_string();
        assert!(missing_file.contains("/nonexistent/x.toml"), "{missing_file}");
    }

    #[test]
    fn ranges_name_their_ends() {
        assert_eq!(in_range("degree", 4, 2..=16).unwrap(), 4);
        let error = in_range("group.degree", 17, 2..=16).unwrap_err().to_string();
        assert_eq!(error, "`group.degree` is 17, expected 2 to 16");
        assert!(in_range("loss", f64::NAN, 0.0..=1.0).is_err());
    }
}
