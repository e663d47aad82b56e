//! The messages of `protocol`. Each has one encoding, so what is accepted encodes to the octets that it was read from.

use std::collections::BTreeSet;
use std::fmt::Debug;

use keygraph::{Degree, NodeId, Strategy};
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern, MAX_IDENTITY};
use protocol::registration::{
    ANSWER, ClientEntry, FromClient, FromRegistrar, LIST_CHUNK, MAX_OFFERS, OFFER, Refusal, RefusalCode, ToClient,
    ToRegistrar,
};
use protocol::rekey::{Announcement, Audience, Entry, Origin};
use protocol::request::{
    Act, Denial, Losses, MAX_EARLIER, MAX_OPERATIONS, MAX_REQUEST, Operations, Outcome, Preamble, Reply, Request,
    RequestId, Resync,
};
use protocol::site::SiteCertificate;
use protocol::tag::TAG;
use protocol::unit::{MAX_BLOCK_UNITS, MAX_DATAGRAM, Unit, UnitVerifier};
use protocol::{
    Authentication, Beacon, Commitment, EpochHeader, IndividualKey, MAX_NAME, MemberId, Reason, RekeyMessage,
    SigningKey, Suite, VerifyingKey,
};

use super::history::{HISTORY, History, payload, untagged};
use super::site::{GROUP, Kind, SIMPLE, identity as named, signing, trusted};

