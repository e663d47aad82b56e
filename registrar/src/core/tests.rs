use protocol::Authentication;
use protocol::registration::{ANSWER, ClientEntry, OFFER};

use super::*;

fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://demo/{name}")).unwrap()
}

fn credential() -> Credential {
    Credential { kind: Authentication::Token, ends: 77, name: vec![4; 32] }
}

fn core() -> Core {
    let clients = vec![IdentityPattern::parse("spiffe://demo/member/*").unwrap()];
    Core::new(Config { identity: identity("registrar/r1"), clients })
}

fn linked() -> Core {
    let mut core = core();
    core.handle(Now::ZERO, Input::LinkUp);
    let entries = vec![ClientEntry { client: MemberId(7), identity: identity("member/old") }];
    key_server(&mut core, &ToRegistrar::ClientList { key_server: "ks".into(), first: true, last: true, entries });
    drain(&mut core);
    core
}

fn key_server(core: &mut Core, message: &ToRegistrar) {
    core.handle(Now::ZERO, Input::FromKeyServer(&message.encode()));
}

fn register(core: &mut Core, session: u64, name: &str) {
    core.handle(Now::ZERO, Input::ClientUp { session, identity: identity(name), credential: credential() });
    let frame = FromClient::Register { key_server: "ks".into(), offers: vec![] }.encode();
    core.handle(Now::ZERO, Input::FromClient { session, frame: &frame });
}

fn drain(core: &mut Core) -> Vec<Output> {
    std::iter::from_fn(|| core.poll_output()).collect()
}

fn refusal(outputs: &[Output]) -> RefusalCode {
    let refused = outputs.iter().find_map(|output| match output {
        Output::ToClient { frame, close: true, .. } => match ToClient::decode(frame).unwrap() {
            ToClient::Refused(refusal) => Some(refusal.code),
            _ => None,
        },
        _ => None,
    });
    refused.unwrap_or_else(|| panic!("nobody was refused: {outputs:?}"))
}

#[test]
fn a_registration_from_beginning_to_end() {
    let mut core = linked();
    register(&mut core, 1, "member/m1");
    let outputs = drain(&mut core);
    let Output::ToKeyServer(frame) = &outputs[0] else { panic!("{outputs:?}") };
    let Ok(FromRegistrar::FetchNumber { tag, kind: Authentication::Token, identity: who }) =
        FromRegistrar::decode(frame)
    else {
        panic!()
    };
    assert_eq!(who, identity("member/m1"));
    key_server(&mut core, &ToRegistrar::Number { tag, client: MemberId(9), registration: 3 });
    let outputs = drain(&mut core);
    let number = ToClient::Number { client: MemberId(9), registration: 3 }.encode();
    assert_eq!(outputs[0], Output::ToClient { session: 1, frame: number, close: false });
    let context = exporter_context(&who, &identity("registrar/r1"), "ks", MemberId(9), 3);
    assert_eq!(outputs[1], Output::Export { session: 1, context });
    core.handle(Now::ZERO, Input::Exported { session: 1, key: IndividualKey::new([5; 32]) });
    let outputs = drain(&mut core);
    let Output::ToKeyServer(frame) = &outputs[0] else { panic!("{outputs:?}") };
    let handed_over = FromRegistrar::decode(frame).unwrap();
    let FromRegistrar::HandOver { tag, client, registration, key, ends, credential } = handed_over else { panic!() };
    assert_eq!((client, registration, key.expose()), (MemberId(9), 3, &[5; 32]));
    assert_eq!((ends, credential), (77, vec![4; 32]));
    assert!(core.under_way() > 0, "the client is told only when the key is durable");
    key_server(&mut core, &ToRegistrar::Durable { tag });
    let done = Output::ToClient { session: 1, frame: ToClient::Registered.encode(), close: true };
    assert_eq!(drain(&mut core)[0], done);
    assert!(core.under_way() == 0);
}

#[test]
fn what_is_sealed_is_passed_on_and_nothing_is_exported() {
    let mut core = linked();
    core.handle(Now::ZERO, Input::ClientUp { session: 1, identity: identity("member/m1"), credential: credential() });
    let offers = vec![[1; OFFER], [2; OFFER]];
    let frame = FromClient::Register { key_server: "ks".into(), offers: offers.clone() }.encode();
    core.handle(Now::ZERO, Input::FromClient { session: 1, frame: &frame });
    let asked = question(&drain(&mut core));
    let FromRegistrar::RegisterSealed { tag, kind, identity: who, offers: passed, ends, credential } = asked else {
        panic!("{asked:?}")
    };
    assert_eq!((kind, who, passed), (Authentication::Token, identity("member/m1"), offers));
    assert_eq!((ends, credential), (77, vec![4; 32]));
    assert!(core.under_way() > 0, "the client is told only when the key is durable");
    key_server(&mut core, &ToRegistrar::DurableSealed { tag, client: MemberId(9), answer: Box::new([8; ANSWER]) });
    let frame = ToClient::RegisteredSealed(Box::new([8; ANSWER])).encode();
    assert_eq!(drain(&mut core)[0], Output::ToClient { session: 1, frame, close: true });
    assert!(core.under_way() == 0);
}

