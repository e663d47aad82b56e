//! Time, octets and faults: a discrete-event simulation of one key server and its clients.
//!
//! Chance comes in several streams, each from the seed: what happens to everybody, what becomes of each member's datagrams and
//! requests, and what the key server draws. So two worlds of the same seed differ only in what follows from the difference of
//! their stories.

mod clients;
mod flood;
mod network;
mod published;
mod serving;
mod story;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use client_ctl::core as client;
use keygraph::Strategy;
use keyserver::core as server;
use keyserver::store::MemoryStore;
use protocol::identity::Identity;
use protocol::request::RequestId;
use protocol::{Beacon, GroupId, MemberId, SigningKey, Suite};

use crate::dice::Dice;
use crate::record::Record;
use flood::{Flood, Genuine};
use published::Ensemble;

pub use clients::Client;
pub use flood::Forger;
pub use network::Network;
pub use story::{Roll, Story, Who};

const GROUPS: [&str; 2] = ["one", "two"];

/// Seed of the key that signs in the beginning.
const FIRST_KEY: u8 = 5;

enum Happening {
    Persisted { life: u64, write: Write },
    Request { client: usize, life: u64, id: RequestId, message: Vec<u8> },
    Reply { client: usize, life: u64, id: RequestId, message: Vec<u8> },
    RequestFailed { client: usize, life: u64, id: RequestId, refused: bool },
    Register { client: usize, life: u64 },
    Registered { client: usize, life: u64, id: MemberId, registration: u64 },
    Published { life: u64, publication: server::Publication },
    Now { client: usize, life: u64, group: GroupId },
    Look { client: usize, life: u64, id: u64, group: GroupId, names: Vec<String> },
    Looked { client: usize, life: u64, id: u64, group: GroupId, values: Option<Vec<Option<Vec<u8>>>> },
    Fault,
    Dead,
    Silence,
    ServerStarts,
    Leap { who: Who, by: Duration },
    Lie,
    Roll(Roll),
    Forged { genuine: Genuine, many: usize },
}

enum Write {
    Append(Vec<Vec<u8>>),
    Snapshot(Vec<u8>),
}

/// All of it.
pub struct World {
    /// The time.
    pub now: Duration,
    /// The reference model.
    pub record: Record,
    /// The clients.
    pub clients: Vec<Client>,
    story: Story,
    server: Option<server::Core>,
    server_life: u64,
    /// Seed of the key that the key server signs with.
    signs: u8,
    /// The site certificate that it has for others: when it begins, in seconds, and the seeds of the keys that it names.
    issued: Option<(u64, Vec<u8>)>,
    /// How far the key server's clock is ahead.
    server_ahead: Duration,
    store: MemoryStore,
    /// What happens to everybody.
    fate: Dice,
    /// What the key server and new clients draw.
    dice: Dice,
    /// When clocks go back.
    clocks: Dice,
    unsteady: bool,
    queue: BTreeMap<(Duration, u64), Happening>,
    numbers: u64,
    sessions: BTreeMap<u64, (usize, u64, RequestId)>,
    ids: BTreeMap<MemberId, usize>,
    suite: Suite,
    strategy: Strategy,
    splicing: bool,
    batch: Duration,
    degree: u8,
    tickets: BTreeMap<u64, (String, usize)>,
    flood: Option<Flood>,
    ensemble: Ensemble,
}

/// A world from its story, lived to its end.
pub fn live(story: Story) -> World {
    let mut world = World::new(story);
    world.run();
    world.count_losses();
    world
}

fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://sim/{name}")).unwrap()
}

fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

/// From 1 ms to `within_ms`.
fn delay(dice: &mut Dice, within_ms: usize) -> Duration {
    Duration::from_millis(1 + u64::try_from(dice.number(within_ms)).unwrap())
}

impl World {
    fn new(story: Story) -> Self {
        let mut dice = Dice::new(story.seed);
        let strategy = if dice.chance(50) { Strategy::Chain } else { Strategy::ALL[dice.number(5)] };
        let suite = if dice.chance(30) { Suite::Aes128 } else { Suite::Aes256 };
        let splicing = dice.chance(30);
        let batch = if dice.chance(50) { Duration::ZERO } else { Duration::from_millis(700) };
        let degree = u8::try_from(2 + dice.number(4)).unwrap();
        let people = 4 + dice.number(10);
        let unsteady = dice.chance(30) && story.disasters;
        let (fate, clocks, forging) = (dice.fork(), dice.fork(), dice.fork());
        let mut world = Self {
            now: Duration::from_secs(1),
            record: Record::default(),
            clients: Vec::new(),
            flood: story.forger.map(|(who, many)| Flood::new(who, many, forging)),
            story,
            server: None,
            server_life: 0,
            signs: FIRST_KEY,
            issued: None,
            server_ahead: Duration::ZERO,
            store: MemoryStore::default(),
            fate,
            dice,
            clocks,
            unsteady,
            queue: BTreeMap::new(),
            numbers: 0,
            sessions: BTreeMap::new(),
            ids: BTreeMap::new(),
            suite,
            strategy,
            splicing,
            batch,
            degree,
            tickets: BTreeMap::new(),
            ensemble: Ensemble::default(),
        };
        if let Some(at) = world.story.dead_from {
            world.at(at, Happening::Dead);
            world.at(at.saturating_sub(Duration::from_secs(20)), Happening::Silence);
        }
        world.start_server();
        (0..world.story.people.unwrap_or(people)).for_each(|_| world.add_client());
        world.at(world.now + Duration::from_secs(1), Happening::Fault);
        if world.story.liar {
            world.at(world.now, Happening::Lie);
        }
        for (at, roll) in world.story.rolls.clone() {
            world.at(at, Happening::Roll(roll));
        }
        for (at, who, by) in world.story.leaps.clone() {
            world.at(at, Happening::Leap { who, by });
        }
        world
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        let number = self.number();
        self.queue.insert((at, number), happening);
    }

