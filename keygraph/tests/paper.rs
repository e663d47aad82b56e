//! The worked examples and the formulas of the literature, with group-oriented rekeying.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use crate::common::{degree, members};
use keygraph::Change::{Join, Leave};
use keygraph::{Change, KeyRef, MemberId, NodeId, Plan, Slot, Source, Strategy, Tree, ids};

fn full(d: u8, count: u32) -> Tree {
    Tree::filled(degree(d), Strategy::Group, 1, members(0..count)).unwrap()
}

fn change(tree: &mut Tree, changes: &[Change]) -> Plan {
    let staged = tree.stage(changes, tree.epoch() + 1).unwrap();
    tree.merge(staged).unwrap()
}

fn place(tree: &Tree, member: u32) -> u32 {
    tree.leaf(MemberId(member)).unwrap().node.0
}

/// (target, key under which it is wrapped), as the paper prints them.
fn printed(plan: &Plan) -> BTreeSet<(u32, u32, u64)> {
    plan.updates.iter().flat_map(|u| u.wraps.iter().map(|wrap| (u.node.0, wrap.kek.node.0, wrap.kek.version))).collect()
}

/// Keystone, section 2: nine members, degree 3. Places: k1-9 is 0; k123, k456, k789 are 1, 2, 3; k1..k9 are 4..12.
#[test]
fn u9_leaves_and_joins() {
    let mut tree = Tree::filled(degree(3), Strategy::Group, 1, members([1, 4, 7, 2, 3, 5, 6, 8, 9])).unwrap();
    for (member, leaf) in (1..=9).zip(4..=12) {
        assert_eq!(place(&tree, member), leaf);
    }
    let leave = change(&mut tree, &[Leave(MemberId(9))]);
    let expected = [(0, 1, 1), (0, 2, 1), (0, 3, 2), (3, 10, 1), (3, 11, 1)];
    assert_eq!(printed(&leave), BTreeSet::from(expected));
    assert_eq!(leave.left, [(MemberId(9), NodeId(12))]);

    let join = change(&mut tree, &[Join(MemberId(9))]);
    assert_eq!(printed(&join), BTreeSet::from([(0, 0, 2), (3, 3, 2)]));
    assert!(join.updates.iter().all(|update| update.source == Source::Fresh));
    assert_eq!(join.joined, [(MemberId(9), NodeId(12))]);
    let path = [(12, 3), (3, 3), (0, 3)].map(|(node, version)| KeyRef { node: NodeId(node), version });
    assert_eq!(tree.path(MemberId(9)).unwrap(), path);
}

/// K-nodes updated, and the encryptions of the marking algorithm: one for each child that an updated k-node has.
fn marked(tree: &Tree, plan: &Plan) -> (usize, usize) {
    let children = |node| ids::children(node, tree.degree()).filter(|child| tree.key(*child).is_some()).count();
    (plan.updates.len(), plan.updates.iter().map(|update| children(update.node)).sum())
}

fn knodes(tree: &Tree) -> Vec<u32> {
    tree.slots().filter(|(_, slot)| matches!(slot, Slot::KNode { .. })).map(|(node, _)| node.0).collect()
}

