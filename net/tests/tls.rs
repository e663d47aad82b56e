//! TLS 1.3 with identities at both ends, and what each end refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of sockets")]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use certs::{Authority, Leaf};
use net::admission::{Admission, Limits};
use net::tls::{CredentialFiles, Credentials, accept, client_config, connect_over, individual_key_from, server_config};
use protocol::identity::Identity;
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
    Credentials::load(&CredentialFiles { certificate: file("pem"), key: file("key"), roots: file("ca") }).unwrap()
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
