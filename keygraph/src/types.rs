//! Names: of members, k-nodes, u-nodes and secrets.

use std::fmt;
use std::str::FromStr;

use crate::error::{DegreeError, UnknownStrategy};
use crate::ids::MAX_NODE;

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

/// How many children a k-node has at most: 2 to 64 in a tree; in a star the root has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Degree(u32);

impl Degree {
    /// The smallest degree that makes a tree.
    pub const MIN: u8 = 2;
    /// The cost of a leave has its minimum near degree 4 and only grows beyond; 64 leaves room for experiments.
    pub const MAX: u8 = 64;
    /// A tree of the smallest.
    pub const BINARY: Self = Self(2);
    /// One k-node, and every member's leaf below it (Wong, Gouda, Lam: a star): as many children as there are ids, so
    /// that the numbering of the trees and everything built on it holds for the star as it is.
    pub const STAR: Self = Self(MAX_NODE);

    /// A tree's. Checks the bounds.
    pub fn new(degree: u8) -> Result<Self, DegreeError> {
        if (Self::MIN..=Self::MAX).contains(&degree) { Ok(Self(degree.into())) } else { Err(DegreeError { degree }) }
    }

    /// The number: 2 to 64, or [`MAX_NODE`] in a star.
    pub fn get(self) -> u32 {
        self.0
    }

    /// One octet for it: 2 to 64, or 0 for the star.
    pub fn code(self) -> u8 {
        u8::try_from(self.0).unwrap_or(0)
    }

    /// The degree that has this octet.
    pub fn from_code(code: u8) -> Result<Self, DegreeError> {
        if code == 0 { Ok(Self::STAR) } else { Self::new(code) }
    }
}

impl fmt::Display for Degree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::STAR { f.write_str("star") } else { write!(f, "{}", self.0) }
    }
}

/// How new secrets reach the members. The names in configurations are those in lower case.
///
/// Members need not know it: every message says what it does. So a group can change its strategy at any rekey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Strategy {
    /// User-oriented rekeying (Wong, Gouda, Lam): for each set of members that share a key and need the same new secrets,
    /// one message with all of these under that key.
    User,
    /// Key-oriented rekeying (Wong, Gouda, Lam): the same messages to the same members, made of the wraps that
    /// [`Strategy::Group`] makes, each made once and sent wherever it is needed.
    Key,
    /// Group-oriented rekeying (Wong, Gouda, Lam): every new secret is fresh; one message carries it wrapped
    /// under the children's keys, or under its own old one where only members joined.
    Group,
    /// Between key- and group-oriented (Wong, Gouda, Lam): one message for the members below each child of the root.
    Hybrid,
    /// One-way function chain (Canetti et al. 1999): where nobody left, a secret is advanced and nothing sent;
    /// elsewhere each new secret is derived from a new child and wrapped for the other children only.
    #[default]
    Chain,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::User, Self::Key, Self::Group, Self::Hybrid, Self::Chain];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Group => "group",
            Self::Hybrid => "hybrid",
            Self::Chain => "chain",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;
    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        // A name from a configuration is quoted in the error, but not at any length.
        let unknown = || UnknownStrategy { name: name.chars().take(32).collect() };
        Self::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or_else(unknown)
    }
}
