//! Commands on the store of a key server that does not run.

use std::path::PathBuf;
use std::process::ExitCode;

use keyserver::RunError;
use keyserver::config::Checked;
use net::exit::Exit;

/// Where the backup is and where it goes.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// Configuration of the key server; its store must be empty or missing.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The backup's key; default: the configuration's `backup_key`.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The backup.
    backup: PathBuf,
}

/// What may go on.
#[derive(Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    /// Configuration of the key server.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A term that somebody has seen, if it may be higher than all that the store knows.
    #[arg(long, default_value_t = 0)]
    seen_term: u64,
    /// An epoch of any group that somebody has seen, likewise.
    #[arg(long, default_value_t = 0)]
    seen_epoch: u64,
    /// Go on from what was stored before the first damaged record, and give up the rest: who joined, left or was evicted in it.
    #[arg(long)]
    damaged: bool,
}

pub(crate) fn restore(args: &RestoreArgs) -> ExitCode {
    let checked = match Checked::load(&args.config) {
        Ok(checked) => checked,
        Err(error) => return usage(&error),
    };
    let Some(key) = args.key.clone().or_else(|| checked.file.backup_key.clone()) else {
        return usage(&"no `backup_key` is configured; name one with --key");
    };
    match keyserver::restore(checked, &args.backup, &key) {
        Ok(()) => {
            println!("restored; nothing is issued before `keystone recover --config {}`", args.config.display());
            Exit::Ok.into()
        }
        Err(error) => failed(&error),
    }
}

pub(crate) fn recover(args: &RecoverArgs) -> ExitCode {
    let checked = match Checked::load(&args.config) {
        Ok(checked) => checked,
        Err(error) => return usage(&error),
    };
    match keyserver::recover(checked, (args.seen_term, args.seen_epoch), args.damaged) {
        Ok((plan, lost)) => {
            if lost > 0 {
                println!("{lost} records are given up; whoever was evicted in them has to be evicted again");
            }
            println!("the next reign has a term above {}", plan.term);
            println!("{:<20}{:>14}{:>22}", "group", "epoch so far", "first epoch from now");
            for (name, epoch, floor) in plan.groups {
                println!("{name:<20}{epoch:>14}{floor:>22}");
            }
            Exit::Ok.into()
        }
        Err(error) => failed(&error),
    }
}

fn usage(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("keystone: {error}");
    Exit::Usage.into()
}

fn failed(error: &RunError) -> ExitCode {
    eprintln!("keystone: {error}");
    Exit::Failure.into()
}
