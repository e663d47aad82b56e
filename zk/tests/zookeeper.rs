//! A session with a real ensemble. Run by `tests/zookeeper`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "real time and sockets")]

mod common;

use std::time::{Duration, Instant};

use common::{Ensemble, PATIENT, SERVERS, SESSION};
use zk::{Error, Held, Op, Options, Role, Session, Taken, TlsFiles};

fn create<'a>(name: &'a str, value: &'a [u8]) -> Op<'a> {
    Op::Create { name, value }
}

fn held(value: &[u8], version: u64) -> Option<Held> {
    Some(Held { value: value.into(), version })
}

async fn refused(options: Options) -> Error {
    Session::new(options).read("x").await.unwrap_err()
}

#[tokio::test]
#[ignore = "needs an ensemble"]
async fn a_transaction_is_carried_out_whole_or_not_at_all() {
    let ensemble = Ensemble::patient();
    let session = Session::new(ensemble.by_digest("multi/below"));
    assert_eq!(session.read("a").await.unwrap(), None);
    session.multi(&[create("a", b"one"), create("b", b"")]).await.unwrap();
    let set = |version| Op::Set { name: "a", value: b"two", version };
    session.multi(&[Op::Check { name: "b", version: 0 }, set(0)]).await.unwrap();
    assert_eq!(session.read("a").await.unwrap(), held(b"two", 1));
    for (ops, path) in [
        ([create("c", b""), set(0)], "/multi/below/a"),
        ([create("c", b""), create("b", b"")], "/multi/below/b"),
        ([create("c", b""), Op::Check { name: "b", version: 7 }], "/multi/below/b"),
        ([create("c", b""), Op::Delete { name: "d" }], "/multi/below/d"),
        ([create("c", b""), Op::Check { name: "d", version: 0 }], "/multi/below/d"),
    ] {
        match session.multi(&ops).await.unwrap_err() {
            Error::Conflict { path: found, .. } => assert_eq!(found, path),
            other => panic!("{other}"),
        }
        assert_eq!(session.read("c").await.unwrap(), None);
    }
    session.multi(&[Op::Delete { name: "b" }]).await.unwrap();
    assert_eq!(session.read("b").await.unwrap(), None);
    // The largest that is promised, and one that is told from a broken connection.
    let large = vec![7; 999_000];
    session.multi(&[create("large", &large)]).await.unwrap();
    assert_eq!(session.read("large").await.unwrap(), held(&large, 0));
    let error = session.multi(&[create("larger", &vec![7; 1_000_001])]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }) && error.is_refusal(), "{error}");
    let error = session.multi(&[Op::Check { name: "a", version: u64::from(u32::MAX) }]).await.unwrap_err();
    assert!(matches!(error, Error::Versions { .. }), "{error}");
}

#[tokio::test]
#[ignore = "needs an ensemble"]
async fn certificates_over_tls_and_what_belongs_to_whom() {
    let ensemble = Ensemble::patient();
    let first = Session::new(ensemble.by_certificate("x509", "ks1"));
    first.multi(&[create("a", b"shared")]).await.unwrap();
    let second = Session::new(ensemble.by_certificate("x509", "ks2"));
    assert_eq!(second.read("a").await.unwrap(), held(b"shared", 0));
    second.multi(&[Op::Delete { name: "a" }]).await.unwrap();
    // Digest over TLS, by hosts' names.
    let mut options = ensemble.by_certificate("both", "ks1");
    options.digest = Some(ensemble.folder.join("digest"));
    options.ensemble = "zookeeper://localhost:22811,localhost:22812,localhost:22813/both".parse().unwrap();
    Session::new(options).multi(&[create("a", b"")]).await.unwrap();
    let alone = Session::new(Options { owners: Vec::new(), ..ensemble.by_certificate("alone", "ks1") });
    alone.multi(&[create("a", b"")]).await.unwrap();
    // Others: without the digest, with another one, with another certificate.
    let other = ensemble.by_certificate("alone", "ks2");
    let error = refused(other).await;
    assert!(matches!(&error, Error::Denied { path } if path == "/alone"), "{error}");
    Session::new(ensemble.by_digest("digest")).multi(&[create("a", b"")]).await.unwrap();
    let stranger = Options { digest: Some(ensemble.folder.join("stranger")), ..ensemble.by_digest("digest") };
    let error = refused(stranger).await;
    assert!(matches!(&error, Error::Denied { path } if path == "/digest") && error.is_refusal(), "{error}");
}

