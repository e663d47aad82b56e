//! The marking algorithm of batch rekeying, as a difference to a tree that stays untouched. Trees are never spliced.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::error::ChangeError;
use crate::ids::{child, children, last_child, parent};
use crate::plan::Change;
use crate::snapshot::Slot;
use crate::tree::{Difference, Tree, allowed_height, height};
use crate::types::{Degree, MemberId, NodeId, Version};

/// Places below a k-node; on the stack for the degrees that are used most.
pub(crate) type Children = SmallVec<[(NodeId, Slot); 4]>;

/// A batch of changes on its way through the algorithm.
///
/// Whatever is new here has the batch's epoch as its version, and nothing else has: so a fresh leaf is told from a
/// moved one, and a k-node that is new or updated from an untouched one.
pub(crate) struct Marking<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) epoch: Version,
    difference: Difference,
    /// The n-nodes that this batch has made and not filled again.
    freed: BTreeSet<NodeId>,
    /// Places whose holders up to now must not follow: leavers' and renewed members' leaves.
    pub(crate) departures: BTreeSet<NodeId>,
    /// Leavers and their places.
    pub(crate) left: BTreeMap<NodeId, MemberId>,
    /// Whether a refresh of the root is asked for.
    pub(crate) refresh: bool,
    /// Steps that a compaction has taken.
    pub(crate) moves: usize,
    /// Members after the batch.
    members: usize,
}

impl<'a> Marking<'a> {
    /// Runs the whole algorithm.
    pub(crate) fn run(tree: &'a Tree, changes: &[Change], epoch: Version) -> Result<Self, ChangeError> {
        let Sorted { joins, leaves, renewed, refresh, compact } = sort_out(tree, changes)?;
        let mut marking = Self {
            tree,
            epoch,
            difference: Difference { largest_knode: tree.largest_knode, ..Difference::default() },
            freed: BTreeSet::new(),
            departures: leaves.iter().chain(&renewed).map(|(node, _)| *node).collect(),
            members: tree.len() + joins.len() - leaves.len(),
            left: leaves,
            refresh,
            moves: 0,
        };
        let mut joins = joins.into_iter();
        let vacant: Vec<NodeId> = marking.left.keys().copied().collect();
        // Joiners take the first places. The maps are built in one go; member by member would be most of a large batch.
        let mut seated: Vec<(NodeId, MemberId)> = vacant.iter().copied().zip(joins.by_ref()).collect();
        let empty = &vacant[seated.len()..];
        seated.extend(renewed);
        let difference = &mut marking.difference;
        difference.members = (marking.left.values().map(|member| (*member, None)))
            .chain(seated.iter().map(|(node, member)| (*member, Some(*node))))
            .collect();
        let leaf = |(node, member): (NodeId, MemberId)| (node, Some(Slot::UNode { member, version: epoch }));
        difference.slots = seated.into_iter().map(leaf).collect();
        marking.prune(empty);
        marking.extend(joins)?;
        marking.compact(compact);
        Ok(marking)
    }

    /// What stands at `node` after the batch.
    pub(crate) fn slot(&self, node: NodeId) -> Option<Slot> {
        match self.difference.slots.get(&node) {
            Some(slot) => *slot,
            None => self.tree.slot(node),
        }
    }

    /// What stands below `node` after the batch, ascending.
    pub(crate) fn children(&self, node: NodeId) -> Children {
        let degree = self.tree.degree;
        if degree != Degree::STAR {
            return children(node, degree).filter_map(|child| Some((child, self.slot(child)?))).collect();
        }
        let Some((first, last)) = child(node, 0, degree).zip(last_child(node, degree).map(NodeId)) else {
            return Children::new();
        };
        let old = self.tree.standing(first, last).filter(|node| !self.difference.slots.contains_key(node));
        let mut all: Children = old.filter_map(|node| Some((node, self.tree.slot(node)?))).collect();
        let changed = self.difference.slots.range(first..=last);
        all.extend(changed.filter_map(|(node, slot)| slot.map(|slot| (*node, slot))));
        all.sort_unstable_by_key(|(node, _)| *node);
        all
    }

