//! What a member believes of sealed replies, and when it asks for them.

use super::*;
use protocol::request::Denial;

#[test]
fn replies_that_do_not_match_are_refused() {
    type Alter = fn(&mut Server, &mut Membership);
    let alters: [(&str, Alter); 8] = [
        ("commitment", |server, m| {
            let mut beacon = server.describe();
            beacon.commitment = Commitment([0; 32]);
            m.beacon = beacon.sign(&server.key, &server.tag).unwrap();
        }),
        ("not signed", |server, m| {
            m.beacon = server.describe().sign(&SigningKey::from_seed(&[66; 32]).unwrap(), &server.tag).unwrap()
        }),
        ("commitment", |server, m| {
            let mut beacon = server.describe();
            beacon.context.group = GroupId(7);
            m.beacon = beacon.sign(&server.key, &server.tag).unwrap();
        }),
        ("malformed", |_, m| m.beacon.truncate(50)),
        ("malformed", |_, m| m.beacon.clear()),
        ("earlier key", |server, m| {
            let epoch = server.context.epoch;
            m.earlier = vec![EarlierKey { epoch, remaining_ms: 1, key: server.data_key() }];
        }),
        ("earlier key", |server, m| m.joined_epoch = server.context.epoch + 1),
        ("earlier key", |server, m| {
            let epoch = m.joined_epoch - 1;
            m.earlier = vec![EarlierKey { epoch, remaining_ms: 1, key: server.data_key() }];
        }),
    ];
    for (expected, alter) in alters {
        let mut server = Server::new(1, 4, 9);
        let mut client = Client::new(&["g"]);
        client.register();
        server.change(Reason::Join, &[Change::Join(ME)]);
        let mut membership = server.membership();
        alter(&mut server, &mut membership);
        client.answer(vec![Outcome::Granted(Box::new(membership))]);
        let why = client.events.iter().find_map(|e| if let Event::BadReply { why, .. } = e { Some(why) } else { None });
        assert!(why.is_some_and(|why| why.contains(expected)), "{expected}: {why:?}");
        assert_eq!((client.status(), client.feeds["g"].keys.len()), (Status::Joining, 0));
        client.pass(1_000);
        client.answer(vec![server.granted()]);
        client.agrees(&server);
    }
}

#[test]
fn a_reply_older_than_what_was_seen_is_refused() {
    let (mut client, mut server) = Client::member(4, 9);
    let old = server.granted();
    let lost = server.refresh();
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert!(client.resyncs_within(WAIT_MS.into()));
    client.answer(vec![old]);
    assert!(client.has_event(|event| matches!(event, Event::BadReply { why, .. } if why.contains("seen signed"))));
    assert_eq!(client.group().epoch, Some(2));
    client.datagrams(&lost);
    client.agrees(&server);
    assert_eq!(client.status(), Status::Member, "the message itself came late and was enough");
}

#[test]
fn a_reply_of_another_group_is_refused() {
    let (mut client, mut server) = Client::member(4, 9);
    let mut other = Server::new(7, 4, 9);
    other.change(Reason::Join, &[Change::Join(ME)]);
    other.refresh();
    server.refresh();
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert!(client.resyncs_within(WAIT_MS.into()));
    client.answer(vec![other.granted()]);
    assert!(client.has_event(|event| matches!(event, Event::BadReply { why, .. } if why.contains("group 7"))));
    assert_eq!(client.group().epoch, Some(2));
}

#[test]
fn an_eviction_takes_the_keys_away() {
    let (mut client, mut server) = Client::member(4, 9);
    let out = server.change(Reason::Evict, &[Change::Leave(ME)]);
    client.datagrams(&out);
    assert_eq!(client.group().counters.messages_unusable, 1, "nothing in it is for this client");
    assert_eq!(client.group().epoch, Some(2));
    assert!(client.resyncs_within(WAIT_MS.into()));
    client.answer(vec![Outcome::Denied(Denial::NotMember)]);
    assert_eq!(client.status(), Status::Evicted);
    let feed = &client.feeds["g"];
    assert!(feed.keys.is_empty() && feed.detail.contains("not a member"), "{}", feed.detail);
    assert!(client.has_event(|event| matches!(event, Event::Evicted { .. })) && client.subscribed.is_empty());
    client.datagrams(&server.refresh());
    client.pass(600_000);
    assert_eq!(client.requests.len(), 2, "an eviction is final");
    assert!(client.core.danger_data_key("g", 2).is_none());
}

#[test]
fn silence_is_asked_about_less_and_less_often() {
    let (mut client, mut server) = Client::member(4, 9);
    assert!(!client.resyncs_within(u64::from(3 * INTERVAL_MS) - 2));
    assert!(client.resyncs_within(u64::from(WAIT_MS) + 3));
    assert_eq!(client.status(), Status::Stale);
    client.answer(vec![server.granted()]);
    assert_eq!(client.status(), Status::Member);
    assert!(!client.resyncs_within(u64::from(5 * INTERVAL_MS)), "twice as patient");
    assert!(client.resyncs_within(u64::from(2 * INTERVAL_MS)));
    client.answer(vec![server.granted()]);
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert!(client.resyncs_within(u64::from(3 * INTERVAL_MS + WAIT_MS)), "a beacon makes it impatient again");
}
