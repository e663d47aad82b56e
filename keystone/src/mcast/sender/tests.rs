use std::collections::BTreeSet;

use super::super::feed::Status;
use super::super::packet::tests::key_and_nonce;
use super::super::packet::{Packet, StreamKey};
use super::*;
use protocol::DataKey;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secret(epoch: u64) -> DataKey {
    let mut octets = [1; 32];
    octets[..8].copy_from_slice(&epoch.to_be_bytes());
    DataKey::new(octets)
}

fn key(epoch: u64, send_not_before: u64) -> Key {
    Key {
        epoch,
        revoke: false,
        send_not_before: ms(send_not_before),
        send_until: None,
        receive_until: None,
        secret: secret(epoch),
    }
}

fn state(keys: Vec<Key>) -> State {
    let detail = String::new();
    State { group: Some(1), sender: Some(7), may_send: true, status: Status::Member, detail, hold: None, keys }
}

fn epoch_of(packet: &[u8]) -> u64 {
    Packet::decode(packet).unwrap().header.epoch
}

#[test]
fn rotates_when_the_time_has_come_and_logs_the_ranges() {
    let mut sender = Sender::new([0; 16]);
    assert_eq!(sender.data(ms(0), b"a"), Err(SendError::NoKey));
    sender.feed(&state(vec![key(5, 0)]));
    sender.data(ms(0), b"abc").unwrap();
    sender.feed(&state(vec![key(5, 0), key(6, 250)]));
    assert_eq!((sender.epoch(ms(249)), sender.timeout(ms(0))), (Some(5), Some(ms(250))));
    let (packet, ended) = sender.data(ms(249), b"de").unwrap();
    assert_eq!((epoch_of(&packet), ended), (5, None));
    let (packet, ended) = sender.data(ms(250), b"f").unwrap();
    assert_eq!(epoch_of(&packet), 6);
    assert_eq!(ended, Some(Range { epoch: 5, from_octet: 0, to_octet: 5 }));
    assert_eq!(sender.last_range(), Some(Range { epoch: 6, from_octet: 5, to_octet: 6 }));
    assert_eq!((sender.octets(), sender.packets()), (6, 3));
}

#[test]
fn a_revoked_key_is_never_used_again() {
    let revoke = |not_before| Key { revoke: true, ..key(6, not_before) };
    let mut sender = Sender::new([0; 16]);
    sender.feed(&state(vec![key(5, 0)]));
    sender.data(ms(0), b"a").unwrap();
    // At once, even if the feed were to name a delay.
    sender.feed(&state(vec![key(5, 0), revoke(500)]));
    assert_eq!(epoch_of(&sender.data(ms(1), b"b").unwrap().0), 6);
    for keys in [vec![key(5, 0)], vec![key(4, 0), key(5, 0)], vec![]] {
        sender.feed(&state(keys));
        assert_eq!(sender.data(ms(2), b"c"), Err(SendError::NoKey));
    }
    // Also if nothing was sent under the key that revokes.
    let mut sender = Sender::new([0; 16]);
    sender.feed(&state(vec![key(5, 0), revoke(0)]));
    sender.feed(&state(vec![key(5, 0)]));
    assert_eq!(sender.epoch(ms(2)), None);
    // The next rotation waits under the key that revoked.
    sender.feed(&state(vec![key(5, 0), revoke(0), key(7, 900)]));
    assert_eq!((sender.epoch(ms(2)), sender.epoch(ms(900))), (Some(6), Some(7)));
}

#[test]
fn a_key_ends_at_its_time() {
    let mut sender = Sender::new([0; 16]);
    sender.feed(&state(vec![Key { send_until: Some(ms(10)), ..key(5, 0) }]));
    assert_eq!((sender.epoch(ms(9)), sender.epoch(ms(10))), (Some(5), None));
    assert_eq!(sender.timeout(ms(0)), Some(ms(10)));
}

#[test]
fn the_last_counter_is_an_error_and_never_wraps() {
    let mut sender = Sender::new([0; 16]);
    sender.feed(&state(vec![key(5, 0)]));
    sender.counter = u64::MAX - 1;
    sender.data(ms(0), b"a").unwrap();
    for _ in 0..2 {
        assert_eq!(sender.data(ms(0), b"b"), Err(SendError::Exhausted));
        assert_eq!(sender.end(ms(0)), Err(SendError::Exhausted));
    }
    assert_eq!((sender.octets(), sender.packets()), (1, 1));
}

/// Two senders, each started many times, over epochs that come, go and come again at the restarts.
#[test]
fn key_and_nonce_never_repeat() {
    let mut seen = BTreeSet::new();
    let mut random = 0x5eed_u64;
    let mut sealed = 0;
    for start in 0..40u64 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&start.to_be_bytes());
        let mut sender = Sender::new(id);
        for step in 0..50 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let newest = 5 + step / 10;
            let mut state = state(vec![key(newest - 1, 0), key(newest, step + (random >> 62))]);
            state.sender = Some(u32::try_from(start % 2).unwrap());
            sender.feed(&state);
            let packet = match random & (1 << 40) {
                0 => sender.end(ms(step)),
                _ => sender.data(ms(step), b"data").map(|(packet, _)| packet),
            };
            let Ok(packet) = packet else { continue };
            sealed += 1;
            let data = secret(epoch_of(&packet));
            assert!(seen.insert(key_and_nonce(&data, &packet)), "start {start}, step {step}");
            let opened = Packet::decode(&packet).unwrap();
            let key = StreamKey::new(&data, opened.header.stream);
            opened.open(&key).unwrap();
        }
    }
    assert!(sealed > 1000, "{sealed}");
}
