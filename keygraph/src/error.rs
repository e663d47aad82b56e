//! What can be wrong with a change, a stage, a snapshot or a number. Every error leaves its tree as it was.

use thiserror::Error;

use crate::ids::MAX_NODE;
use crate::types::{Degree, MemberId, NodeId, Version};

/// A degree out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("degree {degree} is not in {}..={}", Degree::MIN, Degree::MAX)]
pub struct DegreeError {
    /// The number that was given.
    pub degree: u8,
}

/// Not the name of a rekeying strategy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{name}` is no rekeying strategy: expected `user`, `key`, `group`, `hybrid` or `chain`")]
pub struct UnknownStrategy {
    /// The beginning of the name that was given.
    pub name: String,
}

/// Why a list of changes was refused; the fault is the caller's. The tree is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// There is nothing to do.
    #[error("the list of changes is empty; the tree is unchanged")]
    Empty,
    /// A join of somebody who is in.
    #[error("member {member} is in the tree already; the tree is unchanged")]
    AlreadyMember {
        /// The member.
        member: MemberId,
    },
    /// A leave or renewal of somebody who is not in.
    #[error("member {member} is not in the tree; the tree is unchanged")]
    NotMember {
        /// The stranger.
        member: MemberId,
    },
    /// A member occurs twice, other than as a leave and then a join.
    #[error("member {member} occurs again in one list of changes; the tree is unchanged")]
    Repeated {
        /// The member.
        member: MemberId,
    },
    /// Epochs must rise, or a key's name would return.
    #[error("epoch {epoch} is not above the tree's epoch {tree}; the tree is unchanged")]
    Epoch {
        /// The epoch that was given.
        epoch: Version,
        /// The tree's.
        tree: Version,
    },
    /// The tree cannot hold that many members.
    #[error("k-node {node} cannot have children: their ids would pass {MAX_NODE}; the tree is unchanged")]
    TooLarge {
        /// The leaf that would have had to become a k-node.
        node: NodeId,
    },
}

/// A stage was made from another state of the tree. The tree is unchanged; stage again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the change was staged at epoch {staged}, the tree is at epoch {tree}; the tree is unchanged")]
pub struct StaleStage {
    /// Epoch of the tree that was staged from.
    pub staged: Version,
    /// Epoch of this tree.
    pub tree: Version,
}

/// What is damaged in a snapshot. No tree is made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// There is no k-node 0.
    #[error("the snapshot has no root k-node")]
    NoRoot,
    /// Two slots claim one place.
    #[error("the snapshot names node id {node} twice")]
    RepeatedNode {
        /// The place.
        node: NodeId,
    },
    /// One member has two leaves.
    #[error("the snapshot names member {member} twice")]
    RepeatedMember {
        /// The member.
        member: MemberId,
    },
    /// What stands above is no k-node.
    #[error("node id {node} has no k-node above it")]
    Orphan {
        /// The place.
        node: NodeId,
    },
    /// A k-node below the root that has no children: it would have been pruned.
    #[error("k-node {node} has no children")]
    Childless {
        /// The k-node.
        node: NodeId,
    },
    /// A u-node whose id is not above the largest k-node's: its member could not find it.
    #[error("leaf {node} is not above the largest k-node {largest_knode}")]
    Misplaced {
        /// The leaf.
        node: NodeId,
        /// The largest k-node of the snapshot.
        largest_knode: NodeId,
    },
    /// An id, or one that its children would have, out of range.
    #[error("k-node {node} cannot have children: their ids would pass {MAX_NODE}")]
    TooLarge {
        /// The k-node.
        node: NodeId,
    },
    /// A k-node that is spliced out and has several children.
    #[error("k-node {node} is spliced out and has more than one child")]
    Spliced {
        /// The k-node.
        node: NodeId,
    },
    /// Every change below a k-node renews it, so no k-node's version is above that of the k-node above, and no
    /// version at all above the epoch.
    #[error("node id {node} has version {version}, above {limit}, the most that it can have")]
    Version {
        /// The place.
        node: NodeId,
        /// Its version.
        version: Version,
        /// The version of the k-node above; for the root and leaves, the epoch.
        limit: Version,
    },
}
