//! The pure core, driven by hand: one client at a time, every answer looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::time::Duration;

use crate::common::{World, granted, identity};
use keyserver::core::{Admin, AdminError, AdminReply, Event, Input};
use keyserver::store::{MemoryStore, Store};
use protocol::registration::{RefusalCode, ToRegistrar};
use protocol::request::{Act, Denial, Membership, Operations, Outcome, Request, RequestId};
use protocol::{Beacon, GroupId, MemberId, Reason};

#[test]
fn each_operation_is_decided_on_its_own() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    let m2 = world.register("member/m2");
    let outcomes = world.change(m2, 1, &[(Act::Join, "vip"), (Act::Join, "news"), (Act::Leave, "none")]);
    assert_eq!(outcomes[0], Outcome::Denied(Denial::Policy));
    granted(&outcomes[1]);
    assert_eq!(outcomes[2], Outcome::Denied(Denial::UnknownGroup));
    let outcomes = world.change(m1, 1, &[(Act::Join, "vip"), (Act::Leave, "news")]);
    granted(&outcomes[0]);
    assert_eq!(outcomes[1], Outcome::Denied(Denial::NotMember));
    for number in 3..=6 {
        let who = world.register(&format!("member/m{number}"));
        world.join(who, "news");
    }
    assert_eq!(world.change(m1, 2, &[(Act::Join, "news")]), [Outcome::Denied(Denial::Full)]);
}

#[test]
fn a_registrar_registers_whom_it_may_with_numbers_that_it_fetched() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let ToRegistrar::Refused { refusal, .. } = world.fetch("operator/root") else { panic!("not refused") };
    assert_eq!(refusal.code, RefusalCode::Identity);
    let refused = |answer| matches!(answer, ToRegistrar::Refused { .. });
    assert!(refused(world.hand_over(MemberId(1), 1)), "a number that nobody fetched");
    let (client, registration) = world.register("member/m1");
    assert!(refused(world.hand_over(client, registration)), "the same hand-over again");
    let ToRegistrar::Number { client: same, registration: later, .. } = world.fetch("member/m1") else { panic!() };
    assert_eq!((same, later), (client, registration + 1));
    world.handle(Input::RegistrarDown { link: 1 });
    world.handle(Input::RegistrarUp { link: 1, identity: identity("registrar/r1") });
    assert!(refused(world.hand_over(client, later)), "a number of another connection");
    let before = world.events.len();
    world.handle(Input::RegistrarUp { link: 2, identity: identity("registrar/other") });
    assert!(matches!(world.events[before], Event::Misbehaved { .. }));
    world.to_registrar.clear();
    world.handle(Input::RegistrarUp { link: 3, identity: identity("registrar/r1") });
    let ToRegistrar::ClientList { entries, first: true, last: true, .. } = &world.to_registrar[0] else { panic!() };
    assert_eq!(entries.len(), 1);
}

#[test]
fn a_new_registration_replaces_the_old_one_when_it_is_proved_and_renews_the_leaves() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let old = world.register("member/m1");
    let other = world.register("member/m2");
    world.join(other, "news");
    let before = world.join(old, "news");
    let new = world.register("member/m1");
    assert_eq!(new.0, old.0);
    // Both keys live until the new one is proved.
    assert!(world.core.individual_key(old.0, old.1).is_some() && world.core.individual_key(new.0, new.1).is_some());
    granted(&world.resync(old, (0, 0)));
    let epoch = world.epoch();
    let after = granted(&world.resync(new, (0, 0)));
    assert_eq!(world.epoch(), epoch + 1);
    assert!(before.path.held().all(|key| after.path.held().all(|fresh| fresh != key)), "nothing old is left");
    assert!(world.core.individual_key(old.0, old.1).is_none());
    let last = world.events.iter().rev().find_map(|event| match event {
        Event::Epoch(epoch) => Some(epoch.reason),
        _ => None,
    });
    assert_eq!(last, Some(Reason::Renew));
}

#[test]
fn asking_again_with_the_same_id_does_nothing_twice() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    let first = world.join(m1, "news");
    let epoch = world.epoch();
    assert_eq!(world.join(m1, "news").joined_epoch, first.joined_epoch);
    assert_eq!(world.epoch(), epoch);
    let left = world.change(m1, 5, &[(Act::Leave, "news")]);
    assert_eq!(left, [Outcome::Left { epoch: epoch + 1 }]);
    assert_eq!(world.change(m1, 5, &[(Act::Leave, "news")]), left);
    assert_eq!(world.change(m1, 6, &[(Act::Leave, "news")]), [Outcome::Denied(Denial::NotMember)]);
    assert_eq!(world.epoch(), epoch + 1);
}

