use std::net::{Ipv4Addr, SocketAddr};

use net::noise::{NoiseStream, StaticKey};
use protocol::{IndividualKey, SigningKey};
use tokio::net::TcpSocket;
use zeroize::Zeroizing;

use super::super::commands::commands;
use super::*;

const GREEDY: u32 = 1;
const FORGOTTEN: u32 = 2;

#[tokio::test]
async fn a_request_that_is_not_answered_is_given_up() {
    let (door, public) = open().await;
    let key = individual_key(FORGOTTEN);
    let asked = ask(door, &public, FORGOTTEN, &key);
    assert!(!tokio::time::timeout(Duration::from_secs(10), asked).await.expect("the connection is held"));
    assert!(ask(door, &public, 3, &individual_key(3)).await);
}

/// A door before an engine that knows everybody and answers at once with the request itself, or the one who is forgotten never.
async fn open() -> (SocketAddr, [u8; 32]) {
    let key = StaticKey::generate().unwrap();
    let public = *key.public();
    let (engine, mut queue) = commands();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some(command) = queue.recv().await {
            match command {
                Command::Key(client, _, answer) => drop(answer.send(Some(individual_key(client.0)))),
                Command::Request(MemberId(FORGOTTEN), .., reply) => unanswered.push(reply),
                Command::Request(_, _, message, reply) => drop(reply.send(Answer::Reply(message))),
                _ => {}
            }
        }
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let keys = Keys { noise: key.into(), signing: SigningKey::from_seed(&[1; 32]).unwrap(), site: None };
    let door = Door::new("ks".into(), Reloaded::new(keys).1, engine, Admission::default());
    tokio::spawn(serve(listener, Door { reply: Duration::from_millis(300), ..door }));
    (address, public)
}

fn individual_key(client: u32) -> IndividualKey {
    IndividualKey::new([u8::try_from(client).unwrap(); 32])
}

/// One request from an address of the client's own, with a key; whether it was answered.
async fn ask(door: SocketAddr, public: &[u8; 32], client: u32, key: &IndividualKey) -> bool {
    let preamble = Preamble { key_server: "ks".into(), client: MemberId(client), registration: 1 }.encode();
    let exchange = async {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind(([127, 0, 0, u8::try_from(client).ok()? + 1], 0).into()).ok()?;
        let stream = socket.connect(door).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let mut stream: NoiseStream<_> = noise::connect(stream, &preamble, public, key.expose()).await.ok()?;
        stream.send(b"request").await.ok()?;
        let reply: Zeroizing<Vec<u8>> = stream.receive(MAX_REQUEST).await.ok()?;
        Some(*reply == *b"request")
    };
    exchange.await.unwrap_or(false)
}

/// Median and longest time of a hundred requests, one after the other, of clients that ask each ten times.
async fn latency(door: SocketAddr, public: &[u8; 32], first: u32) -> [Duration; 2] {
    let mut times = Vec::new();
    for turn in 0..100 {
        let client = first + turn % 10;
        let since = Instant::now();
        assert!(ask(door, public, client, &individual_key(client)).await, "client {client} was refused");
        times.push(since.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort();
    [times[50], times[99]]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_asks_without_end_gets_its_share_and_slows_nobody() {
    let (door, public) = open().await;
    // Somebody who only says that he is another takes nothing from that one.
    for _ in 0..2 * SHARE.burst {
        assert!(!ask(door, &public, 100, &individual_key(99)).await);
    }
    assert!(ask(door, &public, 100, &individual_key(100)).await);

    let quiet = latency(door, &public, 10).await;
    let since = Instant::now();
    // On a thread of its own, so that what it costs the greedy one to ask is not in what the others wait.
    let greedy = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask_on = || async move {
            let (mut served, mut refused) = (0u32, 0u32);
            while since.elapsed() < Duration::from_secs(2) {
                match ask(door, &public, GREEDY, &individual_key(GREEDY)).await {
                    true => served += 1,
                    false => refused += 1,
                }
            }
            (served, refused)
        };
        let all = async { tokio::join!(ask_on(), ask_on(), ask_on(), ask_on(), ask_on(), ask_on()) };
        let (a, b, c, d, e, f) = runtime.block_on(all);
        [a, b, c, d, e, f].iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let busy = latency(door, &public, 20).await;
    let (served, refused) = tokio::task::spawn_blocking(|| greedy.join().unwrap()).await.unwrap();
    println!(
        "the greedy one: {served} answered, {refused} not; others' [median, longest]: {quiet:?}, meanwhile {busy:?}"
    );
    let earned = u32::try_from(since.elapsed().as_millis() / SHARE.each.as_millis()).unwrap();
    assert!(refused > served && served <= SHARE.burst + earned + 8, "{served} in {:?}", since.elapsed());
    // The factor is one for quiet machines; the rest is for those that have other work than this.
    assert!(busy[0] <= quiet[0] * 5 + Duration::from_millis(20), "{quiet:?}, meanwhile {busy:?}");
}
