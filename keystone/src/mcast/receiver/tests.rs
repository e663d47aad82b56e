use super::super::feed::Key;
use super::super::packet::MAX_PACKET;
use super::super::sender::Sender;
use super::*;

const LIMITS: Limits = Limits { hold_octets: 16 << 10, streams: 4 };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn key(epoch: u64) -> Key {
    let mut octets = [1; 32];
    octets[..8].copy_from_slice(&epoch.to_be_bytes());
    Key {
        epoch,
        revoke: false,
        send_not_before: ms(0),
        send_until: None,
        receive_until: None,
        secret: DataKey::new(octets),
    }
}

fn state(epochs: &[u64]) -> State {
    State {
        group: Some(1),
        sender: Some(7),
        may_send: true,
        status: Status::Member,
        detail: String::new(),
        hold: Some(ms(500)),
        keys: epochs.iter().map(|epoch| key(*epoch)).collect(),
    }
}

fn sender(id: u8, epoch: u64) -> Sender {
    let mut sender = Sender::new([id; 16]);
    sender.feed(&state(&[epoch]));
    sender
}

fn receiver(epochs: &[u64]) -> Receiver {
    let mut receiver = Receiver::new(1, LIMITS);
    receiver.feed(ms(0), &state(epochs));
    receiver
}

/// Packets of ten octets each, all of the number of the packet.
fn packets(sender: &mut Sender, numbers: std::ops::Range<u8>) -> Vec<Vec<u8>> {
    numbers.map(|n| sender.data(ms(0), &[n; 10]).unwrap().0).collect()
}

fn read(receiver: &mut Receiver) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(output) = receiver.output() {
        if let Output::Data { octets, offset, .. } = output {
            assert_eq!(offset, u64::from(octets[0]) * 10);
            all.push(octets[0]);
        }
    }
    all
}

fn numbers(range: std::ops::Range<u8>) -> Vec<u8> {
    range.collect()
}

#[test]
fn in_order_to_the_end() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[5]));
    for packet in packets(&mut s, 0..5) {
        r.datagram(ms(1), &packet);
    }
    assert!(!r.is_finished());
    for _ in 0..3 {
        r.datagram(ms(2), &s.end(ms(2)).unwrap());
    }
    assert!(r.is_finished() && r.report().complete);
    assert_eq!(read(&mut r), numbers(0..5));
    let [stream] = &r.report().streams[..] else { panic!("one stream") };
    assert_eq!((stream.packets, stream.octets, stream.replayed), (5, 50, 0));
}

#[test]
fn any_order_after_the_first() {
    let mut s = sender(1, 5);
    let sent = packets(&mut s, 0..20);
    for seed in 1..200u64 {
        let mut r = receiver(&[5]);
        r.datagram(ms(0), &sent[0]);
        let mut order: Vec<usize> = (1..20).collect();
        order.sort_by_key(|n| (*n as u64 + 3).wrapping_mul(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
        order.into_iter().for_each(|n| r.datagram(ms(1), &sent[n]));
        assert_eq!(read(&mut r), numbers(0..20), "seed {seed}");
        assert_eq!(r.timeout(), None, "seed {seed}");
    }
}

#[test]
fn replays_are_dropped_and_counted() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[5]));
    let sent = packets(&mut s, 0..4);
    for n in [0, 0, 1, 3, 3, 2, 1, 2, 3] {
        r.datagram(ms(1), &sent[n]);
    }
    r.datagram(ms(1), &s.end(ms(1)).unwrap());
    r.datagram(ms(1), &sent[1]);
    assert_eq!(read(&mut r), numbers(0..4));
    assert_eq!(r.report().streams[0].replayed, 6);
    assert!(r.report().complete);
}

#[test]
fn a_gap_is_given_up_after_the_hold_time() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[5]));
    let sent = packets(&mut s, 0..10);
    for n in [0, 1, 4, 5, 8] {
        r.datagram(ms(10), &sent[n]);
    }
    assert_eq!((read(&mut r), r.timeout()), (numbers(0..2), Some(ms(1010))));
    r.tick(ms(1009));
    assert_eq!(r.output(), None);
    r.tick(ms(1010));
    let gap = r.output().unwrap();
    let Output::Gap { counters, octets, .. } = gap else { panic!("{gap:?}") };
    assert_eq!((counters, octets), (2..4, 20..40));
    assert_eq!(read(&mut r), [4, 5, 8]);
    // Too late now.
    r.datagram(ms(1011), &sent[2]);
    // The last packet is lost: only the end marker tells.
    r.datagram(ms(1012), &s.end(ms(1012)).unwrap());
    assert!(!r.is_finished());
    r.tick(ms(2012));
    assert!(r.is_finished());
    let report = r.report();
    assert_eq!((report.streams[0].missing_packets, report.streams[0].missing_octets), (5, 50));
    assert!(!report.complete);
    assert!(report.to_string().contains("5 packets missing, 50 octets"), "{report}");
}

