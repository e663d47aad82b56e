//! Joins and leaves share epochs; evictions wait for nobody; what of a group may change does, and what may not is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::time::Duration;

use crate::common::{World, granted, group, identity};
use keygraph::{Degree, Strategy};
use keyserver::core::{Admin, AdminReply, Config, Core, EpochEvent, Event, GroupConfig};
use keyserver::store::{MemoryStore, Store};
use protocol::request::{Act, Denial, Operations, Outcome, Reply};
use protocol::{MemberId, Ration, Reason, SigningKey, Suite};

const INTERVAL: Duration = Duration::from_secs(2);

fn batching(group: &mut GroupConfig) {
    group.batch = INTERVAL;
    group.max_members = 100;
}

fn one(act: Act) -> Operations {
    Operations::Changes(vec![(act, "news".into())])
}

fn epochs(world: &World) -> Vec<&EpochEvent> {
    let mut all = Vec::new();
    for event in &world.events {
        if let Event::Epoch(epoch) = event
            && epoch.group.0 == 1
        {
            all.push(&**epoch);
        }
    }
    all
}

fn answer(world: &World, session: u64) -> Option<&Reply> {
    world.replies.iter().find(|(answered, _)| *answered == session).and_then(|(_, reply)| reply.as_ref())
}

/// Ten members of a group with a batch interval.
fn started() -> (World, Vec<(MemberId, u64)>) {
    let mut world = World::start_with(&MemoryStore::default(), 1, batching);
    world.wait(INTERVAL);
    let clients: Vec<_> = (0..20).map(|number| world.register(&format!("member/m{number}"))).collect();
    for client in &clients[..10] {
        world.send(*client, 1, one(Act::Join));
    }
    world.wait(INTERVAL);
    (world, clients)
}

#[test]
fn what_comes_within_an_interval_is_one_epoch() {
    let (mut world, clients) = started();
    let all = epochs(&world);
    let first = all.last().unwrap();
    assert_eq!((first.reason, first.plan.joined.len(), first.members), (Reason::Join, 10, 10));
    let before = all.len();
    let join = world.send(clients[10], 2, one(Act::Join));
    world.wait(INTERVAL / 2);
    let leave = world.send(clients[0], 2, one(Act::Leave));
    assert!(answer(&world, join).is_none() && answer(&world, leave).is_none(), "they wait");
    world.wait(INTERVAL / 2);
    granted(&answer(&world, join).unwrap().outcomes[0]);
    let all = epochs(&world);
    let last = all.last().unwrap();
    assert_eq!((all.len(), last.reason), (before + 1, Reason::Batch));
    assert_eq!((last.plan.joined.len(), last.plan.left.len()), (1, 1));
    assert_eq!(answer(&world, leave).unwrap().outcomes, [Outcome::Left { epoch: last.epoch }]);
    let epoch = last.epoch;
    // Asked for again, because the answer was lost.
    let again = world.send(clients[0], 2, one(Act::Leave));
    assert_eq!(answer(&world, again).unwrap().outcomes, [Outcome::Left { epoch }]);
}

/// One client joins and leaves as often as it can for half a minute: how often it was told to wait.
fn churn(world: &mut World, who: (MemberId, u64)) -> Vec<u32> {
    let mut waits = Vec::new();
    for round in 0..60u8 {
        let join = world.send(who, 2 * round + 3, one(Act::Join));
        world.wait(Duration::from_millis(250));
        let leave = world.send(who, 2 * round + 4, one(Act::Leave));
        world.wait(Duration::from_millis(250));
        let left = matches!(answer(world, leave).unwrap().outcomes[0], Outcome::Left { .. });
        match &answer(world, join).unwrap().outcomes[0] {
            Outcome::Later { after_ms } => waits.push(*after_ms),
            outcome => {
                granted(outcome);
                assert!(left, "leaving is never refused");
            }
        }
    }
    waits
}