#[test]
fn whoever_may_not_is_refused_before_the_key_server_hears_of_it() {
    let mut core = linked();
    register(&mut core, 1, "elsewhere/m1");
    let outputs = drain(&mut core);
    assert_eq!(refusal(&outputs), RefusalCode::Identity);
    assert!(!outputs.iter().any(|output| matches!(output, Output::ToKeyServer(_))));
}

#[test]
fn whoever_is_refused_is_counted_and_leaves_nothing() {
    let mut core = linked();
    register(&mut core, 1, "registrar/r2");
    core.handle(Now::ZERO, Input::Failed);
    let refused = Refusal::new(RefusalCode::Credential, "no", 0);
    core.handle(Now::ZERO, Input::Unproved { session: 2, refusal: refused });
    let outputs = drain(&mut core);
    assert!(!outputs.iter().any(|output| matches!(output, Output::ToKeyServer(_))), "{outputs:?}");
    assert_eq!(core.tally(), Tally { registered: 0, refused: 1, unproved: 1, failed: 1 });
    assert!(core.under_way() == 0);
}

#[test]
fn a_missing_key_server_another_one_and_nonsense_each_have_an_answer() {
    let mut core = core();
    register(&mut core, 1, "member/m1");
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Unavailable);
    let mut core = linked();
    core.handle(Now::ZERO, Input::ClientUp { session: 2, identity: identity("member/m2"), credential: credential() });
    let frame = FromClient::Register { key_server: "other".into(), offers: vec![] }.encode();
    core.handle(Now::ZERO, Input::FromClient { session: 2, frame: &frame });
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::KeyServer);
    core.handle(Now::ZERO, Input::ClientUp { session: 3, identity: identity("member/m3"), credential: credential() });
    core.handle(Now::ZERO, Input::FromClient { session: 3, frame: b"nonsense" });
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Malformed);
    register(&mut core, 4, "member/m4");
    let again = FromClient::Register { key_server: "ks".into(), offers: vec![] }.encode();
    core.handle(Now::ZERO, Input::FromClient { session: 4, frame: &again });
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Malformed);
    assert!(core.under_way() == 0);
}

#[test]
fn a_lost_link_a_long_wait_and_a_client_that_goes_leave_nothing_behind() {
    let mut core = linked();
    register(&mut core, 1, "member/m1");
    drain(&mut core);
    core.handle(Now::ZERO, Input::LinkDown);
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Unavailable);
    let mut core = linked();
    register(&mut core, 1, "member/m1");
    drain(&mut core);
    let (at, _) = core.poll_timeout().unwrap();
    core.handle(at, Input::Timeout);
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Unavailable);
    register(&mut core, 2, "member/m2");
    core.handle(Now::ZERO, Input::ClientDown { session: 2 });
    assert!(core.under_way() == 0 && core.tags.is_empty());
}

#[test]
fn the_client_list_is_replaced_and_added_to() {
    let mut core = linked();
    assert_eq!(core.client(&identity("member/old")), Some(MemberId(7)));
    let entry = ClientEntry { client: MemberId(8), identity: identity("member/new") };
    key_server(&mut core, &ToRegistrar::ClientAdded(entry));
    assert_eq!(core.client(&identity("member/new")), Some(MemberId(8)));
    let list = ToRegistrar::ClientList { key_server: "ks".into(), first: true, last: true, entries: vec![] };
    key_server(&mut core, &list);
    assert_eq!(core.client(&identity("member/old")), None);
    core.handle(Now::ZERO, Input::FromKeyServer(b"nonsense"));
    assert!(drain(&mut core).contains(&Output::CutKeyServer));
}

#[test]
fn sessions_have_a_limit() {
    let mut core = linked();
    for session in 0..1_000 {
        core.handle(Now::ZERO, Input::ClientUp { session, identity: identity("member/m"), credential: credential() });
    }
    drain(&mut core);
    core.handle(
        Now::ZERO,
        Input::ClientUp { session: 1_000, identity: identity("member/m"), credential: credential() },
    );
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Busy);
}

fn question(outputs: &[Output]) -> FromRegistrar {
    let asked = outputs.iter().find_map(|output| match output {
        Output::ToKeyServer(frame) => Some(FromRegistrar::decode(frame).unwrap()),
        _ => None,
    });
    asked.unwrap_or_else(|| panic!("the key server was not asked: {outputs:?}"))
}

