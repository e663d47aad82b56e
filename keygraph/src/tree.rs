//! The key tree of one group, and changes of it as values.

use std::iter::empty;

use crate::error::{ChangeError, StaleStage};
use crate::gaps::Gaps;
use crate::ids::path_to_root;
use crate::index::Index;
use crate::marking::Marking;
use crate::pages::Pages;
use crate::plan::{Change, Plan};
use crate::planner;
use crate::snapshot::Slot;
use crate::types::{Degree, KeyRef, MemberId, NodeId, Strategy, Version};

/// In [`Tree::versions`], of a k-node that is spliced out. No epoch gets here.
const SPLICED: Version = Version::MAX;

/// A group's key tree. Time and memory of every operation but [`Tree::filled`] and the iterators grow with the number of
/// changes, of the wraps that they need, and the logarithm of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub(crate) degree: Degree,
    pub(crate) splicing: bool,
    pub(crate) strategy: Strategy,
    /// Of the last change; it rises with each, so it also tells one state of the tree from another.
    pub(crate) epoch: Version,
    pub(crate) largest_knode: NodeId,
    pub(crate) members: Index,
    pub(crate) gaps: Gaps,
    /// Of k-nodes and leaves.
    versions: Pages<Version>,
    /// Where a leaf stands: whose.
    leaves: Pages<u32>,
}

impl Tree {
    /// A group without members: a root k-node whose secret is made in `epoch`.
    pub fn new(degree: Degree, strategy: Strategy, epoch: Version) -> Self {
        let mut tree = Self {
            degree,
            splicing: false,
            strategy,
            epoch,
            largest_knode: NodeId::ROOT,
            members: Index::default(),
            gaps: Gaps::new(),
            versions: Pages::default(),
            leaves: Pages::default(),
        };
        tree.put(NodeId::ROOT, Some(Slot::KNode { version: epoch }));
        tree
    }

    /// The tree that one batch of joins makes of an empty one, all secrets made in `epoch`, without a plan: every
    /// member has yet to be given its path.
    ///
    /// Errors: [`ChangeError::Repeated`], [`ChangeError::TooLarge`].
    pub fn filled(
        degree: Degree,
        strategy: Strategy,
        epoch: Version,
        members: impl IntoIterator<Item = MemberId>,
    ) -> Result<Self, ChangeError> {
        let mut tree = Self::new(degree, strategy, epoch);
        let joins: Vec<Change> = members.into_iter().map(Change::Join).collect();
        let difference = Marking::run(&tree, &joins, epoch)?.difference(empty(), &[]);
        tree.apply(difference);
        Ok(tree)
    }

    /// What these changes, as one batch, do to the tree in `epoch`; the tree itself stays untouched.
    ///
    /// Leavers' places go to joiners, smallest first; then nodes without children are pruned, or free places are
    /// filled and leaves split. Joiners are served in the order of the list.
    ///
    /// Errors: see [`ChangeError`].
    pub fn stage(&self, changes: &[Change], epoch: Version) -> Result<Staged, ChangeError> {
        if changes.is_empty() {
            return Err(ChangeError::Empty);
        }
        if epoch <= self.epoch || epoch == SPLICED {
            return Err(ChangeError::Epoch { epoch, tree: self.epoch });
        }
        let (mut plan, difference) = planner::plan(&Marking::run(self, changes, epoch)?);
        if plan.compaction.moves > 0 {
            let others: Vec<Change> =
                changes.iter().copied().filter(|change| !matches!(change, Change::Compact(_))).collect();
            let without = match others.is_empty() {
                true => 0,
                false => planner::plan(&Marking::run(self, &others, epoch)?).0.wraps(),
            };
            plan.compaction.wraps = plan.wraps().saturating_sub(without);
        }
        Ok(Staged { base: self.epoch, plan, difference })
    }

    /// Makes a staged change the tree's state and hands out its plan.
    ///
    /// Errors: the change was staged from another state of this tree. (A stage from another tree at the same
    /// epoch is not noticed.)
    pub fn merge(&mut self, staged: Staged) -> Result<Plan, StaleStage> {
        if staged.base != self.epoch {
            return Err(StaleStage { staged: staged.base, tree: self.epoch });
        }
        for (member, _) in &staged.plan.left {
            self.members.remove(*member);
        }
        self.apply(staged.difference);
        self.epoch = staged.plan.epoch;
        Ok(staged.plan)
    }

    /// What stands at a place.
    pub fn slot(&self, node: NodeId) -> Option<Slot> {
        let version = *self.versions.get(node)?;
        // Up to the largest k-node there are only k-nodes, and beyond it only leaves.
        if node > self.largest_knode {
            return self.leaves.get(node).map(|member| Slot::UNode { member: MemberId(*member), version });
        }
        Some(if version == SPLICED { Slot::Spliced } else { Slot::KNode { version } })
    }

    /// The member's place.
    pub fn place(&self, member: MemberId) -> Option<NodeId> {
        self.members.get(member)
    }

    /// The name of the member's leaf secret.
    pub fn leaf(&self, member: MemberId) -> Option<KeyRef> {
        self.place(member).and_then(|leaf| self.key(leaf))
    }

    /// The names of all secrets that the member holds: its leaf's first, the root's last.
    pub fn path(&self, member: MemberId) -> Option<Vec<KeyRef>> {
        let leaf = self.place(member)?;
        Some(path_to_root(leaf, self.degree).filter_map(|node| self.key(node)).collect())
    }

