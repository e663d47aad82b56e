//! A second key server over the same store: it follows, answers, and takes over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::time::Duration;

use crate::common::{World, granted, group, identity};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use keyserver::core::{Admin, AdminError, AdminReply, Config, Core, Event, Input, Issued, Keys, Output};
use keyserver::store::MemoryStore;
use protocol::request::{Act, Denial, Losses, Operations, Outcome};
use protocol::{Beacon, Reason, SigningKey, Suite};

fn pair() -> (World, World) {
    let store = MemoryStore::default();
    let active = World::start(&store, 1);
    let standby = World::stand_by_with(&store, 2, |_| {});
    (active, standby)
}

#[test]
fn a_standby_has_the_same_state_after_every_record() {
    let (mut active, mut standby) = pair();
    let who: Vec<_> = (0..5).map(|number| active.register(&format!("member/m{number}"))).collect();
    for turn in 0..40u8 {
        let client = who[usize::from(turn) % 5];
        let act = if active.change(client, turn, &[(Act::Join, "news")])[0] == Outcome::Denied(Denial::Full)
            || turn % 3 == 0
        {
            Act::Leave
        } else {
            Act::Join
        };
        active.change(client, turn + 100, &[(act, "news")]);
        standby.follow();
        assert_eq!(active.core.digests(), standby.core.digests(), "turn {turn}");
    }
    assert!(active.epoch() > 20);
    assert!(standby.datagrams.is_empty(), "it sends nothing");
    assert_eq!(standby.core.poll_timeout(), None);
}

#[test]
fn it_answers_who_missed_something_as_the_other_would_and_with_the_others_beacon() {
    let (mut active, mut standby) = pair();
    let m1 = active.register("member/m1");
    let m2 = active.register("member/m2");
    active.join(m1, "news");
    active.join(m2, "news");
    // What it has not read it does not know, and never guesses.
    assert_eq!(standby.replies.len(), 0);
    standby.follow();
    let from_active = granted(&active.resync(m1, (1, 0)));
    let from_standby = granted(&standby.resync(m1, (1, 0)));
    assert_eq!(from_active.path, from_standby.path);
    assert_eq!(from_active.beacon, from_standby.beacon, "octet by octet: it signs nothing");
    let beacon = Beacon::decode(&from_standby.beacon).unwrap();
    let key = SigningKey::from_seed(&[1; 32]).unwrap();
    Beacon::verify(&from_standby.beacon, &[key.public()]).unwrap();
    // One who has seen more is told to come back when it has been read.
    let seen = (beacon.context.term, beacon.context.epoch + 1);
    assert!(matches!(standby.resync(m1, seen), Outcome::Later { .. }));
    active.admin(Admin::Refresh { group: "news".into() }).unwrap();
    standby.follow();
    assert_eq!(granted(&standby.resync(m1, seen)).path, granted(&active.resync(m1, seen)).path);
    // An evicted member gets nothing from either.
    active.evict("member/m1").unwrap();
    standby.follow();
    assert_eq!(active.resync(m1, seen), Outcome::Denied(Denial::Evicted));
    assert_eq!(standby.resync(m1, seen), Outcome::Denied(Denial::Standby));
}

#[test]
fn what_changes_something_is_for_the_one_that_reigns() {
    let (mut active, mut standby) = pair();
    let m1 = active.register("member/m1");
    standby.follow();
    let before = standby.core.digests();
    assert_eq!(standby.change(m1, 1, &[(Act::Join, "news")]), [Outcome::Denied(Denial::Standby)]);
    assert_eq!(
        standby.ask(m1, 3, Operations::Reports(vec![("news".into(), Losses::default())])),
        [Outcome::Denied(Denial::Standby)]
    );
    assert_eq!(standby.evict("member/m1"), Err(AdminError::Standby));
    assert!(matches!(standby.admin(Admin::Status), Ok(AdminReply::Status(status)) if status.standby));
    standby.core.handle(standby.now, Input::RegistrarUp { link: 9, identity: identity("registrar/r1") });
    assert!(matches!(standby.core.poll_output(), Some(Output::CloseRegistrar { link: 9 })));
    // A key that was never proved is proved before the one who may write it down.
    assert_eq!(standby.resync(m1, (0, 0)), Outcome::Denied(Denial::Standby));
    assert_eq!(standby.core.digests(), before);
}

#[test]
fn a_take_over_needs_nobody_and_the_deposed_one_writes_nothing_more() {
    let (mut active, mut standby) = pair();
    let m1 = active.register("member/m1");
    active.join(m1, "news");
    standby.follow();
    let before = standby.epoch();
    standby.take_over();
    assert!(!standby.halted);
    let restart =
        |event: &Event| matches!(event, Event::Epoch(epoch) if epoch.reason == Reason::Restart && epoch.term == 2);
    assert!(standby.events.iter().any(restart));
    assert_eq!(standby.epoch(), before + 1);
    assert_eq!(
        granted(&standby.resync(m1, (1, before))).joined_epoch,
        granted(&active.resync(m1, (1, before))).joined_epoch
    );
    // The other one slept. Whatever it wants to write now, it halts, and nobody hears of it.
    let sent = active.datagrams.len();
    active.send(m1, 9, Operations::Changes(vec![(Act::Leave, "news".into())]));
    assert!(active.halted);
    assert!(active.replies.is_empty());
    assert_eq!(active.datagrams.len(), sent);
    assert!(
        matches!(standby.admin(Admin::Members { group: "news".into() }), Ok(AdminReply::Members(list)) if list.members.len() == 1)
    );
}

