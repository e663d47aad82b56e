//! Registration, requests, and what users ask for.

use super::*;
use protocol::request::{Act, Denial};

fn changes(request: &Request) -> Vec<(Act, &str)> {
    let Operations::Changes(changes) = &request.operations else { panic!("{request:?}") };
    changes.iter().map(|(act, group)| (*act, group.as_str())).collect()
}

#[test]
fn registers_first_and_backs_off() {
    let mut client = Client::new(&["g"]);
    assert_eq!((client.registers, client.requests.len()), (1, 0));
    let mut last = 0;
    for failures in 0..12u32 {
        client.handle(Input::RegistrationFailed { retry_after: None, is_final: false });
        let (at, _) = client.core.poll_timeout().unwrap();
        let pause = u64::try_from((at - client.now).as_millis()).unwrap();
        let whole = (250 << failures).min(30_000);
        assert!((whole / 2..=whole).contains(&pause), "pause {pause} after {failures} failures");
        last = pause;
        client.pass(pause);
        assert_eq!(client.registers, 2 + usize::try_from(failures).unwrap());
    }
    assert!(last >= 15_000);
    client.handle(Input::RegistrationFailed { retry_after: Some(ms(60_000)), is_final: false });
    client.pass(59_999);
    assert_eq!(client.registers, 13, "no sooner than the registrar said");
    client.pass(1);
    assert_eq!(client.registers, 14);
}

#[test]
fn a_turn_at_a_registrar_is_waited_for_and_is_no_failure() {
    let mut client = Client::new(&["g"]);
    for turn in 1..20 {
        client.handle(Input::RegistrationLater { after: ms(2_000) });
        client.pass(1_999);
        assert_eq!(client.registers, turn, "too soon");
        client.pass(251);
        assert_eq!(client.registers, turn + 1);
    }
    client.handle(Input::RegistrationFailed { retry_after: None, is_final: false });
    client.pass(250);
    assert_eq!(client.registers, 21, "the first failure");
}

#[test]
fn a_final_refusal_ends_it() {
    let mut client = Client::new(&["g"]);
    client.handle(Input::RegistrationFailed { retry_after: None, is_final: true });
    assert!(client.is_stopped && client.core.poll_timeout().is_none());
    assert_eq!(client.feeds["g"].status, Status::Refused);
}

#[test]
fn joins_all_groups_in_one_request() {
    let mut client = Client::new(&["a", "b", "c"]);
    client.register();
    assert_eq!(changes(&client.requests[0]), [(Act::Join, "a"), (Act::Join, "b"), (Act::Join, "c")]);
    let (mut a, mut b) = (Server::new(1, 4, 3), Server::new(2, 2, 3));
    a.change(Reason::Join, &[Change::Join(ME)]);
    b.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![a.granted(), b.granted(), Outcome::Denied(Denial::Policy)]);
    assert_eq!(client.subscribed.len(), 2);
    assert_eq!(client.feeds["c"].status, Status::Refused);
    assert!(client.feeds["c"].detail.contains("policy"));
    client.pass(2_000);
    assert_eq!(client.requests.len(), 1, "a final denial is not asked again");
    a.refresh();
    b.refresh();
    let beacons = [a.beacon(), b.beacon()];
    client.datagrams(&beacons);
    client.pass(WAIT_MS.into());
    let Operations::Resyncs(resyncs) = &client.requests[1].operations else { panic!() };
    assert_eq!(resyncs.len(), 2, "one request for all groups that need it");
    client.answer(vec![a.granted(), b.granted()]);
    for (name, server) in [("a", &a), ("b", &b)] {
        assert_eq!(client.core.danger_data_key(name, server.context.epoch), Some(&server.data_key()));
    }
}

#[test]
fn a_passing_denial_is_asked_again() {
    let mut client = Client::new(&["g"]);
    client.register();
    client.answer(vec![Outcome::Denied(Denial::Unavailable)]);
    assert_eq!(client.status(), Status::Joining);
    client.pass(250);
    assert_eq!(client.requests.len(), 2);
    assert_ne!(client.requests[0].id, client.requests[1].id, "an answered request is over");
}

