//! `keystone relay`: passes rekey messages and beacons from one network to another. It holds the site certificate and no key
//! of any group: it verifies signatures, drops what does not verify, and passes each unit once, so that loops die.
//!
//! ```text
//! inputs: multicast or unicast UDP -> Core: form, age, passed already, digests, signature -> outputs: multicast or unicast
//! ```
//!
//! `core` and `group` are pure; `shell` owns sockets and the clock, `status` the Unix socket.

mod config;
mod core;
mod group;
mod shell;
mod status;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use net::{Args, Exit, Shutdown};

/// Runs until SIGTERM or SIGINT.
pub(crate) fn main(args: &Args) -> ExitCode {
    let fail = |exit: Exit, why: &dyn std::fmt::Display| {
        eprintln!("keystone: {why}");
        exit.into()
    };
    let settings = match net::logs::init(args.log_json).and_then(|()| config::FileConfig::load(&args.config)) {
        Ok(settings) => settings,
        Err(why) => return fail(Exit::Usage, &why),
    };
    if args.check {
        println!("{}: ok", args.config.display());
        return Exit::Ok.into();
    }
    // One task does the work; the others wait for sockets.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return fail(Exit::Failure, &why),
    };
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(shell::RunError::Signals)?;
        shell::run(settings, shutdown).await
    });
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(why) => fail(Exit::Failure, &why),
    }
}
