//! A client in another language follows a live group: `tests/decoder`, written from docs/protocol.md alone, hears a key
//! server's multicast on the loopback interface, loses units, and must come to the key server's data keys and no others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this one lives in real time, on real sockets")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use keygraph::{Degree, Strategy};
use keyserver::core::{Access, Admin, Config, Core, GroupConfig, Input, Output};
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Act, Operations, Outcome, Reply, Request, RequestId};
use protocol::unit::{Unit, kind};
use protocol::{Authentication, Beacon, Entropy, GroupId, IndividualKey, MemberId, SigningKey, Suite};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use tests::dice::Dice;

const MEMBERS: u32 = 40;
const EPOCHS: u64 = 40;

struct Live {
    core: Core,
    begun: Instant,
    socket: Socket,
    destination: SocketAddr,
    dice: Dice,
    /// Units lost so far of each block: (epoch, message, block).
    lost: BTreeMap<(u64, u16, u16), BTreeSet<u8>>,
    sessions: u64,
    reply: Option<Vec<u8>>,
    number: Option<(MemberId, u64)>,
}

fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://live/{name}")).unwrap()
}

impl Live {
    fn start(suite: Suite, strategy: Strategy, degree: Degree) -> Self {
        // Whoever else tests on this machine has another port.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let destination = SocketAddr::from((Ipv4Addr::new(239, 77, 92, 1), port));
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        socket.set_multicast_loop_v4(true).unwrap();
        let allow = vec![IdentityPattern::parse("spiffe://live/member/*").unwrap()];
        let group = GroupConfig {
            degree,
            suite,
            strategy,
            splicing: true,
            compaction: 8,
            max_members: 1_000,
            beacon: Duration::from_millis(200),
            beacon_max: Duration::from_millis(200),
            resync_wait: Duration::from_millis(100),
            send_delay: Duration::ZERO,
            keep_old: Duration::from_secs(1),
            keep_old_revoked: Duration::ZERO,
            ..GroupConfig::plain(GroupId(7), "live", destination, Access::open(allow.clone()))
        };
        let config = Config {
            registrars: vec![(
                identity("registrar"),
                allow.into_iter().map(|of| (Authentication::Certificate, of)).collect(),
            )],
            groups: vec![group],
            bits_per_second: 80_000_000,
            ..Config::plain("ks", SigningKey::from_seed(&[5; 32]).unwrap())
        };
        let dice = Dice::new(7);
        let core = Core::start(config, Box::new(dice.clone()), None, &[]).unwrap();
        let (lost, begun) = (BTreeMap::new(), Instant::now());
        let mut live = Self { core, begun, socket, destination, dice, lost, sessions: 0, reply: None, number: None };
        live.drain();
        live.handle(Input::RegistrarUp { link: 1, identity: identity("registrar") });
        live
    }

    fn handle(&mut self, input: Input<'_>) {
        self.core.handle(self.begun.elapsed(), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(_) | Output::Snapshot(_) => {
                    self.core.handle(self.begun.elapsed(), Input::Persisted(true));
                }
                Output::ToRegistrar { frame, .. } => {
                    if let Ok(ToRegistrar::Number { client, registration, .. }) = ToRegistrar::decode(&frame) {
                        self.number = Some((client, registration));
                    }
                }
                Output::Reply { message, .. } => self.reply = Some(message.to_vec()),
                Output::Datagram { octets, .. } => self.send(&octets),
                Output::Halt => panic!("halted"),
                _ => {}
            }
        }
    }

    /// Loses a third of all units, but never so many of a block that it is lost for good.
    fn send(&mut self, datagram: &[u8]) {
        if let Ok(unit) = Unit::decode(datagram)
            && self.dice.chance(33)
        {
            let header = unit.header;
            let block = self.lost.entry((header.epoch.epoch, header.message, header.block)).or_default();
            let next = u8::try_from(block.len()).unwrap();
            if next < header.r {
                // Of a repeated unit all copies have the same index.
                block.insert(if header.s == 1 { next } else { unit.index });
                return;
            }
        }
        assert!(kind(datagram).is_ok());
        self.socket.send_to(datagram, &self.destination.into()).unwrap();
    }

    /// Real time passes.
    fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            self.handle(Input::Timeout);
        }
    }

    fn register(&mut self, name: &str) -> (MemberId, u64) {
        let frame =
            FromRegistrar::FetchNumber { tag: 1, kind: Authentication::Certificate, identity: identity(name) }.encode();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        let (client, registration) = self.number.take().unwrap();
        let key = IndividualKey::new([9; 32]);
        let frame =
            FromRegistrar::HandOver { tag: 2, client, registration, key, ends: NO_END, credential: vec![1; 33] }
                .encode();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        (client, registration)
    }

    fn ask(&mut self, (client, registration): (MemberId, u64), operations: Operations) -> Vec<u8> {
        self.sessions += 1;
        let mut id = [0; 16];
        self.dice.fill(&mut id);
        let message = Request { id: RequestId(id), operations }.encode();
        self.handle(Input::Request { session: self.sessions, client, registration, message: &message });
        self.reply.take().expect("an answer at once")
    }

    fn change(&mut self, who: (MemberId, u64), act: Act) -> Vec<u8> {
        self.ask(who, Operations::Changes(vec![(act, "live".into())]))
    }

    /// Epoch and SHA-256 of the data key, as the key server tells a member. A join of a member changes nothing, and each has
    /// its share of these.
    fn truth(&mut self, who: (MemberId, u64)) -> (u64, String) {
        let membership = loop {
            let reply = Reply::decode(&self.change(who, Act::Join)).unwrap();
            match reply.outcomes.into_iter().next() {
                Some(Outcome::Granted(membership)) => break membership,
                Some(Outcome::Later { after_ms }) => self.wait(Duration::from_millis(after_ms.into())),
                other => panic!("{other:?}"),
            }
        };
        let context = Beacon::decode(&membership.beacon).unwrap().context;
        let key = context.data(membership.path.root().unwrap());
        (context.epoch, hex::encode(digest(&SHA256, key.expose())))
    }
}