    /// Between this client and the key server.
    fn later(&mut self, client: usize, within_ms: usize, happening: Happening) {
        let delay = delay(&mut self.clients[client].dice, within_ms);
        self.at(self.now + delay, happening);
    }

    /// At the key server.
    fn server_later(&mut self, within_ms: usize, happening: Happening) {
        let delay = delay(&mut self.dice, within_ms);
        self.at(self.now + delay, happening);
    }

    fn run(&mut self) {
        while self.now < self.story.end {
            let clients = self.clients.iter().flat_map(|client| {
                let timer = client.core.poll_timeout().map(|(at, _)| at.saturating_sub(client.ahead));
                client.links.iter().filter_map(fec::Link::next).chain(timer)
            });
            let queued = self.queue.keys().next().map(|(at, _)| *at);
            let Some(next) = clients.chain(queued).chain(self.server_timer()).min() else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let happening = entry.remove();
                self.happen(happening);
            }
            if self.server_timer().is_some_and(|at| at <= self.now) {
                self.server_input(server::Input::Timeout);
            }
            for client in 0..self.clients.len() {
                self.deliver(client);
                let Client { core, ahead, .. } = &self.clients[client];
                if core.poll_timeout().is_some_and(|(at, _)| at <= self.now + *ahead) {
                    self.client_input(client, client::Input::Timeout);
                }
            }
        }
    }

    fn server_timer(&self) -> Option<Duration> {
        self.server.as_ref()?.poll_timeout().map(|(at, _)| at.saturating_sub(self.server_ahead))
    }

    fn healthy(&self) -> bool {
        self.now >= self.story.faults_end
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
            Happening::Register { client, life } => self.register(client, life),
            Happening::Registered { client, life, id, registration } if life == self.clients[client].life => {
                self.ids.insert(id, client);
                self.client_input(client, client::Input::Registered { client: id, registration });
            }
            Happening::Registered { .. } => {}
            Happening::Published { life, publication } if life == self.server_life => self.stand(publication),
            Happening::Published { .. } => {}
            Happening::Now { client, life, group } => self.show(client, life, group),
            Happening::Look { client, life, id, group, names } => self.look(client, life, (id, group), &names),
            Happening::Looked { client, life, id, group, values } if life == self.clients[client].life => {
                let input = match &values {
                    Some(values) => client::Input::Read { id, group, values },
                    None => client::Input::ReadFailed { id, group },
                };
                self.client_input(client, input);
            }
            Happening::Looked { .. } => {}
            Happening::Dead => self.kill_server(),
            Happening::Silence => {
                let until = self.now + Duration::from_secs(30);
                let half = self.clients.iter_mut().step_by(2).filter(|_| self.story.cut_off_half);
                half.for_each(|client| client.cut_off_until = until);
            }
            Happening::Fault => self.fault(),
            Happening::Leap { who, by } => self.leap(who, by),
            Happening::Lie => self.lie(),
            Happening::Roll(roll) => self.roll(roll),
            Happening::Forged { genuine, many } => self.forge(&genuine, many),
            Happening::ServerStarts => self.start_server(),
        }
    }

    fn multicast(&mut self, destination: SocketAddr, octets: &[u8]) {
        self.record.octets += u64::try_from(octets.len()).unwrap();
        if let Ok(beacon) = Beacon::decode(octets) {
            let group = self.record.groups.entry(beacon.context.group).or_default();
            group.commitments.entry(beacon.context.epoch).or_default().insert(beacon.commitment);
        }
        self.forger_hears(destination, octets);
        let (now, link) = (self.now, usize::from(self.healthy()));
        for client in self.clients.iter_mut().filter(|client| client.listens.contains(&destination)) {
            client.links[link].send(now, octets.to_vec());
        }
    }

    fn count_losses(&mut self) {
        for link in self.clients.iter().flat_map(|client| &client.links) {
            let counters = link.counters();
            let counts = [
                ("datagrams lost", counters.lost),
                ("datagrams doubled", counters.duplicated),
                ("datagrams held back", counters.held_back),
                ("datagrams spoilt", counters.corrupted),
            ];
            for (what, count) in counts {
                *self.record.counts.entry(what).or_default() += count;
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
