//! The places where nothing stands, as few long intervals instead of many ids.

use std::collections::BTreeMap;

use crate::ids::MAX_NODE;

/// All ids in `1..=MAX_NODE` that are n-nodes. The next one from any id on takes logarithmic time, however the
/// largest k-node falls or rises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gaps {
    /// First id to last id; the intervals neither touch nor overlap.
    intervals: BTreeMap<u32, u32>,
}

impl Gaps {
    /// Only the root stands.
    pub(crate) fn new() -> Self {
        Self { intervals: BTreeMap::from([(1, MAX_NODE)]) }
    }

    /// The smallest n-node that is not below `from`.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        match self.around(from) {
            Some(_) => Some(from),
            None => self.intervals.range(from..).next().map(|(first, _)| *first),
        }
    }

    /// Something stands at `id` now. No effect if something did.
    pub(crate) fn close(&mut self, id: u32) {
        let Some((first, last)) = self.around(id) else {
            return;
        };
        self.intervals.remove(&first);
        if first < id {
            self.intervals.insert(first, id - 1);
        }
        if id < last {
            self.intervals.insert(id + 1, last);
        }
    }

    /// Nothing stands at `id` (from 1 on) any more. No effect if nothing did.
    pub(crate) fn open(&mut self, id: u32) {
        if self.around(id).is_some() {
            return;
        }
        let first = self.around(id - 1).map_or(id, |(first, _)| first);
        let last = self.intervals.remove(&(id + 1)).unwrap_or(id);
        self.intervals.insert(first, last);
    }

    fn around(&self, id: u32) -> Option<(u32, u32)> {
        let (first, last) = self.intervals.range(..=id).next_back()?;
        (id <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_same_as_a_set(ops in proptest::collection::vec((any::<bool>(), 1u32..40), 1..200)) {
            let mut gaps = Gaps::new();
            let mut taken = BTreeSet::new();
            for (close, id) in ops {
                if close { gaps.close(id); taken.insert(id); } else { gaps.open(id); taken.remove(&id); }
                for from in 1..41 {
                    prop_assert_eq!(gaps.next(from), (from..).find(|id| !taken.contains(id)));
                }
                prop_assert!(gaps.intervals.len() <= taken.len() + 1);
            }
        }
    }
}
