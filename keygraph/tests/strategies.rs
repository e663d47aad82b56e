//! What each strategy costs in full trees, exactly as its authors count: Wong, Gouda and Lam, "Secure Group
//! Communications Using Key Graphs". h is the number of keys that a member holds. Wraps for the joiner alone are those of
//! its sealed reply: one for each k-node above it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{STRATEGIES, degree, members};
use keygraph::Change::{Join, Leave};
use keygraph::{Change, Degree, MemberId, Plan, Strategy, Tree};

fn change(tree: &mut Tree, changes: &[Change]) -> Plan {
    let staged = tree.stage(changes, tree.epoch() + 1).unwrap();
    tree.merge(staged).unwrap()
}

/// A full tree of members who hold h keys each.
fn full(d: u8, h: u32, strategy: Strategy) -> (Tree, u32) {
    let count = u32::from(d).pow(h - 1);
    (Tree::filled(degree(d), strategy, 1, members(0..count)).unwrap(), count)
}

/// Encryptions and messages of a join, the joiner's own included.
fn join_costs(strategy: Strategy, h: usize) -> (usize, usize) {
    match strategy {
        Strategy::User => (h * (h + 1) / 2 - 1, h),
        Strategy::Key => (2 * (h - 1), h),
        Strategy::Group => (2 * (h - 1), 2),
        // One for each child of the root; d is added by the caller.
        Strategy::Hybrid => (2 * (h - 1), 1),
        Strategy::Chain => (h - 1, 2),
    }
}

/// Encryptions and messages of a leave.
fn leave_costs(strategy: Strategy, d: usize, h: usize) -> (usize, usize) {
    match strategy {
        Strategy::User => ((d - 1) * h * (h - 1) / 2, (d - 1) * (h - 1)),
        Strategy::Key => (d * (h - 1) - 1, (d - 1) * (h - 1)),
        Strategy::Group => (d * (h - 1) - 1, 1),
        Strategy::Hybrid => (d * (h - 1) - 1, d),
        Strategy::Chain => ((d - 1) * (h - 1), 1),
    }
}

#[test]
fn a_leave_and_a_join_in_full_trees() {
    for d in [2u8, 3, 4, 8] {
        // User- and key-oriented batches of more than 512 messages are sent group-oriented; single changes of
        // these trees have far fewer.
        for h in 2..=6u32 {
            for strategy in STRATEGIES {
                let (mut tree, count) = full(d, h, strategy);
                for member in [0, count / 2, count - 1] {
                    let (degree, h) = (usize::from(d), usize::try_from(h).unwrap());
                    let leave = change(&mut tree, &[Leave(MemberId(member))]);
                    let (wraps, mut messages) = leave_costs(strategy, degree, h);
                    // A binary root of a star has one child left: one message.
                    if strategy == Strategy::Hybrid && h == 2 {
                        messages = degree - 1;
                    }
                    assert_eq!((leave.wraps(), leave.messages()), (wraps, messages), "leave, {strategy}, d={d}, h={h}");
                    let join = change(&mut tree, &[Join(MemberId(member))]);
                    let own = tree.path(MemberId(member)).unwrap().len() - 1;
                    let (wraps, mut messages) = join_costs(strategy, h);
                    if strategy == Strategy::Hybrid {
                        // Those beside a joiner right below the root, and the joiner.
                        messages = if h == 2 { degree } else { degree + 1 };
                    }
                    assert_eq!(
                        (join.wraps() + own, join.messages() + 1),
                        (wraps, messages),
                        "join, {strategy}, d={d}, h={h}"
                    );
                }
            }
        }
    }
}

