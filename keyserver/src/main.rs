//! The key server.

use std::process::ExitCode;

use clap::Parser;

/// Key server of Keystone: holds the key graph of each group, decides who may join, makes and multicasts rekey messages.
///
/// Exit codes: 0 drained after SIGTERM or SIGINT, 1 failure, 2 wrong arguments or configuration.
#[derive(Parser)]
#[command(name = "keyserver", version)]
struct Cli {
    #[command(flatten)]
    args: keyserver::Args,
}

fn main() -> ExitCode {
    keyserver::main(Cli::parse().args)
}
