//! The operator's command.

mod demo;
mod mcast;
mod operator;
mod pki;
mod policy;
mod relay;
mod rescue;
mod unix_http;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keystone: group key management for multicast.
///
/// `keystone demo` shows all of it on this machine. Exit codes: 0 ok, 1 failure, 2 wrong arguments or configuration,
/// 3 denied, 4 unreachable, 5 authentication failed, 6 not a member.
#[derive(Parser)]
#[command(name = "keystone", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stream a file to members who come and go, on this machine, and check what each could read.
    Demo(demo::Args),
    /// Make a development PKI.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Look at a policy before a key server takes it.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Encrypt or decrypt multicast with a group's keys.
    #[command(subcommand)]
    Mcast(mcast::Args),
    /// Pass rekey messages from one multicast network to another, without any key of a group.
    Relay(net::Args),
    /// Show a key server's state.
    Status(operator::StatusArgs),
    /// Show the members of a group.
    Members(operator::GroupArgs),
    /// Take a member out of a group at once, and keep it out.
    Evict(operator::MemberArgs),
    /// Let an evicted client join again.
    Admit(operator::MemberArgs),
    /// Give a group a new key now.
    Refresh(operator::GroupArgs),
    /// Write a running key server's state to a file, sealed under its backup key.
    Backup(operator::BackupArgs),
    /// Fill the store of a stopped key server from a backup.
    Restore(rescue::RestoreArgs),
    /// Let a stopped key server go on after a restore, or after its store has lost something.
    Recover(rescue::RecoverArgs),
    /// A daemon, in this process.
    #[command(subcommand, hide = true)]
    Daemon(Daemon),
}

/// The daemons, so that the demonstration needs one file only.
#[derive(Subcommand)]
enum Daemon {
    /// The key server.
    Keyserver(keyserver::Args),
    /// A registrar.
    Registrar(registrar::Args),
    /// A client control manager.
    ClientCtl(client_ctl::Args),
    /// `mcast`, ending with its parent.
    #[command(subcommand)]
    Mcast(mcast::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => demo::main(&args),
        Command::Pki(command) => pki::main(command),
        Command::Policy(command) => policy::main(command),
        Command::Mcast(args) => mcast::main(args),
        Command::Relay(args) => relay::main(&args),
        Command::Status(args) => operator::status(&args),
        Command::Members(args) => operator::members(&args),
        Command::Evict(args) => operator::evict(&args),
        Command::Admit(args) => operator::admit(&args),
        Command::Refresh(args) => operator::refresh(&args),
        Command::Backup(args) => operator::backup(&args),
        Command::Restore(args) => rescue::restore(&args),
        Command::Recover(args) => rescue::recover(&args),
        Command::Daemon(daemon) => {
            // A demonstration that is killed takes its daemons along.
            let signal = Some(rustix::process::Signal::TERM);
            if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
                eprintln!("keystone: cannot follow the parent process: {error}");
                return ExitCode::FAILURE;
            }
            match daemon {
                Daemon::Keyserver(args) => keyserver::main(args),
                Daemon::Registrar(args) => registrar::main(args),
                Daemon::ClientCtl(args) => client_ctl::main(args),
                Daemon::Mcast(args) => mcast::main(args),
            }
        }
    }
}
