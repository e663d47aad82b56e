//! Control messages: one encoding for each, no prefix and no extension of one is another, and no octets panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::fmt::Debug;

use crate::common::{Server, announcement};
use keygraph::{Change, MemberId, Strategy};
use proptest::prelude::*;
use protocol::identity::Identity;
use protocol::registration::{
    ANSWER, ClientEntry, FromClient, FromRegistrar, Grant, MAX_OFFERS, MAX_TOKEN, OFFER, Parties, Refusal, RefusalCode,
    ToClient, ToRegistrar,
};
use protocol::request::{
    Act, Denial, EarlierKey, Losses, MAX_OPERATIONS, MAX_REQUEST, Membership, Operations, Outcome, Preamble, Reply,
    Request, RequestId, Resync, Role,
};
use protocol::{Authentication, Beacon, DataKey, DecodeError, IndividualKey, RekeyMessage, Share};

fn check<T: PartialEq + Debug>(message: &T, octets: &[u8], decode: impl Fn(&[u8]) -> Result<T, DecodeError>) {
    assert_eq!(decode(octets).as_ref(), Ok(message));
    for length in 0..octets.len() {
        assert!(decode(&octets[..length]).is_err(), "cut to {length}: {message:?}");
    }
    assert!(decode(&[octets, &[0]].concat()).is_err(), "{message:?}");
    let mut other_version = octets.to_vec();
    other_version[0] ^= 0x80;
    assert!(decode(&other_version).is_err());
}

fn identity() -> Identity {
    Identity::parse("spiffe://demo/member/m1").unwrap()
}

#[test]
fn registration() {
    let refusal = Refusal::new(RefusalCode::Busy, "too many", 250);
    let register = FromClient::Register { key_server: "ks".into(), offers: vec![] };
    check(&register, &register.encode(), FromClient::decode);
    let token = "a.b.c".to_owned().into();
    let offers = vec![[6; OFFER]; 2];
    let register = FromClient::RegisterWithToken { key_server: "ks".into(), identity: identity(), token, offers };
    check(&register, &register.encode(), FromClient::decode);
    let offers = vec![[6; OFFER]; MAX_OFFERS];
    let register = FromClient::Register { key_server: "ks".into(), offers };
    check(&register, &register.encode(), FromClient::decode);
    let many = FromClient::Register { key_server: "ks".into(), offers: vec![[6; OFFER]; MAX_OFFERS + 1] };
    assert!(matches!(FromClient::decode(&many.encode()), Err(DecodeError::Limit { what: "offers", .. })));
    let token = "t".repeat(MAX_TOKEN + 1).into();
    let long = FromClient::RegisterWithToken { key_server: "ks".into(), identity: identity(), token, offers: vec![] };
    assert!(matches!(FromClient::decode(&long.encode()), Err(DecodeError::Limit { what: "token", .. })));
    let number = ToClient::Number { client: MemberId(5), registration: 9 };
    let sealed = ToClient::RegisteredSealed(Box::new([4; ANSWER]));
    for message in [number, ToClient::Registered, sealed, ToClient::Refused(refusal.clone())] {
        check(&message, &message.encode(), ToClient::decode);
    }
    let key = IndividualKey::new([7; 32]);
    let (ends, credential) = (77, vec![8; 52]);
    let hand_over = FromRegistrar::HandOver { tag: 3, client: MemberId(5), registration: 9, key, ends, credential };
    let (offers, credential) = (vec![[6; OFFER]; 3], vec![8; 52]);
    let kind = Authentication::Token;
    let sealed = FromRegistrar::RegisterSealed { tag: 3, kind, identity: identity(), offers, ends, credential };
    let fetches = Authentication::ALL.map(|kind| FromRegistrar::FetchNumber { tag: 3, kind, identity: identity() });
    for message in fetches.into_iter().chain([hand_over, sealed]) {
        check(&message, &message.encode(), FromRegistrar::decode);
    }
    let entry = ClientEntry { client: MemberId(5), identity: identity() };
    let entries = vec![entry.clone(), entry.clone()];
    for message in [
        ToRegistrar::ClientList { key_server: "ks".into(), first: true, last: false, entries },
        ToRegistrar::ClientAdded(entry),
        ToRegistrar::Number { tag: 3, client: MemberId(5), registration: 9 },
        ToRegistrar::Durable { tag: 3 },
        ToRegistrar::DurableSealed { tag: 3, client: MemberId(5), answer: Box::new([4; ANSWER]) },
        ToRegistrar::Refused { tag: 3, refusal },
    ] {
        check(&message, &message.encode(), ToRegistrar::decode);
    }
}

