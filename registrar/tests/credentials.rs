//! Clients with and without certificates, revoked ones, and credentials that change while the registrar runs.
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
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certs::{Authority, TokenIssuer};
use common::{FAILED, LIMIT, Manner, Site, UNPROVED, answer, ask, code};
use net::frame::{read_frame, write_frame};
use net::tls::{Credentials, anonymous_client_config, load_roots};
use protocol::identity::Identity;
use protocol::registration::{ALPN_CLIENT, FromClient, MAX_FRAME, RefusalCode, ToClient};
use registrar::config::Checked;
use rustix::process::{Signal, getpid, kill_process};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

const TOKENS: &str = "[token]\nkeys = \"pki/token-keys.json\"\nissuer = \"keystone-pki\"\naudience = \"keystone\"\n\
                      algorithms = [\"ES256\"]\n";

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

impl Site {
    fn pki(&self) -> std::path::PathBuf {
        self.folder.path().join("pki")
    }

    async fn anonymous(&self) -> Result<TlsStream<TcpStream>, net::tls::TlsError> {
        let registrar = Identity::parse("spiffe://demo/registrar/r1").unwrap();
        let roots = load_roots(self.pki().join("ca.pem")).unwrap();
        net::tls::connect(self.listen, anonymous_client_config(&roots, registrar, ALPN_CLIENT).unwrap(), LIMIT).await
    }

    async fn say(&self, stream: &mut TlsStream<TcpStream>, token: &str) -> ToClient {
        let identity = Identity::parse("spiffe://demo/member/m1").unwrap();
        let message = FromClient::RegisterWithToken {
            key_server: "ks".into(),
            identity,
            token: token.to_owned().into(),
            offers: vec![],
        };
        write_frame(stream, &message.encode()).await.unwrap();
        answer(stream).await
    }