    /// The name of the secret that stands at a place; `None` where nothing stands, or what is spliced out.
    pub fn key(&self, node: NodeId) -> Option<KeyRef> {
        let version = *self.versions.get(node)?;
        (version != SPLICED).then_some(KeyRef { node, version })
    }

    /// The name of the root secret. Every change makes it new.
    pub fn root(&self) -> KeyRef {
        // The root always stands, and every plan ends with it.
        self.key(NodeId::ROOT).unwrap_or(KeyRef { node: NodeId::ROOT, version: self.epoch })
    }

    /// The epoch of the last change.
    pub fn epoch(&self) -> Version {
        self.epoch
    }

    /// Children that a k-node has at most.
    pub fn degree(&self) -> Degree {
        self.degree
    }

    /// How the next change is planned.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Plans otherwise from the next stage on. Stages made before stay good.
    pub fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
    }

    /// Whether k-nodes with one child are spliced out. See [`Tree::set_splicing`].
    pub fn splicing(&self) -> bool {
        self.splicing
    }

    /// From the next stage on, a k-node below the root that a change leaves with one child has no secret, and what was
    /// wrapped under it is wrapped under what is below (Wong, Gouda, Lam splice it out; here its place stays,
    /// so that no id below it changes). Without it, as in batch rekeying, such a k-node keeps a secret.
    pub fn set_splicing(&mut self, splicing: bool) {
        self.splicing = splicing;
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the member is in.
    pub fn contains(&self, member: MemberId) -> bool {
        self.place(member).is_some()
    }

    /// All members, ascending.
    pub fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members.iter().map(|(member, _)| member)
    }

    /// The largest k-node id, nk: every leaf's id is in `(nk, d*nk + d]`.
    pub fn largest_knode(&self) -> NodeId {
        self.largest_knode
    }

    /// Edges from the deepest leaf to the root; 0 without members.
    pub fn height(&self) -> usize {
        height(self.len(), self.largest_knode, self.degree)
    }

    /// Whether the tree is higher than ⌈log_d n⌉ + 1, so that a [`Change::Compact`] has something to do.
    pub fn is_too_high(&self) -> bool {
        self.height() > allowed_height(self.len(), self.degree)
    }

    /// The places of a range where something stands, ascending.
    pub(crate) fn standing(&self, first: NodeId, last: NodeId) -> impl Iterator<Item = NodeId> {
        self.versions.range(first, last).map(|(node, _)| node)
    }

    /// All places where something stands, ascending.
    pub(crate) fn places(&self) -> impl Iterator<Item = NodeId> {
        self.versions.iter().map(|(node, _)| node)
    }

    /// The largest place at or below `node` where something stands.
    pub(crate) fn last_until(&self, node: NodeId) -> Option<NodeId> {
        self.versions.last_until(node)
    }

    /// What stands at `node` from now on; the caller keeps `members` and `largest_knode` true.
    pub(crate) fn put(&mut self, node: NodeId, slot: Option<Slot>) {
        let Some(slot) = slot else {
            self.gaps.open(node.0);
            self.versions.remove(node);
            self.leaves.remove(node);
            return;
        };
        self.gaps.close(node.0);
        self.versions.insert(node, slot.version().unwrap_or(SPLICED));
        match slot {
            Slot::UNode { member, .. } => drop(self.leaves.insert(node, member.0)),
            Slot::KNode { .. } | Slot::Spliced => drop(self.leaves.remove(node)),
        }
    }

    fn apply(&mut self, difference: Difference) {
        let mut placed = Vec::new();
        for (node, slot) in difference.slots {
            self.put(node, slot);
            if let Some(Slot::UNode { member, .. }) = slot {
                placed.push((member, node));
            }
        }
        // In ascending order the index stays packed.
        placed.sort_unstable();
        for (member, node) in placed {
            self.members.insert(member, node);
        }
        self.largest_knode = difference.largest_knode;
    }
}

/// Edges from the deepest leaf to the root: one more than above the largest k-node, which has a leaf below it and
/// no leaf anywhere is deeper.
pub(crate) fn height(members: usize, largest_knode: NodeId, degree: Degree) -> usize {
    if members == 0 { 0 } else { path_to_root(largest_knode, degree).count() }
}

/// ⌈log_d n⌉ + 1; 0 for an empty tree.
pub(crate) fn allowed_height(members: usize, degree: Degree) -> usize {
    let (mut room, mut levels) = (1usize, 0);
    while room < members {
        room = room.saturating_mul(usize::try_from(degree.get()).unwrap_or(usize::MAX));
        levels += 1;
    }
    if members == 0 { 0 } else { levels + 1 }
}

/// A change that is planned and not merged yet. Dropping it is enough to forget it.
#[derive(Debug, Clone)]
pub struct Staged {
    /// Epoch of the tree that it was made from.
    base: Version,
    plan: Plan,
    difference: Difference,
}

impl Staged {
    /// What the change does to the keys.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Every place that the change touches, ascending, and what stands there afterwards.
    pub fn touched(&self) -> impl Iterator<Item = (NodeId, Option<Slot>)> + '_ {
        self.difference.slots.iter().copied()
    }
}

/// What a change makes of a tree: only the places that it touches, ascending; `None` is gone. Members who left stand in
/// the plan.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    pub(crate) slots: Vec<(NodeId, Option<Slot>)>,
    pub(crate) largest_knode: NodeId,
}
