//! What waits for peers that stay connected. Nobody waits for them: whoever does not keep up is cut off, and the connection of whoever is
//! cut off ends at once, although a write is under way that the peer does not read.

use std::collections::BTreeMap;
use std::convert::Infallible;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// The engine's end of one. Dropping it ends the connection.
pub(super) struct Queue<T> {
    items: mpsc::Sender<T>,
    _alive: oneshot::Sender<Infallible>,
}

/// The connection's end.
pub(super) struct Pushed<T> {
    pub(super) items: mpsc::Receiver<T>,
    /// Ready when the engine has ended it.
    pub(super) ended: oneshot::Receiver<Infallible>,
}

/// Both ends of a queue of so many.
pub(super) fn queue<T>(capacity: usize) -> (Queue<T>, Pushed<T>) {
    let ((items, receiver), (alive, ended)) = (mpsc::channel(capacity), oneshot::channel());
    (Queue { items, _alive: alive }, Pushed { items: receiver, ended })
}

impl<T> Queue<T> {
    /// Never waits.
    ///
    /// # Errors
    /// It is to be closed.
    pub(super) fn push(&self, item: T) -> Result<(), Cut> {
        self.items.try_send(item).map_err(|error| match error {
            TrySendError::Full(_) => Cut::TooSlow,
            TrySendError::Closed(_) => Cut::Gone,
        })
    }
}

/// Why a queue was closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// It is full.
    TooSlow,
    /// The connection has ended.
    Gone,
}

/// All of a kind, by number.
pub(super) struct Queues<T>(BTreeMap<u64, Queue<T>>);

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Queues<T> {
    pub(super) fn insert(&mut self, peer: u64, queue: Queue<T>) {
        self.0.insert(peer, queue);
    }

    pub(super) fn close(&mut self, peer: u64) {
        self.0.remove(&peer);
    }

    /// Never waits. Whoever is not there gets nothing.
    ///
    /// # Errors
    /// The queue had to be closed.
    pub(super) fn push(&mut self, peer: u64, item: T) -> Result<(), Cut> {
        let pushed = self.0.get(&peer).map_or(Ok(()), |queue| queue.push(item));
        pushed.inspect_err(|_| self.close(peer))
    }
}
