//! The journal over a real ensemble. Run by `tests/zookeeper`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "real time and sockets")]

#[path = "../../zk/tests/common/mod.rs"]
mod common;

use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use common::{Ensemble, SERVERS, SESSION, copy_folder};
use keyserver::store::{
    Followed, Journal, Loaded, MemoryStore, SiteKey, Stopping, Store, StoreError, ZooKeeperBackend,
};
use net::entropy::OsEntropy;
use protocol::Entropy;
use zk::Options;

type Content = (Option<Vec<u8>>, Vec<Vec<u8>>);

fn open_with(options: Options, key: SiteKey, stopping: &Stopping) -> Result<Journal<ZooKeeperBackend>, StoreError> {
    Journal::open(ZooKeeperBackend::new(options, stopping.clone())?, key, Box::new(OsEntropy))
}

fn open(options: &Options) -> Journal<ZooKeeperBackend> {
    open_with(options.clone(), SiteKey::in_memory(&[7; 32]), &Stopping::default()).unwrap()
}

fn plain(loaded: &Loaded) -> Content {
    (loaded.snapshot.as_ref().map(|s| s.to_vec()), loaded.records.iter().map(|record| record.to_vec()).collect())
}

/// What a journal that has just been opened finds.
fn content(options: &Options) -> Content {
    plain(&open(options).load().unwrap())
}

/// Begins a reign as a key server does.
fn reign(store: &mut dyn Store) -> Vec<Vec<u8>> {
    store.fence().unwrap();
    match store.follow().unwrap() {
        Followed::Records(records) => records.iter().map(|record| record.to_vec()).collect(),
        Followed::Anew(_) => panic!("more than the last records is new"),
    }
}

fn numbered(from: u32, to: u32) -> Vec<Vec<u8>> {
    (from..to).map(|number| number.to_be_bytes().to_vec()).collect()
}

