//! Floods at the doors of real processes, while members are rekeyed and ask: nobody of them is starved, and what the daemons need stays
//! within their limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of processes has a clock and sockets")]

mod common;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use client_ctl::{FileConfig, Registered, Settings, register, request};
use common::{Daemon, Site};
use net::OsEntropy;
use net::noise::{self, StaticKey};
use protocol::Entropy;
use protocol::request::{Act, Losses, Operations, Outcome, Preamble, Reply, Request, RequestId};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// Connections at once: three times the places of a door.
const FLOOD: u32 = 300;
/// Of the flood.
const TIME: Duration = Duration::from_secs(2);
/// Places of all doors of a daemon for who is not known and who is, who was told there to come again, and some for what is on its
/// way.
const DESCRIPTORS: usize = 2 * 150 + 256 + 20;
/// A task for each place of all doors, and some for members and for what is let go.
const TASKS: u64 = 2 * 150 + 20;
/// So many handshakes, each with 64 KiB in our frames and as much in the library.
const KIB: usize = 2 * 150 * 128;
/// A key is late, and an answer, after this time. A machine that tests has other work.
const LATE: Duration = Duration::from_secs(3);

async fn from(host: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_zero_linger()?;
    socket.bind((host, 0).into())?;
    socket.connect(to).await
}

/// One of those who flood, each from an address of its own: says all at once or octet by octet, and comes again.
async fn flooder(number: u32, to: SocketAddr, what: Vec<u8>, is_slow: bool) {
    let [.., high, low] = (number + 1).to_be_bytes();
    loop {
        let once = async {
            let mut stream = from(Ipv4Addr::new(127, 4, high, low), to).await?;
            if !is_slow {
                stream.write_all(&what).await?;
            }
            for octet in what.iter().filter(|_| is_slow) {
                stream.write_all(&[*octet]).await?;
                sleep(Duration::from_millis(100)).await;
            }
            stream.read(&mut [0; 512]).await
        };
        let _ = timeout(Duration::from_secs(5), once).await;
        sleep(Duration::from_millis(20)).await;
    }
}

/// A preamble and the first message of Noise, as an onlooker has them.
async fn recorded(site: &Site, preamble: &[u8], who: &Registered) -> Vec<u8> {
    let (near, mut far) = duplex(1 << 12);
    let key = StaticKey::load(site.path("pki/ks.noise")).unwrap();
    let mut octets = vec![0; 4 + preamble.len() + 4 + 48];
    tokio::select! {
        read = far.read_exact(&mut octets) => drop(read.unwrap()),
        _ = noise::connect(near, preamble, key.public(), who.key.expose()) => panic!("nobody answers"),
    }
    octets
}

/// Asks once, from an address that is no flooder's; the answer to the one operation.
async fn ask(settings: &Settings, who: &Registered, operations: Operations) -> Option<Outcome> {
    let message = Request { id: RequestId(OsEntropy.array()), operations }.encode();
    // A client has a host of its own.
    let [.., high, low] = who.client.0.to_be_bytes();
    let dial = |to: String| async move { from(Ipv4Addr::new(127, 5, high, low), to.parse().unwrap()).await };
    let reply = request(settings, dial, (who.client, who.registration), &who.key, &message).await.ok()?;
    Reply::decode(&reply).unwrap().outcomes.pop()
}

