//! A tree as a list of slots, and back.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::SnapshotError;
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
    /// A k-node that is spliced out: it has one child and no secret.
    Spliced,
}

impl Slot {
    /// The version of the secret that stands here, if one does.
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::KNode { version } | Self::UNode { version, .. } => Some(*version),
            Self::Spliced => None,
        }
    }

    pub(crate) fn is_leaf(&self) -> bool {
        matches!(self, Self::UNode { .. })
    }
}

impl Tree {
    /// Every k-node and u-node by ascending place: with degree, strategy, splicing and epoch all there is to a tree.
    pub fn slots(&self) -> impl Iterator<Item = (NodeId, Slot)> + '_ {
        self.places().filter_map(|node| Some((node, self.slot(node)?)))
    }

    /// The tree that has these slots, in any order, at `epoch`. It answers every change as the tree did that
    /// the slots came from (once [`Tree::set_splicing`] is as it was).
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
        let mut tree = Self::new(degree, strategy, epoch);
        tree.largest_knode = largest_knode;
        for (node, slot) in by_place {
            tree.put(node, Some(slot));
            if let Slot::UNode { member, .. } = slot {
                if tree.contains(member) {
                    return Err(SnapshotError::RepeatedMember { member });
                }
                tree.members.insert(member, node);
            }
        }
        Ok(tree)
    }
}

/// Checks every slot against the one above it; returns the largest k-node.
fn check_shape(degree: Degree, epoch: Version, slots: &BTreeMap<NodeId, Slot>) -> Result<NodeId, SnapshotError> {
    let mut with_children = BTreeSet::from([NodeId::ROOT]);
    let mut several_children = BTreeSet::new();
    let mut largest_knode = None;
    for (&node, slot) in slots {
        if let Some(above) = parent(node, degree) {
            match slots.get(&above) {
                Some(Slot::KNode { .. } | Slot::Spliced) => {
                    if !with_children.insert(above) {
                        several_children.insert(above);
                    }
                }
                _ => return Err(SnapshotError::Orphan { node }),
            }
        }
        let limit = if slot.is_leaf() { epoch } else { limit(node, degree, epoch, slots) };
        if let Some(version) = slot.version().filter(|version| *version > limit) {
            return Err(SnapshotError::Version { node, version, limit });
        }
        if !slot.is_leaf() {
            largest_knode = Some(node);
        }
    }
    let root = slots.get(&NodeId::ROOT).is_some_and(|slot| matches!(slot, Slot::KNode { .. }));
    let largest_knode = largest_knode.filter(|_| root).ok_or(SnapshotError::NoRoot)?;
    if last_child(largest_knode, degree).is_none() {
        return Err(SnapshotError::TooLarge { node: largest_knode });
    }
    for (&node, slot) in slots {
        if !slot.is_leaf() && !with_children.contains(&node) {
            return Err(SnapshotError::Childless { node });
        }
        if *slot == Slot::Spliced && several_children.contains(&node) {
            return Err(SnapshotError::Spliced { node });
        }
        if slot.is_leaf() && node < largest_knode {
            return Err(SnapshotError::Misplaced { node, largest_knode });
        }
    }
    Ok(largest_knode)
}

/// The version of the nearest k-node above that has one; for the root, the epoch.
fn limit(node: NodeId, degree: Degree, epoch: Version, slots: &BTreeMap<NodeId, Slot>) -> Version {
    let mut above = crate::ids::path_to_root(node, degree).skip(1);
    above.find_map(|node| slots.get(&node).and_then(Slot::version)).unwrap_or(epoch)
}
