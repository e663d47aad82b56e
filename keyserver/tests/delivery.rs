//! What the key server does so that messages arrive, and so that those who miss one are not a storm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::time::Duration;

use crate::common::{World, granted};
use fec::RepairScheme;
use keyserver::core::{Admin, Event, Input};
use keyserver::store::MemoryStore;
use protocol::request::{Act, Denial, Losses, Operations, Outcome, Resync};
use protocol::{Beacon, GroupId, MemberId};

fn beacons(world: &World) -> Vec<Beacon> {
    let all = world.datagrams.iter().filter_map(|datagram| Beacon::decode(datagram).ok());
    all.filter(|beacon| beacon.context.group == GroupId(1)).collect()
}

#[test]
fn beacons_rest_when_nothing_changes() {
    let mut world = World::start_with(&MemoryStore::default(), 1, |group| {
        (group.beacon, group.beacon_max) = (Duration::from_secs(1), Duration::from_secs(8));
    });
    let who = world.register("member/m1");
    world.join(who, "news");
    world.datagrams.clear();
    world.wait(Duration::from_secs(60));
    let quiet = beacons(&world);
    let intervals: Vec<u32> = quiet.iter().map(|beacon| beacon.interval_ms).collect();
    assert!(intervals.starts_with(&[1_000, 2_000, 4_000, 8_000, 8_000]), "{intervals:?}");
    assert!(quiet.windows(2).all(|pair| pair[1].counter > pair[0].counter));
    world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    world.wait(Duration::from_millis(2_900));
    let all = beacons(&world);
    let after: Vec<u32> = all[quiet.len()..].iter().map(|beacon| beacon.interval_ms).collect();
    assert_eq!(after, [1_000, 2_000], "one with the change, one soon after it");
}

#[test]
fn a_crowd_is_told_when_to_return() {
    let (crowd, mut world) = crowd(3_000);
    let mut later = Vec::new();
    for (turn, who) in (1..).zip(&crowd) {
        match world.resync(*who, (0, 0)) {
            Outcome::Later { after_ms } => later.push(after_ms),
            outcome => drop(granted(&outcome)),
        }
        assert_eq!(later.is_empty(), turn <= 1_000, "the first thousand are served at once: {turn}");
    }
    assert!(later.is_sorted() && later.last().is_some_and(|last| (450..=550).contains(last)), "{:?}", later.last());
    world.now += Duration::from_millis(later.last().copied().unwrap().into());
    granted(&world.resync(crowd[2_999], (0, 0)));
}

/// A group of so many members.
fn crowd(members: usize) -> (Vec<(MemberId, u64)>, World) {
    let mut world = World::start_with(&MemoryStore::default(), 1, |group| {
        (group.max_members, group.batch) = (members, Duration::from_secs(1));
    });
    let crowd: Vec<_> = (1..=members).map(|number| world.register(&format!("member/m{number}"))).collect();
    for who in &crowd {
        world.send(*who, 1, Operations::Changes(vec![(Act::Join, "news".into())]));
    }
    world.wait(Duration::from_secs(2));
    (crowd, world)
}

#[test]
fn nobody_takes_more_than_its_share() {
    let (crowd, mut world) = crowd(900);
    let mut later = Vec::new();
    for _ in 0..3_000 {
        match world.resync(crowd[0], (0, 0)) {
            Outcome::Later { after_ms } => later.push(after_ms),
            outcome => drop(granted(&outcome)),
        }
    }
    assert_eq!(later, [1_000; 2_996], "four at once, then one a second");
    // What it asked for beyond its share has cost nobody anything.
    for who in &crowd[1..] {
        granted(&world.resync(*who, (0, 0)));
    }
    world.now += Duration::from_secs(1);
    granted(&world.resync(crowd[0], (0, 0)));
    assert!(matches!(world.resync(crowd[0], (0, 0)), Outcome::Later { .. }));
}

