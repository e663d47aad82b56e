//! From a marked tree to a plan: the rekeying strategies.

use std::collections::BTreeSet;

use crate::ids::{children, parent};
use crate::marking::Marking;
use crate::plan::{Move, Plan, Source, Update};
use crate::snapshot::Slot;
use crate::types::{KeyRef, MemberId, NodeId, Strategy};

/// Plans the secrets of a marked tree, and gives everything that they touch its new version.
pub(crate) fn plan(marking: &mut Marking<'_>) -> Plan {
    let (joined, moved) = leaves(marking);
    let mut lost = above(marking, marking.departures.iter());
    // Nobody holds the root of an empty group, so nobody could follow it.
    if marking.refresh || marking.tree.is_empty() {
        lost.insert(NodeId::ROOT);
    }
    let mut affected = above(marking, joined.iter().map(|(_, node)| node).chain(moved.iter().map(|m| &m.to)));
    affected.extend(&lost);
    let mut planner = Planner { marking, lost, new: BTreeSet::new(), used_leaves: BTreeSet::new() };
    let updates = affected.iter().rev().filter_map(|node| planner.update(*node)).collect();
    let advanced_leaves: Vec<KeyRef> = planner.used_leaves.into_iter().collect();
    for leaf in &advanced_leaves {
        marking.renew(leaf.node);
    }
    Plan {
        epoch: marking.epoch,
        degree: marking.tree.degree,
        largest_knode: marking.largest_knode(),
        joined,
        left: marking.left.iter().map(|(node, member)| (*member, *node)).collect(),
        moved,
        updates,
        advanced_leaves,
    }
}

/// Fresh leaves and displaced ones.
fn leaves(marking: &Marking<'_>) -> (Vec<(MemberId, NodeId)>, Vec<Move>) {
    let (mut joined, mut moved) = (Vec::new(), Vec::new());
    for (member, to) in marking.placed() {
        let fresh = marking.slot(to).is_some_and(|slot| slot.version() == marking.epoch);
        match marking.tree.members.get(&member) {
            Some(from) if !fresh => moved.push(Move { member, from: *from, to }),
            _ => joined.push((member, to)),
        }
    }
    joined.sort_by_key(|(_, node)| *node);
    moved.sort_by_key(|m| m.from);
    (joined, moved)
}

/// All places above these leaves.
fn above<'n>(marking: &Marking<'_>, leaves: impl Iterator<Item = &'n NodeId>) -> BTreeSet<NodeId> {
    let mut all = BTreeSet::new();
    for leaf in leaves {
        let mut next = parent(*leaf, marking.tree.degree);
        // What is above a place in the set is in the set.
        while let Some(node) = next.filter(|node| all.insert(*node)) {
            next = parent(node, marking.tree.degree);
        }
    }
    all
}

struct Planner<'m, 't> {
    marking: &'m mut Marking<'t>,
    /// K-nodes whose old secret somebody can compute who must not learn the new one, or nobody can at all. A split
    /// adds none: whoever it displaces stays below every k-node that it was below.
    lost: BTreeSet<NodeId>,
    /// K-nodes whose secret in this plan cannot be computed from their own old one.
    new: BTreeSet<NodeId>,
    used_leaves: BTreeSet<KeyRef>,
}

impl Planner<'_, '_> {
    /// The new secret of one k-node, when those of all its children are planned. `None` if it was pruned.
    fn update(&mut self, node: NodeId) -> Option<Update> {
        self.marking.slot(node).filter(Slot::is_knode)?;
        let old = match self.marking.tree.slots.get(&node) {
            Some(Slot::KNode { version }) if !self.lost.contains(&node) => Some(*version),
            _ => None,
        };
        let update = match (self.marking.tree.strategy, old) {
            (Strategy::Group, None) => self.wrapped(node, None),
            (Strategy::Group, Some(version)) => {
                Update { node, source: Source::Fresh, wraps: vec![KeyRef { node, version }] }
            }
            (Strategy::Chain, None) => {
                let child = children(node, self.marking.tree.degree).find(|child| self.new.contains(child));
                self.wrapped(node, child)
            }
            (Strategy::Chain, Some(from)) => Update { node, source: Source::Advance { from }, wraps: Vec::new() },
        };
        if old.is_none() {
            self.new.insert(node);
        }
        self.marking.renew(node);
        Some(update)
    }

    /// A secret derived from one child or from none, and wrapped for all others but fresh leaves.
    fn wrapped(&mut self, node: NodeId, derived_from: Option<NodeId>) -> Update {
        let mut wraps = Vec::new();
        for child in children(node, self.marking.tree.degree).filter(|child| Some(*child) != derived_from) {
            let Some(slot) = self.marking.slot(child) else {
                continue;
            };
            let kek = KeyRef { node: child, version: slot.version() };
            if slot.is_knode() {
                wraps.push(kek);
            } else if kek.version != self.marking.epoch {
                wraps.push(kek);
                self.used_leaves.insert(kek);
            }
        }
        let source = derived_from.map_or(Source::Fresh, |child| Source::Derive { child });
        Update { node, source, wraps }
    }
}
