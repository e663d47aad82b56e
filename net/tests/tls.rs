//! TLS 1.3 with identities at both ends, and what each end refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of sockets")]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use certs::{Authority, Leaf};
use net::admission::{Admission, Limits};
use net::tls::{
    CredentialFiles, Credentials, TlsError, accept, client_config, connect, connect_over, individual_key_from,
    server_config,
};
use protocol::identity::Identity;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const ALPN: &[u8] = b"test/1";

fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://demo/{name}")).unwrap()
}

fn credentials(folder: &Path, name: &str, leaf: &Leaf, roots: &Authority) -> Credentials {
    let file = |kind: &str| folder.join(format!("{}.{kind}", name.replace('/', "-")));
    fs::write(file("pem"), &leaf.certificate).unwrap();
    fs::write(file("key"), leaf.key.as_bytes()).unwrap();
    fs::set_permissions(file("key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(file("ca"), roots.pem()).unwrap();
    Credentials::load(&CredentialFiles { certificate: file("pem"), key: file("key"), roots: file("ca"), crls: vec![] })
        .unwrap()
}

/// Both ends of a handshake: who the server says the client is and the server's key, and the client's key.
async fn shake(
    server: &Credentials,
    client: &Credentials,
    expected: &str,
    alpn: &[u8],
    context: (&[u8], &[u8]),
) -> Result<(Identity, [u8; 32], [u8; 32]), String> {
    let (near, far) = duplex(1 << 16);
    let ticket = Admission::new(Limits::default()).enter(IpAddr::from([127, 0, 0, 1])).unwrap();
    let to_clients = server_config(server, ALPN).map_err(|e| e.to_string())?;
    let to_server = client_config(client, identity(expected), alpn).map_err(|e| e.to_string())?;
    let serve = async {
        let (mut stream, who) = accept(far, to_clients, ticket).await.map_err(|e| format!("server: {e}"))?;
        let key = individual_key_from(stream.get_ref().1, context.0).unwrap();
        stream.write_all(b"hello").await.map_err(|e| format!("server: {e}"))?;
        Ok::<_, String>((who, *key.expose()))
    };
    let call = async {
        let mut stream = connect_over(near, to_server).await.map_err(|e| format!("client: {e}"))?;
        let key = individual_key_from(stream.get_ref().1, context.1).unwrap();
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.map_err(|e| format!("client: {e}"))?;
        Ok::<_, String>(*key.expose())
    };
    let (served, called) = tokio::join!(serve, call);
    let ((who, ours), theirs) = (served?, called?);
    Ok((who, ours, theirs))
}

#[tokio::test]
async fn identities_are_exact_and_the_exporter_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca", 1).unwrap();
    let of = |name: &str| credentials(folder.path(), name, &ca.issue(&identity(name), 1).unwrap(), &ca);
    let (server, client) = (of("registrar/r1"), of("member/m1"));
    let (who, ours, theirs) = shake(&server, &client, "registrar/r1", ALPN, (b"x", b"x")).await.unwrap();
    assert_eq!((who, ours), (identity("member/m1"), theirs));
    let (_, again, _) = shake(&server, &client, "registrar/r1", ALPN, (b"x", b"x")).await.unwrap();
    assert_ne!(ours, again, "each session has a key of its own");
    let (_, ours, theirs) = shake(&server, &client, "registrar/r1", ALPN, (b"x", b"y")).await.unwrap();
    assert_ne!(ours, theirs, "the context is bound");
    for wrong in ["registrar/r2", "registrar/r1x", "Registrar/r1", "member/m1"] {
        assert!(shake(&server, &client, wrong, ALPN, (b"", b"")).await.is_err(), "{wrong}");
    }
    assert!(shake(&server, &client, "registrar/r1", b"other/1", (b"", b"")).await.is_err(), "another protocol");
}

#[tokio::test]
async fn another_authority_is_refused_by_either_end() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new("ca", 1).unwrap(), Authority::new("other", 1).unwrap());
    let issue = |authority: &Authority, name: &str| authority.issue(&identity(name), 1).unwrap();
    let server = credentials(folder.path(), "registrar/r1", &issue(&ca, "registrar/r1"), &ca);
    let foreign = credentials(folder.path(), "member/f", &issue(&other, "member/m1"), &ca);
    assert!(shake(&server, &foreign, "registrar/r1", ALPN, (b"", b"")).await.is_err());
    let impostor = credentials(folder.path(), "impostor", &issue(&other, "registrar/r1"), &ca);
    let client = credentials(folder.path(), "member/m1", &issue(&ca, "member/m1"), &ca);
    let error = shake(&impostor, &client, "registrar/r1", ALPN, (b"", b"")).await.unwrap_err();
    assert!(!error.is_empty());
}

