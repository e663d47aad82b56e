//! The attacker that sees only octets: what was multicast and what its members were given. It ignores every label: it tries
//! every key that it has, under every name and in every role, on every wrap of every epoch, and keeps what turns out to be
//! some secret of the key server. All principals without a right to an epoch together must not come to its root. Whatever
//! the plan says, here the ciphers and the key schedule are what is tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Dice, Server};
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Strategy};
use protocol::rekey::Wrapped;
use protocol::schedule::expand;
use protocol::{EpochContext, NodeSecret, RekeyMessage, Suite};

type Octets = [u8; 32];

/// One principal: a member from a fresh leaf to the next, with the secrets of its reply.
struct Grant {
    member: MemberId,
    from: u64,
    until: u64,
    secrets: Vec<Octets>,
}

/// Everything that happened to one group.
struct History {
    contexts: Vec<EpochContext>,
    /// Wraps of each epoch, without anything that says whose they are.
    wraps: Vec<Vec<Wrapped>>,
    grants: Vec<Grant>,
    roots: Vec<Octets>,
    /// Every secret that ever was, to tell a key from noise.
    secrets: BTreeSet<Octets>,
    /// Every name that ever was.
    names: BTreeSet<KeyRef>,
}

impl History {
    fn live(seed: u64, suite: Suite, degree: Degree, strategy: Strategy, epochs: u64) -> Self {
        let mut dice = Dice(seed);
        let mut server = Server::of(suite, degree, strategy);
        server.tree.set_splicing(dice.below(2) == 0);
        let mut history = Self {
            contexts: Vec::new(),
            wraps: Vec::new(),
            grants: Vec::new(),
            roots: Vec::new(),
            secrets: BTreeSet::new(),
            names: BTreeSet::new(),
        };
        for epoch in 1..=epochs {
            let changes = if epoch == 1 {
                (1..=5).map(|m| Change::Join(MemberId(m))).collect()
            } else {
                batch(&mut dice, &server)
            };
            let (executed, plan) = server.change(&changes, u8::try_from(epoch).unwrap());
            // What is on the wire, and nothing else.
            let sent = executed
                .messages
                .iter()
                .map(RekeyMessage::encode)
                .map(|octets| RekeyMessage::decode(&octets, suite).unwrap());
            let wraps =
                sent.flat_map(|message| message.entries.iter().flat_map(|e| e.wraps().copied()).collect::<Vec<_>>());
            history.wraps.push(wraps.collect());
            history.contexts.push(server.context(epoch));
            for change in &changes {
                if let Change::Leave(member) | Change::Renew(member) = change {
                    let open =
                        history.grants.iter_mut().find(|grant| grant.member == *member && grant.until == u64::MAX);
                    open.unwrap().until = epoch;
                }
            }
            for (member, _) in &plan.joined {
                let path = server.tree.path(*member).unwrap();
                let secrets = path.iter().map(|key| *server.held.0[&key.node].1.expose()).collect();
                history.grants.push(Grant { member: *member, from: epoch, until: u64::MAX, secrets });
            }
            for (node, (version, secret)) in &server.held.0 {
                history.secrets.insert(*secret.expose());
                history.names.insert(KeyRef { node: *node, version: *version });
            }
            history.roots.push(*server.held.0[&NodeId::ROOT].1.expose());
        }
        history
    }

    /// All that a coalition comes to know from these secrets.
    fn closure(&self, given: impl Iterator<Item = Octets>) -> BTreeSet<Octets> {
        let (mut known, mut fringe) = (BTreeSet::new(), given.collect::<Vec<_>>());
        while let Some(secret) = fringe.pop() {
            if known.insert(secret) {
                fringe.extend(self.tries(&secret).filter(|found| self.secrets.contains(found)).collect::<Vec<_>>());
            }
        }
        known
    }

    /// Whatever one key gives, in every role, under every name, in every epoch.
    fn tries<'a>(&'a self, secret: &'a Octets) -> impl Iterator<Item = Octets> + 'a {
        let nodes: BTreeSet<NodeId> = self.names.iter().map(|name| name.node).collect();
        let each =
            self.contexts.iter().zip(&self.wraps).flat_map(|each| self.names.iter().map(move |name| (each, *name)));
        each.flat_map(move |((context, wraps), name)| {
            let node_secret = NodeSecret::new(*secret);
            let mut found =
                vec![*context.advance(&node_secret, name).expose(), *context.advance_leaf(&node_secret).expose()];
            for node in &nodes {
                found.push(*context.derive(&node_secret, name, *node).expose());
                let target = KeyRef { node: *node, version: context.epoch };
                found.extend(wraps.iter().map(|wrapped| unwrap(context, secret, name, target, wrapped)));
            }
            found
        })
    }
}

