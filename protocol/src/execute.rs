//! Executes a symbolic plan: expands, advances, derives and wraps, and writes the rekey message.

use std::collections::BTreeMap;

use aes::Aes256;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use keygraph::ids::child_index;
use keygraph::{KeyRef, NodeId, Plan, Source, Update};
use thiserror::Error;
use zeroize::Zeroize;

use crate::header::Commitment;
use crate::rekey::{Announcement, Entry, Origin, RekeyMessage, WRAP};
use crate::schedule::EpochContext;
use crate::secret::{NodeSecret, Seed};

/// The secrets that the key server holds before the change, by k-node or leaf.
pub trait Secrets {
    /// The secret that is held for `key`; `None` if another version or nothing is held.
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret>;
}

/// A plan names what the key server does not hold: the plan belongs to another state of the tree.
/// This is a fault of Keystone itself; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExecuteError {
    /// No such secret is held.
    #[error("the plan needs the secret of k-node {} at version {}, which is not held", key.node.0, key.version)]
    Missing {
        /// Its name.
        key: KeyRef,
    },
    /// The plan and the context speak of different epochs.
    #[error("a plan for epoch {plan} cannot make epoch {context}")]
    Epoch {
        /// The plan's.
        plan: u64,
        /// The context's.
        context: u64,
    },
    /// The plan does not end at the root.
    #[error("the plan does not change the root")]
    NoRoot,
}

/// What executing a plan makes. Nothing of it is anywhere else yet, so it can be dropped.
#[derive(Debug)]
pub struct Executed {
    /// To be cut into units and multicast.
    pub message: RekeyMessage,
    /// Check value of the new root secret.
    pub commitment: Commitment,
    /// Every secret with a new version: k-nodes, fresh leaves, advanced leaves.
    pub secrets: BTreeMap<NodeId, NodeSecret>,
}

/// Executes `plan` in the epoch of `context`. Fresh secrets come from `seed`, so that the same plan, seed and
/// held secrets give the same octets again.
pub fn execute(
    plan: &Plan,
    context: &EpochContext,
    seed: &Seed,
    held: &impl Secrets,
    announcement: Announcement,
) -> Result<Executed, ExecuteError> {
    if plan.epoch != context.epoch {
        return Err(ExecuteError::Epoch { plan: plan.epoch, context: context.epoch });
    }
    let mut run = Run { plan, context, held, new: BTreeMap::new() };
    for (_, leaf) in &plan.joined {
        run.new.insert(*leaf, context.fresh(seed, *leaf));
    }
    let mut entries = Vec::with_capacity(plan.updates.len());
    for update in &plan.updates {
        let secret = run.make(update, seed)?;
        entries.push(run.entry(update, &secret)?);
        run.new.insert(update.node, secret);
    }
    for leaf in &plan.advanced_leaves {
        let next = context.advance(run.before(*leaf)?, *leaf);
        run.new.insert(leaf.node, next);
    }
    let root = run.new.get(&NodeId(0)).ok_or(ExecuteError::NoRoot)?;
    let commitment = context.commit(root);
    let message =
        RekeyMessage { commitment, announcement, degree: plan.degree, largest_knode: plan.largest_knode, entries };
    Ok(Executed { message, commitment, secrets: run.new })
}

struct Run<'a, S> {
    plan: &'a Plan,
    context: &'a EpochContext,
    held: &'a S,
    new: BTreeMap<NodeId, NodeSecret>,
}

impl<S: Secrets> Run<'_, S> {
    fn make(&self, update: &Update, seed: &Seed) -> Result<NodeSecret, ExecuteError> {
        Ok(match update.source {
            Source::Fresh => self.context.fresh(seed, update.node),
            Source::Advance { from } => {
                let from = KeyRef { node: update.node, version: from };
                self.context.advance(self.before(from)?, from)
            }
            Source::Derive { child } => {
                let child = KeyRef { node: child, version: self.plan.epoch };
                self.context.derive(self.newest(child)?, child, update.node)
            }
        })
    }

    fn entry(&self, update: &Update, secret: &NodeSecret) -> Result<Entry, ExecuteError> {
        let target = KeyRef { node: update.node, version: self.plan.epoch };
        let degree = self.plan.degree;
        let origin = match update.source {
            Source::Fresh => Origin::Fresh,
            Source::Advance { .. } => Origin::Advance,
            Source::Derive { child } => Origin::Derive(child_index(child, degree).ok_or(ExecuteError::NoRoot)?),
        };
        let mut entry = Entry { node: update.node, origin, own: None, children: Vec::new() };
        for kek in &update.wraps {
            let wrapped = wrap(self.context, self.newest(*kek)?, *kek, target, secret);
            if kek.node == update.node {
                entry.own = Some(wrapped);
            } else {
                let index = child_index(kek.node, degree).ok_or(ExecuteError::NoRoot)?;
                entry.children.push((index, wrapped));
            }
        }
        Ok(entry)
    }

    fn newest(&self, key: KeyRef) -> Result<&NodeSecret, ExecuteError> {
        match self.new.get(&key.node) {
            Some(secret) if key.version == self.plan.epoch => Ok(secret),
            _ => self.before(key),
        }
    }

    fn before(&self, key: KeyRef) -> Result<&NodeSecret, ExecuteError> {
        // A displaced leaf is named by its new place and still held at its old one.
        let moved = self.plan.moved.iter().find(|m| m.to == key.node);
        let node = moved.map_or(key.node, |m| m.from);
        self.held.secret(KeyRef { node, ..key }).ok_or(ExecuteError::Missing { key })
    }
}

/// AES-256-CBC without padding over exactly two blocks, under a key and IV that serve once.
pub(crate) fn wrap(
    context: &EpochContext,
    kek_secret: &NodeSecret,
    kek: KeyRef,
    target: KeyRef,
    secret: &NodeSecret,
) -> [u8; WRAP] {
    let one_time = context.wrap(kek_secret, kek, target);
    let mut cipher = cbc::Encryptor::<Aes256>::new(&one_time.key.into(), &one_time.iv.into());
    let mut out = [0; WRAP];
    for (plain, sealed) in secret.expose().chunks_exact(16).zip(out.chunks_exact_mut(16)) {
        let mut block = aes::Block::default();
        block.copy_from_slice(plain);
        cipher.encrypt_block(&mut block);
        sealed.copy_from_slice(&block);
    }
    out
}

/// The inverse of [`wrap`]. It cannot fail; a wrong key shows when the root misses its commitment.
pub(crate) fn unwrap(
    context: &EpochContext,
    kek_secret: &NodeSecret,
    kek: KeyRef,
    target: KeyRef,
    wrapped: &[u8; WRAP],
) -> NodeSecret {
    let one_time = context.wrap(kek_secret, kek, target);
    let mut cipher = cbc::Decryptor::<Aes256>::new(&one_time.key.into(), &one_time.iv.into());
    let mut plain = [0; WRAP];
    for (sealed, out) in wrapped.chunks_exact(16).zip(plain.chunks_exact_mut(16)) {
        let mut block = aes::Block::default();
        block.copy_from_slice(sealed);
        cipher.decrypt_block(&mut block);
        out.copy_from_slice(&block);
        block.as_mut_slice().zeroize();
    }
    let secret = NodeSecret::new(plain);
    plain.zeroize();
    secret
}