#[test]
fn who_joins_and_leaves_again_and_again_is_told_to_wait() {
    let share = Ration { burst: 5, each: Duration::from_secs(10) };
    let store = MemoryStore::default();
    let mut world = World::start_with(&store, 1, |group| group.joins = share);
    let (greedy, other) = (world.register("member/m0"), world.register("member/m1"));
    let before = epochs(&world).len();
    let waits = churn(&mut world, greedy);
    assert_eq!(waits.len(), 60 - 5 - 2, "five at once, and one each ten seconds");
    assert!(waits.iter().all(|wait| (1..=10_000).contains(wait)), "{waits:?}");
    assert_eq!(epochs(&world).len() - before, 2 * 7);
    world.join(other, "news");
    // A member that has lost everything is a member still: that takes none of it.
    for _ in 0..4 {
        world.join(other, "news");
    }
    // Half a minute is over: one more is earned. Nor does what is refused take any: when the wait that it was told is over, it is in.
    world.join(greedy, "news");
    assert!(matches!(world.change(greedy, 199, &[(Act::Leave, "news")])[0], Outcome::Left { .. }));
    let Outcome::Later { after_ms } = world.change(greedy, 200, &[(Act::Join, "news")])[0] else { panic!("no wait") };
    world.wait(Duration::from_millis(after_ms.into()));
    world.join(greedy, "news");
    // Out and in within one batch is a rekey too.
    let out_and_in = [(Act::Leave, "news"), (Act::Join, "news")];
    let leave = world.change(greedy, 201, &out_and_in[..1]);
    assert!(matches!(leave[0], Outcome::Left { .. }));
    assert!(matches!(world.change(greedy, 202, &out_and_in[1..])[0], Outcome::Later { .. }));
}

#[test]
fn a_group_is_rekeyed_no_faster_than_its_policy_says() {
    let mut world = World::start_with(&MemoryStore::default(), 1, batching);
    let clients: Vec<_> = (0..30).map(|number| world.register(&format!("member/m{number}"))).collect();
    world.wait(INTERVAL);
    let before = epochs(&world).len();
    // Whatever thirty clients ask for, thirty times an interval.
    for round in 0..200u8 {
        for (number, client) in clients.iter().enumerate() {
            let act = if (usize::from(round) + number).is_multiple_of(3) { Act::Leave } else { Act::Join };
            world.send(*client, round, one(act));
        }
        world.wait(INTERVAL / 20);
    }
    let epochs = epochs(&world).len() - before;
    assert!((9..=11).contains(&epochs), "{epochs} epochs in ten intervals");
}

#[test]
fn what_one_client_wants_within_a_batch_is_put_together() {
    let (mut world, clients) = started();
    let before = epochs(&world).len();
    // In and out: never in. Out and in: a fresh leaf. In twice: once.
    let sessions =
        [(10, Act::Join), (10, Act::Leave), (1, Act::Leave), (1, Act::Join), (11, Act::Join), (11, Act::Join)];
    let sessions: Vec<u64> =
        (10..).zip(sessions).map(|(id, (client, act))| world.send(clients[client], id, one(act))).collect();
    world.wait(INTERVAL);
    let all = epochs(&world);
    let plan = &all.last().unwrap().plan;
    assert_eq!(all.len(), before + 1);
    let joined: Vec<MemberId> = plan.joined.iter().map(|(member, _)| *member).collect();
    assert!(joined.len() == 2 && joined.contains(&clients[1].0) && joined.contains(&clients[11].0));
    assert_eq!(plan.left.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [clients[1].0]);
    let outcome = |at: usize| &answer(&world, sessions[at]).unwrap().outcomes[0];
    assert_eq!(*outcome(0), Outcome::Denied(Denial::NotMember));
    granted(outcome(3));
    granted(outcome(5));
}

