//! `keystone demo`: everything on one machine, with real processes, real multicast and losses.
//!
//! ```text
//! source: client-ctl + mcast send ==data==> m1 .. mN: client-ctl + mcast recv
//!            ^ key server ==rekey units, beacons (part of them dropped at each receiver)==> client-ctl
//! ```
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the demonstration is a shell")]

mod judge;
mod report;
mod story;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use net::exit::Exit;
use net::shutdown::Shutdown;
use protocol::Suite;

/// Arguments of the demonstration.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File to stream; by default this program itself.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Receiving members, 6 to 50.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(6..=50))]
    members: u16,
    /// Seconds of streaming, 10 to 3600.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..=3600))]
    seconds: u32,
    /// Per cent of the rekey units and beacons that each receiver loses, 0 to 50.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=50))]
    loss: u8,
    /// Mean length of bursts of these losses in milliseconds, 0 (each on its own) to 1,000. The repair scheme is `adaptive` then.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    burst: u16,
    /// Suite of the group: aes256, aes128, rsa; in a build with that feature, paper.
    #[arg(long, default_value_t = Suite::Aes256, value_parser = suite)]
    suite: Suite,
    /// Write the result as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn suite(name: &str) -> Result<Suite, String> {
    let known: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
    Suite::named(name).ok_or_else(|| format!("expected one of {}", known.join(", ")))
}

pub(crate) fn main(args: &Args) -> ExitCode {
    // One thread: the daemons end with the thread that started them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("keystone demo: cannot start the runtime: {error}");
            return Exit::Failure.into();
        }
    };
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        tokio::select! {
            result = story::tell(args) => result,
            () = shutdown.wait() => Err("interrupted; all processes are ended and all files removed".into()),
        }
    });
    match result {
        Ok(true) => Exit::Ok.into(),
        Ok(false) => Exit::Failure.into(),
        Err(error) => {
            eprintln!("keystone demo: {error}");
            Exit::Failure.into()
        }
    }
}

/// Errors of a demonstration are for people; none is handled.
type Failure = Box<dyn std::error::Error + Send + Sync>;
