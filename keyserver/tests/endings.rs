//! The end of admission, in simulated time: each cause evicts at its time, with one rekey for all whom it concerns, is told apart in
//! record, status and answer, and survives a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::World;
use keygraph::closure::Knowledge;
use keygraph::{KeyRef, NodeId};
use keyserver::core::{Access, Admin, AdminReply, Cause, Event, Grant, Input, Members, Rule};
use keyserver::store::MemoryStore;
use protocol::identity::IdentityPattern;
use protocol::registration::ToRegistrar;
use protocol::request::{Act, Denial, Losses, Operations, Outcome, Role};
use protocol::{Authentication, GroupId, MemberId};

/// The wall clock at the start of each test, in seconds since 1970.
const T0: u64 = 1_800_000_000;

fn rule(who: &str, grant: Option<Grant>) -> Rule {
    let who = IdentityPattern::parse(&format!("spiffe://demo/{who}")).unwrap();
    Rule { who, kinds: Authentication::ALL.to_vec(), grant, place: "test".into() }
}

fn access(grant: Grant) -> Access {
    Access::new([rule("member/*", Some(grant))]).unwrap()
}

/// One group for members on these terms, which no refresh disturbs.
fn world(store: &MemoryStore, seed: u64, grant: Grant) -> World {
    World::start_on(store.clone(), seed, move |config| {
        let everybody = IdentityPattern::parse("spiffe://demo/member/*").unwrap();
        config.registrars[0].1 = Authentication::ALL.map(|kind| (kind, everybody.clone())).into();
        config.groups.truncate(1);
        for group in &mut config.groups {
            (group.access, group.refresh, group.max_members) = (access(grant), None, 1_000);
        }
    })
}

/// What the tests ask of a world.
trait Ask {
    /// Time passes, with the wall clock beside it.
    fn pass(&mut self, seconds: u64);
    fn admit(&mut self, name: &str, kind: Authentication, ends: u64, credential: u8) -> (MemberId, u64);
    fn members(&mut self) -> Members;
    /// Who was evicted why, in which epochs.
    fn endings(&self) -> Vec<(u64, MemberId, Option<Cause>)>;
    /// The computed attacker: whoever has ended reaches the root of no epoch from then on, until it joins again.
    fn nothing_opens(&self);
}

impl Ask for World {
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.wait(Duration::from_secs(1));
            let seconds = T0 + self.now.as_secs();
            self.handle(Input::Clock { seconds });
        }
    }

    fn admit(&mut self, name: &str, kind: Authentication, ends: u64, credential: u8) -> (MemberId, u64) {
        let who = self.register_with(&format!("member/{name}"), kind, ends, vec![credential; 33]).unwrap();
        self.join(who, "news");
        who
    }

    fn members(&mut self) -> Members {
        match self.admin(Admin::Members { group: "news".into() }) {
            Ok(AdminReply::Members(members)) => members,
            other => panic!("{other:?}"),
        }
    }

    fn endings(&self) -> Vec<(u64, MemberId, Option<Cause>)> {
        let ended = |event: &Event| match event {
            Event::Ended { epoch, client, cause, .. } => Some((*epoch, *client, *cause)),
            _ => None,
        };
        self.events.iter().filter_map(ended).collect()
    }

    fn nothing_opens(&self) {
        let mut everything = Knowledge::new();
        let mut rights: Vec<(u64, BTreeSet<MemberId>)> = Vec::new();
        let mut given: Vec<(MemberId, KeyRef)> = Vec::new();
        for event in &self.events {
            match event {
                Event::Epoch(epoch) if epoch.group == GroupId(1) => {
                    everything.observe(&epoch.plan);
                    let mut now = rights.last().map(|(_, members)| members.clone()).unwrap_or_default();
                    for (member, _) in &epoch.plan.left {
                        now.remove(member);
                    }
                    now.extend(epoch.plan.joined.iter().map(|(member, _)| *member));
                    rights.push((epoch.epoch, now));
                }
                Event::Given { group: GroupId(1), client, keys, .. } => {
                    given.extend(keys.iter().map(|key| (*client, *key)));
                }
                _ => {}
            }
        }
        assert!(rights.len() > 2);
        for (epoch, members) in rights {
            let mut attacker = everything.clone();
            given.iter().filter(|(member, _)| !members.contains(member)).for_each(|(_, key)| attacker.learn(*key));
            assert!(!attacker.reaches(KeyRef { node: NodeId::ROOT, version: epoch }), "epoch {epoch} opens");
        }
    }
}