#[test]
fn a_late_joiner_begins_in_the_middle() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[6]));
    for packet in packets(&mut s, 0..3) {
        r.datagram(ms(1), &packet);
    }
    s.feed(&state(&[6]));
    for packet in packets(&mut s, 3..6) {
        r.datagram(ms(2), &packet);
    }
    r.datagram(ms(3), &s.end(ms(3)).unwrap());
    assert_eq!(read(&mut r), numbers(3..6));
    let report = r.report();
    assert!(report.complete && report.streams[0].finished);
    assert_eq!(report.streams[0].first_octet, 30);
    assert_eq!(report.unreadable[0].cause, Some(Cause::BeforeOldestKey));
    assert_eq!(report.unreadable[0].count.packets, 3);
}

#[test]
fn nothing_is_lost_when_keys_come_late() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[]));
    let mut sent = packets(&mut s, 0..4);
    s.feed(&state(&[6]));
    sent.extend(packets(&mut s, 4..8));
    s.feed(&state(&[7]));
    sent.extend(packets(&mut s, 8..12));
    sent.push(s.end(ms(0)).unwrap());
    sent.swap(0, 3);
    sent.iter().for_each(|packet| r.datagram(ms(10), packet));
    assert_eq!(read(&mut r), numbers(0..0));
    r.feed(ms(400), &state(&[5]));
    assert_eq!(read(&mut r), numbers(0..4));
    r.feed(ms(500), &state(&[5, 7]));
    assert_eq!(read(&mut r), numbers(0..0));
    r.feed(ms(900), &state(&[5, 6, 7]));
    assert_eq!(read(&mut r), numbers(4..12));
    assert!(r.is_finished() && r.report().complete);
    assert_eq!((r.hold.used(), r.timeout()), (0, None));
}

#[test]
fn what_waits_too_long_is_unreadable() {
    let (mut s, mut r) = (sender(1, 6), receiver(&[5]));
    packets(&mut s, 0..3).iter().for_each(|packet| r.datagram(ms(10), packet));
    assert_eq!(r.timeout(), Some(ms(1010)));
    r.tick(ms(1010));
    r.feed(ms(1011), &state(&[5, 6]));
    assert_eq!(read(&mut r), numbers(0..0));
    let report = r.report();
    assert_eq!(report.unreadable[0].cause, Some(Cause::NoKey));
    assert_eq!((report.unreadable[0].count.octets, report.complete), (30, false));
}

/// The receiver's side of an eviction: what it holds opens nothing that is sent after.
#[test]
fn after_a_revocation_nothing_is_read_and_all_is_counted() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[5]));
    packets(&mut s, 0..3).iter().for_each(|packet| r.datagram(ms(1), packet));
    r.freeze();
    let mut new = state(&[5, 6]);
    new.keys[1].revoke = true;
    s.feed(&new);
    // The feed says nothing any more; even its words would not count.
    r.feed(ms(2), &new);
    packets(&mut s, 3..6).iter().for_each(|packet| r.datagram(ms(3), packet));
    r.close();
    assert_eq!(read(&mut r), numbers(0..3));
    let report = r.report();
    assert_eq!((report.streams[0].unreadable, report.complete), (3, false));
    assert!(report.to_string().contains("unreadable under epoch 6: 3 packets, 30 octets"), "{report}");
}

#[test]
fn a_key_is_forgotten_at_its_time() {
    let (mut s, mut r) = (sender(1, 5), Receiver::new(1, LIMITS));
    let mut keys = state(&[5, 6]);
    keys.keys[0].receive_until = Some(ms(100));
    r.feed(ms(0), &keys);
    let sent = packets(&mut s, 0..2);
    r.datagram(ms(99), &sent[0]);
    assert_eq!(r.timeout(), Some(ms(100)));
    r.datagram(ms(100), &sent[1]);
    assert_eq!(read(&mut r), [0]);
    assert_eq!(r.report().unreadable[0].cause, Some(Cause::KeyExpired));
    // A client-ctl that starts again takes nothing away.
    let joining = State { status: Status::Joining, ..state(&[]) };
    r.feed(ms(101), &joining);
    assert_eq!(r.epoch(), Some(6));
    r.feed(ms(102), &state(&[]));
    assert_eq!(r.epoch(), None);
}