#[test]
fn a_member_that_joins_again_takes_of_its_share_of_answers() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let (m1, m2) = (world.register("member/m1"), world.register("member/m2"));
    world.join(m2, "news");
    // What makes a member is not rationed, however often.
    for turn in 0..10 {
        assert!(matches!(world.change(m1, 10 + turn, &[(Act::Join, "news")])[0], Outcome::Granted(_)), "{turn}");
        assert!(matches!(world.change(m1, 30 + turn, &[(Act::Leave, "news")])[0], Outcome::Left { .. }), "{turn}");
    }
    let (joined, epoch) = (world.join(m1, "news"), world.epoch());
    // Its replies were lost: the same request is answered again.
    for _ in 0..4 {
        assert_eq!(world.join(m1, "news").path, joined.path);
    }
    let outcome = &world.change(m1, 2, &[(Act::Join, "news")])[0];
    assert!(matches!(outcome, Outcome::Later { after_ms: 1..=1_000 }), "{outcome:?}");
    assert!(matches!(world.resync(m1, (0, 0)), Outcome::Later { .. }), "it is one share");
    assert_eq!(world.epoch(), epoch);
    granted(&world.change(m2, 3, &[(Act::Join, "news")])[0]);
    world.wait(Duration::from_secs(1));
    granted(&world.change(m1, 4, &[(Act::Join, "news")])[0]);
    assert!(matches!(world.change(m1, 5, &[(Act::Join, "news")])[0], Outcome::Later { .. }));
    // To leave is not rationed, and to come back neither.
    assert!(matches!(world.change(m1, 6, &[(Act::Leave, "news")])[0], Outcome::Left { .. }));
    granted(&world.change(m1, 7, &[(Act::Join, "news")])[0]);
}

#[test]
fn a_member_that_waits_for_its_renewal_takes_of_its_share_too() {
    let mut world = World::start_with(&MemoryStore::default(), 1, |group| group.batch = Duration::from_secs(1));
    let m1 = world.register("member/m1");
    let join = || Operations::Changes(vec![(Act::Join, "news".into())]);
    world.send(m1, 1, join());
    world.wait(Duration::from_secs(2));
    let m1 = world.register("member/m1");
    world.replies.clear();
    for id in 10..16 {
        world.send(m1, id, join());
    }
    assert!(world.replies.is_empty(), "its leaf is to be new first");
    world.wait(Duration::from_secs(1));
    let outcomes: Vec<Outcome> = world.replies.drain(..).flat_map(|(_, reply)| reply.unwrap().outcomes).collect();
    let granted = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Granted(_))).count();
    let later = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Later { .. })).count();
    assert_eq!((granted, later), (4, 2), "{outcomes:?}");
}

#[test]
fn an_evicted_member_is_out_at_once_and_stays_out_until_it_is_admitted() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    assert_eq!(world.evict("member/m1"), Err(AdminError::NotMember));
    world.join(m1, "news");
    let epoch = world.epoch();
    assert_eq!(world.evict("member/m1"), Ok(AdminReply::Epoch(epoch + 1)));
    assert_eq!(world.evict("member/nobody"), Err(AdminError::UnknownClient));
    assert_eq!(world.resync(m1, (0, 0)), Outcome::Denied(Denial::Evicted));
    assert_eq!(world.change(m1, 7, &[(Act::Join, "news")]), [Outcome::Denied(Denial::Evicted)]);
    let store = world.store.clone();
    let mut world = World::start(&store, 2);
    let outcomes = world.change(m1, 8, &[(Act::Join, "news")]);
    assert_eq!(outcomes, [Outcome::Denied(Denial::Evicted)], "after a restart too");
    let admit = Admin::Admit { group: "news".into(), identity: identity("member/m1") };
    assert_eq!(world.admin(admit), Ok(AdminReply::Done));
    world.join(m1, "news");
}

#[test]
fn a_reply_holds_earlier_data_keys_of_the_members_own_epochs_only() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    let m2 = world.register("member/m2");
    world.join(m1, "news");
    let joined = world.join(m2, "news").joined_epoch;
    for _ in 0..3 {
        world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    }
    let membership = granted(&world.resync(m2, (0, 0)));
    let epochs: Vec<u64> = membership.earlier.iter().map(|key| key.epoch).collect();
    assert_eq!(epochs, [joined, joined + 1, joined + 2]);
    world.now += Duration::from_secs(90);
    assert!(granted(&world.resync(m2, (0, 0))).earlier.is_empty(), "nobody needs them any more");
}

#[test]
fn a_client_that_has_seen_more_than_the_key_server_knows_is_told_so() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    world.join(m1, "news");
    let epoch = world.epoch();
    granted(&world.resync(m1, (1, epoch)));
    assert_eq!(world.resync(m1, (1, epoch + 1)), Outcome::Denied(Denial::Behind));
    assert_eq!(world.resync(m1, (2, 1)), Outcome::Denied(Denial::Behind));
}

