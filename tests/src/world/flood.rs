//! Forgers: what they make of what they hear, and what reaches the members of it.

use std::net::SocketAddr;

use client_ctl::core as client;
use protocol::tag::TAG;
use protocol::unit::Unit;
use protocol::{Entropy, GroupId};

use super::World;
use crate::dice::Dice;

/// Who forges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forger {
    /// Hears all multicasts and holds no key.
    Outsider,
    /// The client of this number, who can make the tags of its groups.
    Member(usize),
}

/// Places in a unit (docs/protocol.md §7).
mod at {
    pub(super) const INCARNATION: usize = 9;
    pub(super) const TERM: usize = 25;
    pub(super) const EPOCH: usize = 33;
    pub(super) const PREVIOUS: usize = 41;
    pub(super) const MESSAGE: usize = 73;
    pub(super) const LENGTH: usize = 77;
    pub(super) const BLOCKS: usize = 81;
    pub(super) const SHAPE: usize = 85;
}

/// Genuine datagrams that a forger remembers.
const REMEMBERED: usize = 256;

/// The forger's part of a world.
pub(super) struct Flood {
    who: Forger,
    /// Forged datagrams for each genuine unit.
    many: usize,
    dice: Dice,
    heard: Vec<Vec<u8>>,
}

impl Flood {
    pub(super) fn new(who: Forger, many: usize, dice: Dice) -> Self {
        Self { who, many, dice, heard: Vec::new() }
    }

    fn hear(&mut self, datagram: &[u8]) {
        if self.heard.len() == REMEMBERED {
            self.heard.remove(0);
        }
        self.heard.push(datagram.to_vec());
    }

    /// One that is not genuine, or not new. Without a right tag but by chance.
    fn forge(&mut self, genuine: &[u8]) -> Vec<u8> {
        let dice = &mut self.dice;
        let mut octets = genuine.to_vec();
        let mut put = |at: usize, what: &[u8]| octets[at..at + what.len()].copy_from_slice(what);
        let noise: [u8; 32] = dice.array();
        match dice.number(11) {
            0 => {
                octets = vec![0; dice.number(1_400)];
                dice.fill(&mut octets);
            }
            1 => (0..=dice.number(4)).for_each(|_| octets[dice.number(genuine.len())] ^= 1 << dice.number(8)),
            // The right header, another payload.
            2 => put(genuine.len() - 2 * TAG, &noise[..2 * TAG]),
            // The right header and payload.
            3 => put(genuine.len() - TAG, &noise[..TAG]),
            // Heard before.
            4 => octets.clone_from(&self.heard[dice.number(self.heard.len())]),
            5 => put(at::TERM, &dice.roll().to_be_bytes()),
            // Conflicting headers.
            6 => match dice.number(4) {
                0 => put(at::INCARNATION, &noise[..16]),
                1 => put(at::PREVIOUS, &noise),
                2 => put(at::MESSAGE, &[0, noise[0], 1, 0]),
                _ => put(at::SHAPE, &[1 + noise[0] % 16, noise[1] % 16]),
            },
            // 2^32 octets or as many units, in as many blocks as there can be.
            7 => {
                put(at::LENGTH, &[0xff; 4]);
                put(at::BLOCKS, &[0xff, 0xff, noise[0], noise[1]]);
            }
            8 => octets.truncate(dice.number(genuine.len())),
            9 => octets.resize(genuine.len() + 1 + dice.number(700), noise[0]),
            // Of epochs that nobody knows yet.
            _ => {
                put(at::EPOCH + 4, &noise[..4]);
                put(at::PREVIOUS, &noise);
            }
        }
        if octets == genuine {
            octets.pop();
        }
        octets
    }

    /// A unit of a block that nobody has heard of, which goes on from the members' epoch. Its tag has to be put on.
    fn forge_as_member(&mut self, genuine: &[u8]) -> Vec<u8> {
        let mut octets = genuine[..genuine.len() - TAG].to_vec();
        let noise: [u8; 2] = self.dice.array();
        octets[at::LENGTH + 2..at::LENGTH + 4].copy_from_slice(&noise);
        octets
    }
}

impl World {
    /// A datagram was multicast. Whoever forges sends before anything has arrived, and once more when most has.
    pub(super) fn forger_hears(&mut self, destination: SocketAddr, octets: &[u8]) {
        let Some(flood) = self.flood.as_mut() else { return };
        let Ok(unit) = Unit::decode(octets) else { return };
        flood.hear(octets);
        let (many, group) = (flood.many, unit.header.epoch.group);
        match flood.who {
            Forger::Outsider => {
                self.forge(destination, group, octets, many / 2);
                self.later_forged(destination, group, octets, many - many / 2);
            }
            Forger::Member(_) => self.forge(destination, group, octets, many),
        }
    }

    /// Every member hears so many forged datagrams. None of them is lost: what a flood does to the wire itself is a matter of
    /// losses, and those have their own tests.
    pub(super) fn forge(&mut self, destination: SocketAddr, group: GroupId, genuine: &[u8], many: usize) {
        let Some(mut flood) = self.flood.take() else { return };
        let listens = |client: &super::Client| client.listens.contains(&destination);
        let listeners: Vec<usize> = (0..self.clients.len()).filter(|at| listens(&self.clients[*at])).collect();
        let tag = match flood.who {
            Forger::Outsider => None,
            Forger::Member(client) => {
                let name = Self::groups().find(|(id, _)| *id == group).unwrap().1;
                self.clients[client].core.danger_tag_key(name).cloned()
            }
        };
        for _ in 0..many {
            let forged = match &tag {
                None => flood.forge(genuine),
                Some(tag) => {
                    let mut forged = flood.forge_as_member(genuine);
                    tag.append(&mut forged);
                    forged
                }
            };
            for client in &listeners {
                if flood.who != Forger::Member(*client) {
                    self.client_input(*client, client::Input::Datagram(&forged));
                }
            }
        }
        let kept = self.clients.iter().map(|client| client.core.octets_kept()).max().unwrap_or(0);
        self.record.most_kept = self.record.most_kept.max(kept);
        self.record.forged += u64::try_from(many).unwrap();
        self.flood = Some(flood);
    }
}
