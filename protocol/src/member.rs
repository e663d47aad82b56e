//! A member's half of the key tree: the secrets from its leaf to the root.

use std::collections::BTreeMap;

use keygraph::ids::{child_index, child_towards, find_leaf, parent, path_to_root};
use keygraph::{Degree, KeyRef, NodeId};
use thiserror::Error;

use crate::cipher::unwrap;
use crate::codec::{DecodeError, Reader};
use crate::header::Commitment;
use crate::rekey::{Audience, Entry, Origin, RekeyMessage, Wrapped, degree};
use crate::schedule::EpochContext;
use crate::secret::NodeSecret;

/// Why a rekey message did not give the next group key. The member's state is untouched; it re-synchronizes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The message is for a tree of another degree.
    #[error("the message is for degree {message}, the path for {path}")]
    Degree {
        /// The message's.
        message: Degree,
        /// The member's.
        path: Degree,
    },
    /// The message is one of several of its epoch, and for other members. Nothing is wrong.
    #[error("the message is for the members below {below}")]
    NotAddressed {
        /// Their place.
        below: u32,
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

/// The secrets of one path, by place; the leaf has the largest id, the root 0. A k-node of the path without a secret is
/// spliced out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPath {
    degree: Degree,
    leaf: NodeId,
    keys: BTreeMap<NodeId, (u64, NodeSecret)>,
}

/// Stands for the version of a k-node that is spliced out.
const SPLICED: u64 = u64::MAX;

impl KeyPath {
    /// From a sealed reply: the leaf's secret first, the root's last. Refuses what is not on the way from `leaf` to the
    /// root.
    pub fn new(degree: Degree, leaf: NodeId, keys: Vec<(KeyRef, NodeSecret)>) -> Result<Self, DecodeError> {
        let bad = DecodeError::Value { what: "path of leaf", value: leaf.0.into() };
        let mut way = path_to_root(leaf, degree);
        let on_the_way = keys.iter().all(|(key, _)| way.any(|at| at == key.node));
        let ends = (keys.first().map(|(key, _)| key.node), keys.last().map(|(key, _)| key.node));
        if leaf == NodeId::ROOT || !on_the_way || ends != (Some(leaf), Some(NodeId::ROOT)) {
            return Err(bad);
        }
        let keys = keys.into_iter().map(|(key, secret)| (key.node, (key.version, secret))).collect();
        Ok(Self { degree, leaf, keys })
    }

    /// The member's leaf.
    pub fn leaf(&self) -> NodeId {
        self.leaf
    }

    /// The version of the leaf's secret, and the secret.
    pub(crate) fn leaf_secret(&self) -> Option<(u64, NodeSecret)> {
        self.keys.get(&self.leaf).cloned()
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
            return Err(ApplyError::Degree { message: message.degree, path: self.degree });
        }
        let no_place = ApplyError::NoPlace { leaf: self.leaf.0, largest_knode: message.largest_knode.0 };
        let named = message.moves.binary_search_by_key(&self.leaf, |(from, _)| *from).ok();
        let leaf = match named {
            Some(at) => message.moves[at].1,
            None => find_leaf(self.leaf, message.largest_knode, self.degree).ok_or_else(|| no_place.clone())?,
        };
        let way: Vec<NodeId> = path_to_root(leaf, self.degree).collect();
        if let Some(audience) = message.audience.as_ref().filter(|audience| !audience.is_at(&way, self.degree)) {
            return Err(ApplyError::NotAddressed { below: audience.below.0 });
        }
        let (version, secret) = self.keys.get(&self.leaf).ok_or(no_place)?;
        let own = (KeyRef { node: self.leaf, version: *version }, secret);
        let gone = |node: &NodeId| message.spliced.binary_search_by(|spliced| node.cmp(spliced)).is_ok();
        let kept = way[1..].iter().filter(|node| **node != self.leaf && !gone(node));
        let keys = kept.filter_map(|node| Some((*node, self.keys.get(node)?.clone()))).collect();
        let mut climb = Climb { context, leaf, own, way, keys, first: None, leaf_used: leaf != self.leaf };
        for entry in &message.entries {
            if climb.way.contains(&entry.node) {
                let secret = climb.learn(entry, self.degree).ok_or(ApplyError::NoWay { node: entry.node.0 })?;
                climb.keys.insert(entry.node, (context.epoch, secret));
            }
        }
        match climb.keys.get(&NodeId::ROOT) {
            Some((version, root)) if *version == context.epoch && context.commit(root) == message.commitment => {}
            _ => return Err(ApplyError::Commitment),
        }
        let (old, secret) = climb.own;
        let own = match climb.leaf_used {
            true => (context.epoch, context.advance_leaf(secret)),
            false => (old.version, secret.clone()),
        };
        let mut keys = climb.keys;
        keys.insert(leaf, own);
        Ok(Self { degree: self.degree, leaf, keys })
    }

    /// Appends degree, leaf and secrets, leaf first.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.degree.code());
        out.extend_from_slice(&self.leaf.0.to_be_bytes());
        for node in path_to_root(self.leaf, self.degree) {
            match self.keys.get(&node) {
                Some((version, secret)) => {
                    out.extend_from_slice(&version.to_be_bytes());
                    out.extend_from_slice(secret.expose());
                }
                None => out.extend_from_slice(&SPLICED.to_be_bytes()),
            }
        }
    }

    /// Reads what [`KeyPath::encode`] writes.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let degree = degree(r.u8("degree")?)?;
        let leaf = NodeId(r.u32("leaf")?);
        let mut keys = Vec::new();
        for node in path_to_root(leaf, degree) {
            match r.u64("version")? {
                SPLICED => {}
                version => keys.push((KeyRef { node, version }, NodeSecret::new(r.array("secret")?))),
            }
        }
        Self::new(degree, leaf, keys)
    }
}

