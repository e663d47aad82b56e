//! Logs: `tracing` to standard error, so that standard output stays for data.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::ConfigError;

/// Environment variable with the filter, as `info` or `keyserver=debug,net=trace`.
pub const FILTER: &str = "KEYSTONE_LOG";

/// Starts the log of this process: level `info` unless `KEYSTONE_LOG` says else, one JSON object a line if `json`,
/// colours only on a terminal. A second call changes nothing (several daemons may run in one process).
///
/// # Errors
/// The filter is not one.
pub fn init(json: bool) -> Result<(), ConfigError> {
    let wanted = std::env::var(FILTER).unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|why| ConfigError::invalid(FILTER, why))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    // An error means that a log is there already, and that one stays.
    let _ = if json { log.json().try_init() } else { log.try_init() };
    Ok(())
}
