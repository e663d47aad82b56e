//! The clients, their requests, and their registration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use client_ctl::core as client;
use fec::Link;
use keyserver::core as server;
use protocol::credential::NO_END;
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Losses, Operations, Request, RequestId};
use protocol::{Authentication, GroupId, IndividualKey};

use super::network::Network;
use super::{FIRST_KEY, GROUPS, Happening, World, identity, signing_key};
use crate::dice::Dice;

/// A client with its place in the network.
pub struct Client {
    /// Its core.
    pub core: client::Core,
    /// Groups that it wants to be in.
    pub wants: BTreeSet<String>,
    /// Groups from which it was evicted.
    pub evicted: BTreeSet<String>,
    pub(super) life: u64,
    pub(super) listens: BTreeSet<SocketAddr>,
    /// Groups whose newest beacon it watches.
    pub(super) follows: BTreeSet<GroupId>,
    /// Seeds of the keys that its site certificate names.
    pub(super) trusts: Vec<u8>,
    /// When that begins, in seconds; `None` for one that asks for no newer one.
    pub(super) begins: Option<u64>,
    pub(super) cut_off_until: Duration,
    /// How far its clock is ahead.
    pub(super) ahead: Duration,
    /// Decides what happens between this client and the key server, so that nobody else's doings change it.
    pub(super) dice: Dice,
    /// What multicasts come by: until everything is healed, and then.
    pub(super) links: [Link; 2],
}

impl World {
    pub(super) fn add_client(&mut self) {
        let wants = self.some_groups();
        let core = self.client_core(&wants, &[FIRST_KEY]);
        let mut dice = self.dice.fork();
        let network = self.story.network.unwrap_or_else(|| Network::ALL[dice.number(Network::ALL.len())]);
        let links = [network, Network::Quiet].map(|network| network.link(&mut dice, self.story.faults_end));
        self.clients.push(Client {
            core,
            wants,
            evicted: BTreeSet::new(),
            life: 0,
            listens: BTreeSet::new(),
            follows: BTreeSet::new(),
            trusts: vec![FIRST_KEY],
            begins: None,
            cut_off_until: Duration::ZERO,
            ahead: Duration::ZERO,
            dice,
            links,
        });
    }

    fn client_core(&mut self, wants: &BTreeSet<String>, trusts: &[u8]) -> client::Core {
        let signing = trusts.iter().map(|seed| signing_key(*seed).public()).collect();
        let groups = wants.iter().cloned().collect();
        let others = if self.story.published { client::Carrier::Zookeeper } else { client::Carrier::Multicast };
        let carriers = client::Carriers { others, named: BTreeMap::new() };
        let config = client::Config { groups, signing, carriers };
        client::Core::new(config, Box::new(self.dice.fork()))
    }

    /// Client 0 says that it has lost everything of both groups, in bursts of 2^32 units, and soon says so again.
    pub(super) fn lie(&mut self) {
        let losses = Losses { expected: u32::MAX, lost: u32::MAX, bursts: 1, blocks: 1 };
        if let Some((client, registration)) = self.clients[0].core.registration() {
            let reports = GROUPS.iter().map(|group| ((*group).to_owned(), losses)).collect();
            let session = self.number();
            let request = Request { id: RequestId([7; 16]), operations: Operations::Reports(reports) };
            let message = &request.encode();
            self.server_input(server::Input::Request { session, client, registration, message });
            self.record.count("lies");
        }
        self.at(self.now + Duration::from_millis(100), Happening::Lie);
    }

    /// The client dies without a word and comes back knowing nothing.
    pub(super) fn kill_client(&mut self, client: usize) {
        let Client { wants, trusts, .. } = &self.clients[client];
        let (wants, trusts) = (wants.clone(), trusts.clone());
        let core = self.client_core(&wants, &trusts);
        let who = &mut self.clients[client];
        who.core = core;
        who.life += 1;
        who.listens.clear();
        who.follows.clear();
        self.record.count("client crashes");
        match self.clients[client].begins {
            Some(begins) => self.trust(client, begins, trusts),
            None => self.client_input(client, client::Input::Timeout),
        }
    }

    pub(super) fn cut_off(&self, client: usize) -> bool {
        self.clients[client].cut_off_until > self.now
    }

    /// Whether what goes over TCP between this client and the key server comes to nothing.
    pub(super) fn fails(&mut self, client: usize) -> bool {
        let unlucky = self.clients[client].dice.chance(10);
        self.cut_off(client) || (unlucky && self.story.disasters && !self.healthy())
    }

    /// A client hears the datagrams that have arrived.
    pub(super) fn deliver(&mut self, client: usize) {
        let now = self.now;
        while let Some(octets) = self.clients[client].links.iter_mut().find_map(|link| link.poll(now)) {
            if !self.cut_off(client) {
                self.client_input(client, client::Input::Datagram(&octets));
                self.measure(client);
            }
        }
    }

    /// What a client keeps of messages that are not whole, or not yet their turn.
    pub(super) fn measure(&mut self, client: usize) {
        self.record.most_kept = self.record.most_kept.max(self.clients[client].core.octets_kept());
    }

    pub(super) fn request(&mut self, client: usize, life: u64, id: RequestId, message: &[u8]) {
        let lost = self.fails(client);
        let (Some(core), false) = (self.server.as_ref(), lost) else {
            return self.later(client, 2_000, Happening::RequestFailed { client, life, id, refused: false });
        };
        let known = self.clients[client]
            .core
            .registration()
            .filter(|(who, number)| core.individual_key(*who, *number).is_some());
        let Some((who, registration)) = known else {
            return self.later(client, 50, Happening::RequestFailed { client, life, id, refused: true });
        };
        let session = self.number();
        self.sessions.insert(session, (client, life, id));
        self.server_input(server::Input::Request { session, client: who, registration, message });
    }

