//! The whole daemon on loopback, against a registrar and a key server made by hand.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use keygraph::Change;
use net::admission::{Admission, Limits};
use net::frame::{read_frame, write_frame};
use net::multicast::{SendOptions, Sender};
use net::noise::{self, StaticKey, sealed};
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::Identity;
use protocol::registration::{
    ALPN_CLIENT, ANSWER, FromClient, Grant, MAX_FRAME, Offer, Parties, Refusal, RefusalCode, ToClient, exporter_context,
};
use protocol::request::{Act, Denial, MAX_REQUEST, Operations, Outcome, Preamble, Reply, Request, RequestId};
use protocol::{Reason, Share};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixStream};

use super::*;
use crate::config::tests::{Files, REGISTRAR};
use crate::core::tests::{ME, Server};

/// The other side of everything.
struct World {
    files: Files,
    server: Mutex<Server>,
    static_key: StaticKey,
    individual_key: Mutex<Option<IndividualKey>>,
    requests: Mutex<Vec<Operations>>,
    registrar: Registrar,
}

/// How the registrar behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registrar {
    Right,
    /// Has no place for the first who comes, and says so in clear.
    Full,
    Refuses,
    /// Offers something of its own, and passes the answer to that.
    Swaps,
    /// Speaks for the key server without its static key.
    Forges,
    /// Alters the answer.
    Alters,
    /// Says that the key is the exported one, which it knows.
    Exports,
}

impl World {
    async fn start(registrar: Registrar) -> (Arc<Self>, String) {
        let static_key = StaticKey::generate().unwrap();
        let files = Files::new(*static_key.public());
        let (door, key_server) = (listen().await, listen().await);
        let text = files.text(&address(&key_server), &address(&door));
        // Another number than other tests on this host use, as it makes the port.
        let group = 1_000 + std::process::id() % 20_000;
        let world = Arc::new(Self {
            files,
            server: Mutex::new(Server::new(group, 4, 9)),
            static_key,
            individual_key: Mutex::default(),
            requests: Mutex::default(),
            registrar,
        });
        tokio::spawn(Arc::clone(&world).register(door));
        tokio::spawn(Arc::clone(&world).serve(key_server));
        (world, text)
    }

    async fn register(self: Arc<Self>, listener: TcpListener) {
        let folder = self.files.folder.path();
        let files = CredentialFiles {
            certificate: folder.join("registrar.pem"),
            key: folder.join("registrar.key"),
            roots: folder.join("ca.pem"),
            crls: vec![],
        };
        let config = net::tls::server_config(&Credentials::load(&files).unwrap(), ALPN_CLIENT).unwrap();
        let door = Admission::default();
        let mut due = tokio::time::Instant::now();
        if self.registrar == Registrar::Full {
            let (mut first, _) = listener.accept().await.unwrap();
            let full = ToClient::Refused(Refusal::new(RefusalCode::Busy, "full", 300));
            write_frame(&mut first, &full.encode()).await.unwrap();
            first.shutdown().await.unwrap();
            due = tokio::time::Instant::now() + Duration::from_millis(300);
        }
        loop {
            let (stream, _, ticket) = door.next(&listener).await;
            assert!(tokio::time::Instant::now() >= due, "it comes when it was told");
            let (mut stream, who) = net::tls::accept(stream, Arc::clone(&config), ticket).await.unwrap();
            let frame = read_frame(&mut stream, MAX_FRAME).await.unwrap().unwrap();
            let message = FromClient::decode(&frame).unwrap();
            if self.registrar == Registrar::Refuses {
                let refusal = ToClient::Refused(Refusal::new(RefusalCode::Identity, "not here", 0));
                write_frame(&mut stream, &refusal.encode()).await.unwrap();
                stream.shutdown().await.unwrap();
                continue;
            }
            let registrar = Identity::parse(REGISTRAR).unwrap();
            let parties = Parties { client: who, registrar, key_server: message.key_server().to_owned() };
            let (key, last) = if message.offers().is_empty() || self.registrar == Registrar::Exports {
                let number = ToClient::Number { client: ME, registration: 1 };
                write_frame(&mut stream, &number.encode()).await.unwrap();
                let context = exporter_context(&parties.client, &parties.registrar, &parties.key_server, ME, 1);
                (net::tls::individual_key_from(stream.get_ref().1, &context).unwrap(), ToClient::Registered)
            } else {
                let grant = Grant { client: ME, registration: 1, share: Share::new([7; 32]) };
                let answer = self.answer_offers(&message, &parties, &grant);
                (grant.individual_key(&parties), ToClient::RegisteredSealed(answer))
            };
            *self.individual_key.lock().unwrap() = Some(key);
            write_frame(&mut stream, &last.encode()).await.unwrap();
        }
    }