/// Units and repair units of the last epoch.
fn units(world: &mut World) -> (usize, usize) {
    world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    let mut epochs = world.events.iter().rev().filter_map(|event| match event {
        Event::Epoch(epoch) if epoch.group == GroupId(1) => Some((epoch.units, epoch.repair_units)),
        _ => None,
    });
    epochs.next().unwrap()
}

#[test]
fn repair_units_follow_what_members_report() {
    let mut world = World::start_with(&MemoryStore::default(), 1, |group| {
        (group.repair, group.max_members) = (RepairScheme::Adaptive, 100);
    });
    let members: Vec<_> = (1..=40).map(|number| world.register(&format!("member/m{number}"))).collect();
    let joined = world.join(members[0], "news");
    assert_eq!(Beacon::decode(&joined.beacon).unwrap().report_one_in, 1, "all of a small group report");
    members[1..].iter().for_each(|who| drop(world.join(*who, "news")));
    let report = |world: &mut World, lost, bursts| {
        for (id, who) in (10u8..).zip(&members) {
            let losses = Losses { expected: 200, lost, bursts, blocks: 20 };
            let outcomes = world.ask(*who, id, Operations::Reports(vec![("news".into(), losses)]));
            assert_eq!(outcomes, [Outcome::Noted]);
        }
    };
    let (message, first) = units(&mut world);
    assert_eq!((message, first), (1, 2), "the default target");
    for _ in 0..40 {
        report(&mut world, 60, 55);
    }
    let (_, many) = units(&mut world);
    assert!(many >= 4, "{many} at a loss of 0.3");
    for _ in 0..40 {
        report(&mut world, 0, 0);
    }
    let (_, few) = units(&mut world);
    assert!(few <= 2, "{few} without losses");
    // Lies of all do not make the server send without bound.
    for _ in 0..40 {
        report(&mut world, u32::MAX, u32::MAX);
    }
    let (_, most) = units(&mut world);
    assert!(most <= 31, "{most}");
    let stranger = world.register("member/x");
    let losses = Losses { expected: 200, lost: 200, bursts: 1, blocks: 20 };
    let outcomes = world.ask(stranger, 3, Operations::Reports(vec![("news".into(), losses)]));
    assert_eq!(outcomes, [Outcome::Denied(Denial::NotMember)]);
    // With a request to re-synchronize too.
    let resync = Resync { group: "news".into(), seen: (0, 0), have: 0, losses };
    granted(&world.ask(members[0], 4, Operations::Resyncs(vec![resync]))[0]);
}

#[test]
fn a_clock_that_jumps_ends_nothing_early_and_sends_nothing_twice() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let who = world.register("member/m1");
    world.join(who, "news");
    world.wait(Duration::from_secs(10));
    let now = world.now;
    world.datagrams.clear();
    // Back, and further back, with a change on the way: the key before is good for as long as ever.
    world.now -= Duration::from_secs(9);
    world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    for _ in 0..1_000 {
        world.now = world.now.saturating_sub(Duration::from_millis(10));
        world.handle(Input::Timeout);
    }
    world.now = now;
    let membership = granted(&world.resync(who, (0, 0)));
    assert_eq!(membership.earlier.last().unwrap().remaining_ms, 5_000);
    world.wait(Duration::from_secs(1));
    let units = world.datagrams.iter().filter(|datagram| Beacon::decode(datagram).is_err()).count();
    assert_eq!(units, 3, "the copies of a unit");
    assert!(world.datagrams.len() <= 3 + 2, "and a beacon of each group at the most");
    for leap in [Duration::from_secs(3_600), Duration::from_secs(365 * 86_400)] {
        world.datagrams.clear();
        world.now += leap;
        world.handle(Input::Timeout);
        world.wait(Duration::from_secs(1));
        // In each of two groups a beacon that was due, and the refresh that was due with its own.
        assert!(world.datagrams.len() <= 2 * 5, "{} datagrams", world.datagrams.len());
        granted(&world.resync(who, (0, 0)));
    }
}
