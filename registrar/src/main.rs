//! The registrar.

use std::process::ExitCode;

use clap::Parser;

/// Registrar of Keystone: authenticates clients by certificate and registers them with the key server.
///
/// Exit codes: 0 drained after SIGTERM or SIGINT, 1 failure, 2 wrong arguments or configuration.
#[derive(Parser)]
#[command(name = "registrar", version)]
struct Cli {
    #[command(flatten)]
    args: registrar::Args,
}

fn main() -> ExitCode {
    registrar::main(Cli::parse().args)
}
