//! Noise under a pre-shared key: both ends prove what they must, and nothing can be replayed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of streams: its tasks are waited for, and deadlines need a clock"
)]

use std::time::Duration;

use net::admission::{Admission, Limits, TimedOut};
use net::noise::{NoiseError, NoiseStream, StaticKey, StaticKeys, accept, connect, notice, read_preamble, refuse};
use net::secret_file;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const PREAMBLE: &[u8] = b"ks, client 7, registration 3";

type Ends = (Result<NoiseStream<DuplexStream>, NoiseError>, Result<NoiseStream<DuplexStream>, NoiseError>);

async fn shake(
    server: &impl AsRef<[StaticKey]>,
    expected: &StaticKey,
    psks: ([u8; 32], [u8; 32]),
    seen: &[u8],
) -> Ends {
    let (near, mut far) = duplex(1 << 20);
    let serve = async {
        let preamble = read_preamble(&mut far).await?;
        assert_eq!(preamble, PREAMBLE);
        accept(far, seen, server, &psks.0).await
    };
    let call = connect(near, PREAMBLE, expected.public(), &psks.1);
    tokio::join!(serve, call)
}

#[tokio::test]
async fn messages_of_all_sizes_come_through_both_ways() {
    let key = StaticKey::generate().unwrap();
    let (Ok(mut server), Ok(mut client)) = shake(&key, &key, ([4; 32], [4; 32]), PREAMBLE).await else { panic!() };
    for size in [0, 1, 65_000, 65_515, 65_516, 1 << 20] {
        let message: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        let (sent, received) = tokio::join!(client.send(&message), server.receive(1 << 20));
        sent.unwrap();
        assert_eq!(*received.unwrap(), message);
        let (sent, received) = tokio::join!(server.send(&message), client.receive(1 << 20));
        sent.unwrap();
        assert_eq!(*received.unwrap(), message);
    }
    let (sent, received) = tokio::join!(client.send(&[0; 100]), server.receive(99));
    sent.unwrap();
    assert!(matches!(received, Err(NoiseError::Oversized { length: 100, limit: 99 })));
}

#[tokio::test]
async fn a_wrong_key_at_either_end_or_an_altered_preamble_ends_it() {
    let (key, other) = (StaticKey::generate().unwrap(), StaticKey::generate().unwrap());
    let cases = [
        (&key, &key, ([4; 32], [5; 32]), PREAMBLE),
        (&other, &key, ([4; 32], [4; 32]), PREAMBLE),
        (&key, &key, ([4; 32], [4; 32]), &b"ks, client 8, registration 3"[..]),
    ];
    for (server, expected, psks, seen) in cases {
        let (server, client) = shake(server, expected, psks, seen).await;
        assert!(server.is_err() && client.is_err());
    }
}

/// The octets are those of docs/protocol.md, section 4.
#[tokio::test]
async fn a_server_without_a_place_says_when_in_clear() {
    assert_eq!(notice(Duration::from_millis(2_500)), [0, 0, 0, 5, 1, 0, 0, 9, 0xc4]);
    let key = StaticKey::generate().unwrap();
    let hear = async |said: &[u8]| {
        let (near, mut far) = duplex(1 << 12);
        far.write_all(said).await.unwrap();
        connect(near, PREAMBLE, key.public(), &[4; 32]).await.unwrap_err()
    };
    let wait = |error: NoiseError| if let NoiseError::Busy(wait) = error { Some(wait) } else { None };
    for (said, heard) in [(2_500, 2_500), (0, 1), (u64::MAX, u64::from(u32::MAX))] {
        let heard = Some(Duration::from_millis(heard));
        assert_eq!(wait(hear(&notice(Duration::from_millis(said))).await), heard);
    }
    // Of another version, and of another length.
    for said in [&[0, 0, 0, 5, 2, 0, 0, 9, 0xc4][..], &[0, 0, 0, 4, 1, 0, 0, 9], &[0, 0, 0, 6, 1, 0, 0, 9, 0xc4, 0]] {
        assert!(matches!(hear(said).await, NoiseError::Handshake), "{said:?}");
    }
}

/// Static keys out of one file, in this order.
fn several(keys: &[u8]) -> StaticKeys {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = keys.iter().map(|key| hex::encode([*key; 32]) + "\n").collect();
    secret_file::create_private(folder.path().join("noise"), lines.as_bytes()).unwrap();
    StaticKeys::load(folder.path().join("noise")).unwrap()
}

#[tokio::test]
async fn while_keys_are_rolled_a_client_comes_under_any_of_them() {
    let keys = several(&[1, 2, 3]);
    for own in [1, 2, 3] {
        let expected = several(&[own]);
        let (server, client) = shake(&keys, &expected.as_ref()[0], ([4; 32], [4; 32]), PREAMBLE).await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        let (sent, received) = tokio::join!(client.send(b"x"), server.receive(1));
        sent.unwrap();
        assert_eq!(*received.unwrap(), b"x");
        // Neither another pre-shared key nor a static key that is none of them.
        let (server, client) = shake(&keys, &expected.as_ref()[0], ([4; 32], [5; 32]), PREAMBLE).await;
        assert!(matches!((server, client), (Err(NoiseError::Handshake), Err(_))));
    }
    let (server, client) = shake(&keys, &several(&[9]).as_ref()[0], ([4; 32], [4; 32]), PREAMBLE).await;
    assert!(matches!((server, client), (Err(NoiseError::Handshake), Err(_))));
}

