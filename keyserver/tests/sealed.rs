//! A key that is sealed is known to client and key server, and to no registrar, whatever it keeps or alters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use crate::common::{World, identity, noise};
use keyserver::core::{Admin, AdminReply, Config, Event, Input, Registrations};
use keyserver::store::MemoryStore;
use net::noise::StaticKey;
use net::noise::sealed::{self, Offered};
use protocol::credential::NO_END;
use protocol::registration::{
    ANSWER, FromClient, FromRegistrar, Grant, MAX_OFFERS, OFFER, Offer, Parties, RefusalCode, ToClient, ToRegistrar,
};
use protocol::request::{Act, Operations, Preamble};
use protocol::{Authentication, MemberId, Share};

use crate::registrars::{T0, by_token, config, fetch, hand_over, outcome, say, start};

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
    let counts = Registrations { sealed: 1, exported: 1, exported_refused: 1, ..Registrations::default() };
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
