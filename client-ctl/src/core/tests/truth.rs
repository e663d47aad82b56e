//! What a member believes: units, beacons and replies in order, out of order, lost, old and false.

use super::*;

#[test]
fn joins_and_follows_in_order() {
    let (mut client, mut server) = Client::member(4, 9);
    assert_eq!(client.subscribed.len(), 1);
    for member in 20..60 {
        let datagrams = server.change(Reason::Join, &[Change::Join(MemberId(member))]);
        client.datagrams(&datagrams);
        client.agrees(&server);
    }
    for member in 20..60 {
        client.datagrams(&server.change(Reason::Leave, &[Change::Leave(MemberId(member))]));
        client.agrees(&server);
    }
    assert_eq!(client.requests.len(), 1, "one join and nothing else");
    let counters = client.group().counters;
    assert_eq!((counters.messages, counters.conflicts, counters.units_malformed), (80, 0, 0));
    assert_eq!(client.feeds["g"].sender_id, Some(ME));
}

#[test]
fn a_leaf_displaced_by_a_split_keeps_its_place() {
    // Degree 2: this client's leaf is the first to be split by the joins that follow.
    let (mut client, mut server) = Client::member(2, 1);
    for member in 20..40 {
        client.datagrams(&server.change(Reason::Join, &[Change::Join(MemberId(member))]));
        client.agrees(&server);
    }
    assert_eq!(client.requests.len(), 1);
}

#[test]
fn any_order_of_units_and_messages() {
    let (mut client, mut server) = Client::member(4, 200);
    let mut later: Vec<_> = (0..5)
        .flat_map(|_| {
            let leavers: Vec<Change> =
                server.tree.members().filter(|m| *m != ME).step_by(9).map(Change::Leave).collect();
            server.change(Reason::Batch, &leavers)
        })
        .collect();
    later.reverse();
    client.datagrams(&later);
    client.agrees(&server);
    client.pass(u64::from(WAIT_MS));
    assert_eq!(client.requests.len(), 1, "the gap was filled, so nothing is asked");
    assert_eq!(client.status(), Status::Member);
    let old = client.group().counters.units_old;
    client.datagrams(&later);
    assert_eq!(client.group().counters.units_old - old, u64::try_from(later.len()).unwrap());
}

#[test]
fn repair_units_recover_a_message() {
    let (mut client, mut server) = Client::member(4, 400);
    let leavers: Vec<Change> = (1..200).step_by(5).map(|m| Change::Leave(MemberId(m))).collect();
    let datagrams = server.change(Reason::Batch, &leavers);
    let s = usize::from(Unit::decode(&datagrams[0]).unwrap().header.s);
    assert!(s > 1, "more than one unit");
    client.datagrams(&datagrams[1..]);
    client.agrees(&server);
    assert_eq!(client.group().counters.messages_recovered, 1);
    assert!(client.has_event(|event| matches!(event, Event::Installed { recovered: true, .. })));
}

#[test]
fn a_lost_message_shows_by_the_beacon() {
    let (mut client, mut server) = Client::member(4, 9);
    server.refresh();
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert!(client.has_event(|event| matches!(event, Event::Waiting { .. })));
    assert!(client.resyncs_within(WAIT_MS.into()));
    assert_eq!(client.status(), Status::Stale);
    let Operations::Resyncs(resyncs) = &client.requests[1].operations else { panic!() };
    assert_eq!((resyncs[0].seen, resyncs[0].have), ((1, 3), 2));
    client.answer(vec![server.granted()]);
    client.agrees(&server);
    assert_eq!(client.status(), Status::Member);
    assert!(client.has_event(|event| matches!(event, Event::Installed { how: How::Resync, epoch: 3, .. })));
    client.datagrams(&server.refresh());
    client.agrees(&server);
}

#[test]
fn a_gap_is_waited_for_and_filled_or_asked_for() {
    let (mut client, mut server) = Client::member(4, 9);
    let (missing, later) = (server.refresh(), server.refresh());
    client.datagrams(&later);
    client.datagrams(&missing);
    client.agrees(&server);
    assert!(!client.resyncs_within(u64::from(WAIT_MS)), "filled in time");
    server.refresh();
    client.datagrams(&server.refresh());
    assert!(client.resyncs_within(WAIT_MS.into()));
    client.answer(vec![server.granted()]);
    client.agrees(&server);
}

