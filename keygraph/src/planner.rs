//! From a marked tree to a plan: the rekeying strategies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rayon::prelude::*;
use smallvec::SmallVec;

use crate::cores;
use crate::ids::{parent, path_to_root};
use crate::marking::Marking;
use crate::parts;
use crate::plan::{Compaction, LeafAdvance, Move, Plan, Source, Update, Wrap, Wraps};
use crate::snapshot::Slot;
use crate::tree::Difference;
use crate::types::{Degree, KeyRef, MemberId, NodeId, Strategy, Version};

/// Plans the secrets of a marked tree, and what the tree is with them.
pub(crate) fn plan(marking: &Marking<'_>) -> (Plan, Difference) {
    let (joined, moved) = leaves(marking);
    let (affected, newcomers) = affected(marking, &joined, &moved);
    let origins = moved.iter().map(|m| (m.to, m.from)).collect();
    let mut planner = Planner { marking, newcomers, origins, made: Vec::with_capacity(affected.len()) };
    let mut all = Planned { updates: Vec::with_capacity(affected.len()), ..Planned::default() };
    let mut rest = affected.as_slice();
    while let Some((first, others)) = rest.split_first() {
        // No k-node needs what is planned for another of its level.
        let level = if rest.len() < cores::MANY { 1 } else { same_level(rest, planner.marking.tree.degree) };
        if level == 1 {
            planner.plan(first.0, first.1, &mut all);
            planner.made.append(&mut all.made);
            rest = others;
            continue;
        }
        let (level, above) = rest.split_at(level);
        let planned = cores::map_all(&level.chunks(CHUNK).collect::<Vec<_>>(), level.len(), |chunk| {
            let mut planned = Planned { updates: Vec::with_capacity(CHUNK), ..Planned::default() };
            chunk.iter().for_each(|(node, lost)| planner.plan(*node, *lost, &mut planned));
            planned
        });
        for mut planned in planned {
            planner.made.append(&mut planned.made);
            all.updates.append(&mut planned.updates);
            all.used.append(&mut planned.used);
            all.spliced.append(&mut planned.spliced);
        }
        rest = above;
    }
    let Planned { mut updates, mut used, spliced, .. } = all;
    let parts = parts::split(&planner, &mut updates);
    used.extend(moved.iter().filter_map(|m| Some(LeafAdvance { to: m.to, from: planner.kek_of_leaf(m.to)? })));
    used.par_sort_unstable();
    used.dedup();
    let made = planner.made.iter().rev().map(|made| (made.node, made.state != State::Spliced));
    let difference = marking.difference(made, &used);
    let plan = Plan {
        epoch: marking.epoch,
        degree: marking.tree.degree,
        largest_knode: marking.largest_knode,
        joined,
        left: marking.left.iter().map(|(node, member)| (*member, *node)).collect(),
        moved,
        spliced,
        updates,
        advanced: used,
        parts,
        compaction: Compaction { moves: marking.moves, wraps: 0 },
    };
    (plan, difference)
}

/// How many of these k-nodes, from the first on, are of one level: whatever is above any of them has an id of at most
/// the first's parent.
fn same_level(affected: &[(NodeId, bool)], degree: Degree) -> usize {
    let above = affected.first().and_then(|(first, _)| parent(*first, degree));
    affected.iter().take_while(|(node, _)| above.is_none_or(|above| *node > above)).count().max(1)
}

type Newcomers = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// Marks of a k-node: it is lost; and so is everything above it.
const LOST: u8 = 1;
const SPREADING: u8 = 2;