/// Both ends for refusals: what the server is told at the handshake, and what the client is, then or at its first read.
async fn refusals(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Option<String>, Option<String>) {
    let (near, far) = duplex(1 << 16);
    let ticket = Admission::new(Limits::default()).enter(IpAddr::from([127, 0, 0, 1])).unwrap();
    let serve = async {
        let (mut stream, _) = accept(far, server, ticket).await.map_err(|error| error.to_string())?;
        stream.write_all(b"hello").await.map_err(|error| error.to_string())
    };
    let call = async {
        let mut stream = connect_over(near, client).await.map_err(|error| error.to_string())?;
        stream.read_exact(&mut [0; 5]).await.map_err(|error| error.to_string())
    };
    let (served, called) = tokio::join!(serve, call);
    (served.err(), called.err())
}

/// A client without a certificate.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn each_end_says_why_it_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new("ca", 1).unwrap(), Authority::new("other", 1).unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let issue = |authority: &Authority, name: &str, until| {
        authority.issue_uris(&[identity(name).as_str()], &(now - 100, until)).unwrap()
    };
    let load = |file: &str, leaf: &Leaf| credentials(folder.path(), file, leaf, &ca);
    let (far, near) = (now + 1_000, now + 2);
    let server = load("server", &issue(&ca, "registrar/r1", far));
    let member = load("member", &issue(&ca, "member/m1", far));
    let foreign_server = load("foreign-server", &issue(&other, "registrar/r1", far));
    let foreign_member = load("foreign-member", &issue(&other, "member/m1", far));
    // They are valid when they are loaded, and not for long.
    let old_server = load("old-server", &issue(&ca, "registrar/r1", near));
    let old_member = load("old-member", &issue(&ca, "member/m1", near));
    let serve = |credentials: &Credentials| server_config(credentials, ALPN).unwrap();
    let call = |credentials: &Credentials| client_config(credentials, identity("registrar/r1"), ALPN).unwrap();

    assert_eq!(refusals(serve(&server), call(&member)).await, (None, None));
    let mut nobody = (*call(&member)).clone();
    nobody.client_auth_cert_resolver = Arc::new(Nobody);
    tokio::time::sleep(Duration::from_secs(4)).await;
    // Who refuses says why; the other end hears of it by an alert.
    let at_the_server = [
        (call(&foreign_member), "UnknownIssuer", "UnknownCA"),
        (Arc::new(nobody), "no certificates", "CertificateRequired"),
        (call(&old_member), "expired", "CertificateExpired"),
    ];
    for (client, why, alert) in at_the_server {
        let (told, heard) = refusals(serve(&server), client).await;
        let (told, heard) = (told.unwrap(), heard.unwrap());
        assert!(told.contains(why) && heard.contains(alert), "{told} / {heard}");
    }
    let at_the_client =
        [(serve(&foreign_server), "UnknownIssuer", "UnknownCA"), (serve(&old_server), "expired", "CertificateExpired")];
    for (server, why, alert) in at_the_client {
        let (heard, told) = refusals(server, call(&member)).await;
        let (told, heard) = (told.unwrap(), heard.unwrap());
        assert!(told.contains(why) && heard.contains(alert), "{told} / {heard}");
    }
}

