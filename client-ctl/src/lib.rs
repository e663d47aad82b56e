//! The client control manager: a member's daemon.
//!
//! [`core`] is pure: it is handed time, randomness, datagrams and replies. [`run`] owns the clock, the sockets and the
//! individual key. [`feed`] hands group keys to data processors over a Unix socket. [`register`] and [`request`] are the
//! shell's two conversations, for another shell of the same core.

pub mod config;
pub mod core;
mod credential;
pub mod feed;
mod shell;
mod trust;

use std::process::ExitCode;

use net::{Exit, Shutdown};

pub use config::{FileConfig, OnStop, Settings};
pub use net::Args;
pub use shell::{Registered, RegistrationFailed, RequestFailed, RunError, register, request, run};

/// Everything that the binary does, so that another binary can do it too.
pub fn main(args: Args) -> ExitCode {
    let settings = match net::logs::init(args.log_json).and_then(|()| FileConfig::load(&args.config)) {
        Ok(settings) => settings,
        Err(error) => return fail(&error, Exit::from(&error)),
    };
    if args.check {
        println!("ok");
        return Exit::Ok.into();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, Exit::Failure),
    };
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(RunError::Signals)?;
        run(settings, shutdown).await
    });
    // What still waits for a peer is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(error) => fail(&error, Exit::from(&error)),
    }
}

fn fail(error: &dyn std::fmt::Display, exit: Exit) -> ExitCode {
    eprintln!("client-ctl: {error}");
    exit.into()
}
