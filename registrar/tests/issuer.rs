//! Token keys from the issuer's HTTPS address.
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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certs::TokenIssuer;
use common::{LIMIT, Manner, Site, answer};
use net::frame::write_frame;
use protocol::identity::Identity;
use protocol::registration::{ALPN_CLIENT, FromClient, RefusalCode, ToClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;

/// An HTTPS server named `localhost` that answers each request with these octets; counts them.
async fn issuer(site: &Site, answer: Vec<u8>) -> (u16, Arc<AtomicUsize>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(site.folder.path().join("web.pem"), certified.cert.pem()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1_024];
            let octets = stream.read(&mut request).await.unwrap();
            assert!(request[..octets].starts_with(b"GET /keys HTTP/1.1\r\nhost: localhost:"), "{request:?}");
            count.fetch_add(1, Ordering::Relaxed);
            // The client may have had enough.
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, asked)
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

/// What a registrar with the keys at this address says to a token of `signer`.
async fn says(site: &Site, address: &str, signer: &TokenIssuer) -> ToClient {
    let tokens = format!(
        "[token]\nkeys = \"{address}\"\nroots = \"web.pem\"\nissuer = \"keystone-pki\"\naudience = \"keystone\"\n\
         algorithms = [\"ES256\"]\n"
    );
    fs::write(site.config(), site.text() + &tokens).unwrap();
    let (shutdown, registrar) = site.run();
    site.register_soon().await;
    let me = Identity::parse("spiffe://demo/member/m1").unwrap();
    let server = Identity::parse("spiffe://demo/registrar/r1").unwrap();
    let roots = net::tls::load_roots(site.folder.path().join("pki/ca.pem")).unwrap();
    let tls = net::tls::anonymous_client_config(&roots, server, ALPN_CLIENT).unwrap();
    let since = Instant::now();
    let said = loop {
        let mut stream = net::tls::connect(site.listen, tls.clone(), LIMIT).await.unwrap();
        let token = signer.sign(&me, Duration::from_secs(60)).unwrap().into();
        let message =
            FromClient::RegisterWithToken { key_server: "ks".into(), identity: me.clone(), token, offers: vec![] };
        write_frame(&mut stream, &message.encode()).await.unwrap();
        let said = answer(&mut stream).await;
        if !matches!(said, ToClient::Refused(_)) || since.elapsed() > Duration::from_secs(1) {
            break said;
        }
        sleep(Duration::from_millis(20)).await;
    };
    shutdown.trigger();
    registrar.await.unwrap().unwrap();
    said
}

#[tokio::test]
async fn keys_come_from_the_named_server_only() {
    let site = Site::new().await;
    let _key_server = site.serve("ks", Manner::Well).await;
    let signer = TokenIssuer::generate().unwrap();
    let keys = signer.key_set().unwrap();
    let refused = |said: ToClient| match said {
        ToClient::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Credential, "{}", refusal.text),
        other => panic!("{other:?}"),
    };
    let (port, asked) = issuer(&site, http("200 OK", &keys)).await;
    let said = says(&site, &format!("https://localhost:{port}/keys"), &signer).await;
    assert!(matches!(said, ToClient::Number { .. }), "{said:?}");
    // Another name than the certificate's, or another's certificate: nothing is even asked.
    let before = asked.load(Ordering::Relaxed);
    refused(says(&site, &format!("https://127.0.0.1:{port}/keys"), &signer).await);
    let (other, _) = issuer(&site, http("200 OK", &keys)).await;
    refused(says(&site, &format!("https://localhost:{port}/keys"), &signer).await);
    assert_eq!(asked.load(Ordering::Relaxed), before);
    assert!(matches!(says(&site, &format!("https://localhost:{other}/keys"), &signer).await, ToClient::Number { .. }));
    // No answer that is none is taken for keys.
    let moved = format!("HTTP/1.1 302 Found\r\nlocation: https://localhost:{other}/keys\r\ncontent-length: 0\r\n\r\n");
    let endless = [b"HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n".to_vec(), vec![b' '; 900_000]].concat();
    let cut = http("200 OK", &keys)[..120].to_vec();
    for bad in [http("404 Not Found", &keys), http("200 OK", "{}"), moved.into_bytes(), endless, cut, b"no".to_vec()] {
        let (port, asked) = issuer(&site, bad).await;
        refused(says(&site, &format!("https://localhost:{port}/keys"), &signer).await);
        assert!(asked.load(Ordering::Relaxed) > 0);
    }
}