#[test]
fn other_groups_and_nonsense_are_counted() {
    let (mut s, mut r) = (sender(1, 5), Receiver::new(2, LIMITS));
    r.feed(ms(0), &state(&[5]));
    let packet = packets(&mut s, 0..1).remove(0);
    r.datagram(ms(0), &packet);
    for octets in [&b""[..], b"KD", &packet[..60], &[0; 70], &[b'K'; MAX_PACKET + 1]] {
        r.datagram(ms(0), octets);
    }
    let report = r.report();
    assert_eq!((report.other_group, report.malformed, report.streams.len()), (1, 5, 0));
}

/// Forged packets of epochs that are not held, of one that is, and of new streams.
#[test]
fn a_flood_stays_within_bounds_and_harms_no_stream() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[5]));
    let sent = packets(&mut s, 0..3);
    r.datagram(ms(0), &sent[0]);
    let mut forged = sent[1].clone();
    for n in 0..20_000u64 {
        forged[8..16].copy_from_slice(&(n % 7_000).to_be_bytes());
        forged[20..28].copy_from_slice(&n.to_be_bytes());
        r.datagram(ms(1), &forged);
        assert!(r.hold.used() <= LIMITS.hold_octets);
    }
    assert_eq!((r.streams.len(), r.stream_keys.len()), (1, 0));
    // The lowest epoch is served first.
    s.feed(&state(&[6]));
    let next = packets(&mut s, 3..4);
    r.datagram(ms(2), &next[0]);
    r.datagram(ms(2), &sent[1]);
    r.datagram(ms(2), &sent[2]);
    r.feed(ms(3), &state(&[5, 6]));
    assert_eq!(read(&mut r), numbers(0..4));
    let report = r.report();
    assert!(report.bad_tags >= 2 && report.unreadable.len() <= 65, "{report}");
    r.close();
    assert_eq!(r.hold.used(), 0);
}

#[test]
fn streams_are_bounded_and_slots_are_freed_with_their_keys() {
    let mut r = receiver(&[5]);
    for id in 0..6 {
        let mut s = sender(id, 5);
        r.datagram(ms(0), &packets(&mut s, 0..1)[0]);
        r.datagram(ms(0), &s.end(ms(0)).unwrap());
    }
    assert_eq!((r.streams.len(), r.report().beyond_streams), (4, 4));
    r.feed(ms(1), &state(&[6]));
    r.datagram(ms(2), &packets(&mut sender(9, 6), 0..1)[0]);
    assert_eq!((r.streams.len(), r.report().streams_replaced), (4, 1));
    // The new one's key is alive, so it could be replayed, and it stays.
    r.feed(ms(3), &state(&[6]));
    assert!(r.streams.keys().any(|id| id.id == [9; 16]));
}

#[test]
fn packets_behind_a_gap_are_bounded() {
    let (mut s, mut r) = (sender(1, 5), receiver(&[5]));
    let first = s.data(ms(0), &[0; 1000]).unwrap().0;
    r.datagram(ms(0), &first);
    s.data(ms(0), &[0; 1000]).unwrap();
    for _ in 0..40 {
        r.datagram(ms(0), &s.data(ms(0), &[0; 1000]).unwrap().0);
        assert!(r.streams.values().all(|stream| stream.pending_octets() <= LIMITS.hold_octets));
    }
    assert_eq!(r.report().streams[0].missing_packets, 1);
    assert_eq!(r.report().streams[0].packets, 41);
}

#[test]
fn a_member_that_sends_nonsense_breaks_nothing() {
    let stream = StreamId { sender: 7, id: [1; 16] };
    let stream_key = StreamKey::new(&key(5).secret, stream);
    let header = |kind, counter, offset| Header { kind, group: 1, epoch: 5, stream, counter, offset };
    let mut r = receiver(&[5]);
    for (counter, offset) in [(0, 0), (1, 5), (2, 1), (u64::MAX - 1, u64::MAX - 1), (9, 0), (1 << 60, 0)] {
        r.datagram(ms(0), &stream_key.seal(&header(Kind::Data, counter, offset), b"x"));
    }
    for (packets, octets) in [(0, 0), (u64::MAX, u64::MAX), (1, 7)] {
        let totals = Totals { octets, packets };
        r.datagram(ms(0), &stream_key.seal(&header(Kind::End, 20, octets), &totals.encode()));
    }
    r.tick(ms(5_000));
    r.close();
    assert!(!r.report().complete);
    assert!(r.report().streams[0].inconsistent > 0);
}
