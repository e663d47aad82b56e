//! Trees follow the present size.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{Rng, STRATEGIES, degree, members};
use keygraph::{Change, MemberId, Plan, Strategy, Tree};

fn change(tree: &mut Tree, changes: &[Change]) -> Plan {
    let staged = tree.stage(changes, tree.epoch() + 1).unwrap();
    tree.merge(staged).unwrap()
}

/// ⌈log_d n⌉ + 1.
fn most(d: u8, members: usize) -> usize {
    let levels = (0..).find(|levels| usize::from(d).pow(*levels) >= members).unwrap();
    usize::try_from(levels).unwrap() + 1
}

/// Shrinks a group to members drawn at random and compacts it; returns the batches that it took.
fn shrink(d: u8, strategy: Strategy, from: u32, to: usize, moves: u32) -> (Tree, usize) {
    let mut tree = Tree::filled(degree(d), strategy, 1, members(0..from)).unwrap();
    let mut rng = Rng(7);
    let mut all: Vec<u32> = (0..from).collect();
    for at in 0..to {
        let other = at + usize::try_from(rng.below(u32::try_from(all.len() - at).unwrap())).unwrap();
        all.swap(at, other);
    }
    let leaves: Vec<Change> = all[to..].iter().map(|member| Change::Leave(MemberId(*member))).collect();
    let plan = change(&mut tree, &leaves);
    assert!(plan.moved.is_empty() && plan.compaction.moves == 0, "nobody is moved who was not asked to");
    let mut batches = 0;
    while tree.is_too_high() {
        let plan = change(&mut tree, &[Change::Compact(moves)]);
        assert!((1..=usize::try_from(moves).unwrap()).contains(&plan.compaction.moves), "{:?}", plan.compaction);
        assert!(plan.moved.len() <= plan.compaction.moves);
        assert_eq!(plan.wraps(), plan.compaction.wraps, "a compaction alone is all that there is");
        batches += 1;
        assert!(batches < 100_000);
    }
    (tree, batches)
}

#[test]
fn a_million_that_became_a_thousand() {
    for d in [2u8, 4] {
        let (tree, batches) = shrink(d, Strategy::Chain, 1_000_000, 1_000, 256);
        println!("degree {d}: {batches} batches, height {}", tree.height());
        assert_eq!(tree.len(), 1_000);
        assert!(tree.height() <= most(d, 1_000), "{}", tree.height());
    }
}

#[test]
fn every_size_and_strategy() {
    for strategy in STRATEGIES {
        for d in [2u8, 3, 4, 64] {
            for to in [0usize, 1, 2, 3, 17, 100] {
                let (mut tree, _) = shrink(d, strategy, 2_000, to, 7);
                assert!(tree.height() <= most(d, to.max(1)), "{strategy}, degree {d}, {to} members");
                // And it grows again from there.
                let joins: Vec<Change> = (5_000..7_000).map(|member| Change::Join(MemberId(member))).collect();
                change(&mut tree, &joins);
                assert!(!tree.is_too_high());
            }
        }
    }
}

/// A leaf with nobody beside it goes up for nothing: its member forgets the k-node and nobody else notices.
#[test]
fn a_leaf_that_is_alone_is_lifted_without_a_wrap() {
    let mut tree = Tree::filled(degree(2), Strategy::Chain, 1, members(0..64)).unwrap();
    let leaves: Vec<Change> =
        (0..64).filter(|member| ![3, 60].contains(member)).map(|m| Change::Leave(MemberId(m))).collect();
    change(&mut tree, &leaves);
    let plan = change(&mut tree, &[Change::Compact(1)]);
    assert_eq!((plan.compaction.moves, plan.compaction.wraps, plan.wraps()), (1, 0, 0));
    assert_eq!(plan.updates.len(), 1, "only the root is new");
}

/// What the moves cost in a batch with other changes is told apart.
#[test]
fn wraps_of_a_compaction_are_counted_apart() {
    for strategy in STRATEGIES {
        let mut tree = Tree::filled(degree(2), strategy, 1, members(0..512)).unwrap();
        let leaves: Vec<Change> = (0..512).filter(|m| m % 8 > 1).map(|m| Change::Leave(MemberId(m))).collect();
        change(&mut tree, &leaves);
        let alone = tree.stage(&[Change::Leave(MemberId(0))], 10).unwrap().plan().wraps();
        let staged = tree.stage(&[Change::Leave(MemberId(0)), Change::Compact(40)], 10).unwrap();
        let plan = staged.plan();
        assert_eq!(plan.wraps(), alone + plan.compaction.wraps, "{strategy}");
        assert!(plan.compaction.moves == 40 && plan.compaction.wraps > 0, "{strategy}: {:?}", plan.compaction);
        assert!(plan.moved.iter().all(|m| !m.is_found(plan.largest_knode, plan.degree)), "all moves are named");
    }
}