#[test]
fn a_join_that_is_to_come_later_comes_later_and_may_have_been_carried_out() {
    let later = || vec![Outcome::Later { after_ms: 5_000 }];
    let waiting = || {
        let mut client = Client::new(&["g"]);
        client.register();
        client.answer(later());
        assert_eq!((client.status(), client.group().counters.bad_replies), (Status::Joining, 0));
        client
    };
    let mut client = waiting();
    client.pass(4_999);
    assert_eq!(client.requests.len(), 1, "not before it was told");
    client.pass(1 + 5_000 / 8);
    assert_eq!(changes(&client.requests[1]), [(Act::Join, "g")]);
    assert_ne!(client.requests[0].id, client.requests[1].id, "an answered request is over");
    let mut server = Server::new(1, 4, 3);
    server.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![server.granted()]);
    client.agrees(&server);
    // Whoever is told to come later is a member already: it does not go without a word.
    let mut client = waiting();
    client.handle(Input::Stop { leave: true });
    assert_eq!(changes(&client.requests[1]), [(Act::Leave, "g")]);
    // A leave is never told to come later.
    client.answer(later());
    assert!(client.has_event(|event| matches!(event, Event::BadReply { .. })));
}

#[test]
fn the_same_request_until_it_is_answered() {
    let mut client = Client::new(&["g"]);
    client.register();
    let id = client.requests[0].id;
    client.handle(Input::RequestFailed { id: RequestId([0; 16]), refused: true });
    client.handle(Input::RequestFailed { id, refused: false });
    client.handle(Input::RequestFailed { id, refused: false });
    client.pass(250);
    assert_eq!(client.requests.len(), 2);
    client.pass(10_000 + 500);
    assert_eq!(client.requests.len(), 3, "silence is a failure too");
    assert!(client.requests.iter().all(|request| request.id == id));
    client.handle(Input::Reply { id, message: b"nonsense" });
    client.pass(1_000);
    assert_eq!(client.requests.len(), 4, "and so is nonsense");
    let mut server = Server::new(1, 4, 3);
    server.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![server.granted()]);
    client.agrees(&server);
    client.answer(vec![server.granted()]);
    assert!(client.has_event(|event| matches!(event, Event::Dropped { .. })), "an answer to nothing");
}

#[test]
fn a_request_comes_at_its_turn_and_the_pauses_do_not_grow() {
    let mut client = Client::new(&["g"]);
    client.register();
    let id = client.requests[0].id;
    for turn in 1..=10 {
        client.handle(Input::RequestLater { id, after: Duration::from_secs(4) });
        client.pass(3_900);
        assert_eq!(client.requests.len(), turn, "not before, and the pauses do not grow");
        client.pass(100 + 500);
        assert_eq!((client.requests.len(), client.requests[turn].id), (turn + 1, id));
    }
    client.handle(Input::RequestLater { id: RequestId([0; 16]), after: Duration::ZERO });
    assert!(!client.has_event(|event| matches!(event, Event::Unanswered { .. })), "no failure");
    assert_eq!(client.registers, 1);
}

#[test]
fn three_refusals_register_anew_and_keep_the_membership() {
    let (mut client, mut server) = Client::member(4, 9);
    server.refresh();
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    for _ in 0..3 {
        assert_eq!(client.registers, 1);
        client.pass(1_000);
        let id = client.requests.last().unwrap().id;
        client.handle(Input::RequestFailed { id, refused: true });
    }
    assert_eq!(client.registers, 2);
    assert!(!client.feeds["g"].keys.is_empty(), "the keys stay");
    client.handle(Input::Registered { client: ME, registration: 2 });
    assert_eq!(changes(client.requests.last().unwrap()), [(Act::Join, "g")]);
    server.change(Reason::Renew, &[Change::Renew(ME)]);
    client.answer(vec![server.granted()]);
    client.agrees(&server);
    assert_eq!(client.feeds["g"].keys.iter().map(|live| live.epoch).collect::<Vec<_>>(), [2, 4]);
    client.datagrams(&server.refresh());
    client.agrees(&server);
}

