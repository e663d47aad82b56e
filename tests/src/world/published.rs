//! Where groups are published: names and values, and what everybody who reads them sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client_ctl::core as client;
use keygraph::ids::path_to_root;
use keygraph::{Degree, KeyRef, NodeId};
use keyserver::core as server;
use protocol::pages::{Digest, KEPT_EPOCHS, Units, epoch_name, epoch_pieces, head_name, now_name, page_name, places};
use protocol::unit::Unit;
use protocol::{Beacon, GroupId};

use super::{Happening, World, delay};

/// Pages by their names.
type Standing = BTreeMap<Digest, Vec<u8>>;

/// All that stands.
#[derive(Default)]
pub(super) struct Ensemble {
    values: BTreeMap<String, Vec<u8>>,
    /// Pages of each group, and those that the head before points to.
    pages: BTreeMap<GroupId, (Standing, BTreeSet<Digest>)>,
    /// What is published last comes to stand last.
    last: Duration,
}

impl World {
    /// The key server's publisher: in order, a little later.
    pub(super) fn publish(&mut self, publication: server::Publication) {
        let at = (self.now + delay(&mut self.dice, 20)).max(self.ensemble.last);
        self.ensemble.last = at;
        let life = self.server_life;
        self.at(at, Happening::Published { life, publication });
    }

    pub(super) fn stand(&mut self, publication: server::Publication) {
        let server::Publication { group, part } = publication;
        let values = &mut self.ensemble.values;
        match part {
            server::Published::Epoch { epoch, units } => {
                for (piece, octets) in (0..).zip(epoch_pieces(&units)) {
                    values.insert(epoch_name(group, epoch, piece), octets);
                }
                if let Some(old) = epoch.checked_sub(KEPT_EPOCHS) {
                    values.remove(&epoch_name(group, old, 0));
                }
            }
            server::Published::Beacon(beacon) => {
                values.insert(now_name(group), beacon);
                for client in 0..self.clients.len() {
                    if self.clients[client].follows.contains(&group) {
                        self.tell(client, group);
                    }
                }
            }
            server::Published::Pages { head, rewritten, is_whole } => {
                let (pages, going) = self.ensemble.pages.entry(group).or_default();
                let gone = if is_whole { pages.keys().copied().collect() } else { rewritten.gone };
                for digest in std::mem::take(going) {
                    values.remove(&page_name(group, &digest));
                }
                for digest in gone {
                    pages.remove(&digest);
                    going.insert(digest);
                }
                for (digest, octets) in rewritten.added {
                    going.remove(&digest);
                    values.insert(page_name(group, &digest), octets.clone());
                    pages.insert(digest, octets);
                }
                values.insert(head_name(group), head);
                self.record.count("pages written");
                self.observe_pages(group);
            }
        }
    }

    /// Who wraps what, read off the pages that stand, as an attacker does who reads all that is ever published.
    fn observe_pages(&mut self, group: GroupId) {
        let (pages, _) = &self.ensemble.pages[&group];
        let standing: BTreeMap<NodeId, KeyRef> = (pages.values())
            .flat_map(|octets| places(octets, self.suite).unwrap())
            .map(|(key, _)| (key.node, key))
            .collect();
        let beacon = self.head_beacon(group);
        let (record, degree) = (self.record.groups.entry(group).or_default(), Degree::new(self.degree).unwrap());
        for kek in standing.values() {
            let above = path_to_root(kek.node, degree).skip(1).find_map(|node| standing.get(&node).copied());
            let root = KeyRef { node: NodeId::ROOT, version: beacon.context.epoch };
            record.wrapped(*kek, above.unwrap_or(root));
        }
    }

    pub(super) fn follow(&mut self, client: usize, group: GroupId) {
        self.clients[client].follows.insert(group);
        self.tell(client, group);
    }

    fn tell(&mut self, client: usize, group: GroupId) {
        let life = self.clients[client].life;
        self.later(client, 250, Happening::Now { client, life, group });
    }

    /// A watch has fired, or its time is over.
    pub(super) fn show(&mut self, client: usize, life: u64, group: GroupId) {
        let who = &self.clients[client];
        if life != who.life || !who.follows.contains(&group) {
            return;
        }
        if self.cut_off(client) {
            let at = self.clients[client].cut_off_until + Duration::from_millis(100);
            return self.at(at, Happening::Now { client, life, group });
        }
        if let Some(octets) = self.ensemble.values.get(&now_name(group)).cloned() {
            self.client_input(client, client::Input::Now { group, octets: &octets });
        }
    }

    pub(super) fn look(&mut self, client: usize, life: u64, (id, group): (u64, GroupId), names: &[String]) {
        let values = names.iter().map(|name| self.ensemble.values.get(name).cloned()).collect();
        let values = if self.fails(client) { None } else { Some(values) };
        self.later(client, 250, Happening::Looked { client, life, id, group, values });
    }

    /// Whether a group's newest epoch is so new that whoever reads what is published may not have read it.
    pub fn is_on_its_way(&self, group: GroupId) -> bool {
        self.story.published && self.now < self.record.groups[&group].newest_at + Duration::from_secs(2)
    }

    /// Term and epoch that whoever reads the pages, and then the epochs that go on from there, comes to, up to
    /// the beacon that stands.
    pub fn readable(&self, group: GroupId) -> (u64, u64) {
        let beacon = self.head_beacon(group).context;
        let mut at = (beacon.term, beacon.epoch);
        let newest = Beacon::decode(&self.ensemble.values[&now_name(group)]).unwrap().context.epoch;
        while let Some(octets) = self.ensemble.values.get(&epoch_name(group, at.1 + 1, 0)).filter(|_| at.1 < newest) {
            let units = Units::decode(octets).unwrap().units;
            // An epoch of a group without members has none.
            let Some(unit) = units.first() else { break };
            at = (Unit::decode(unit).unwrap().header.epoch.term, at.1 + 1);
        }
        at
    }

    fn head_beacon(&self, group: GroupId) -> Beacon {
        // The head begins with four octets, then the length of its beacon.
        let head = &self.ensemble.values[&head_name(group)];
        Beacon::decode(&head[6..6 + usize::from(u16::from_be_bytes([head[4], head[5]]))]).unwrap()
    }
}
