//! A tree as a list of slots, and back.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::SnapshotError;
use crate::gaps::Gaps;
use crate::ids::{last_child, parent};
use crate::tree::Tree;
use crate::types::{Degree, MemberId, NodeId, Strategy, Version};

/// What stands at a place of the tree. Where nothing stands is an n-node, which has no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// A k-node: the root or an auxiliary key.
    KNode {
        /// Its secret's version.
        version: Version,
    },
    /// A u-node: a member's leaf.
    UNode {
        /// The member.
        member: MemberId,
        /// Its leaf secret's version.
        version: Version,
    },
}

impl Slot {
    /// The version of the secret that stands here.
    pub fn version(&self) -> Version {
        match self {
            Self::KNode { version } | Self::UNode { version, .. } => *version,
        }
    }

    pub(crate) fn is_knode(&self) -> bool {
        matches!(self, Self::KNode { .. })
    }
}

impl Tree {
    /// Every k-node and u-node by ascending place: with degree, strategy and epoch all there is to a tree.
    pub fn slots(&self) -> impl Iterator<Item = (NodeId, Slot)> + '_ {
        self.slots.iter().map(|(node, slot)| (*node, *slot))
    }

    /// The tree that has these slots, in any order, at `epoch`. It answers every change as the tree did that
    /// the slots came from.
    ///
    /// Errors: whatever no history of changes can have made; see [`SnapshotError`].
    pub fn from_slots(
        degree: Degree,
        strategy: Strategy,
        epoch: Version,
        slots: impl IntoIterator<Item = (NodeId, Slot)>,
    ) -> Result<Self, SnapshotError> {
        let mut by_place = BTreeMap::new();
        for (node, slot) in slots {
            if by_place.insert(node, slot).is_some() {
                return Err(SnapshotError::RepeatedNode { node });
            }
        }
        let largest_knode = check_shape(degree, epoch, &by_place)?;
        let mut members = BTreeMap::new();
        let mut gaps = Gaps::new();
        for (node, slot) in &by_place {
            gaps.close(node.0);
            if let Slot::UNode { member, .. } = slot
                && members.insert(*member, *node).is_some()
            {
                return Err(SnapshotError::RepeatedMember { member: *member });
            }
        }
        Ok(Self { degree, strategy, epoch, largest_knode, slots: by_place, members, gaps })
    }
}

/// Checks every slot against the one above it; returns the largest k-node.
fn check_shape(degree: Degree, epoch: Version, slots: &BTreeMap<NodeId, Slot>) -> Result<NodeId, SnapshotError> {
    let mut with_children = BTreeSet::from([NodeId::ROOT]);
    let mut largest_knode = None;
    for (&node, slot) in slots {
        let limit = match parent(node, degree) {
            None => epoch,
            Some(above) => match slots.get(&above) {
                Some(Slot::KNode { version }) => {
                    with_children.insert(above);
                    *version
                }
                _ => return Err(SnapshotError::Orphan { node }),
            },
        };
        if slot.version() > limit {
            return Err(SnapshotError::Version { node, version: slot.version(), limit });
        }
        if slot.is_knode() {
            largest_knode = Some(node);
        }
    }
    let root = slots.get(&NodeId::ROOT).is_some_and(Slot::is_knode);
    let largest_knode = largest_knode.filter(|_| root).ok_or(SnapshotError::NoRoot)?;
    if last_child(largest_knode, degree).is_none() {
        return Err(SnapshotError::TooLarge { node: largest_knode });
    }
    for (&node, slot) in slots {
        if slot.is_knode() && !with_children.contains(&node) {
            return Err(SnapshotError::Childless { node });
        }
        if !slot.is_knode() && node < largest_knode {
            return Err(SnapshotError::Misplaced { node, largest_knode });
        }
    }
    Ok(largest_knode)
}