#[test]
fn a_restart_gives_the_same_state_a_higher_term_and_one_rekey_for_each_group() {
    let store = MemoryStore::default();
    let mut world = World::start(&store, 1);
    let who: Vec<_> = (1..=4).map(|number| world.register(&format!("member/m{number}"))).collect();
    for member in &who {
        world.join(*member, "news");
    }
    world.change(who[1], 9, &[(Act::Leave, "news")]);
    let before = granted(&world.resync(who[0], (0, 0)));
    let epoch = world.epoch();
    let mut world = World::start(&store, 2);
    assert_eq!(world.epoch(), epoch + 1);
    let after = granted(&world.resync(who[0], (1, epoch)));
    let (old, new) = (Beacon::decode(&before.beacon).unwrap(), Beacon::decode(&after.beacon).unwrap());
    assert_eq!((old.context.term, new.context.term), (1, 2));
    assert_ne!(old.context.incarnation, new.context.incarnation);
    assert_eq!(after.joined_epoch, before.joined_epoch);
    // All but the root is what it was, so that members go on by multicast alone.
    let below = |membership: &Membership| membership.path.held().skip(1).collect::<Vec<_>>();
    assert_eq!(below(&before), below(&after));
    assert_eq!(world.change(who[1], 9, &[(Act::Leave, "news")]), [Outcome::Left { epoch }], "asked again");
    assert_eq!(world.resync(who[1], (0, 0)), Outcome::Denied(Denial::NotMember));
}

#[test]
fn a_snapshot_and_the_records_after_it_give_what_all_records_gave() {
    let store = MemoryStore::default();
    let mut world = World::start(&store, 1);
    let m1 = world.register("member/m1");
    let m2 = world.register("member/m2");
    world.join(m1, "news");
    world.join(m2, "news");
    world.change(m2, 9, &[(Act::Leave, "news")]);
    let mut refreshes = 0;
    while store.clone().load().unwrap().snapshot.is_none() {
        world.admin(Admin::Refresh { group: "news".into() }).unwrap();
        refreshes += 1;
        assert!(refreshes < 5_000, "no snapshot was ever written");
    }
    world.admin(Admin::Refresh { group: "news".into() }).unwrap();
    let (before, epoch) = (granted(&world.resync(m1, (0, 0))), world.epoch());
    assert!(store.clone().load().unwrap().records.len() < 10);
    let mut world = World::start(&store, 2);
    let after = granted(&world.resync(m1, (1, epoch)));
    let places = |membership: &Membership| membership.path.held().map(|key| key.node).collect::<Vec<_>>();
    assert_eq!((places(&before), before.joined_epoch), (places(&after), after.joined_epoch));
    assert_eq!(after.earlier.last().map(|key| key.epoch), Some(epoch));
    assert!(matches!(world.change(m2, 9, &[(Act::Leave, "news")])[0], Outcome::Left { .. }));
}

#[test]
fn what_could_not_be_written_is_never_acknowledged_nor_sent() {
    let store = MemoryStore::default();
    let mut world = World::start(&store, 1);
    let m1 = world.register("member/m1");
    let m2 = world.register("member/m2");
    world.join(m1, "news");
    world.datagrams.clear();
    store.fail_after(0);
    let changes = Operations::Changes(vec![(Act::Join, "news".into())]);
    let request = Request { id: RequestId([3; 16]), operations: changes }.encode();
    world.handle(Input::Request { session: 99, client: m2.0, registration: m2.1, message: &request });
    world.now += Duration::from_secs(60);
    world.handle(Input::Timeout);
    assert!(world.halted && world.replies.is_empty() && world.datagrams.is_empty());
    assert_eq!(world.core.poll_timeout(), None);
}

#[test]
fn malformed_requests_and_frames_change_nothing() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    world.join(m1, "news");
    let epoch = world.epoch();
    for message in [&b""[..], b"x", &[1; 40], &[0xff; 9_000]] {
        world.handle(Input::Request { session: 50, client: m1.0, registration: m1.1, message });
        assert_eq!(world.replies.pop(), Some((50, None)));
        world.handle(Input::FromRegistrar { link: 1, frame: message });
    }
    world.handle(Input::Request { session: 51, client: MemberId(77), registration: 1, message: &[1] });
    assert_eq!(world.replies.pop(), Some((51, None)));
    assert_eq!(world.epoch(), epoch);
}

#[test]
fn beacons_come_on_time_rise_and_are_paced() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let m1 = world.register("member/m1");
    world.join(m1, "news");
    let mut last = 0;
    for _ in 0..5 {
        world.datagrams.clear();
        let (at, _) = world.core.poll_timeout().unwrap();
        assert!(at <= world.now + Duration::from_secs(2));
        world.now = at.max(world.now);
        world.handle(Input::Timeout);
        let of_news = world.datagrams.iter().filter_map(|datagram| Beacon::decode(datagram).ok());
        for beacon in of_news.filter(|beacon| beacon.context.group == GroupId(1)) {
            assert!(beacon.counter > last);
            last = beacon.counter;
        }
    }
    assert!(last > 1);
}
