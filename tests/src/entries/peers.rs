//! The cores of key server and registrar, given any frames and requests of a peer that has proved who it is.

use std::time::Duration;

use keyserver::core::Event;
use protocol::credential::NO_END;
use protocol::identity::Identity;
use protocol::registration::{FromClient, FromRegistrar, MAX_OFFERS, OFFER, ToClient, ToRegistrar};
use protocol::request::{Act, Losses, Operations, Outcome, Reply, Request, RequestId, Resync};
use protocol::{Authentication, Beacon, Credential, IndividualKey};
use registrar::core as registering;

use super::site::{CLOSED, GROUP, SIMPLE, START, Site, identity, members, trusted};
use super::{pieces, sequence};

/// Frames of a registrar to the key server. Accepted: a client is registered.
pub(super) fn registrar_frames(data: &[u8]) -> bool {
    let mut site = Site::new(SIMPLE);
    for frame in pieces(data) {
        let (said, was_closed) = (site.to_registrar.len(), site.closed);
        site.registrar_says(frame);
        let answers: Vec<ToRegistrar> =
            site.to_registrar[said..].iter().map(|frame| ToRegistrar::decode(frame).unwrap()).collect();
        match FromRegistrar::decode(frame) {
            _ if was_closed => assert!(answers.is_empty(), "an answer on a connection that was closed"),
            Err(_) => assert!(site.closed && answers.is_empty(), "a malformed frame closes the connection"),
            Ok(
                FromRegistrar::FetchNumber { tag, .. }
                | FromRegistrar::HandOver { tag, .. }
                | FromRegistrar::RegisterSealed { tag, .. },
            ) => {
                let to_it = |answer: &&ToRegistrar| match answer {
                    ToRegistrar::Number { tag: to, .. }
                    | ToRegistrar::Durable { tag: to }
                    | ToRegistrar::DurableSealed { tag: to, .. }
                    | ToRegistrar::Refused { tag: to, .. } => *to == tag,
                    ToRegistrar::ClientList { .. } | ToRegistrar::ClientAdded(_) => false,
                };
                assert_eq!(answers.iter().filter(to_it).count(), 1, "one answer: {answers:?}");
            }
        }
    }
    let registered = site.events.iter().filter_map(|event| match event {
        Event::Registered { identity, .. } => Some(identity),
        _ => None,
    });
    let registered: Vec<&Identity> = registered.collect();
    assert!(registered.iter().all(|one| members().matches(one)), "{registered:?} may not be registered here");
    !registered.is_empty()
}

pub(super) fn registrar_frames_seeds() -> Vec<Vec<u8>> {
    let mut site = Site::new(SIMPLE);
    let [one, two] = ["member/a", "member/b"].map(|path| site.register(path));
    let again = site.register("member/a");
    let (sealed, _) = site.register_sealed("member/a", vec![[2; OFFER], [3; OFFER]]);
    let all = [&one.question[..], &two.question, &again.question, std::slice::from_ref(&sealed)].concat();
    vec![sequence(&one.question), sequence([&sealed]), sequence(all)]
}

/// Requests of a registered client, one after another, each in a session of its own. Accepted: one is granted.
pub(super) fn requests(data: &[u8]) -> bool {
    let mut site = Site::new(SIMPLE);
    let me = site.register("member/me");
    let mut is_granted = false;
    for message in pieces(data) {
        site.replies.clear();
        let session = site.request(me.client, me.registration, message);
        site.wait(Duration::from_secs(1));
        let [(to, reply)] = site.replies.as_slice() else { panic!("{} replies to one request", site.replies.len()) };
        assert_eq!(*to, session);
        let Ok(request) = Request::decode(message) else {
            assert_eq!(*reply, None, "a malformed request is answered");
            continue;
        };
        let reply = Reply::decode(reply.as_ref().expect("a reply")).unwrap();
        let groups = request.groups();
        assert!(reply.id == request.id && reply.outcomes.len() == request.operations.len());
        for (group, outcome) in groups.into_iter().zip(&reply.outcomes) {
            assert!(group == GROUP || matches!(outcome, Outcome::Denied(_)), "{group} is granted");
            assert!(group != CLOSED || matches!(outcome, Outcome::Denied(_)), "what nobody may join is joined");
            if let Outcome::Granted(membership) = outcome {
                let beacon = Beacon::decode(&membership.beacon).unwrap();
                Beacon::verify(&membership.beacon, &trusted()).unwrap();
                assert_eq!(membership.path.commitment(&beacon.context), Some(beacon.commitment));
                is_granted = true;
            }
        }
    }
    is_granted
}

