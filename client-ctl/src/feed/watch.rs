//! A response that never ends by itself: the newest state, line by line.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::watch::Receiver;
use zeroize::Zeroizing;

use super::{Clock, line};
use crate::core::Snapshot;

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Receiver<Arc<Snapshot>>)>> + Send>>;

/// Polled only when the reader has room, so a slow one gets the newest state and never a queue of old ones.
pub(super) struct Lines {
    next: Next,
    clock: Clock,
}

impl Lines {
    pub(super) fn new(mut receiver: Receiver<Arc<Snapshot>>, clock: Clock) -> Self {
        receiver.mark_changed();
        Self { next: Box::pin(next(receiver, clock)), clock }
    }
}

async fn next(mut receiver: Receiver<Arc<Snapshot>>, clock: Clock) -> Option<(Bytes, Receiver<Arc<Snapshot>>)> {
    receiver.changed().await.ok()?;
    let snapshot = Arc::clone(&receiver.borrow_and_update());
    Some((bytes(line(&snapshot, clock.now())), receiver))
}

/// Wiped when the last reader is done with it.
pub(super) fn bytes(line: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(line)
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Poll::Ready(ready) = self.next.as_mut().poll(cx) else {
            return Poll::Pending;
        };
        let Some((line, receiver)) = ready else {
            return Poll::Ready(None);
        };
        self.next = Box::pin(next(receiver, self.clock));
        Poll::Ready(Some(Ok(Frame::data(line))))
    }
}