/// Whether `decode` accepts; what it accepts must `encode` to the same octets.
fn canonical<T, E: Debug>(data: &[u8], decoded: Result<T, E>, encode: impl Fn(&T) -> Vec<u8>) -> bool {
    match decoded {
        Ok(value) => {
            assert_eq!(hex(&encode(&value)), hex(data), "another encoding of the same is accepted");
            true
        }
        Err(_) => false,
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Accepted: well-formed. Whatever verifies as well was sent by the key server.
pub(super) fn unit(data: &[u8]) -> bool {
    let Ok(unit) = Unit::decode(data) else { return false };
    let header = unit.header;
    let mut epoch = Vec::new();
    header.epoch.encode(&mut epoch);
    assert!(data.windows(EpochHeader::LEN).any(|part| part == epoch), "another encoding of the header is accepted");
    assert!(data.len() <= MAX_DATAGRAM, "{} octets", data.len());
    assert!(header.message < header.messages && header.block < header.blocks && header.message_len > 0);
    assert!((1..=16).contains(&header.s) && header.s + header.r <= MAX_BLOCK_UNITS && unit.index < header.s + header.r);
    match UnitVerifier::new(trusted()).verify(&unit, || true) {
        Ok(verified) => {
            assert!(HISTORY.is_genuine(data), "a forged unit is accepted");
            assert_eq!(verified.payload[..], *payload(data));
        }
        Err(_) => assert!(!HISTORY.datagrams.iter().any(|sent| sent == data), "a genuine unit is refused"),
    }
    true
}

pub(super) fn unit_seeds() -> Vec<Vec<u8>> {
    HISTORY.datagrams.iter().filter(|datagram| Unit::decode(datagram).is_ok()).cloned().collect()
}

/// Accepted: well-formed. Whatever verifies as well was sent by the key server.
pub(super) fn beacon(data: &[u8]) -> bool {
    let Ok(beacon) = Beacon::decode(data) else { return false };
    let genuine = HISTORY.datagrams.iter().any(|sent| untagged(sent) == untagged(data));
    assert_eq!(Beacon::verify(data, &trusted()).is_ok(), genuine, "a beacon is genuine if it verifies");
    if let Ok(again) = beacon.sign(&signing(), HISTORY.tags.first_key_value().unwrap().1) {
        let signed = again.len() - TAG - beacon.context.suite.signature_len();
        assert_eq!(hex(&again[..signed]), hex(&data[..signed]), "another encoding of the same is accepted");
        assert_eq!(again.len(), data.len());
    }
    true
}

pub(super) fn beacon_seeds() -> Vec<Vec<u8>> {
    HISTORY.datagrams.iter().filter(|datagram| Beacon::decode(datagram).is_ok()).cloned().collect()
}

/// The octet of a suite, then a message. Accepted: well-formed. A member that it leads on holds what it commits to.
pub(super) fn rekey_message(data: &[u8]) -> bool {
    let Some((suite, octets)) = data.split_first() else { return false };
    let Ok(suite) = Suite::try_from(*suite) else { return false };
    let Ok(message) = RekeyMessage::decode(octets, suite) else { return false };
    assert!(message.wraps() * suite.secret_len() <= octets.len());
    assert!(message.moves.windows(2).all(|pair| pair[0].0 < pair[1].0), "moves out of order");
    assert!(message.spliced.windows(2).all(|pair| pair[0] > pair[1]), "spliced k-nodes out of order");
    assert!(message.entries.windows(2).all(|pair| pair[0].node > pair[1].node), "entries out of order");
    let Ok(Reply { outcomes, .. }) = Reply::decode(&HISTORY.reply) else { panic!("the reply is genuine") };
    if let Outcome::Granted(membership) = &outcomes[0] {
        let mut context = Beacon::decode(&membership.beacon).unwrap().context;
        context.epoch += 1;
        if let Ok(path) = membership.path.apply(&context, &message) {
            assert_eq!(path.commitment(&context), Some(message.commitment));
        }
    }
    canonical(octets, Ok::<_, ()>(message), RekeyMessage::encode)
}

/// Those of every strategy, of trees and stars.
pub(super) fn rekey_message_seeds() -> Vec<Vec<u8>> {
    let mut seeds = HISTORY.messages();
    for strategy in Strategy::ALL {
        let degree = if strategy == Strategy::Key { Degree::STAR } else { Degree::new(3).unwrap() };
        let suite = if strategy == Strategy::Group { Suite::Aes128 } else { Suite::Aes256 };
        seeds.extend(History::live(Kind { strategy, degree, suite, ..SIMPLE }).messages());
    }
    // Long ones are mostly wraps, of which all are alike; and many are for one member each, and alike too.
    seeds.retain(|seed| seed.len() < 1_000);
    let step = seeds.len().div_ceil(16);
    let mut seeds: Vec<Vec<u8>> = seeds.into_iter().step_by(step).collect();
    seeds.extend([Suite::Aes128, Suite::Aes256].map(|suite| [vec![suite as u8], every_form(suite).encode()].concat()));
    seeds
}

/// A message with every form that there is. It is of no tree.
fn every_form(suite: Suite) -> RekeyMessage {
    let mut wrapped = [0; 32];
    wrapped[..suite.secret_len()].fill(7);
    let entry = |node, origin, children: &[u32], more: bool| Entry {
        node: NodeId(node),
        origin,
        own: more.then_some(wrapped),
        children: children.iter().map(|child| (*child, wrapped)).collect(),
        again: more.then_some(wrapped),
    };
    RekeyMessage {
        suite,
        commitment: Commitment([3; 32]),
        announcement: Announcement { reason: Reason::Batch, send_delay_ms: 200, keep_old_ms: 3_000 },
        degree: Degree::new(4).unwrap(),
        largest_knode: NodeId(20),
        audience: Some(Audience { below: NodeId(0), except: vec![1, 3] }),
        moves: vec![(NodeId(30), NodeId(40)), (NodeId(31), NodeId(50))],
        spliced: vec![NodeId(19), NodeId(12), NodeId(4)],
        entries: vec![
            entry(18, Origin::Fresh, &[2], false),
            entry(9, Origin::Derive { child: 3 }, &[1], true),
            entry(2, Origin::Derive { child: 1 }, &[0, 2], false),
            entry(1, Origin::Advance, &[], false),
            entry(0, Origin::Derive { child: 0 }, &[1, 2, 3], false),
        ],
    }
}

/// Accepted: well-formed.
pub(super) fn preamble(data: &[u8]) -> bool {
    let decoded = Preamble::decode(data);
    assert!(decoded.as_ref().is_ok_and(|preamble| preamble.key_server.len() <= MAX_NAME) || decoded.is_err());
    canonical(data, decoded, Preamble::encode)
}

pub(super) fn preamble_seeds() -> Vec<Vec<u8>> {
    let preamble = |name: &str| Preamble { key_server: name.into(), client: MemberId(3), registration: 2 }.encode();
    vec![preamble("ks"), preamble(&"k".repeat(MAX_NAME)), preamble("")]
}

/// Accepted: well-formed.
pub(super) fn request(data: &[u8]) -> bool {
    let decoded = Request::decode(data);
    if let Ok(request) = &decoded {
        let groups = request.groups();
        assert!((1..=MAX_OPERATIONS).contains(&request.operations.len()) && data.len() <= MAX_REQUEST);
        assert!(groups.iter().all(|group| (1..=MAX_NAME).contains(&group.len())));
        assert_eq!(BTreeSet::from_iter(&groups).len(), groups.len(), "a group stands twice in a request");
    }
    canonical(data, decoded, Request::encode)
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    let losses = Losses { expected: 9, lost: 2, bursts: 1, blocks: 3 };
    let resync = |n: u8| Resync { group: format!("g{n}"), seen: (1, 7), have: 6, losses };
    let change = |n: u8| (if n < 2 { Act::Join } else { Act::Leave }, format!("g{n}"));
    let request = |operations| Request { id: RequestId([7; 16]), operations }.encode();
    vec![
        HISTORY.join.clone(),
        request(Operations::Changes((0..3).map(change).collect())),
        request(Operations::Changes((0..64).map(change).collect())),
        request(Operations::Resyncs((0..2).map(resync).collect())),
        request(Operations::Reports((0..3).map(|n| (format!("g{n}"), losses)).collect())),
        request(Operations::Witnesses(vec![("g1".into(), vec![3; 253])])),
        request(Operations::Certificate(1_700_000_000)),
        request(Operations::Subscriptions((0..3).map(|n| format!("g{n}")).collect())),
        request(Operations::Resyncs(vec![Resync {
            group: GROUP.into(),
            seen: (1, 3),
            have: 3,
            losses: Losses::default(),
        }])),
    ]
}

/// Accepted: well-formed.
pub(super) fn reply(data: &[u8]) -> bool {
    let decoded = Reply::decode(data);
    for outcome in decoded.iter().flat_map(|reply| &reply.outcomes) {
        if let Outcome::Granted(membership) = outcome {
            assert!(membership.earlier.len() <= MAX_EARLIER && membership.beacon.len() <= Beacon::MAX_LEN);
            assert!(membership.path.root().is_some() && membership.path.held().count() <= 33);
        }
    }
    assert!(decoded.as_ref().map_or(0, |reply| reply.outcomes.len()) <= MAX_OPERATIONS);
    canonical(data, decoded, Reply::encode)
}

pub(super) fn reply_seeds() -> Vec<Vec<u8>> {
    let denials = Denial::ALL.map(Outcome::Denied);
    let outcomes = denials
        .into_iter()
        .chain([Outcome::Left { epoch: 9 }, Outcome::Later { after_ms: 900 }, Outcome::Noted, Outcome::Subscribed])
        .chain([Outcome::Certificate(vec![5; 200])])
        .collect();
    let star = History::live(SIMPLE).reply;
    vec![HISTORY.reply.clone(), star, Reply { id: RequestId([7; 16]), outcomes }.encode()]
}

/// Accepted: an identity. There is one spelling, and a pattern of it matches it.
pub(super) fn identity(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Ok(pattern) = IdentityPattern::parse(text) {
        assert_eq!(pattern.to_string(), text);
    }
    let decoded = Identity::parse(text);
    if let Ok(identity) = &decoded {
        assert!(text.len() <= MAX_IDENTITY && text.is_ascii());
        assert!(IdentityPattern::parse(text).is_ok_and(|pattern| pattern.matches(identity)));
    }
    canonical(data, decoded, |identity| identity.as_str().as_bytes().to_vec())
}

pub(super) fn identity_seeds() -> Vec<Vec<u8>> {
    let long = format!("spiffe://d/{}", "x".repeat(MAX_IDENTITY - 11));
    ["spiffe://demo/member/m1", "spiffe://a.b-c_d/A/b.c/1", &long].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// What a site certificate signs, which is signed here. Accepted: the certificate opens. Without that signature it does not.
pub(super) fn site_certificate(data: &[u8]) -> bool {
    let site = SigningKey::from_seed(&[8; 32]).unwrap();
    let now = 1_000;
    let signed = [data, &site.sign_ed25519(data)].concat();
    let foreign = SiteCertificate::open(&signed, &signing().public(), now);
    assert!(foreign.is_err() && SiteCertificate::open(data, &site.public(), now).is_err(), "a forged site certificate");
    let Ok(certificate) = SiteCertificate::open(&signed, &site.public(), now) else { return false };
    assert!(
        (certificate.not_before..=certificate.not_after).contains(&now) && certificate.key_server.len() <= MAX_NAME
    );
    assert!((1..=10).contains(&certificate.signing.len()) && (1..=10).contains(&certificate.noise.len()));
    assert!(signed.len() <= protocol::site::MAX_LEN);
    let again = certificate.sign(&site);
    // Keys of an unknown kind are left out on purpose.
    assert!(again == signed || again.len() < signed.len(), "another encoding of the same is accepted");
    true
}

pub(super) fn site_certificate_seeds() -> Vec<Vec<u8>> {
    let site = SigningKey::from_seed(&[8; 32]).unwrap();
    let rsa = VerifyingKey::from_octets(2, &[7; 398]).unwrap();
    let certificate = |signing: Vec<VerifyingKey>, noise: Vec<[u8; 32]>| {
        let certificate = SiteCertificate { key_server: "ks".into(), not_before: 1, not_after: 2_000, signing, noise };
        let mut signed = certificate.sign(&site);
        signed.truncate(signed.len() - site.sign_ed25519(&[]).len());
        signed
    };
    let ed25519 = signing().public();
    vec![
        certificate(vec![ed25519.clone()], vec![[4; 32]]),
        certificate(vec![ed25519.clone(), rsa, ed25519.clone(), ed25519], vec![[4; 32]; 4]),
    ]
}

/// Accepted: well-formed.
pub(super) fn from_client(data: &[u8]) -> bool {
    canonical(data, FromClient::decode(data), FromClient::encode)
}

pub(super) fn from_client_seeds() -> Vec<Vec<u8>> {
    let token = FromClient::RegisterWithToken {
        key_server: "ks".into(),
        identity: named("member/me"),
        token: "a.b.c".to_owned().into(),
        offers: vec![[7; OFFER]],
    };
    let register = |name: &str, offers| FromClient::Register { key_server: name.into(), offers };
    let plain = [register("ks", vec![]), register(&"k".repeat(MAX_NAME), vec![[8; OFFER]; MAX_OFFERS])];
    plain.into_iter().chain([token]).map(|message| message.encode()).collect()
}

/// Accepted: well-formed.
pub(super) fn to_client(data: &[u8]) -> bool {
    canonical(data, ToClient::decode(data), ToClient::encode)
}

pub(super) fn to_client_seeds() -> Vec<Vec<u8>> {
    vec![
        ToClient::Number { client: MemberId(4), registration: 9 }.encode(),
        ToClient::Registered.encode(),
        ToClient::RegisteredSealed(Box::new([9; ANSWER])).encode(),
        ToClient::Refused(refusal()).encode(),
    ]
}

/// Accepted: well-formed.
pub(super) fn from_registrar(data: &[u8]) -> bool {
    canonical(data, FromRegistrar::decode(data), FromRegistrar::encode)
}

pub(super) fn from_registrar_seeds() -> Vec<Vec<u8>> {
    let key = IndividualKey::new([3; 32]);
    vec![
        FromRegistrar::FetchNumber { tag: 1, kind: Authentication::Certificate, identity: named("member/me") }.encode(),
        FromRegistrar::HandOver {
            tag: 2,
            client: MemberId(1),
            registration: 1,
            key,
            ends: NO_END,
            credential: vec![1; 33],
        }
        .encode(),
        FromRegistrar::RegisterSealed {
            tag: 3,
            kind: Authentication::Token,
            identity: named("member/me"),
            offers: vec![[4; OFFER]; 2],
            ends: NO_END,
            credential: vec![1; 33],
        }
        .encode(),
    ]
}

/// Accepted: well-formed.
pub(super) fn to_registrar(data: &[u8]) -> bool {
    let decoded = ToRegistrar::decode(data);
    if let Ok(ToRegistrar::ClientList { key_server, entries, .. }) = &decoded {
        assert!(entries.len() <= LIST_CHUNK && key_server.len() <= MAX_NAME);
    }
    canonical(data, decoded, ToRegistrar::encode)
}

pub(super) fn to_registrar_seeds() -> Vec<Vec<u8>> {
    let entry = |n: u32| ClientEntry { client: MemberId(n), identity: named(&format!("member/m{n}")) };
    let list = |clients: u32| ToRegistrar::ClientList {
        key_server: "ks".into(),
        first: true,
        last: false,
        entries: (0..clients).map(entry).collect(),
    };
    vec![
        list(0).encode(),
        list(3).encode(),
        list(128).encode(),
        ToRegistrar::ClientAdded(entry(5)).encode(),
        ToRegistrar::Number { tag: 1, client: MemberId(4), registration: 9 }.encode(),
        ToRegistrar::Durable { tag: 2 }.encode(),
        ToRegistrar::DurableSealed { tag: 2, client: MemberId(4), answer: Box::new([9; ANSWER]) }.encode(),
        ToRegistrar::Refused { tag: 3, refusal: refusal() }.encode(),
    ]
}

fn refusal() -> Refusal {
    Refusal::new(RefusalCode::Busy, "too many registrations under way", 1_000)
}
