//! Arguments that every daemon has.

use std::path::PathBuf;

/// Arguments of a daemon.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration and all files that it names, and stop.
    #[arg(long)]
    pub check: bool,
    /// Log as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}
