//! Groups without multicast.

use super::*;
use protocol::request::Denial;

fn over_tcp() -> Carriers {
    Carriers { others: Carrier::Tcp, named: BTreeMap::new() }
}

/// A member over TCP whose session is open.
fn member() -> (Client, Server) {
    let mut server = Server::new(1, 3, 5);
    let mut client = Client::with(&["g"], over_tcp());
    client.register();
    assert!(client.streams.is_empty(), "no session before there is anything to listen to");
    server.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![server.granted()]);
    client.subscribe(vec![Outcome::Subscribed]);
    assert!(client.core.stream().0 && client.subscribed.is_empty(), "and no multicast");
    (client, server)
}

impl Client {
    fn asked(&self) -> (RequestId, Vec<String>) {
        let request = self.streams.last().expect("a subscription");
        let Operations::Subscriptions(groups) = &request.operations else { panic!("{request:?}") };
        (request.id, groups.clone())
    }

    /// Answers the last subscription.
    fn subscribe(&mut self, outcomes: Vec<Outcome>) {
        let id = self.asked().0;
        let message = Reply { id, outcomes }.encode();
        self.handle(Input::Subscribed { id, message: &message });
    }

    fn stream_ends(&mut self) {
        let id = self.asked().0;
        self.handle(Input::StreamEnded { id });
    }
}

#[test]
fn a_member_without_multicast_follows_and_reports_no_losses() {
    let (mut client, mut server) = member();
    assert_eq!(client.asked().1, ["g"]);
    for _ in 0..5 {
        // Without repair units and copies.
        let units = server.refresh();
        let needed = |unit: &&Vec<u8>| !Unit::decode(unit).unwrap().is_spare();
        client.datagrams(&units.iter().filter(needed).cloned().collect::<Vec<_>>());
        client.agrees(&server);
    }
    let beacon = Beacon { report_one_in: 1, counter: 99, ..server.describe() };
    client.datagrams(&[beacon.sign(&server.key, &server.tag).unwrap()]);
    client.pass(25_000);
    let is_report = |request: &Request| matches!(request.operations, Operations::Reports(_));
    assert!(!client.requests.iter().any(is_report), "nothing is lost over TCP");
    let Operations::Resyncs(resyncs) = &client.requests.last().unwrap().operations else { panic!("silence") };
    assert_eq!(resyncs[0].losses, protocol::request::Losses::default());
}

#[test]
fn a_session_that_ends_is_begun_again_after_growing_pauses_and_catches_up() {
    let (mut client, mut server) = member();
    server.refresh();
    server.refresh();
    let mut pauses = Vec::new();
    for failures in 0..10u32 {
        let before = client.streams.len();
        client.stream_ends();
        assert!(!client.core.stream().0 && client.streams.len() == before, "not at once");
        let Some(Event::StreamEnded { pause }) = client.events.last().cloned() else { panic!("{:?}", client.events) };
        let whole = ms((250u64 << failures).min(30_000));
        assert!((whole / 2..=whole).contains(&pause), "{pause:?} after {failures}");
        client.now += pause;
        client.handle(Input::Timeout);
        assert_eq!(client.streams.len(), before + 1);
        pauses.push(pause);
    }
    assert!(pauses[9] >= Duration::from_secs(15));
    // The server says at once where the group is.
    client.subscribe(vec![Outcome::Subscribed]);
    let beacon = server.beacon();
    client.datagrams(&[beacon]);
    client.pass(WAIT_MS.into());
    assert!(client.requests.last().is_some_and(|request| matches!(request.operations, Operations::Resyncs(_))));
    client.answer(vec![server.granted()]);
    client.agrees(&server);
    // A session that lasted makes the next pause a short one.
    client.now += Duration::from_secs(31);
    client.stream_ends();
    assert!(client.has_event(|event| matches!(event, Event::StreamEnded { pause } if *pause <= ms(250))));
    assert_eq!(client.core.stream().1, 11);
    // What is said of a session that is gone changes nothing.
    client.stream_ends();
    client.subscribe(vec![Outcome::Subscribed]);
    assert_eq!(client.core.stream(), (false, 11));
}

#[test]
fn what_is_denied_is_asked_about_and_asked_again() {
    let (mut client, _) = member();
    client.stream_ends();
    client.pass(300);
    let requests = client.requests.len();
    client.subscribe(vec![Outcome::Denied(Denial::Unavailable)]);
    let streams = client.streams.len();
    client.pass(1_100);
    assert!(client.streams.len() > streams && client.requests.len() == requests, "a full key server is asked again");
    // Not a member: the answer to a request decides.
    client.subscribe(vec![Outcome::Denied(Denial::NotMember)]);
    assert_eq!(client.status(), Status::Member);
    assert!(client.resyncs_within(WAIT_MS.into()));
    client.answer(vec![Outcome::Denied(Denial::NotMember)]);
    assert_eq!(client.status(), Status::Evicted);
    assert_eq!(client.streams_ended, 1);
    let streams = client.streams.len();
    client.pass(120_000);
    assert_eq!(client.streams.len(), streams, "nothing is left to listen to");
}

#[test]
fn a_bad_reply_ends_the_session() {
    let (mut client, mut server) = member();
    for outcomes in [vec![], vec![Outcome::Subscribed; 2]] {
        client.stream_ends();
        client.pass(2_000);
        client.subscribe(outcomes);
        assert!(!client.core.stream().0);
    }
    assert_eq!(client.streams_ended, 2);
    let id = client.asked().0;
    client.pass(4_000);
    client.handle(Input::Subscribed { id, message: b"nonsense" });
    let id = client.asked().0;
    client.handle(Input::Subscribed { id, message: b"nonsense" });
    assert_eq!(client.streams_ended, 3);
    client.datagrams(&server.refresh());
    client.agrees(&server);
}

#[test]
fn groups_have_their_own_carriers_and_share_a_session() {
    let named = BTreeMap::from([("m".to_owned(), Carrier::Multicast)]);
    let mut client = Client::with(&["a", "b", "m"], Carriers { named, ..over_tcp() });
    client.register();
    let mut servers = [1, 2, 3].map(|id| Server::new(id, 3, 2));
    servers.iter_mut().for_each(|server| drop(server.change(Reason::Join, &[Change::Join(ME)])));
    let [a, b, m] = &mut servers;
    client.answer(vec![a.granted(), Outcome::Denied(Denial::Full), m.granted()]);
    assert_eq!(client.asked().1, ["a"]);
    assert_eq!(client.subscribed.len(), 1);
    client.subscribe(vec![Outcome::Subscribed]);
    client.pass(400);
    client.answer(vec![b.granted()]);
    assert_eq!(client.asked().1, ["a", "b"], "another session in the place of the first");
    client.subscribe(vec![Outcome::Subscribed; 2]);
    let streams = client.streams.len();
    client.handle(Input::Leave("a".into()));
    client.answer(vec![Outcome::Left { epoch: 3 }]);
    assert_eq!(client.streams.len(), streams, "the key server knows what is left");
    client.handle(Input::Leave("b".into()));
    client.answer(vec![Outcome::Left { epoch: 3 }]);
    assert_eq!((client.streams_ended, client.core.stream().0), (1, false));
}