/// What a stranger can see of a refusal: what was sent to it, and whether the server hung up before it had all of the
/// stranger's first message.
async fn seen_of_a_refusal(is_known: bool) -> (Vec<u8>, bool) {
    let keys = several(&[6, 7]);
    // The messages of a client with another pre-shared key.
    let (recorder, mut record) = duplex(1 << 16);
    let (mut messages, public) = (vec![0; 4 + PREAMBLE.len() + 4 + 48], *keys.as_ref()[0].public());
    let call = tokio::spawn(async move { connect(recorder, PREAMBLE, &public, &[5; 32]).await.map(drop) });
    record.read_exact(&mut messages).await.unwrap();
    drop(record);
    assert!(call.await.unwrap().is_err());

    let (mut near, mut far) = duplex(1 << 16);
    let server = tokio::spawn(async move {
        let preamble = read_preamble(&mut far).await.unwrap();
        match is_known {
            true => accept(far, &preamble, &keys, &[4; 32]).await.err().unwrap(),
            false => refuse(far, &preamble, &keys).await,
        }
    });
    let (most, last) = messages.split_at(messages.len() - 1);
    near.write_all(most).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let is_early = server.is_finished();
    near.write_all(last).await.unwrap();
    let error = server.await.unwrap();
    assert!(matches!(error, NoiseError::Handshake), "{error}");
    let mut sent = Vec::new();
    near.read_to_end(&mut sent).await.unwrap();
    (sent, is_early)
}

#[tokio::test]
async fn a_stranger_cannot_tell_an_unknown_number_from_a_wrong_key() {
    let of_a_wrong_key = seen_of_a_refusal(true).await;
    assert_eq!(of_a_wrong_key, (Vec::new(), false));
    assert_eq!(seen_of_a_refusal(false).await, of_a_wrong_key);
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_off() {
    let limit = Duration::from_millis(300);
    let door = Admission::new(Limits { per_source: 1, handshake: limit, ..Limits::default() });
    let source = [127, 0, 0, 1].into();
    let key = StaticKey::generate().unwrap();
    let preamble = [&30u32.to_be_bytes()[..], &[7; 30]].concat();
    // Nothing, a part of the preamble, all of it, and a part of the handshake.
    for said in [&[][..], &preamble[..7], &preamble, &[&preamble[..], &[0, 0, 0, 48, 1, 2, 3]].concat()] {
        let (mut near, mut far) = duplex(1 << 16);
        near.write_all(said).await.unwrap();
        let begun = tokio::time::Instant::now();
        let ticket = door.enter(source).unwrap();
        let handshake = async {
            let preamble = read_preamble(&mut far).await?;
            accept(far, &preamble, &key, &[4; 32]).await
        };
        assert_eq!(ticket.during(handshake).await.err(), Some(TimedOut(limit)), "{said:?}");
        assert!(begun.elapsed() < limit * 5, "{:?}", begun.elapsed());
        assert!(door.enter(source).is_some(), "the place is free again");
        assert_eq!(near.read(&mut [0; 100]).await.unwrap(), 0, "closed, and nothing was said");
    }
}

#[tokio::test]
async fn what_a_client_sent_once_opens_nothing_a_second_time() {
    let key = StaticKey::generate().unwrap();
    // Record everything that a client says, by standing in between.
    let (client_end, mut client_side) = duplex(1 << 16);
    let (mut server_side, mut server_end) = duplex(1 << 16);
    let serve = async {
        let preamble = read_preamble(&mut server_end).await?;
        accept(server_end, &preamble, &key, &[4; 32]).await?.receive(1_000).await
    };
    let call = async {
        let mut stream = connect(client_end, PREAMBLE, key.public(), &[4; 32]).await?;
        stream.send(b"join").await
    };
    let relay = async {
        let (mut said, mut up, mut down) = (Vec::new(), [0; 4_096], [0; 4_096]);
        loop {
            tokio::select! {
                n = client_side.read(&mut up) => match n.unwrap() {
                    0 => return said,
                    n => { said.extend_from_slice(&up[..n]); server_side.write_all(&up[..n]).await.unwrap(); }
                },
                n = server_side.read(&mut down) => match n.unwrap() {
                    0 => return said,
                    n => client_side.write_all(&down[..n]).await.unwrap(),
                },
            }
        }
    };
    let (served, called, recorded) = tokio::join!(serve, call, relay);
    called.unwrap();
    assert_eq!(**served.unwrap(), *b"join");
    // The same octets again: the first message is accepted, its request is not.
    let (mut replayed, mut far) = duplex(1 << 16);
    replayed.write_all(&recorded).await.unwrap();
    let preamble = read_preamble(&mut far).await.unwrap();
    let again = match accept(far, &preamble, &key, &[4; 32]).await {
        Ok(mut stream) => stream.receive(1_000).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(again.is_err());
}
