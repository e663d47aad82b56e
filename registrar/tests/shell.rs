//! The registrar as it runs, over real TLS on loopback, beside a key server that does as each test says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::frame::{read_frame, write_frame};
use net::shutdown::Shutdown;
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::Identity;
use protocol::registration::{
    ALPN_CLIENT, ALPN_REGISTRAR, FromClient, FromRegistrar, MAX_FRAME, Refusal, RefusalCode, ToClient, ToRegistrar,
    exporter_context,
};
use protocol::{IndividualKey, MemberId};
use registrar::RunError;
use registrar::config::Checked;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

const LIMIT: Duration = Duration::from_secs(10);

struct Site {
    folder: tempfile::TempDir,
    listen: SocketAddr,
    key_server: SocketAddr,
    keys: Arc<Mutex<Vec<IndividualKey>>>,
}

/// How the key server behaves after the client list.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Well,
    /// Waits so long before it says that a key is durable.
    Slow(Duration),
    /// Sends no message of the protocol.
    Nonsense,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let spec = certs::Spec {
            domain: "demo".into(),
            key_servers: names(&["ks"]),
            standbys: 0,
            registrars: names(&["r1", "r2"]),
            members: names(&["m1"]),
            days: 1,
            suites: Vec::new(),
        };
        certs::create(&folder.path().join("pki"), &spec).unwrap();
        let site = Self { folder, listen: free().await, key_server: free().await, keys: Arc::default() };
        fs::write(site.config(), site.text()).unwrap();
        site
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("r1.toml")
    }

    fn text(&self) -> String {
        format!(
            "listen = \"{}\"\nkey_server_address = \"{}\"\nkey_server_identity = \"spiffe://demo/keyserver/ks\"\n\
             clients = [\"spiffe://demo/member/*\"]\n[tls]\ncertificate = \"pki/r1.pem\"\nkey = \"pki/r1.key\"\n\
             roots = \"pki/ca.pem\"\n",
            self.listen, self.key_server
        )
    }

    fn credentials(&self, name: &str) -> Credentials {
        let file = |end: &str| self.folder.path().join("pki").join(format!("{name}.{end}"));
        let roots = self.folder.path().join("pki/ca.pem");
        Credentials::load(&CredentialFiles { certificate: file("pem"), key: file("key"), roots, crls: vec![] }).unwrap()
    }

    /// Credentials of an identity that the PKI has no files for, from `authority`.
    fn issue(&self, authority: &certs::Authority, identity: &str) -> Credentials {
        let leaf = authority.issue(&Identity::parse(identity).unwrap(), 1).unwrap();
        let pki = self.folder.path().join("pki");
        fs::write(pki.join("x.pem"), leaf.certificate).unwrap();
        let _ = fs::remove_file(pki.join("x.key"));
        let mut key = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(pki.join("x.key")).unwrap();
        key.write_all(leaf.key.as_bytes()).unwrap();
        self.credentials("x")
    }

    fn run(&self) -> (Shutdown, JoinHandle<Result<(), RunError>>) {
        let (checked, shutdown) = (Checked::load(&self.config()).unwrap(), Shutdown::new());
        (shutdown.clone(), tokio::spawn(registrar::run(checked, shutdown)))
    }

    /// A key server with the certificate of `name`; it is gone when the handle is aborted.
    async fn serve(&self, name: &str, manner: Manner) -> JoinHandle<()> {
        let listener = TcpListener::bind(self.key_server).await.unwrap();
        let config = net::tls::server_config(&self.credentials(name), ALPN_REGISTRAR).unwrap();
        let keys = self.keys.clone();
        let door = net::admission::Admission::default();
        tokio::spawn(async move {
            loop {
                let (stream, _, ticket) = door.next(&listener).await;
                let Ok((mut stream, who)) = net::tls::accept(stream, config.clone(), ticket).await else { continue };
                assert_eq!(who.as_str(), "spiffe://demo/registrar/r1");
                let list =
                    ToRegistrar::ClientList { key_server: "ks".into(), first: true, last: true, entries: vec![] };
                write_frame(&mut stream, &list.encode()).await.unwrap();
                while let Ok(Some(frame)) = read_frame(&mut stream, MAX_FRAME).await {
                    let answer = match FromRegistrar::decode(&frame).unwrap() {
                        _ if manner == Manner::Nonsense => b"nonsense".to_vec(),
                        FromRegistrar::FetchNumber { tag, .. } => {
                            ToRegistrar::Number { tag, client: MemberId(7), registration: 3 }.encode()
                        }
                        FromRegistrar::HandOver { tag, client, registration, key, .. } => {
                            assert_eq!((client, registration), (MemberId(7), 3));
                            keys.lock().unwrap().push(key);
                            if let Manner::Slow(wait) = manner {
                                sleep(wait).await;
                            }
                            ToRegistrar::Durable { tag }.encode()
                        }
                    };
                    if write_frame(&mut stream, &answer).await.is_err() {
                        break;
                    }
                }
            }
        })
    }

    async fn connect(&self, credentials: &Credentials) -> Result<TlsStream<TcpStream>, net::tls::TlsError> {
        let registrar = Identity::parse("spiffe://demo/registrar/r1").unwrap();
        let config = net::tls::client_config(credentials, registrar, ALPN_CLIENT).unwrap();
        net::tls::connect(self.listen, config, LIMIT).await
    }

    /// Connects as soon as the registrar listens.
    async fn member(&self) -> TlsStream<TcpStream> {
        let credentials = self.credentials("m1");
        for _ in 0..500 {
            match self.connect(&credentials).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("the registrar does not listen");
    }

    async fn register(&self) -> Result<IndividualKey, Refusal> {
        let mut stream = self.member().await;
        let context = match ask(&mut stream).await {
            ToClient::Number { client, registration } => exporter_context(
                &Identity::parse("spiffe://demo/member/m1").unwrap(),
                &Identity::parse("spiffe://demo/registrar/r1").unwrap(),
                "ks",
                client,
                registration,
            ),
            ToClient::Refused(refusal) => return Err(refusal),
            ToClient::Registered => panic!("registered without a number"),
        };
        let key = net::tls::individual_key_from(stream.get_ref().1, &context).unwrap();
        match answer(&mut stream).await {
            ToClient::Registered => Ok(key),
            ToClient::Refused(refusal) => Err(refusal),
            ToClient::Number { .. } => panic!("two numbers"),
        }
    }

    /// Registers as soon as the registrar has its key server.
    async fn register_soon(&self) -> IndividualKey {
        let since = Instant::now();
        loop {
            match self.register().await {
                Ok(key) => return key,
                Err(refusal) => assert_eq!(refusal.code, RefusalCode::Unavailable, "{}", refusal.text),
            }
            assert!(since.elapsed() < LIMIT, "the registrar does not find its key server");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> ToClient {
    let register = FromClient::Register { key_server: "ks".into() };
    write_frame(stream, &register.encode()).await.unwrap();
    answer(stream).await
}

async fn answer(stream: &mut TlsStream<TcpStream>) -> ToClient {
    let frame = timeout(LIMIT, read_frame(stream, MAX_FRAME)).await.expect("an answer in time").unwrap();
    ToClient::decode(&frame.expect("an answer")).unwrap()
}

fn code(answer: ToClient) -> RefusalCode {
    match answer {
        ToClient::Refused(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

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
    let site = Site::new().await;
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    for _ in 0..50 {
        let mut stream = site.connect(&site.credentials("r2")).await.unwrap();
        assert_eq!(code(ask(&mut stream).await), RefusalCode::Identity);
    }
}

#[tokio::test]
async fn strangers_get_no_further_than_the_handshake() {
    let site = Site::new().await;
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    let foreign = certs::Authority::new("foreign", 1).unwrap();
    let stranger = site.issue(&foreign, "spiffe://demo/member/m1");
    // TLS 1.3: the client may learn only with its first read that it is refused.
    if let Ok(mut stream) = site.connect(&stranger).await {
        let _ = write_frame(&mut stream, &FromClient::Register { key_server: "ks".into() }.encode()).await;
        let error = timeout(LIMIT, read_frame(&mut stream, MAX_FRAME)).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("UnknownCA"), "{error}");
    }
    assert_eq!(site.keys.lock().unwrap().len(), 1);
    site.register_soon().await;
}

#[tokio::test]
async fn frames_of_a_wrong_size_or_content_are_refused_and_the_connection_ends() {
    let site = Site::new().await;
    let _key_server = site.serve("ks", Manner::Well).await;
    let _registrar = site.run();
    site.register_soon().await;
    use tokio::io::AsyncWriteExt;
    let oversized = [&[0, 1, 0, 0][..], &[7; 4_000]].concat();
    let wrong: [&[u8]; 4] = [&oversized, &[0xff; 8], &[0; 4], &[0, 0, 0, 3, 1, 9, 9]];
    for octets in wrong {
        let mut stream = site.member().await;
        stream.write_all(octets).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(code(answer(&mut stream).await), RefusalCode::Malformed, "{:?}", &octets[..4]);
        let end = timeout(LIMIT, read_frame(&mut stream, MAX_FRAME)).await.expect("closed");
        assert!(matches!(end, Ok(None)), "{end:?}");
    }
    // One that ends inside a frame just goes.
    let mut stream = site.member().await;
    stream.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    site.register_soon().await;
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
    for (from, to, named) in changes {
        let wrong = good.replacen(from, to, 1);
        assert_ne!(wrong, good, "{from}");
        fs::write(site.config(), wrong).unwrap();
        let error = Checked::load(&site.config()).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    fs::write(site.config(), good).unwrap();
    let key = site.folder.path().join("pki/r1.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Checked::load(&site.config()).unwrap_err().to_string();
    assert!(error.contains("r1.key") && error.contains("640"), "{error}");
}
