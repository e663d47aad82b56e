//! A registrar over real TLS on loopback, beside a key server that does as each test says.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::frame::{read_frame, write_frame};
use net::noise::{StaticKey, sealed};
use net::shutdown::Shutdown;
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::Identity;
use protocol::registration::{
    ALPN_CLIENT, ALPN_REGISTRAR, FromClient, FromRegistrar, Grant, MAX_FRAME, Offer, Parties, Refusal, RefusalCode,
    ToClient, ToRegistrar, exporter_context,
};
use protocol::{IndividualKey, MemberId, Share};
use registrar::RunError;
use registrar::config::Checked;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// Places in [`Site::counts`].
pub(crate) const REFUSED: usize = 1;
pub(crate) const UNPROVED: usize = 2;
pub(crate) const FAILED: usize = 3;

pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) listen: SocketAddr,
    pub(crate) key_server: SocketAddr,
    pub(crate) keys: Arc<Mutex<Vec<IndividualKey>>>,
}

/// How the key server behaves after the client list.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    Well,
    /// Waits so long before it says that a key is durable.
    Slow(Duration),
    /// Sends no message of the protocol.
    Nonsense,
}

impl Site {
    pub(crate) async fn new() -> Self {
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

    /// With its daemons, once a member can register.
    pub(crate) async fn up() -> (Self, impl Sized) {
        let site = Self::new().await;
        let daemons = (site.serve("ks", Manner::Well).await, site.run());
        site.register_soon().await;
        (site, daemons)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("r1.toml")
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "listen = \"{}\"\nkey_server_address = \"{}\"\nkey_server_identity = \"spiffe://demo/keyserver/ks\"\n\
             clients = [\"spiffe://demo/member/*\"]\nstatus_socket = \"r1.sock\"\n[tls]\ncertificate = \"pki/r1.pem\"\nkey = \"pki/r1.key\"\n\
             roots = \"pki/ca.pem\"\n",
            self.listen, self.key_server
        )
    }

    /// Each change, from what to what, makes a good configuration one that is refused, and what is wrong is named.
    pub(crate) fn names_what_is_wrong(&self, good: &str, changes: &[(&str, &str, &str)]) {
        for (from, to, named) in changes {
            let wrong = good.replacen(from, to, 1);
            assert_ne!(wrong, good, "{from}");
            fs::write(self.config(), wrong).unwrap();
            let error = Checked::load(&self.config()).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        fs::write(self.config(), good).unwrap();
        Checked::load(&self.config()).unwrap();
    }

    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        let file = |end: &str| self.folder.path().join("pki").join(format!("{name}.{end}"));
        let roots = self.folder.path().join("pki/ca.pem");
        Credentials::load(&CredentialFiles { certificate: file("pem"), key: file("key"), roots, crls: vec![] }).unwrap()
    }

    /// Credentials of an identity that the PKI has no files for, from `authority`.
    pub(crate) fn issue(&self, authority: &certs::Authority, identity: &str) -> Credentials {
        let leaf = authority.issue(&Identity::parse(identity).unwrap(), 1).unwrap();
        let pki = self.folder.path().join("pki");
        fs::write(pki.join("x.pem"), leaf.certificate).unwrap();
        let _ = fs::remove_file(pki.join("x.key"));
        let mut key = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(pki.join("x.key")).unwrap();
        key.write_all(leaf.key.as_bytes()).unwrap();
        self.credentials("x")
    }

