//! `client-ctl`: the client control manager as a program.

use std::process::ExitCode;

use clap::Parser;

/// A member's daemon of the Keystone group key management service.
///
/// It registers with a registrar, joins the groups that its configuration names, keeps their keys up to date, and feeds
/// them to the programs that encrypt and decrypt the data, over a Unix socket (HTTP/1.1):
///
///   curl --unix-socket SOCKET http://localhost/v1/groups/GROUP/watch
///
/// Exit codes: 0 ended as asked, 1 failure, 2 arguments or configuration, 3 denied.
/// The environment variable KEYSTONE_LOG sets the log, as in KEYSTONE_LOG=debug.
#[derive(Debug, Parser)]
#[command(name = "client-ctl", version, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    args: client_ctl::Args,
}

fn main() -> ExitCode {
    client_ctl::main(Cli::parse().args)
}