    /// The key server's answer, as far as the registrar lets it pass.
    fn answer_offers(&self, message: &FromClient, parties: &Parties, grant: &Grant) -> Box<[u8; ANSWER]> {
        let (prologue, grant) = (parties.prologue(), grant.encode());
        let answer = |key: &StaticKey, offers: &[Offer]| sealed::answer([key], &prologue, offers, &grant).unwrap();
        let own = |key: &StaticKey| sealed::offer(&[*key.public()], &prologue).unwrap().1;
        let mut last = match self.registrar {
            Registrar::Swaps => answer(&self.static_key, &own(&self.static_key)),
            Registrar::Forges => {
                let key = StaticKey::generate().unwrap();
                answer(&key, &own(&key))
            }
            _ => answer(&self.static_key, message.offers()),
        };
        last[40] ^= u8::from(self.registrar == Registrar::Alters);
        Box::new(last)
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let preamble = noise::read_preamble(&mut stream).await.unwrap();
            let Preamble { key_server, client, registration } = Preamble::decode(&preamble).unwrap();
            assert_eq!((key_server.as_str(), client, registration), ("ks", ME, 1));
            let key = self.individual_key.lock().unwrap().clone().unwrap();
            let mut stream = noise::accept(stream, &preamble, &self.static_key, key.expose()).await.unwrap();
            let message = stream.receive(MAX_REQUEST).await.unwrap();
            let request = Request::decode(&message).unwrap();
            let reply = self.answer(&request);
            stream.send(&reply.encode()).await.unwrap();
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let mut server = self.server.lock().unwrap();
        let outcome = match &request.operations {
            Operations::Changes(changes) if changes[0].0 == Act::Join => {
                server.change(Reason::Join, &[Change::Join(ME)]);
                server.granted()
            }
            Operations::Changes(_) => Outcome::Left { epoch: server.context.epoch + 1 },
            Operations::Resyncs(_) => server.granted(),
            Operations::Reports(_) | Operations::Witnesses(_) | Operations::Certificate(_) => Outcome::Noted,
            Operations::Subscriptions(_) => Outcome::Subscribed,
        };
        self.requests.lock().unwrap().push(request.operations.clone());
        Reply { id: request.id, outcomes: vec![outcome] }
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().unwrap().to_string()
}

async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("in time")
}

