//! From a marked tree to a plan: the rekeying strategies.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{parent, path_to_root};
use crate::marking::Marking;
use crate::parts;
use crate::plan::{Compaction, LeafAdvance, Move, Plan, Source, Update, Wrap};
use crate::snapshot::Slot;
use crate::types::{KeyRef, MemberId, NodeId, Strategy, Version};

/// Plans the secrets of a marked tree, and gives everything that they touch its new version.
pub(crate) fn plan(marking: &mut Marking<'_>) -> Plan {
    let (joined, moved) = leaves(marking);
    let mut lost = above(marking, marking.departures.iter());
    // Nobody holds the root of an empty group, so nobody could follow it.
    if marking.refresh || marking.tree.is_empty() {
        lost.insert(NodeId::ROOT);
    }
    let mut newcomers: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for m in &moved {
        let degree = marking.tree.degree;
        let old: Vec<NodeId> = path_to_root(m.from, degree).skip(1).collect();
        // Straight up: what was in between is gone, and what is above has the same members below it as before.
        if old.contains(&m.to) {
            continue;
        }
        let new: Vec<NodeId> = path_to_root(m.to, degree).collect();
        lost.extend(old.iter().filter(|knode| !new[1..].contains(knode)));
        for pair in new.windows(2).take_while(|pair| !old.contains(&pair[1])) {
            newcomers.entry(pair[1]).or_default().insert(pair[0]);
        }
    }
    let mut affected = above(marking, joined.iter().map(|(_, node)| node));
    affected.extend(above(marking, newcomers.keys()));
    affected.extend(newcomers.keys());
    affected.extend(above(marking, lost.iter()));
    affected.extend(&lost);
    affected.insert(NodeId::ROOT);
    let mut planner = Planner {
        origins: moved.iter().map(|m| (m.to, m.from)).collect(),
        marking,
        lost,
        newcomers,
        new: BTreeSet::new(),
        silent: BTreeSet::new(),
        used: BTreeMap::new(),
        spliced: Vec::new(),
    };
    let mut updates: Vec<Update> = affected.iter().rev().filter_map(|node| planner.update(*node)).collect();
    let parts = parts::split(&planner, &mut updates);
    for m in &moved {
        planner.kek_of_leaf(m.to);
    }
    let Planner { used, spliced, marking, .. } = planner;
    let advanced = used.into_iter().map(|(to, from)| LeafAdvance { to, from }).collect::<Vec<_>>();
    for leaf in &advanced {
        marking.renew(leaf.to);
    }
    Plan {
        epoch: marking.epoch,
        degree: marking.tree.degree,
        largest_knode: marking.largest_knode(),
        joined,
        left: marking.left.iter().map(|(node, member)| (*member, *node)).collect(),
        moved,
        spliced,
        updates,
        advanced,
        parts,
        compaction: Compaction { moves: marking.moves, wraps: 0 },
    }
}

/// Fresh leaves and displaced ones.
fn leaves(marking: &Marking<'_>) -> (Vec<(MemberId, NodeId)>, Vec<Move>) {
    let (mut joined, mut moved) = (Vec::new(), Vec::new());
    for (member, to) in marking.placed() {
        let fresh = marking.slot(to).and_then(|slot| slot.version()) == Some(marking.epoch);
        match marking.tree.place(member) {
            Some(from) if !fresh => moved.push(Move { member, from, to }),
            _ => joined.push((member, to)),
        }
    }
    joined.sort_by_key(|(_, node)| *node);
    moved.sort_by_key(|m| m.from);
    (joined, moved)
}

/// All places above these.
fn above<'n>(marking: &Marking<'_>, places: impl Iterator<Item = &'n NodeId>) -> BTreeSet<NodeId> {
    let mut all = BTreeSet::new();
    for place in places {
        let mut next = parent(*place, marking.tree.degree);
        // What is above a place in the set is in the set.
        while let Some(node) = next.filter(|node| all.insert(*node)) {
            next = parent(node, marking.tree.degree);
        }
    }
    all
}

pub(crate) struct Planner<'m, 't> {
    pub(crate) marking: &'m mut Marking<'t>,
    /// K-nodes whose old secret somebody can compute who must not learn the new one, or nobody can at all. A split
    /// adds none: whoever it displaces stays below every k-node that it was below.
    lost: BTreeSet<NodeId>,
    /// Of k-nodes that are not lost, the children below whom somebody moved in who does not hold the old secret.
    newcomers: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// K-nodes whose secret in this plan cannot be computed from their own old one.
    new: BTreeSet<NodeId>,
    /// Those of them whose members all get a sealed reply.
    silent: BTreeSet<NodeId>,
    /// By place, the leaves whose secret ends with this plan, under the name that their members know.
    used: BTreeMap<NodeId, KeyRef>,
    /// Moved leaves: to, from.
    origins: BTreeMap<NodeId, NodeId>,
    spliced: Vec<NodeId>,
}

