//! What is asked of a tree, and its answer.

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
}

/// A leaf that a split displaced. Its secret keeps its version and gets a second name: (`to`, version).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Whose leaf it is.
    pub member: MemberId,
    /// Its place before.
    pub from: NodeId,
    /// Its place now, below the k-node that stands at `from` now.
    pub to: NodeId,
}

/// What one list of changes does to the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The version of every secret that this plan makes.
    pub epoch: Version,
    /// Degree of the tree.
    pub degree: Degree,
    /// The largest k-node after the change; a member finds its leaf from it ([`crate::ids::find_leaf`]).
    pub largest_knode: NodeId,
    /// Fresh leaves, of joiners and renewed members, by ascending place. These members get their whole path in
    /// a sealed reply, so nothing is wrapped under a fresh leaf.
    pub joined: Vec<(MemberId, NodeId)>,
    /// Members who left and where they were, by ascending place. A rejoining member is here and in `joined`.
    pub left: Vec<(MemberId, NodeId)>,
    /// Leaves displaced by a split, by ascending `from`. A leaf that is fresh as well is only in `joined`.
    pub moved: Vec<Move>,
    /// The k-nodes with a new version by descending place: children before parents, the root always last.
    pub updates: Vec<Update>,
    /// Leaves whose secret was a wrapping key here and is advanced afterwards, under their old version and at
    /// their place after moves; by ascending place.
    pub advanced_leaves: Vec<KeyRef>,
}

/// One k-node's new secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The k-node.
    pub node: NodeId,
    /// Where the secret comes from.
    pub source: Source,
    /// The keys under which it is wrapped, by ascending place: children under their newest versions, or the k-node
    /// itself, which means its old version.
    pub wraps: Vec<KeyRef>,
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
    /// One way from the version of a child that this plan makes.
    Derive {
        /// The child.
        child: NodeId,
    },
}
