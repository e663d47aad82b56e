//! Members without multicast, at the pure core: who may subscribe, what they are sent, and when it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::time::Duration;

use crate::common::{World, identity};
use keyserver::core::{Admin, AdminReply, Input, MAX_SUBSCRIBERS, Status};
use keyserver::store::MemoryStore;
use protocol::request::{Act, Denial, MAX_OPERATIONS, Operations, Outcome};
use protocol::unit::Unit;
use protocol::{Beacon, MemberId};

type Who = (MemberId, u64);

fn subscribe(world: &mut World, who: Who, groups: &[&str]) -> (u64, Vec<Outcome>) {
    let outcomes = world.ask(who, 9, Operations::Subscriptions(groups.iter().map(|group| (*group).into()).collect()));
    (world.sessions, outcomes)
}

fn refresh(world: &mut World, group: &str) {
    world.admin(Admin::Refresh { group: group.into() }).unwrap();
    world.wait(Duration::from_millis(200));
}

fn status(world: &mut World) -> Status {
    let Ok(AdminReply::Status(status)) = world.admin(Admin::Status) else { panic!("no status") };
    *status
}

#[test]
fn a_subscriber_gets_beacons_and_units_and_nothing_twice() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let [m1, m2] = ["member/m1", "member/m2"].map(|name| world.register(name));
    let [_, _] = [m1, m2].map(|who| world.join(who, "news"));
    world.join(m1, "vip");
    world.wait(Duration::from_secs(1));
    world.pushed.clear();
    let (session, outcomes) = subscribe(&mut world, m1, &["news", "none", "vip"]);
    assert_eq!(outcomes, [Outcome::Subscribed, Outcome::Denied(Denial::UnknownGroup), Outcome::Subscribed]);
    assert_eq!(world.pushed.len(), 2, "the newest beacon of each group");
    assert!(world.pushed.iter().all(|(to, octets)| *to == [session] && Beacon::decode(octets).is_ok()));
    world.pushed.clear();
    world.datagrams.clear();
    refresh(&mut world, "news");
    let pushed: Vec<Vec<u8>> = world.pushed.iter().map(|(_, octets)| octets.clone()).collect();
    let needed = |octets: &&Vec<u8>| !Unit::decode(octets).is_ok_and(|unit| unit.is_spare());
    let expected: Vec<Vec<u8>> = world.datagrams.iter().filter(needed).cloned().collect();
    assert_eq!(pushed, expected, "the octets that are multicast, in their order");
    assert!(world.datagrams.len() > expected.len() && expected.len() == 2, "without copies");
    // Of a group that one is no member of, nothing.
    let (other, outcomes) = subscribe(&mut world, m2, &["vip"]);
    assert_eq!(outcomes, [Outcome::Denied(Denial::NotMember)]);
    world.pushed.clear();
    refresh(&mut world, "vip");
    assert!(!world.pushed.is_empty() && world.pushed.iter().all(|(to, _)| !to.contains(&other)));
    assert_eq!(status(&mut world).subscribers, 1);
}

#[test]
fn it_ends_with_the_membership_and_with_the_session() {
    let mut world = World::start(&MemoryStore::default(), 1);
    let members = [1, 2, 3].map(|number| world.register(&format!("member/m{number}")));
    members.iter().for_each(|who| drop(world.join(*who, "news")));
    let sessions = members.map(|who| subscribe(&mut world, who, &["news"]).0);
    world.pushed.clear();
    world.evict("member/m2").unwrap();
    assert_eq!(world.ended, [sessions[1]], "with the eviction, before anything of the new epoch is sent");
    world.wait(Duration::from_millis(200));
    world.change(members[0], 5, &[(Act::Leave, "news")]);
    assert_eq!(world.ended, [sessions[1], sessions[0]]);
    world.wait(Duration::from_millis(200));
    assert!(!world.pushed.is_empty() && world.pushed.iter().all(|(to, _)| !to.contains(&sessions[1])));
    // Whoever subscribes again is served in the new session only.
    let (again, _) = subscribe(&mut world, members[2], &["news"]);
    assert_eq!(world.ended.last(), Some(&sessions[2]));
    world.handle(Input::SubscriberGone { session: sessions[2], too_slow: false });
    world.pushed.clear();
    refresh(&mut world, "news");
    assert!(!world.pushed.is_empty() && world.pushed.iter().all(|(to, _)| *to == [again]));
    world.handle(Input::SubscriberGone { session: again, too_slow: true });
    world.pushed.clear();
    refresh(&mut world, "news");
    assert!(world.pushed.is_empty());
    let status = status(&mut world);
    assert_eq!((status.subscribers, status.subscribers_cut), (0, 1));
}

#[test]
fn subscribers_are_bounded_and_bad_subscriptions_change_nothing() {
    let mut world = World::start_with(&MemoryStore::default(), 1, |group| group.max_members = 1_000);
    let members: Vec<Who> = (0..=MAX_SUBSCRIBERS).map(|number| world.register(&format!("member/n{number}"))).collect();
    members.iter().for_each(|who| drop(world.join(*who, "news")));
    for who in &members[..MAX_SUBSCRIBERS] {
        assert_eq!(subscribe(&mut world, *who, &["news"]).1, [Outcome::Subscribed]);
    }
    let last = members[MAX_SUBSCRIBERS];
    assert_eq!(subscribe(&mut world, last, &["news"]).1, [Outcome::Denied(Denial::Unavailable)]);
    assert_eq!(subscribe(&mut world, members[0], &["news"]).1, [Outcome::Subscribed], "who is in may come again");
    assert_eq!(status(&mut world).subscribers, MAX_SUBSCRIBERS);
    world.admin(Admin::Evict { group: "news".into(), identity: identity("member/n0") }).unwrap();
    assert_eq!(subscribe(&mut world, last, &["news"]).1, [Outcome::Subscribed]);
    let before = (status(&mut world), world.events.len());
    let many = (0..=MAX_OPERATIONS).map(|number| format!("g{number}")).collect();
    world.send(last, 7, Operations::Subscriptions(many));
    assert!(matches!(world.replies.pop(), Some((_, None))), "refused whole");
    assert_eq!(status(&mut world), Status { misbehaved: 1, ..before.0 }, "but for the count");
    assert_eq!(world.events.len(), before.1 + 1, "and told");
}