/// A TLS 1.2 ClientHello (RFC 5246, section 7.4.1.2), of a client that knows nothing newer.
fn hello_of_tls_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with ECDSA or RSA, AES-128-GCM
    body.extend([1, 0]); // no compression
    let groups = [0, 10, 0, 4, 0, 2, 0, 0x17]; // P-256
    let signatures = [0, 13, 0, 6, 0, 4, 4, 3, 4, 1]; // ECDSA and RSA with SHA-256
    body.extend(u16::try_from(groups.len() + signatures.len()).unwrap().to_be_bytes());
    body.extend(groups.iter().chain(&signatures));
    let length = u16::try_from(body.len()).unwrap();
    let mut hello = vec![22, 3, 1];
    hello.extend((length + 4).to_be_bytes());
    hello.extend([1, 0]);
    hello.extend(length.to_be_bytes());
    hello.extend(body);
    hello
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_told_that_it_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca", 1).unwrap();
    let server = credentials(folder.path(), "r1", &ca.issue(&identity("registrar/r1"), 1).unwrap(), &ca);
    let (mut near, far) = duplex(1 << 16);
    let ticket = Admission::new(Limits::default()).enter(IpAddr::from([127, 0, 0, 1])).unwrap();
    near.write_all(&hello_of_tls_1_2()).await.unwrap();
    let error = accept(far, server_config(&server, ALPN).unwrap(), ticket).await.unwrap_err();
    assert!(matches!(error, TlsError::Handshake(_)), "{error}");
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    // One alert (21): fatal (2), protocol_version (70).
    assert_eq!((answer[0], &answer[3..]), (21, &[0, 2, 2, 70][..]), "{error}");
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca", 1).unwrap();
    let of = |name: &str| credentials(folder.path(), name, &ca.issue(&identity(name), 1).unwrap(), &ca);
    let (server, client) = (of("registrar/r1"), of("member/m1"));
    let limit = Duration::from_millis(300);
    let door = Admission::new(Limits { per_source: 1, handshake: limit, ..Limits::default() });
    let source = IpAddr::from([127, 0, 0, 1]);
    // One peer says nothing, one begins and stops, one never stops and never ends.
    for (first, more) in [(0, false), (20, false), (1, true)] {
        let (mut near, far) = duplex(1 << 16);
        let octets = hello_of_tls_1_2();
        let stall = async {
            near.write_all(&octets[..first]).await.unwrap();
            for octet in &octets[first..octets.len() - 1] {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if more && near.write_all(&[*octet]).await.is_err() {
                    return;
                }
            }
        };
        let serve = async {
            let begun = std::time::Instant::now();
            let ticket = door.enter(source).unwrap();
            assert!(door.enter(source).is_none());
            let error = accept(far, server_config(&server, ALPN).unwrap(), ticket).await.unwrap_err();
            assert!(matches!(error, TlsError::TimedOut(_)), "{error}");
            assert!((limit..limit * 5).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        };
        tokio::join!(stall, serve);
        assert!(door.enter(source).is_some(), "the place is free again");
    }
    // The other way round: a server that takes the connection and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = client_config(&client, identity("registrar/r1"), ALPN).unwrap();
    let error = connect(silent.local_addr().unwrap(), config, limit).await.unwrap_err();
    assert!(matches!(error, TlsError::TimedOut(_)), "{error}");
}

#[test]
fn files_that_cannot_be_right_are_refused_when_they_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca", 1).unwrap();
    let file = |name: &str, content: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let good = ca.issue(&identity("member/m1"), 1).unwrap();
    let roots = file("ca", ca.pem(), 0o644);
    let refusal = |certificate: &str, key: &str, mode: u32| {
        let files = CredentialFiles {
            certificate: file("pem", certificate, 0o644),
            key: file("key", key, mode),
            roots: roots.clone(),
            crls: vec![],
        };
        Credentials::load(&files).err().map(|error| error.to_string())
    };
    assert_eq!(refusal(&good.certificate, &good.key, 0o600), None);
    assert!(refusal(&good.certificate, &good.key, 0o640).unwrap().contains("0640"));
    let other = ca.issue(&identity("member/m1"), 1).unwrap();
    for (certificate, key) in [("", good.key.as_str()), ("nonsense", &good.key), (&good.certificate, "nonsense")] {
        assert!(refusal(certificate, key, 0o600).is_some());
    }
    assert!(refusal(&good.certificate, &other.key, 0o600).is_some(), "a key of another certificate");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let two = ["spiffe://demo/a", "spiffe://demo/b"];
    for (uris, from, to) in
        [(&two[..1], now - 100, now - 50), (&two[..], now - 100, now + 100), (&[], now - 100, now + 100)]
    {
        let leaf = ca.issue_uris(uris, &(from, to)).unwrap();
        assert!(refusal(&leaf.certificate, &leaf.key, 0o600).is_some(), "{uris:?} {from} {to}");
    }
    for bad in ["spiffe://Demo/a", "https://demo/a", "spiffe://demo/a/../b"] {
        let leaf = ca.issue_uris(&[bad], &(now - 100, now + 100)).unwrap();
        assert!(refusal(&leaf.certificate, &leaf.key, 0o600).is_some(), "{bad}");
    }
}
