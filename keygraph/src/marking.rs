//! The marking algorithm of batch rekeying, as a difference to a tree that stays untouched. Trees are never spliced.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use smallvec::SmallVec;

use crate::cores;
use crate::error::ChangeError;
use crate::ids::{child, children, last_child, parent};
use crate::plan::{Change, LeafAdvance};
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
    /// Every place that is touched so far.
    slots: BTreeMap<NodeId, Option<Slot>>,
    pub(crate) largest_knode: NodeId,
    /// The n-nodes that this batch has made and not filled again.
    freed: BTreeSet<NodeId>,
    /// Leavers and their places, ascending.
    pub(crate) left: Vec<(NodeId, MemberId)>,
    /// Members who get a new leaf secret where they are, and their places, ascending.
    pub(crate) renewed: Vec<(NodeId, MemberId)>,
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
            slots: BTreeMap::new(),
            largest_knode: tree.largest_knode,
            freed: BTreeSet::new(),
            members: tree.len() + joins.len() - leaves.len(),
            left: leaves,
            renewed,
            refresh,
            moves: 0,
        };
        let mut joins = joins.into_iter();
        // Joiners take the first places. The map is built in one go; place by place would be most of a large batch.
        let leaf = |member| Slot::UNode { member, version: epoch };
        let vacated = marking.left.iter().map(|(node, _)| (*node, joins.next().map(leaf)));
        let renewed = marking.renewed.iter().map(|(node, member)| (*node, Some(leaf(*member))));
        marking.slots = vacated.chain(renewed).collect();
        marking.freed = marking.slots.iter().filter(|(_, slot)| slot.is_none()).map(|(node, _)| *node).collect();
        marking.prune();
        marking.extend(joins)?;
        marking.compact(compact);
        Ok(marking)
    }

    /// What stands at `node` after the batch.
    pub(crate) fn slot(&self, node: NodeId) -> Option<Slot> {
        match self.slots.get(&node) {
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
        let old = self.tree.standing(first, last).filter(|node| !self.slots.contains_key(node));
        let mut all: Children = old.filter_map(|node| Some((node, self.tree.slot(node)?))).collect();
        let changed = self.slots.range(first..=last);
        all.extend(changed.filter_map(|(node, slot)| slot.map(|slot| (*node, slot))));
        all.sort_unstable_by_key(|(node, _)| *node);
        all
    }

    /// What stood at `node` before, and what stands there after the batch.
    pub(crate) fn change(&self, node: NodeId) -> (Option<Slot>, Option<Slot>) {
        let old = self.tree.slot(node);
        (old, self.slots.get(&node).copied().unwrap_or(old))
    }

    /// Leaves that are fresh or moved: whose, where, and whether fresh. By ascending place.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (MemberId, NodeId, bool)> + '_ {
        self.slots.iter().filter_map(|(node, slot)| match slot {
            Some(Slot::UNode { member, version }) => Some((*member, *node, *version == self.epoch)),
            _ => None,
        })
    }

    /// Everything that the batch touches, when the secrets of these k-nodes, ascending, are made in it or, where it says
    /// `false`, given up; and these leaves advanced.
    pub(crate) fn difference(
        &self,
        knodes: impl ExactSizeIterator<Item = (NodeId, bool)>,
        leaves: &[LeafAdvance],
    ) -> Difference {
        let version = self.epoch;
        let knodes = knodes.map(|(node, made)| (node, if made { Slot::KNode { version } } else { Slot::Spliced }));
        let leaves = cores::map(leaves, |leaf| match self.slot(leaf.to)? {
            Slot::UNode { member, .. } => Some((leaf.to, Slot::UNode { member, version })),
            _ => None,
        });
        let mut slots = Vec::with_capacity(self.slots.len() + knodes.len() + leaves.len());
        // All leaves come after all k-nodes.
        let mut made = knodes.chain(leaves.into_iter().flatten()).peekable();
        for (node, slot) in &self.slots {
            while let Some((before, slot)) = made.next_if(|(other, _)| other < node) {
                slots.push((before, Some(slot)));
            }
            let newer = made.next_if(|(other, _)| other == node).map(|(_, slot)| slot);
            slots.push((*node, newer.or(*slot)));
        }
        slots.extend(made.map(|(node, slot)| (node, Some(slot))));
        Difference { slots, largest_knode: self.largest_knode }
    }

    fn seat(&mut self, member: MemberId, node: NodeId, version: Version) {
        self.slots.insert(node, Some(Slot::UNode { member, version }));
        self.freed.remove(&node);
    }

    /// A k-node without an old version of its own, and all that it takes for it to stand.
    fn grow(&mut self, node: NodeId) {
        let mut above = Some(node);
        while let Some(node) = above.filter(|at| *at == node || self.slot(*at).is_none()) {
            self.slots.insert(node, Some(Slot::KNode { version: self.epoch }));
            self.freed.remove(&node);
            above = parent(node, self.tree.degree);
        }
    }

    /// Leaves that nobody took become n-nodes, and so does every k-node but the root that is left without children.
    fn prune(&mut self) {
        let empty: Vec<NodeId> = self.freed.iter().copied().collect();
        for leaf in empty {
            self.prune_above(leaf);
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
        let largest = self.largest_knode;
        if self.slot(largest).is_some() {
            return;
        }
        let mut old = self.tree.last_until(largest);
        while let Some(node) = old.filter(|node| self.slot(*node).is_none()) {
            old = self.tree.last_until(NodeId(node.0.saturating_sub(1)));
        }
        let old = old.unwrap_or(NodeId::ROOT);
        // A compaction may have grown one between the two.
        let grown = self.slots.range(old..=largest).rev().find(|(_, slot)| slot.is_some());
        self.largest_knode = grown.map_or(old, |(node, _)| *node);
    }

    /// As long as the tree is too high, the largest k-node gives up its leaves: all but one to the first places that
    /// are free, and the last one, which has nobody beside it, to its own place. So it goes, and the largest is smaller.
    fn compact(&mut self, moves: u32) {
        let degree = self.tree.degree;
        for _ in 0..moves {
            let largest = self.largest_knode;
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
                self.largest_knode = NodeId(largest.0 - 1);
                self.lower();
            }
            self.moves += 1;
        }
    }

    fn clear(&mut self, node: NodeId) {
        self.slots.insert(node, None);
        self.freed.insert(node);
    }

    /// Joiners take the n-nodes above the largest k-node from left to right; when there is none, the leaf after
    /// the largest k-node is split.
    fn extend(&mut self, joins: impl Iterator<Item = MemberId>) -> Result<(), ChangeError> {
        let degree = self.tree.degree;
        let mut from = self.largest_knode.0 + 1;
        for member in joins {
            let node = loop {
                let last = last_child(self.largest_knode, degree);
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
        let node = NodeId(self.largest_knode.0 + 1);
        let to = child(node, 0, self.tree.degree).ok_or(ChangeError::TooLarge { node })?;
        if let Some(Slot::UNode { member, version }) = self.slot(node) {
            self.seat(member, to, version);
        }
        self.grow(node);
        self.largest_knode = node;
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

/// A list of changes by kind: joiners in order, leavers and renewed members by ascending place.
#[derive(Default)]
struct Sorted {
    joins: Vec<MemberId>,
    leaves: Vec<(NodeId, MemberId)>,
    renewed: Vec<(NodeId, MemberId)>,
    refresh: bool,
    compact: u32,
}

/// Or what is wrong with the first change that something is wrong with.
fn sort_out(tree: &Tree, changes: &[Change]) -> Result<Sorted, ChangeError> {
    let mut sorted = Sorted::default();
    let mut named: Vec<(MemberId, usize)> = Vec::with_capacity(changes.len());
    for (at, change) in changes.iter().enumerate() {
        match *change {
            Change::Refresh => sorted.refresh = true,
            Change::Compact(moves) => sorted.compact = sorted.compact.max(moves),
            Change::Join(member) => {
                sorted.joins.push(member);
                named.push((member, at));
            }
            Change::Leave(member) | Change::Renew(member) => named.push((member, at)),
        }
    }
    named.par_sort_unstable();
    let members: Vec<&[(MemberId, usize)]> = named.chunk_by(|(a, _), (b, _)| a == b).collect();
    let mut first_error = None;
    for judged in cores::map(&members, |all| judge(tree, changes, all)) {
        match judged {
            Ok(None) => {}
            Ok(Some((leaf, true))) => sorted.leaves.push(leaf),
            Ok(Some((leaf, false))) => sorted.renewed.push(leaf),
            Err((at, error)) if first_error.as_ref().is_none_or(|(first, _)| at < *first) => {
                first_error = Some((at, error));
            }
            Err(_) => {}
        }
    }
    sorted.leaves.par_sort_unstable();
    sorted.renewed.par_sort_unstable();
    first_error.map_or(Ok(sorted), |(_, error)| Err(error))
}

/// A leaf that is given up or renewed, and whether it is given up; `None` if there was none.
type Leaf = Option<((NodeId, MemberId), bool)>;

/// What one member's changes do to the leaf that it has, or which of them cannot be, and why.
fn judge(tree: &Tree, changes: &[Change], of_member: &[(MemberId, usize)]) -> Result<Leaf, (usize, ChangeError)> {
    let Some(((member, first), rest)) = of_member.split_first().map(|(first, rest)| (*first, rest)) else {
        return Ok(None);
    };
    let leaf = match (changes[first], tree.place(member)) {
        (Change::Join(_), None) => None,
        (Change::Join(_), Some(_)) => return Err((first, ChangeError::AlreadyMember { member })),
        (_, None) => return Err((first, ChangeError::NotMember { member })),
        (change, Some(node)) => Some(((node, member), matches!(change, Change::Leave(_)))),
    };
    // A rejoin is two changes of one member; nothing else may be.
    let rejoins = |second| matches!((changes[first], changes[second]), (Change::Leave(_), Change::Join(_)));
    let allowed = usize::from(rest.first().is_some_and(|(_, second)| rejoins(*second)));
    rest.get(allowed).map_or(Ok(leaf), |(_, at)| Err((*at, ChangeError::Repeated { member })))
}