/// The k-nodes that need a new secret, descending, and whether each is *lost*: somebody can compute its old secret who must
/// not learn the new one, or nobody can at all. And of the k-nodes that are not lost, the children below whom somebody
/// moved in who does not hold the old secret.
fn affected(marking: &Marking<'_>, joined: &[(MemberId, NodeId)], moved: &[Move]) -> (Vec<(NodeId, bool)>, Newcomers) {
    let degree = marking.tree.degree;
    // Nobody holds the root of an empty group, so nobody could follow it.
    let root_is_lost = marking.refresh || marking.tree.is_empty();
    let mut marks = vec![(NodeId::ROOT, if root_is_lost { LOST } else { 0 })];
    let above_leaf = |leaf: &NodeId, mark: u8| parent(*leaf, degree).map(|node| (node, mark));
    let departures = marking.left.iter().chain(&marking.renewed);
    marks.extend(departures.filter_map(|(leaf, _)| above_leaf(leaf, LOST | SPREADING)));
    marks.extend(joined.iter().filter_map(|(_, leaf)| above_leaf(leaf, 0)));
    let mut newcomers = Newcomers::new();
    for m in moved {
        let old: Vec<NodeId> = path_to_root(m.from, degree).skip(1).collect();
        // Straight up: what was in between is gone, and what is above has the same members below it as before.
        if old.contains(&m.to) {
            continue;
        }
        let new: Vec<NodeId> = path_to_root(m.to, degree).collect();
        // A split loses nothing: whoever it displaces stays below every k-node that it was below.
        marks.extend(old.iter().map(|node| (*node, if new[1..].contains(node) { 0 } else { LOST })));
        for pair in new.windows(2) {
            marks.push((pair[1], 0));
            if !old.contains(&pair[1]) {
                newcomers.entry(pair[1]).or_default().insert(pair[0]);
            }
        }
    }
    marks.par_sort_unstable_by(|a, b| b.cmp(a));
    // What is above comes in the order of what it is above of: two lists are merged, and none is searched.
    let (mut affected, mut marks, mut above) =
        (Vec::with_capacity(marks.len()), marks.into_iter().peekable(), VecDeque::new());
    loop {
        let node = match (marks.peek(), above.front()) {
            (Some((mark, _)), Some((node, _))) => *mark.max(node),
            (Some((node, _)), None) | (None, Some((node, _))) => *node,
            (None, None) => return (affected, newcomers),
        };
        let mut all = 0;
        while let Some((_, mark)) = marks.next_if(|(other, _)| *other == node) {
            all |= mark;
        }
        if let Some((_, mark)) = above.front().copied().filter(|(other, _)| *other == node) {
            all |= mark;
            above.pop_front();
        }
        affected.push((node, all & LOST != 0));
        let spread = if all & SPREADING != 0 { LOST | SPREADING } else { 0 };
        if let Some(up) = parent(node, degree) {
            match above.back_mut() {
                Some((last, mark)) if *last == up => *mark |= spread,
                _ => above.push_back((up, spread)),
            }
        }
    }
}

/// Fresh leaves and displaced ones.
fn leaves(marking: &Marking<'_>) -> (Vec<(MemberId, NodeId)>, Vec<Move>) {
    let (mut joined, mut moved) = (Vec::new(), Vec::new());
    for (member, to, fresh) in marking.placed() {
        match if fresh { None } else { marking.tree.place(member) } {
            Some(from) => moved.push(Move { member, from, to }),
            None => joined.push((member, to)),
        }
    }
    moved.sort_by_key(|m| m.from);
    (joined, moved)
}

pub(crate) struct Planner<'m, 't> {
    pub(crate) marking: &'m Marking<'t>,
    newcomers: Newcomers,
    /// Moved leaves: to, from.
    origins: BTreeMap<NodeId, NodeId>,
    /// What was planned so far, descending.
    made: Vec<Made>,
}

/// What became of a k-node in this plan.
#[derive(Debug, Clone, Copy)]
struct Made {
    node: NodeId,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its new secret follows from its own old one.
    Kept,
    /// It does not.
    New,
    /// Nor does it, and everybody below gets a sealed reply.
    Silent,
    /// It has none any more.
    Spliced,
}

/// K-nodes that are planned in one go by one core.
const CHUNK: usize = 64;

/// The plan of some k-nodes, descending.
#[derive(Default)]
struct Planned {
    made: Vec<Made>,
    updates: Vec<Update>,
    /// Leaves whose secret serves in it, under the names that their members know.
    used: Vec<LeafAdvance>,
    /// Those that a message names as spliced out: somebody may hold a secret of them.
    spliced: Vec<NodeId>,
}

/// What is below a k-node and takes part in this plan.
pub(crate) struct Branch {
    /// The child.
    pub(crate) child: NodeId,
    /// What stands there, or in its stead if it is spliced out.
    pub(crate) node: NodeId,
    slot: Slot,
    /// What this plan has made of it.
    state: Option<State>,
}

/// On the stack for the degrees that are used most.
type Branches = SmallVec<[Branch; 4]>;