fn fetch(core: &mut Core, session: u64, name: &str) -> u32 {
    register(core, session, name);
    match question(&drain(core)) {
        FromRegistrar::FetchNumber { tag, .. } => tag,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_late_answer_about_one_client_never_reaches_another() {
    let mut core = linked();
    let gone = fetch(&mut core, 1, "member/m1");
    core.handle(Now::ZERO, Input::ClientDown { session: 1 });
    let waiting = fetch(&mut core, 2, "member/m2");
    assert_ne!(gone, waiting);
    // Taken for the answer to m2's question, it would register m2's key as m1.
    key_server(&mut core, &ToRegistrar::Number { tag: gone, client: MemberId(9), registration: 3 });
    assert_eq!(drain(&mut core), []);
    key_server(&mut core, &ToRegistrar::Number { tag: waiting, client: MemberId(10), registration: 1 });
    let number = ToClient::Number { client: MemberId(10), registration: 1 }.encode();
    assert_eq!(drain(&mut core)[0], Output::ToClient { session: 2, frame: number, close: false });
}

#[test]
fn an_answer_to_another_question_cuts_the_link_and_forgets_no_client() {
    let mut core = linked();
    let tag = fetch(&mut core, 1, "member/m1");
    key_server(&mut core, &ToRegistrar::Durable { tag });
    assert_eq!(drain(&mut core), [Output::CutKeyServer]);
    assert!(core.under_way() > 0);
    core.handle(Now::ZERO, Input::LinkDown);
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Unavailable);

    let mut core = linked();
    let tag = fetch(&mut core, 1, "member/m1");
    key_server(&mut core, &ToRegistrar::Number { tag, client: MemberId(9), registration: 3 });
    core.handle(Now::ZERO, Input::Exported { session: 1, key: IndividualKey::new([5; 32]) });
    let FromRegistrar::HandOver { tag, .. } = question(&drain(&mut core)) else { panic!() };
    key_server(&mut core, &ToRegistrar::Number { tag, client: MemberId(10), registration: 1 });
    assert_eq!(drain(&mut core), [Output::CutKeyServer]);
    // The answer to a sealed one, to a client that offered nothing.
    let answer = Box::new([8; ANSWER]);
    key_server(&mut core, &ToRegistrar::DurableSealed { tag, client: MemberId(9), answer });
    assert_eq!(drain(&mut core), [Output::CutKeyServer]);
}

#[test]
fn a_key_that_was_made_when_the_link_was_lost_goes_nowhere() {
    let mut core = linked();
    let tag = fetch(&mut core, 1, "member/m1");
    key_server(&mut core, &ToRegistrar::Number { tag, client: MemberId(9), registration: 3 });
    core.handle(Now::ZERO, Input::LinkDown);
    assert_eq!(refusal(&drain(&mut core)), RefusalCode::Unavailable);
    // Another connection does not know the number.
    core.handle(Now::ZERO, Input::LinkUp);
    let list = ToRegistrar::ClientList { key_server: "ks".into(), first: true, last: true, entries: vec![] };
    key_server(&mut core, &list);
    drain(&mut core);
    core.handle(Now::ZERO, Input::Exported { session: 1, key: IndividualKey::new([5; 32]) });
    assert_eq!(drain(&mut core), []);
}

#[test]
fn a_key_server_that_answers_nothing_is_cut_off() {
    let mut core = linked();
    fetch(&mut core, 1, "member/m1");
    core.handle(Now::from_secs(5), Input::ClientDown { session: 1 });
    let (at, _) = core.poll_timeout().expect("the question is still open");
    assert_eq!(at, Now::from_secs(10));
    core.handle(at, Input::Timeout);
    assert_eq!(drain(&mut core), [Output::CutKeyServer]);
    assert_eq!(core.poll_timeout(), None);

    let mut core = linked();
    fetch(&mut core, 1, "member/m1");
    let entry = ClientEntry { client: MemberId(8), identity: identity("member/new") };
    core.handle(Now::from_secs(5), Input::FromKeyServer(&ToRegistrar::ClientAdded(entry).encode()));
    core.handle(Now::from_secs(10), Input::Timeout);
    assert!(!drain(&mut core).contains(&Output::CutKeyServer), "it is slow, not gone");
}

#[test]
fn a_key_never_shows_in_debug() {
    let mut core = linked();
    let tag = fetch(&mut core, 1, "member/m1");
    key_server(&mut core, &ToRegistrar::Number { tag, client: MemberId(9), registration: 3 });
    drain(&mut core);
    core.handle(Now::ZERO, Input::Exported { session: 1, key: IndividualKey::new([211; 32]) });
    let shown = format!("{:?}", drain(&mut core));
    assert!(!shown.contains("211, 211"), "{shown}");
}

#[test]
fn who_finds_no_key_server_comes_back_one_after_the_other() {
    let mut core = core();
    let mut waits = Vec::new();
    for session in 0..500 {
        register(&mut core, session, &format!("member/m{session}"));
        waits.extend(drain(&mut core).iter().filter_map(|output| match output {
            Output::ToClient { frame, .. } => match ToClient::decode(frame).unwrap() {
                ToClient::Refused(refusal) => Some(refusal.retry_after_ms),
                _ => None,
            },
            _ => None,
        }));
    }
    assert!(waits.len() == 500 && waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    assert!(waits[0] >= 1_000 && waits[499] <= 2_000);
}