#[tokio::test]
#[ignore = "needs an ensemble"]
async fn what_is_published_everybody_reads_and_nobody_else_writes() {
    let ensemble = Ensemble::patient();
    let publisher = Session::new(Options { role: Role::Publisher, ..ensemble.by_digest("published") });
    assert_eq!(publisher.children("e").await.unwrap(), None);
    publisher.multi(&[create("now", b"1"), create("e", b""), create("e/1", b"units")]).await.unwrap();
    let reader = || Options { role: Role::Reader, digest: None, ..ensemble.by_digest("published") };
    reader().check().unwrap();
    let member = Session::new(reader());
    assert_eq!(member.read("e/1").await.unwrap(), held(b"units", 0));
    assert_eq!(member.children("e").await.unwrap(), Some(vec!["1".to_owned()]));
    // A watch on what is there, and on what is not yet.
    let (now, watch) = member.watch("now").await.unwrap();
    assert_eq!(now, held(b"1", 0));
    let (none, later) = member.watch("e/2").await.unwrap();
    assert_eq!(none, None);
    let set = Op::Set { name: "now", value: b"2", version: 0 };
    publisher.multi(&[set, create("e/2", b"more")]).await.unwrap();
    watch.changed().await;
    later.changed().await;
    assert_eq!(member.read("now").await.unwrap(), held(b"2", 1));
    for op in [set, create("e/3", b"forged"), Op::Delete { name: "e/1" }] {
        let error = member.multi(&[op]).await.unwrap_err();
        // Who is nobody cannot even own what it would make.
        assert!(matches!(error, Error::Denied { .. } | Error::Authentication(_)), "{error}");
    }
    // A journal does not stand where everybody may read, and a publisher not where everybody may write.
    let error = refused(ensemble.by_digest("published")).await;
    assert!(matches!(&error, Error::Open { path, .. } if path == "/published"), "{error}");
}

#[tokio::test]
#[ignore = "needs an ensemble"]
async fn errors_say_who_is_to_blame() {
    let ensemble = Ensemble::patient();
    let quick = |options: Options, hosts: &str| Options {
        ensemble: format!("zookeeper://{hosts}/errors").parse().unwrap(),
        session_timeout: Duration::from_secs(1),
        ..options
    };
    let error = refused(quick(ensemble.by_digest("errors"), "127.0.0.1:9,nowhere.invalid:1")).await;
    assert!(matches!(error, Error::Unreachable(_)) && !error.is_refusal(), "{error}");
    assert!(error.to_string().contains("127.0.0.1:9 cannot be reached"), "{error}");
    // TLS where there is none, none where there is.
    let error = refused(quick(ensemble.by_certificate("errors", "ks1"), "127.0.0.1:21811")).await;
    assert!(matches!(error, Error::Tls(_) | Error::Unreachable(_)), "{error}");
    let error = refused(quick(ensemble.by_digest("errors"), "127.0.0.1:22811")).await;
    assert!(matches!(error, Error::Unreachable(_) | Error::NoSession(_)), "{error}");
    // Servers of another authority; a certificate of another authority; none at all.
    let right = quick(ensemble.by_certificate("errors", "ks1"), "127.0.0.1:22811");
    let identity = right.tls.clone().unwrap().identity;
    let files = |roots: &str, identity| Some(TlsFiles { roots: ensemble.tls(roots), identity });
    let other = Some((ensemble.tls("other.pem"), ensemble.tls("other.key")));
    let digest = Some(ensemble.folder.join("digest"));
    for tls in [files("other.pem", identity), files("ca.pem", other), files("ca.pem", None)] {
        let error = refused(Options { tls, digest: digest.clone(), ..right.clone() }).await;
        assert!(matches!(error, Error::Tls(_)) && error.is_refusal(), "{error}");
    }
    // A root that anybody may use.
    let world = zookeeper_client::Client::connect("127.0.0.1:21811").await.unwrap();
    let open = zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
    world.create("/open", b"", &open).await.unwrap();
    let error = refused(ensemble.by_digest("open")).await;
    assert!(matches!(&error, Error::Open { path, .. } if path == "/open"), "{error}");
}

