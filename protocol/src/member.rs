//! A member's half of the key tree: the secrets from its leaf to the root.

use std::collections::BTreeMap;

use keygraph::ids::{child, child_index, find_leaf, parent};
use keygraph::{Degree, KeyRef, NodeId};
use thiserror::Error;

use crate::codec::{DecodeError, Reader};
use crate::execute::unwrap;
use crate::header::Commitment;
use crate::rekey::{Entry, Origin, RekeyMessage};
use crate::schedule::EpochContext;
use crate::secret::NodeSecret;

/// Longest path: a binary tree whose node ids are below 2^31.
pub const MAX_PATH: usize = 32;

/// Why a rekey message did not give the next group key. The member's state is untouched; it re-synchronizes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The message is for a tree of another degree.
    #[error("the message is for degree {message}, the path for {path}")]
    Degree {
        /// The message's.
        message: u8,
        /// The member's.
        path: u8,
    },
    /// The leaf has no place in the tree of this message.
    #[error("leaf {leaf} has no place in a tree whose largest k-node is {largest_knode}")]
    NoPlace {
        /// The member's leaf.
        leaf: u32,
        /// The message's largest k-node.
        largest_knode: u32,
    },
    /// The message holds no way from what the member holds to this k-node's new secret.
    #[error("the message gives no way to the secret of k-node {node}")]
    NoWay {
        /// The k-node.
        node: u32,
    },
    /// The root that results is not the one that was signed.
    #[error("the group key does not match the signed commitment")]
    Commitment,
}

/// The secrets of one path, by k-node id; the leaf has the largest id, the root 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPath {
    degree: Degree,
    leaf: NodeId,
    keys: BTreeMap<NodeId, (u64, NodeSecret)>,
}

impl KeyPath {
    /// From a sealed reply. Refuses what is not exactly the way from `leaf` to the root.
    pub fn new(degree: Degree, leaf: NodeId, keys: Vec<(KeyRef, NodeSecret)>) -> Result<Self, DecodeError> {
        let way: Vec<NodeId> = std::iter::successors(Some(leaf), |at| parent(*at, degree)).collect();
        if leaf.0 == 0 || keys.len() != way.len() || keys.iter().zip(&way).any(|((key, _), at)| key.node != *at) {
            return Err(DecodeError::Value { what: "path of leaf", value: leaf.0.into() });
        }
        let keys = keys.into_iter().map(|(key, secret)| (key.node, (key.version, secret))).collect();
        Ok(Self { degree, leaf, keys })
    }

    /// The member's leaf.
    pub fn leaf(&self) -> NodeId {
        self.leaf
    }

