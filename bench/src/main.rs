//! Measurements of Keystone, each a ratio in one run against something named.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod primitives;
mod rekey;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, value_parser};

/// Time for all cases of a command together; building the groups comes on top.
const BUDGET: Duration = Duration::from_secs(24);

/// Measures Keystone against the primitives that it is made of.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A join and a leave, up to datagrams that are ready to send, beside the sum of their primitives.
    Rekey {
        /// Group sizes, 2 to 1,000,000 members (the largest group that Keystone is made for).
        #[arg(
            long,
            value_name = "N,N,..",
            value_delimiter = ',',
            default_value = "1000,10000,100000",
            value_parser = value_parser!(u32).range(2..=1_000_000)
        )]
        members: Vec<u32>,
        /// Write the rows as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Command::Rekey { members, json } = Cli::parse().command;
    let rows = match rekey::rows(&members, BUDGET) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    table::print(&rows);
    if let Some(path) = json
        && let Err(error) = std::fs::write(&path, table::json(&rows) + "\n")
    {
        eprintln!("bench: {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