#[test]
fn an_eviction_waits_for_nobody_and_tells_how_long_it_took() {
    let (mut world, clients) = started();
    let join = world.send(clients[10], 2, one(Act::Join));
    let before = epochs(&world).len();
    let Ok(AdminReply::Epoch(epoch)) = world.evict("member/m2") else { panic!("not evicted") };
    let all = epochs(&world);
    assert_eq!((all.len(), all[before].epoch, all[before].reason), (before + 1, epoch, Reason::Evict));
    assert!(all[before].plan.joined.is_empty() && all[before].plan.compaction.moves == 0, "nothing goes along");
    assert!(answer(&world, join).is_none());
    let sent = |event: &&Event| matches!(event, Event::EvictionSent { epoch: of, .. } if *of == epoch);
    assert!(world.events.iter().any(|event| sent(&event)), "the first datagram is sent at once");
    let Ok(AdminReply::Status(status)) = world.admin(Admin::Status) else { panic!("no status") };
    assert_eq!(status.groups[0].eviction, Some((Duration::ZERO, Duration::ZERO)));
    world.wait(INTERVAL);
    granted(&answer(&world, join).unwrap().outcomes[0]);
}

#[test]
fn a_tree_that_is_too_high_is_compacted_without_being_asked() {
    let compacting = |group: &mut GroupConfig| {
        group.degree = Degree::new(2).unwrap();
        group.max_members = 100;
        group.compaction = 4;
    };
    let mut world = World::start_with(&MemoryStore::default(), 1, compacting);
    let clients: Vec<_> = (0..64).map(|number| world.register(&format!("member/m{number}"))).collect();
    for client in &clients {
        world.send(*client, 1, one(Act::Join));
    }
    for client in &clients[2..62] {
        world.send(*client, 2, one(Act::Leave));
    }
    world.wait(Duration::from_secs(60));
    let moves: Vec<usize> = epochs(&world).iter().map(|epoch| epoch.plan.compaction.moves).collect();
    assert!(moves.iter().sum::<usize>() > 4 && moves.iter().all(|moves| *moves <= 4), "{moves:?}");
    let Ok(AdminReply::Status(status)) = world.admin(Admin::Status) else { panic!("no status") };
    assert_eq!((status.groups[0].members, status.groups[0].height <= 3), (4, true));
}

#[test]
fn a_strategy_changes_at_a_rekey_and_a_suite_or_degree_never() {
    let store = MemoryStore::default();
    let mut world = World::start(&store, 1);
    for number in 0..5 {
        let who = world.register(&format!("member/m{number}"));
        world.join(who, "news");
    }
    let store = world.store.clone();
    for (turn, strategy) in (2..).zip(Strategy::ALL) {
        let mut world = World::start_with(&store, turn, |group| group.strategy = strategy);
        world.admin(Admin::Refresh { group: "news".into() }).unwrap();
        assert_eq!(epochs(&world).last().unwrap().members, 5);
    }
    let start = |change: &dyn Fn(&mut GroupConfig)| {
        let mut groups = vec![group(1, "news", "spiffe://demo/member/*"), group(2, "vip", "spiffe://demo/member/m1")];
        groups.iter_mut().for_each(change);
        let signing = SigningKey::from_seed(&[1; 32]).unwrap();
        let config = Config { groups, bits_per_second: 8_000_000, ..Config::plain("ks", signing) };
        let loaded = store.clone().load().unwrap();
        let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
        Core::start(config, Box::new(crate::common::Counter(9)), snapshot, &loaded.records)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    assert_eq!(start(&|_| {}), Ok(()));
    let error = start(&|group| group.suite = Suite::Aes128).unwrap_err();
    assert!(error.contains("made with degree 3 and suite aes256"), "{error}");
    assert!(error.contains("the configuration says degree 3 and suite aes128"), "{error}");
    assert!(start(&|group| group.degree = Degree::STAR).unwrap_err().contains("degree star"));
    let error = start(&|group| group.suite = Suite::Rsa).unwrap_err();
    assert_eq!(error, "group 1 has suite rsa, and there is no signing key for it");
    assert!(identity("member/m1").as_str().ends_with("m1"));
}
