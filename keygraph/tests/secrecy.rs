//! For every epoch, all principals without a right to it, with every plan ever sent, do not reach its root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Rng, STRATEGIES, World, change_horses, degree, members, random_batch, seeds};
use keygraph::Change::{Compact, Join, Leave, Refresh, Renew};
use keygraph::closure::Knowledge;
use keygraph::{Change, MemberId, Strategy, Tree};

#[test]
fn of_long_random_runs() {
    for seed in seeds(30) {
        for d in [2, 3, 4, 8] {
            for strategy in STRATEGIES {
                let mut rng = Rng(seed);
                let start = rng.below(30);
                let mut world = World::new(Tree::filled(degree(d), strategy, 1, members(0..start)).unwrap());
                for _ in 0..60 {
                    // Half the runs change horses in midstream.
                    if seed % 2 == 1 {
                        change_horses(&mut rng, &mut world.tree);
                    }
                    let batch = random_batch(&mut rng, &world.tree, 40);
                    world.step(&batch);
                }
                assert_eq!(world.leak(), None, "KEYGRAPH_SEED={seed}, degree {d}, {strategy}");
            }
        }
    }
}

/// Whoever got hold of nothing but the group key is out after a refresh.
#[test]
fn of_a_refresh() {
    for d in [2, 3, 4] {
        for strategy in STRATEGIES {
            for others in [vec![], vec![Join(MemberId(50))], vec![Leave(MemberId(3))]] {
                let mut world = World::new(Tree::filled(degree(d), strategy, 1, members(0..12)).unwrap());
                let batch = [vec![Refresh], others].concat();
                world.step(&batch);
                let mut thief = Knowledge::new();
                world.plans.iter().for_each(|plan| thief.observe(plan));
                thief.learn(world.roots[0]);
                assert!(!thief.reaches(world.roots[1]), "degree {d}, {strategy}, {batch:?}");
            }
        }
    }
}

/// Every single change and every pair of changes, to this depth, from this tree on.
struct Scope {
    sequences: u64,
    epochs: u64,
}

impl Scope {
    fn explore(&mut self, world: &World, ids: u32, depth: u32) {
        if depth == 0 {
            // Knowledge is monotone in time too: if no epoch is open at the end, none was on the way.
            self.sequences += 1;
            self.epochs += u64::try_from(world.roots.len()).unwrap();
            assert_eq!(world.leak(), None, "{:#?}", world.plans);
            return;
        }
        for batch in batches(world, ids) {
            let mut next = world.clone();
            next.step(&batch);
            self.explore(&next, ids, depth - 1);
        }
    }
}

/// All batches of one or two changes, but one of each kind that differs from another only by the names of strangers
/// who were never in, or by an order of no effect.
fn batches(world: &World, ids: u32) -> Vec<Vec<Change>> {
    let mut singles = vec![Refresh];
    let mut pairs = Vec::new();
    for member in members(0..ids) {
        if world.tree.contains(member) {
            singles.extend([Leave(member), Renew(member)]);
            pairs.push(vec![Leave(member), Join(member)]);
        } else {
            singles.push(Join(member));
        }
    }
    let seen = |member: &MemberId| world.grants.iter().any(|grant| grant.member == *member);
    let mut strangers = members(0..ids).filter(|member| !seen(member));
    let (first, second) = (strangers.next(), strangers.next());
    for (i, a) in singles.iter().enumerate() {
        for (j, b) in singles.iter().enumerate() {
            let both_join = matches!((a, b), (Join(_), Join(_)));
            if i != j && (i < j || both_join) && who(a) != who(b) {
                pairs.push(vec![*a, *b]);
            }
        }
    }
    let known = |change: &Change, first: Option<MemberId>| match change {
        Join(member) => seen(member) || Some(*member) == first,
        _ => true,
    };
    singles.retain(|change| known(change, first));
    pairs.retain(|pair| {
        known(&pair[0], first)
            && (known(&pair[1], first) || known(&pair[1], second) && matches!(pair[0], Join(m) if Some(m) == first))
    });
    singles.into_iter().map(|change| vec![change]).chain(pairs).collect()
}

fn who(change: &Change) -> Option<MemberId> {
    match change {
        Join(member) | Leave(member) | Renew(member) => Some(*member),
        Refresh | Compact(_) => None,
    }
}

fn exhaust(strategy: Strategy, d: u8, start: u32, ids: u32, depth: u32) {
    let mut scope = Scope { sequences: 0, epochs: 0 };
    let world = World::new(Tree::filled(degree(d), strategy, 1, members(0..start)).unwrap());
    scope.explore(&world, ids, depth);
    let Scope { sequences, epochs } = scope;
    println!(
        "{strategy}, degree {d}, {start} of {ids} members at first, depth {depth}: {sequences} sequences, {epochs} epochs"
    );
    assert!(sequences > 1000);
}

#[test]
fn of_all_small_cases_from_nobody() {
    for strategy in STRATEGIES {
        exhaust(strategy, 2, 0, 3, 5);
        exhaust(strategy, 3, 0, 3, 4);
    }
}

#[test]
fn of_all_small_cases_of_three_members_and_a_stranger() {
    for strategy in STRATEGIES {
        exhaust(strategy, 2, 3, 4, 3);
    }
}

#[test]
fn of_all_small_cases_of_four_members() {
    for strategy in STRATEGIES {
        exhaust(strategy, 2, 4, 4, 3);
        exhaust(strategy, 3, 4, 4, 3);
    }
}
