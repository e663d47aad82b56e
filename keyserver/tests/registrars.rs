//! A registrar is trusted with its own clients, by its own kinds of authentication, and with nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::{World, identity};
use keyserver::core::{Admin, AdminReply, Config, Event, Input, Output};
use keyserver::store::{MemoryStore, Store};
use protocol::credential::NO_END;
use protocol::identity::IdentityPattern;
use protocol::registration::{FromRegistrar, RefusalCode, ToRegistrar};
use protocol::{Authentication, IndividualKey, MemberId, Ration};

/// The wall clock in seconds since 1970.
pub(crate) const T0: u64 = 1_800_000_000;

/// `registrar/r1` has members by certificate, `registrar/r2` the same by token, `registrar/r3` others by both.
pub(crate) fn config(config: &mut Config) {
    let may = |kinds: &[Authentication], who: &str| {
        let who = IdentityPattern::parse(&format!("spiffe://demo/{who}")).unwrap();
        kinds.iter().map(|kind| (*kind, who.clone())).collect()
    };
    config.registrars = vec![
        (identity("registrar/r1"), may(&[Authentication::Certificate], "member/*")),
        (identity("registrar/r2"), may(&[Authentication::Token], "member/*")),
        (identity("registrar/r3"), may(&Authentication::ALL, "guest/*")),
    ];
}

pub(crate) fn start(store: &MemoryStore) -> World {
    let mut world = World::start_on(store.clone(), 5, config);
    for link in [2, 3] {
        let identity = identity(&format!("registrar/r{link}"));
        world.handle(Input::RegistrarUp { link, identity });
    }
    world.handle(Input::Clock { seconds: T0 });
    world.events.clear();
    world
}

/// The one answer to a frame of a registrar.
pub(crate) fn say(world: &mut World, link: u64, message: &FromRegistrar) -> ToRegistrar {
    world.to_registrar.clear();
    world.handle(Input::FromRegistrar { link, frame: &message.encode() });
    let is_answer = |message: &ToRegistrar| !matches!(message, ToRegistrar::ClientAdded(_));
    let mut answers = world.to_registrar.drain(..).filter(is_answer);
    let answer = answers.next().expect("an answer");
    assert_eq!(answers.next(), None);
    answer
}