    /// What stood at `node` before, and what stands there after the batch.
    pub(crate) fn change(&self, node: NodeId) -> (Option<Slot>, Option<Slot>) {
        let old = self.tree.slot(node);
        (old, self.difference.slots.get(&node).copied().unwrap_or(old))
    }

    /// The secrets of these k-nodes, ascending, are made in this batch; or they have none from now on.
    pub(crate) fn renew(&mut self, knodes: impl ExactSizeIterator<Item = (NodeId, bool)>) {
        let version = self.epoch;
        let slot = |made| Some(if made { Slot::KNode { version } } else { Slot::Spliced });
        if knodes.len() < 64 {
            return self.difference.slots.extend(knodes.map(|(node, made)| (node, slot(made))));
        }
        // Two sorted maps are put together in one go.
        let mut renewed: BTreeMap<NodeId, Option<Slot>> = knodes.map(|(node, made)| (node, slot(made))).collect();
        self.difference.slots.append(&mut renewed);
    }

    /// The secret of the leaf at `node` is made in this batch.
    pub(crate) fn renew_leaf(&mut self, node: NodeId) {
        if let Some(Slot::UNode { member, .. }) = self.slot(node) {
            self.difference.slots.insert(node, Some(Slot::UNode { member, version: self.epoch }));
        }
    }

    /// Members whose leaf is fresh or moved: their place now.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (MemberId, NodeId)> + '_ {
        self.difference.members.iter().filter_map(|(member, node)| Some((*member, (*node)?)))
    }

    pub(crate) fn largest_knode(&self) -> NodeId {
        self.difference.largest_knode
    }

    pub(crate) fn difference(self) -> Difference {
        self.difference
    }

    fn seat(&mut self, member: MemberId, node: NodeId, version: Version) {
        self.difference.slots.insert(node, Some(Slot::UNode { member, version }));
        self.difference.members.insert(member, Some(node));
        self.freed.remove(&node);
    }

    /// A k-node without an old version of its own, and all that it takes for it to stand.
    fn grow(&mut self, node: NodeId) {
        let mut above = Some(node);
        while let Some(node) = above.filter(|at| *at == node || self.slot(*at).is_none()) {
            self.difference.slots.insert(node, Some(Slot::KNode { version: self.epoch }));
            self.freed.remove(&node);
            above = parent(node, self.tree.degree);
        }
    }

    /// Leaves that nobody took become n-nodes, and so does every k-node but the root that is left without children.
    fn prune(&mut self, empty: &[NodeId]) {
        for leaf in empty {
            self.clear(*leaf);
        }
        for leaf in empty {
            self.prune_above(*leaf);
        }
        self.lower();
    }

    fn prune_above(&mut self, leaf: NodeId) {
        let degree = self.tree.degree;
        let mut above = parent(leaf, degree);
        while let Some(node) = above.filter(|node| *node != NodeId::ROOT) {
            if self.slot(node).is_none() || !self.children(node).is_empty() {
                break;
            }
            self.clear(node);
            above = parent(node, degree);
        }
    }

    /// Up to the largest k-node stand only k-nodes, so if it is gone, the next below is the largest now.
    fn lower(&mut self) {
        let largest = self.difference.largest_knode;
        if self.slot(largest).is_some() {
            return;
        }
        let mut old = self.tree.last_until(largest);
        while let Some(node) = old.filter(|node| self.slot(*node).is_none()) {
            old = self.tree.last_until(NodeId(node.0.saturating_sub(1)));
        }
        let old = old.unwrap_or(NodeId::ROOT);
        // A compaction may have grown one between the two.
        let grown = self.difference.slots.range(old..=largest).rev().find(|(_, slot)| slot.is_some());
        self.difference.largest_knode = grown.map_or(old, |(node, _)| *node);
    }

    /// As long as the tree is too high, the largest k-node gives up its leaves: all but one to the first places that
    /// are free, and the last one, which has nobody beside it, to its own place. So it goes, and the largest is smaller.
    fn compact(&mut self, moves: u32) {
        let degree = self.tree.degree;
        for _ in 0..moves {
            let largest = self.largest_knode();
            if height(self.members, largest, degree) <= allowed_height(self.members, degree) {
                return;
            }
            let children = self.children(largest);
            let Some((from, Slot::UNode { member, version })) = children.last().copied() else {
                return;
            };
            let to = if children.len() == 1 {
                largest
            } else {
                // A tree that is too high has far more places than leaves, and the first are far from the last k-node.
                match self.next_gap(largest.0 + 1).filter(|gap| Some(*gap) < child(largest, 0, degree)) {
                    Some(gap) => gap,
                    None => return,
                }
            };
            self.clear(from);
            if to != largest
                && let Some(above) = parent(to, degree).filter(|above| self.slot(*above).is_none())
            {
                self.grow(above);
            }
            self.seat(member, to, version);
            if to == largest {
                self.difference.largest_knode = NodeId(largest.0 - 1);
                self.lower();
            }
            self.moves += 1;
        }
    }

    fn clear(&mut self, node: NodeId) {
        self.difference.slots.insert(node, None);
        self.freed.insert(node);
    }

    /// Joiners take the n-nodes above the largest k-node from left to right; when there is none, the leaf after
    /// the largest k-node is split.
    fn extend(&mut self, joins: impl Iterator<Item = MemberId>) -> Result<(), ChangeError> {
        let degree = self.tree.degree;
        let mut from = self.largest_knode().0 + 1;
        for member in joins {
            let node = loop {
                let last = last_child(self.largest_knode(), degree);
                match self.next_gap(from).filter(|node| Some(node.0) <= last) {
                    Some(node) => break node,
                    None => self.split()?,
                }
            };
            from = node.0 + 1;
            if let Some(above) = parent(node, degree).filter(|above| self.slot(*above).is_none()) {
                self.grow(above);
            }
            self.seat(member, node, self.epoch);
        }
        Ok(())
    }

    /// The leaf after the largest k-node becomes the largest k-node; who was there moves to its leftmost child.
    fn split(&mut self) -> Result<(), ChangeError> {
        let node = NodeId(self.largest_knode().0 + 1);
        let to = child(node, 0, self.tree.degree).ok_or(ChangeError::TooLarge { node })?;
        if let Some(Slot::UNode { member, version }) = self.slot(node) {
            self.seat(member, to, version);
        }
        self.grow(node);
        self.difference.largest_knode = node;
        Ok(())
    }

    /// The smallest n-node from `from` on.
    fn next_gap(&self, from: u32) -> Option<NodeId> {
        let freed = self.freed.range(NodeId(from)..).next().copied();
        let mut old = self.tree.gaps.next(from).map(NodeId);
        while let Some(node) = old.filter(|node| self.slot(*node).is_some()) {
            old = self.tree.gaps.next(node.0 + 1).map(NodeId);
        }
        freed.into_iter().chain(old).min()
    }
}

