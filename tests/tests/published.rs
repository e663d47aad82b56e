//! Members that hear nothing and read what is published: the same invariants as with multicast, with every page ever written
//! before the attacker's eyes; and with the key server dead for good, whoever comes back late still gets the newest key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use client_ctl::core::{GroupStatus, Status};
use tests::check::all;
use tests::world::{Story, World, live};

fn seeds(many: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("KEYSTONE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("KEYSTONE_SEEDS").unwrap_or(many)).collect(),
    }
}

#[test]
fn every_seed_holds_every_invariant() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds(25) {
        println!("seed {seed}");
        let world = live(Story { published: true, ..Story::of(seed) });
        all(&world);
        for (what, count) in &world.record.counts {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{seen:?}");
    if std::env::var("KEYSTONE_SEED").is_err() {
        for what in ["epochs", "evictions", "server crashes", "cut off", "multicast rekeys", "pages written"] {
            assert!(seen.get(what).is_some_and(|count| *count > 10), "{what} hardly ever happened: {seen:?}");
        }
    }
}

/// The key server dies while half of the members are cut off, and stays dead. Each comes back, and holds at least what the pages have and the
/// epochs that go on from there.
#[test]
fn pages_alone_are_enough() {
    let mut read = 0;
    for seed in seeds(25) {
        println!("seed {seed}");
        let dead_from = Duration::from_secs(60);
        let story = Story { published: true, dead_from: Some(dead_from), cut_off_half: true, ..Story::of(seed) };
        let world = live(story);
        assert_eq!(world.record.complaints, Vec::<String>::new());
        for (id, name) in World::groups() {
            let newest = world.readable(id);
            for (number, client) in world.clients.iter().enumerate() {
                let Some((member, _)) = client.core.registration() else { continue };
                let status = client.core.status().into_iter().find(|group| group.group == name);
                // Who wants to join anew, or to leave, needs a key server.
                let wants = client.wants.contains(name);
                let is_in = |status: &GroupStatus| wants && matches!(status.status, Status::Member | Status::Stale);
                let Some(status) = status.filter(is_in) else { continue };
                if world.record.groups[&id].rights[&newest.1].contains(&member) && status.left_epoch.is_none() {
                    let at = (status.term, status.epoch);
                    assert!(
                        at >= (Some(newest.0), Some(newest.1)),
                        "{newest:?}: client {number} in {name}: {status:?}"
                    );
                    read += status.counters.pages_read;
                }
            }
        }
    }
    println!("pages were read {read} times");
    assert!(read > 50 || std::env::var("KEYSTONE_SEED").is_ok());
}