fn join(world: &mut World, who: (MemberId, u64), id: u8) -> Outcome {
    world.change(who, id, &[(Act::Join, "news")]).remove(0)
}

#[test]
fn credentials_that_end_in_the_same_second_end_in_one_epoch() {
    let store = MemoryStore::default();
    let mut world = world(&store, 1, Grant::ALL);
    world.pass(1);
    let at = T0 + 60;
    let ids: Vec<_> = (0..20u8)
        .map(|n| {
            world.pass(u64::from(n % 2));
            let kind = Authentication::ALL[usize::from(n % 2)];
            world.admit(&format!("m{n}"), kind, if n < 15 { at } else { at + 1_000 }, n)
        })
        .collect();
    let before = world.epoch();
    world.pass(at - 2 - T0 - world.now.as_secs());
    assert_eq!((world.endings(), world.epoch()), (vec![], before), "not before its time");
    world.pass(4);
    assert_eq!(world.epoch(), before + 1, "one rekey for all");
    let expected: Vec<_> = ids[..15].iter().map(|(id, _)| (before + 1, *id, Some(Cause::Expired))).collect();
    assert_eq!(world.endings(), expected);
    for who in &ids[..15] {
        assert_eq!(world.resync(*who, (0, 0)), Outcome::Denied(Denial::CredentialEnded));
        assert_eq!(join(&mut world, *who, 9), Outcome::Denied(Denial::CredentialEnded));
    }
    // With a new credential one is in again.
    let m0 = world.register_with("member/m0", Authentication::Certificate, at + 500, vec![77; 33]).unwrap();
    assert!(matches!(join(&mut world, m0, 10), Outcome::Granted(_)));
    // One that has ended is not even handed over.
    let refused = world.register_with("member/m1", Authentication::Token, at, vec![78; 33]).unwrap_err();
    assert!(matches!(refused, ToRegistrar::Refused { refusal, .. } if refusal.text.contains("has ended")));
    world.nothing_opens();
}

#[test]
fn a_newer_credential_carries_the_membership_on_once_it_is_proved() {
    let mut world = world(&MemoryStore::default(), 2, Grant::ALL);
    world.pass(1);
    let old = world.admit("m1", Authentication::Certificate, T0 + 30, 1);
    let idle = world.admit("m2", Authentication::Certificate, T0 + 30, 2);
    let new = world.register_with("member/m1", Authentication::Certificate, T0 + 90, vec![3; 33]).unwrap();
    world.register_with("member/m2", Authentication::Certificate, T0 + 90, vec![4; 33]).unwrap();
    assert!(matches!(world.resync(new, (0, 0)), Outcome::Granted(_)), "proved");
    world.pass(50);
    let epoch = world.epoch();
    assert_eq!(world.endings(), [(epoch, idle.0, Some(Cause::Expired))], "one that was not proved carries nothing");
    assert!(world.core.individual_key(old.0, old.1).is_none());
    world.pass(50);
    assert_eq!(world.endings().last(), Some(&(epoch + 1, new.0, Some(Cause::Expired))));
    world.nothing_opens();
}

#[test]
fn the_end_of_a_membership_comes_by_the_clock_of_the_day() {
    let mut world = world(&MemoryStore::default(), 3, Grant { until: Some(T0 + 40), ..Grant::ALL });
    world.pass(1);
    let m1 = world.admit("m1", Authentication::Certificate, u64::MAX, 1);
    let m2 = world.admit("m2", Authentication::Token, T0 + 3_600, 2);
    world.pass(30);
    assert_eq!(world.endings(), []);
    // The clock is put back: the end comes later, and comes. It is put ahead again: nothing begins anew.
    world.handle(Input::Clock { seconds: T0 });
    world.pass(20);
    let epoch = world.epoch();
    assert_eq!(world.endings(), [(epoch, m1.0, Some(Cause::Ended)), (epoch, m2.0, Some(Cause::Ended))]);
    world.handle(Input::Clock { seconds: T0 });
    assert_eq!(join(&mut world, m1, 9), Outcome::Denied(Denial::MembershipEnded));
    assert_eq!(world.resync(m2, (0, 0)), Outcome::Denied(Denial::MembershipEnded));
    world.nothing_opens();
}