    /// The names of all secrets that are held, root first.
    pub fn held(&self) -> impl Iterator<Item = KeyRef> + '_ {
        self.keys.iter().map(|(node, (version, _))| KeyRef { node: *node, version: *version })
    }

    /// The root's secret; its commitment, for a check against a signed one.
    pub fn commitment(&self, context: &EpochContext) -> Option<Commitment> {
        self.root().map(|root| context.commit(root))
    }

    /// The root's secret.
    pub fn root(&self) -> Option<&NodeSecret> {
        self.keys.get(&NodeId(0)).map(|(_, secret)| secret)
    }

    /// The path after `message`, which must come from a verified block of the epoch of `context`.
    pub fn apply(&self, context: &EpochContext, message: &RekeyMessage) -> Result<Self, ApplyError> {
        if message.degree != self.degree {
            return Err(ApplyError::Degree { message: message.degree.get(), path: self.degree.get() });
        }
        let no_place = ApplyError::NoPlace { leaf: self.leaf.0, largest_knode: message.largest_knode.0 };
        let leaf = find_leaf(self.leaf, message.largest_knode, self.degree).ok_or(no_place)?;
        let mut next = Self { degree: self.degree, leaf, keys: BTreeMap::new() };
        let way: Vec<NodeId> = std::iter::successors(Some(leaf), |at| parent(*at, self.degree)).collect();
        for node in &way {
            // A displaced leaf takes its secret along; what stood at its old id is a k-node now.
            let old = if *node == leaf { self.leaf } else { *node };
            if (*node == leaf || old != self.leaf)
                && let Some(held) = self.keys.get(&old)
            {
                next.keys.insert(*node, held.clone());
            }
        }
        let mut leaf_used = false;
        for entry in message.entries.iter().filter(|entry| way.contains(&entry.node)) {
            let below = way.iter().rev().find(|at| parent(**at, self.degree) == Some(entry.node));
            let (secret, by_leaf) = next.learn(context, entry, below.copied())?;
            leaf_used |= by_leaf;
            next.keys.insert(entry.node, (context.epoch, secret));
        }
        if let Some(missing) = way.iter().find(|node| !next.keys.contains_key(node)) {
            return Err(ApplyError::NoWay { node: missing.0 });
        }
        match next.keys.get(&NodeId(0)) {
            Some((version, root)) if *version == context.epoch && context.commit(root) == message.commitment => {}
            _ => return Err(ApplyError::Commitment),
        }
        if leaf_used && let Some((version, secret)) = next.keys.get(&leaf) {
            let advanced = context.advance(secret, KeyRef { node: leaf, version: *version });
            next.keys.insert(leaf, (context.epoch, advanced));
        }
        Ok(next)
    }

    /// The new secret of `entry`'s k-node, by whatever way is open; and whether the leaf's secret opened it.
    fn learn(
        &self,
        context: &EpochContext,
        entry: &Entry,
        below: Option<NodeId>,
    ) -> Result<(NodeSecret, bool), ApplyError> {
        let no_way = ApplyError::NoWay { node: entry.node.0 };
        let target = KeyRef { node: entry.node, version: context.epoch };
        let held =
            |node: NodeId| self.keys.get(&node).map(|(version, secret)| (KeyRef { node, version: *version }, secret));
        if entry.origin == Origin::Advance {
            let (from, secret) = held(entry.node).ok_or(no_way)?;
            return Ok((context.advance(secret, from), false));
        }
        let below = below.ok_or(no_way.clone())?;
        if let Origin::Derive(index) = entry.origin
            && child(entry.node, index, self.degree) == Some(below)
        {
            let (from, secret) = held(below).filter(|(key, _)| key.version == context.epoch).ok_or(no_way)?;
            return Ok((context.derive(secret, from, entry.node), false));
        }
        let index = child_index(below, self.degree);
        if let Some((_, wrapped)) = entry.children.iter().find(|(child, _)| Some(*child) == index) {
            let (kek, secret) = held(below).ok_or(no_way)?;
            return Ok((unwrap(context, secret, kek, target, wrapped), below == self.leaf));
        }
        let wrapped = entry.own.as_ref().ok_or(no_way.clone())?;
        let (kek, secret) = held(entry.node).ok_or(no_way)?;
        Ok((unwrap(context, secret, kek, target, wrapped), false))
    }

    /// Appends degree, leaf and secrets, leaf first.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.degree.get());
        out.extend_from_slice(&self.leaf.0.to_be_bytes());
        out.push(u8::try_from(self.keys.len()).unwrap_or(u8::MAX));
        for (version, secret) in self.keys.values().rev() {
            out.extend_from_slice(&version.to_be_bytes());
            out.extend_from_slice(secret.expose());
        }
    }

    /// Reads what [`KeyPath::encode`] writes.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let degree = r.u8("degree")?;
        let degree = Degree::new(degree).map_err(|_| DecodeError::Value { what: "degree", value: degree.into() })?;
        let leaf = NodeId(r.u32("leaf")?);
        let count = usize::from(r.u8("path length")?);
        if count > MAX_PATH {
            return Err(DecodeError::Limit { what: "path length", have: count, limit: MAX_PATH });
        }
        let way = std::iter::successors(Some(leaf), |at| parent(*at, degree)).take(count);
        let keys = way
            .map(|node| {
                let version = r.u64("version")?;
                Ok((KeyRef { node, version }, NodeSecret::new(r.array("secret")?)))
            })
            .collect::<Result<Vec<_>, DecodeError>>()?;
        if keys.len() != count {
            return Err(DecodeError::Limit { what: "path length", have: count, limit: keys.len() });
        }
        Self::new(degree, leaf, keys)
    }
}
