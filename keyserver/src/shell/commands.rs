//! What the doors tell the engine, and how they hear back.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::identity::Identity;
use protocol::registration;
use protocol::{IndividualKey, MemberId};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::queues::{Pushed, Queue};
use crate::core::{Admin, AdminError, AdminReply, GroupConfig, Keys};

/// Commands that wait for the core: what all doors together let in at once. Beyond it they wait, and so do peers.
const QUEUE: usize = 1_024;

/// The answer to a request.
pub(super) enum Answer {
    /// It was none.
    Refused,
    /// Everything.
    Reply(Zeroizing<Vec<u8>>),
    /// The beginning: what is pushed follows. Whoever ends it says so by the number of the session.
    Subscribed(u64, Zeroizing<Vec<u8>>, Pushed<Arc<[u8]>>),
}

pub(super) type Reply = oneshot::Sender<Answer>;
/// Whether something is in force now, and otherwise why not.
pub(super) type Verdict = oneshot::Sender<Result<(), String>>;

pub(super) enum Command {
    Key(MemberId, u64, oneshot::Sender<Option<IndividualKey>>),
    Request(MemberId, u64, Zeroizing<Vec<u8>>, Reply),
    Admin(Admin, oneshot::Sender<Result<AdminReply, AdminError>>),
    RegistrarUp(u64, Identity, Queue<Vec<u8>>),
    RegistrarDown(u64),
    FromRegistrar(u64, Zeroizing<Vec<u8>>),
    Answered(u64, (MemberId, u64), Option<Box<registration::Answer>>),
    Policy(Vec<GroupConfig>, Verdict),
    Keys(Keys, Verdict),
    Revoked(BTreeSet<Vec<u8>>),
    SubscriberGone(u64),
}

/// Talks to the engine. Clones are the same engine.
#[derive(Clone)]
pub(super) struct Handle(mpsc::Sender<Command>);

impl Handle {
    pub(super) async fn send(&self, command: Command) {
        // The engine ends only with the process.
        drop(self.0.send(command).await);
    }

    pub(super) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer)).await;
        answered.await.ok()
    }

    /// Waits until the core has taken something.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) async fn verdict(&self, command: impl FnOnce(Verdict) -> Command) -> Result<(), String> {
        self.ask(command).await.unwrap_or_else(|| Err("the key server is stopping".into()))
    }
}

/// Both ends of what waits for an engine.
pub(super) fn commands() -> (Handle, mpsc::Receiver<Command>) {
    let (commands, queue) = mpsc::channel(QUEUE);
    (Handle(commands), queue)
}
