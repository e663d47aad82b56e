//! The member's side: from the head to its own path, page by page.

use std::collections::BTreeMap;

use keygraph::ids::path_to_root;
use keygraph::{KeyRef, MemberId, NodeId};

use super::{Digest, FAN, Head, MAX_PAGE, MEMBERS, PLACES, Page, PagesError, Place, Top};
use crate::beacon::Beacon;
use crate::cipher::unwrap;
use crate::codec::DecodeError;
use crate::member::KeyPath;
use crate::schedule::EpochContext;
use crate::secret::NodeSecret;
use crate::sign::VerifyingKey;

/// Steps of a leaf's secret that a member catches up on: a tenth of a second of work. One epoch takes one at the most.
const MAX_STEPS: u32 = 1 << 18;

/// A member on its way through the pages. Nothing that it is given is believed before its digest is checked, and what it wants
/// is bounded by the heights in the signed head.
#[derive(Debug)]
pub struct Walk {
    head: Head,
    beacon: Beacon,
    member: MemberId,
    pages: BTreeMap<Digest, Page>,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// These have to be read.
    Read(Vec<Digest>),
    /// All is there.
    Done(Box<Found>),
}

/// A member's path in wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    head: Head,
    beacon: Beacon,
    leaf: Place,
    check: [u8; 8],
    /// From the leaf up to the root's child.
    way: Vec<Place>,
}

/// What is missing, or why there is no way.
enum Halt {
    Missing(Vec<Digest>),
    Failed(PagesError),
}

impl From<PagesError> for Halt {
    fn from(error: PagesError) -> Self {
        Self::Failed(error)
    }
}

impl Walk {
    /// Begins with the head's octets.
    ///
    /// # Errors
    /// The head is malformed, or not signed by one of `keys`.
    pub fn new(head: &[u8], keys: &[VerifyingKey], member: MemberId) -> Result<Self, PagesError> {
        let (head, beacon) = Head::open(head, keys)?;
        Ok(Self { head, beacon, member, pages: BTreeMap::new() })
    }

    /// The beacon in the head, verified.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// Takes in one page that was wanted.
    ///
    /// # Errors
    /// It is not the one of this name, or malformed.
    pub fn give(&mut self, digest: Digest, octets: &[u8]) -> Result<(), PagesError> {
        if octets.len() > MAX_PAGE || Digest::of(octets) != digest {
            return Err(PagesError::Digest);
        }
        self.pages.insert(digest, Page::decode(octets, self.beacon.context.suite)?);
        Ok(())
    }

    /// What to read next, or the end of the way.
    ///
    /// # Errors
    /// The pages, whole or not, have no way for this member.
    pub fn step(&self) -> Result<Step, PagesError> {
        match self.find() {
            Ok(found) => Ok(Step::Done(Box::new(found))),
            Err(Halt::Missing(digests)) => Ok(Step::Read(digests)),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    fn find(&self) -> Result<Found, Halt> {
        let epoch = self.beacon.context.epoch;
        let Some(Page::Directory(members)) = self.page(self.head.directory, self.member.0 / MEMBERS)? else {
            return Err(PagesError::NotMember { epoch }.into());
        };
        let at = members.binary_search_by_key(&self.member, |(member, _)| *member);
        let (_, leaf) = members[at.map_err(|_| PagesError::NotMember { epoch })?];
        let (mut way, mut missing) = (Vec::new(), Vec::new());
        for node in path_to_root(leaf, self.head.degree).take_while(|node| *node != NodeId::ROOT) {
            match self.page(self.head.tree, node.0 / PLACES) {
                Ok(Some(Page::Tree(places))) => {
                    let at = places.binary_search_by_key(&node, |place| place.key.node);
                    way.extend(at.ok().map(|at| places[at]));
                }
                Ok(_) => {}
                Err(Halt::Missing(more)) => missing.extend(more),
                Err(failed) => return Err(failed),
            }
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            return Err(Halt::Missing(missing));
        }
        let own = way.first().copied().filter(|place| place.key.node == leaf);
        match own.and_then(|own| Some((own, own.leaf?))) {
            Some((own, (member, check))) if member == self.member => {
                Ok(Found { head: self.head.clone(), beacon: self.beacon, leaf: own, check, way })
            }
            _ => Err(PagesError::NotMember { epoch }.into()),
        }
    }

    /// The page with this number, if there is one.
    fn page(&self, top: Top, number: u32) -> Result<Option<&Page>, Halt> {
        let mut digest = top.digest;
        for height in (0..=top.height).rev() {
            let Some(page) = self.pages.get(&digest) else {
                return Err(Halt::Missing(vec![digest]));
            };
            let span = FAN.checked_pow(height.into());
            match page {
                // Numbers beyond what the top spans have no page.
                _ if height == top.height && span.is_some_and(|span| number >= span) => return Ok(None),
                Page::Index(below) if height > 0 => {
                    let within = number.checked_div(FAN.saturating_pow(u32::from(height) - 1)).unwrap_or(0) % FAN;
                    let at = below.binary_search_by_key(&within, |(at, _)| u32::from(*at));
                    let Ok(at) = at else { return Ok(None) };
                    digest = below[at].1;
                }
                Page::Tree(_) | Page::Directory(_) if height == 0 => return Ok(Some(page)),
                _ => {
                    let what = DecodeError::Value { what: "kind of page at height", value: height.into() };
                    return Err(PagesError::from(what).into());
                }
            }
        }
        Ok(None)
    }
}

impl Found {
    /// The beacon of the epoch, verified, and the octets that it is.
    pub fn beacon(&self) -> (&Beacon, &[u8]) {
        (&self.beacon, &self.head.beacon)
    }

    /// What the pages' epoch was announced with.
    pub fn announcement(&self) -> crate::rekey::Announcement {
        self.head.announcement
    }

    /// The member's path in the epoch of the pages, from any earlier secret of its leaf.
    ///
    /// # Errors
    /// [`PagesError::Leaf`], [`PagesError::Commitment`].
    pub fn open(&self, held: &KeyPath) -> Result<KeyPath, PagesError> {
        let context = self.beacon.context;
        let mut secret = self.leaf_secret(held).ok_or(PagesError::Leaf { epoch: context.epoch })?;
        let root = KeyRef { node: NodeId::ROOT, version: context.epoch };
        let mut keys = Vec::with_capacity(self.way.len() + 1);
        for (at, place) in self.way.iter().enumerate() {
            let target = self.way.get(at + 1).map_or(root, |above| above.key);
            let bound = EpochContext::lasting(context.suite, context.group, target.version);
            let above = unwrap(&bound, &secret, place.key, target, &place.wrapped);
            keys.push((place.key, std::mem::replace(&mut secret, above)));
        }
        keys.push((root, secret));
        let path = KeyPath::new(self.head.degree, self.leaf.key.node, keys)?;
        match path.commitment(&context) {
            Some(commitment) if commitment == self.beacon.commitment => Ok(path),
            _ => Err(PagesError::Commitment),
        }
    }

    fn leaf_secret(&self, held: &KeyPath) -> Option<NodeSecret> {
        let context = self.beacon.context;
        let (from, mut secret) = held.leaf_secret()?;
        let steps = u32::try_from(self.leaf.key.version.checked_sub(from)?).unwrap_or(MAX_STEPS).min(MAX_STEPS);
        for _ in 0..steps {
            if context.check_leaf(&secret, self.leaf.key) == self.check {
                return Some(secret);
            }
            secret = context.advance_leaf(&secret);
        }
        (context.check_leaf(&secret, self.leaf.key) == self.check).then_some(secret)
    }
}
