//! A new policy for a key server that runs: taken as a whole, or refused as a whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::World;
use keyserver::core::{Access, Admin, AdminReply, Event, GroupConfig, Input};
use keyserver::store::MemoryStore;

fn members(world: &mut World, group: &str) -> usize {
    match world.admin(Admin::Members { group: group.into() }) {
        Ok(AdminReply::Members(list)) => list.members.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_that_cannot_follow_changes_nothing() {
    let mut world = World::start(&MemoryStore::default(), 10);
    let m1 = world.register("member/m1");
    world.join(m1, "news");
    let present = || {
        [
            crate::common::group(1, "news", "spiffe://demo/member/*"),
            crate::common::group(2, "vip", "spiffe://demo/member/m1"),
        ]
    };
    let with = |change: &dyn Fn(&mut GroupConfig)| {
        let [mut news, vip] = present();
        news.access = Access::default();
        change(&mut news);
        vec![news, vip]
    };
    let [news, _] = present();
    let wrong: [(Vec<GroupConfig>, &str); 5] = [
        (vec![news], "`vip`: it cannot be given up"),
        (with(&|news| news.name = "old".into()), "`news`: another name"),
        (with(&|news| news.degree = keygraph::Degree::new(4).unwrap()), "`news`: degree and suite"),
        (with(&|news| news.suite = protocol::Suite::Aes128), "`news`: degree and suite"),
        (with(&|news| news.destination.set_port(9)), "`news`: another address"),
    ];
    let before = world.epoch();
    for (policy, why) in wrong {
        world.events.clear();
        world.handle(Input::Policy(policy));
        match world.events.as_slice() {
            [Event::PolicyRefused { why: told }] => assert!(told.contains(why), "{told}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    assert_eq!((world.epoch(), members(&mut world, "news")), (before, 1));
    // The same with nobody allowed can follow, and empties the group.
    world.handle(Input::Policy(with(&|_| {})));
    assert_eq!((world.epoch(), members(&mut world, "news")), (before + 1, 0));
}

#[test]
fn a_policy_brings_groups_and_settings_into_a_running_key_server() {
    let store = MemoryStore::default();
    let mut world = World::start(&store, 11);
    let m1 = world.register("member/m1");
    world.join(m1, "news");
    let mut groups = vec![
        crate::common::group(1, "news", "spiffe://demo/member/*"),
        crate::common::group(2, "vip", "spiffe://demo/member/m1"),
        crate::common::group(3, "third", "spiffe://demo/member/*"),
    ];
    groups[0].refresh = Some(Duration::from_secs(5));
    world.handle(Input::Policy(groups.clone()));
    world.join(m1, "third");
    let before = world.epoch();
    world.wait(Duration::from_secs(11));
    assert_eq!(world.epoch(), before + 2, "refreshed at the new pace");
    // It is there after a restart, also when the configuration of before has forgotten it.
    let other = World::start(&store, 12);
    assert!(other.core.individual_key(m1.0, m1.1).is_some());
    let mut other = World::start_on(store, 13, |config| config.groups = groups.clone());
    assert_eq!(members(&mut other, "third"), 1);
}