pub(crate) fn fetch(
    world: &mut World,
    link: u64,
    name: &str,
    kind: Authentication,
) -> Result<(MemberId, u64), RefusalCode> {
    match say(world, link, &FromRegistrar::FetchNumber { tag: 7, kind, identity: identity(name) }) {
        ToRegistrar::Number { tag: 7, client, registration } => Ok((client, registration)),
        ToRegistrar::Refused { tag: 7, refusal } => Err(refusal.code),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn hand_over(key: u8, (client, registration): (MemberId, u64), ends: u64, name: u8) -> FromRegistrar {
    let key = IndividualKey::new([key; 32]);
    FromRegistrar::HandOver { tag: 8, client, registration, key, ends, credential: vec![name; 32] }
}

pub(crate) fn outcome(answer: ToRegistrar) -> Result<(), RefusalCode> {
    match answer {
        ToRegistrar::Durable { tag: 8 } => Ok(()),
        ToRegistrar::Refused { tag: 8, refusal } => Err(refusal.code),
        other => panic!("{other:?}"),
    }
}

/// Registers with a token of this name and end.
pub(crate) fn by_token(world: &mut World, link: u64, client: &str, name: u8, ends: u64) -> Result<(), RefusalCode> {
    let number = fetch(world, link, client, Authentication::Token).unwrap();
    outcome(say(world, link, &hand_over(name, number, ends, name)))
}

/// Who was said to misbehave since the last look.
pub(crate) fn misbehaved(world: &mut World) -> Vec<String> {
    let named = |event| match event {
        Event::Misbehaved { peer, .. } => Some(peer),
        _ => None,
    };
    world.events.drain(..).filter_map(named).collect()
}

#[test]
fn a_registrar_has_its_own_clients_by_its_own_kinds_only() {
    let mut world = start(&MemoryStore::default());
    use Authentication::{Certificate, Token};
    let table = [
        (1, "member/a", Certificate, true),
        (1, "member/a", Token, false),
        (2, "member/a", Certificate, false),
        (2, "member/a", Token, true),
        (3, "member/a", Certificate, false),
        (3, "member/a", Token, false),
        (3, "guest/a", Certificate, true),
        (3, "guest/a", Token, true),
        (1, "guest/a", Certificate, false),
        (1, "Member/a", Certificate, false),
        (1, "registrar/r1", Certificate, false),
    ];
    for (link, name, kind, may) in table {
        assert_eq!(
            fetch(&mut world, link, name, kind).map_err(|code| (code, ())).is_ok(),
            may,
            "r{link} {name} {kind}"
        );
        let blamed = if may { vec![] } else { vec![format!("spiffe://demo/registrar/r{link}")] };
        assert_eq!(misbehaved(&mut world), blamed, "r{link} {name} {kind}");
    }
}

#[test]
fn a_certificate_of_another_kind_makes_no_registrar() {
    let mut world = start(&MemoryStore::default());
    let Ok(AdminReply::Status(before)) = world.admin(Admin::Status) else { panic!("no status") };
    for (link, name) in [(10, "member/a"), (11, "keyserver/ks"), (12, "Registrar/r1"), (13, "registrar/r4")] {
        world.events.clear();
        world.to_registrar.clear();
        world.handle(Input::RegistrarUp { link, identity: identity(name) });
        assert_eq!(misbehaved(&mut world), [format!("spiffe://demo/{name}")]);
        // What it says nevertheless is not heard.
        let fetch =
            FromRegistrar::FetchNumber { tag: 1, kind: Authentication::Certificate, identity: identity("member/a") };
        world.handle(Input::FromRegistrar { link, frame: &fetch.encode() });
        assert_eq!(world.to_registrar, [], "{name}");
    }
    let Ok(AdminReply::Status(after)) = world.admin(Admin::Status) else { panic!("no status") };
    assert_eq!((after.registrars, after.clients), (before.registrars, before.clients));
    assert_eq!(after.misbehaved, before.misbehaved + 4, "each is counted");
}

#[test]
fn of_two_registrars_that_race_for_a_client_the_newer_number_wins_and_nothing_breaks() {
    for first in [1, 2] {
        let mut world = start(&MemoryStore::default());
        let (one, two) = (
            fetch(&mut world, 1, "member/a", Authentication::Certificate).unwrap(),
            fetch(&mut world, 2, "member/a", Authentication::Token).unwrap(),
        );
        assert_eq!((one.0, one.1 + 1), two, "one client, two registrations");
        let frames = [(1, hand_over(1, one, NO_END, 1)), (2, hand_over(2, two, T0 + 300, 2))];
        let order = if first == 1 { [0, 1] } else { [1, 0] };
        let answers = order.map(|n| outcome(say(&mut world, frames[n].0, &frames[n].1)));
        // The older one is refused if it comes after the newer, since its key must never be the newest again.
        let late = if first == 1 { Ok(()) } else { Err(RefusalCode::Malformed) };
        assert_eq!(answers, [Ok(()), late]);
        assert_eq!(world.core.individual_key(two.0, two.1), Some(IndividualKey::new([2; 32])));
        assert_eq!(world.core.individual_key(one.0, one.1), None, "not proved, and replaced");
    }
}

#[test]
fn an_old_hand_over_and_one_of_another_registrar_change_nothing() {
    let mut world = start(&MemoryStore::default());
    let number = fetch(&mut world, 1, "member/a", Authentication::Certificate).unwrap();
    // The number is another's: taken by neither kind.
    for link in [2, 3] {
        let stolen = say(&mut world, link, &hand_over(66, number, NO_END, 66));
        assert_eq!(outcome(stolen), Err(RefusalCode::Malformed));
        assert_eq!(misbehaved(&mut world), [format!("spiffe://demo/registrar/r{link}")]);
    }
    let told = hand_over(1, number, NO_END, 1);
    assert_eq!(outcome(say(&mut world, 1, &told)), Ok(()));
    world.events.clear();
    // Replayed, by itself and on a new connection, and with another key.
    let again = hand_over(66, number, NO_END, 1);
    for frame in [&told, &again] {
        assert_eq!(outcome(say(&mut world, 1, frame)), Err(RefusalCode::Malformed));
        assert_eq!(misbehaved(&mut world).len(), 1);
    }
    world.handle(Input::RegistrarUp { link: 9, identity: identity("registrar/r1") });
    assert_eq!(outcome(say(&mut world, 9, &again)), Err(RefusalCode::Malformed));
    assert_eq!(world.core.individual_key(number.0, number.1), Some(IndividualKey::new([1; 32])));
}

#[test]
fn a_token_serves_once_at_all_registrars_and_after_a_restart() {
    let store = MemoryStore::default();
    let mut world = start(&store);
    let life = T0 + 300;
    assert_eq!(by_token(&mut world, 2, "member/a", 7, life), Ok(()));
    for (link, client) in [(2, "member/a"), (2, "member/b"), (3, "guest/a")] {
        assert_eq!(by_token(&mut world, link, client, 7, life), Err(RefusalCode::Credential), "r{link} {client}");
        assert_eq!(by_token(&mut world, link, client, 7, life + 60), Err(RefusalCode::Credential), "another end");
    }
    assert_eq!(by_token(&mut world, 3, "guest/a", 8, life), Ok(()));
    // A certificate of that name is another thing, and serves as often as it is shown.
    for _ in 0..2 {
        let number = fetch(&mut world, 1, "member/c", Authentication::Certificate).unwrap();
        assert_eq!(outcome(say(&mut world, 1, &hand_over(3, number, NO_END, 7))), Ok(()));
    }
    drop(world);
    let mut world = start(&store);
    assert_eq!(by_token(&mut world, 2, "member/b", 7, life), Err(RefusalCode::Credential), "from the records");
    let snapshot = world.core.snapshot(world.now);
    world.store.snapshot(&snapshot).unwrap();
    drop(world);
    let mut world = start(&store);
    assert_eq!(by_token(&mut world, 2, "member/b", 7, life), Err(RefusalCode::Credential), "from a snapshot");
    assert_eq!(by_token(&mut world, 3, "guest/b", 8, life), Err(RefusalCode::Credential), "from a snapshot");
}

#[test]
fn a_token_that_has_ended_or_lives_too_long_is_refused_and_not_remembered() {
    let mut world = start(&MemoryStore::default());
    let day = 86_400;
    let refused = Err(RefusalCode::Credential);
    assert_eq!(by_token(&mut world, 2, "member/a", 1, T0), refused);
    assert_eq!(by_token(&mut world, 2, "member/a", 1, T0 + 2 * day), refused);
    assert_eq!(by_token(&mut world, 2, "member/a", 1, NO_END), refused);
    assert_eq!(by_token(&mut world, 2, "member/a", 1, T0 + day), Ok(()), "what was refused was not used");
    assert_eq!(by_token(&mut world, 2, "member/a", 2, T0 + 50), Ok(()));
    // Once it has ended it is refused as such, and the next token takes its place. Earlier data keys are over by then too.
    world.wait(Duration::from_secs(70));
    world.handle(Input::Clock { seconds: T0 + 70 });
    let size = world.core.snapshot(world.now).len();
    assert_eq!(by_token(&mut world, 2, "member/a", 2, T0 + 50), refused);
    assert_eq!(by_token(&mut world, 2, "member/a", 3, T0 + 360), Ok(()));
    assert_eq!(world.core.snapshot(world.now).len(), size, "one forgotten, one remembered");
}

#[test]
fn without_a_clock_no_token_is_taken() {
    let mut world = World::start_on(MemoryStore::default(), 5, config);
    world.handle(Input::RegistrarUp { link: 2, identity: identity("registrar/r2") });
    assert_eq!(by_token(&mut world, 2, "member/a", 1, T0 + 60), Err(RefusalCode::Credential));
}

#[test]
fn what_queues_while_one_is_written_is_written_together() {
    let mut world = start(&MemoryStore::default());
    let kind = Authentication::Certificate;
    let numbers: Vec<_> =
        (0..300).map(|name| fetch(&mut world, 1, &format!("member/m{name}"), kind).unwrap()).collect();
    let second = fetch(&mut world, 1, "member/m7", kind).unwrap();
    assert_eq!(second.0, numbers[7].0);
    // Nothing is written yet: the first is under way, and all others wait. One of them is of a client that waits already.
    for number in numbers.iter().take(100).chain([&second]).chain(&numbers[100..]) {
        let frame = hand_over(1, *number, NO_END, 1).encode();
        world.core.handle(world.now, Input::FromRegistrar { link: 1, frame: &frame });
    }
    let (mut writes, mut told) = (Vec::new(), Vec::new());
    let mut outputs = std::collections::VecDeque::new();
    loop {
        outputs.extend(std::iter::from_fn(|| world.core.poll_output()));
        match outputs.pop_front() {
            Some(Output::Persist(records)) => {
                assert!(outputs.is_empty(), "nobody is told before it is durable");
                writes.push(records.len());
                let records: Vec<&[u8]> = records.iter().map(|record| record.as_slice()).collect();
                world.store.append(&records).unwrap();
                world.core.handle(world.now, Input::Persisted(true));
            }
            Some(Output::ToRegistrar { link: 1, frame }) => match ToRegistrar::decode(&frame).unwrap() {
                ToRegistrar::Durable { .. } => told.push(writes.len()),
                ToRegistrar::ClientAdded(_) => {}
                other => panic!("{other:?}"),
            },
            Some(_) => {}
            None => break,
        }
    }
    // One alone; what came up to the second registration of one client; the rest.
    assert_eq!(writes, [1, 99, 201]);
    assert_eq!(told.len(), 301);
    assert!(told.is_sorted());
    // All of it is there after a restart, and the newer of two registrations is the one that counts.
    let world = World::start_on(world.store.clone(), 6, config);
    assert!(
        numbers
            .iter()
            .all(|(client, number)| { world.core.individual_key(*client, *number).is_some() == (*client != second.0) })
    );
    assert!(world.core.individual_key(second.0, second.1).is_some());
}

#[test]
fn a_registrar_that_connects_again_and_again_keeps_its_newest_connections() {
    let mut world = start(&MemoryStore::default());
    let mut closed = Vec::new();
    for link in 10..20 {
        world.core.handle(world.now, Input::RegistrarUp { link, identity: identity("registrar/r1") });
        closed.extend(std::iter::from_fn(|| world.core.poll_output()).filter_map(|output| match output {
            Output::CloseRegistrar { link } => Some(link),
            _ => None,
        }));
    }
    assert_eq!(closed, [1, 10, 11, 12, 13, 14, 15], "four are kept");
    assert!(fetch(&mut world, 19, "member/m1", Authentication::Certificate).is_ok());
    assert!(by_token(&mut world, 2, "member/m2", 4, T0 + 60).is_ok(), "others' stand");
}

#[test]
fn a_client_that_registers_again_and_again_waits_at_all_registrars_and_nobody_else_does() {
    let mut world = World::start_on(MemoryStore::default(), 5, |settings| {
        config(settings);
        settings.registrations = Ration { burst: 3, each: Duration::from_secs(10) };
    });
    world.handle(Input::RegistrarUp { link: 2, identity: identity("registrar/r2") });
    world.handle(Input::Clock { seconds: T0 });
    let ask = |world: &mut World, link, kind, name| match say(
        world,
        link,
        &FromRegistrar::FetchNumber { tag: 7, kind, identity: identity(name) },
    ) {
        ToRegistrar::Number { client, registration, .. } => Ok((client, registration)),
        ToRegistrar::Refused { refusal, .. } => Err((refusal.code, refusal.retry_after_ms)),
        other => panic!("{other:?}"),
    };
    let certificate = |world: &mut World, name| ask(world, 1, Authentication::Certificate, name);
    // Who has never registered may try as often as it takes.
    for _ in 0..10 {
        certificate(&mut world, "member/new").unwrap();
    }
    let me = "member/m1";
    let first = certificate(&mut world, me).unwrap();
    assert_eq!(outcome(say(&mut world, 1, &hand_over(1, first, NO_END, 1))), Ok(()));
    certificate(&mut world, me).unwrap();
    let third = certificate(&mut world, me).unwrap();
    assert_eq!(third.1, first.1 + 2);
    let too_often = |world: &mut World| match world.admin(Admin::Status) {
        Ok(AdminReply::Status(status)) => status.registrations.too_often,
        other => panic!("{other:?}"),
    };
    assert_eq!(certificate(&mut world, me), Err((RefusalCode::Busy, 10_000)));
    assert_eq!(ask(&mut world, 2, Authentication::Token, me), Err((RefusalCode::Busy, 10_000)), "at another one");
    assert_eq!(too_often(&mut world), 2);
    assert_eq!(outcome(say(&mut world, 1, &hand_over(3, third, NO_END, 1))), Ok(()), "what was begun may end");
    certificate(&mut world, "member/m2").expect("another one");
    world.wait(Duration::from_secs(10));
    assert_eq!(certificate(&mut world, me).unwrap(), (first.0, first.1 + 3), "no number was used up");
    assert_eq!(certificate(&mut world, me), Err((RefusalCode::Busy, 10_000)));
}
