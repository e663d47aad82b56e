//! The current wrapped key tree in pages, for members that re-synchronize where no key server answers.
//!
//! ```text
//! head: newest beacon, announcement, signature
//!   |-- directory: pages of (member, place)
//!   `-- tree: pages of (place, version, the nearest secret above wrapped under the one of this place)
//! ```
//!
//! Both are digest trees: a page, and an index above it, is named by its digest, so that nothing that stands is ever replaced, and
//! the one signature of the head is over all. Pages need no leaf secret to be wrapped: each step of a leaf's secret is the same,
//! and a check value tells the member how many it has missed. What a page holds follows from the tree and its secrets alone, so
//! every key server of a group makes the same.

mod book;
mod place;
mod walk;

use aws_lc_rs::digest::{SHA256, digest};
use keygraph::{Degree, KeyRef, MemberId, NodeId};
use thiserror::Error;

pub use book::{Book, Changed, Rewritten, Standing};
pub use place::{FOLDERS, KEPT_EPOCHS, MAX_PIECE, Units, epoch_name, epoch_pieces, head_name, now_name, page_name};
pub use walk::{Found, Step, Walk};

use crate::beacon::Beacon;
use crate::codec::{DecodeError, Reader, Write};
use crate::rekey::{Announcement, Wrapped, degree};
use crate::sign::{SignatureError, SigningKey, VerifyingKey, verify_any};
use crate::{Suite, unit};

/// Places to a page of the tree: 1.8 kB, and with the siblings of each of them mostly on the same page.
const PLACES: u32 = 32;
/// ID numbers to a page of the directory: 2 kB at the most.
const MEMBERS: u32 = 256;
/// Pages, or indexes, to an index: 2.1 kB.
const FAN: u32 = 64;
/// Octets of a page or index at the most: a full index has 2,115.
pub const MAX_PAGE: usize = 2_500;
/// Octets of a head at the most.
pub const MAX_HEAD: usize = Beacon::MAX_LEN + crate::sign::RSA_SIGNATURE + 128;
/// Heights of a digest tree at the most: 64^5 pages are more than there are places.
const MAX_HEIGHT: u8 = 5;

/// SHA-256 of a page or index; its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these octets.
    pub fn of(octets: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &[b"keystone/1 page\0", octets].concat()).as_ref());
        Self(out)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The top of a digest tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Top {
    /// Indexes between the top and a page; 0 is a page itself.
    pub height: u8,
    /// The top's name.
    pub digest: Digest,
}

/// What is signed of a group's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// A beacon of the epoch that the pages are of, as it was signed.
    pub beacon: Vec<u8>,
    /// Of that epoch.
    pub announcement: Announcement,
    /// Of the key tree.
    pub degree: Degree,
    /// Places and wraps.
    pub tree: Top,
    /// Members and their places.
    pub directory: Top,
}

/// Why pages do not give a member its keys. Nothing was changed; the key server has to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PagesError {
    /// Octets that are no head, page or index.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Of the head or its beacon.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// What was read is not what its name says.
    #[error("a page is not the one of its name")]
    Digest,
    /// The member is not in the directory of this epoch.
    #[error("the pages of epoch {epoch} do not have this member")]
    NotMember {
        /// Theirs.
        epoch: u64,
    },
    /// The leaf's secret is none that the member's leads to: it is fresh, or the member has missed too much.
    #[error("the leaf in the pages of epoch {epoch} does not follow from the one that is held")]
    Leaf {
        /// The pages'.
        epoch: u64,
    },
    /// The root that results is not the one that was signed.
    #[error("the group key does not match the signed commitment")]
    Commitment,
}

impl Head {
    /// Encodes and signs.
    ///
    /// # Errors
    /// The key does not sign for the suite; the beacon is none.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, PagesError> {
        let suite = Beacon::decode(&self.beacon)?.context.suite;
        let mut out = unit::prefix(unit::TYPE_PAGES).to_vec();
        out.put_octets(&self.beacon);
        self.announcement.encode(&mut out);
        out.push(self.degree.code());
        for top in [self.tree, self.directory] {
            out.push(top.height);
            out.extend_from_slice(&top.digest.0);
        }
        let signature = key.sign(suite, &signed(&out))?;
        out.extend_from_slice(&signature);
        Ok(out)
    }

    /// Reads, and verifies the signatures of the head and of the beacon in it.
    ///
    /// # Errors
    /// Malformed, or not signed by one of `keys`.
    pub fn open(octets: &[u8], keys: &[VerifyingKey]) -> Result<(Self, Beacon), PagesError> {
        let (head, beacon, body) = Self::decode(octets)?;
        verify_any(keys, beacon.context.suite, &signed(body), &octets[body.len()..])?;
        Beacon::verify(&head.beacon, keys)?;
        Ok((head, beacon))
    }

    /// Without verifying: the head, its beacon, and what is signed.
    fn decode(octets: &[u8]) -> Result<(Self, Beacon, &[u8]), DecodeError> {
        let mut r = Reader::new(octets);
        if r.array("prefix")? != unit::prefix(unit::TYPE_PAGES) {
            return Err(DecodeError::Value { what: "prefix", value: 0 });
        }
        let shown = r.octets(Beacon::MAX_LEN, "beacon")?;
        let beacon = Beacon::decode(shown)?;
        let announcement = Announcement::decode(&mut r)?;
        let degree = degree(r.u8("degree")?)?;
        let mut top = || {
            let height = r.u8("height")?;
            if height > MAX_HEIGHT {
                return Err(DecodeError::Value { what: "height", value: height.into() });
            }
            Ok(Top { height, digest: Digest(r.array("digest")?) })
        };
        let (tree, directory) = (top()?, top()?);
        let signature = beacon.context.suite.signature_len();
        let body = octets.len() - r.left();
        r.take(signature, "signature")?;
        r.end("head")?;
        Ok((Self { beacon: shown.to_vec(), announcement, degree, tree, directory }, beacon, &octets[..body]))
    }
}

