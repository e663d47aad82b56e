//! A sparse array by place, in pages that come and go with what stands in them.

use crate::types::NodeId;

/// Places to a page: one bit of a `u128` each.
const PAGE: u32 = 128;

/// Something for some places. Ids are dense in a key tree, so a page costs little beside its items, and a lookup is
/// two steps, however large the group. Memory follows the pages in which something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages<T> {
    pages: Vec<Option<Box<Page<T>>>>,
    len: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Page<T> {
    taken: u128,
    items: [T; PAGE as usize],
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

impl<T: Default> Pages<T> {
    /// What is at `node`.
    pub fn get(&self, node: NodeId) -> Option<&T> {
        let (page, at) = split(node);
        let page = self.pages.get(page)?.as_ref()?;
        (page.taken & (1 << at) != 0).then(|| &page.items[at])
    }

    /// Puts `item` at `node`; returns what was there.
    pub fn insert(&mut self, node: NodeId, item: T) -> Option<T> {
        let (page, at) = split(node);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page]
            .get_or_insert_with(|| Box::new(Page { taken: 0, items: std::array::from_fn(|_| T::default()) }));
        let old = std::mem::replace(&mut page.items[at], item);
        if page.taken & (1 << at) != 0 {
            return Some(old);
        }
        page.taken |= 1 << at;
        self.len += 1;
        None
    }

    /// Takes away what is at `node`. A page without items is given back.
    pub fn remove(&mut self, node: NodeId) -> Option<T> {
        let (number, at) = split(node);
        let page = self.pages.get_mut(number)?.as_mut()?;
        if page.taken & (1 << at) == 0 {
            return None;
        }
        page.taken &= !(1 << at);
        self.len -= 1;
        let item = std::mem::take(&mut page.items[at]);
        if page.taken == 0 {
            self.pages[number] = None;
            let used = self.pages.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            self.pages.truncate(used);
            // The directory follows too, but not at every step.
            if self.pages.capacity() > 4 * used.max(16) {
                self.pages.shrink_to(2 * used);
            }
        }
        Some(item)
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All items at `first` to `last`, ascending.
    pub fn range(&self, first: NodeId, last: NodeId) -> impl Iterator<Item = (NodeId, &T)> {
        let (from, _) = split(first);
        let to = split(last).0.saturating_add(1).min(self.pages.len());
        let pages = self.pages.get(from..to).unwrap_or_default().iter().zip(from..);
        let items = pages.filter_map(|(page, number)| page.as_ref().map(|page| (page, number)));
        items
            .flat_map(|(page, number)| bits(page.taken).map(move |at| (join(number, at), &page.items[at])))
            .skip_while(move |(node, _)| *node < first)
            .take_while(move |(node, _)| *node <= last)
    }

    /// All items, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.range(NodeId(0), NodeId(u32::MAX))
    }

    /// The largest place at or below `node` where something is.
    pub fn last_until(&self, node: NodeId) -> Option<NodeId> {
        let (last, at) = split(node);
        let within = |number: usize, mask: u128| {
            let taken = self.pages.get(number)?.as_ref()?.taken & mask;
            let top = taken.checked_ilog2()?;
            Some(join(number, usize::try_from(top).unwrap_or(0)))
        };
        within(last, u128::MAX >> (127 - at))
            .or_else(|| (0..last.min(self.pages.len())).rev().find_map(|number| within(number, u128::MAX)))
    }
}

fn split(node: NodeId) -> (usize, usize) {
    let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    (number(node.0 / PAGE), number(node.0 % PAGE))
}

fn join(page: usize, at: usize) -> NodeId {
    // Both came from an id.
    NodeId(u32::try_from(page).unwrap_or(0) * PAGE + u32::try_from(at).unwrap_or(0))
}

fn bits(mut taken: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = usize::try_from(taken.trailing_zeros()).ok().filter(|at| *at < 128)?;
        taken &= taken - 1;
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_same_as_a_map(ops in proptest::collection::vec((any::<bool>(), 0u32..700, any::<u64>()), 1..300)) {
            let (mut pages, mut map) = (Pages::default(), BTreeMap::new());
            for (put, id, item) in ops {
                let node = NodeId(id);
                if put {
                    prop_assert_eq!(pages.insert(node, item), map.insert(node, item));
                } else {
                    prop_assert_eq!(pages.remove(node), map.remove(&node));
                }
                prop_assert_eq!(pages.len(), map.len());
                prop_assert_eq!(pages.get(node), map.get(&node));
                prop_assert_eq!(pages.last_until(node), map.range(..=node).next_back().map(|(last, _)| *last));
                let to = NodeId(id + 200);
                prop_assert!(pages.range(node, to).eq(map.range(node..=to).map(|(node, item)| (*node, item))));
            }
            prop_assert!(pages.iter().eq(map.iter().map(|(node, item)| (*node, item))));
            for node in map.keys() { pages.remove(*node); }
            prop_assert!(pages.is_empty() && pages.pages.is_empty());
        }
    }
}
