use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn v4(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

#[test]
fn counts_in_all_and_per_source() {
    let door = Admission::new(Limits { in_flight: 3, per_source: 2, ..Limits::default() });
    let first = door.enter(v4(1)).unwrap();
    let _second = door.enter(v4(1)).unwrap();
    assert!(door.enter(v4(1)).is_none(), "two from one source");
    assert!(door.enter("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same source in other clothes");
    let _third = door.enter(v4(2)).unwrap();
    assert!(door.enter(v4(3)).is_none(), "three in all");
    drop(first);
    drop(door.enter(v4(1)).unwrap());
    drop(door.enter(v4(3)).unwrap());
    assert_eq!(door.inside().by_source.len(), 2, "sources that left are forgotten");
}

#[test]
fn strangers_shut_out_nobody_who_is_known() {
    let door = Admission::new(Limits { in_flight: 4, per_source: 2, ..Limits::default() });
    let _flood: Vec<Ticket> = (1..=4).map(|n| door.enter(v4(n)).unwrap()).collect();
    assert!(door.enter(v4(9)).is_none(), "not known");
    door.remember(v4(9));
    let _member = door.enter(v4(9)).unwrap();
    assert!(door.enter(v4(10)).is_none(), "only who is known");
    door.remember(v4(1));
    let _another = door.enter(v4(1)).unwrap();
    assert!(door.enter(v4(9)).is_none(), "these places end too");
    assert_eq!(door.tally(), Tally { let_in: 6, proved: 2, sent_away: 3 });
}

#[tokio::test]
async fn who_finds_no_place_is_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = Admission::new(Limits { per_source: 1, ..Limits::default() });
    let _held = door.enter([127, 0, 0, 1].into()).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    tokio::select! {
        read = client.read_u8() => assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        _ = door.next(&listener) => panic!("the door is full"),
    }
}

#[tokio::test]
async fn who_finds_no_place_is_told_when_to_come_and_has_one_then() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { in_flight: 2, ..Limits::default() };
    let door = Admission::with_notice(limits, |wait| wait.as_micros().to_be_bytes().to_vec());
    let (first, _second) = (door.enter(v4(1)).unwrap(), door.enter(v4(2)).unwrap());
    // It speaks first, as one does who begins with TLS.
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[22; 500]).await.unwrap();
    let mut told = [0; 16];
    tokio::select! {
        read = client.read_exact(&mut told) => drop(read.unwrap()),
        _ = door.next(&listener) => panic!("the door is full"),
    }
    let wait = Duration::from_micros(u128::from_be_bytes(told).try_into().unwrap());
    assert!((1..=60_000).contains(&wait.as_millis()), "{wait:?}");
    tokio::select! {
        read = client.read_u8() => drop(read.unwrap_err()),
        _ = door.next(&listener) => panic!("the door is full"),
    }
    drop(first);
    tokio::time::sleep(wait).await;
    assert!(door.enter(v4(3)).is_none(), "the place is kept");
    let _client = TcpStream::connect(address).await.unwrap();
    door.next(&listener).await;
}

/// Real connections from one address to a door that does one after the other.
#[tokio::test]
async fn a_crowd_gets_through_about_as_fast_as_it_can() {
    const CLIENTS: u32 = 300;
    let cost = Duration::from_millis(2);
    let listener = crate::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let door = Admission::with_notice(Limits::default(), |wait| wait.as_micros().to_be_bytes().to_vec());
    let desk = Arc::new(tokio::sync::Mutex::new(()));
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _, ticket) = door.next(&listener).await;
            let desk = desk.clone();
            tokio::spawn(async move {
                let served = desk.lock().await;
                tokio::time::sleep(cost).await;
                drop((served, ticket));
                stream.write_all(&[0; 16]).await.unwrap();
            });
        }
    });
    let since = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            for came in 1u32.. {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let wait = Duration::from_micros(stream.read_u128().await.unwrap().try_into().unwrap());
                if wait.is_zero() {
                    return came;
                }
                tokio::time::sleep(wait).await;
            }
            0
        });
    }
    let came: u32 = clients.join_all().await.into_iter().sum();
    let (took, least) = (since.elapsed(), cost * CLIENTS);
    serving.abort();
    println!("{CLIENTS} clients in {took:?} beside {least:?}; they came {came} times");
    // A sleep of 2 ms takes 3, and more where other work is; without the line it would be the clients' own back-off.
    assert!(took < least * 4 + Duration::from_secs(1) && came < 15 * CLIENTS, "{took:?}, {came} times");
}

#[test]
fn a_64_is_one_source() {
    let door = Admission::new(Limits { per_source: 1, ..Limits::default() });
    let _held = door.enter("2001:db8::1".parse().unwrap()).unwrap();
    assert!(door.enter("2001:db8::ffff:2".parse().unwrap()).is_none());
    assert!(door.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
}

#[tokio::test]
async fn a_silent_peer_is_dropped() {
    let limit = Duration::from_millis(30);
    let door = Admission::new(Limits { handshake: limit, ..Limits::default() });
    let ticket = door.enter(v4(1)).unwrap();
    let error = ticket.during(std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(error, TimedOut(limit));
    assert_eq!(door.inside().all, 0);
}