fn follow(suite: Suite, strategy: Strategy, degree: Degree) {
    let mut live = Live::start(suite, strategy, degree);
    let clients: Vec<_> = (0..MEMBERS).map(|number| live.register(&format!("member/m{number}"))).collect();
    let mut members: BTreeSet<usize> = (1..clients.len() / 2).collect();
    for number in &members {
        live.change(clients[*number], Act::Join);
    }
    let reply = live.change(clients[0], Act::Join);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/decoder");
    let python = std::env::var("KEYSTONE_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut child = Command::new(python)
        .args(["-B", "follow.py"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python");
    let key = hex::encode(SigningKey::from_seed(&[5; 32]).unwrap().public().octets());
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", json!({ "reply": hex::encode(reply), "key": key, "interface": "127.0.0.1" })).unwrap();
    let (tell, told) = mpsc::channel::<Value>();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in output.lines() {
            if tell.send(serde_json::from_str(&line.unwrap()).unwrap()).is_err() {
                return;
            }
        }
    });
    let ready = told.recv_timeout(Duration::from_secs(20)).expect("the decoder is ready");
    let mut truth = BTreeMap::from([live.truth(clients[0])]);
    assert_eq!(ready["ready"].as_u64(), truth.keys().next().copied());
    while truth.len() < usize::try_from(EPOCHS).unwrap() {
        let number = 1 + live.dice.number(clients.len() - 1);
        if !members.contains(&number) {
            let granted = Reply::decode(&live.change(clients[number], Act::Join)).unwrap();
            if matches!(granted.outcomes[0], Outcome::Granted(_)) {
                members.insert(number);
            }
        } else {
            members.remove(&number);
            if live.dice.chance(70) {
                live.change(clients[number], Act::Leave);
            } else {
                let identity = identity(&format!("member/m{number}"));
                let command = Admin::Evict { group: "live".into(), identity };
                live.handle(Input::Admin { ticket: 1, command });
            }
        }
        live.wait(Duration::from_millis(60));
        let asks = members.iter().nth(truth.len() % members.len()).unwrap();
        truth.extend([live.truth(clients[*asks])]);
    }
    live.wait(Duration::from_millis(300));
    drop(input);
    reader.join().unwrap();
    assert!(child.wait().unwrap().success());
    let heard: Vec<Value> = told.try_iter().collect();
    let keys: BTreeMap<u64, String> =
        heard.iter().map(|line| (line["epoch"].as_u64().unwrap(), line["key"].as_str().unwrap().to_owned())).collect();
    let repaired = heard.last().map_or(0, |line| line["repaired"].as_u64().unwrap());
    let lost: usize = live.lost.values().map(BTreeSet::len).sum();
    println!(
        "{suite}, {strategy}, degree {degree}: {} epochs, {lost} units lost, {repaired} blocks repaired",
        keys.len()
    );
    for (epoch, key) in truth.iter().skip(1) {
        assert_eq!(keys.get(epoch), Some(key), "epoch {epoch}");
    }
    assert!(lost > 20);
}

#[test]
#[ignore = "needs Python with tests/decoder/requirements.txt; tests/run brings it and runs this"]
fn a_client_in_another_language_follows_a_live_group() {
    let of = |degree| Degree::new(degree).unwrap();
    follow(Suite::Aes256, Strategy::Chain, of(2));
    follow(Suite::Aes128, Strategy::Key, of(4));
    follow(Suite::Aes256, Strategy::User, of(3));
    follow(Suite::Aes256, Strategy::Group, Degree::STAR);
}
