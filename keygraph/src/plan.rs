//! What is asked of a tree, and its answer.

use smallvec::SmallVec;

use crate::ids::{find_leaf, path_to_root};
use crate::types::{Degree, KeyRef, MemberId, NodeId, Version};

/// One change of a group. Several in one list make one batch, and one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Somebody comes in. After a leave of the same member in the same list it is a rejoin.
    Join(MemberId),
    /// Somebody goes, or is evicted: for the keys there is no difference.
    Leave(MemberId),
    /// The member stays, but whoever holds its old state is out: its leaf secret is fresh and its path is treated
    /// as left and joined.
    Renew(MemberId),
    /// The root is new and cannot be computed from the old one. Twice in one list is once.
    Refresh,
    /// Once the others are made: while the tree is higher than its members need, so many leaves at the most are moved
    /// towards the root. Of several in one list the largest counts.
    Compact(u32),
}

/// A leaf that a split or a compaction has put elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Whose leaf it is.
    pub member: MemberId,
    /// Its place before.
    pub from: NodeId,
    /// Its place now.
    pub to: NodeId,
}

impl Move {
    /// Whether the member finds its new place by itself ([`find_leaf`]), as it does after a split. A message
    /// names every other move.
    pub fn is_found(&self, largest_knode: NodeId, degree: Degree) -> bool {
        find_leaf(self.from, largest_knode, degree) == Some(self.to)
    }
}

/// What one list of changes does to the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The version of every secret that this plan makes.
    pub epoch: Version,
    /// Degree of the tree.
    pub degree: Degree,
    /// The largest k-node after the change; a member finds its leaf from it ([`find_leaf`]).
    pub largest_knode: NodeId,
    /// Fresh leaves, of joiners and renewed members, by ascending place. These members get their whole path in
    /// a sealed reply, so nothing is wrapped under a fresh leaf.
    pub joined: Vec<(MemberId, NodeId)>,
    /// Members who left and where they were, by ascending place. A rejoining member is here and in `joined`.
    pub left: Vec<(MemberId, NodeId)>,
    /// Leaves that stand elsewhere now, by ascending `from`. A leaf that is fresh as well is only in `joined`.
    pub moved: Vec<Move>,
    /// K-nodes that were spliced out: left with one child, they have no secret any more. By descending place.
    pub spliced: Vec<NodeId>,
    /// The k-nodes with a new version by descending place: children before parents, the root always last.
    pub updates: Vec<Update>,
    /// Leaves whose secret is advanced after all else, because it was a wrapping key here or has moved; by ascending
    /// place.
    pub advanced: Vec<LeafAdvance>,
    /// What goes into which message. Empty if there is one message and everything that is not silent goes into it.
    pub parts: Vec<Part>,
    /// What a compaction in the list did.
    pub compaction: Compaction,
}

impl Plan {
    /// All wraps that are sent, each counted once, however many messages carry it.
    pub fn wraps(&self) -> usize {
        self.updates.iter().map(|update| update.wraps.len()).sum()
    }

    /// Rekey messages that are multicast.
    pub fn messages(&self) -> usize {
        self.parts.len().max(1)
    }
}

/// The share of a compaction in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compaction {
    /// Steps of a leaf to another place; a leaf may take several.
    pub moves: usize,
    /// Wraps that the plan has more than it would have without the compaction.
    pub wraps: usize,
}

/// The wraps of one k-node. One stands in place: in a chain of degree 2, most have no more.
pub type Wraps = SmallVec<[Wrap; 1]>;

/// Wraps of one k-node by index.
pub type Numbers = SmallVec<[usize; 2]>;

/// One k-node's new secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The k-node.
    pub node: NodeId,
    /// Where the secret comes from.
    pub source: Source,
    /// The secrets under which it is wrapped, by ascending place.
    pub wraps: Wraps,
    /// Children of whom everybody is given this secret in a sealed reply, so that there is no wrap for them and would
    /// be one otherwise.
    pub replied: u32,
    /// Everybody below is given it in a sealed reply: no message needs to speak of it.
    pub silent: bool,
}

/// One way from a secret to a new one above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wrap {
    /// The child that the receivers are below; the k-node itself, if they hold its old secret.
    pub child: NodeId,
    /// The wrapping key: the child's newest; of a leaf, the secret that its member holds, named by the place where the member
    /// holds it; below a child that is spliced out, of what stands there in its stead; the k-node's own old one;
    /// or, user-oriented, any below that the receivers share.
    pub kek: KeyRef,
}

/// A leaf secret that ends here, and its successor, one way from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeafAdvance {
    /// Its place now; the successor is (`to`, the plan's epoch).
    pub to: NodeId,
    /// Its name up to now. The place differs if the leaf has moved.
    pub from: KeyRef,
}

/// One of several messages of a plan. Of those who get no sealed reply, each needs exactly one; a message for others might
/// open for it too and leave it without some of its new secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// It is for the members below this place, or at it,
    pub below: NodeId,
    /// but not for those below these children of it.
    pub except: Vec<NodeId>,
    /// Its updates by index in [`Plan::updates`], in that order, each with the wraps of it that go along, by index.
    pub entries: Vec<(usize, Numbers)>,
}

impl Part {
    /// Whether the member whose leaf is here (after the change) needs this message.
    pub fn is_for(&self, leaf: NodeId, degree: Degree) -> bool {
        let mut way = path_to_root(leaf, degree).take_while(|at| *at >= self.below);
        way.clone().last() == Some(self.below) && !way.any(|at| self.except.contains(&at))
    }
}

/// Where a new secret comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From nothing that anybody holds.
    Fresh,
    /// One way from the same k-node's old version: whoever holds that computes it, and never back.
    Advance {
        /// The old version.
        from: Version,
    },
    /// One way from the version, made in this plan, of a k-node below: of a child, or of what stands in the stead of
    /// a child that is spliced out.
    Derive {
        /// That k-node.
        from: NodeId,
    },
}
