//! The marking algorithm of batch rekeying, as a difference to a tree that stays untouched. Trees are never spliced.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::ChangeError;
use crate::ids::{child, children, last_child, parent};
use crate::plan::Change;
use crate::snapshot::Slot;
use crate::tree::{Difference, Tree};
use crate::types::{MemberId, NodeId, Version};

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
}

impl<'a> Marking<'a> {
    /// Runs the whole algorithm.
    pub(crate) fn run(tree: &'a Tree, changes: &[Change], epoch: Version) -> Result<Self, ChangeError> {
        let (joins, leaves, renewed, refresh) = sort_out(tree, changes)?;
        let mut marking = Self {
            tree,
            epoch,
            difference: Difference { largest_knode: tree.largest_knode, ..Difference::default() },
            freed: BTreeSet::new(),
            departures: leaves.iter().chain(&renewed).map(|(node, _)| *node).collect(),
            left: leaves,
            refresh,
        };
        for (node, member) in renewed {
            marking.seat(member, node, epoch);
        }
        let vacant: Vec<NodeId> = marking.left.keys().copied().collect();
        for member in marking.left.values() {
            marking.difference.members.insert(*member, None);
        }
        let mut joins = joins.into_iter();
        let mut empty = Vec::new();
        for node in vacant {
            match joins.next() {
                Some(member) => marking.seat(member, node, epoch),
                None => empty.push(node),
            }
        }
        marking.prune(&empty);
        marking.extend(joins)?;
        Ok(marking)
    }

    /// What stands at `node` after the batch.
    pub(crate) fn slot(&self, node: NodeId) -> Option<Slot> {
        match self.difference.slots.get(&node) {
            Some(slot) => *slot,
            None => self.tree.slots.get(&node).copied(),
        }
    }

    /// The secret at `node` is made in this batch.
    pub(crate) fn renew(&mut self, node: NodeId) {
        let epoch = self.epoch;
        let slot = self.slot(node).map(|slot| match slot {
            Slot::KNode { .. } => Slot::KNode { version: epoch },
            Slot::UNode { member, .. } => Slot::UNode { member, version: epoch },
        });
        self.difference.slots.insert(node, slot);
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

    /// A k-node without an old version of its own.
    fn grow(&mut self, node: NodeId) {
        self.difference.slots.insert(node, Some(Slot::KNode { version: self.epoch }));
        self.freed.remove(&node);
    }

    /// Leaves that nobody took become n-nodes, and so does every k-node but the root that is left without children.
    fn prune(&mut self, empty: &[NodeId]) {
        let degree = self.tree.degree;
        for leaf in empty {
            self.clear(*leaf);
        }
        for leaf in empty {
            let mut above = parent(*leaf, degree);
            while let Some(node) = above.filter(|node| *node != NodeId::ROOT) {
                let standing = self.slot(node).is_some();
                if !standing || children(node, degree).any(|child| self.slot(child).is_some()) {
                    break;
                }
                self.clear(node);
                above = parent(node, degree);
            }
        }
        // Below the largest k-node stand only k-nodes, so the next that still stands is the largest now.
        let knodes = self.tree.slots.range(..=self.difference.largest_knode).rev();
        if let Some((largest, _)) = knodes.into_iter().find(|(node, _)| self.slot(**node).is_some()) {
            self.difference.largest_knode = *largest;
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
            self.seat(member, node, self.epoch);
            let mut above = parent(node, degree);
            while let Some(knode) = above.filter(|knode| self.slot(*knode).is_none()) {
                self.grow(knode);
                above = parent(knode, degree);
            }
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

type Sorted = (Vec<MemberId>, BTreeMap<NodeId, MemberId>, BTreeMap<NodeId, MemberId>, bool);

/// Joiners in order, leavers and renewed members by place, and whether to refresh; or what is wrong with the list.
fn sort_out(tree: &Tree, changes: &[Change]) -> Result<Sorted, ChangeError> {
    let (mut joins, mut leaves, mut renewed, mut refresh) = (Vec::new(), BTreeMap::new(), BTreeMap::new(), false);
    let mut seen: BTreeMap<MemberId, Change> = BTreeMap::new();
    for change in changes {
        let member = match *change {
            Change::Refresh => {
                refresh = true;
                continue;
            }
            Change::Join(member) | Change::Leave(member) | Change::Renew(member) => member,
        };
        let before = seen.insert(member, *change);
        let rejoin = matches!((before, change), (Some(Change::Leave(_)), Change::Join(_)));
        if before.is_some() && !rejoin {
            return Err(ChangeError::Repeated { member });
        }
        let place = tree.members.get(&member).copied();
        match (change, place) {
            (Change::Join(_), Some(_)) if !rejoin => {
                return Err(ChangeError::AlreadyMember { member });
            }
            (Change::Join(_), _) => joins.push(member),
            (_, None) => return Err(ChangeError::NotMember { member }),
            (Change::Leave(_), Some(node)) => {
                leaves.insert(node, member);
            }
            (_, Some(node)) => {
                renewed.insert(node, member);
            }
        }
    }
    Ok((joins, leaves, renewed, refresh))
}