/// What is below a k-node and takes part in this plan.
pub(crate) struct Branch {
    /// The child.
    pub(crate) child: NodeId,
    /// What stands there, or in its stead if it is spliced out.
    pub(crate) node: NodeId,
    slot: Slot,
}

impl Planner<'_, '_> {
    /// The new secret of one k-node, when those of all its children are planned. `None` if it was pruned or is
    /// spliced out.
    fn update(&mut self, node: NodeId) -> Option<Update> {
        let tree = self.marking.tree;
        self.marking.slot(node).filter(|slot| !slot.is_leaf())?;
        if tree.splicing && node != NodeId::ROOT && self.marking.children(node).len() == 1 {
            // A message names it if somebody may hold a secret of it.
            if matches!(tree.slot(node), Some(Slot::KNode { .. })) {
                self.spliced.push(node);
            }
            self.marking.splice(node);
            return None;
        }
        let old = match tree.slot(node) {
            Some(Slot::KNode { version }) if !self.lost.contains(&node) => Some(version),
            _ => None,
        };
        let update = match old {
            None => self.renewed(node),
            Some(version) => self.kept(node, version),
        };
        if old.is_none() {
            self.new.insert(node);
        }
        self.marking.renew(node);
        Some(update)
    }

    /// A secret that those who hold the old one have a right to: advanced or wrapped under the old one; and wrapped for
    /// whoever moved in.
    fn kept(&mut self, node: NodeId, version: Version) -> Update {
        let mut wraps = Vec::new();
        let mut own = true;
        if let Some(children) = self.newcomers.remove(&node) {
            let (moved_in, others): (Vec<Branch>, Vec<Branch>) =
                self.branches(node).into_iter().partition(|branch| children.contains(&branch.child));
            wraps.extend(moved_in.iter().filter_map(|branch| self.wrap(branch)));
            own = !others.iter().all(|branch| self.is_told_otherwise(branch));
        }
        if self.marking.tree.strategy == Strategy::Chain {
            return Update { node, source: Source::Advance { from: version }, wraps, replied: 0, silent: false };
        }
        if own {
            wraps.insert(0, Wrap { child: node, kek: KeyRef { node, version } });
        }
        Update { node, source: Source::Fresh, wraps, replied: 0, silent: false }
    }

    /// A secret that nobody can compute from the k-node's old one: derived from one child or from none, and wrapped for
    /// all others.
    fn renewed(&mut self, node: NodeId) -> Update {
        let branches = self.branches(node);
        let derived = match self.marking.tree.strategy {
            Strategy::Chain => {
                let mut new = branches.iter().filter(|branch| self.new.contains(&branch.node));
                let first = new.clone().next();
                new.find(|branch| !self.silent.contains(&branch.node)).or(first)
            }
            _ => None,
        };
        let from = derived.map(|branch| branch.node);
        let (mut wraps, mut replied) = (Vec::new(), 0);
        for branch in branches.iter().filter(|branch| Some(branch.node) != from) {
            match self.wrap(branch) {
                Some(wrap) => wraps.push(wrap),
                None => replied += 1,
            }
        }
        let silent = wraps.is_empty() && from.is_none_or(|from| self.silent.contains(&from));
        if silent {
            self.silent.insert(node);
        }
        Update { node, source: from.map_or(Source::Fresh, |from| Source::Derive { from }), wraps, replied, silent }
    }

    /// All children, each with what stands in its stead.
    pub(crate) fn branches(&self, node: NodeId) -> Vec<Branch> {
        let mut branches = Vec::new();
        for (child, slot) in self.marking.children(node) {
            let (mut node, mut slot) = (child, slot);
            while slot == Slot::Spliced {
                let Some(below) = self.marking.children(node).first().copied() else {
                    break;
                };
                (node, slot) = below;
            }
            branches.push(Branch { child, node, slot });
        }
        branches
    }

    /// The wrap for those below a child. `None` if all of them get a sealed reply.
    fn wrap(&mut self, branch: &Branch) -> Option<Wrap> {
        let kek = match branch.slot {
            _ if self.is_told_otherwise(branch) => return None,
            Slot::UNode { .. } => self.kek_of_leaf(branch.node)?,
            _ => KeyRef { node: branch.node, version: branch.slot.version()? },
        };
        Some(Wrap { child: branch.child, kek })
    }

    /// Whether everybody below gets a sealed reply.
    pub(crate) fn is_told_otherwise(&self, branch: &Branch) -> bool {
        match branch.slot {
            Slot::UNode { version, .. } => version == self.marking.epoch,
            _ => self.silent.contains(&branch.node),
        }
    }

    /// The secret of a leaf as its member knows it. It is used here, so it ends here.
    fn kek_of_leaf(&mut self, leaf: NodeId) -> Option<KeyRef> {
        if let Some(kek) = self.used.get(&leaf) {
            return Some(*kek);
        }
        let version = self.marking.slot(leaf)?.version()?;
        let node = self.origins.get(&leaf).copied().unwrap_or(leaf);
        let kek = KeyRef { node, version };
        self.used.insert(leaf, kek);
        Some(kek)
    }
}
