//! Sends rekey messages as signed units over real multicast, and receives, verifies and decodes them, to count what a
//! network that loses leaves unrecovered. The scripts in `tests/loss` run it in network namespaces:
//!
//! ```text
//! multicast_loss send '{"group": "239.77.9.1:7300", "units": 5, "scheme": "rs1", ..}'      one cell, see `send::Cell`
//! multicast_loss receive '{"group": "239.77.9.1:7300", ..}'                                one receiver, see `receive::Place`
//! ```
//!
//! It is an example of this crate and not a command of `keystone` because it signs with a key that everybody knows; so the
//! test command builds it along with the tests.
//!
//! Time is counted in unit-times, not measured: each unit-time is one datagram, a unit or an empty one, so that a channel
//! that changes its state with each datagram has the bursts that are asked for however busy the host is. After a round of
//! messages the sender waits until all receivers have told what they got, so that no socket overflows.
#![allow(clippy::disallowed_types, reason = "answers come back over a socket")]

mod receive;
mod send;
mod wire;

use std::error::Error;
use std::process::ExitCode;

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("multicast_loss: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments {
        [role, text] if role == "send" => {
            let outcome = runtime.block_on(send::run(&serde_json::from_str(text)?))?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
        [role, text] if role == "receive" => runtime.block_on(receive::run(&serde_json::from_str(text)?)),
        _ => Err("usage: multicast_loss send|receive JSON".into()),
    }
}
