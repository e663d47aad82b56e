//! Watches what an operator may change while the key server runs: the policy and the CRLs.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::signal::unix::{SignalKind, signal};

use super::engine::{Command, Handle};
use crate::config::policy::PolicySource;

/// Time between two looks at the files: an operator does not wait for longer, and who cannot, sends SIGHUP.
const POLL: Duration = Duration::from_secs(2);

/// Reads the policy again at each change of its file, and at each SIGHUP. A mistake leaves the one before in force.
pub(super) async fn watch(source: PolicySource, engine: Handle) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!(%error, "the policy will not be read again"),
    };
    let mut known = stamp(&source.path);
    loop {
        let is_asked = tokio::select! {
            asked = hangup.recv() => asked.is_some(),
            () = tokio::time::sleep(POLL) => false,
        };
        let present = stamp(&source.path);
        if !is_asked && present == known {
            continue;
        }
        known = present;
        match source.read() {
            Ok(groups) => engine.send(Command::Policy(groups)).await,
            Err(error) => {
                let file = source.path.display();
                tracing::error!(%file, %error, "the new policy is wrong; the one before stays in force");
            }
        }
    }
}

/// What tells one content of a file from another; `None` if it cannot be read.
fn stamp(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok().map(|octets| digest(&SHA256, &octets).as_ref().to_vec())
}