pub(super) fn requests_seeds() -> Vec<Vec<u8>> {
    let request = |n: u8, operations| Request { id: RequestId([n; 16]), operations }.encode();
    let change = |n: u8, act| request(n, Operations::Changes(vec![(act, GROUP.into()), (act, CLOSED.into())]));
    let resync = |n: u8| {
        let resync = |group: &str| Resync { group: group.into(), seen: (1, 2), have: 1, losses: Losses::default() };
        request(n, Operations::Resyncs(vec![resync(GROUP), resync("none")]))
    };
    let subscribe = |n: u8| request(n, Operations::Subscriptions(vec![GROUP.into(), CLOSED.into(), "none".into()]));
    vec![
        sequence([change(1, Act::Join)]),
        sequence([subscribe(1), change(2, Act::Join), subscribe(3), subscribe(4), change(5, Act::Leave), subscribe(6)]),
        sequence([change(1, Act::Join), resync(2), change(3, Act::Leave), resync(4)]),
        sequence([
            request(1, Operations::Certificate(7)),
            change(2, Act::Join),
            request(3, Operations::Certificate(0)),
        ]),
        sequence([change(1, Act::Join), change(1, Act::Join), change(2, Act::Leave), change(2, Act::Leave)]),
    ]
}

/// Frames to a registrar: behind an odd octet its key server's, behind an even one a client's. Accepted: a client is
/// registered.
pub(super) fn registrar(data: &[u8]) -> bool {
    const SESSION: u64 = 3;
    let config = registering::Config { identity: identity("registrar/r"), clients: vec![members()] };
    let mut core = registering::Core::new(config);
    core.handle(START, registering::Input::LinkUp);
    let credential = Credential { kind: Authentication::Certificate, ends: NO_END, name: vec![1; 33] };
    let up = registering::Input::ClientUp { session: SESSION, identity: identity("member/me"), credential };
    core.handle(START, up);
    let mut is_registered = false;
    for piece in pieces(data) {
        let Some((from, frame)) = piece.split_first() else { continue };
        core.handle(
            START,
            match from % 2 {
                1 => registering::Input::FromKeyServer(frame),
                _ => registering::Input::FromClient { session: SESSION, frame },
            },
        );
        let mut handed_over = 0;
        while let Some(output) = core.poll_output() {
            match output {
                registering::Output::ToKeyServer(frame) => {
                    let message = FromRegistrar::decode(&frame).unwrap();
                    handed_over += usize::from(!matches!(message, FromRegistrar::FetchNumber { .. }));
                }
                registering::Output::Export { session, .. } => {
                    let key = IndividualKey::new([9; 32]);
                    core.handle(START, registering::Input::Exported { session, key });
                }
                registering::Output::ToClient { frame, close, .. } => {
                    let end = !matches!(ToClient::decode(&frame), Ok(ToClient::Number { .. }));
                    assert_eq!(end, close, "a session ends with its answer");
                }
                registering::Output::Event(registering::Event::Registered { identity: who, .. }) => {
                    assert_eq!(who, identity("member/me"));
                    assert_eq!(from % 2, 1, "only the key server's word registers");
                    is_registered = true;
                }
                registering::Output::Event(_) => {}
                registering::Output::CutKeyServer => core.handle(START, registering::Input::LinkDown),
            }
        }
        assert!(handed_over <= 1);
    }
    is_registered
}

pub(super) fn registrar_seeds() -> Vec<Vec<u8>> {
    let mut site = Site::new(SIMPLE);
    let list = site.to_registrar.remove(0);
    let from = |who: u8, frame: &[u8]| [&[who], frame].concat();
    let exported = site.register("member/me").answer;
    let offers = vec![[3; OFFER]; MAX_OFFERS];
    let (_, sealed) = site.register_sealed("member/me", offers.clone());
    let seed = |offers, answers: Vec<Vec<u8>>| {
        let register = FromClient::Register { key_server: "ks".into(), offers }.encode();
        let answers = answers.iter().map(|answer| from(1, answer));
        sequence([from(1, &list), from(0, &register)].into_iter().chain(answers))
    };
    vec![seed(vec![], exported), seed(offers, vec![sealed])]
}
