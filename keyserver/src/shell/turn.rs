//! Whose turn it is to reign. Only liveness rests on it: two key servers that both believe it is theirs are kept apart by
//! the store's fence.

use std::future::Future;
use std::pin::Pin;

pub(super) type Waiting<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Decides among the key servers of one store.
pub(super) trait Turn: Send {
    /// Waits until this one is to take over.
    fn comes(&mut self) -> Waiting<'_>;

    /// Waits until another one has begun a reign after this one's.
    fn is_over(&mut self) -> Waiting<'_>;

    /// Lets another one take over at once.
    fn pass(&mut self) -> Waiting<'_>;
}

/// The only key server of its store.
pub(super) struct Alone;

impl Turn for Alone {
    fn comes(&mut self) -> Waiting<'_> {
        Box::pin(std::future::ready(()))
    }

    fn is_over(&mut self) -> Waiting<'_> {
        Box::pin(std::future::pending())
    }

    fn pass(&mut self) -> Waiting<'_> {
        Box::pin(std::future::ready(()))
    }
}