impl Audience {
    /// Whether a member with this way from its leaf to the root is meant.
    fn is_at(&self, way: &[NodeId], degree: Degree) -> bool {
        let except = |node: &NodeId| {
            parent(*node, degree) == Some(self.below)
                && child_index(*node, degree).is_some_and(|at| self.except.contains(&at))
        };
        way.contains(&self.below) && !way.iter().any(except)
    }
}

/// A member on its way up through a message.
struct Climb<'a> {
    context: &'a EpochContext,
    /// Where the leaf stands now.
    leaf: NodeId,
    /// The leaf's secret as it was up to now, and under its old name.
    own: (KeyRef, &'a NodeSecret),
    /// From the leaf to the root.
    way: Vec<NodeId>,
    /// What is known of the k-nodes so far.
    keys: BTreeMap<NodeId, (u64, NodeSecret)>,
    /// The key of the first wrap that was opened.
    first: Option<(KeyRef, NodeSecret)>,
    leaf_used: bool,
}

impl Climb<'_> {
    /// The new secret of `entry`'s k-node, by whatever way is open.
    fn learn(&mut self, entry: &Entry, degree: Degree) -> Option<NodeSecret> {
        if entry.origin == Origin::Advance
            && let Some((from, secret)) = self.held(entry.node)
        {
            return Some(self.context.advance(secret, from));
        }
        let (below, secret) = self.below(entry.node)?;
        let child = child_index(child_towards(entry.node, *self.way.first()?, degree)?, degree)?;
        if entry.origin == (Origin::Derive { child }) {
            // It has to be new itself, or what is derived would be no news.
            return (below.version == self.context.epoch).then(|| self.context.derive(secret, below, entry.node));
        }
        if let Some((_, wrapped)) = entry.children.iter().find(|(index, _)| *index == child) {
            let secret = secret.clone();
            return Some(self.open(entry.node, below, secret, wrapped));
        }
        if let Some(wrapped) = &entry.own {
            let (kek, secret) = self.held(entry.node)?;
            let secret = secret.clone();
            return Some(self.open(entry.node, kek, secret, wrapped));
        }
        let (kek, secret) = self.first.clone()?;
        let wrapped = entry.again.as_ref()?;
        Some(self.open(entry.node, kek, secret, wrapped))
    }

    fn open(&mut self, node: NodeId, kek: KeyRef, secret: NodeSecret, wrapped: &Wrapped) -> NodeSecret {
        let target = KeyRef { node, version: self.context.epoch };
        let opened = unwrap(self.context, &secret, kek, target, wrapped);
        self.leaf_used |= kek == self.own.0;
        self.first.get_or_insert((kek, secret));
        opened
    }

    fn held(&self, node: NodeId) -> Option<(KeyRef, &NodeSecret)> {
        self.keys.get(&node).map(|(version, secret)| (KeyRef { node, version: *version }, secret))
    }

    /// The nearest secret below a k-node of the way.
    fn below(&self, node: NodeId) -> Option<(KeyRef, &NodeSecret)> {
        let down = self.way.iter().rev().skip_while(|at| **at != node).skip(1);
        let mut held = down.filter_map(|at| if *at == self.leaf { Some(self.own) } else { self.held(*at) });
        held.next()
    }
}
