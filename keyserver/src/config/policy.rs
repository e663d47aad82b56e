//! The policy: the groups, and who may be in them. One file, read at the start and whenever it has changed.

use std::path::{Path, PathBuf};

use net::config::{ConfigError, in_range, load, parse};
use protocol::Suite;
use serde::Deserialize;

use super::group::GroupFileConfig;
use super::{FileConfig, unique};
use crate::core::GroupConfig;

/// Ten thousand groups a server is the size that the design is for; each costs timers and beacons.
const MAX_GROUPS: usize = 10_000;

/// The policy's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFileConfig {
    /// The groups; at least one.
    pub group: Vec<GroupFileConfig>,
}

/// Where the policy stands.
#[derive(Debug, Clone)]
pub struct PolicySource {
    /// The file.
    pub path: PathBuf,
    /// It is the key server's own configuration.
    pub is_own: bool,
    /// All addresses of the key server are loopback: suites that protect nothing may be used.
    pub loopback: bool,
    /// There is a place where groups can be published.
    pub publishes: bool,
}

impl PolicySource {
    /// Reads and checks the policy as a whole.
    ///
    /// # Errors
    /// The first flaw, with its line or key.
    pub fn read(&self) -> Result<Vec<GroupConfig>, ConfigError> {
        let groups = match self.is_own {
            true => load::<FileConfig>(&self.path)?.group,
            false => load::<PolicyFileConfig>(&self.path)?.group,
        };
        let groups = check(&groups, self.loopback)?;
        match groups.iter().find(|group| group.published && !self.publishes) {
            None => Ok(groups),
            Some(group) => Err(ConfigError::invalid(
                format!("group `{}`: publish", group.name),
                "the table `[publish]` of the key server's configuration is missing, which says where",
            )),
        }
    }
}

/// Reads and checks a policy's file by itself.
///
/// # Errors
/// The first flaw, with its line or key.
pub fn read(path: &Path) -> Result<Vec<GroupConfig>, ConfigError> {
    PolicySource { path: path.to_owned(), is_own: false, loopback: true, publishes: true }.read()
}

/// The same of a policy's text, whose place is only named in errors.
///
/// # Errors
/// The first flaw, with its line or key.
pub fn read_text(path: &Path, text: &str) -> Result<Vec<GroupConfig>, ConfigError> {
    check(&parse::<PolicyFileConfig>(path, text)?.group, true)
}

pub(super) fn check(groups: &[GroupFileConfig], loopback: bool) -> Result<Vec<GroupConfig>, ConfigError> {
    in_range("number of [[group]] tables", groups.len(), 1..=MAX_GROUPS)?;
    unique("group.id", groups.iter().map(|group| group.id))?;
    unique("group.name", groups.iter().map(|group| &group.name))?;
    let groups: Vec<GroupConfig> = groups.iter().map(GroupFileConfig::check).collect::<Result<_, _>>()?;
    match groups.iter().find(|group| group.suite.is_broken() && !loopback) {
        None => Ok(groups),
        Some(group) => Err(ConfigError::invalid(
            format!("group `{}`: suite", group.name),
            "it protects nothing: listen_requests, listen_registrars, interface and relays must be loopback",
        )),
    }
}

/// Whether each group's messages can be signed.
pub(super) fn check_suites(groups: &[GroupConfig], signs: impl Fn(Suite) -> bool) -> Result<(), ConfigError> {
    match groups.iter().find(|group| !signs(group.suite)) {
        None => Ok(()),
        Some(group) => {
            let why = format!("`{}` needs a signing key of its own, and none is configured", group.suite);
            Err(ConfigError::invalid(format!("group `{}`: suite", group.name), why))
        }
    }
}
