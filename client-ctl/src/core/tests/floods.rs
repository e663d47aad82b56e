//! Floods: bounded work, a counter, no change of state, and what is genuine still counts.

use protocol::unit::Unit;

use super::*;

/// Units that look like the next epochs' and that no trusted key signed, each of another block. A third of them go on from
/// the installed epoch.
fn bogus(server: &Server, tag: &TagKey, count: u32) -> Vec<Vec<u8>> {
    let stranger = SigningKey::from_seed(&[66; 32]).unwrap();
    let one = |salt: u32| {
        let header = EpochHeader {
            suite: Suite::Aes256,
            group: server.context.group,
            incarnation: server.context.incarnation,
            term: server.context.term,
            epoch: server.context.epoch + 1 + u64::from(salt % 3),
            previous: if salt.is_multiple_of(3) { server.hash } else { HeaderHash([9; 32]) },
        };
        let message = vec![1; 600 + usize::try_from(salt).unwrap()];
        cut(&header, &message, (0, 1), (&stranger, tag)).swap_remove(0)
    };
    (0..count).map(one).collect()
}

#[test]
fn an_outsiders_flood_costs_few_signature_checks() {
    let (mut client, mut server) = Client::member(4, 400);
    let outsider = server.context.tag(&NodeSecret::new([66; 32]));
    let flood = bogus(&server, &outsider, 3_000);
    let before = client.feeds["g"].clone();
    client.datagrams(&flood);
    assert_eq!(client.feeds["g"], before, "no change of state");
    let counters = client.group().counters;
    assert_eq!(counters.units_bad_tag, 1_000, "what goes on from the installed epoch has no right tag");
    assert_eq!(counters.units_unchecked + counters.units_bad_signature, 2_000);
    assert!(counters.units_bad_signature <= 64, "of others few are looked at: {counters:?}");
    assert!(!client.resyncs_within(WAIT_MS.into()), "a flood makes nobody ask");
    // A thousand bogus units for each genuine one.
    let leavers: Vec<Change> = (1..200).step_by(5).map(|m| Change::Leave(MemberId(m))).collect();
    let genuine = server.change(Reason::Batch, &leavers);
    for datagram in genuine {
        client.datagrams(&flood[..1_000]);
        client.handle(Input::Datagram(&datagram));
    }
    client.agrees(&server);
    assert_eq!(client.group().counters.messages, 1, "by multicast");
}

#[test]
fn a_members_flood_is_bounded_and_recovered_from() {
    let (mut client, mut server) = Client::member(4, 400);
    let flood = bogus(&server, &server.tag, 9_000);
    client.datagrams(&flood);
    let counters = client.group().counters;
    assert_eq!((counters.units_bad_tag, counters.units_unchecked + counters.units_bad_signature), (0, 9_000));
    assert!(counters.units_bad_signature <= 2_048 + 64, "{counters:?}");
    // What is genuine may be lost in the flood. The beacon tells, and the member asks.
    client.datagrams(&server.change(Reason::Batch, &[Change::Leave(MemberId(7))]));
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert!(client.group().epoch == Some(server.context.epoch) || client.resyncs_within(WAIT_MS.into()));
}

#[test]
fn beacons_of_strangers_do_not_hide_the_present_one() {
    let (mut client, mut server) = Client::member(4, 9);
    let stranger = SigningKey::from_seed(&[66; 32]).unwrap();
    let outsider = server.context.tag(&NodeSecret::new([66; 32]));
    for turn in 0..500u64 {
        let mut beacon = server.describe();
        beacon.counter = 10_000 + turn;
        if turn % 2 == 1 {
            (beacon.context.epoch, beacon.header_hash) = (beacon.context.epoch + 1, HeaderHash([7; 32]));
        }
        client.handle(Input::Datagram(&beacon.sign(&stranger, &outsider).unwrap()));
    }
    let counters = client.group().counters;
    assert_eq!((counters.beacons, counters.beacons_bad_tag), (0, 250));
    assert_eq!((counters.beacons_bad_signature, counters.beacons_unchecked), (20, 230));
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert_eq!(client.group().counters.beacons, 1);
}

#[test]
fn a_members_beacons_are_rationed_too() {
    let (mut client, mut server) = Client::member(4, 9);
    let stranger = SigningKey::from_seed(&[66; 32]).unwrap();
    for turn in 0..3_000u64 {
        let mut beacon = server.describe();
        beacon.counter = 10_000 + turn;
        client.handle(Input::Datagram(&beacon.sign(&stranger, &server.tag).unwrap()));
    }
    let counters = client.group().counters;
    assert_eq!((counters.beacons_bad_tag, counters.beacons_bad_signature + counters.beacons_unchecked), (0, 3_000));
    assert!((2_000..=2_048).contains(&counters.beacons_bad_signature), "{counters:?}");
    // A moment later the genuine one is heard; had it been the last, silence would have told.
    client.pass(1);
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    assert_eq!(client.group().counters.beacons, 1);
}

#[test]
fn headers_that_promise_too_much_cost_nothing() {
    let (mut client, server) = Client::member(4, 9);
    let genuine = bogus(&server, &server.tag, 1).remove(0);
    // Octets of the message; blocks; index of the block; s and r (docs/protocol.md §7).
    let promises =
        [(77, vec![0xff; 4]), (81, vec![0xff, 0xff]), (83, vec![0xff; 2]), (85, vec![16, 17]), (85, vec![0, 0])];
    for (at, octets) in promises {
        let mut datagram = genuine.clone();
        datagram[at..at + octets.len()].copy_from_slice(&octets);
        let (before, foreign) = (client.group().counters.units_bad_tag, client.core.foreign_datagrams());
        client.handle(Input::Datagram(&datagram));
        match Unit::decode(&datagram) {
            Ok(_) => assert_eq!(client.group().counters.units_bad_tag, before + 1),
            Err(_) => assert_eq!(client.core.foreign_datagrams(), foreign + 1),
        }
    }
    for length in 0..genuine.len() {
        client.handle(Input::Datagram(&genuine[..length]));
    }
    client.handle(Input::Datagram(&[genuine.as_slice(), &[0; 100]].concat()));
    assert_eq!(client.group().counters.units_bad_signature, 0);
    assert_eq!(client.status(), Status::Member);
}

#[test]
fn data_under_an_unknown_key_calls_no_storm() {
    let (mut client, mut server) = Client::member(4, 9);
    let interval = u64::from(INTERVAL_MS);
    // Forged every 10 ms for ten intervals, in which a beacon comes on time: nobody asks.
    let end = client.now + Duration::from_millis(10 * interval);
    let mut beacon_at = client.now;
    while client.now < end {
        client.handle(Input::Missing { group: "g".into(), epoch: server.context.epoch + 1 });
        if client.now >= beacon_at {
            let beacon = server.beacon();
            client.handle(Input::Datagram(&beacon));
            beacon_at += Duration::from_millis(interval - 50);
        }
        client.now += Duration::from_millis(10);
    }
    let asked = client.group().counters.resyncs;
    assert_eq!((asked, client.group().counters.silences), (0, 0));
    let beacon = server.beacon();
    client.handle(Input::Datagram(&beacon));
    // Of an epoch that is here, it means nothing.
    client.handle(Input::Missing { group: "g".into(), epoch: server.context.epoch });
    assert!(!client.resyncs_within(interval));
    // Without beacons it shortens the silence: one interval, then the random wait.
    client.handle(Input::Missing { group: "g".into(), epoch: server.context.epoch + 1 });
    assert!(client.resyncs_within(interval + u64::from(WAIT_MS) + 10));
}
