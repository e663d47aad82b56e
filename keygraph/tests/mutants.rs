//! Plans with a fault, and the same check of secrecy that the true ones pass: each must be caught.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{World, degree, members};
use keygraph::Change::{Join, Leave, Refresh, Renew};
use keygraph::{Change, KeyRef, MemberId, NodeId, Plan, Source, Strategy, Tree, Wrap};

/// All but user-oriented, where a fault at a k-node opens that k-node and not the ones above.
const STRATEGIES: [Strategy; 4] = [Strategy::Key, Strategy::Group, Strategy::Hybrid, Strategy::Chain];

/// Runs `changes` on a tree of 27 members, honestly and with the plan of the last batch altered.
fn caught(d: u8, strategy: Strategy, batches: &[&[Change]], mutate: impl Fn(&mut Plan, &Tree)) {
    let mut world = World::new(Tree::filled(degree(d), strategy, 1, members(0..27)).unwrap());
    let mut before = world.tree.clone();
    for batch in batches {
        before = world.tree.clone();
        world.step(batch);
    }
    assert_eq!(world.leak(), None, "the honest plans, degree {d}, {strategy}");
    let honest = world.plans.last().unwrap().clone();
    mutate(world.plans.last_mut().unwrap(), &before);
    assert_ne!(world.plans.last(), Some(&honest), "the mutant differs");
    assert_eq!(world.leak(), Some(world.tree.epoch()), "the mutant, degree {d}, {strategy}: {:#?}", world.plans.last());
}

const LEAVER: MemberId = MemberId(11);

fn wrap(kek: KeyRef) -> Wrap {
    Wrap { child: kek.node, kek }
}

/// The k-node keeps its old secret: its update is gone, and its parent's is given to it under the old version.
fn skip(plan: &mut Plan, before: &Tree, skipped: NodeId) {
    let old = before.key(skipped).unwrap();
    plan.updates.retain(|update| update.node != skipped);
    for update in &mut plan.updates {
        if update.source == (Source::Derive { from: skipped }) {
            // Deriving from the old version and wrapping under it open the same way: from it to the new secret.
            update.source = Source::Fresh;
            update.wraps.push(wrap(old));
        }
        for wrap in &mut update.wraps {
            if wrap.kek.node == skipped {
                wrap.kek = old;
            }
        }
    }
}

/// Every k-node that the leaver was below, but the root, which has no parent to go on with the old secret.
#[test]
fn one_k_node_is_skipped_on_a_leave() {
    for strategy in STRATEGIES {
        for d in [2, 3, 4] {
            let path = Tree::filled(degree(d), strategy, 1, members(0..27)).unwrap().path(LEAVER).unwrap();
            for knode in &path[1..path.len() - 1] {
                caught(d, strategy, &[&[Leave(LEAVER)]], |plan, before| skip(plan, before, knode.node));
            }
        }
    }
}

#[test]
fn a_secret_is_advanced_although_somebody_left() {
    for strategy in STRATEGIES {
        for d in [2, 3, 4] {
            for batch in [[Leave(LEAVER)].as_slice(), &[Renew(LEAVER)], &[Leave(LEAVER), Join(LEAVER)]] {
                for height in 0..2 {
                    caught(d, strategy, &[batch], |plan, before| {
                        let path = before.path(LEAVER).unwrap();
                        let old = path[path.len() - 1 - height];
                        let update = plan.updates.iter_mut().find(|update| update.node == old.node).unwrap();
                        update.source = Source::Advance { from: old.version };
                    });
                }
            }
        }
    }
}

#[test]
fn a_secret_is_derived_from_a_child_that_kept_its_own() {
    for d in [2, 3, 4] {
        caught(d, Strategy::Chain, &[&[Leave(LEAVER)]], |plan, before| {
            let Some(Source::Derive { from: child }) = plan.updates.last().map(|root| root.source) else {
                panic!("the root is derived on a leave")
            };
            skip(plan, before, child);
        });
    }
}

#[test]
fn a_secret_is_wrapped_under_the_leavers_leaf() {
    for strategy in STRATEGIES {
        for d in [2, 3, 4] {
            for batch in [[Leave(LEAVER)].as_slice(), &[Leave(LEAVER), Join(MemberId(99))], &[Renew(LEAVER)]] {
                caught(d, strategy, &[batch], |plan, before| {
                    plan.updates[0].wraps.push(wrap(before.leaf(LEAVER).unwrap()));
                });
            }
        }
    }
}

#[test]
fn a_secret_is_wrapped_under_its_old_one_although_somebody_left() {
    for strategy in STRATEGIES {
        caught(3, strategy, &[&[Leave(LEAVER)]], |plan, before| {
            plan.updates.last_mut().unwrap().wraps.push(wrap(before.root()));
        });
    }
}

/// A move is no way out: what the leaf was called before opens what it is called now.
#[test]
fn a_leaver_who_was_moved_keeps_a_wrap() {
    for strategy in STRATEGIES {
        // 27 members fill a tree of degree 3, so the next joiner displaces the first leaf.
        let first = NodeId(13);
        let tree = Tree::filled(degree(3), strategy, 1, members(0..27)).unwrap();
        let displaced = tree.members().find(|m| tree.leaf(*m).unwrap().node == first).unwrap();
        let batches: [&[Change]; 2] = [&[Join(MemberId(99))], &[Leave(displaced)]];
        caught(3, strategy, &batches, |plan, before| {
            plan.updates[0].wraps.push(wrap(before.leaf(displaced).unwrap()));
        });
    }
}

/// The other direction: whoever joins must not be given what was there before.
#[test]
fn a_joiner_is_given_the_old_root() {
    for strategy in STRATEGIES {
        let mut world = World::new(Tree::filled(degree(3), strategy, 1, members(0..20)).unwrap());
        world.step(&[Leave(LEAVER)]);
        world.step(&[Refresh]);
        let old = world.tree.root();
        world.step(&[Join(LEAVER)]);
        assert_eq!(world.leak(), None);
        world.grants.last_mut().unwrap().keys.push(old);
        assert_eq!(world.leak(), Some(3), "the epoch before the join, {strategy}");
    }
}
