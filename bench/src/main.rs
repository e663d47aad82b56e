//! Measurements of Keystone, each a ratio in one run against something named.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod rekey;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
        /// Group sizes.
        #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
        members: Vec<u32>,
        /// Write the rows as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Command::Rekey { members, json } = Cli::parse().command;
    let rows = match rekey::rows(&members) {
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