#[test]
fn forged_units_change_nothing() {
    let (mut client, mut server) = Client::member(4, 400);
    let genuine =
        server.change(Reason::Batch, &(1..60).step_by(7).map(|m| Change::Leave(MemberId(m))).collect::<Vec<_>>());
    let before = client.feeds["g"].clone();
    let stranger = SigningKey::from_seed(&[66; 32]).unwrap();
    let mut forged = Vec::new();
    for datagram in &genuine {
        for at in (0..datagram.len()).step_by(7) {
            let mut bad = datagram.clone();
            bad[at] ^= 1;
            forged.push(bad);
        }
    }
    let header = Unit::decode(&genuine[0]).unwrap().header.epoch;
    forged.extend(cut(&header, &[0; 700], (0, 1), (&stranger, &server.tag)));
    let mut beacon = server.describe();
    beacon.counter = 1_000;
    beacon.context.epoch += 5;
    forged.push(beacon.sign(&stranger, &server.tag).unwrap());
    client.datagrams(&forged);
    assert_eq!(client.feeds["g"], before);
    assert_eq!(client.events.iter().filter(|e| matches!(e, Event::Waiting { .. } | Event::Conflict { .. })).count(), 0);
    assert!(client.group().counters.units_bad_signature > 0 && client.group().counters.beacons_bad_signature == 1);
    client.datagrams(&genuine);
    client.agrees(&server);
}

#[test]
fn old_units_and_replayed_beacons_are_dropped() {
    let (mut client, mut server) = Client::member(4, 9);
    let old = server.refresh();
    client.datagrams(&old);
    let (first, second) = (server.beacon(), server.beacon());
    client.datagrams(&[second.clone(), first, second]);
    client.datagrams(&old);
    let counters = client.group().counters;
    assert_eq!((counters.beacons, counters.beacon_replays), (1, 2));
    assert!(counters.units_old >= 1);
    client.agrees(&server);
}

/// A signed beacon that says something else than the server knows.
fn false_beacon(server: &mut Server, alter: impl Fn(&mut Beacon)) -> Vec<u8> {
    server.counter += 1;
    let mut beacon = server.describe();
    alter(&mut beacon);
    beacon.sign(&server.key, &server.tag).unwrap()
}

#[test]
fn beacons_that_contradict_the_installed_epoch_are_dropped() {
    let alters: [fn(&mut Beacon); 4] = [
        |b| b.context.incarnation = Incarnation([2; 16]),
        |b| b.commitment = Commitment([0; 32]),
        |b| b.header_hash = HeaderHash([0; 32]),
        |b| b.context.term += 1,
    ];
    let (mut client, mut server) = Client::member(4, 9);
    // The epoch is known from a reply with its beacon, and then from a rekey message alone.
    for _ in 0..2 {
        for alter in alters {
            let before = client.group().counters.conflicts;
            let datagram = false_beacon(&mut server, alter);
            client.handle(Input::Datagram(&datagram));
            assert_eq!(client.group().counters.conflicts, before + 1);
        }
        client.agrees(&server);
        client.datagrams(&server.refresh());
    }
    client.agrees(&server);
    assert!(!client.resyncs_within(u64::from(WAIT_MS)), "nothing false moves the client");
    let before = client.group().counters.conflicts;
    server.context.incarnation = Incarnation([2; 16]);
    client.datagrams(&server.refresh());
    assert_eq!(client.group().epoch, Some(4), "a unit of another incarnation under the same term");
    assert!(client.group().counters.conflicts > before);
    assert_eq!(client.status(), Status::Member);
}

#[test]
fn statements_that_contradict_an_epoch_to_come_are_dropped() {
    let (mut client, mut server) = Client::member(4, 9);
    let message = server.refresh();
    // The first word on epoch 3 counts, and here it is the false one.
    let first = false_beacon(&mut server, |b| b.commitment = Commitment([0; 32]));
    let second = server.beacon();
    let third = false_beacon(&mut server, |b| {
        b.commitment = Commitment([0; 32]);
        b.header_hash = HeaderHash([0; 32]);
    });
    client.datagrams(&[first, second, third]);
    assert_eq!(client.group().counters.conflicts, 2);
    client.datagrams(&message);
    assert_eq!(client.group().epoch, Some(2), "the message is not what was announced");
    assert_eq!(client.group().counters.conflicts, 3);

    let (mut client, mut server) = Client::member(4, 9);
    let reign = |b: &mut Beacon, name| {
        (b.context.term, b.context.epoch) = (2, b.context.epoch + 1);
        b.context.incarnation = Incarnation([name; 16]);
    };
    let one = false_beacon(&mut server, |b| reign(b, 2));
    let other = false_beacon(&mut server, |b| reign(b, 3));
    client.datagrams(&[one, other]);
    assert_eq!(client.group().counters.conflicts, 1, "one term has one incarnation");
}

