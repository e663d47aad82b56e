//! Work that is divided among the cores when there is enough of it.

use rayon::prelude::*;

/// K-nodes, members or secrets from which on it is worth to wake the other cores: a tenth of a millisecond of work, more or less.
pub const MANY: usize = 256;

/// `one` of every item, in their order; on all cores of the surrounding thread pool if there are [`MANY`].
pub fn map<T: Sync, R: Send>(items: &[T], one: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    map_all(items, items.len(), one)
}

/// The same for items that are so much work together.
pub fn map_all<T: Sync, R: Send>(items: &[T], work: usize, one: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    if work < MANY { items.iter().map(one).collect() } else { items.par_iter().map(one).collect() }
}

/// `one` of every item put into `out`, which is as long, until one fails.
///
/// Errors: the first that is met; `out` is partly filled then.
pub fn fill<T: Sync, R: Send, E: Send>(
    items: &[T],
    out: &mut [R],
    one: impl Fn(&T) -> Result<R, E> + Sync + Send,
) -> Result<(), E> {
    let put = |(out, item): (&mut R, &T)| {
        *out = one(item)?;
        Ok(())
    };
    if items.len() < MANY {
        out.iter_mut().zip(items).try_for_each(put)
    } else {
        out.par_iter_mut().zip(items).try_for_each(put)
    }
}
