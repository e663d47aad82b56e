//! The attacker that sees only octets: what opened of the store, and what was sent. It tries every secret that it has, in
//! every role, in every epoch, on every wrap, and keeps what turns out to be some secret of the key server.

use std::collections::{BTreeMap, BTreeSet};

use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use keygraph::{KeyRef, NodeId};
use protocol::rekey::Wrapped;
use protocol::schedule::expand;
use protocol::unit::{Kind, Unit, kind};
use protocol::{EpochContext, NodeSecret, RekeyMessage, Seed};

pub(super) type Octets = [u8; 32];

/// A secret under another, wherever it was seen. Whose the other is nobody says.
pub(super) struct Sealed {
    pub(super) context: EpochContext,
    pub(super) target: KeyRef,
    pub(super) octets: Wrapped,
}

/// Tells a key from noise.
pub(super) struct Oracle<'a> {
    /// Every secret that ever was.
    pub(super) secrets: &'a BTreeSet<Octets>,
    /// Every place where one stood.
    pub(super) nodes: &'a BTreeSet<NodeId>,
}

/// What it has.
pub(super) struct Attacker {
    sealed: Vec<Sealed>,
    /// Of every epoch: nothing in them is secret.
    contexts: Vec<EpochContext>,
    known: BTreeSet<(KeyRef, Octets)>,
    fringe: Vec<(KeyRef, Octets)>,
}

/// Octets of a unit's tag, and of its payload before it.
const TAG: usize = 8;

impl Attacker {
    pub(super) fn new(contexts: Vec<EpochContext>) -> Self {
        Self { sealed: Vec::new(), contexts, known: BTreeSet::new(), fringe: Vec::new() }
    }

    /// Whatever was multicast.
    pub(super) fn hears(&mut self, datagrams: &[Vec<u8>]) {
        let mut messages: BTreeMap<_, BTreeMap<_, &[u8]>> = BTreeMap::new();
        for datagram in datagrams.iter().filter(|datagram| kind(datagram) == Ok(Kind::Unit)) {
            let unit = Unit::decode(datagram).unwrap();
            let (header, end) = (unit.header, datagram.len() - TAG);
            if unit.index < header.s {
                let message = messages.entry((header.epoch, header.message, header.message_len)).or_default();
                message.insert((header.block, unit.index), &datagram[end - fec::UNIT..end]);
            }
        }
        for ((header, _, len), units) in messages {
            let mut octets = units.into_values().collect::<Vec<_>>().concat();
            octets.truncate(usize::try_from(len).unwrap());
            let (context, message) = (header.context(), RekeyMessage::decode(&octets, header.suite).unwrap());
            for entry in &message.entries {
                let target = KeyRef { node: entry.node, version: context.epoch };
                self.sees(entry.wraps().map(|octets| Sealed { context, target, octets: *octets }));
            }
        }
    }

    /// Whatever else was sent or stood where others read: pages.
    pub(super) fn sees(&mut self, sealed: impl IntoIterator<Item = Sealed>) {
        self.sealed.extend(sealed);
    }

    /// Takes all octets of a snapshot for a secret that are one, with what stands before them for its name.
    pub(super) fn reads_snapshot(&mut self, octets: &[u8], oracle: &Oracle<'_>) {
        // Place u32, version u64, member u32, secret.
        for window in octets.windows(4 + 8 + 4 + 32) {
            let node = NodeId(u32::from_be_bytes(window[..4].try_into().unwrap()));
            let version = u64::from_be_bytes(window[4..12].try_into().unwrap());
            self.learns(KeyRef { node, version }, window[16..].try_into().unwrap(), oracle);
        }
    }