#[test]
fn earlier_keys_come_with_a_resync() {
    let (mut client, mut server) = Client::member(4, 9);
    server.refresh();
    server.earlier.push(EarlierKey { epoch: 3, remaining_ms: 1_500, key: server.data_key() });
    server.refresh();
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert!(client.resyncs_within(WAIT_MS.into()));
    client.answer(vec![server.granted()]);
    let keys = &client.feeds["g"].keys;
    assert_eq!(keys.iter().map(|live| live.epoch).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(keys[1].receive_until, Some(client.now + ms(1_500)));
    assert_eq!(client.core.danger_data_key("g", 3), Some(&server.earlier[0].key));
    client.pass(1_500);
    assert_eq!(client.feeds["g"].keys.len(), 2, "told when it is over");
}

#[test]
fn a_leaver_reads_until_the_switch() {
    let (mut client, mut server) = Client::member(4, 9);
    let late = server.refresh();
    let after = server.change(Reason::Leave, &[Change::Leave(ME)]);
    client.handle(Input::Leave("g".into()));
    assert_eq!(changes(&client.requests[1]), [(Act::Leave, "g")]);
    client.answer(vec![Outcome::Left { epoch: 4 }]);
    assert_eq!((client.status(), client.feeds["g"].left_epoch), (Status::Left, Some(4)));
    client.datagrams(&late);
    assert_eq!(client.group().epoch, Some(3), "the last epoch of the membership came late");
    client.datagrams(&after);
    assert_eq!(client.group().epoch, Some(3));
    let now = client.now;
    assert!(client.feeds["g"].keys.iter().all(|live| live.send_until.is_some_and(|at| at <= now)));
    client.pass(4_250);
    assert!(client.feeds["g"].keys.is_empty() && client.subscribed.is_empty());
    assert_eq!(client.requests.len(), 2);
    client.handle(Input::Join("g".into()));
    server.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![server.granted()]);
    client.agrees(&server);
    assert_eq!(client.feeds["g"].left_epoch, None);
}

#[test]
fn stops_with_or_without_leaving() {
    let (mut client, _) = Client::member(4, 9);
    client.handle(Input::Stop { leave: false });
    assert!(client.is_stopped && client.requests.len() == 1);

    let (mut client, _) = Client::member(4, 9);
    client.handle(Input::Stop { leave: true });
    assert_eq!(changes(&client.requests[1]), [(Act::Leave, "g")]);
    assert!(!client.is_stopped);
    client.answer(vec![Outcome::Left { epoch: 3 }]);
    assert!(client.is_stopped && client.feeds["g"].status == Status::Left);

    let (mut client, _) = Client::member(4, 9);
    client.handle(Input::Stop { leave: true });
    client.pass(1_999);
    assert!(!client.is_stopped);
    client.pass(1);
    assert!(client.is_stopped, "a key server that is away is not waited for");
}

#[test]
fn users_cannot_make_it_grow() {
    let mut client = Client::new(&[]);
    client.register();
    for i in 0..200 {
        client.handle(Input::Join(format!("group {i}")));
    }
    client.handle(Input::Join(String::new()));
    client.handle(Input::Join("x".repeat(65)));
    assert_eq!(client.core.status().len(), MAX_GROUPS);
    for i in 0..200 {
        let consumer = format!("consumer {i}");
        client.handle(Input::Applied { group: "group 0".into(), consumer, epoch: 1 });
    }
    client.handle(Input::Applied { group: "group 0".into(), consumer: "x".repeat(65), epoch: 1 });
    client.handle(Input::Applied { group: "unknown".into(), consumer: "x".into(), epoch: 1 });
    let group = client.core.status().into_iter().find(|group| group.group == "group 0").unwrap();
    assert_eq!(group.applied.len(), 64);
}
