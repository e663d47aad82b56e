//! For every epoch, all principals without a right to it, with every plan ever sent, do not reach its root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{Rng, STRATEGIES, World, change_horses, degree, members, random_batch, seeds};
use keygraph::Change::{Compact, Join, Leave, Refresh};
use keygraph::closure::Knowledge;
use keygraph::{MemberId, Tree};

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

/// Whoever was moved and leaves afterwards opens nothing with what it knew of its old path.
#[test]
fn of_compactions() {
    for seed in seeds(20) {
        for d in [2, 3, 4, 8] {
            for strategy in STRATEGIES {
                let mut rng = Rng(seed);
                let mut world = World::new(Tree::filled(degree(d), strategy, 1, members((0..200).rev())).unwrap());
                world.step(&members(12..200).map(Leave).collect::<Vec<_>>());
                for _ in 0..30 {
                    let mut batch = random_batch(&mut rng, &world.tree, 20);
                    batch.push(Compact(1 + rng.below(4)));
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