#[test]
fn ten_thousand_groups_are_not_rekeyed_at_once() {
    let groups: Vec<_> = (1..=10_000).map(|id| group(id, &format!("g{id}"), "spiffe://demo/member/*")).collect();
    let config =
        Config { groups, bits_per_second: 8_000_000, ..Config::plain("ks", SigningKey::from_seed(&[1; 32]).unwrap()) };
    let mut core = Core::start(config, Box::new(crate::common::Counter(1)), None, &[]).unwrap();
    let (mut now, mut per_second) = (Duration::ZERO, vec![0u32; 30]);
    loop {
        let mut epochs = 0;
        while let Some(output) = core.poll_output() {
            match output {
                Output::Persist(_) | Output::Snapshot(_) => core.handle(now, Input::Persisted(true)),
                Output::Event(Event::Epoch(_)) => epochs += 1,
                _ => {}
            }
        }
        per_second[usize::try_from(now.as_secs()).unwrap()] += epochs;
        match core.poll_timeout() {
            Some((at, _)) if at < Duration::from_secs(30) => now = at.max(now),
            _ => break,
        }
        core.handle(now, Input::Timeout);
    }
    assert_eq!(per_second.iter().sum::<u32>(), 10_000, "{per_second:?}");
    assert!(per_second.iter().all(|epochs| *epochs <= 510), "{per_second:?}");
}

#[test]
fn the_key_that_signs_is_rolled_without_an_epoch_and_another_reign_may_have_another() {
    let key = |seed| SigningKey::from_seed(&[seed; 32]).unwrap();
    let signed_by = |world: &mut World, seed| {
        world.wait(Duration::from_millis(100));
        let newest = world.datagrams.iter().rfind(|octets| Beacon::decode(octets).is_ok()).expect("a beacon");
        Beacon::verify(newest, &[key(seed).public()]).is_ok()
    };
    let (mut active, mut standby) = pair();
    let m1 = active.register("member/m1");
    active.join(m1, "news");
    standby.follow();
    let epoch = active.epoch();
    assert!(signed_by(&mut active, 1));
    for world in [&mut active, &mut standby] {
        world.handle(Input::Keys(Keys { signing: key(2), others: vec![key(1).public()], certificate: None }));
    }
    assert_eq!((active.epoch(), signed_by(&mut active, 2)), (epoch, true), "at once, in the same epoch");
    let said = |world: &World| world.events.iter().filter(|event| matches!(event, Event::SignsWith { .. })).count();
    assert_eq!(said(&active), 1);
    active.handle(Input::Keys(Keys { signing: key(2), others: Vec::new(), certificate: None }));
    assert_eq!(said(&active), 1, "the same again is nothing new");
    assert!(Beacon::verify(&granted(&active.resync(m1, (1, epoch))).beacon, &[key(2).public()]).is_ok());
    // Whoever has an older site certificate may have this one, of the standby too.
    for world in [&mut active, &mut standby] {
        let certificate = Some(Issued { begins: 9, octets: vec![3; 200] });
        world.handle(Input::Keys(Keys { signing: key(2), others: Vec::new(), certificate }));
    }
    standby.follow();
    for world in [&mut active, &mut standby] {
        let mut ask = |id, begins| world.ask(m1, id, Operations::Certificate(begins)).remove(0);
        assert_eq!((ask(70, 8), ask(71, 9)), (Outcome::Certificate(vec![3; 200]), Outcome::Noted));
    }
    // A unit of the next epoch.
    active.admin(Admin::Refresh { group: "news".into() }).unwrap();
    assert!(signed_by(&mut active, 2));
    // The standby takes over, and signs with what it was told while it stood by.
    standby.follow();
    standby.take_over();
    assert!(signed_by(&mut standby, 2));
    // A group whose suite the new key does not sign for keeps the old one.
    let pkcs8 = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa3072).unwrap();
    let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pkcs8).unwrap().as_ref().to_vec();
    let mut rsa = World::start_on(MemoryStore::default(), 7, |config| {
        config.signing = key(1).with_rsa(&pkcs8).unwrap();
        config.groups.iter_mut().for_each(|group| group.suite = Suite::Rsa);
    });
    rsa.handle(Input::Keys(Keys { signing: key(2), others: Vec::new(), certificate: None }));
    assert!(rsa.events.iter().any(|event| matches!(event, Event::KeysRefused { .. })) && said(&rsa) == 0);
}