/// With splicing the leaver's parent goes and its one remaining child is wrapped for from further up: in a binary tree
/// one wrap less, user-oriented one of the longest lists.
#[test]
fn a_leave_from_a_binary_tree_with_splicing() {
    for h in 3..=6u32 {
        for strategy in STRATEGIES {
            let (mut tree, count) = full(2, h, strategy);
            tree.set_splicing(true);
            for member in [0, count / 2, count - 1] {
                let levels = usize::try_from(h).unwrap() - 1;
                let leave = change(&mut tree, &[Leave(MemberId(member))]);
                let expected = match strategy {
                    // Sums over the levels that remain of their new keys, the lowest for two children.
                    Strategy::User => levels * (levels + 1) / 2 - levels + (levels - 1),
                    Strategy::Chain => levels,
                    _ => 2 * levels - 2,
                };
                assert_eq!(leave.wraps(), expected, "{strategy}, h={h}");
                assert_eq!(leave.spliced.len(), 1);
                let join = change(&mut tree, &[Join(MemberId(member))]);
                // The k-node is back, and the member who was alone learns it.
                let above = if strategy == Strategy::User { (1..levels).sum() } else { levels - 1 };
                let back = if strategy == Strategy::User { levels } else { 1 };
                let expected = if strategy == Strategy::Chain { 1 } else { above + back };
                assert_eq!(join.wraps(), expected, "{strategy}, h={h}");
            }
        }
    }
    // As the literature counts four levels.
    let wraps = |strategy| {
        let (mut tree, _) = full(2, 4, strategy);
        tree.set_splicing(true);
        change(&mut tree, &[Leave(MemberId(5))]).wraps()
    };
    assert_eq!([Strategy::User, Strategy::Key, Strategy::Group].map(wraps), [5, 4, 4]);
}

/// A star costs n - 1 for a leave and 2 for a join, one of them the joiner's.
#[test]
fn a_star() {
    for strategy in STRATEGIES {
        for count in [2u32, 10, 100] {
            let mut tree = Tree::filled(Degree::STAR, strategy, 1, members(0..count)).unwrap();
            assert_eq!((tree.height(), tree.is_too_high()), (1, false));
            let leave = change(&mut tree, &[Leave(MemberId(1))]);
            assert_eq!(leave.wraps(), usize::try_from(count - 1).unwrap(), "{strategy}");
            let join = change(&mut tree, &[Join(MemberId(1))]);
            assert_eq!(join.wraps(), usize::from(strategy != Strategy::Chain), "{strategy}");
            assert_eq!(tree.path(MemberId(1)).unwrap().len(), 2);
        }
    }
}

/// What would be thousands of messages for one set of members each, and what would be one of megaoctets, is some dozens of
/// messages for a subtree each.
#[test]
fn a_large_batch_is_divided_by_subtrees() {
    for strategy in STRATEGIES {
        for (members_before, messages) in [(8_192, 1), (131_072, 8)] {
            let mut tree = Tree::filled(degree(2), strategy, 1, members(0..members_before)).unwrap();
            let batch: Vec<Change> = (0..members_before).step_by(2).map(|m| Leave(MemberId(m))).collect();
            let plan = change(&mut tree, &batch);
            let hybrid = strategy == Strategy::Hybrid && messages == 1;
            let expected = if hybrid { 2..=2 } else { messages..=2 * messages };
            assert!(
                strategy == Strategy::Hybrid || expected.contains(&plan.messages()),
                "{strategy}: {}",
                plan.messages()
            );
            for part in &plan.parts {
                let wraps: usize = part.entries.iter().map(|(_, wraps)| wraps.len()).sum();
                assert!(wraps <= 16_384 + 40, "{strategy}: {wraps} wraps in a message");
            }
            // Everybody is served by exactly one.
            if !plan.parts.is_empty() {
                for member in tree.members().step_by(997) {
                    let leaf = tree.place(member).unwrap();
                    assert_eq!(
                        plan.parts.iter().filter(|part| part.is_for(leaf, plan.degree)).count(),
                        1,
                        "{strategy}"
                    );
                }
            }
        }
    }
}

/// Whoever is given its keys in a reply needs no multicast: what fills a group from nothing is as short as a message gets.
#[test]
fn a_million_joins_are_a_short_message() {
    for strategy in STRATEGIES {
        let tree = Tree::new(degree(4), strategy, 0);
        let joins: Vec<Change> = members(0..1_000_000).map(Join).collect();
        let staged = tree.stage(&joins, 1).unwrap();
        assert_eq!((staged.plan().wraps(), staged.plan().messages()), (0, 1), "{strategy}");
        assert!(staged.plan().updates.iter().all(|update| update.silent));
    }
}

#[test]
fn a_strategy_is_changed_at_a_rekey() {
    let (mut tree, _) = full(3, 3, Strategy::User);
    for (strategy, wraps) in [(Strategy::User, 6), (Strategy::Key, 5), (Strategy::Hybrid, 5), (Strategy::Chain, 4)] {
        tree.set_strategy(strategy);
        assert_eq!(change(&mut tree, &[Leave(MemberId(4))]).wraps(), wraps, "{strategy}");
        change(&mut tree, &[Join(MemberId(4))]);
    }
}