    /// What the registrar says of itself.
    pub(crate) async fn status(&self) -> Value {
        let mut stream = UnixStream::connect(self.folder.path().join("r1.sock")).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Clients that were registered, refused, proved nothing, and failed, so far.
    pub(crate) async fn counts(&self) -> [u64; 4] {
        let status = self.status().await;
        ["registered", "refused", "unproved", "failed"].map(|of| status[of].as_u64().unwrap())
    }

    /// Waits until one more than `before` was counted there, at this place, and nothing else.
    pub(crate) async fn counts_one(&self, before: [u64; 4], place: usize) {
        let mut wanted = before;
        wanted[place] += 1;
        let since = Instant::now();
        while self.counts().await != wanted {
            assert!(since.elapsed() < LIMIT, "{:?}, {wanted:?} expected", self.counts().await);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The key server's static key.
    pub(crate) fn noise(&self) -> StaticKey {
        StaticKey::load(self.folder.path().join("pki/ks.noise")).unwrap()
    }

    pub(crate) fn run(&self) -> (Shutdown, JoinHandle<Result<(), RunError>>) {
        let (checked, shutdown) = (Checked::load(&self.config()).unwrap(), Shutdown::new());
        (shutdown.clone(), tokio::spawn(registrar::run(checked, shutdown)))
    }

    /// A key server with the certificate of `name`; it is gone when the handle is aborted.
    pub(crate) async fn serve(&self, name: &str, manner: Manner) -> JoinHandle<()> {
        let listener = TcpListener::bind(self.key_server).await.unwrap();
        let config = net::tls::server_config(&self.credentials(name), ALPN_REGISTRAR).unwrap();
        let keys = self.keys.clone();
        let noise = self.noise();
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
                        FromRegistrar::RegisterSealed { tag, identity, offers, .. } => {
                            assert_eq!(identity, parties().client);
                            let client = MemberId(7);
                            let grant = Grant { client, registration: 3, share: Share::new([5; 32]) };
                            let prologue = parties().prologue();
                            match sealed::answer([&noise], &prologue, &offers, &grant.encode()) {
                                Ok(answer) => {
                                    ToRegistrar::DurableSealed { tag, client, answer: Box::new(answer) }.encode()
                                }
                                Err(why) => {
                                    let refusal = Refusal::new(RefusalCode::Key, &why.to_string(), 0);
                                    ToRegistrar::Refused { tag, refusal }.encode()
                                }
                            }
                        }
                    };
                    if write_frame(&mut stream, &answer).await.is_err() {
                        break;
                    }
                }
            }
        })
    }

    pub(crate) async fn connect(&self, credentials: &Credentials) -> Result<TlsStream<TcpStream>, net::tls::TlsError> {
        let registrar = Identity::parse("spiffe://demo/registrar/r1").unwrap();
        let config = net::tls::client_config(credentials, registrar, ALPN_CLIENT).unwrap();
        net::tls::connect(self.listen, config, LIMIT).await
    }

    /// Connects as soon as the registrar listens.
    pub(crate) async fn member(&self) -> TlsStream<TcpStream> {
        let credentials = self.credentials("m1");
        for _ in 0..500 {
            match self.connect(&credentials).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("the registrar does not listen");
    }

    pub(crate) async fn register(&self) -> Result<IndividualKey, Refusal> {
        let mut stream = self.member().await;
        let context = match ask(&mut stream).await {
            ToClient::Number { client, registration } => {
                let Parties { client: who, registrar, key_server } = parties();
                exporter_context(&who, &registrar, &key_server, client, registration)
            }
            ToClient::Refused(refusal) => return Err(refusal),
            other => panic!("registered without a number: {other:?}"),
        };
        let key = net::tls::individual_key_from(stream.get_ref().1, &context).unwrap();
        match answer(&mut stream).await {
            ToClient::Registered => Ok(key),
            ToClient::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Registers as soon as the registrar has its key server.
    pub(crate) async fn register_soon(&self) -> IndividualKey {
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

/// Of the one client's registrations.
pub(crate) fn parties() -> Parties {
    let identity = |name: &str| Identity::parse(&format!("spiffe://demo/{name}")).unwrap();
    Parties { client: identity("member/m1"), registrar: identity("registrar/r1"), key_server: "ks".into() }
}

pub(crate) async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>) -> ToClient {
    ask_with(stream, vec![]).await
}

pub(crate) async fn ask_with(stream: &mut TlsStream<TcpStream>, offers: Vec<Offer>) -> ToClient {
    let register = FromClient::Register { key_server: "ks".into(), offers };
    write_frame(stream, &register.encode()).await.unwrap();
    answer(stream).await
}

pub(crate) async fn answer(stream: &mut TlsStream<TcpStream>) -> ToClient {
    let frame = timeout(LIMIT, read_frame(stream, MAX_FRAME)).await.expect("an answer in time").unwrap();
    ToClient::decode(&frame.expect("an answer")).unwrap()
}

pub(crate) fn code(answer: ToClient) -> RefusalCode {
    match answer {
        ToClient::Refused(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}