/// The key of a sealed registration is another for each share, party and number.
#[test]
fn sealed_keys() {
    let share = |octet| Share::new([octet; 32]);
    let grant = Grant { client: MemberId(5), registration: 9, share: share(1) };
    check_grant(&grant);
    let who = |name: &str| Identity::parse(&format!("spiffe://demo/{name}")).unwrap();
    let parties = Parties { client: who("m"), registrar: who("r"), key_server: "ks".into() };
    let others = [
        (grant.clone(), Parties { client: who("n"), ..parties.clone() }),
        (grant.clone(), Parties { registrar: who("s"), ..parties.clone() }),
        (grant.clone(), Parties { key_server: "kt".into(), ..parties.clone() }),
        (Grant { client: MemberId(6), ..grant.clone() }, parties.clone()),
        (Grant { registration: 10, ..grant.clone() }, parties.clone()),
        (Grant { client: MemberId(5), registration: 9, share: share(2) }, parties.clone()),
    ];
    let mut keys: Vec<IndividualKey> = others.iter().map(|(grant, parties)| grant.individual_key(parties)).collect();
    keys.push(grant.individual_key(&parties));
    for (i, key) in keys.iter().enumerate() {
        assert!(!keys[..i].contains(key), "{i}");
    }
    let prologues = others[..3].iter().all(|(_, other)| other.prologue() != parties.prologue());
    assert!(prologues && keys[6] == grant.individual_key(&parties));
}

