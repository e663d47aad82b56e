//! A store that has lost something: who notices, what stops, and how it goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use crate::common::{World, granted};
use keyserver::core::{Admin, AdminError, AdminReply, Core, Event, LEAP};
use keyserver::store::{MemoryStore, Store};
use protocol::Beacon;
use protocol::request::{Act, Denial, Outcome};

/// A key server of ten epochs, its backup of some epochs before, and a member.
fn lost() -> (World, Vec<u8>, (protocol::MemberId, u64), Vec<u8>) {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    world.join(m1, "news");
    let Ok(AdminReply::Backup(backup)) = world.admin(Admin::Backup) else { panic!("no backup") };
    for _ in 0..10 {
        world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    }
    let newest = granted(&world.resync(m1, (0, 0))).beacon;
    (world, backup.0.to_vec(), m1, newest)
}

/// A store that holds this snapshot.
fn holding(snapshot: &[u8]) -> MemoryStore {
    let mut store = MemoryStore::default();
    store.snapshot(snapshot).unwrap();
    store
}

#[test]
fn a_member_that_has_seen_more_is_told_and_its_word_alone_stops_nothing() {
    let (_, backup, m1, newest) = lost();
    let mut world = World::start(&holding(&backup), 2);
    let seen = Beacon::decode(&newest).unwrap().context;
    // The new reign has a higher term; the epoch says that something is lost.
    assert!(world.epoch() < seen.epoch);
    assert_eq!(world.resync(m1, (seen.term, seen.epoch)), Outcome::Denied(Denial::Behind));
    assert!(world.admin(Admin::Refresh { group: "news".into() }).is_ok());
}

#[test]
fn a_signed_beacon_stops_the_group_for_good_and_only_that_group() {
    let (_, backup, m1, newest) = lost();
    let store = holding(&backup);
    let mut world = World::start(&store, 2);
    let seen = Beacon::decode(&newest).unwrap().context;
    let mut forged = newest.clone();
    forged[60] ^= 1;
    assert_ne!(world.witness(m1, forged), Outcome::Noted);
    let own = granted(&world.resync(m1, (0, 0))).beacon;
    world.witness(m1, own);
    assert!(world.admin(Admin::Refresh { group: "news".into() }).is_ok(), "its own beacon shows nothing new");
    let stranger = world.register("member/m2");
    assert_ne!(world.witness(stranger, newest.clone()), Outcome::Noted, "who is no member is no witness");

    assert_eq!(world.witness(m1, newest.clone()), Outcome::Noted);
    assert!(
        world
            .events
            .iter()
            .any(|event| matches!(event, Event::Stopped { seen: (_, epoch), .. } if *epoch == seen.epoch))
    );
    // The same again is no news.
    assert_eq!(world.witness(m1, newest), Outcome::Noted);
    assert_eq!(world.events.iter().filter(|event| matches!(event, Event::Stopped { .. })).count(), 1);
    // What was committed before is still sent.
    world.wait(std::time::Duration::from_secs(10));
    let still = |world: &mut World| {
        let epoch = world.epoch();
        let sent = world.datagrams.len();
        assert_eq!(world.admin(Admin::Refresh { group: "news".into() }), Err(AdminError::Stopped));
        assert_eq!(world.evict("member/m1"), Err(AdminError::Stopped));
        assert_eq!(world.change(stranger, 7, &[(Act::Join, "news")]), [Outcome::Denied(Denial::Behind)]);
        assert_eq!(world.resync(m1, (0, 0)), Outcome::Denied(Denial::Behind));
        world.wait(std::time::Duration::from_secs(300));
        assert_eq!(world.epoch(), epoch);
        let of_news = |datagram: &Vec<u8>| Beacon::decode(datagram).is_ok_and(|beacon| beacon.context.group.0 == 1);
        assert!(!world.datagrams[sent..].iter().any(of_news), "no beacon either");
    };
    still(&mut world);
    granted(&world.change(m1, 8, &[(Act::Join, "vip")])[0]);
    // A restart does not forget it.
    let mut again = World::start(&world.store, 3);
    still(&mut again);
}

#[test]
fn recovery_leaves_out_everything_that_anybody_can_have_seen() {
    let (_, backup, m1, newest) = lost();
    let seen = Beacon::decode(&newest).unwrap().context;
    let mut world = World::start(&holding(&backup), 2);
    assert_eq!(world.witness(m1, newest), Outcome::Noted);
    let mut store = world.store.clone();
    // What `keystone recover` does.
    let loaded = store.load().unwrap();
    let mut stopped = World::stand_by_with(&store, 3, |_| {});
    let (plan, record) = stopped.core.recover((0, 0)).unwrap();
    assert!(plan.term >= seen.term + LEAP);
    assert_eq!(plan.groups[0].2, seen.epoch + LEAP);
    store.append(&[&record]).unwrap();
    drop(loaded);
    let mut world = World::start(&store, 4);
    assert_eq!(world.epoch(), seen.epoch + LEAP);
    let beacon = Beacon::decode(&granted(&world.resync(m1, (seen.term, seen.epoch))).beacon).unwrap();
    assert!(beacon.context.term > plan.term);
    assert_eq!(beacon.context.epoch, seen.epoch + LEAP);
    assert!(world.admin(Admin::Refresh { group: "news".into() }).is_ok());
}

#[test]
fn a_restored_backup_issues_nothing_before_it_is_recovered() {
    let (_, backup, m1, newest) = lost();
    let seen = Beacon::decode(&newest).unwrap().context;
    let mut store = holding(&backup);
    store.append(&[&Core::restored_record()]).unwrap();
    let mut world = World::stand_by_with(&store, 2, |_| {});
    assert!(world.core.reign(world.now).unwrap_err().to_string().contains("keystone recover"));
    // The mark is in snapshots too.
    let snapshot = world.core.snapshot(world.now);
    let mut copy = holding(&snapshot);
    let mut world = World::stand_by_with(&copy, 2, |_| {});
    assert!(world.core.reign(world.now).is_err());
    let (plan, record) = world.core.recover((seen.term, seen.epoch)).unwrap();
    assert_eq!(plan.groups[0].2, seen.epoch + LEAP);
    copy.append(&[&record]).unwrap();
    let mut world = World::start(&copy, 4);
    assert_eq!(granted(&world.resync(m1, (seen.term, seen.epoch))).joined_epoch, 2);
}
