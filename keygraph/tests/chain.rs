//! What the chain strategy costs, and how its plans look.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{degree, members};
use keygraph::Change::{Join, Leave, Refresh, Renew};
use keygraph::{Change, KeyRef, LeafAdvance, MemberId, NodeId, Plan, Source, Strategy, Tree, Update, Wrap};

fn full(d: u8, count: u32) -> Tree {
    Tree::filled(degree(d), Strategy::Chain, 1, members(0..count)).unwrap()
}

fn change(tree: &mut Tree, changes: &[Change]) -> Plan {
    let staged = tree.stage(changes, tree.epoch() + 1).unwrap();
    tree.merge(staged).unwrap()
}

/// With `replied` children for whom there is no wrap, because they get replies.
fn update(node: u32, source: Source, wraps: &[(u32, u64)], replied: u32) -> Update {
    let wrap = |(node, version): &(u32, u64)| {
        let node = NodeId(*node);
        Wrap { child: node, kek: KeyRef { node, version: *version } }
    };
    Update { node: NodeId(node), source, wraps: wraps.iter().map(wrap).collect(), replied, silent: false }
}

#[test]
fn a_leave_from_two_to_the_twenty_members_is_twenty_wraps() {
    let mut tree = full(2, 1 << 20);
    assert_eq!((tree.len(), tree.height()), (1 << 20, 20));
    for member in [0, 1, 524_287, 777_777, 1_048_575] {
        let left = change(&mut tree, &[Leave(MemberId(member))]);
        assert_eq!((left.wraps(), left.updates.len()), (20, 20), "member {member}");
        assert_eq!(left.advanced.len(), 1);
        let joined = change(&mut tree, &[Join(MemberId(member))]);
        assert_eq!((joined.wraps(), joined.updates.len()), (0, 20), "member {member}");
    }
}

#[test]
fn costs_in_full_trees() {
    for d in [2u8, 3, 4, 8] {
        for h in 2..=6u32 {
            let count = u32::from(d).pow(h - 1);
            let levels = usize::try_from(h - 1).unwrap();
            let mut tree = full(d, count);
            for member in [0, count / 2, count - 1] {
                // At every level all children but the one below are wrapped for.
                let leave = change(&mut tree, &[Leave(MemberId(member))]);
                assert_eq!(leave.wraps(), usize::from(d - 1) * levels, "leave, d = {d}, h = {h}");
                let join = change(&mut tree, &[Join(MemberId(member))]);
                assert_eq!(join.wraps(), 0, "join, d = {d}, h = {h}");
                let renew = change(&mut tree, &[Renew(MemberId(member))]);
                assert_eq!(renew.wraps(), usize::from(d - 1) * levels, "renew, d = {d}, h = {h}");
            }
            assert_eq!(change(&mut tree, &[Refresh]).wraps(), usize::from(d), "refresh, d = {d}, h = {h}");
            // Full again, so one leaf is split: its member alone needs a wrap.
            let split = change(&mut tree, &[Join(MemberId(count))]);
            assert_eq!((split.wraps(), split.moved.len()), (1, 1), "split, d = {d}, h = {h}");
        }
    }
}

#[test]
fn a_leave_is_fresh_at_the_bottom_and_derived_above() {
    let mut tree = full(3, 9);
    let leaver = tree.members().find(|m| tree.leaf(*m).unwrap().node == NodeId(8)).unwrap();
    let plan = change(&mut tree, &[Leave(leaver)]);
    let expected = [
        update(2, Source::Fresh, &[(7, 1), (9, 1)], 0),
        update(0, Source::Derive { from: NodeId(2) }, &[(1, 1), (3, 1)], 0),
    ];
    assert_eq!(plan.updates, expected);
    let leaf = |node| LeafAdvance { to: NodeId(node), from: KeyRef { node: NodeId(node), version: 1 } };
    assert_eq!(plan.advanced, [7, 9].map(leaf));
    assert_eq!(tree.key(NodeId(7)).unwrap().version, 2, "a leaf that was used is advanced");
}

#[test]
fn a_join_beside_a_leave_is_wrapped_under_what_it_advanced() {
    let mut tree = full(3, 9);
    let start = tree.clone();
    let at = |node| start.members().find(|m| start.leaf(*m).unwrap().node == NodeId(node)).unwrap();
    change(&mut tree, &[Leave(at(4))]);
    change(&mut tree, &[Leave(at(10)), Leave(at(11))]);
    // One joiner takes the leaver's place 7; the other fills the gap at 4, below k-node 1 where nobody leaves now.
    let plan = change(&mut tree, &[Leave(at(7)), Join(MemberId(100)), Join(MemberId(101))]);
    let expected = [
        update(2, Source::Fresh, &[(8, 1), (9, 1)], 1),
        update(1, Source::Advance { from: 2 }, &[], 0),
        update(0, Source::Derive { from: NodeId(2) }, &[(1, 4), (3, 3)], 0),
    ];
    assert_eq!(plan.updates, expected);
    assert_eq!(plan.joined, [(MemberId(101), NodeId(4)), (MemberId(100), NodeId(7))]);
}

#[test]
fn a_group_begins_and_ends_with_a_root_that_nobody_else_knows() {
    let mut tree = Tree::new(degree(4), Strategy::default(), 7);
    assert_eq!((tree.len(), tree.height(), tree.strategy()), (0, 0, Strategy::Chain));
    let first = change(&mut tree, &[Join(MemberId(1))]);
    assert_eq!(first.updates, [Update { silent: true, ..update(0, Source::Fresh, &[], 1) }]);
    let second = change(&mut tree, &[Join(MemberId(2))]);
    assert_eq!(second.updates, [update(0, Source::Advance { from: 8 }, &[], 0)]);
    let refresh = change(&mut tree, &[Refresh]);
    assert_eq!(refresh.updates, [update(0, Source::Fresh, &[(1, 8), (2, 9)], 0)]);
    let last = change(&mut tree, &[Leave(MemberId(1)), Leave(MemberId(2))]);
    assert_eq!(last.updates, [Update { silent: true, ..update(0, Source::Fresh, &[], 0) }]);
    assert!(tree.is_empty());
}