fn check_grant(grant: &Grant) {
    let octets = grant.encode();
    assert_eq!(Grant::decode(octets.as_slice()).as_ref(), Ok(grant));
    assert!(Grant::decode(&octets[1..]).is_err() && Grant::decode(&[octets.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn requests_and_replies() {
    let preamble = Preamble { key_server: "ks".into(), client: MemberId(5), registration: 9 };
    check(&preamble, &preamble.encode(), Preamble::decode);
    let id = RequestId([4; 16]);
    let changes = Operations::Changes(vec![(Act::Join, "a".into()), (Act::Leave, "b".into())]);
    let resyncs =
        Operations::Resyncs(vec![Resync { group: "a".into(), seen: (2, 3), have: 1, losses: Losses::default() }]);
    let losses = Losses { expected: 40, lost: 5, bursts: 2, blocks: 3 };
    let resync = Resync { group: "b".into(), seen: (2, 3), have: 1, losses };
    let with_losses = Operations::Resyncs(vec![resync]);
    let reports = Operations::Reports(vec![("a".into(), losses), ("b".into(), Losses::default())]);
    let subscriptions = Operations::Subscriptions(vec!["a".into(), "b".into()]);
    let witnesses = Operations::Witnesses(vec![("a".into(), vec![7; 253]), ("b".into(), vec![])]);
    let certificate = Operations::Certificate(1_700_000_000);
    for operations in [changes, resyncs, with_losses, reports, subscriptions, witnesses, certificate] {
        let request = Request { id, operations };
        check(&request, &request.encode(), Request::decode);
    }
    let mut server = Server::new(3, Strategy::Chain);
    let joins: Vec<Change> = (1..=7).map(|m| Change::Join(MemberId(m))).collect();
    server.change(&joins, 1);
    let membership = Membership {
        destination: "239.1.2.3:9999".parse().unwrap(),
        joined_epoch: 1,
        role: Role::Receiver,
        lease_s: 90,
        announcement: announcement(),
        path: server.path(MemberId(4)),
        earlier: vec![EarlierKey { epoch: 1, remaining_ms: 10, key: DataKey::new([1; 32]) }],
        beacon: vec![1, 2, 3],
    };
    let six = Membership { destination: "[ff15::1]:9".parse().unwrap(), earlier: vec![], ..membership.clone() };
    let outcomes = vec![
        Outcome::Granted(Box::new(membership)),
        Outcome::Granted(Box::new(six)),
        Outcome::Left { epoch: 8 },
        Outcome::Denied(Denial::Policy),
        Outcome::Denied(Denial::Lapsed),
        Outcome::Later { after_ms: 70_000 },
        Outcome::Noted,
        Outcome::Subscribed,
        Outcome::Certificate(vec![9; 300]),
    ];
    let reply = Reply { id, outcomes };
    check(&reply, &reply.encode(), Reply::decode);
}

#[test]
fn the_largest_request_is_within_the_limit() {
    let name = |number: usize| format!("{number:0>width$}", width = protocol::MAX_NAME);
    let losses = Losses { expected: u32::MAX, lost: u32::MAX, bursts: u32::MAX, blocks: u32::MAX };
    let resync = |number| Resync { group: name(number), seen: (u64::MAX, u64::MAX), have: u64::MAX, losses };
    let operations = Operations::Resyncs((0..MAX_OPERATIONS).map(resync).collect());
    let request = Request { id: RequestId([255; 16]), operations };
    assert!(request.encode().len() <= MAX_REQUEST);
    check(&request, &request.encode(), Request::decode);
}

#[test]
fn a_request_mixes_nothing_and_names_each_group_once() {
    let id = RequestId([4; 16]);
    let request = |operations| Request::decode(&Request { id, operations }.encode());
    assert!(request(Operations::Changes(vec![])).is_err());
    let twice = vec![(Act::Join, "a".into()), (Act::Leave, "a".into())];
    assert!(request(Operations::Changes(twice)).is_err());
    let many = (0..65).map(|i| (Act::Join, format!("g{i}"))).collect();
    assert!(matches!(request(Operations::Changes(many)), Err(DecodeError::Limit { have: 65, limit: 64, .. })));
    assert!(request(Operations::Changes(vec![(Act::Join, String::new())])).is_err());
    // The kind stands once before all operations, so a request with both kinds cannot even be written.
    let mut octets = Request { id, operations: Operations::Changes(vec![(Act::Join, "a".into())]) }.encode();
    octets[17] = 7;
    assert_eq!(Request::decode(&octets), Err(DecodeError::Value { what: "kind of operations", value: 7 }));
    // One certificate is asked for, no more and no less.
    let certificate = Request { id, operations: Operations::Certificate(3) }.encode();
    for (count, more) in [(0, 0), (2, 8), (1, 1)] {
        let mut octets = [certificate.as_slice(), &vec![0; more]].concat();
        octets[19] = count;
        assert!(Request::decode(&octets).is_err());
    }
    let beacons =
        |count: usize, len| Operations::Witnesses((0..count).map(|i| (format!("g{i}"), vec![0; len])).collect());
    assert!(request(beacons(8, Beacon::MAX_LEN)).is_ok());
    assert!(Request { id, operations: beacons(8, Beacon::MAX_LEN) }.encode().len() <= MAX_REQUEST);
    assert!(matches!(request(beacons(9, 1)), Err(DecodeError::Limit { have: 9, limit: 8, .. })));
    assert!(request(beacons(1, Beacon::MAX_LEN + 1)).is_err());
    assert!(request(Operations::Subscriptions(vec!["a".into(), "a".into()])).is_err());
    let many = (0..65).map(|i| format!("g{i}")).collect();
    assert!(matches!(request(Operations::Subscriptions(many)), Err(DecodeError::Limit { have: 65, limit: 64, .. })));
}

proptest! {
    #[test]
    fn no_octets_panic(octets in proptest::collection::vec(any::<u8>(), 0..700)) {
        let versioned = [&[1], octets.as_slice()].concat();
        for octets in [octets.as_slice(), &versioned] {
            let _ = FromClient::decode(octets);
            let _ = ToClient::decode(octets);
            let _ = FromRegistrar::decode(octets);
            let _ = ToRegistrar::decode(octets);
            let _ = Preamble::decode(octets);
            let _ = Request::decode(octets);
            let _ = Reply::decode(octets);
            let _ = RekeyMessage::decode(octets, protocol::Suite::Aes128);
            let _ = protocol::unit::Unit::decode(octets);
            let _ = Beacon::decode(octets);
        }
    }
}
