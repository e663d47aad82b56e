//! A registrar is trusted with its own clients, by its own kinds of authentication, and with nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use crate::common::{World, identity, noise};
use keyserver::core::{Admin, AdminReply, Config, Event, Input, Output, Registrations};
use keyserver::store::{MemoryStore, Store};
use net::noise::StaticKey;
use net::noise::sealed::{self, Offered};
use protocol::credential::NO_END;
use protocol::identity::IdentityPattern;
use protocol::registration::{
    ANSWER, FromClient, FromRegistrar, Grant, MAX_OFFERS, OFFER, Offer, Parties, RefusalCode, ToClient, ToRegistrar,
};
use protocol::request::{Act, Operations, Preamble};
use protocol::{Authentication, IndividualKey, MemberId, Share};

/// The wall clock in seconds since 1970.
const T0: u64 = 1_800_000_000;

/// `registrar/r1` has members by certificate, `registrar/r2` the same by token, `registrar/r3` others by both.
fn config(config: &mut Config) {
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

fn start(store: &MemoryStore) -> World {
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
fn say(world: &mut World, link: u64, message: &FromRegistrar) -> ToRegistrar {
    world.to_registrar.clear();
    world.handle(Input::FromRegistrar { link, frame: &message.encode() });
    let is_answer = |message: &ToRegistrar| !matches!(message, ToRegistrar::ClientAdded(_));
    let mut answers = world.to_registrar.drain(..).filter(is_answer);
    let answer = answers.next().expect("an answer");
    assert_eq!(answers.next(), None);
    answer
}

fn fetch(world: &mut World, link: u64, name: &str, kind: Authentication) -> Result<(MemberId, u64), RefusalCode> {
    match say(world, link, &FromRegistrar::FetchNumber { tag: 7, kind, identity: identity(name) }) {
        ToRegistrar::Number { tag: 7, client, registration } => Ok((client, registration)),
        ToRegistrar::Refused { tag: 7, refusal } => Err(refusal.code),
        other => panic!("{other:?}"),
    }
}

fn hand_over(key: u8, (client, registration): (MemberId, u64), ends: u64, name: u8) -> FromRegistrar {
    let key = IndividualKey::new([key; 32]);
    FromRegistrar::HandOver { tag: 8, client, registration, key, ends, credential: vec![name; 32] }
}

fn outcome(answer: ToRegistrar) -> Result<(), RefusalCode> {
    match answer {
        ToRegistrar::Durable { tag: 8 } => Ok(()),
        ToRegistrar::Refused { tag: 8, refusal } => Err(refusal.code),
        other => panic!("{other:?}"),
    }
}

/// Registers with a token of this name and end.
fn by_token(world: &mut World, link: u64, client: &str, name: u8, ends: u64) -> Result<(), RefusalCode> {
    let number = fetch(world, link, client, Authentication::Token).unwrap();
    outcome(say(world, link, &hand_over(name, number, ends, name)))
}

/// Who was said to misbehave since the last look.
fn misbehaved(world: &mut World) -> Vec<String> {
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
    world.wait(std::time::Duration::from_secs(70));
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

/// What a client offers for the key server with this static key through `registrar/r1`, and the client's end.
fn offered(name: &str, key: &StaticKey) -> (Offered, Parties, Vec<Offer>) {
    let parties = Parties { client: identity(name), registrar: identity("registrar/r1"), key_server: "ks".into() };
    let (offered, offers) = sealed::offer(&[[1; 32], *key.public()], &parties.prologue()).unwrap();
    (offered, parties, offers)
}

fn seal(name: &str, offers: Vec<Offer>) -> FromRegistrar {
    let (kind, credential) = (Authentication::Certificate, vec![1; 52]);
    FromRegistrar::RegisterSealed { tag: 8, kind, identity: identity(name), offers, ends: NO_END, credential }
}

fn counted(world: &mut World) -> Registrations {
    world.handle(Input::Admin { ticket: 1, command: Admin::Status });
    match world.answers.pop() {
        Some(Ok(AdminReply::Status(status))) => status.registrations,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sealed_key_is_known_at_both_ends_and_outlives_a_restart() {
    let store = MemoryStore::default();
    let mut world = start(&store);
    let (at_client, parties, offers) = offered("member/a", &noise());
    let told = seal("member/a", offers);
    let ToRegistrar::DurableSealed { tag: 8, client, answer } = say(&mut world, 1, &told) else { panic!() };
    let grant = Grant::decode(at_client.open(&answer).unwrap().as_slice()).unwrap();
    assert_eq!((grant.client, grant.registration), (client, 1));
    let key = grant.individual_key(&parties);
    assert_eq!(world.core.individual_key(client, 1).as_ref(), Some(&key));
    // Proved. The same again is another registration, under a key that nobody has, and takes nothing from the proved one.
    world.send((client, 1), 1, Operations::Changes(vec![(Act::Join, "news".into())]));
    let ToRegistrar::DurableSealed { answer: again, .. } = say(&mut world, 1, &told) else { panic!() };
    assert!(again != answer && world.core.individual_key(client, 2) != Some(key.clone()));
    assert_eq!(counted(&mut world), Registrations { sealed: 2, ..Registrations::default() });
    drop(world);
    assert_eq!(start(&store).core.individual_key(client, 1), Some(key));
}

#[test]
fn what_nobody_can_open_is_refused_and_changes_nothing() {
    let mut world = start(&MemoryStore::default());
    let number = fetch(&mut world, 1, "member/a", Authentication::Certificate).unwrap();
    assert_eq!(outcome(say(&mut world, 1, &hand_over(1, number, NO_END, 1))), Ok(()));
    let (before, size) = (world.core.individual_key(number.0, number.1), world.core.snapshot(world.now).len());
    let foreign = StaticKey::generate().unwrap();
    let refused = [
        vec![],
        vec![[0xff; OFFER]; MAX_OFFERS],
        offered("member/a", &foreign).2,
        // Another client's: the registrar may not give it this client's name.
        offered("member/b", &noise()).2,
    ];
    for offers in refused.clone() {
        world.events.clear();
        assert_eq!(outcome(say(&mut world, 1, &seal("member/a", offers))), Err(RefusalCode::Key));
        let unopened = Event::Unopened { registrar: identity("registrar/r1"), identity: identity("member/a") };
        assert_eq!(world.events, [unopened]);
    }
    let unopened = u64::try_from(refused.len()).unwrap();
    assert_eq!(counted(&mut world), Registrations { exported: 1, unopened, ..Registrations::default() });
    assert_eq!(world.core.individual_key(number.0, number.1), before);
    assert_eq!(world.core.snapshot(world.now).len(), size, "nothing is stored");
    // Whom a registrar may not register it may not seal either.
    let guest = seal("guest/a", offered("guest/a", &noise()).2);
    assert_eq!(outcome(say(&mut world, 1, &guest)), Err(RefusalCode::Identity));
    assert_eq!(by_token(&mut world, 2, "member/a", 7, T0 + 300), Ok(()), "and the next one registers");
}

#[test]
fn an_answer_that_comes_too_late_goes_nowhere() {
    let mut world = start(&MemoryStore::default());
    let told = seal("member/a", offered("member/a", &noise()).2);
    let ToRegistrar::DurableSealed { client, .. } = say(&mut world, 1, &told) else { panic!() };
    for link in [1, 2, 99] {
        let answer = Some(Box::new([7; ANSWER]));
        world.handle(Input::Answered { link, client, registration: 1, answer });
    }
    assert_eq!(world.to_registrar, []);
    assert_eq!(counted(&mut world).sealed, 1);
}

#[test]
fn a_registrar_that_may_know_no_key_hands_over_none() {
    let only = |of: &mut Config| {
        config(of);
        of.sealed_only = vec![identity("registrar/r1")];
    };
    let mut world = World::start_on(MemoryStore::default(), 5, only);
    world.handle(Input::RegistrarUp { link: 3, identity: identity("registrar/r3") });
    assert_eq!(fetch(&mut world, 1, "member/a", Authentication::Certificate), Err(RefusalCode::Key));
    assert_eq!(outcome(say(&mut world, 1, &hand_over(1, (MemberId(1), 1), NO_END, 1))), Err(RefusalCode::Malformed));
    let told = seal("member/a", offered("member/a", &noise()).2);
    assert!(matches!(say(&mut world, 1, &told), ToRegistrar::DurableSealed { .. }));
    let number = fetch(&mut world, 3, "guest/a", Authentication::Certificate).unwrap();
    assert_eq!(outcome(say(&mut world, 3, &hand_over(1, number, NO_END, 1))), Ok(()), "another may");
    let counts = Registrations { sealed: 1, exported: 1, exported_refused: 1, unopened: 0 };
    assert_eq!(counted(&mut world), counts);
}

/// Everything that a registrar sees of one registration, in plaintext on both its links, and the number of it.
fn registers(world: &mut World, offers: Vec<Offer>) -> (Vec<Vec<u8>>, (MemberId, u64)) {
    let exported = [9; 32];
    let mut view = vec![FromClient::Register { key_server: "ks".into(), offers: offers.clone() }.encode()];
    let mut ask = |message: FromRegistrar| {
        let answer = say(world, 1, &message);
        view.extend([message.encode(), answer.encode()]);
        answer
    };
    let (kind, name) = (Authentication::Certificate, "member/a");
    let (number, last) = if offers.is_empty() {
        let fetched = ask(FromRegistrar::FetchNumber { tag: 7, kind, identity: identity(name) });
        let ToRegistrar::Number { client, registration, .. } = fetched else { panic!("{fetched:?}") };
        assert_eq!(ask(hand_over(9, (client, registration), NO_END, 1)), ToRegistrar::Durable { tag: 8 });
        view.push(ToClient::Number { client, registration }.encode());
        ((client, registration), ToClient::Registered)
    } else {
        let ToRegistrar::DurableSealed { client, answer, .. } = ask(seal(name, offers)) else { panic!() };
        ((client, 1), ToClient::RegisteredSealed(answer))
    };
    view.extend([exported.to_vec(), last.encode()]);
    (view, number)
}

/// Whether whoever has this key gets a session of this registration.
async fn is_let_in(world: &World, (client, registration): (MemberId, u64), key: &[u8; 32]) -> bool {
    let preamble = Preamble { key_server: "ks".into(), client, registration }.encode();
    let (psk, own) = (world.core.individual_key(client, registration).unwrap(), noise());
    let (near, mut far) = tokio::io::duplex(1_024);
    let key_server = async {
        let octets = net::noise::read_preamble(&mut far).await.unwrap();
        net::noise::accept(far, &octets, &own, psk.expose()).await.is_ok()
    };
    tokio::join!(net::noise::connect(near, &preamble, own.public(), key), key_server).1
}

/// A registrar that keeps all that it ever sees has the key of whoever it registers exported, and of nobody whom it registers
/// sealed. It tries every 32 octets of its view, as they are and as the share of which the key is made.
#[tokio::test]
async fn a_registrar_that_keeps_everything_has_no_sealed_key() {
    for is_sealed in [false, true] {
        let mut world = start(&MemoryStore::default());
        let (at_client, parties, offers) = offered("member/a", &noise());
        let (view, number) = registers(&mut world, if is_sealed { offers } else { vec![] });
        let mut tried = BTreeSet::new();
        for window in view.iter().flat_map(|octets| octets.windows(32)) {
            let window: [u8; 32] = window.try_into().unwrap();
            let (client, registration) = number;
            let grant = Grant { client, registration, share: Share::new(window) };
            tried.extend([window, *grant.individual_key(&parties).expose()]);
        }
        assert!(tried.len() > 100, "{}", tried.len());
        let mut has = false;
        for key in &tried {
            has |= is_let_in(&world, number, key).await;
        }
        assert_eq!(has, !is_sealed, "of {} keys", tried.len());
        if let Some(Ok(ToClient::RegisteredSealed(answer))) = view.last().map(|last| ToClient::decode(last)) {
            let grant = Grant::decode(at_client.open(&answer).unwrap().as_slice()).unwrap();
            assert!(is_let_in(&world, number, grant.individual_key(&parties).expose()).await, "the client itself");
        }
    }
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
