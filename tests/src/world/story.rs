//! What happens to everybody: the part of a world that its seed alone decides, whatever the members do.

use std::collections::BTreeSet;
use std::time::Duration;

use client_ctl::core as client;
use fec::RepairScheme;
use keyserver::core as server;

use super::flood::Forger;
use super::{GROUPS, Happening, World, identity, signing_key};
use crate::world::network::Network;

/// Who somebody is whose clock leaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The key server.
    Server,
    /// The client of this number.
    Client(usize),
}

/// What becomes of the keys that sign, each named by its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roll {
    /// The key server signs with this one.
    Signs(u8),
    /// The key server has a site certificate for whoever asks, which names these.
    Issues(Vec<u8>),
    /// The site certificate of this client names these.
    Trusts(usize, Vec<u8>),
}

/// What a world is told: the seed decides the rest.
#[derive(Debug, Clone)]
pub struct Story {
    /// Decides everything else.
    pub seed: u64,
    /// How many clients; if `None`, the seed says.
    pub people: Option<usize>,
    /// Whether key server and clients die, lose each other and have clocks that jump. Joins, leaves, evictions and refreshes
    /// happen in any case.
    pub disasters: bool,
    /// Faults last until then; afterwards everything heals.
    pub faults_end: Duration,
    /// The world lasts until then.
    pub end: Duration,
    /// The network of every member; if `None`, the seed says for each.
    pub network: Option<Network>,
    /// The groups' repair scheme.
    pub repair: RepairScheme,
    /// Who forges, if anybody does, and how many datagrams for each genuine unit.
    pub forger: Option<(Forger, usize)>,
    /// The clocks of these leap by so much, at that time.
    pub leaps: Vec<(Duration, Who, Duration)>,
    /// Whether members read what is published, and nothing is multicast to them.
    pub published: bool,
    /// The key server is dead from then on.
    pub dead_from: Option<Duration>,
    /// Every second client hears nothing in the 20 seconds before that, nor in the ten after it.
    pub cut_off_half: bool,
    /// At these times the keys that sign are rolled. In the beginning there is one, of seed 5.
    pub rolls: Vec<(Duration, Roll)>,
    /// Whether client 0 reports ten times a second that it loses everything, in bursts of 2^32 units.
    pub liar: bool,
}

impl Story {
    /// Everything may happen that happens to honest people.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            people: None,
            disasters: true,
            faults_end: Duration::from_secs(60),
            end: Duration::from_secs(100),
            network: None,
            repair: RepairScheme::default(),
            forger: None,
            leaps: Vec::new(),
            published: false,
            dead_from: None,
            cut_off_half: false,
            rolls: Vec::new(),
            liar: false,
        }
    }

    /// Five clients who come and go, on networks of this kind, and nothing else goes wrong.
    pub fn calm(seed: u64, network: Network) -> Self {
        let (faults_end, end) = (Duration::from_secs(20), Duration::from_secs(30));
        Self { people: Some(5), disasters: false, faults_end, end, network: Some(network), ..Self::of(seed) }
    }
}

impl World {
    pub(super) fn some_groups(&mut self) -> BTreeSet<String> {
        let mut wants: BTreeSet<String> = GROUPS.iter().map(|name| (*name).to_owned()).collect();
        if self.fate.chance(50) {
            wants.remove(GROUPS[self.fate.number(2)]);
        }
        wants
    }

    /// Something happens to somebody, and again after a while.
    pub(super) fn fault(&mut self) {
        if self.healthy() {
            return;
        }
        let client = self.fate.number(self.clients.len());
        let group = GROUPS[self.fate.number(2)].to_owned();
        let what = self.fate.number(if self.story.disasters { 13 } else { 6 });
        let span = self.fate.number(8_000);
        let next = 1 + self.fate.number(1_500);
        self.at(self.now + Duration::from_millis(u64::try_from(next).unwrap()), Happening::Fault);
        match what {
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
            // Few worlds are so calm that their last member may be put out.
            4 if self.story.disasters || client > 2 => {
                let ticket = self.number();
                let name = format!("member/c{client}");
                self.tickets.insert(ticket, (group.clone(), client));
                let command = server::Admin::Evict { group, identity: identity(&name) };
                self.server_input(server::Input::Admin { ticket, command });
            }
            4 | 5 => self.server_input(server::Input::Admin { ticket: 0, command: server::Admin::Refresh { group } }),
            6 | 7 => {
                self.clients[client].cut_off_until = self.now + Duration::from_millis(u64::try_from(span).unwrap());
                self.record.count("cut off");
            }
            8 => self.kill_client(client),
            9 if self.server.is_some() => self.kill_server(),
            10 => {
                // Stopped for a while: to a process that is, the clock leaps.
                let by = Duration::from_secs(if span.is_multiple_of(2) { 3_600 } else { 365 * 86_400 });
                self.leap(if span.is_multiple_of(5) { Who::Server } else { Who::Client(client) }, by);
            }
            _ => {}
        }
    }

    pub(super) fn leap(&mut self, who: Who, by: Duration) {
        match who {
            Who::Server => self.server_ahead += by,
            Who::Client(client) => self.clients[client].ahead += by,
        }
        self.record.count("clocks leapt");
    }

    pub(super) fn roll(&mut self, roll: Roll) {
        match roll {
            Roll::Signs(seed) => self.signs = seed,
            Roll::Issues(seeds) => self.issued = Some((self.now.as_secs(), seeds)),
            Roll::Trusts(client, seeds) => self.trust(client, self.now.as_secs(), seeds),
        }
        self.tell_keys();
        self.record.count("keys rolled");
    }

    /// The key server reads its keys again.
    pub(super) fn tell_keys(&mut self) {
        let issued = self.issued.clone().map(|(begins, octets)| server::Issued { begins, octets });
        let keys = server::Keys { signing: signing_key(self.signs), others: Vec::new(), certificate: issued };
        self.server_input(server::Input::Keys(keys));
    }

    /// A client has this site certificate. Its octets are the seeds of its keys; who verifies them is not in this world.
    pub(super) fn trust(&mut self, client: usize, begins: u64, seeds: Vec<u8>) {
        let signing = seeds.iter().map(|seed| signing_key(*seed).public()).collect();
        (self.clients[client].trusts, self.clients[client].begins) = (seeds, Some(begins));
        self.client_input(client, client::Input::Trusted { signing, begins });
    }

    /// What a clock shows that is so far ahead. In some worlds it goes back at times, by up to an hour, for one input.
    pub(super) fn clock(&mut self, ahead: Duration) -> Duration {
        let now = self.now + ahead;
        if !self.unsteady || !self.clocks.chance(10) {
            return now;
        }
        self.record.count("clocks went back");
        now.saturating_sub(Duration::from_secs(u64::try_from(self.clocks.number(3_600)).unwrap()))
    }
}