/// A wrap opened as docs/protocol.md says, without the code that made it.
fn unwrap(context: &EpochContext, secret: &Octets, kek: KeyRef, target: KeyRef, wrapped: &Wrapped) -> Octets {
    let mut names = Vec::new();
    names.push(context.suite as u8);
    names.extend_from_slice(&context.group.0.to_be_bytes());
    names.extend_from_slice(&context.incarnation.0);
    names.extend_from_slice(&context.term.to_be_bytes());
    names.extend_from_slice(&context.epoch.to_be_bytes());
    for name in [kek, target] {
        names.extend_from_slice(&name.node.0.to_be_bytes());
        names.extend_from_slice(&name.version.to_be_bytes());
    }
    let one_time: [u8; 48] = expand(secret, b"wrap", &[&names]);
    let mut out = [0; 32];
    let len = context.suite.secret_len();
    let (key, iv) = one_time[..len + 16].split_at(len);
    let mut blocks: Vec<aes::Block> =
        wrapped[..len].chunks_exact(16).map(|block| aes::Block::try_from(block).unwrap()).collect();
    match len {
        16 => cbc::Decryptor::<aes::Aes128>::new_from_slices(key, iv).unwrap().decrypt_blocks(&mut blocks),
        _ => cbc::Decryptor::<aes::Aes256>::new_from_slices(key, iv).unwrap().decrypt_blocks(&mut blocks),
    }
    blocks.iter().zip(out.chunks_exact_mut(16)).for_each(|(block, out)| out.copy_from_slice(block));
    out
}

/// One to three changes of members 1 to 6.
fn batch(dice: &mut Dice, server: &Server) -> Vec<Change> {
    let mut by_member: BTreeMap<u32, Vec<Change>> = BTreeMap::new();
    for _ in 0..=dice.below(2) {
        let id = 1 + u32::try_from(dice.below(6)).unwrap();
        let member = MemberId(id);
        let changes = match (server.tree.contains(member), dice.below(3)) {
            (false, _) => vec![Change::Join(member)],
            (true, 0) => vec![Change::Renew(member)],
            (true, 1) => vec![Change::Leave(member), Change::Join(member)],
            (true, _) => vec![Change::Leave(member)],
        };
        by_member.insert(id, changes);
    }
    let mut all: Vec<Change> = by_member.into_values().flatten().collect();
    if dice.below(3) == 0 {
        all.push(Change::Refresh);
    }
    all.push(Change::Compact(2));
    all
}

#[test]
fn octets_give_nobody_an_epoch_without_a_right_to_it() {
    // More and longer histories on request; every key on everything is a lot of trying.
    let seeds: u64 = std::env::var("KEYSTONE_HISTORIES").map_or(4, |text| text.parse().unwrap());
    let mut opened = 0;
    for seed in 0..seeds {
        for degree in [2, 3, 4].map(|d| Degree::new(d).unwrap()).into_iter().chain([Degree::STAR]) {
            for strategy in Strategy::ALL {
                let suite = if seed % 2 == 0 { Suite::Aes128 } else { Suite::Aes256 };
                let history = History::live(seed, suite, degree, strategy, 3 + seed % 2);
                let case = format!("seed {seed}, degree {degree}, {strategy}");
                for (epoch, root) in (1..).zip(&history.roots) {
                    let has_right = |grant: &&Grant| (grant.from..grant.until).contains(&epoch);
                    let outsiders = history.grants.iter().filter(|grant| !has_right(grant));
                    let known = history.closure(outsiders.flat_map(|grant| grant.secrets.iter().copied()));
                    assert!(!known.contains(root), "{case}: epoch {epoch} is open to those without a right to it");
                    // The attacker is able: each member with a right gets there in the same way.
                    if epoch == u64::try_from(history.roots.len()).unwrap() {
                        for grant in history.grants.iter().filter(has_right) {
                            let known = history.closure(grant.secrets.iter().copied());
                            assert!(known.contains(root), "{case}: a member cannot follow");
                            opened += 1;
                        }
                    }
                }
            }
        }
    }
    println!("{opened} members followed in the attacker's way, and nobody else did");
    assert!(opened > 30);
}
