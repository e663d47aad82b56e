//! `keystone mcast`: a data processor. `send` encrypts standard input to a multicast address, `recv` decrypts to
//! standard output; both take their keys from the feed of `client-ctl`.
//!
//! ```text
//! client-ctl --feed--> watch --State--> Sender    stdin -> pacer -> Sender -> packet -> UDP multicast
//!                                  `--> Receiver  UDP multicast -> packet -> Receiver -> Stream -> stdout
//! ```
//!
//! `packet`, `feed`, `pacer`, `sender`, `receiver`, `stream`, `hold` and `report` are pure; `watch`, `send` and `recv`
//! own clock and sockets.

mod feed;
mod hold;
mod pacer;
mod packet;
mod receiver;
mod recv;
mod report;
mod send;
mod sender;
mod stream;
#[cfg(test)]
mod tests;
mod watch;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args as ClapArgs, Subcommand};
use net::{Exit, Shutdown};
use serde::Serialize;

pub(crate) use recv::RecvArgs;
pub(crate) use send::SendArgs;

/// Encrypt a stream to a multicast group, or decrypt one.
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Encrypt standard input and multicast it
    ///
    /// Waits for a key, then reads. Ends with 0 when all was sent or on SIGTERM, 6 if this member left or was evicted.
    Send(SendArgs),
    /// Receive from multicast and decrypt to standard output
    ///
    /// Begins at the first packet that can be read and ends with the stream. Says on standard error what could not be
    /// read and why. Ends with 0 if nothing is missing in between, 1 if anything is, 6 if this member left or was evicted.
    Recv(RecvArgs),
}

/// Where the keys come from.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct KeyArgs {
    /// Unix socket of this member's client-ctl
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Name of the group
    #[arg(long, value_name = "NAME", value_parser = group_name)]
    pub(crate) group: String,
}

/// Runs the command to its end.
pub(crate) fn main(args: Args) -> ExitCode {
    if let Err(why) = net::logs::init(false) {
        eprintln!("keystone: {why}");
        return Exit::from(&why).into();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("keystone: cannot start: {why}");
            return Exit::Failure.into();
        }
    };
    let exit = runtime.block_on(async {
        let shutdown = match Shutdown::on_signals() {
            Ok(shutdown) => shutdown,
            Err(why) => {
                return fail(Exit::Failure, format_args!("cannot listen for signals: {why}"));
            }
        };
        match args {
            Args::Send(args) => send::run(args, tokio::io::stdin(), shutdown).await,
            Args::Recv(args) => recv::run(args, tokio::io::stdout(), shutdown).await,
        }
    });
    // A read of standard input may be in progress, and nobody waits for it any more.
    runtime.shutdown_background();
    exit.into()
}

/// Tells a person why the command ends.
fn fail(exit: Exit, why: impl std::fmt::Display) -> Exit {
    eprintln!("keystone: {why}");
    exit
}

/// Time since the command began.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "this is shell: cores are handed what it reads")]
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// Returns at that time, or never. Safe to cancel.
    async fn sleep_until(&self, at: Option<Duration>) {
        match at {
            Some(at) => tokio::time::sleep_until((self.0 + at).into()).await,
            None => std::future::pending().await,
        }
    }
}

/// A file of JSON lines, each written at once so that somebody can follow it; nothing without a path.
#[derive(Debug)]
struct JsonLines(Option<File>);

impl JsonLines {
    fn create(path: Option<&Path>) -> io::Result<Self> {
        path.map(File::create).transpose().map(Self)
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let Some(file) = &mut self.0 else {
            return Ok(());
        };
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        file.write_all(&line)
    }
}

/// The name goes into the path of a request, so it holds only what needs no escape there.
fn group_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    match (1..=protocol::MAX_NAME).contains(&text.len()) && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("1 to {} letters, digits and -_.~ are expected", protocol::MAX_NAME)),
    }
}