impl Planner<'_, '_> {
    /// The new secret of one k-node, when those of all its children are planned. Nothing, if it was pruned.
    fn plan(&self, node: NodeId, lost: bool, planned: &mut Planned) {
        let (old, now) = self.marking.change(node);
        if now.is_none_or(|slot| slot.is_leaf()) {
            return;
        }
        if self.marking.tree.splicing && node != NodeId::ROOT && self.marking.children(node).len() == 1 {
            planned.spliced.extend(matches!(old, Some(Slot::KNode { .. })).then_some(node));
            planned.made.push(Made { node, state: State::Spliced });
            return;
        }
        let (state, update) = match old {
            Some(Slot::KNode { version }) if !lost => (State::Kept, self.kept(node, version)),
            _ => {
                let update = self.renewed(node);
                (if update.silent { State::Silent } else { State::New }, update)
            }
        };
        let used = update.wraps.iter().filter(|wrap| wrap.kek.version < self.marking.epoch && wrap.child != node);
        planned.used.extend(used.filter_map(|wrap| Some(LeafAdvance { to: self.leaf_of(wrap)?, from: wrap.kek })));
        planned.made.push(Made { node, state });
        planned.updates.push(update);
    }

    /// The leaf whose secret this wrap uses, if it is a leaf's.
    fn leaf_of(&self, wrap: &Wrap) -> Option<NodeId> {
        if wrap.child > self.marking.largest_knode {
            return Some(wrap.child);
        }
        // A k-node's own key; or it is spliced out, and what stands in its stead is a leaf or another k-node.
        if wrap.kek.node == wrap.child {
            return None;
        }
        let branch = self.branch(wrap.child, self.marking.slot(wrap.child)?)?;
        branch.slot.is_leaf().then_some(branch.node)
    }

    /// A secret that those who hold the old one have a right to: advanced or wrapped under the old one; and wrapped for
    /// whoever moved in.
    fn kept(&self, node: NodeId, version: Version) -> Update {
        let mut wraps = Wraps::new();
        let mut own = true;
        if let Some(children) = self.newcomers.get(&node) {
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
    fn renewed(&self, node: NodeId) -> Update {
        let branches = self.branches(node);
        let derived = match self.marking.tree.strategy {
            Strategy::Chain => {
                let in_state = |state| branches.iter().find(|branch| branch.state == Some(state));
                in_state(State::New).or_else(|| in_state(State::Silent))
            }
            _ => None,
        };
        let from = derived.map(|branch| branch.node);
        let from_silent = derived.is_none_or(|branch| branch.state == Some(State::Silent));
        let (mut wraps, mut replied) = (Wraps::new(), 0);
        for branch in branches.iter().filter(|branch| Some(branch.node) != from) {
            match self.wrap(branch) {
                Some(wrap) => wraps.push(wrap),
                None => replied += 1,
            }
        }
        let silent = wraps.is_empty() && from_silent;
        Update { node, source: from.map_or(Source::Fresh, |from| Source::Derive { from }), wraps, replied, silent }
    }

    /// All children, each with what stands in its stead.
    pub(crate) fn branches(&self, node: NodeId) -> Branches {
        self.marking.children(node).iter().filter_map(|(child, slot)| self.branch(*child, *slot)).collect()
    }

    /// A child, with what stands in its stead.
    fn branch(&self, child: NodeId, slot: Slot) -> Option<Branch> {
        let (mut node, mut slot) = (child, slot);
        loop {
            let state = if slot.is_leaf() { None } else { self.state(node) };
            slot = match state {
                Some(State::Spliced) => Slot::Spliced,
                Some(_) => Slot::KNode { version: self.marking.epoch },
                None => slot,
            };
            if slot != Slot::Spliced {
                return Some(Branch { child, node, slot, state });
            }
            (node, slot) = self.marking.children(node).first().copied()?;
        }
    }

    /// What this plan has made of a k-node, if it has.
    fn state(&self, node: NodeId) -> Option<State> {
        let at = self.made.binary_search_by(|made| node.cmp(&made.node)).ok()?;
        Some(self.made[at].state)
    }

    /// The wrap for those below a child. `None` if all of them get a sealed reply.
    fn wrap(&self, branch: &Branch) -> Option<Wrap> {
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
            _ => branch.state == Some(State::Silent),
        }
    }

    /// The secret of a leaf as its member knows it.
    fn kek_of_leaf(&self, leaf: NodeId) -> Option<KeyRef> {
        let version = self.marking.slot(leaf)?.version()?;
        let node = self.origins.get(&leaf).copied().unwrap_or(leaf);
        Some(KeyRef { node, version })
    }
}