#[test]
fn a_clock_that_leaps_by_hours_ends_nothing_for_ten_minutes() {
    let mut world = world(&MemoryStore::default(), 4, Grant::ALL);
    world.pass(1);
    world.admit("m1", Authentication::Certificate, T0 + 7_200, 1);
    world.handle(Input::Clock { seconds: T0 + 86_400 });
    assert!(world.events.iter().any(|event| matches!(event, Event::ClockLeapt { .. })));
    assert_eq!(world.endings(), []);
    // It was a slip.
    world.pass(700);
    assert_eq!(world.endings(), []);
    // It stays so.
    for second in 0..=600 {
        assert_eq!(world.endings(), [], "after {second} s");
        world.handle(Input::Clock { seconds: T0 + 86_400 + world.now.as_secs() });
        world.wait(Duration::from_secs(1));
    }
    assert_eq!(world.endings().len(), 1);
}

#[test]
fn a_silent_member_is_out_after_its_lease_and_may_come_back() {
    let lease = Some(Duration::from_secs(30));
    let store = MemoryStore::default();
    let mut world = world(&store, 5, Grant { lease, ..Grant::ALL });
    world.pass(1);
    let [m1, m2, m3, m4] =
        [1, 2, 3, 4].map(|n: u8| world.admit(&format!("m{n}"), Authentication::Certificate, u64::MAX, n));
    let leases: Vec<u32> = world.members().members.iter().map(|member| member.lease_s).collect();
    assert_eq!(leases, [30; 4]);
    // Three show signs of life, each in its own way; one is silent.
    for round in 0..6 {
        world.pass(10);
        let report = vec![("news".into(), Losses::default())];
        assert_eq!(world.ask(m1, 20 + round, Operations::Reports(report)), [Outcome::Noted]);
        assert!(matches!(world.resync(m2, (0, 0)), Outcome::Granted(_)));
        assert!(matches!(join(&mut world, m3, 40 + round), Outcome::Granted(_)));
    }
    let epoch = world.epoch();
    assert_eq!(world.endings(), [(epoch, m4.0, Some(Cause::Lapsed))]);
    assert_eq!(world.resync(m4, (0, 0)), Outcome::Denied(Denial::Lapsed));
    assert!(matches!(join(&mut world, m4, 9), Outcome::Granted(_)), "it is not kept out");
    // A key server that was stopped for an hour has heard nobody, and holds it against nobody.
    let before = world.endings();
    world.resync(m4, (0, 0));
    world.now += Duration::from_secs(3_600);
    world.handle(Input::Timeout);
    assert_eq!(world.endings(), before);
    world.pass(20);
    world.resync(m4, (0, 0));
    world.pass(15);
    assert_eq!(world.endings().len(), 4, "three have not come back since");
    for who in [m1, m2, m3] {
        assert!(matches!(join(&mut world, who, 9), Outcome::Granted(_)));
    }
    // A new reign cannot know who was silent before it: everybody has a whole lease, and those who are gone end together.
    let mut other = self::world(&store, 6, Grant { lease, ..Grant::ALL });
    other.pass(29);
    assert_eq!(other.endings(), []);
    other.pass(3);
    let epoch = other.epoch();
    let all: Vec<_> = [m1, m2, m3, m4].iter().map(|(id, _)| (epoch, *id, Some(Cause::Lapsed))).collect();
    assert_eq!(other.endings(), all);
    world.nothing_opens();
}

#[test]
fn revoked_credentials_end_memberships_and_keys() {
    let store = MemoryStore::default();
    let mut world = world(&store, 7, Grant::ALL);
    world.pass(1);
    let [m1, m2, m3] = [1, 2, 3].map(|n: u8| world.admit(&format!("m{n}"), Authentication::Certificate, u64::MAX, n));
    let newer = world.register_with("member/m2", Authentication::Certificate, u64::MAX, vec![9; 33]).unwrap();
    let before = world.epoch();
    world.handle(Input::Revoked([vec![1; 33], vec![2; 33]].into()));
    assert_eq!(world.epoch(), before + 1);
    let expected = [m1, m2].map(|(id, _)| (before + 1, id, Some(Cause::Revoked)));
    assert_eq!(world.endings(), expected);
    assert!(world.core.individual_key(m1.0, m1.1).is_none() && world.core.individual_key(m2.0, m2.1).is_none());
    let refused = world.register_with("member/m1", Authentication::Certificate, u64::MAX, vec![1; 33]).unwrap_err();
    assert!(matches!(refused, ToRegistrar::Refused { refusal, .. } if refusal.text.contains("revoked")));
    // Who has another credential by now comes back with that.
    assert!(matches!(join(&mut world, newer, 9), Outcome::Granted(_)));
    world.nothing_opens();
    // The keys are dropped for good, whatever a later list says.
    let mut world = self::world(&store, 8, Grant::ALL);
    assert!(world.core.individual_key(m1.0, m1.1).is_none() && world.core.individual_key(m3.0, m3.1).is_some());
    let members: Vec<MemberId> = world.members().members.iter().map(|member| member.client).collect();
    assert_eq!(members, [m2.0, m3.0]);
}

