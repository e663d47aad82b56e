//! The simulated link: what goes in comes out, or is counted.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use std::collections::BTreeSet;
use std::time::Duration;

use fec::{Channel, Faults, Link};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// Datagram `number`, all of them different and 64 octets long.
fn datagram(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(16)
}

/// Sends `count` datagrams, one each millisecond, takes each at the moment it arrives: (time, datagram).
fn run(link: &mut Link, count: u32) -> Vec<(Duration, Vec<u8>)> {
    let mut arrived = Vec::new();
    let mut take = |link: &mut Link, until: Duration| {
        while let Some(when) = link.next().filter(|when| *when <= until) {
            assert!(when.checked_sub(Duration::from_nanos(1)).is_none_or(|before| link.poll(before).is_none()));
            arrived.push((when, link.poll(when).unwrap()));
        }
    };
    for number in 0..count {
        take(link, MS * number);
        link.send(MS * number, datagram(number));
    }
    take(link, Duration::MAX);
    arrived
}

fn link(p: f64, burst: f64, faults: Faults, seed: u64) -> Link {
    Link::new(Channel::bursts(p, burst, seed), MS, faults, seed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_delivered_or_counted_and_nothing_is_made(
        (p, burst) in (0.0..1.0, 1.0..20.0),
        (duplication, reordering, corruption) in (0.0..1.0, 0.0..1.0, prop_oneof![Just(0.0), 0.0..1.0]),
        (least, more, held_back) in (0..50u32, 0..50u32, 0..50u32),
        seed in any::<u64>(),
    ) {
        let delay = MS * least..=MS * (least + more);
        let held_back = MS * held_back;
        let faults = Faults { delay: delay.clone(), duplication, reordering, held_back, corruption };
        let mut link = link(p, burst, faults, seed);
        let arrived = run(&mut link, 200);
        let counters = link.counters();
        prop_assert_eq!(link.on_the_way(), 0);
        prop_assert_eq!(counters.sent, 200);
        prop_assert_eq!(counters.delivered, u64::try_from(arrived.len()).unwrap());
        prop_assert_eq!(counters.sent + counters.duplicated, counters.lost + counters.delivered);

        let sent: BTreeSet<Vec<u8>> = (0..200).map(datagram).collect();
        let (true_ones, spoilt): (Vec<_>, Vec<_>) = arrived.iter().partition(|(_, octets)| sent.contains(octets));
        prop_assert_eq!(counters.corrupted, u64::try_from(spoilt.len()).unwrap());
        for (_, octets) in spoilt {
            let flipped = |a: &Vec<u8>| a.iter().zip(octets).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>() == 1;
            prop_assert!(sent.iter().any(flipped));
        }
        let different: BTreeSet<_> = true_ones.iter().map(|(_, octets)| octets).collect();
        prop_assert!(true_ones.len() - different.len() <= usize::try_from(counters.duplicated).unwrap());
        for (when, octets) in true_ones {
            let number = u32::from_be_bytes(octets[..4].try_into().unwrap());
            prop_assert!(*when >= MS * number + *delay.start());
        }
    }

    /// Without reordering and duplication the order is that of sending, whatever the delays are.
    #[test]
    fn order_is_kept_unless_held_back(more in 0..50u32, seed in any::<u64>()) {
        let mut link = link(0.2, 3.0, Faults { delay: MS..=MS * more.max(1), ..Faults::default() }, seed);
        let arrived = run(&mut link, 100);
        prop_assert!(arrived.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1));
    }
}

#[test]
fn a_perfect_link_delivers_at_once() {
    let arrived = run(&mut link(0.0, 1.0, Faults::default(), 1), 50);
    let expected: Vec<_> = (0..50).map(|number| (MS * number, datagram(number))).collect();
    assert_eq!(arrived, expected);
}

#[test]
fn held_back_datagrams_are_passed() {
    let faults = Faults { reordering: 0.3, held_back: MS * 20, ..Faults::default() };
    let mut link = link(0.0, 1.0, faults, 1);
    let arrived = run(&mut link, 500);
    assert!(!arrived.is_sorted_by(|a, b| a.1 < b.1));
    let held_back = link.counters().held_back;
    assert!((100..200).contains(&held_back), "{held_back} of 500 at 0.3");
}

#[test]
fn certain_faults() {
    let faults = Faults { duplication: 1.0, corruption: 1.0, ..Faults::default() };
    let mut link = link(0.0, 1.0, faults, 1);
    assert_eq!(run(&mut link, 100).len(), 200);
    assert_eq!((link.counters().duplicated, link.counters().corrupted), (100, 200));
    link.send(Duration::ZERO, Vec::new());
    assert_eq!((link.on_the_way(), link.counters().corrupted), (2, 200));
}

/// What is sent at one moment queues before the channel, so an outage of 10 unit-times takes 10 datagrams.
#[test]
fn datagrams_sent_at_once_meet_the_channel_one_by_one() {
    let channel = Channel::independent(0.0, 1).with_outage(5.0..15.0);
    let mut link = Link::new(channel, MS, Faults::default(), 1);
    for number in 0..30 {
        link.send(Duration::ZERO, datagram(number));
    }
    assert_eq!(link.counters().lost, 10);
    link.send(MS * 14, datagram(30));
    assert_eq!((link.counters().lost, link.on_the_way()), (10, 21));
}

/// The channel's time is the link's, so an outage takes what is sent in it.
#[test]
fn an_outage_has_its_time() {
    let channel = Channel::independent(0.0, 1).with_outage(49.5..59.5);
    let arrived = run(&mut Link::new(channel, MS, Faults::default(), 1), 100);
    let expected: Vec<_> = (0..50).chain(60..100).map(|number| (MS * number, datagram(number))).collect();
    assert_eq!(arrived, expected);
}
