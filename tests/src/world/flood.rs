//! Forgers: what they make of what they hear, and what reaches the members of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use client_ctl::core as client;
use protocol::tag::TAG;
use protocol::unit::{PAYLOAD, Unit};
use protocol::{Entropy, GroupId};

use super::{Happening, World};
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
mod place {
    pub(super) const INCARNATION: usize = 9;
    pub(super) const TERM: usize = 25;
    pub(super) const EPOCH: usize = 33;
    pub(super) const PREVIOUS: usize = 41;
    pub(super) const MESSAGE: usize = 73;
    pub(super) const LENGTH: usize = 77;
    pub(super) const BLOCKS: usize = 81;
    pub(super) const SHAPE: usize = 85;
    pub(super) const INDEX: usize = 87;
}

/// Forging begins when the first crowd has joined.
const BEGINS: Duration = Duration::from_secs(5);
/// After so long an outsider sends again: most of what is genuine has arrived.
const ECHO: Duration = Duration::from_millis(30);
/// Units that old are replayed: who lacked them has asked for the present keys long ago.
const OLD: Duration = Duration::from_secs(8);
/// Genuine datagrams that a forger remembers.
const REMEMBERED: usize = 256;

/// A unit that the key server sent.
#[derive(Clone)]
pub(super) struct Genuine {
    /// When it was sent.
    at: Duration,
    destination: SocketAddr,
    group: GroupId,
    octets: Vec<u8>,
}

/// The forger's part of a world.
pub(super) struct Flood {
    who: Forger,
    /// Forged datagrams for each genuine unit.
    many: usize,
    dice: Dice,
    heard: VecDeque<Genuine>,
}

impl Flood {
    pub(super) fn new(who: Forger, many: usize, dice: Dice) -> Self {
        Self { who, many, dice, heard: VecDeque::new() }
    }

    fn hear(&mut self, genuine: &Genuine) {
        if self.heard.len() == REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back(genuine.clone());
    }

    /// One that is not genuine, or not new. What is and arrives before its time is no attack but repairs what the network
    /// loses: a replay of what somebody may lack, or a genuine payload under its header with another tag.
    fn forge(&mut self, Genuine { at, octets: genuine, .. }: &Genuine) -> Vec<u8> {
        let dice = &mut self.dice;
        let mut octets = genuine.clone();
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
            // The right header, another tag.
            3 => put(genuine.len() - TAG, &noise[..TAG]),
            // Replays of earlier epochs.
            4 => {
                let old = &self.heard[dice.number(self.heard.len())];
                octets = if old.at + OLD < *at { old.octets.clone() } else { noise.to_vec() };
            }
            // Of terms before and after.
            5 => put(place::TERM, &if dice.chance(50) { 0 } else { dice.roll() }.to_be_bytes()),
            // Conflicting headers.
            6 => match dice.number(4) {
                0 => put(place::INCARNATION, &noise[..16]),
                1 => put(place::PREVIOUS, &noise),
                2 => put(place::MESSAGE, &[0, noise[0], 1, 0]),
                _ => put(place::SHAPE, &[1 + noise[0] % 16, noise[1] % 16]),
            },
            // 2^32 octets or as many units, in as many blocks as there can be.
            7 => {
                put(place::LENGTH, &[0xff; 4]);
                put(place::BLOCKS, &[0xff, 0xff, noise[0], noise[1]]);
            }
            8 => octets.truncate(dice.number(genuine.len())),
            9 => octets.resize(genuine.len() + 1 + dice.number(700), noise[0]),
            // Of epochs that nobody knows yet.
            _ => {
                put(place::EPOCH + 4, &noise[..4]);
                put(place::PREVIOUS, &noise);
            }
        }
        let same = |part: Range<usize>| octets.get(part.clone()) == genuine.get(part);
        let end = genuine.len() - TAG;
        if octets.len() == genuine.len() && same(0..place::INDEX) && same(end - PAYLOAD..end) {
            octets[end - 1] ^= 1;
        }
        octets
    }

    /// A unit of a block that nobody has heard of, which goes on from the members' epoch. Its tag has to be put on.
    fn forge_as_member(&mut self, genuine: &[u8]) -> Vec<u8> {
        let mut octets = genuine[..genuine.len() - TAG].to_vec();
        let noise: [u8; 2] = self.dice.array();
        octets[place::LENGTH + 2..place::LENGTH + 4].copy_from_slice(&noise);
        octets
    }
}

impl World {
    /// A datagram was multicast. An outsider sends before anything has arrived, and once more when most has.
    pub(super) fn forger_hears(&mut self, destination: SocketAddr, octets: &[u8]) {
        let Some(flood) = self.flood.as_mut() else { return };
        let Ok(unit) = Unit::decode(octets) else { return };
        let genuine = Genuine { at: self.now, destination, group: unit.header.epoch.group, octets: octets.to_vec() };
        flood.hear(&genuine);
        if self.now < BEGINS {
            return;
        }
        let many = flood.many;
        match flood.who {
            Forger::Outsider => {
                self.forge(&genuine, many / 2);
                self.at(self.now + ECHO, Happening::Forged { genuine, many: many - many / 2 });
            }
            Forger::Member(_) => self.forge(&genuine, many),
        }
    }

    /// Every member hears so many forged datagrams. None of them is lost: what a flood does to the wire itself is a matter of
    /// losses, and those have their own tests.
    pub(super) fn forge(&mut self, genuine: &Genuine, many: usize) {
        let Some(mut flood) = self.flood.take() else { return };
        let hears = |at: &usize| self.clients[*at].listens.contains(&genuine.destination);
        let listeners: Vec<usize> = (0..self.clients.len()).filter(hears).collect();
        let tag = match flood.who {
            Forger::Outsider => None,
            Forger::Member(client) => {
                let name = Self::groups().find(|(id, _)| *id == genuine.group).unwrap().1;
                self.clients[client].core.danger_tag_key(name).cloned()
            }
        };
        for _ in 0..many {
            let forged = match &tag {
                None => flood.forge(genuine),
                Some(tag) => {
                    let mut forged = flood.forge_as_member(&genuine.octets);
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
        listeners.iter().for_each(|client| self.measure(*client));
        self.record.forged += u64::try_from(many).unwrap();
        self.flood = Some(flood);
    }
}