    /// The registrar's part, by hand: fetch a number, hand over a key.
    pub(super) fn register(&mut self, client: usize, life: u64) {
        if self.server.is_none() || self.cut_off(client) || life != self.clients[client].life {
            return self.later(client, 1_000, Happening::Register { client, life });
        }
        let tag = u32::try_from(client).unwrap();
        let frame = FromRegistrar::FetchNumber {
            tag,
            kind: Authentication::Certificate,
            identity: identity(&format!("member/c{client}")),
        }
        .encode();
        self.server_input(server::Input::FromRegistrar { link: 1, frame: &frame });
    }

    pub(super) fn on_registrar(&mut self, frame: &[u8]) {
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
                    ends: NO_END,
                    credential: vec![1; 33],
                };
                self.server_input(server::Input::FromRegistrar { link: 1, frame: &frame.encode() });
            }
            ToRegistrar::Durable { tag } => {
                let (client, registration) = (usize::try_from(tag >> 16).unwrap(), u64::from(tag & 0xffff));
                let id = *self.ids.iter().find(|(_, at)| **at == client).unwrap().0;
                let life = self.clients[client].life;
                self.later(client, 20, Happening::Registered { client, life, id, registration });
            }
            ToRegistrar::Refused { refusal, .. } => {
                self.record.complaints.push(format!("registration: {}", refusal.text))
            }
            ToRegistrar::ClientList { .. } | ToRegistrar::ClientAdded(_) | ToRegistrar::DurableSealed { .. } => {}
        }
    }

    pub(super) fn client_input(&mut self, client: usize, input: client::Input<'_>) {
        let now = self.clock(self.clients[client].ahead);
        self.clients[client].core.handle(now, input);
        while let Some(output) = self.clients[client].core.poll_output() {
            let life = self.clients[client].life;
            match output {
                client::Output::Register => self.later(client, 50, Happening::Register { client, life }),
                client::Output::Request { id, message } => {
                    self.later(client, 30, Happening::Request { client, life, id, message });
                }
                client::Output::Subscribe(destination) => drop(self.clients[client].listens.insert(destination)),
                client::Output::Unsubscribe(destination) => drop(self.clients[client].listens.remove(&destination)),
                client::Output::Follow(group) => self.follow(client, group),
                client::Output::Unfollow(group) => drop(self.clients[client].follows.remove(&group)),
                client::Output::Read { id, group, names } => {
                    self.later(client, 250, Happening::Look { client, life, id, group, names });
                }
                client::Output::Feed { snapshot, .. } => {
                    let (Some(group), Some(id)) = (snapshot.group_id, self.clients[client].core.registration()) else {
                        continue;
                    };
                    let record = self.record.groups.entry(group).or_default();
                    for key in &snapshot.keys {
                        record.held.entry(key.epoch).or_default().insert(id.0, *key.key.expose());
                    }
                }
                client::Output::Event(client::Event::Resynced { .. }) => {
                    self.record.count("re-synchronizations");
                    *self.record.resynced.entry(client).or_default() += 1;
                }
                client::Output::Event(client::Event::PagesUnusable { why, .. })
                    if why.contains("under a trusted key") && !self.clients[client].trusts.contains(&self.signs) =>
                {
                    self.record.count("pages not believed");
                }
                client::Output::Event(client::Event::PagesUnusable { why, .. }) => {
                    let known = [
                        "nothing newer",
                        "cannot be read",
                        "does not answer",
                        "do not have this member",
                        "does not follow",
                        "no pages",
                    ];
                    match known.iter().find(|known| why.contains(**known)) {
                        Some(known) => self.record.count(known),
                        None => self.record.complaints.push(format!("pages: {why}")),
                    }
                }
                client::Output::Event(client::Event::Installed { group, epoch, how, .. }) => {
                    if how == client::How::Multicast {
                        self.record.count("multicast rekeys");
                    }
                    self.record.installed.insert((client, group, epoch), (self.now, how));
                }
                client::Output::Event(client::Event::Conflict { what, .. }) => {
                    self.record.complaints.push(format!("a conflict in {what}"));
                }
                // A reply that a newer unit or beacon overtook is refused, and asked for again.
                client::Output::Event(client::Event::BadReply { why, .. }) if why.contains("was seen signed") => {
                    self.record.count("replies overtaken");
                }
                // It does not know the key that signs now, and says so.
                client::Output::Event(client::Event::BadReply { why, .. })
                    if why.contains("there may be a newer certificate")
                        && !self.clients[client].trusts.contains(&self.signs) =>
                {
                    self.record.count("replies not believed");
                }
                client::Output::Event(client::Event::BadReply { why, .. }) => {
                    self.record.complaints.push(format!("a bad reply: {why}"));
                }
                client::Output::Stream { .. } | client::Output::EndStream => {
                    self.record.complaints.push("a member with multicast asks for TCP".into());
                }
                client::Output::Certificate(seeds) => {
                    self.record.count("certificates fetched");
                    let begins = self.issued.as_ref().map_or(0, |(begins, _)| *begins);
                    self.trust(client, begins, seeds);
                }
                client::Output::Event(_) | client::Output::Stopped => {}
            }
        }
    }
}
