//! One world for each seed, all invariants on each: agreement, rights, secrecy, durability, liveness.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;

use tests::for_each_seed;
use tests::world::{Story, World, live};

/// All who hold the key of an epoch hold the same, and only one was ever signed.
fn agreement(world: &World) {
    for (group, record) in &world.record.groups {
        for (epoch, holders) in &record.held {
            let mut keys: Vec<_> = holders.values().collect();
            keys.dedup();
            assert_eq!(keys.len(), 1, "group {group} epoch {epoch}: {} keys", keys.len());
        }
        for (epoch, commitments) in &record.commitments {
            assert_eq!(commitments.len(), 1, "group {group} epoch {epoch} was signed with several keys");
        }
        let mut keys: Vec<_> = record.held.values().filter_map(|holders| holders.values().next()).collect();
        let epochs = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), epochs, "group {group}: two epochs share a key");
    }
}

/// Nobody holds, or was given, the key of an epoch in which it was no member.
fn rights(world: &World) {
    for (group, record) in &world.record.groups {
        for (epoch, holders) in &record.held {
            for member in holders.keys() {
                assert!(record.rights[epoch].contains(member), "group {group}: {member} holds epoch {epoch}");
            }
        }
        for (member, epoch) in &record.given_data {
            assert!(record.rights[epoch].contains(member), "group {group}: {member} was given epoch {epoch}");
        }
    }
}

/// All who have no right to an epoch, together, cannot compute its root from everything sent and given.
fn secrecy(world: &World) {
    for (group, record) in &world.record.groups {
        assert_eq!(record.broken_epochs(), Vec::<u64>::new(), "group {group}");
    }
}

/// After the faults everybody who wants to be in, and may, has the newest key.
fn liveness(world: &World) {
    for (id, name) in World::groups() {
        let position = world.position(id);
        for (number, client) in world.clients.iter().enumerate() {
            if !client.wants.contains(name) || client.evicted.contains(name) {
                continue;
            }
            let status = client.core.status().into_iter().find(|group| group.group == name);
            let at = status.as_ref().map(|group| (group.term, group.epoch));
            assert_eq!(at, Some((Some(position.0), Some(position.1))), "client {number} in {name}: {status:?}");
        }
    }
}

#[test]
fn every_seed_holds_every_invariant() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for_each_seed(|world| {
        assert_eq!(world.record.complaints, Vec::<String>::new());
        agreement(world);
        rights(world);
        secrecy(world);
        liveness(world);
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