/// A list of changes by kind: joiners in order, leavers and renewed members by place.
#[derive(Default)]
struct Sorted {
    joins: Vec<MemberId>,
    leaves: BTreeMap<NodeId, MemberId>,
    renewed: BTreeMap<NodeId, MemberId>,
    refresh: bool,
    compact: u32,
}

/// Or what is wrong with the list.
fn sort_out(tree: &Tree, changes: &[Change]) -> Result<Sorted, ChangeError> {
    let mut sorted = Sorted::default();
    let mut seen: BTreeMap<MemberId, Change> = BTreeMap::new();
    for change in changes {
        let member = match *change {
            Change::Refresh => {
                sorted.refresh = true;
                continue;
            }
            Change::Compact(moves) => {
                sorted.compact = sorted.compact.max(moves);
                continue;
            }
            Change::Join(member) | Change::Leave(member) | Change::Renew(member) => member,
        };
        let before = seen.insert(member, *change);
        let rejoin = matches!((before, change), (Some(Change::Leave(_)), Change::Join(_)));
        if before.is_some() && !rejoin {
            return Err(ChangeError::Repeated { member });
        }
        match (change, tree.place(member)) {
            (Change::Join(_), Some(_)) if !rejoin => {
                return Err(ChangeError::AlreadyMember { member });
            }
            (Change::Join(_), _) => sorted.joins.push(member),
            (_, None) => return Err(ChangeError::NotMember { member }),
            (Change::Leave(_), Some(node)) => {
                sorted.leaves.insert(node, member);
            }
            (_, Some(node)) => {
                sorted.renewed.insert(node, member);
            }
        }
    }
    Ok(sorted)
}