#[test]
fn one_epoch_has_one_header() {
    let (mut client, mut server) = Client::member(4, 400);
    let leavers: Vec<Change> = (1..200).step_by(5).map(|m| Change::Leave(MemberId(m))).collect();
    let datagrams = server.change(Reason::Batch, &leavers);
    let mut header = Unit::decode(&datagrams[0]).unwrap().header.epoch;
    header.previous = HeaderHash([5; 32]);
    let contradiction = cut(&header, &[0; 700], (0, 1), (&server.key, &server.tag));
    client.datagrams(&datagrams[..1]);
    client.datagrams(&contradiction[..1]);
    assert_eq!(client.group().counters.conflicts, 1);
    client.datagrams(&datagrams[1..]);
    client.agrees(&server);
}

#[test]
fn a_broken_chain_is_not_followed() {
    let (mut client, mut server) = Client::member(4, 9);
    let hash = std::mem::replace(&mut server.hash, HeaderHash([5; 32]));
    client.datagrams(&server.refresh());
    assert_eq!(client.group().epoch, Some(2));
    assert_eq!(client.group().counters.conflicts, 1);
    assert!(client.resyncs_within(WAIT_MS.into()));
    assert_ne!(hash, server.hash);
}

#[test]
fn a_new_reign_goes_on_where_the_old_one_ended() {
    let (mut client, mut server) = Client::member(4, 9);
    (server.context.term, server.context.incarnation, server.counter) = (2, Incarnation([2; 16]), 0);
    client.datagrams(&server.change(Reason::Restart, &[Change::Refresh]));
    client.agrees(&server);
    assert_eq!(client.group().term, Some(2));
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert_eq!(client.group().counters.beacons, 1, "a new reign counts from the beginning");
    assert_eq!(client.requests.len(), 1);
    // The old reign speaks again: it has no say any more.
    (server.context.term, server.context.incarnation) = (1, Incarnation([1; 16]));
    client.datagrams(&server.refresh());
    assert_eq!(client.group().epoch, Some(3));
}

/// Of an epoch's many messages one is for this member, whichever comes first; the others are no reason to ask.
#[test]
fn of_several_messages_in_an_epoch_the_one_that_is_meant_is_taken() {
    for strategy in [Strategy::User, Strategy::Key, Strategy::Hybrid] {
        let (mut client, mut server) = Client::member(4, 40);
        server.set_strategy(strategy);
        for (turn, reversed) in [(1u64, false), (2, true), (3, false)] {
            let mut datagrams =
                server.change(Reason::Leave, &[Change::Leave(MemberId(u32::try_from(turn).unwrap() * 7))]);
            assert!(datagrams.len() > 4);
            if reversed {
                datagrams.reverse();
            }
            client.datagrams(&datagrams);
            assert_eq!(client.group().epoch, Some(2 + turn), "{strategy}");
            client.agrees(&server);
        }
        assert_eq!(client.group().counters.resyncs, 0);
    }
}

#[test]
fn no_octets_from_outside_panic() {
    let (mut client, mut server) = Client::member(4, 9);
    let seed = 0x5eed;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let (unit, beacon) = (server.refresh().remove(0), server.beacon());
    let reply = Reply { id: RequestId([0; 16]), outcomes: vec![server.granted()] }.encode();
    for _ in 0..3_000 {
        for original in [&unit, &beacon, &reply] {
            let mut bad = original.clone();
            bad.truncate(usize::try_from(dice.below(original.len() as u64 + 1)).unwrap());
            for _ in 0..dice.below(4) {
                if let Some(octet) =
                    usize::try_from(dice.below(bad.len().max(1) as u64)).ok().and_then(|at| bad.get_mut(at))
                {
                    *octet = dice.array::<1>()[0];
                }
            }
            client.handle(Input::Datagram(&bad));
            client.handle(Input::Reply { id: RequestId([0; 16]), message: &bad });
        }
    }
    assert!(client.core.foreign_datagrams() > 0);
    assert_eq!(client.group().counters.conflicts, 0);
}