async fn watch(socket: &Path) -> BufReader<UnixStream> {
    let mut stream = in_time(async {
        loop {
            if let Ok(stream) = UnixStream::connect(socket).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // The group is there as soon as the core has spoken; try until then.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(b"GET /v1/groups/g/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    BufReader::new(stream)
}

/// Reads until the newest key is of `epoch`: its secret.
async fn key_of(reader: &mut BufReader<UnixStream>, epoch: u64) -> String {
    in_time(async {
        loop {
            let mut text = String::new();
            assert_ne!(reader.read_line(&mut text).await.unwrap(), 0, "the stream has ended before epoch {epoch}");
            if let Ok(Value::Object(line)) = serde_json::from_str(text.trim())
                && let Some(newest) = line["keys"].as_array().and_then(|keys| keys.last())
                && newest["epoch"] == epoch
            {
                return newest["secret"].as_str().unwrap().to_owned();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_daemon_lives_its_life() {
    let (world, text) = World::start(Registrar::Full).await;
    let settings = world.files.load(&text).unwrap();
    let (socket, shutdown) = (settings.socket.clone(), Shutdown::new());
    let daemon = tokio::spawn(run(settings, shutdown.clone()));
    let mut reader = watch(&socket).await;
    let secret = |world: &World| hex::encode(world.server.lock().unwrap().data_key().expose());
    assert_eq!(key_of(&mut reader, 2).await, secret(&world), "joined");

    let destination = world.server.lock().unwrap().membership().destination;
    let options = SendOptions { interface: "lo".parse().unwrap(), ..SendOptions::default() };
    let sender = Sender::open(destination, &options).unwrap();
    // The socket is opened by a task of its own.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let units = world.server.lock().unwrap().refresh();
    for unit in &units {
        sender.send(unit).await.unwrap();
    }
    assert_eq!(key_of(&mut reader, 3).await, secret(&world), "by multicast");

    let beacon = {
        let mut server = world.server.lock().unwrap();
        server.refresh();
        server.beacon()
    };
    sender.send(&beacon).await.unwrap();
    assert_eq!(key_of(&mut reader, 4).await, secret(&world), "by re-synchronization");

    shutdown.trigger();
    in_time(daemon).await.unwrap().unwrap();
    assert!(!socket.exists());
    let requests = world.requests.lock().unwrap();
    assert!(matches!(&requests[..], [
        Operations::Changes(_),
        Operations::Resyncs(_),
        Operations::Changes(leaves)
    ] if leaves[..] == [(Act::Leave, "g".to_owned())]));
}

/// Some refusals make a client register anew, which costs its groups a rekey: a crowd must not be taken for refusals.
#[tokio::test]
async fn a_full_door_is_no_refusal() {
    let static_key = StaticKey::generate().unwrap();
    let (files, listener) = (Files::new(*static_key.public()), listen().await);
    let settings = files.load(&files.text(&address(&listener), "127.0.0.1:1")).unwrap();
    let door = Admission::new(Limits { per_source: 1, ..Limits::default() });
    let key = IndividualKey::new([4; 32]);
    let ask = || in_time(request(&settings, TcpStream::connect::<String>, (ME, 1), &key, b"request"));
    let refuse = async {
        let (mut stream, _, _ticket) = door.next(&listener).await;
        let preamble = noise::read_preamble(&mut stream).await.unwrap();
        noise::refuse(stream, &preamble, &static_key).await
    };
    let (failed, _) = tokio::join!(ask(), refuse);
    assert!(failed.unwrap_err().refused);
    let held = door.enter([127, 0, 0, 1].into()).unwrap();
    for _ in 0..50 {
        tokio::select! {
            failed = ask() => assert!(!failed.unwrap_err().refused),
            _ = door.next(&listener) => panic!("the door is full"),
        }
    }
    drop(held);
}

/// A key server that has no place has the last word on when to come again, whatever others say that stand by for it; and whoever says
/// so in its place keeps a client away for a while, and does no more to it.
#[tokio::test]
async fn a_key_server_without_a_place_says_when_it_has_one() {
    let static_key = StaticKey::generate().unwrap();
    let (files, full, standby) = (Files::new(*static_key.public()), listen().await, listen().await);
    let (key, id) = (IndividualKey::new([4; 32]), RequestId([3; 16]));
    let text = files.text(&address(&full), "127.0.0.1:1");
    let alone = files.load(&text).unwrap();
    let both = files.load(&format!("standby_addresses = [\"{}\"]\n{text}", address(&standby))).unwrap();
    let message = Request { id, operations: Operations::Reports(Vec::new()) }.encode();
    let say = async |settings: &Settings, wait: u64| {
        let answer = async {
            let (mut stream, _) = full.accept().await.unwrap();
            stream.write_all(&noise::notice(Duration::from_millis(wait))).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let stands_by = async {
            let (mut stream, _) = standby.accept().await.unwrap();
            let preamble = noise::read_preamble(&mut stream).await.unwrap();
            let mut stream = noise::accept(stream, &preamble, &static_key, key.expose()).await.unwrap();
            stream.receive(1_000).await.unwrap();
            let reply = Reply { id, outcomes: vec![Outcome::Denied(Denial::Standby)] };
            stream.send(&reply.encode()).await.unwrap();
            std::future::pending::<()>().await;
        };
        let asked = request(settings, TcpStream::connect::<String>, (ME, 1), &key, &message);
        let asked = async { tokio::join!(in_time(asked), answer).0 };
        let failed = tokio::select! {
            asked = asked => asked.unwrap_err(),
            () = stands_by => panic!("it has no end"),
        };
        (failed.refused, failed.retry_after.map(|after| after.as_millis()))
    };
    for settings in [&alone, &both] {
        assert_eq!(say(settings, 700).await, (false, Some(700)));
        assert_eq!(say(settings, 0).await, (false, Some(50)));
        assert_eq!(say(settings, 1 << 40).await, (false, Some(60_000)));
    }
}

/// Whoever can answer first may keep a client away for a while, and do no more to it.
#[tokio::test]
async fn what_a_registrar_says_in_clear_is_a_hint() {
    let listener = listen().await;
    let files = Files::new(*StaticKey::generate().unwrap().public());
    let settings = files.load(&files.text("127.0.0.1:1", &address(&listener))).unwrap();
    let say = async |refusal: Refusal| {
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            write_frame(&mut stream, &ToClient::Refused(refusal).encode()).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let (failed, _stream) = tokio::join!(in_time(register(&settings)), answer);
        failed.unwrap_err()
    };
    let later =
        |ms| RegistrationFailed { retry_after: Some(Duration::from_millis(ms)), is_final: false, in_line: true };
    assert_eq!(say(Refusal::new(RefusalCode::Busy, "full", 700)).await, later(700));
    assert_eq!(say(Refusal::new(RefusalCode::Busy, "full", u32::MAX)).await, later(60_000));
    assert_eq!(say(Refusal::new(RefusalCode::Busy, "full", 0)).await, later(50));
    let nothing = RegistrationFailed { retry_after: None, is_final: false, in_line: false };
    for code in [RefusalCode::Identity, RefusalCode::KeyServer, RefusalCode::Credential] {
        assert_eq!(say(Refusal::new(code, "never", 0)).await, nothing);
    }
}

#[tokio::test]
async fn a_client_that_nobody_registers_ends() {
    let (world, text) = World::start(Registrar::Refuses).await;
    let settings = world.files.load(&text).unwrap();
    let socket = settings.socket.clone();
    let error = in_time(run(settings, Shutdown::new())).await.unwrap_err();
    assert!(matches!(error, RunError::Refused), "{error}");
    assert_eq!(Exit::from(&error).code(), 3);
    assert!(!socket.exists());
}

/// A registrar that does more than to pass on is found out, and named, before the client uses any key.
#[tokio::test]
async fn a_registrar_that_alters_what_is_sealed_registers_nobody() {
    let table = [
        (Registrar::Right, None),
        (Registrar::Swaps, Some("the answer is not from the key server")),
        (Registrar::Forges, Some("the answer is not from the key server")),
        (Registrar::Alters, Some("the answer is not from the key server")),
        (Registrar::Exports, Some("out of turn")),
    ];
    for (registrar, named) in table {
        let (world, text) = World::start(registrar).await;
        let settings = world.files.load(&text).unwrap();
        let (address, identity) = settings.registrars[0].clone();
        let result = in_time(register::attempt(&settings, &address, &identity)).await;
        match (result, named) {
            (Ok(registered), None) => assert_eq!(Some(registered.key), *world.individual_key.lock().unwrap()),
            (Err(error), Some(named)) => assert!(error.to_string().contains(named), "{registrar:?}: {error}"),
            (result, _) => panic!("{registrar:?}: {result:?}"),
        }
        let failed = in_time(register(&settings)).await.map(drop);
        assert_eq!(failed.is_err_and(|failed| !failed.is_final), named.is_some(), "it may be asked again");
    }
}

#[tokio::test]
async fn a_client_may_have_its_key_exported() {
    let (world, text) = World::start(Registrar::Exports).await;
    let text = text.replace("on_stop", "individual_key = \"exported\"\non_stop");
    let settings = world.files.load(&text).unwrap();
    let registered = in_time(register(&settings)).await.unwrap();
    assert_eq!(Some(registered.key), *world.individual_key.lock().unwrap());
}
