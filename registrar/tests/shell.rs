//! The registrar as it runs, over real TLS on loopback, beside a key server that does as each test says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that cannot go on stops"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::{FAILED, LIMIT, Manner, REFUSED, Site, UNPROVED, answer, ask, ask_with, code, parties};
use net::frame::{read_frame, write_frame};
use net::noise::sealed;
use protocol::MemberId;
use protocol::registration::{FromClient, Grant, MAX_FRAME, MAX_OFFERS, OFFER, RefusalCode, ToClient};
use registrar::config::Checked;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn both_ends_have_the_same_key_and_every_registration_another() {
    let site = Site::new().await;
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    let (first, second) = (site.register_soon().await, site.register_soon().await);
    assert_ne!(first, second);
    assert_eq!(*site.keys.lock().unwrap(), [first, second]);
}

#[tokio::test]
async fn a_key_server_that_goes_and_comes_back_is_found_again() {
    let site = Site::new().await;
    let key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    key_server.abort();
    let _ = key_server.await;
    // The registrar hears of it a moment later.
    let refusal = timeout(LIMIT, async {
        loop {
            match site.register().await {
                Err(refusal) => return refusal,
                Ok(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let refusal = refusal.await.unwrap();
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert!(refusal.retry_after_ms > 0);
    let _key_server = site.serve("ks", Manner::Well).await;
    site.register_soon().await;
}

#[tokio::test]
async fn a_key_server_that_talks_nonsense_is_left_and_tried_again() {
    let site = Site::new().await;
    let key_server = site.serve("ks", Manner::Nonsense).await;
    let _registrar = site.run();
    site.member().await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(site.register().await.unwrap_err().code, RefusalCode::Unavailable);
    key_server.abort();
    let _ = key_server.await;
    let _key_server = site.serve("ks", Manner::Well).await;
    site.register_soon().await;
}

#[tokio::test]
async fn another_than_the_configured_key_server_is_no_key_server() {
    let site = Site::new().await;
    let impostor = site.serve("r2", Manner::Well).await;
    let _registrar = site.run();
    for _ in 0..20 {
        assert_eq!(site.register().await.unwrap_err().code, RefusalCode::Unavailable);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!impostor.is_finished(), "it was never taken for the key server");
    assert!(site.keys.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_is_not_served_hears_it_however_the_frames_cross() {
    let (site, _daemons) = Site::up().await;
    for _ in 0..50 {
        let before = site.counts().await;
        let mut stream = site.connect(&site.credentials("r2")).await.unwrap();
        assert_eq!(code(ask(&mut stream).await), RefusalCode::Identity);
        site.counts_one(before, REFUSED).await;
    }
}

#[tokio::test]
async fn strangers_get_no_further_than_the_handshake() {
    let (site, _daemons) = Site::up().await;
    let foreign = certs::Authority::new("foreign", 1).unwrap();
    let stranger = site.issue(&foreign, "spiffe://demo/member/m1");
    let before = site.counts().await;
    // TLS 1.3: the client may learn only with its first read that it is refused.
    if let Ok(mut stream) = site.connect(&stranger).await {
        let _ =
            write_frame(&mut stream, &FromClient::Register { key_server: "ks".into(), offers: vec![] }.encode()).await;
        let error = timeout(LIMIT, read_frame(&mut stream, MAX_FRAME)).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("UnknownCA"), "{error}");
    }
    assert_eq!(site.keys.lock().unwrap().len(), 1);
    site.counts_one(before, FAILED).await;
    site.register_soon().await;
}

#[tokio::test]
async fn frames_of_a_wrong_size_or_content_are_refused_and_the_connection_ends() {
    let (site, _daemons) = Site::up().await;
    use tokio::io::AsyncWriteExt;
    let oversized = [&[0, 1, 0, 0][..], &[7; 4_000]].concat();
    let wrong: [&[u8]; 4] = [&oversized, &[0xff; 8], &[0; 4], &[0, 0, 0, 3, 1, 9, 9]];
    for octets in wrong {
        let before = site.counts().await;
        let mut stream = site.member().await;
        stream.write_all(octets).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(code(answer(&mut stream).await), RefusalCode::Malformed, "{:?}", &octets[..4]);
        let end = timeout(LIMIT, read_frame(&mut stream, MAX_FRAME)).await.expect("closed");
        assert!(matches!(end, Ok(None)), "{end:?}");
        site.counts_one(before, UNPROVED).await;
    }
    // One that ends inside a frame just goes.
    let mut stream = site.member().await;
    stream.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    site.register_soon().await;
}

/// What is sealed passes both ways as it is, and what the key server cannot open costs neither client nor link anything.
#[tokio::test]
async fn a_sealed_registration_passes() {
    let (site, _daemons) = Site::up().await;
    let (keys, prologue) = ([*site.noise().public()], parties().prologue());
    let (offered, offers) = sealed::offer(&keys, &prologue).unwrap();
    for (offers, opens) in [(vec![[1; OFFER]; MAX_OFFERS], false), (offers.clone(), true)] {
        let mut stream = site.member().await;
        match ask_with(&mut stream, offers).await {
            ToClient::Refused(refusal) => assert_eq!((refusal.code, opens), (RefusalCode::Key, false)),
            ToClient::RegisteredSealed(answer) if opens => {
                let grant = Grant::decode(offered.open(&answer).unwrap().as_slice()).unwrap();
                assert_eq!((grant.client, grant.registration), (MemberId(7), 3));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(site.register().await.is_ok(), "over the same link");
}

#[tokio::test]
async fn a_stop_lets_a_registration_end() {
    let site = Site::new().await;
    let _key_server = site.serve("ks", Manner::Slow(Duration::from_millis(700))).await;
    let (shutdown, registrar) = site.run();
    site.register_soon().await;
    let mut stream = site.member().await;
    assert!(matches!(ask(&mut stream).await, ToClient::Number { .. }));
    shutdown.trigger();
    assert_eq!(answer(&mut stream).await, ToClient::Registered);
    drop(stream);
    timeout(Duration::from_secs(2), registrar).await.expect("drained").unwrap().unwrap();
    assert!(TcpStream::connect(site.listen).await.is_err());
}

#[tokio::test]
async fn a_stop_waits_five_seconds_at_the_most() {
    let site = Site::new().await;
    let _key_server = site.serve("ks", Manner::Slow(Duration::from_secs(60))).await;
    let (shutdown, registrar) = site.run();
    let mut stream = loop {
        let mut stream = site.member().await;
        if let ToClient::Number { .. } = ask(&mut stream).await {
            break stream;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let since = Instant::now();
    shutdown.trigger();
    timeout(Duration::from_secs(7), registrar).await.expect("drained").unwrap().unwrap();
    assert!(since.elapsed() >= Duration::from_secs(4), "{:?}", since.elapsed());
    assert!(!matches!(read_frame(&mut stream, MAX_FRAME).await, Ok(Some(_))), "not told what is not so");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let site = Site::new().await;
    let _taken = TcpListener::bind(site.listen).await.unwrap();
    let (_, registrar) = site.run();
    let error = timeout(LIMIT, registrar).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains(&site.listen.to_string()), "{error}");
}

#[tokio::test]
async fn what_is_wrong_in_a_configuration_is_named() {
    let site = Site::new().await;
    assert!(Checked::load(&site.config()).is_ok());
    let good = site.text();
    let changes = [
        ("listen =", "lisen =", "lisen"),
        ("127.0.0.1", "localhost", "listen"),
        ("spiffe://demo/keyserver/ks", "spiffe://Demo/keyserver/ks", "key_server_identity"),
        ("[\"spiffe://demo/member/*\"]", "[]", "clients"),
        ("spiffe://demo/member/*", "spiffe://demo/mem*", "clients"),
        ("pki/r1.pem", "pki/none.pem", "none.pem"),
        ("pki/r1.key", "pki/r2.key", "key"),
        ("roots =", "root =", "root"),
    ];
    site.names_what_is_wrong(&good, &changes);
    let key = site.folder.path().join("pki/r1.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Checked::load(&site.config()).unwrap_err().to_string();
    assert!(error.contains("r1.key") && error.contains("640"), "{error}");
}
