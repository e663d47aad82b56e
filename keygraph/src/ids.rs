//! The numbering of the marking algorithm, as pure arithmetic: no tree is needed, so members use it too.
//! No input makes any of these functions panic.

use std::iter::successors;

use crate::types::{Degree, NodeId};

/// The largest id in a tree. Ids are 32-bit; one bit stays free so that sums of ids never wrap.
pub const MAX_NODE: u32 = (1 << 31) - 1;

/// The k-node above: `floor((m - 1) / d)`. `None` for the root.
pub fn parent(node: NodeId, degree: Degree) -> Option<NodeId> {
    node.0.checked_sub(1).map(|below| NodeId(below / degree.get()))
}

/// The places below: `d*m + 1 ..= d*m + d`, ascending. None at all if the last of them would pass [`MAX_NODE`].
pub fn children(node: NodeId, degree: Degree) -> impl DoubleEndedIterator<Item = NodeId> + Clone {
    last_child(node, degree).map(|last| last + 1 - degree.get()..last + 1).unwrap_or_default().map(NodeId)
}

/// The child with this index. `None` if the index is not below the degree, or the id would pass [`MAX_NODE`].
pub fn child(node: NodeId, index: u32, degree: Degree) -> Option<NodeId> {
    let last = last_child(node, degree)?;
    (index < degree.get()).then(|| NodeId(last - (degree.get() - 1) + index))
}

/// Index among the parent's children, from 0 to d - 1. `None` for the root.
pub fn child_index(node: NodeId, degree: Degree) -> Option<u32> {
    Some(node.0.checked_sub(1)? % degree.get())
}

/// The child of `above` on the way down to `below`. `None` if `below` is not below it.
pub fn child_towards(above: NodeId, below: NodeId, degree: Degree) -> Option<NodeId> {
    path_to_root(below, degree).take_while(|at| *at > above).last().filter(|at| parent(*at, degree) == Some(above))
}

/// The largest id that a child of `node` has, `d*m + d`, if within [`MAX_NODE`].
pub(crate) fn last_child(node: NodeId, degree: Degree) -> Option<u32> {
    let degree = degree.get();
    node.0.checked_mul(degree)?.checked_add(degree).filter(|last| *last <= MAX_NODE)
}

/// From `node` (included, first) up to the root (included, last).
pub fn path_to_root(node: NodeId, degree: Degree) -> impl Iterator<Item = NodeId> + Clone {
    successors(Some(node), move |at| parent(*at, degree))
}

/// Where a leaf stands now that was at `old` before: the unique f(x) in `(nk, d*nk + d]` with f(0) = old and
/// f(x + 1) = d*f(x) + 1, where nk is the largest k-node id. A split moves a leaf to its leftmost child's place, so
/// a member needs no other help of the server. `None` if there is no such place (or `old` is the root's): the
/// leaf and the k-node do not belong to one history.
pub fn find_leaf(old: NodeId, largest_knode: NodeId, degree: Degree) -> Option<NodeId> {
    let last = last_child(largest_knode, degree)?;
    if old == NodeId::ROOT {
        return None;
    }
    successors(Some(old), |at| child(*at, 0, degree)).find(|at| *at > largest_knode).filter(|at| at.0 <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn degrees() -> impl Iterator<Item = Degree> {
        [2, 3, 4, 8, 64].into_iter().map(|d| Degree::new(d).unwrap())
    }

    #[test]
    fn children_and_parents_agree() {
        for d in degrees() {
            let ids: Vec<NodeId> = (0..100).flat_map(|m| children(NodeId(m), d)).collect();
            assert_eq!(ids, (1..=100 * d.get()).map(NodeId).collect::<Vec<_>>());
            for id in ids {
                let up = parent(id, d).unwrap();
                assert_eq!(child(up, child_index(id, d).unwrap(), d), Some(id));
                assert_eq!(path_to_root(id, d).last(), Some(NodeId::ROOT));
            }
            assert_eq!(parent(NodeId::ROOT, d), None);
            assert_eq!(child_index(NodeId::ROOT, d), None);
            assert_eq!(child(NodeId::ROOT, d.get(), d), None);
        }
    }

    #[test]
    fn nothing_passes_the_largest_id() {
        for d in degrees() {
            let width = d.get();
            let last_knode = NodeId((MAX_NODE - width) / width);
            assert_eq!(children(last_knode, d).count(), usize::try_from(width).unwrap());
            for beyond in [last_knode.0 + 1, MAX_NODE, u32::MAX] {
                assert_eq!(children(NodeId(beyond), d).count(), 0);
                assert_eq!(find_leaf(NodeId(1), NodeId(beyond), d), None);
                assert_eq!(find_leaf(NodeId(beyond), NodeId::ROOT, d), None);
            }
        }
    }

    #[test]
    fn a_star_is_a_tree_of_one_k_node() {
        let d = Degree::STAR;
        for leaf in [1, 2, 1_000_000, MAX_NODE].map(NodeId) {
            assert_eq!(parent(leaf, d), Some(NodeId::ROOT));
            assert_eq!(child(NodeId::ROOT, child_index(leaf, d).unwrap(), d), Some(leaf));
            assert_eq!(find_leaf(leaf, NodeId::ROOT, d), Some(leaf));
            assert_eq!(children(leaf, d).count(), 0);
        }
        assert_eq!(Degree::from_code(d.code()), Ok(d));
    }

    #[test]
    fn the_way_down_is_the_way_up() {
        let d = Degree::new(3).unwrap();
        assert_eq!(child_towards(NodeId(1), NodeId(13), d), Some(NodeId(4)));
        assert_eq!(child_towards(NodeId(4), NodeId(13), d), Some(NodeId(13)));
        assert_eq!(child_towards(NodeId(2), NodeId(13), d), None);
        assert_eq!(child_towards(NodeId(13), NodeId(13), d), None);
    }

    #[test]
    fn a_leaf_is_found_where_splits_put_it() {
        let d = Degree::new(3).unwrap();
        assert_eq!(find_leaf(NodeId(4), NodeId(3), d), Some(NodeId(4)));
        assert_eq!(find_leaf(NodeId(4), NodeId(5), d), Some(NodeId(13)));
        assert_eq!(find_leaf(NodeId(1), NodeId(5), d), Some(NodeId(13)));
        assert_eq!(find_leaf(NodeId(30), NodeId(5), d), None);
        assert_eq!(find_leaf(NodeId(0), NodeId(5), d), None);
    }
}
