//! From a marked tree to a plan: the rekeying strategies.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::ids::path_to_root;
use crate::marking::Marking;
use crate::parts;
use crate::plan::{Compaction, LeafAdvance, Move, Plan, Source, Update, Wrap};
use crate::snapshot::Slot;
use crate::types::{KeyRef, MemberId, NodeId, Strategy, Version};

/// Plans the secrets of a marked tree, and gives everything that they touch its new version.
pub(crate) fn plan(marking: &mut Marking<'_>) -> Plan {
    let (joined, moved) = leaves(marking);
    let (affected, newcomers) = affected(marking, &joined, &moved);
    let mut planner = Planner {
        origins: moved.iter().map(|m| (m.to, m.from)).collect(),
        marking,
        newcomers,
        new: Vec::with_capacity(affected.len()),
        silent: Vec::new(),
        used: BTreeMap::new(),
        spliced: Vec::new(),
    };
    let mut updates = Vec::with_capacity(affected.len());
    updates.extend(affected.iter().rev().filter_map(|(node, lost)| planner.update(*node, *lost)));
    let parts = parts::split(&planner, &mut updates);
    for m in &moved {
        planner.kek_of_leaf(m.to);
    }
    let Planner { used, spliced, marking, .. } = planner;
    let advanced: Vec<LeafAdvance> = used.into_iter().map(|(to, from)| LeafAdvance { to, from }).collect();
    for leaf in &advanced {
        marking.renew_leaf(leaf.to);
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

type Newcomers = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// The k-nodes that need a new secret, and whether each is *lost*: somebody can compute its old secret who must not learn the
/// new one, or nobody can at all. And of the k-nodes that are not lost, the children below whom somebody moved in who
/// does not hold the old secret.
fn affected(
    marking: &Marking<'_>,
    joined: &[(MemberId, NodeId)],
    moved: &[Move],
) -> (BTreeMap<NodeId, bool>, Newcomers) {
    let degree = marking.tree.degree;
    let above = |node: NodeId| path_to_root(node, degree).skip(1);
    let mut affected = BTreeMap::new();
    for departure in &marking.departures {
        // What is above a lost k-node is lost, up to here.
        for node in above(*departure) {
            if affected.insert(node, true) == Some(true) {
                break;
            }
        }
    }
    // Nobody holds the root of an empty group, so nobody could follow it.
    let root_is_lost = marking.refresh || marking.tree.is_empty();
    *affected.entry(NodeId::ROOT).or_insert(root_is_lost) |= root_is_lost;
    let mut newcomers = Newcomers::new();
    for m in moved {
        let old: Vec<NodeId> = above(m.from).collect();
        // Straight up: what was in between is gone, and what is above has the same members below it as before.
        if old.contains(&m.to) {
            continue;
        }
        let new: Vec<NodeId> = path_to_root(m.to, degree).collect();
        // A split loses nothing: whoever it displaces stays below every k-node that it was below.
        for node in &old {
            *affected.entry(*node).or_insert(false) |= !new[1..].contains(node);
        }
        for pair in new.windows(2) {
            affected.entry(pair[1]).or_insert(false);
            if !old.contains(&pair[1]) {
                newcomers.entry(pair[1]).or_default().insert(pair[0]);
            }
        }
    }
    for (_, leaf) in joined {
        for node in above(*leaf) {
            if affected.contains_key(&node) && node != NodeId::ROOT {
                break;
            }
            affected.entry(node).or_insert(false);
        }
    }
    (affected, newcomers)
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

pub(crate) struct Planner<'m, 't> {
    pub(crate) marking: &'m mut Marking<'t>,
    newcomers: Newcomers,
    /// K-nodes whose secret in this plan cannot be computed from their own old one; descending.
    new: Vec<NodeId>,
    /// Those of them whose members all get a sealed reply; descending.
    silent: Vec<NodeId>,
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

/// On the stack for the degrees that are used most.
type Branches = SmallVec<[Branch; 4]>;

/// Whether a node is in a descending list.
fn is_in(list: &[NodeId], node: NodeId) -> bool {
    list.binary_search_by(|other| node.cmp(other)).is_ok()
}

impl Planner<'_, '_> {
    /// The new secret of one k-node, when those of all its children are planned. `None` if it was pruned or is
    /// spliced out.
    fn update(&mut self, node: NodeId, lost: bool) -> Option<Update> {
        let (old, now) = self.marking.change(node);
        now.filter(|slot| !slot.is_leaf())?;
        if self.marking.tree.splicing && node != NodeId::ROOT && self.marking.children(node).len() == 1 {
            // A message names it if somebody may hold a secret of it.
            if matches!(old, Some(Slot::KNode { .. })) {
                self.spliced.push(node);
            }
            self.marking.splice(node);
            return None;
        }
        let update = match old {
            Some(Slot::KNode { version }) if !lost => self.kept(node, version),
            _ => {
                self.new.push(node);
                self.renewed(node)
            }
        };
        self.marking.renew_knode(node);
        Some(update)
    }

    /// A secret that those who hold the old one have a right to: advanced or wrapped under the old one; and wrapped for
    /// whoever moved in.
    fn kept(&mut self, node: NodeId, version: Version) -> Update {
        let mut wraps = Vec::new();
        let mut own = true;
        if let Some(children) = self.newcomers.remove(&node) {
            let (moved_in, others): (Branches, Branches) =
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
                let mut new = branches.iter().filter(|branch| is_in(&self.new, branch.node));
                let first = new.clone().next();
                new.find(|branch| !is_in(&self.silent, branch.node)).or(first)
            }
            _ => None,
        };
        let from = derived.map(|branch| branch.node);
        let (mut wraps, mut replied) = (Vec::with_capacity(branches.len()), 0);
        for branch in branches.iter().filter(|branch| Some(branch.node) != from) {
            match self.wrap(branch) {
                Some(wrap) => wraps.push(wrap),
                None => replied += 1,
            }
        }
        let silent = wraps.is_empty() && from.is_none_or(|from| is_in(&self.silent, from));
        if silent {
            self.silent.push(node);
        }
        Update { node, source: from.map_or(Source::Fresh, |from| Source::Derive { from }), wraps, replied, silent }
    }

    /// All children, each with what stands in its stead.
    pub(crate) fn branches(&self, node: NodeId) -> Branches {
        let mut branches = Branches::new();
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
            _ => is_in(&self.silent, branch.node),
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