#[test]
fn a_key_that_is_rolled_is_believed_as_long_as_the_site_certificate_names_it() {
    let (mut client, mut server) = Client::member(4, 9);
    let key = |seed| SigningKey::from_seed(&[seed; 32]).unwrap();
    let join = |server: &mut Server, member| server.change(Reason::Join, &[Change::Join(MemberId(member))]);
    // Both are known before the new one signs: nothing is asked.
    client.handle(Input::Trusted { signing: vec![key(3).public(), key(4).public()], begins: 1 });
    client.datagrams(&join(&mut server, 20));
    server.key = key(4);
    client.datagrams(&join(&mut server, 21));
    client.agrees(&server);
    client.handle(Input::Trusted { signing: vec![key(4).public()], begins: 1 });
    client.datagrams(&join(&mut server, 22));
    client.agrees(&server);
    assert_eq!(client.requests.len(), 1, "a join and nothing else");
}

/// Lets time pass until the key server is asked for keys; a site certificate that is newer it has not. When that was asked for.
fn until_resync(client: &mut Client) -> Vec<Now> {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    loop {
        let last = client.requests.last().unwrap();
        if matches!(last.operations, Operations::Certificate(_)) && !answered.contains(&last.id) {
            answered.push(last.id);
            asked.push(client.now);
            client.answer(vec![Outcome::Noted]);
        }
        let before = client.requests.len();
        client.pass(100);
        assert!(client.requests.len() <= before + 1);
        if client.requests[before..].iter().any(|request| matches!(request.operations, Operations::Resyncs(_))) {
            return asked;
        }
    }
}

#[test]
fn a_member_that_does_not_know_the_key_falls_silent_says_why_and_asks_for_a_certificate() {
    let (mut client, mut server) = Client::member(4, 9);
    let key = |seed| SigningKey::from_seed(&[seed; 32]).unwrap();
    client.handle(Input::Trusted { signing: vec![key(3).public()], begins: 7 });
    server.key = key(5);
    client.datagrams(&server.change(Reason::Join, &[Change::Join(MemberId(20))]));
    assert!(until_resync(&mut client).is_empty(), "silence alone is no reason");
    client.answer(vec![server.granted()]);
    assert_eq!(client.status(), Status::Stale);
    assert!(client.feeds["g"].detail.contains("there may be a newer certificate"), "{}", client.feeds["g"].detail);
    // It asks for keys more and more rarely; for a certificate at once, and then twice a minute at the most.
    let (mut pauses, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        let before = client.now;
        asked.extend(until_resync(&mut client));
        pauses.push(client.now - before);
        client.answer(vec![server.granted()]);
    }
    assert!(pauses[11] > 10 * pauses[0], "{pauses:?}");
    assert!(asked.len() > 2 && asked.windows(2).all(|two| two[1] - two[0] >= ms(29_900)), "{asked:?}");
    // It comes with the next answer: the shell verifies it, and then the keys are asked for soon.
    while !matches!(client.requests.last().unwrap().operations, Operations::Certificate(7)) {
        if client.resyncs_within(100) {
            client.answer(vec![server.granted()]);
        }
    }
    client.answer(vec![Outcome::Certificate(vec![1, 2])]);
    assert_eq!(client.certificates, [vec![1, 2]]);
    client.handle(Input::Trusted { signing: vec![key(5).public()], begins: 8 });
    assert!(client.resyncs_within(u64::from(WAIT_MS)), "soon");
    client.answer(vec![server.granted()]);
    assert_eq!(client.status(), Status::Member);
    client.agrees(&server);
}

#[test]
fn a_newer_site_certificate_is_asked_for_once_a_day() {
    let (mut client, server) = Client::member(4, 9);
    assert_eq!(client.core.certificate_due(), None, "of whom nobody has told what it has");
    let signing = vec![server.key.public()];
    client.handle(Input::Trusted { signing: signing.clone(), begins: 7 });
    let first = client.core.certificate_due().unwrap();
    assert!(first - client.now <= Duration::from_secs(3_600));
    client.handle(Input::Trusted { signing, begins: 8 });
    assert_eq!(client.core.certificate_due(), Some(first), "a newer one is no reason to wait, nor to ask");
    client.core.handle(first, Input::Timeout);
    let next = client.core.certificate_due().unwrap() - first;
    assert!((43_200..=86_400).contains(&next.as_secs()), "{next:?}");
}