    /// Takes all octets of a record for the seed of a change, in every epoch whose number stands in it.
    pub(super) fn reads_record(&mut self, octets: &[u8], oracle: &Oracle<'_>) {
        let names = |context: &&EpochContext| octets.windows(8).any(|window| window == context.epoch.to_be_bytes());
        for context in self.contexts.clone().iter().filter(names) {
            for seed in octets.windows(32).map(|window| Seed::new(window.try_into().unwrap())) {
                for node in oracle.nodes {
                    let name = KeyRef { node: *node, version: context.epoch };
                    self.learns(name, *context.fresh(&seed, *node).expose(), oracle);
                }
            }
        }
    }

    fn learns(&mut self, name: KeyRef, secret: Octets, oracle: &Oracle<'_>) {
        if oracle.secrets.contains(&secret) && self.known.insert((name, secret)) {
            self.fringe.push((name, secret));
        }
    }

    /// Computes all that follows, and returns the data keys that each secret would give as the root of each epoch.
    pub(super) fn computes(mut self, oracle: &Oracle<'_>) -> BTreeSet<Octets> {
        while let Some((name, secret)) = self.fringe.pop() {
            for (name, found) in self.tries(name, &secret, oracle) {
                self.learns(name, found, oracle);
            }
        }
        let secrets: BTreeSet<Octets> = self.known.into_iter().map(|(_, secret)| secret).collect();
        let data = |secret: &Octets, context: &EpochContext| *context.data(&NodeSecret::new(*secret)).expose();
        secrets.iter().flat_map(|secret| self.contexts.iter().map(move |context| data(secret, context))).collect()
    }

    fn tries(&self, name: KeyRef, octets: &Octets, oracle: &Oracle<'_>) -> Vec<(KeyRef, Octets)> {
        let secret = NodeSecret::new(*octets);
        let mut found: Vec<(KeyRef, Octets)> = Vec::new();
        for context in &self.contexts {
            // A leaf may have moved: wherever it stands now.
            let advanced = [*context.advance(&secret, name).expose(), *context.advance_leaf(&secret).expose()];
            let advanced = advanced.map(|advanced| Some(advanced).filter(|advanced| oracle.secrets.contains(advanced)));
            for node in oracle.nodes {
                let name_now = KeyRef { node: *node, version: context.epoch };
                found.extend(advanced.iter().flatten().map(|advanced| (name_now, *advanced)));
                found.push((name_now, *context.derive(&secret, name, *node).expose()));
            }
        }
        let opened = self.sealed.iter().map(|sealed| (sealed.target, unwrap(octets, name, sealed)));
        found.into_iter().chain(opened).filter(|(_, found)| oracle.secrets.contains(found)).collect()
    }
}

/// A wrap opened as docs/protocol.md says, without the code that made it.
fn unwrap(secret: &Octets, kek: KeyRef, Sealed { context, target, octets }: &Sealed) -> Octets {
    let mut names = vec![context.suite as u8];
    names.extend_from_slice(&context.group.0.to_be_bytes());
    names.extend_from_slice(&context.incarnation.0);
    names.extend_from_slice(&context.term.to_be_bytes());
    names.extend_from_slice(&context.epoch.to_be_bytes());
    for name in [kek, *target] {
        names.extend_from_slice(&name.node.0.to_be_bytes());
        names.extend_from_slice(&name.version.to_be_bytes());
    }
    let one_time: [u8; 48] = expand(secret, b"wrap", &[&names]);
    let len = context.suite.secret_len();
    let (key, iv) = one_time[..len + 16].split_at(len);
    let mut blocks: Vec<aes::Block> =
        octets[..len].chunks_exact(16).map(|block| aes::Block::try_from(block).unwrap()).collect();
    match len {
        16 => cbc::Decryptor::<aes::Aes128>::new_from_slices(key, iv).unwrap().decrypt_blocks(&mut blocks),
        _ => cbc::Decryptor::<aes::Aes256>::new_from_slices(key, iv).unwrap().decrypt_blocks(&mut blocks),
    }
    let mut out = [0; 32];
    blocks.iter().zip(out.chunks_exact_mut(16)).for_each(|(block, out)| out.copy_from_slice(block));
    out
}
