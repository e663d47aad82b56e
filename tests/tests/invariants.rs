//! One world for each seed, all invariants on each: agreement, rights, secrecy, durability, liveness.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use tests::check::all;
use tests::for_each_seed;
use tests::world::{Roll, Story, World, live};

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

/// While members come and go, and all kinds of faults happen, the key that signs is rolled. Members hear of it before, some
/// time after, or long after; the last find nothing to believe in between, and are back when they have heard.
#[test]
fn the_key_that_signs_is_rolled_and_nobody_stays_out() {
    let seconds = Duration::from_secs;
    let (switch, late, very_late) = (seconds(30), seconds(45), seconds(70));
    let mut silenced = 0;
    for seed in 1..=8 {
        println!("seed {seed}");
        let people = 9;
        let heard = |client: usize| [seconds(15), late, very_late][client % 3];
        let mut rolls: Vec<(Duration, Roll)> =
            (0..people).map(|client| (heard(client), Roll::Trusts(client, vec![5, 6]))).collect();
        rolls.push((switch, Roll::Signs(6)));
        rolls.extend((0..people).map(|client| (seconds(75), Roll::Trusts(client, vec![6]))));
        let published = seed % 3 == 0;
        let world = live(Story { people: Some(people), rolls, published, ..Story::of(seed) });
        all(&world);
        assert_eq!(world.record.counts["keys rolled"], 19);
        silenced += world.record.counts.get("replies not believed").copied().unwrap_or(0);
        for ((client, group, epoch), (at, _)) in &world.record.installed {
            // What the old key has signed may still be on its way.
            let is_silent = (switch + seconds(3)..heard(*client)).contains(at);
            assert!(!is_silent, "client {client} has installed epoch {epoch} of group {group} at {at:?}");
        }
    }
    assert!(silenced > 20, "{silenced} replies were not believed");
}

/// The same, and nobody gives members a file: they ask the key server, which may die at any time.
#[test]
fn members_fetch_the_certificate_that_names_the_new_key() {
    let seconds = Duration::from_secs;
    let (mut fetched, mut silenced) = (0, 0);
    for seed in 1..=8 {
        println!("seed {seed}");
        let people = 9;
        let mut rolls: Vec<(Duration, Roll)> = (0..people).map(|at| (seconds(2), Roll::Trusts(at, vec![5]))).collect();
        rolls.push((seconds(15), Roll::Issues(vec![5, 6])));
        rolls.push((seconds(30), Roll::Signs(6)));
        rolls.push((seconds(50), Roll::Issues(vec![6])));
        let world = live(Story { people: Some(people), rolls, ..Story::of(seed) });
        all(&world);
        let count = |what| world.record.counts.get(what).copied().unwrap_or(0);
        (fetched, silenced) = (fetched + count("certificates fetched"), silenced + count("replies not believed"));
    }
    assert!(fetched >= 60 && silenced >= 50, "{fetched} certificates, {silenced} replies were not believed");
}
