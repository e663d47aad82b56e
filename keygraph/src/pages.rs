//! A sparse array by place, in pages that come and go with what stands in them.

use crate::types::NodeId;

/// Places to a page: one bit of a `u128` each.
const PAGE: u32 = 128;
/// Pages to a folder, so that no list of pages grows in proportion to the group.
const FOLDER: usize = 128;

/// Something for some places. Ids are dense in a key tree, so a page costs little beside its items, and a lookup is
/// three steps, however large the group. Memory follows the pages in which something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages<T> {
    /// None at the end is empty.
    folders: Vec<Option<Box<Folder<T>>>>,
    len: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Folder<T> {
    used: usize,
    pages: [Option<Box<Page<T>>>; FOLDER],
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Page<T> {
    taken: u128,
    items: [T; PAGE as usize],
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { folders: Vec::new(), len: 0 }
    }
}

impl<T: Default> Pages<T> {
    /// What is at `node`.
    pub fn get(&self, node: NodeId) -> Option<&T> {
        let (page, at) = split(node);
        let page = self.page(page)?;
        (page.taken & (1 << at) != 0).then(|| &page.items[at])
    }

    /// Puts `item` at `node`; returns what was there.
    pub fn insert(&mut self, node: NodeId, item: T) -> Option<T> {
        let (number, at) = split(node);
        let (folder, number) = (number / FOLDER, number % FOLDER);
        if folder >= self.folders.len() {
            self.folders.resize_with(folder + 1, || None);
        }
        let folder = self.folders[folder]
            .get_or_insert_with(|| Box::new(Folder { used: 0, pages: std::array::from_fn(|_| None) }));
        folder.used += usize::from(folder.pages[number].is_none());
        let page = folder.pages[number]
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
        let folder = self.folders.get_mut(number / FOLDER)?.as_mut()?;
        let place = &mut folder.pages[number % FOLDER];
        let page = place.as_mut()?;
        if page.taken & (1 << at) == 0 {
            return None;
        }
        page.taken &= !(1 << at);
        self.len -= 1;
        let item = std::mem::take(&mut page.items[at]);
        if page.taken == 0 {
            *place = None;
            folder.used -= 1;
            if folder.used == 0 {
                self.folders[number / FOLDER] = None;
                let used = self.folders.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
                self.folders.truncate(used);
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
        let (from, to) = (split(first).0, split(last).0);
        let folders =
            self.folders.iter().zip((0..).step_by(FOLDER)).skip(from / FOLDER).take_while(move |(_, at)| *at <= to);
        let pages = folders.flat_map(|(folder, at)| folder.iter().flat_map(|folder| &folder.pages).zip(at..));
        let items = pages.filter_map(|(page, number)| page.as_ref().map(|page| (page, number)));
        items
            .skip_while(move |(_, number)| *number < from)
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
            let taken = self.page(number)?.taken & mask;
            let top = taken.checked_ilog2()?;
            Some(join(number, usize::try_from(top).unwrap_or(0)))
        };
        within(last, u128::MAX >> (127 - at))
            .or_else(|| (0..last.min(self.folders.len() * FOLDER)).rev().find_map(|number| within(number, u128::MAX)))
    }

    fn page(&self, number: usize) -> Option<&Page<T>> {
        self.folders.get(number / FOLDER)?.as_ref()?.pages[number % FOLDER].as_deref()
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
        fn the_same_as_a_map(ops in proptest::collection::vec((any::<bool>(), prop_oneof![0u32..700, 30_000u32..31_000], any::<u64>()), 1..300)) {
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
            prop_assert!(pages.is_empty() && pages.folders.is_empty());
        }
    }
}
