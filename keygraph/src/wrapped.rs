//! The current wrapped key tree: who holds what now, as wraps of each secret under those next below it. A member that holds its
//! leaf's secret learns its whole path from it, whatever it has missed.

use crate::ids::{last_child, path_to_root};
use crate::snapshot::Slot;
use crate::tree::{Staged, Tree};
use crate::types::{KeyRef, MemberId, NodeId};

/// One place of the wrapped tree: the secret that stands there, and what is wrapped under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrapped {
    /// The secret of the place, which wraps.
    pub kek: KeyRef,
    /// Whose leaf it is; `None` for a k-node.
    pub member: Option<MemberId>,
    /// The nearest secret above, which is wrapped.
    pub target: KeyRef,
}

impl Tree {
    /// The places `first` to `last` of the wrapped tree, ascending, without the root and what is spliced out.
    pub fn wrapped(&self, first: NodeId, last: NodeId) -> impl Iterator<Item = Wrapped> + '_ {
        self.standing(first, last).filter_map(|node| {
            let target = path_to_root(node, self.degree).skip(1).find_map(|above| self.key(above))?;
            let member = match self.slot(node)? {
                Slot::UNode { member, .. } => Some(member),
                Slot::KNode { .. } | Slot::Spliced => None,
            };
            Some(Wrapped { kek: self.key(node)?, member, target })
        })
    }

    /// The members `first` to `last` and their places, ascending.
    pub fn members_between(&self, first: MemberId, last: MemberId) -> impl Iterator<Item = (MemberId, NodeId)> {
        self.members.range(first, last)
    }

    /// The largest place where something stands.
    pub fn last_place(&self) -> NodeId {
        self.last_until(NodeId(u32::MAX)).unwrap_or(NodeId::ROOT)
    }

    /// Ranges of places that together contain every place whose part of the wrapped tree a change has altered: what it has
    /// touched, and what is below that, as far as the next secret. `self` is the tree after the change.
    pub fn rewrapped(&self, touched: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let mut ranges: Vec<(NodeId, NodeId)> = touched.iter().map(|node| (*node, *node)).collect();
        let mut above: Vec<NodeId> = touched.iter().copied().filter(|node| *node <= self.largest_knode).collect();
        let standing = self.last_place();
        while let Some(node) = above.pop() {
            // The last of a star's possible children is far beyond the last that stands.
            let last = last_child(node, self.degree).unwrap_or(u32::MAX);
            let children = (NodeId(last - (self.degree.get() - 1)), NodeId(last).min(standing));
            if children.0 <= children.1 {
                ranges.push(children);
                let is_spliced = |child: &NodeId| self.slot(*child) == Some(Slot::Spliced);
                above.extend(
                    self.standing(children.0, children.1)
                        .take_while(|child| *child <= self.largest_knode)
                        .filter(is_spliced),
                );
            }
        }
        ranges
    }
}

impl Staged {
    /// The places that the change touches, ascending.
    pub fn places(&self) -> Vec<NodeId> {
        self.touched().map(|(node, _)| node).collect()
    }
}