#[test]
fn a_new_policy_evicts_whom_it_does_not_allow_in_one_epoch() {
    let mut world = world(&MemoryStore::default(), 9, Grant::ALL);
    world.pass(1);
    let all: Vec<_> = (1..=6u8)
        .map(|n| {
            let kind = if n % 3 == 0 { Authentication::Token } else { Authentication::Certificate };
            world.admit(&format!("m{n}"), kind, T0 + 3_600, n)
        })
        .collect();
    let before = world.epoch();
    let mut config = crate::common::group(1, "news", "spiffe://demo/member/*");
    config.access = Access::new([
        Rule {
            kinds: vec![Authentication::Certificate],
            ..rule("member/*", Some(Grant { role: Role::Receiver, ..Grant::ALL }))
        },
        rule("member/m1", None),
        rule("member/m2", Some(Grant { role: Role::Sender, ..Grant::ALL })),
    ])
    .unwrap();
    world.handle(Input::Policy(vec![config.clone()]));
    assert_eq!(world.epoch(), before + 1);
    let out = [1, 3, 6].map(|n: usize| (before + 1, all[n - 1].0, Some(Cause::Policy)));
    assert_eq!(world.endings(), out);
    let roles: Vec<Role> = world.members().members.iter().map(|member| member.role).collect();
    assert_eq!(roles, [Role::Sender, Role::Receiver, Role::Receiver]);
    assert_eq!(join(&mut world, all[0], 9), Outcome::Denied(Denial::Policy));
    // The policy of before lets them in again.
    config.access = access(Grant::ALL);
    world.handle(Input::Policy(vec![config]));
    assert!(matches!(join(&mut world, all[0], 10), Outcome::Granted(_)));
    world.nothing_opens();
}

#[test]
fn leaves_lapses_and_evictions_are_told_apart() {
    let store = MemoryStore::default();
    let mut world = world(&store, 14, Grant { lease: Some(Duration::from_secs(20)), ..Grant::ALL });
    world.pass(1);
    let [left, evicted, lapsed, stays] =
        [1, 2, 3, 4].map(|n: u8| world.admit(&format!("m{n}"), Authentication::Certificate, u64::MAX, n));
    assert!(matches!(world.change(left, 5, &[(Act::Leave, "news")])[0], Outcome::Left { .. }));
    world.evict("member/m2").unwrap();
    world.pass(12);
    world.resync(stays, (0, 0));
    world.pass(12);
    let fate = |world: &mut World| -> Vec<(MemberId, Option<Cause>)> {
        world.members().ended.iter().map(|(id, _, _, cause)| (*id, *cause)).collect()
    };
    let expected = [(left.0, None), (evicted.0, Some(Cause::Operator)), (lapsed.0, Some(Cause::Lapsed))];
    assert_eq!(fate(&mut world), expected);
    let Ok(AdminReply::Status(status)) = world.admin(Admin::Status) else { panic!() };
    let endings = status.groups[0].endings;
    assert_eq!((endings.left, endings.causes), (1, [1, 0, 0, 0, 0, 1]));
    // Journal and snapshot keep it.
    let snapshot = world.core.snapshot(world.now);
    let mut again = self::world(&store, 15, Grant::ALL);
    assert_eq!(fate(&mut again), expected);
    let mut copy = MemoryStore::default();
    keyserver::store::Store::snapshot(&mut copy, &snapshot).unwrap();
    let mut restored = self::world(&copy, 16, Grant::ALL);
    assert_eq!(fate(&mut restored), expected);
    let answers = [left, evicted, lapsed].map(|who| restored.resync(who, (0, 0)));
    assert_eq!(answers, [Denial::NotMember, Denial::Evicted, Denial::Lapsed].map(Outcome::Denied));
}
