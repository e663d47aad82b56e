//! Time, octets and faults: a discrete-event simulation of one key server and its clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use client_ctl::core as client;
use keygraph::{Degree, Strategy};
use keyserver::core as server;
use keyserver::store::{MemoryStore, Store};
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::RequestId;
use protocol::{Beacon, GroupId, IndividualKey, MemberId, SigningKey, Suite};

use crate::dice::Dice;
use crate::record::Record;

/// Faults last until then; afterwards everything heals.
pub const FAULTS_END: Duration = Duration::from_secs(60);
/// Time to heal.
pub const END: Duration = Duration::from_secs(100);

const GROUPS: [&str; 2] = ["one", "two"];

enum Happening {
    Persisted { life: u64, write: Write },
    Request { client: usize, life: u64, id: RequestId, message: Vec<u8> },
    Reply { client: usize, life: u64, id: RequestId, message: Vec<u8> },
    RequestFailed { client: usize, life: u64, id: RequestId, refused: bool },
    Datagram { client: usize, octets: Vec<u8> },
    Register { client: usize, life: u64 },
    Registered { client: usize, life: u64, id: MemberId, registration: u64 },
    Fault,
    ServerStarts,
}

enum Write {
    Append(Vec<Vec<u8>>),
    Snapshot(Vec<u8>),
}

/// A client with its place in the network.
pub struct Client {
    /// Its core.
    pub core: client::Core,
    /// Groups that it wants to be in.
    pub wants: BTreeSet<String>,
    /// Groups from which it was evicted.
    pub evicted: BTreeSet<String>,
    life: u64,
    listens: BTreeSet<SocketAddr>,
    cut_off_until: Duration,
}

/// All of it.
pub struct World {
    /// The time.
    pub now: Duration,
    /// The reference model.
    pub record: Record,
    /// The clients.
    pub clients: Vec<Client>,
    server: Option<server::Core>,
    server_life: u64,
    store: MemoryStore,
    dice: Dice,
    queue: BTreeMap<(Duration, u64), Happening>,
    numbers: u64,
    sessions: BTreeMap<u64, (usize, u64, RequestId)>,
    ids: BTreeMap<MemberId, usize>,
    suite: Suite,
    strategy: Strategy,
    splicing: bool,
    batch: Duration,
    degree: u8,
    loss: u64,
    tickets: BTreeMap<u64, (String, usize)>,
}

/// A world from its seed, lived to its end.
pub fn live(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run();
    world
}

fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://sim/{name}")).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let strategy = if dice.chance(50) { Strategy::Chain } else { Strategy::ALL[dice.number(5)] };
        let suite = if dice.chance(30) { Suite::Aes128 } else { Suite::Aes256 };
        let splicing = dice.chance(30);
        let batch = if dice.chance(50) { Duration::ZERO } else { Duration::from_millis(700) };
        let (degree, loss) = (u8::try_from(2 + dice.number(4)).unwrap(), dice.roll() % 31);
        let people = 4 + dice.number(10);
        let mut world = Self {
            now: Duration::from_secs(1),
            record: Record::default(),
            clients: Vec::new(),
            server: None,
            server_life: 0,
            store: MemoryStore::default(),
            dice,
            queue: BTreeMap::new(),
            numbers: 0,
            sessions: BTreeMap::new(),
            ids: BTreeMap::new(),
            suite,
            strategy,
            splicing,
            batch,
            degree,
            loss,
            tickets: BTreeMap::new(),
        };
        world.start_server();
        for _ in 0..people {
            let wants = world.some_groups();
            let core = world.client_core(&wants);
            world.clients.push(Client {
                core,
                wants,
                evicted: BTreeSet::new(),
                life: 0,
                listens: BTreeSet::new(),
                cut_off_until: Duration::ZERO,
            });
        }
        world.later(1_000, Happening::Fault);
        world
    }

    fn some_groups(&mut self) -> BTreeSet<String> {
        let mut wants: BTreeSet<String> = GROUPS.iter().map(|name| (*name).to_owned()).collect();
        if self.dice.chance(50) {
            wants.remove(GROUPS[self.dice.number(2)]);
        }
        wants
    }

    fn client_core(&mut self, wants: &BTreeSet<String>) -> client::Core {
        let signing = vec![SigningKey::from_seed(&[5; 32]).unwrap().public()];
        let config = client::Config { groups: wants.iter().cloned().collect(), signing };
        client::Core::new(config, Box::new(self.dice.fork()))
    }

    fn start_server(&mut self) {
        let group = |id: u32, name: &str| server::GroupConfig {
            id: GroupId(id),
            name: name.into(),
            destination: ([239, 0, 0, u8::try_from(id).unwrap()], 7_000).into(),
            degree: Degree::new(self.degree).unwrap(),
            suite: self.suite,
            strategy: self.strategy,
            splicing: self.splicing,
            batch: self.batch,
            compaction: 3,
            repair: fec::RepairScheme::default(),
            allow: vec![IdentityPattern::parse("spiffe://sim/member/*").unwrap()],
            max_members: 100,
            refresh: Some(Duration::from_secs(17)),
            beacon: Duration::from_secs(1),
            beacon_max: Duration::from_secs(1),
            resync_wait: Duration::from_millis(500),
            send_delay: Duration::from_millis(200),
            keep_old: Duration::from_secs(3),
            keep_old_revoked: Duration::from_secs(1),
        };
        let config = server::Config {
            name: "ks".into(),
            registrars: vec![(identity("registrar/r"), vec![IdentityPattern::parse("spiffe://sim/member/*").unwrap()])],
            groups: vec![group(1, GROUPS[0]), group(2, GROUPS[1])],
            bits_per_second: 8_000_000,
            resyncs_per_second: 4_000,
            records_per_snapshot: keyserver::core::RECORDS_PER_SNAPSHOT,
            signing: SigningKey::from_seed(&[5; 32]).unwrap(),
        };
        let loaded = self.store.load().unwrap();
        let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
        let entropy = Box::new(self.dice.fork());
        self.server = Some(server::Core::start(config, entropy, snapshot, &loaded.records).expect("a start"));
        self.server_life += 1;
        self.record.count("server starts");
        self.reconcile();
        self.drain_server();
        self.server_input(server::Input::RegistrarUp { link: 1, identity: identity("registrar/r") });
    }

    /// What a killed key server had written and not told may be true or not; from here on it is what the new one says.
    /// What was told is true in any case: `record` holds no more than that, so nobody may be missing.
    fn reconcile(&mut self) {
        let Some(core) = self.server.as_mut() else { return };
        for (id, name) in (1..).map(GroupId).zip(GROUPS) {
            core.handle(
                self.now,
                server::Input::Admin { ticket: 0, command: server::Admin::Members { group: name.into() } },
            );
            core.handle(self.now, server::Input::Admin { ticket: 0, command: server::Admin::Status });
            let mut answers = Vec::new();
            let mut others = Vec::new();
            while let Some(output) = core.poll_output() {
                match output {
                    server::Output::AdminReply { result, .. } => answers.push(result.unwrap()),
                    other => others.push(other),
                }
            }
            let life = self.server_life;
            for output in others {
                if let server::Output::Begin(records) | server::Output::Persist(records) = output {
                    let records = records.iter().map(|record| record.to_vec()).collect();
                    self.numbers += 1;
                    let at = (self.now + Duration::from_millis(2), self.numbers);
                    self.queue.insert(at, Happening::Persisted { life, write: Write::Append(records) });
                }
            }
            let (members, epoch) = match (&answers[0], &answers[1]) {
                (server::AdminReply::Members(members), server::AdminReply::Status(status)) => {
                    let members: BTreeSet<MemberId> = members.iter().map(|(member, ..)| *member).collect();
                    (members, status.groups.iter().find(|group| group.id == id).unwrap().epoch)
                }
                other => panic!("{other:?}"),
            };
            let group = self.record.groups.entry(id).or_default();
            let told = group.rights.keys().last().copied().unwrap_or(0);
            if epoch < told {
                self.record.complaints.push(format!("group {id} fell back from epoch {told} to {epoch}"));
            } else if epoch == told && members != group.members {
                self.record
                    .complaints
                    .push(format!("group {id}: members are {members:?}, told were {:?}", group.members));
            }
            for missed in told + 1..=epoch {
                group.rights.insert(missed, members.clone());
            }
            group.members = members;
        }
    }

    fn later(&mut self, within_ms: usize, happening: Happening) {
        let delay = 1 + self.dice.number(within_ms.max(1));
        self.numbers += 1;
        let at = self.now + Duration::from_millis(u64::try_from(delay).unwrap());
        self.queue.insert((at, self.numbers), happening);
    }

    fn run(&mut self) {
        while self.now < END {
            let server = self.server.as_ref().and_then(server::Core::poll_timeout).map(|(at, _)| at);
            let clients = self.clients.iter().filter_map(|client| client.core.poll_timeout()).map(|(at, _)| at).min();
            let queued = self.queue.keys().next().map(|(at, _)| *at);
            let Some(next) = [server, clients, queued].into_iter().flatten().min() else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let happening = entry.remove();
                self.happen(happening);
            }
            if self.server.as_ref().and_then(server::Core::poll_timeout).is_some_and(|(at, _)| at <= self.now) {
                self.server_input(server::Input::Timeout);
            }
            for client in 0..self.clients.len() {
                if self.clients[client].core.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                    self.client_input(client, client::Input::Timeout);
                }
            }
        }
    }

    fn healthy(&self) -> bool {
        self.now >= FAULTS_END
    }

    fn cut_off(&self, client: usize) -> bool {
        self.clients[client].cut_off_until > self.now
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Persisted { life, write } if life == self.server_life && self.server.is_some() => {
                self.store_write(write);
                self.server_input(server::Input::Persisted(true));
            }
            Happening::Persisted { .. } => {}
            Happening::Request { client, life, id, message } => self.request(client, life, id, &message),
            Happening::Reply { client, life, id, message } if life == self.clients[client].life => {
                self.client_input(client, client::Input::Reply { id, message: &message });
            }
            Happening::RequestFailed { client, life, id, refused } if life == self.clients[client].life => {
                self.client_input(client, client::Input::RequestFailed { id, refused });
            }
            Happening::Reply { .. } | Happening::RequestFailed { .. } => {}
            Happening::Datagram { client, octets } => {
                if !self.cut_off(client) {
                    self.client_input(client, client::Input::Datagram(&octets));
                }
            }
            Happening::Register { client, life } => self.register(client, life),
            Happening::Registered { client, life, id, registration } if life == self.clients[client].life => {
                self.ids.insert(id, client);
                self.client_input(client, client::Input::Registered { client: id, registration });
            }
            Happening::Registered { .. } => {}
            Happening::Fault => {
                if !self.healthy() {
                    self.fault();
                    self.later(1_500, Happening::Fault);
                }
            }
            Happening::ServerStarts => self.start_server(),
        }
    }

    fn store_write(&mut self, write: Write) {
        match write {
            Write::Append(records) => {
                let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
                self.store.append(&records).unwrap();
            }
            Write::Snapshot(snapshot) => self.store.snapshot(&snapshot).unwrap(),
        }
    }

    /// Something happens to somebody.
    fn fault(&mut self) {
        let client = self.dice.number(self.clients.len());
        let group = GROUPS[self.dice.number(2)].to_owned();
        match self.dice.number(12) {
            0 | 1 => {
                self.clients[client].wants.insert(group.clone());
                self.client_input(client, client::Input::Join(group));
                self.record.count("joins");
            }
            2 | 3 => {
                self.clients[client].wants.remove(&group);
                self.client_input(client, client::Input::Leave(group));
                self.record.count("leaves");
            }
            4 => {
                let ticket = self.numbers;
                self.numbers += 1;
                let name = format!("member/c{client}");
                self.tickets.insert(ticket, (group.clone(), client));
                let command = server::Admin::Evict { group, identity: identity(&name) };
                self.server_input(server::Input::Admin { ticket, command });
            }
            5 => self.server_input(server::Input::Admin { ticket: 0, command: server::Admin::Refresh { group } }),
            6 | 7 => {
                let span = self.dice.number(8_000);
                self.clients[client].cut_off_until = self.now + Duration::from_millis(u64::try_from(span).unwrap());
                self.record.count("cut off");
            }
            8 => {
                // The client dies without a word and comes back knowing nothing.
                let wants = self.clients[client].wants.clone();
                let core = self.client_core(&wants);
                let who = &mut self.clients[client];
                who.core = core;
                who.life += 1;
                who.listens.clear();
                self.record.count("client crashes");
                self.client_input(client, client::Input::Timeout);
            }
            9 if self.server.is_some() => self.kill_server(),
            _ => {}
        }
    }

    fn kill_server(&mut self) {
        self.server = None;
        self.sessions.clear();
        self.record.count("server crashes");
        // What was being written is durable or it is not.
        let keys: Vec<(Duration, u64)> = (self.queue.iter())
            .filter(|(_, happening)| matches!(happening, Happening::Persisted { .. }))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if let Some(Happening::Persisted { write, .. }) = self.queue.remove(&key)
                && self.dice.chance(50)
            {
                self.store_write(write);
            }
        }
        self.later(3_000, Happening::ServerStarts);
    }

    fn request(&mut self, client: usize, life: u64, id: RequestId, message: &[u8]) {
        let lost = self.cut_off(client) || (!self.healthy() && self.dice.chance(10));
        let (Some(core), false) = (self.server.as_ref(), lost) else {
            return self.later(2_000, Happening::RequestFailed { client, life, id, refused: false });
        };
        let known = self.clients[client]
            .core
            .registration()
            .filter(|(who, number)| core.individual_key(*who, *number).is_some());
        let Some((who, registration)) = known else {
            return self.later(50, Happening::RequestFailed { client, life, id, refused: true });
        };
        self.numbers += 1;
        let session = self.numbers;
        self.sessions.insert(session, (client, life, id));
        self.server_input(server::Input::Request { session, client: who, registration, message });
    }

    /// The registrar's part, by hand: fetch a number, hand over a key.
    fn register(&mut self, client: usize, life: u64) {
        if self.server.is_none() || self.cut_off(client) || life != self.clients[client].life {
            return self.later(1_000, Happening::Register { client, life });
        }
        let tag = u32::try_from(client).unwrap();
        let frame = FromRegistrar::FetchNumber { tag, identity: identity(&format!("member/c{client}")) }.encode();
        self.server_input(server::Input::FromRegistrar { link: 1, frame: &frame });
    }

    fn on_registrar(&mut self, frame: &[u8]) {
        match ToRegistrar::decode(frame).unwrap() {
            ToRegistrar::Number { tag, client, registration } => {
                let mut key = [0; 32];
                protocol::Entropy::fill(&mut self.dice, &mut key);
                let key = IndividualKey::new(key);
                self.ids.insert(client, usize::try_from(tag).unwrap());
                let frame = FromRegistrar::HandOver {
                    tag: tag << 16 | u32::try_from(registration).unwrap(),
                    client,
                    registration,
                    key,
                };
                self.server_input(server::Input::FromRegistrar { link: 1, frame: &frame.encode() });
            }
            ToRegistrar::Durable { tag } => {
                let (client, registration) = (usize::try_from(tag >> 16).unwrap(), u64::from(tag & 0xffff));
                let id = *self.ids.iter().find(|(_, at)| **at == client).unwrap().0;
                let life = self.clients[client].life;
                self.later(20, Happening::Registered { client, life, id, registration });
            }
            ToRegistrar::Refused { refusal, .. } => {
                self.record.complaints.push(format!("registration: {}", refusal.text))
            }
            ToRegistrar::ClientList { .. } | ToRegistrar::ClientAdded(_) => {}
        }
    }

    fn server_input(&mut self, input: server::Input<'_>) {
        if let Some(core) = self.server.as_mut() {
            core.handle(self.now, input);
            self.drain_server();
        }
    }

    fn drain_server(&mut self) {
        let life = self.server_life;
        while let Some(output) = self.server.as_mut().and_then(server::Core::poll_output) {
            match output {
                server::Output::Begin(records) | server::Output::Persist(records) => {
                    let records = records.iter().map(|record| record.to_vec()).collect();
                    self.later(5, Happening::Persisted { life, write: Write::Append(records) });
                }
                server::Output::Snapshot(snapshot) => {
                    self.later(5, Happening::Persisted { life, write: Write::Snapshot(snapshot.to_vec()) });
                }
                server::Output::ToRegistrar { frame, .. } => self.on_registrar(&frame),
                server::Output::Reply { session, message } => {
                    let Some((client, life, id)) = self.sessions.remove(&session) else { continue };
                    if self.cut_off(client) || (!self.healthy() && self.dice.chance(10)) {
                        self.record.count("replies lost");
                        self.later(2_000, Happening::RequestFailed { client, life, id, refused: false });
                    } else {
                        self.later(50, Happening::Reply { client, life, id, message: message.to_vec() });
                    }
                }
                server::Output::Datagram { destination, octets } => self.multicast(destination, &octets),
                server::Output::AdminReply { ticket, result } => {
                    if let (Some((group, client)), Ok(_)) = (self.tickets.remove(&ticket), result) {
                        self.clients[client].evicted.insert(group);
                        self.record.count("evictions");
                    }
                }
                server::Output::Event(event) => self.note(event),
                server::Output::Refuse { .. } | server::Output::CloseRegistrar { .. } | server::Output::Halt => {
                    self.record.complaints.push("the key server refused something that was right".into());
                }
            }
        }
    }

    fn note(&mut self, event: server::Event) {
        match event {
            server::Event::Epoch(epoch) => {
                let group = self.record.groups.entry(epoch.group).or_default();
                if group.rights.keys().last().is_some_and(|last| epoch.epoch <= *last) {
                    self.record.complaints.push(format!("epoch {} of group {} came again", epoch.epoch, epoch.group));
                }
                if group.terms.values().last().is_some_and(|last| epoch.term < *last) {
                    self.record.complaints.push(format!("term {} after a higher one", epoch.term));
                }
                group.terms.insert(epoch.epoch, epoch.term);
                group.epoch(&epoch.plan);
                self.record.count("epochs");
            }
            server::Event::Given { group, client, keys, earlier } => {
                let group = self.record.groups.entry(group).or_default();
                group.given.extend(keys.into_iter().map(|key| (client, key)));
                group.given_data.extend(earlier.into_iter().map(|epoch| (client, epoch)));
            }
            server::Event::Misbehaved { peer, how } => self.record.complaints.push(format!("{peer}: {how}")),
            _ => {}
        }
    }

    fn multicast(&mut self, destination: SocketAddr, octets: &[u8]) {
        if let Ok(beacon) = Beacon::decode(octets) {
            let group = self.record.groups.entry(beacon.context.group).or_default();
            group.commitments.entry(beacon.context.epoch).or_default().insert(beacon.commitment);
        }
        for client in 0..self.clients.len() {
            if !self.clients[client].listens.contains(&destination) {
                continue;
            }
            let faults = !self.healthy();
            if faults && self.dice.chance(self.loss) {
                self.record.count("datagrams lost");
                continue;
            }
            let copies = if faults && self.dice.chance(5) { 2 } else { 1 };
            for _ in 0..copies {
                let spread = if faults && self.dice.chance(10) { 700 } else { 20 };
                self.later(spread, Happening::Datagram { client, octets: octets.to_vec() });
            }
        }
    }

    fn client_input(&mut self, client: usize, input: client::Input<'_>) {
        let now = self.now;
        self.clients[client].core.handle(now, input);
        while let Some(output) = self.clients[client].core.poll_output() {
            let life = self.clients[client].life;
            match output {
                client::Output::Register => self.later(50, Happening::Register { client, life }),
                client::Output::Request { id, message } => {
                    self.later(30, Happening::Request { client, life, id, message });
                }
                client::Output::Subscribe(destination) => drop(self.clients[client].listens.insert(destination)),
                client::Output::Unsubscribe(destination) => drop(self.clients[client].listens.remove(&destination)),
                client::Output::Feed { snapshot, .. } => {
                    let (Some(group), Some(id)) = (snapshot.group_id, self.clients[client].core.registration()) else {
                        continue;
                    };
                    let record = self.record.groups.entry(group).or_default();
                    for key in &snapshot.keys {
                        record.held.entry(key.epoch).or_default().insert(id.0, *key.key.expose());
                    }
                }
                client::Output::Event(client::Event::Resynced { .. }) => self.record.count("re-synchronizations"),
                client::Output::Event(client::Event::Installed { how: client::How::Multicast, .. }) => {
                    self.record.count("multicast rekeys");
                }
                client::Output::Event(client::Event::Conflict { what, .. }) => {
                    self.record.complaints.push(format!("a conflict in {what}"));
                }
                // A reply that a newer unit or beacon overtook is refused, and asked for again.
                client::Output::Event(client::Event::BadReply { why, .. }) if why.contains("was seen signed") => {
                    self.record.count("replies overtaken");
                }
                client::Output::Event(client::Event::BadReply { why, .. }) => {
                    self.record.complaints.push(format!("a bad reply: {why}"));
                }
                client::Output::Event(_) | client::Output::Stopped => {}
            }
        }
    }

    /// The key server's position of a group: term and epoch.
    pub fn position(&self, group: GroupId) -> (u64, u64) {
        let record = &self.record.groups[&group];
        let (epoch, term) = record.terms.iter().last().unwrap();
        (*term, *epoch)
    }

    /// The groups by number and name.
    pub fn groups() -> impl Iterator<Item = (GroupId, &'static str)> {
        (1..).map(GroupId).zip(GROUPS)
    }
}