fn used(daemon: &Daemon) -> (usize, usize) {
    let folder = format!("/proc/{}", daemon.0.id());
    let status = fs::read_to_string(format!("{folder}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    (fs::read_dir(format!("{folder}/fd")).unwrap().count(), memory)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn members_are_rekeyed_and_answered_while_strangers_fill_the_doors() {
    let site = Site::new();
    let key_server = site.start("keyserver", "ks");
    site.wait("ks.sock", |_| true);
    let registrar = site.start("registrar", "r1");
    site.wait("ks.sock", |status| status["registrars"] == 1);
    let _member = site.start("client-ctl", "m1");
    site.wait("m1.sock", |status| status["groups"][0]["status"] == "member");
    site.write("m2.toml", &site.member("m2", "demo"));
    let settings = FileConfig::load(&site.path("m2.toml")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let who = runtime.block_on(register(&settings)).unwrap();
    let preamble = Preamble { key_server: "ks".into(), client: who.client, registration: who.registration }.encode();
    let first = runtime.block_on(recorded(&site, &preamble, &who));
    let join = Operations::Changes(vec![(Act::Join, "demo".into())]);
    let joined = runtime.block_on(ask(&settings, &who, join)).expect("an answer");
    assert!(matches!(joined, Outcome::Granted(_)), "{joined:?}");

    let mut epoch = site.wait("ks.sock", |_| true)["groups"][0]["epoch"].as_u64().unwrap();
    let logs = || length(&site.path("ks.log")) + length(&site.path("r1.log"));
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 200]].concat();
    let floods: [(&str, SocketAddr, &[u8], bool); 5] = [
        ("slow requests", site.requests, &first, true),
        ("slow registrars", site.registrars, &hello, true),
        ("slow clients", site.clients, &hello, true),
        ("replayed requests", site.requests, &first, false),
        ("malformed registrars", site.registrars, &hello, false),
    ];
    let tasks = || ["ks.sock", "r1.sock"].map(|socket| site.wait(socket, |_| true)["tasks"].as_u64().unwrap());
    let quiet = tasks();
    for (name, to, what, is_slow) in floods {
        let before = (used(&key_server), used(&registrar), logs());
        let mut most = [0; 2];
        let flood: Vec<_> =
            (0..FLOOD).map(|number| runtime.spawn(flooder(number, to, what.to_vec(), is_slow))).collect();
        // Until the door is full.
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        let mut answered = 0;
        while begun.elapsed() < TIME {
            let ordered = Instant::now();
            epoch = site.order("ks.sock", "/v1/groups/demo/refresh", "")["epoch"].as_u64().unwrap().max(epoch + 1);
            site.wait("m1.sock", |status| status["groups"][0]["epoch"].as_u64() >= Some(epoch));
            assert!(ordered.elapsed() < LATE, "{name}: epoch {epoch} after {:?}", ordered.elapsed());
            // A member's own request: each single one finds its place, though strangers hold all theirs.
            let report = Operations::Reports(vec![("demo".into(), Losses::default())]);
            let asked = Instant::now();
            assert_eq!(runtime.block_on(ask(&settings, &who, report)), Some(Outcome::Noted), "{name}");
            assert!(asked.elapsed() < LATE, "{name}: {:?}", asked.elapsed());
            answered += 1;
            // A client has a ration of requests.
            std::thread::sleep(Duration::from_millis(200));
            for (daemon, before) in [(&key_server, before.0), (&registrar, before.1)] {
                let now = used(daemon);
                assert!(now.0 <= before.0 + DESCRIPTORS, "{name}: {} descriptors, {} before", now.0, before.0);
                assert!(now.1 <= before.1 + KIB, "{name}: {} kB, {} before", now.1, before.1);
            }
            for (at, now) in tasks().into_iter().enumerate() {
                assert!(now <= quiet[at] + TASKS, "{name}: {now} tasks, {} before", quiet[at]);
                most[at] = now.max(most[at]);
            }
        }
        println!(
            "{name}: {answered} keys and answers, {:?} {:?}, tasks {most:?} and {quiet:?} before",
            used(&key_server),
            used(&registrar)
        );
        // What waits at a door is counted, and who found no place: the flood is there.
        let busy = usize::from(to == site.clients);
        assert!(!is_slow || most[busy] > quiet[busy] + 20, "{name}: {most:?} tasks, {quiet:?} before");
        let doors = [site.wait("ks.sock", |_| true)["doors"].clone(), site.wait("r1.sock", |_| true)["door"].clone()];
        let door = match to {
            _ if to == site.requests => &doors[0]["requests"],
            _ if to == site.registrars => &doors[0]["registrars"],
            _ => &doors[1],
        };
        assert!(door["sent_away"].as_u64() > Some(100), "{name}: {doors:?}");
        assert!(door["let_in"].as_u64() > Some(100), "{name}: {doors:?}");
        flood.into_iter().for_each(|flooder| flooder.abort());
        // What every key and each registration say, and a line for all strangers together.
        assert!(logs() - before.2 < 1_000 * answered + 16_384, "{name}: {} octets in the logs", logs() - before.2);
    }
}

/// Registers and joins, as often as it takes.
async fn come(settings: &Settings) -> Registered {
    let mut pause = Duration::from_millis(100);
    let who = loop {
        match register(settings).await {
            Ok(who) => break who,
            Err(failed) => sleep(failed.retry_after.unwrap_or_default().max(pause)).await,
        }
        pause = (pause * 2).min(Duration::from_secs(2));
    };
    loop {
        let join = Operations::Changes(vec![(Act::Join, "demo".into())]);
        match ask(settings, &who, join).await {
            Some(Outcome::Granted(_)) => return who,
            Some(Outcome::Later { after_ms }) => sleep(Duration::from_millis(after_ms.into())).await,
            None => sleep(pause).await,
            Some(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn after_a_blackout_all_come_back_at_once_and_nothing_is_lost() {
    const CLIENTS: usize = 60;
    let site = Site::with(CLIENTS);
    let up = || {
        let daemons = (site.start("keyserver", "ks"), site.start("registrar", "r1"));
        site.wait("ks.sock", |status| status["registrars"] == 1);
        daemons
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let settings: Vec<_> = (1..=CLIENTS)
        .map(|number| {
            let name = format!("m{number}");
            site.write(&format!("{name}.toml"), &site.member(&name, "demo"));
            std::sync::Arc::new(FileConfig::load(&site.path(&format!("{name}.toml"))).unwrap())
        })
        .collect();
    // All at once, from one address that registers: far more than are let in.
    let all = || {
        let coming = settings.iter().map(|one| {
            let one = one.clone();
            runtime.spawn(async move { come(&one).await })
        });
        let coming: Vec<_> = coming.collect();
        let come = async {
            let mut all = Vec::new();
            for one in coming {
                all.push(one.await.unwrap());
            }
            all
        };
        runtime.block_on(async { timeout(Duration::from_secs(60), come).await.expect("all come") })
    };
    let daemons = up();
    let before = all();
    let status = site.wait("ks.sock", |status| status["groups"][0]["members"] == CLIENTS);
    // `kill -9`, both.
    drop(daemons);
    let _daemons = up();
    let after = all();
    let now = site.wait("ks.sock", |_| true);
    assert_eq!((&now["clients"], &now["groups"][0]["members"]), (&CLIENTS.into(), &CLIENTS.into()), "{now}");
    assert!(now["groups"][0]["epoch"].as_u64() > status["groups"][0]["epoch"].as_u64(), "{now}");
    assert_eq!(now["misbehaved"], 0, "{now}");
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.client, after.client, "a client keeps its number");
        assert!(before.registration < after.registration && before.key != after.key);
    }
}
