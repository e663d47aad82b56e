//! Names: of members, k-nodes, u-nodes and secrets.

use std::fmt;
use std::str::FromStr;

use crate::error::{DegreeError, UnknownStrategy};

/// A client's ID number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u32);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The place of a k-node or u-node, numbered breadth-first over the full tree: the root is 0, the children of m
/// are `d*m + 1 ..= d*m + d`. At most [`ids::MAX_NODE`](crate::ids::MAX_NODE) in a tree. The default is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root k-node, whose secret is the group key's.
    pub const ROOT: Self = Self(0);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The epoch in which a secret was made. Epochs only rise, so (place, version) never names two secrets, and a
/// place that was given up needs no tombstone.
pub type Version = u64;

/// Names one secret for ever. A displaced leaf secret has a second name, at its new place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// Its k-node or u-node.
    pub node: NodeId,
    /// The epoch that made it.
    pub version: Version,
}

/// How many children a k-node has at most: 2 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Degree(u8);

impl Degree {
    /// The smallest degree that makes a tree.
    pub const MIN: u8 = 2;
    /// The cost of a leave has its minimum near degree 4 and only grows beyond; 64 leaves room for experiments
    /// and keeps a k-node's children within one 64-bit mask.
    pub const MAX: u8 = 64;

    /// Checks the bounds.
    pub fn new(degree: u8) -> Result<Self, DegreeError> {
        if (Self::MIN..=Self::MAX).contains(&degree) { Ok(Self(degree)) } else { Err(DegreeError { degree }) }
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Degree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How new secrets reach the members. Its name in configurations: `group`, `chain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Strategy {
    /// Group-oriented rekeying (Wong, Gouda, Lam): every new secret is fresh; one message carries it wrapped
    /// under the children's keys, or under its own old one where only members joined.
    Group,
    /// One-way function chain (Canetti et al. 1999): where nobody left, a secret is advanced and nothing sent;
    /// elsewhere each new secret is derived from a new child and wrapped for the other children only.
    #[default]
    Chain,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "group",
            Self::Chain => "chain",
        })
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;
    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        match name {
            "group" => Ok(Self::Group),
            "chain" => Ok(Self::Chain),
            // A name from a configuration is quoted in the error, but not at any length.
            _ => Err(UnknownStrategy { name: name.chars().take(32).collect() }),
        }
    }
}