fn append(store: &mut dyn Store, number: u32) -> Result<(), StoreError> {
    store.append(&[&number.to_be_bytes()])
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let mut seed = [0; 8];
        OsEntropy.fill(&mut seed);
        let given = std::env::var("KEYSTONE_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or(u64::from_be_bytes(seed));
        println!("KEYSTONE_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Mostly small; one in twenty beyond 1 MiB.
    fn octets(&mut self) -> Vec<u8> {
        let most = [0, 10, 300, 5_000][usize::try_from(self.below(4)).unwrap()];
        let length = if self.below(20) == 0 { 900_000 + self.below(1_500_000) } else { self.below(most + 1) };
        let octet = u8::try_from(self.below(256)).unwrap();
        vec![octet; usize::try_from(length).unwrap()]
    }
}

/// The same random trace over ZooKeeper and over the simplest store, looked at by one who reopens and one who follows.
fn trace(options: &Options, steps: usize) {
    let mut random = Random::seeded();
    let mut model = MemoryStore::default();
    let mut store = open(options);
    let mut reader = open(options);
    let mut followed = plain(&reader.load().unwrap());
    model.load().unwrap();
    store.load().unwrap();
    reign(&mut model);
    reign(&mut store);
    for step in 0..steps {
        match random.below(12) {
            0 => {
                let snapshot = random.octets();
                model.snapshot(&snapshot).unwrap();
                store.snapshot(&snapshot).unwrap();
            }
            1 => {
                // The next key server.
                drop(store);
                store = open(options);
                store.load().unwrap();
                reign(&mut store);
            }
            _ => {
                let records: Vec<Vec<u8>> = (0..=random.below(3)).map(|_| random.octets()).collect();
                let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
                model.append(&records).unwrap();
                store.append(&records).unwrap();
            }
        }
        let expected = plain(&model.load().unwrap());
        if random.below(4) == 0 {
            assert!(content(options) == expected, "opened again after step {step}");
        }
        let since = Instant::now();
        loop {
            match reader.follow().unwrap() {
                Followed::Records(new) => followed.1.extend(new.iter().map(|record| record.to_vec())),
                Followed::Anew(loaded) => followed = plain(&loaded),
            }
            // One who has followed without a gap keeps the records that a compaction has put into the snapshot.
            if followed.1.ends_with(&expected.1) {
                break;
            }
            // The server that leads may answer before it has done itself what it has let others do.
            assert!(since.elapsed() < Duration::from_secs(5), "a follower after step {step}");
        }
    }
    assert!(content(options) == plain(&model.load().unwrap()));
}

#[test]
#[ignore = "needs an ensemble"]
fn it_holds_what_the_simplest_store_holds() {
    let ensemble = Ensemble::serving();
    trace(&ensemble.by_digest("trace"), 50);
    trace(&ensemble.by_certificate("trace-tls", "ks1"), 15);
}

#[test]
#[ignore = "needs an ensemble"]
fn a_deposed_writer_writes_nothing_more() {
    let ensemble = Ensemble::serving();
    let options = ensemble.by_digest("deposed");
    let mut new = open(&options);
    let (acknowledged, told) = mpsc::channel();
    let old = thread::spawn({
        let options = options.clone();
        move || {
            let mut old = open(&options);
            old.load().unwrap();
            reign(&mut old);
            for number in 0.. {
                match append(&mut old, number) {
                    Ok(()) => acknowledged.send(number).unwrap(),
                    Err(StoreError::Deposed(_)) => break,
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(matches!(append(&mut old, 0), Err(StoreError::Stopped(_))));
            old
        }
    });
    // In the midst of its writing.
    for _ in 0..100 {
        told.recv().unwrap();
    }
    new.load().unwrap();
    new.fence().unwrap();
    new.follow().unwrap();
    let after: Vec<Vec<u8>> = content(&options).1;
    append(&mut new, 1_000_000).unwrap();
    let mut old = old.join().unwrap();
    let acknowledged = told.try_iter().last().map_or(100, |last| last + 1);
    assert!(after == numbered(0, u32::try_from(after.len()).unwrap()), "what the first had written, in order");
    assert!(
        u32::try_from(after.len()).unwrap() >= acknowledged,
        "{acknowledged} were acknowledged, {} are there",
        after.len()
    );
    let expected = [after, numbered(1_000_000, 1_000_001)].concat();
    assert!(content(&options).1 == expected, "nothing came after the fence");
    // Whoever reads again knows what is new and still may not write.
    old.load().unwrap();
    assert!(matches!(append(&mut old, 2), Err(StoreError::Stopped(_))));
    assert!(matches!(old.reigns(), Err(StoreError::Deposed(_))));
    new.reigns().unwrap();
    assert!(content(&options).1 == expected);
}

#[test]
#[ignore = "needs an ensemble"]
fn a_server_is_killed_and_another_paused_while_records_are_appended() {
    let ensemble = Ensemble::serving();
    let options = ensemble.by_digest("killed");
    let (asked, told) = mpsc::channel();
    let writer = thread::spawn({
        let options = options.clone();
        move || {
            let mut store = open(&options);
            store.load().unwrap();
            reign(&mut store);
            let mut longest = Duration::ZERO;
            let mut number = 0;
            while told.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let since = Instant::now();
                append(&mut store, number).unwrap();
                longest = longest.max(since.elapsed());
                number += 1;
            }
            (number, longest)
        }
    });
    sleep(Duration::from_millis(500));
    let first = ensemble.leader();
    ensemble.kill(first);
    sleep(Duration::from_secs(2));
    ensemble.start(first);
    ensemble.await_all();
    let second = ensemble.leader();
    ensemble.pause(second);
    sleep(SESSION * 3 / 2);
    ensemble.resume(second);
    sleep(Duration::from_secs(1));
    asked.send(()).unwrap();
    let (number, longest) = writer.join().unwrap();
    println!("{number} records, the longest wait {longest:?}");
    ensemble.await_all();
    assert!(content(&options).1 == numbered(0, number), "none lost, none doubled");
}

#[test]
#[ignore = "needs an ensemble"]
fn without_a_quorum_it_waits_until_it_is_back_or_the_process_stops() {
    let ensemble = Ensemble::serving();
    let options = ensemble.by_digest("quorum");
    let stopping = Stopping::default();
    let mut store = open_with(options.clone(), SiteKey::in_memory(&[7; 32]), &stopping).unwrap();
    store.load().unwrap();
    reign(&mut store);
    append(&mut store, 0).unwrap();
    ensemble.kill(1);
    ensemble.kill(2);
    let (done, finished) = mpsc::channel();
    let writer = thread::spawn(move || {
        done.send(append(&mut store, 1)).unwrap();
        store
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for state in ["not currently serving", "Mode: read-only"] {
        ensemble.until("the last one knows", || ensemble.srvr(3).filter(|answer| answer.contains(state)));
        let error = runtime.block_on(async { zk::Session::new(options.clone()).read("head").await.unwrap_err() });
        assert!(matches!(error, zk::Error::NoQuorum(_)) && !error.is_refusal(), "{error}");
    }
    assert!(finished.recv_timeout(SESSION / 2).is_err(), "it answered without a quorum");
    ensemble.start(1);
    finished.recv_timeout(Duration::from_secs(30)).expect("the quorum is back").unwrap();
    let mut store = writer.join().unwrap();
    append(&mut store, 2).unwrap();
    ensemble.kill(1);
    let (done, finished) = mpsc::channel();
    thread::spawn(move || done.send(append(&mut store, 3)).unwrap());
    assert!(finished.recv_timeout(SESSION).is_err(), "it answered without a quorum");
    stopping.stop();
    let given_up = finished.recv_timeout(Duration::from_secs(1)).expect("the process stops").unwrap_err();
    assert!(matches!(given_up, StoreError::Unsettled { .. } | StoreError::Io { .. }), "{given_up}");
    SERVERS.iter().for_each(|n| ensemble.start(*n));
    ensemble.await_all();
    let records = content(&options).1;
    assert!(records == numbered(0, 3) || records == numbered(0, 4), "{records:?}");
}

#[test]
#[ignore = "needs an ensemble"]
fn long_an_expired_session_takes_no_reign_and_gives_none_back() {
    let ensemble = Ensemble::serving();
    let options = ensemble.by_digest("expired");
    let mut old = open(&options);
    old.load().unwrap();
    reign(&mut old);
    append(&mut old, 0).unwrap();
    let sleep_past_the_session = || {
        SERVERS.iter().for_each(|n| ensemble.pause(*n));
        sleep(SESSION * 3);
        SERVERS.iter().for_each(|n| ensemble.resume(*n));
    };
    sleep_past_the_session();
    // Nobody else began a reign: it goes on.
    append(&mut old, 1).unwrap();
    let mut new = open(&options);
    new.load().unwrap();
    sleep_past_the_session();
    assert!(reign(&mut new).is_empty());
    append(&mut new, 2).unwrap();
    let before = content(&options);
    assert!(matches!(append(&mut old, 3), Err(StoreError::Deposed(_))));
    assert!(content(&options) == before && before.1 == numbered(0, 3));
}

#[test]
#[ignore = "needs an ensemble"]
fn an_ensemble_restored_from_an_old_copy_is_noticed() {
    let ensemble = Ensemble::serving();
    let options = ensemble.by_digest("restored");
    let path = ensemble.folder.join("site.key");
    SiteKey::create(&path, &mut OsEntropy).unwrap();
    let again = || open_with(options.clone(), SiteKey::open(&path).unwrap(), &Stopping::default());
    let mut store = again().unwrap();
    store.load().unwrap();
    reign(&mut store);
    append(&mut store, 0).unwrap();
    let data = |n: u16| ensemble.folder.join(n.to_string()).join("data");
    let copy = |n: u16| ensemble.folder.join(format!("copy-{n}"));
    let everywhere = |work: &dyn Fn(u16)| {
        SERVERS.iter().for_each(|n| ensemble.kill(*n));
        SERVERS.iter().for_each(|n| work(*n));
        SERVERS.iter().for_each(|n| ensemble.start(*n));
        ensemble.await_all();
    };
    everywhere(&|n| copy_folder(&data(n), &copy(n)));
    append(&mut store, 1).unwrap();
    drop(store);
    drop(again().unwrap());
    everywhere(&|n| {
        std::fs::remove_dir_all(data(n)).unwrap();
        copy_folder(&copy(n), &data(n));
    });
    let error = again().expect_err("it has gone back");
    assert!(matches!(error, StoreError::RolledBack { .. }), "{error}");
    println!("{error}");
}

#[test]
#[ignore = "needs an ensemble"]
fn nothing_that_is_written_can_be_read() {
    let ensemble = Ensemble::serving();
    let options = ensemble.by_digest("sealed");
    let mut store = open(&options);
    store.load().unwrap();
    reign(&mut store);
    let secrets: [&[u8]; 3] = [b"spiffe://example/member/alice", b"the group named news", &[0x5a; 32]];
    for _ in 0..100 {
        store.append(&secrets).unwrap();
    }
    store.snapshot(&secrets.concat().repeat(20_000)).unwrap();
    for _ in 0..100 {
        store.append(&secrets).unwrap();
    }
    drop(store);
    // Also what an orderly start writes.
    SERVERS.iter().for_each(|n| ensemble.kill(*n));
    SERVERS.iter().for_each(|n| ensemble.start(*n));
    ensemble.await_all();
    let files = ensemble.everything_written();
    let holding =
        |text: &[u8]| files.iter().filter(|(_, octets)| octets.windows(text.len()).any(|at| at == text)).count();
    let names = |part: &str| files.iter().filter(|(path, _)| path.to_string_lossy().contains(part)).count();
    assert!(names("/log.") > 0 && names("/snapshot.") > 0, "{files:?}");
    assert!(holding(b"/sealed/head") > 0, "the search finds what is there in the clear");
    for secret in secrets {
        assert_eq!(holding(&secret[..12]), 0, "{}", String::from_utf8_lossy(secret));
    }
    assert!(content(&options).0.unwrap() == secrets.concat().repeat(20_000));
}

#[test]
#[ignore = "needs an ensemble"]
fn others_can_neither_read_nor_write() {
    let ensemble = Ensemble::serving();
    let options = ensemble.by_digest("ours");
    let mut store = open(&options);
    store.load().unwrap();
    reign(&mut store);
    append(&mut store, 0).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use zookeeper_client::{Acls, Client, CreateMode, Error};
        let other = Client::connect("127.0.0.1:21811").await.unwrap();
        let denied = |error| assert_eq!(error, Error::NoAuth);
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        denied(other.list_children("/ours").await.unwrap_err());
        denied(other.create("/ours/new", b"", &open).await.unwrap_err());
        denied(other.delete("/ours/head", None).await.unwrap_err());
        for name in ["/ours", "/ours/head", "/ours/term"] {
            denied(other.get_data(name).await.unwrap_err());
            denied(other.set_data(name, b"", None).await.unwrap_err());
            denied(other.get_acl(name).await.unwrap_err());
            denied(other.set_acl(name, &Acls::anyone_all(), None).await.unwrap_err());
        }
    });
    let stranger = Options { digest: Some(ensemble.folder.join("stranger")), ..options.clone() };
    let error = open_with(stranger, SiteKey::in_memory(&[7; 32]), &Stopping::default()).expect_err("it is not theirs");
    assert!(error.to_string().contains("belongs to others"), "{error}");
    let error =
        open_with(options.clone(), SiteKey::in_memory(&[8; 32]), &Stopping::default()).expect_err("another key");
    assert!(matches!(error, StoreError::WrongKey(_)), "{error}");
    append(&mut store, 1).unwrap();
    assert!(content(&options).1 == numbered(0, 2));
}