    /// Whether the registrar lets these credentials through its handshake, or what it says.
    async fn lets_in(&self, credentials: &Credentials) -> Result<(), String> {
        let mut stream = self.connect(credentials).await.map_err(|error| error.to_string())?;
        let hello = FromClient::Register { key_server: "ks".into(), offers: vec![] };
        write_frame(&mut stream, &hello.encode()).await.map_err(|error| error.to_string())?;
        let answer = timeout(LIMIT, read_frame(&mut stream, MAX_FRAME)).await.unwrap();
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// How often its TLS credentials, of which lists of revoked certificates are a part, were refused when they were read again.
    async fn refused_files(&self) -> u64 {
        self.status().await["files"]["TLS credentials"]["refused"].as_u64().unwrap()
    }

    /// Waits until that was so once more than `before`.
    async fn refuses_files(&self, before: u64) {
        let more = async {
            while self.refused_files().await <= before {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, more).await.expect("what is bad is refused");
    }

    /// The number of the registrar's certificate.
    async fn serial(&self) -> Vec<u8> {
        let stream = self.member().await;
        net::tls::peer_credential(stream.get_ref().1).unwrap().name
    }
}

/// Tells all registrars of this process to read their files again, and waits until they have.
async fn hang_up() {
    kill_process(getpid(), Signal::HUP).unwrap();
    sleep(Duration::from_millis(300)).await;
}

fn serial(pem: &Path) -> Vec<u8> {
    let certificate = CertificateDer::from_pem_file(pem).unwrap();
    net::identity::credential(&certificate).unwrap().name[32..].to_vec()
}

/// A PKI whose authority is kept, so that it can revoke.
fn keep_authority(site: &Site) -> Authority {
    let authority = Authority::new("kept", 1).unwrap();
    fs::write(site.pki().join("ca.pem"), authority.pem()).unwrap();
    for (name, role) in [("ks", "keyserver"), ("r1", "registrar"), ("m1", "member")] {
        renew(site, &authority, name, role);
    }
    authority
}

fn renew(site: &Site, authority: &Authority, name: &str, role: &str) {
    let leaf = authority.issue(&Identity::parse(&format!("spiffe://demo/{role}/{name}")).unwrap(), 1).unwrap();
    fs::write(site.pki().join(format!("{name}.pem")), leaf.certificate).unwrap();
    fs::write(site.pki().join(format!("{name}.key")), leaf.key.as_bytes()).unwrap();
}

#[tokio::test]
async fn with_and_without_certificate_side_by_side() {
    let site = Site::new().await;
    fs::write(site.config(), site.text() + TOKENS).unwrap();
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    let issuer = TokenIssuer::load(&site.pki()).unwrap();
    let me = Identity::parse("spiffe://demo/member/m1").unwrap();
    let mut stream = site.anonymous().await.unwrap();
    let token = issuer.sign(&me, Duration::from_secs(60)).unwrap();
    assert!(matches!(site.say(&mut stream, &token).await, ToClient::Number { .. }));
    let context = protocol::registration::exporter_context(
        &me,
        &Identity::parse("spiffe://demo/registrar/r1").unwrap(),
        "ks",
        protocol::MemberId(7),
        3,
    );
    let key = net::tls::individual_key_from(stream.get_ref().1, &context).unwrap();
    assert_eq!(answer(&mut stream).await, ToClient::Registered);
    assert_eq!(site.keys.lock().unwrap().last(), Some(&key));
    // Without either, with nonsense, with a token that nobody takes, and with both.
    let before = site.counts().await;
    assert_eq!(code(ask(&mut site.anonymous().await.unwrap()).await), RefusalCode::Credential);
    site.counts_one(before, UNPROVED).await;
    for token in ["", "nonsense", &TokenIssuer::generate().unwrap().sign(&me, Duration::from_secs(60)).unwrap()] {
        let before = site.counts().await;
        let refused = site.say(&mut site.anonymous().await.unwrap(), token).await;
        assert_eq!(code(refused), RefusalCode::Credential, "{token}");
        site.counts_one(before, UNPROVED).await;
    }
    let before = site.counts().await;
    let long = site.say(&mut site.anonymous().await.unwrap(), &"t".repeat(8_193)).await;
    assert_eq!(code(long), RefusalCode::Malformed);
    site.counts_one(before, UNPROVED).await;
    assert_eq!(code(site.say(&mut site.member().await, &token).await), RefusalCode::Malformed);
    assert_eq!(site.keys.lock().unwrap().len(), 2, "nobody else got anywhere");
    // A certificate that is shown counts, even if none is needed.
    let foreign = Authority::new("foreign", 1).unwrap();
    assert!(site.lets_in(&site.issue(&foreign, "spiffe://demo/member/m1")).await.unwrap_err().contains("UnknownCA"));
    // Another issuer's keys, while it runs.
    let other = TokenIssuer::generate().unwrap();
    fs::write(site.pki().join("token-keys.json"), other.key_set().unwrap()).unwrap();
    hang_up().await;
    let token = issuer.sign(&me, Duration::from_secs(60)).unwrap();
    assert_eq!(code(site.say(&mut site.anonymous().await.unwrap(), &token).await), RefusalCode::Credential);
    fs::write(site.pki().join("token-keys.json"), "{}").unwrap();
    hang_up().await;
    let token = other.sign(&me, Duration::from_secs(60)).unwrap();
    let good = site.say(&mut site.anonymous().await.unwrap(), &token).await;
    assert!(matches!(good, ToClient::Number { .. }), "the last good keys stay");
}

#[tokio::test]
async fn a_registrar_that_takes_no_tokens_wants_a_certificate() {
    let (site, _daemons) = Site::up().await;
    let before = site.counts().await;
    if let Ok(mut stream) = site.anonymous().await {
        let _ =
            write_frame(&mut stream, &FromClient::Register { key_server: "ks".into(), offers: vec![] }.encode()).await;
        let error = timeout(LIMIT, read_frame(&mut stream, MAX_FRAME)).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("CertificateRequired"), "{error}");
    }
    site.counts_one(before, FAILED).await;
    assert_eq!(site.keys.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_revoked_certificate_gets_no_further_than_the_handshake() {
    let site = Site::new().await;
    let authority = keep_authority(&site);
    let list = |serials: &[&[u8]], made: u64| {
        fs::write(site.pki().join("ca.crl"), authority.revoke(serials, (made, now() + 3_600)).unwrap()).unwrap();
    };
    list(&[], now() - 100);
    fs::write(site.config(), site.text() + "crls = [\"pki/ca.crl\"]\n").unwrap();
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    let m1 = site.credentials("m1");
    assert_eq!(site.lets_in(&m1).await, Ok(()));
    list(&[&serial(&site.pki().join("m1.pem"))], now() - 50);
    hang_up().await;
    let before = site.counts().await;
    assert!(site.lets_in(&m1).await.unwrap_err().contains("CertificateRevoked"));
    site.counts_one(before, FAILED).await;
    // Neither an older list, nor a damaged one, nor another authority's, nor none at all brings it back.
    let before = site.refused_files().await;
    list(&[], now() - 60);
    hang_up().await;
    assert!(site.lets_in(&m1).await.is_err(), "older");
    site.refuses_files(before).await;
    let good = authority.revoke(&[], (now() - 10, now() + 3_600)).unwrap();
    let foreign = Authority::new("kept", 1).unwrap().revoke(&[], (now() - 10, now() + 3_600)).unwrap();
    for bad in [&good[..good.len() / 2], &good.replace('M', "N"), &foreign, "", authority.pem()] {
        let before = site.refused_files().await;
        fs::write(site.pki().join("ca.crl"), bad).unwrap();
        hang_up().await;
        site.refuses_files(before).await;
        assert!(site.lets_in(&m1).await.is_err(), "{bad}");
        let error = Checked::load(&site.config()).unwrap_err().to_string();
        assert!(error.contains("ca.crl"), "{error}");
    }
    fs::remove_file(site.pki().join("ca.crl")).unwrap();
    hang_up().await;
    assert!(site.lets_in(&m1).await.is_err(), "gone");
    // One whose successor is due counts, at the start too.
    let old = authority.revoke(&[&serial(&site.pki().join("m1.pem"))], (now() - 9, now() - 1)).unwrap();
    fs::write(site.pki().join("ca.crl"), old).unwrap();
    hang_up().await;
    Checked::load(&site.config()).unwrap();
    assert!(site.lets_in(&m1).await.unwrap_err().contains("CertificateRevoked"), "old");
    list(&[], now() - 5);
    hang_up().await;
    assert_eq!(site.lets_in(&m1).await, Ok(()), "taken off the list");
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_new_start_and_a_bad_one_is_not() {
    let site = Site::new().await;
    let authority = keep_authority(&site);
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    let first = site.serial().await;
    renew(&site, &authority, "r1", "registrar");
    hang_up().await;
    let second = site.serial().await;
    assert_ne!(second, first);
    let pem = site.pki().join("r1.pem");
    let good = fs::read(&pem).unwrap();
    let another = authority.issue(&Identity::parse("spiffe://demo/registrar/r1").unwrap(), 1).unwrap().certificate;
    let expired = authority.issue_uris(&["spiffe://demo/registrar/r1"], &(now() - 9, now() - 1)).unwrap().certificate;
    for bad in [another, expired, "nonsense".into(), String::new()] {
        let before = site.refused_files().await;
        fs::write(&pem, bad).unwrap();
        hang_up().await;
        site.refuses_files(before).await;
        assert_eq!(site.serial().await, second, "the last good one stays");
    }
    // A daemon does not become another one.
    renew(&site, &authority, "r1", "member");
    hang_up().await;
    assert_eq!(site.serial().await, second);
    fs::write(&pem, good).unwrap();
    site.register_soon().await;
}

#[tokio::test]
async fn a_certificate_of_the_authority_that_names_nobody_registers_nobody() {
    let site = Site::new().await;
    let authority = keep_authority(&site);
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    let long = format!("spiffe://demo/member/{}", "m".repeat(2_048));
    let bad: [&[&str]; 6] = [
        &[],
        &["spiffe://demo/member/m1", "spiffe://demo/member/m2"],
        &["SPIFFE://demo/member/m1"],
        &["spiffe://demo/member/%6d1"],
        &["spiffe://demo/guest/../member/m1"],
        &[&long],
    ];
    let roots = load_roots(site.pki().join("ca.pem")).unwrap();
    for uris in bad {
        let leaf = authority.issue_uris(uris, &(now() - 9, now() + 900)).unwrap();
        // A client of ours would not even load it.
        let registrar = Identity::parse("spiffe://demo/registrar/r1").unwrap();
        let mut config = (*anonymous_client_config(&roots, registrar, ALPN_CLIENT).unwrap()).clone();
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
        let shown = CertifiedKey::from_der(chain, key, &provider).unwrap();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        let before = site.counts().await;
        // TLS 1.3: the client may learn only with its first read that it is refused.
        let said = match net::tls::connect(site.listen, Arc::new(config), LIMIT).await {
            Ok(mut stream) => {
                let hello = FromClient::Register { key_server: "ks".into(), offers: vec![] };
                let _ = write_frame(&mut stream, &hello.encode()).await;
                timeout(LIMIT, read_frame(&mut stream, MAX_FRAME)).await.unwrap().unwrap_err().to_string()
            }
            Err(error) => error.to_string(),
        };
        assert!(said.contains("CertificateUnknown"), "{uris:?}: {said}");
        assert_eq!(site.keys.lock().unwrap().len(), 1, "{uris:?}");
        site.counts_one(before, FAILED).await;
    }
    site.register_soon().await;
}

#[tokio::test]
async fn chains_that_are_too_long_are_not_looked_at() {
    let (site, _daemons) = Site::up().await;
    let pem = site.pki().join("m1.pem");
    let (leaf, root) = (fs::read_to_string(&pem).unwrap(), fs::read_to_string(site.pki().join("ca.pem")).unwrap());
    for (certificates, goes) in [(6, true), (7, false), (400, false)] {
        fs::write(&pem, leaf.clone() + &root.repeat(certificates)).unwrap();
        let before = site.counts().await;
        assert_eq!(site.lets_in(&site.credentials("m1")).await.is_ok(), goes, "{certificates}");
        if !goes {
            site.counts_one(before, FAILED).await;
        }
    }
    fs::write(&pem, leaf).unwrap();
    site.register_soon().await;
}

#[tokio::test]
async fn what_is_wrong_with_tokens_in_a_configuration_is_named() {
    let site = Site::new().await;
    let good = site.text() + TOKENS;
    let changes = [
        ("token-keys.json", "none.json", "none.json"),
        ("token-keys.json", "ca.pem", "ca.pem"),
        ("\"pki/token-keys.json\"", "\"https://issuer.example/keys\"", "token.roots"),
        ("\"pki/token-keys.json\"", "\"http://issuer.example/keys\"", "token.keys"),
        ("[\"ES256\"]", "[]", "token.algorithms"),
        ("\"ES256\"", "\"none\"", "`none` is not possible"),
        ("\"ES256\"", "\"HS256\"", "`HS256` is not possible"),
        ("issuer = \"keystone-pki\"", "issuer = \"\"", "token.issuer"),
        ("audience", "audiense", "audiense"),
        ("algorithms", "leeway_s = 301\nalgorithms", "token.leeway_s"),
    ];
    site.names_what_is_wrong(&good, &changes);
}
