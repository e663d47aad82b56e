//! The store is compacted by time as well: how long what was stored stays openable must not depend on how much happens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::World;
use keyserver::core::{Admin, AdminReply, COMPACT_EVERY, Config};
use keyserver::store::{Journal, MemoryBackend, MemoryStore, SiteKey, Store};
use protocol::Beacon;

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);

/// Nothing happens here by itself but a beacon now and then.
fn quiet(config: &mut Config) {
    for group in &mut config.groups {
        (group.refresh, group.beacon, group.beacon_max) = (None, HOUR, HOUR);
    }
}

fn start(store: &MemoryStore, seed: u64) -> World {
    World::start_on(store.clone(), seed, quiet)
}

/// The snapshot, and how many records there are after it.
fn stored(store: &MemoryStore) -> (Option<Vec<u8>>, usize) {
    let loaded = store.clone().load().unwrap();
    (loaded.snapshot.map(|snapshot| snapshot.to_vec()), loaded.records.len())
}

#[test]
fn a_quiet_key_server_compacts_once_in_a_period() {
    let store = MemoryStore::default();
    let mut world = start(&store, 1);
    let who = world.register("member/m1");
    world.join(who, "news");
    world.wait(COMPACT_EVERY - MINUTE);
    assert_eq!(stored(&store).0, None, "records of this reign alone have a whole period");
    assert!(stored(&store).1 > 0);
    for day in 0..5 {
        world.wait(2 * MINUTE);
        assert!(stored(&store).0.is_some(), "day {day}");
        assert_eq!(stored(&store).1, 0, "day {day}: nothing is left that was stored before");
        world.admin(Admin::Refresh { group: "news".into() }).unwrap();
        world.wait(COMPACT_EVERY - 3 * MINUTE);
        assert_eq!(stored(&store).1, 1, "day {day}: and no more is written than needs be");
        world.wait(MINUTE);
    }
    // The timer says what it is for.
    let beacons = |(at, why): (Duration, &'static str)| (why != "a compaction is due").then_some(at);
    while let Some(at) = world.core.poll_timeout().and_then(beacons) {
        world.wait(at.saturating_sub(world.now));
    }
    assert!(world.core.poll_timeout().unwrap().0 <= world.now + COMPACT_EVERY);
    assert!(!world.halted);
}

#[test]
fn a_key_server_that_never_lives_for_a_period_compacts_a_minute_after_its_start() {
    let store = MemoryStore::default();
    for reign in 0..5 {
        let mut world = start(&store, reign + 1);
        let before = stored(&store);
        world.wait(MINUTE - Duration::from_secs(1));
        assert_eq!(stored(&store), before, "first the groups are rekeyed");
        world.wait(Duration::from_secs(2));
        if reign > 0 {
            assert_ne!(stored(&store).0, before.0, "reign {reign}");
            assert_eq!(stored(&store).1, 0, "reign {reign}: nothing of the reign before is left");
        }
        world.wait(COMPACT_EVERY - HOUR);
        world.admin(Admin::Refresh { group: "news".into() }).unwrap();
        assert!(stored(&store).1 > 0);
    }
}

#[test]
fn many_records_put_the_timer_off() {
    let store = MemoryStore::default();
    let mut world = World::start_on(store.clone(), 1, |config| {
        quiet(config);
        config.records_per_snapshot = 20;
    });
    world.wait(COMPACT_EVERY - HOUR);
    for _ in 0..20 {
        world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    }
    let compacted = stored(&store);
    assert!(compacted.0.is_some());
    world.wait(2 * HOUR);
    assert_eq!(stored(&store).0, compacted.0, "the last one was an hour ago");
}

#[test]
fn a_take_over_is_not_held_up_by_a_snapshot() {
    let small = |config: &mut Config| {
        quiet(config);
        config.records_per_snapshot = 100;
    };
    let backend = MemoryBackend::default();
    let journal = || {
        let key = SiteKey::in_memory(&[7; 32]);
        Journal::open(backend.clone(), key, Box::new(crate::common::Counter(backend.calls()))).unwrap()
    };
    let stored = || journal().load().unwrap().records.len();
    let mut active = World::start_on(journal(), 1, small);
    while stored() < 99 {
        active.admin(Admin::Refresh { group: "news".into() }).unwrap();
    }
    let mut standby = World::stand_by_on(journal(), 2, small);
    standby.take_over();
    assert_eq!(stored(), 99 + 1 + 2, "the reign, and both groups");
    standby.wait(MINUTE);
    assert_eq!(stored(), 0);
    // Reigns that end too soon, one after the other, do not pile up records for ever.
    let after_each = (0..300).map(|reign| {
        World::start_on(journal(), reign, small);
        stored()
    });
    let most = after_each.max().unwrap();
    assert!((390..=410).contains(&most), "{most}");
}

#[test]
fn a_standby_has_no_timer() {
    let store = MemoryStore::default();
    let _active = start(&store, 1);
    let standby = World::stand_by_with(&store, 2, |_| {});
    assert_eq!(standby.core.poll_timeout(), None);
}

#[test]
fn no_snapshot_holds_a_data_key_whose_time_is_over() {
    let store = MemoryStore::default();
    let mut world = start(&store, 1);
    let who = world.register("member/m1");
    let membership = world.join(who, "news");
    let context = Beacon::decode(&membership.beacon).unwrap().context;
    let key = *context.data(membership.path.root().unwrap()).expose();
    let holds = |world: &mut World| {
        let Ok(AdminReply::Backup(snapshot)) = world.admin(Admin::Backup) else { panic!("no backup") };
        snapshot.0.windows(32).any(|window| window == key)
    };
    world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    world.wait(MINUTE - Duration::from_secs(1));
    assert!(holds(&mut world), "a member that asks late still gets it");
    world.wait(Duration::from_secs(2));
    assert!(!holds(&mut world), "nobody does any more");
}
