//! The key tree of one group, and changes of it as values.

use std::collections::BTreeMap;

use crate::error::{ChangeError, StaleStage};
use crate::gaps::Gaps;
use crate::ids::path_to_root;
use crate::marking::Marking;
use crate::plan::{Change, Plan};
use crate::planner;
use crate::snapshot::Slot;
use crate::types::{Degree, KeyRef, MemberId, NodeId, Strategy, Version};

/// A group's key tree. Time of every operation but [`Tree::filled`] and the iterators grows with the number of changes and
/// the logarithm of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub(crate) degree: Degree,
    pub(crate) strategy: Strategy,
    /// Of the last change; it rises with each, so it also tells one state of the tree from another.
    pub(crate) epoch: Version,
    pub(crate) largest_knode: NodeId,
    pub(crate) slots: BTreeMap<NodeId, Slot>,
    pub(crate) members: BTreeMap<MemberId, NodeId>,
    pub(crate) gaps: Gaps,
}

impl Tree {
    /// A group without members: a root k-node whose secret is made in `epoch`.
    pub fn new(degree: Degree, strategy: Strategy, epoch: Version) -> Self {
        Self {
            degree,
            strategy,
            epoch,
            largest_knode: NodeId::ROOT,
            slots: BTreeMap::from([(NodeId::ROOT, Slot::KNode { version: epoch })]),
            members: BTreeMap::new(),
            gaps: Gaps::new(),
        }
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
        let difference = Marking::run(&tree, &joins, epoch)?.difference();
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
        if epoch <= self.epoch {
            return Err(ChangeError::Epoch { epoch, tree: self.epoch });
        }
        let mut marking = Marking::run(self, changes, epoch)?;
        let plan = planner::plan(&mut marking);
        Ok(Staged { base: self.epoch, plan, difference: marking.difference() })
    }

    /// Makes a staged change the tree's state and hands out its plan.
    ///
    /// Errors: the change was staged from another state of this tree. (A stage from another tree at the same
    /// epoch is not noticed.)
    pub fn merge(&mut self, staged: Staged) -> Result<Plan, StaleStage> {
        if staged.base != self.epoch {
            return Err(StaleStage { staged: staged.base, tree: self.epoch });
        }
        self.apply(staged.difference);
        self.epoch = staged.plan.epoch;
        Ok(staged.plan)
    }

    /// The name of the member's leaf secret.
    pub fn leaf(&self, member: MemberId) -> Option<KeyRef> {
        self.members.get(&member).and_then(|leaf| self.key(*leaf))
    }

    /// The names of all secrets that the member holds: its leaf's first, the root's last.
    pub fn path(&self, member: MemberId) -> Option<Vec<KeyRef>> {
        let leaf = self.members.get(&member)?;
        path_to_root(*leaf, self.degree).map(|node| self.key(node)).collect()
    }

    /// The name of the secret that stands at a place; `None` where nothing stands.
    pub fn key(&self, node: NodeId) -> Option<KeyRef> {
        self.slots.get(&node).map(|slot| KeyRef { node, version: slot.version() })
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

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether the member is in.
    pub fn contains(&self, member: MemberId) -> bool {
        self.members.contains_key(&member)
    }

    /// All members, ascending.
    pub fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members.keys().copied()
    }

    /// The largest k-node id, nk: every leaf's id is in `(nk, d*nk + d]`.
    pub fn largest_knode(&self) -> NodeId {
        self.largest_knode
    }

    /// Edges from the deepest leaf to the root; 0 without members.
    pub fn height(&self) -> usize {
        // Ids rise level by level, so the largest is among the deepest.
        self.slots.last_key_value().map_or(0, |(last, _)| path_to_root(*last, self.degree).count() - 1)
    }

    fn apply(&mut self, difference: Difference) {
        for (node, slot) in difference.slots {
            match slot {
                Some(slot) => {
                    self.gaps.close(node.0);
                    self.slots.insert(node, slot);
                }
                None => {
                    self.gaps.open(node.0);
                    self.slots.remove(&node);
                }
            }
        }
        for (member, leaf) in difference.members {
            match leaf {
                Some(leaf) => self.members.insert(member, leaf),
                None => self.members.remove(&member),
            };
        }
        self.largest_knode = difference.largest_knode;
    }
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
}

/// What a change makes of a tree: only the places and members that it touches; `None` is gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Difference {
    pub(crate) slots: BTreeMap<NodeId, Option<Slot>>,
    pub(crate) members: BTreeMap<MemberId, Option<NodeId>>,
    pub(crate) largest_knode: NodeId,
}