#[test]
fn batches_of_degree_3() {
    let mut tree = full(3, 9);
    assert_eq!(knodes(&tree), [0, 1, 2, 3]);
    let start = [(0, 4), (3, 5), (4, 6), (1, 7), (5, 8), (6, 9), (2, 10), (7, 11), (8, 12)];
    assert!(start.iter().all(|(member, leaf)| place(&tree, *member) == *leaf));
    let [a, b, c, e, f, g, h, i] = [10, 11, 12, 14, 15, 16, 17, 18].map(MemberId);

    let plan = change(&mut tree, &[Join(a), Leave(MemberId(0)), Leave(MemberId(8))]);
    assert_eq!(marked(&tree, &plan), (3, 8));
    // Every updated k-node lost somebody, so what is not wrapped is for the joiner alone.
    assert_eq!(plan.wraps() + plan.joined.len(), 8);
    assert_eq!((place(&tree, 10), tree.key(NodeId(12)), tree.largest_knode()), (4, None, NodeId(3)));

    let plan = change(&mut tree, &[Join(b), Join(c), Leave(MemberId(1)), Leave(MemberId(2))]);
    assert_eq!(marked(&tree, &plan), (3, 8));
    assert_eq!(plan.wraps() + plan.joined.len(), 8);
    assert_eq!((place(&tree, 11), place(&tree, 12)), (7, 10));

    let plan = change(&mut tree, &[Join(e), Join(f), Join(g), Join(h), Join(i), Leave(MemberId(3))]);
    assert_eq!(marked(&tree, &plan), (5, 14));
    let places = [(10, 13), (15, 12), (16, 14), (17, 15), (14, 16), (18, 17)];
    for (member, leaf) in places {
        assert_eq!(place(&tree, member), leaf, "member {member}");
    }
    assert_eq!(knodes(&tree), [0, 1, 2, 3, 4, 5]);
    assert_eq!(plan.largest_knode, NodeId(5));
    assert_eq!(plan.moved, [keygraph::Move { member: a, from: NodeId(4), to: NodeId(13) }]);
    assert_eq!(plan.joined.len(), 5, "e was displaced before it had a secret: it only joined");
}

#[test]
fn batches_of_degree_4() {
    let mut tree = full(4, 16);
    assert_eq!(knodes(&tree), [0, 1, 2, 3, 4]);
    let start = [(0, 5), (4, 6), (5, 7), (6, 8), (1, 9), (15, 20)];
    assert!(start.iter().all(|(member, leaf)| place(&tree, *member) == *leaf));

    let plan = change(&mut tree, &(0..4).map(|m| Leave(MemberId(m))).collect::<Vec<_>>());
    assert_eq!((marked(&tree, &plan), plan.wraps()), ((5, 16), 16));

    let plan = change(&mut tree, &[Join(MemberId(20))]);
    assert_eq!((place(&tree, 20), marked(&tree, &plan)), (5, (2, 8)));
    assert_eq!(plan.wraps(), 2);

    let plan = change(&mut tree, &(30..36).map(|m| Join(MemberId(m))).collect::<Vec<_>>());
    let places = [(30, 9), (31, 13), (32, 17), (20, 21), (33, 22), (34, 23), (35, 24)];
    for (member, leaf) in places {
        assert_eq!(place(&tree, member), leaf, "member {member}");
    }
    assert_eq!((marked(&tree, &plan), plan.largest_knode), ((6, 24), NodeId(5)));
    // Five k-nodes under their old secrets, the split one under the displaced leaf's.
    assert_eq!(plan.wraps(), 6);
}

/// Wong, Gouda, Lam: a leave costs d(h-1) - 1 encryptions in a full tree, a join 2(h-1), half of them for the
/// joiner alone; h is the number of keys that a member holds. Without splicing, degree 2 costs as the formula says.
#[test]
fn costs_in_full_trees() {
    for d in [2u8, 3, 4, 8] {
        for h in 2..=6u32 {
            let count = u32::from(d).pow(h - 1);
            let levels = usize::try_from(h - 1).unwrap();
            let mut tree = full(d, count);
            assert_eq!(tree.height(), levels);
            for member in [0, count / 2, count - 1] {
                let leave = change(&mut tree, &[Leave(MemberId(member))]);
                let join = change(&mut tree, &[Join(MemberId(member))]);
                // The last of a k-node's two leaves gone, a binary tree still wraps for the one that remains.
                assert_eq!(leave.wraps(), usize::from(d) * levels - 1, "leave, d = {d}, h = {h}");
                assert_eq!(join.wraps(), levels, "multicast of a join, d = {d}, h = {h}");
                let joiner = tree.path(MemberId(member)).unwrap().len() - 1;
                assert_eq!(join.wraps() + joiner, 2 * levels, "join, d = {d}, h = {h}");
            }
        }
    }
}
