//! Which leaf is whose: a map by member, packed.

use std::collections::BTreeMap;

use crate::types::{MemberId, NodeId};

/// Entries of a chunk at the most: what an insertion moves, and what the map above it is divided by.
const CHUNK: usize = 128;

/// Members and their leaves in sorted chunks: 8 octets an entry and little else, where a plain map takes 16 to 20.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// By the smallest member of each; none is empty.
    chunks: BTreeMap<MemberId, Vec<(MemberId, NodeId)>>,
    len: usize,
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}
impl Eq for Index {}

impl Index {
    pub(crate) fn get(&self, member: MemberId) -> Option<NodeId> {
        let (_, chunk) = self.chunks.range(..=member).next_back()?;
        let at = chunk.binary_search_by_key(&member, |(member, _)| *member).ok()?;
        Some(chunk[at].1)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All entries by ascending member.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (MemberId, NodeId)> {
        self.chunks.values().flatten().copied()
    }

    /// The entries of `first` to `last`, ascending.
    pub(crate) fn range(&self, first: MemberId, last: MemberId) -> impl Iterator<Item = (MemberId, NodeId)> {
        let from = self.chunks.range(..=first).next_back().map_or(first, |(key, _)| *key);
        let entries = self.chunks.range(from..=last.max(from)).flat_map(|(_, chunk)| chunk.iter().copied());
        entries.filter(move |(member, _)| (first..=last).contains(member))
    }

    pub(crate) fn insert(&mut self, member: MemberId, leaf: NodeId) {
        let key =
            self.chunks.range(..=member).next_back().or_else(|| self.chunks.first_key_value()).map(|(key, _)| *key);
        let Some(mut chunk) = key.and_then(|key| self.chunks.remove(&key)) else {
            self.chunks.insert(member, vec![(member, leaf)]);
            self.len += 1;
            return;
        };
        match chunk.binary_search_by_key(&member, |(member, _)| *member) {
            Ok(at) => chunk[at].1 = leaf,
            Err(at) => {
                self.len += 1;
                if chunk.len() < CHUNK {
                    chunk.insert(at, (member, leaf));
                } else {
                    // Members come in ascending order mostly: then the chunk stays full, else it is halved.
                    let cut = if at == CHUNK { CHUNK } else { CHUNK / 2 };
                    let mut rest = chunk.split_off(cut);
                    match at.checked_sub(cut) {
                        Some(at) => rest.insert(at, (member, leaf)),
                        None => chunk.insert(at, (member, leaf)),
                    }
                    self.keep(rest);
                }
            }
        }
        self.keep(chunk);
    }

    pub(crate) fn remove(&mut self, member: MemberId) {
        let Some((key, mut chunk)) = self
            .chunks
            .range(..=member)
            .next_back()
            .map(|(key, _)| *key)
            .and_then(|key| self.chunks.remove_entry(&key))
        else {
            return;
        };
        if let Ok(at) = chunk.binary_search_by_key(&member, |(member, _)| *member) {
            chunk.remove(at);
            self.len -= 1;
        }
        // Two small neighbours become one, so that a group that shrinks does not keep a chunk for each member.
        if let Some((_, before)) = self.chunks.range_mut(..key).next_back()
            && before.len() + chunk.len() <= CHUNK / 2
        {
            before.append(&mut chunk);
        }
        if chunk.capacity() > 4 * chunk.len().max(4) {
            chunk.shrink_to(2 * chunk.len());
        }
        self.keep(chunk);
    }

    fn keep(&mut self, chunk: Vec<(MemberId, NodeId)>) {
        if let Some((first, _)) = chunk.first() {
            self.chunks.insert(*first, chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_same_as_a_map(ops in proptest::collection::vec((0u8..3, 0u32..600, any::<u32>()), 1..1500)) {
            let (mut index, mut map) = (Index::default(), BTreeMap::new());
            for (op, id, leaf) in ops {
                let member = MemberId(id);
                if op > 0 {
                    index.insert(member, NodeId(leaf));
                    map.insert(member, NodeId(leaf));
                } else {
                    index.remove(member);
                    map.remove(&member);
                }
                prop_assert_eq!(index.get(member), map.get(&member).copied());
                prop_assert_eq!(index.len(), map.len());
            }
            prop_assert!(index.iter().eq(map.iter().map(|(member, leaf)| (*member, *leaf))));
            prop_assert!(index.chunks.iter().all(|(key, chunk)| chunk[0].0 == *key && chunk.len() <= CHUNK));
        }
    }

    #[test]
    fn ascending_members_fill_their_chunks() {
        let mut index = Index::default();
        (0..10_000).for_each(|id| index.insert(MemberId(id), NodeId(id)));
        assert_eq!(index.chunks.len(), 10_000usize.div_ceil(CHUNK));
        (0..10_000).filter(|id| id % 100 != 0).for_each(|id| index.remove(MemberId(id)));
        assert!(index.chunks.len() <= 5, "{}", index.chunks.len());
    }
}
