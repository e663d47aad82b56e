//! Real multicast on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::multicast::{Impairment, MulticastError, Receiver, Sender};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A group of this process's own, so that two runs at once do not hear each other.
fn group(last: u8) -> SocketAddr {
    let id = std::process::id();
    let octet = u8::try_from(id % 250).unwrap() + 1;
    SocketAddr::from(([239, 79, octet, last], 20_000 + u16::try_from(id % 20_000).unwrap()))
}

#[tokio::test]
async fn every_receiver_on_a_host_gets_every_datagram_of_its_group_only() {
    let sender = Sender::open(group(1), LOOPBACK, 1).unwrap();
    let other = Sender::open(group(2), LOOPBACK, 1).unwrap();
    let mut receivers: Vec<Receiver> = (0..3).map(|_| Receiver::open(group(1), LOOPBACK).unwrap()).collect();
    for i in 0..50u8 {
        other.send(&[0xff]).await.unwrap();
        sender.send(&[i; 700]).await.unwrap();
    }
    for receiver in &mut receivers {
        let mut buffer = [0; 2_000];
        for i in 0..50u8 {
            let received = tokio::time::timeout(Duration::from_secs(5), receiver.recv(&mut buffer)).await;
            let (length, _) = received.unwrap().unwrap();
            assert_eq!((length, buffer[0]), (700, i));
        }
    }
}

#[tokio::test]
async fn an_impaired_receiver_drops_what_it_is_told_and_counts_it() {
    let sender = Sender::open(group(3), LOOPBACK, 1).unwrap();
    let impaired = Impairment { loss: 0.3, seed: 5 };
    let mut receiver = Receiver::open(group(3), LOOPBACK).unwrap().with_impairment(impaired).unwrap();
    for i in 0..400u16 {
        sender.send(&i.to_be_bytes()).await.unwrap();
    }
    let mut buffer = [0; 100];
    let mut received = 0u64;
    while tokio::time::timeout(Duration::from_millis(300), receiver.recv(&mut buffer)).await.is_ok() {
        received += 1;
    }
    assert_eq!(received + receiver.dropped(), 400);
    assert!((80..160).contains(&receiver.dropped()), "{}", receiver.dropped());
}

#[tokio::test]
async fn an_address_that_is_no_multicast_group_is_refused() {
    let bad: SocketAddr = "10.0.0.1:7000".parse().unwrap();
    assert!(matches!(Sender::open(bad, LOOPBACK, 1), Err(MulticastError::Address { .. })));
    assert!(matches!(Receiver::open(bad, LOOPBACK), Err(MulticastError::Address { .. })));
    let loss = Receiver::open(group(4), LOOPBACK).unwrap().with_impairment(Impairment { loss: 1.5, seed: 0 });
    assert!(matches!(loss, Err(MulticastError::Loss(_))));
}
