//! One world for each seed, all invariants on each: agreement, rights, secrecy, durability, liveness.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;

use tests::check::all;
use tests::for_each_seed;
use tests::world::{Story, World, live};

#[test]
fn every_seed_holds_every_invariant() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for_each_seed(|world| {
        all(world);
        for (what, count) in &world.record.counts {
            *seen.entry(what).or_default() += count;
        }
    });
    println!("{seen:?}");
    if std::env::var("KEYSTONE_SEED").is_err() {
        let all = [
            "epochs",
            "joins",
            "leaves",
            "evictions",
            "lapses",
            "server crashes",
            "client crashes",
            "cut off",
            "replies lost",
            "datagrams lost",
            "datagrams doubled",
            "datagrams held back",
            "datagrams spoilt",
            "clocks leapt",
            "clocks went back",
            "re-synchronizations",
            "multicast rekeys",
        ];
        for what in all {
            assert!(seen.get(what).is_some_and(|count| *count > 10), "{what} hardly ever happened: {seen:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let summary = |world: &World| format!("{:?} {:?}", world.record.counts, world.record.groups);
    assert_eq!(summary(&live(Story::of(3))), summary(&live(Story::of(3))));
}