fn signed(body: &[u8]) -> Vec<u8> {
    [b"keystone/1 pages\0", body].concat()
}

/// What stands under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Page {
    /// (which of the 64 below, its name), ascending.
    Index(Vec<(u8, Digest)>),
    /// Ascending by place.
    Tree(Vec<Place>),
    /// (member, place), ascending.
    Directory(Vec<(MemberId, NodeId)>),
}

/// One place of the wrapped tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    key: KeyRef,
    /// A leaf: whose, and the check value of its secret.
    leaf: Option<(MemberId, [u8; 8])>,
    /// The nearest secret above under the one that stands here.
    wrapped: Wrapped,
}

/// The names of the secrets of the places on a page, and what is wrapped under each, as everybody sees them who reads it; none on an
/// index or a page of the directory.
///
/// # Errors
/// It is no page.
pub fn places(octets: &[u8], suite: Suite) -> Result<Vec<(KeyRef, Wrapped)>, DecodeError> {
    Ok(match Page::decode(octets, suite)? {
        Page::Tree(places) => places.iter().map(|place| (place.key, place.wrapped)).collect(),
        Page::Index(_) | Page::Directory(_) => Vec::new(),
    })
}

impl Page {
    fn encode(&self, suite: Suite) -> Vec<u8> {
        let mut out = Vec::new();
        let (kind, count) = match self {
            Self::Index(below) => (1, below.len()),
            Self::Tree(places) => (2, places.len()),
            Self::Directory(members) => (3, members.len()),
        };
        out.push(kind);
        out.put_count(count);
        match self {
            Self::Index(below) => below.iter().for_each(|(at, digest)| {
                out.push(*at);
                out.extend_from_slice(&digest.0);
            }),
            Self::Tree(places) => places.iter().for_each(|place| {
                out.extend_from_slice(&place.key.node.0.to_be_bytes());
                out.extend_from_slice(&place.key.version.to_be_bytes());
                out.push(place.leaf.is_some().into());
                if let Some((member, check)) = place.leaf {
                    out.extend_from_slice(&member.0.to_be_bytes());
                    out.extend_from_slice(&check);
                }
                out.extend_from_slice(&place.wrapped[..suite.secret_len()]);
            }),
            Self::Directory(members) => members.iter().for_each(|(member, place)| {
                out.extend_from_slice(&member.0.to_be_bytes());
                out.extend_from_slice(&place.0.to_be_bytes());
            }),
        }
        out
    }

    fn decode(octets: &[u8], suite: Suite) -> Result<Self, DecodeError> {
        let mut r = Reader::new(octets);
        let kind = r.u8("kind of page")?;
        let most = match kind {
            1 => FAN,
            2 => PLACES,
            3 => MEMBERS,
            _ => return Err(DecodeError::Value { what: "kind of page", value: kind.into() }),
        };
        let count = r.count(usize::try_from(most).unwrap_or(usize::MAX), "items of a page")?;
        let page = match kind {
            1 => Self::Index(ascending(
                (0..count).map(|_| Ok((r.u8("index")?, Digest(r.array("digest")?)))).collect::<Result<_, _>>()?,
                |(at, _)| u32::from(*at),
            )?),
            2 => Self::Tree(ascending(
                (0..count).map(|_| Place::decode(&mut r, suite)).collect::<Result<_, _>>()?,
                |place| place.key.node.0,
            )?),
            _ => Self::Directory(ascending(
                (0..count)
                    .map(|_| Ok((MemberId(r.u32("member")?), NodeId(r.u32("place")?))))
                    .collect::<Result<_, DecodeError>>()?,
                |(member, _)| member.0,
            )?),
        };
        r.end("page")?;
        Ok(page)
    }
}

impl Place {
    fn decode(r: &mut Reader<'_>, suite: Suite) -> Result<Self, DecodeError> {
        let key = KeyRef { node: NodeId(r.u32("place")?), version: r.u64("version")? };
        let leaf = match r.flag("leaf")? {
            true => Some((MemberId(r.u32("member")?), r.array("check value")?)),
            false => None,
        };
        let mut wrapped = [0; 32];
        let len = suite.secret_len();
        wrapped[..len].copy_from_slice(r.take(len, "wrap")?);
        Ok(Self { key, leaf, wrapped })
    }
}

/// A page has one spelling.
fn ascending<T>(items: Vec<T>, by: impl Fn(&T) -> u32) -> Result<Vec<T>, DecodeError> {
    match items.windows(2).find(|pair| by(&pair[0]) >= by(&pair[1])) {
        Some(pair) => Err(DecodeError::Value { what: "order of a page", value: by(&pair[1]).into() }),
        None => Ok(items),
    }
}