#[tokio::test]
#[ignore = "needs an ensemble"]
async fn a_latch_is_one_sessions_and_goes_with_it() {
    let ensemble = Ensemble::patient();
    let open = || Session::new(ensemble.by_digest("latch"));
    let (first, second) = (open(), open());
    let Taken::Ours(latch) = first.take_latch("latch", b"first").await.unwrap() else { panic!("nobody had it") };
    let Taken::Ours(_) = first.take_latch("latch", b"first").await.unwrap() else { panic!("it is this session's") };
    let Taken::Others(who) = second.take_latch("latch", b"second").await.unwrap() else { panic!("it is taken") };
    assert_eq!(who, b"first");
    let (found, watch) = second.watch("latch").await.unwrap();
    assert_eq!(found, held(b"first", 0));
    let since = Instant::now();
    latch.release().await.unwrap();
    watch.changed().await;
    let Taken::Ours(latch) = second.take_latch("latch", b"second").await.unwrap() else { panic!("it was given up") };
    // Removed behind its holder's back.
    first.multi(&[Op::Delete { name: "latch" }]).await.unwrap();
    latch.lost().await;
    drop(latch);
    assert!(since.elapsed() < PATIENT / 4, "{:?}", since.elapsed());
    // An orderly end frees it at once.
    let Taken::Ours(latch) = second.take_latch("latch", b"second").await.unwrap() else { panic!("free") };
    let (_, watch) = first.watch("latch").await.unwrap();
    let since = Instant::now();
    drop(latch);
    second.close().await;
    watch.changed().await;
    assert!(since.elapsed() < PATIENT / 4, "{:?}", since.elapsed());
}

#[tokio::test]
#[ignore = "needs an ensemble"]
async fn a_watch_misses_nothing() {
    let ensemble = Ensemble::patient();
    let (writer, reader) = (Session::new(ensemble.by_digest("watch")), Session::new(ensemble.by_digest("watch")));
    let (none, watch) = reader.watch("w").await.unwrap();
    assert_eq!(none, None);
    writer.multi(&[create("w", b"")]).await.unwrap();
    watch.changed().await;
    let writes = tokio::spawn(async move {
        for version in 0..200 {
            writer.multi(&[Op::Set { name: "w", value: b"", version }]).await.unwrap();
        }
    });
    let mut last = 0;
    while last < 200 {
        let (found, watch) = reader.watch("w").await.unwrap();
        let version = found.unwrap().version;
        assert!(version >= last, "what was seen goes back");
        last = version;
        if last < 200 {
            tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("a change was missed");
        }
    }
    writes.await.unwrap();
}

#[tokio::test]
#[ignore = "needs an ensemble"]
async fn long_a_session_that_expired_is_replaced() {
    let ensemble = Ensemble::serving();
    let session = Session::new(ensemble.by_digest("expiry"));
    let other = Session::new(ensemble.by_digest("expiry"));
    let Taken::Ours(latch) = session.take_latch("latch", b"").await.unwrap() else { panic!("nobody had it") };
    let (_, watch) = other.watch("latch").await.unwrap();
    SERVERS.iter().for_each(|n| ensemble.pause(*n));
    tokio::time::sleep(SESSION * 2).await;
    latch.lost().await;
    SERVERS.iter().for_each(|n| ensemble.resume(*n));
    watch.changed().await;
    ensemble.await_all();
    // The latch of the session that is over is nobody's, or will be.
    let since = Instant::now();
    loop {
        match session.take_latch("latch", b"again").await {
            Ok(Taken::Ours(_)) => break,
            Ok(Taken::Others(_)) => {}
            Err(error) => assert!(!error.is_refusal(), "{error}"),
        }
        assert!(since.elapsed() < SESSION * 5);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(session.read("latch").await.unwrap(), held(b"again", 0));
}
