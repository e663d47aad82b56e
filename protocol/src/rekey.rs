//! The rekey message: what a change makes new, and how each member learns it.

use keygraph::{Degree, NodeId};
use smallvec::SmallVec;

use crate::Suite;
use crate::codec::{DecodeError, Reader};
use crate::header::Commitment;

mod entry;

/// A secret under a one-time key: as many octets as the suite's secrets have, and zeros up to 32.
pub type Wrapped = [u8; 32];

/// Why a group's key changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Somebody joined.
    Join = 1,
    /// Somebody left by choice.
    Leave = 2,
    /// Somebody was evicted: a revocation, without overlap of old and new key.
    Evict = 3,
    /// The period of the group key was over.
    Refresh = 4,
    /// A key server began a new reign.
    Restart = 5,
    /// A member registered again; its old state is worth nothing.
    Renew = 6,
    /// Several of join, leave and renew at once.
    Batch = 7,
}

impl Reason {
    /// Senders stop using the old key at once.
    pub fn revokes(self) -> bool {
        self == Self::Evict
    }
}

impl TryFrom<u8> for Reason {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        Ok(match value {
            1 => Self::Join,
            2 => Self::Leave,
            3 => Self::Evict,
            4 => Self::Refresh,
            5 => Self::Restart,
            6 => Self::Renew,
            7 => Self::Batch,
            _ => {
                return Err(DecodeError::Value { what: "reason", value: value.into() });
            }
        })
    }
}

/// What data processors are told of a new key: why, and when. Delays are relative to its arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Why the key changed.
    pub reason: Reason,
    /// Milliseconds that a sender waits before it uses the key, so that receivers have it first. 0 when revoking.
    pub send_delay_ms: u32,
    /// Milliseconds for which receivers keep the key before this one.
    pub keep_old_ms: u32,
}

impl Announcement {
    /// Octets on the wire.
    pub const LEN: usize = 9;

    /// Appends the 9 octets.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.reason as u8);
        out.extend_from_slice(&self.send_delay_ms.to_be_bytes());
        out.extend_from_slice(&self.keep_old_ms.to_be_bytes());
    }

    /// Reads the 9 octets.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            reason: r.u8("reason")?.try_into()?,
            send_delay_ms: r.u32("send delay")?,
            keep_old_ms: r.u32("overlap")?,
        })
    }
}

/// Where the new secret of a k-node comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody can compute it: it comes by wrap.
    Fresh,
    /// The k-node's old secret, one step on.
    Advance,
    /// The new secret of a child, or of what stands in the stead of a child that is spliced out.
    Derive {
        /// Index of the child, 0 to degree - 1.
        child: u32,
    },
}

/// One k-node with a new secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The k-node.
    pub node: NodeId,
    /// Where its secret comes from.
    pub origin: Origin,
    /// The new secret under the k-node's own old one.
    pub own: Option<Wrapped>,
    /// The new secret under the newest secret of the child with this index, or of what stands in its stead; by
    /// ascending index.
    pub children: SmallVec<[(u32, Wrapped); 1]>,
    /// The new secret under the key of the first wrap of the whole message.
    pub again: Option<Wrapped>,
}

/// Whom one of several messages of an epoch is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// Members below this place, or at it,
    pub below: NodeId,
    /// but not below the children of it that have these indices; ascending.
    pub except: Vec<u32>,
}

/// The part of a rekey message that is cut into 512-octet units. Header and signature stand beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RekeyMessage {
    /// The group's suite. It is in the header, not here, and says how long a wrap is.
    pub suite: Suite,
    /// Check value of the epoch's root secret.
    pub commitment: Commitment,
    /// What data processors are told.
    pub announcement: Announcement,
    /// Degree of the tree.
    pub degree: Degree,
    /// Largest k-node id after the change; a member finds its leaf from it.
    pub largest_knode: NodeId,
    /// Whom the message is for; `None` if for everybody.
    pub audience: Option<Audience>,
    /// Leaves that were moved and cannot be found from the largest k-node: from, to; by ascending place before.
    pub moves: Vec<(NodeId, NodeId)>,
    /// K-nodes that have no secret any more; by descending place.
    pub spliced: Vec<NodeId>,
    /// The k-nodes with new secrets, by descending place: children before parents, the root last.
    pub entries: Vec<Entry>,
}

/// Flags of a message.
const HAS_AUDIENCE: u8 = 1;
const HAS_MOVES: u8 = 2;
const HAS_SPLICES: u8 = 4;

impl RekeyMessage {
    /// Octets before the entries of a message without audience, moves and splices.
    pub const HEAD: usize = 32 + Announcement::LEN + 1 + 1 + 4 + 4;

    /// Entries first, then all wraps in the order of the entries (own, children, again).
    pub fn encode(&self) -> Vec<u8> {
        let wrap = self.suite.secret_len();
        let mut out = Vec::with_capacity(Self::HEAD + self.entries.len() * 6 + self.wraps() * wrap);
        out.extend_from_slice(&self.commitment.0);
        self.announcement.encode(&mut out);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        out.push(
            flag(self.audience.is_some(), HAS_AUDIENCE)
                | flag(!self.moves.is_empty(), HAS_MOVES)
                | flag(!self.spliced.is_empty(), HAS_SPLICES),
        );
        out.push(self.degree.code());
        out.extend_from_slice(&self.largest_knode.0.to_be_bytes());
        put_count(&mut out, self.entries.len());
        if let Some(audience) = &self.audience {
            out.extend_from_slice(&audience.below.0.to_be_bytes());
            entry::put_set(&mut out, self.degree, &audience.except);
        }
        if !self.moves.is_empty() {
            put_count(&mut out, self.moves.len());
            for (from, to) in &self.moves {
                out.extend_from_slice(&from.0.to_be_bytes());
                out.extend_from_slice(&to.0.to_be_bytes());
            }
        }
        if !self.spliced.is_empty() {
            put_count(&mut out, self.spliced.len());
            self.spliced.iter().for_each(|node| out.extend_from_slice(&node.0.to_be_bytes()));
        }
        let mut previous = None;
        for entry in &self.entries {
            entry.encode(self.degree, previous, &mut out);
            previous = Some(entry.node);
        }
        for wrapped in self.entries.iter().flat_map(Entry::wraps) {
            out.extend_from_slice(&wrapped[..wrap]);
        }
        out
    }

    /// Reads a whole message; refuses every order, id and flag that [`RekeyMessage::encode`] does not write.
    pub fn decode(octets: &[u8], suite: Suite) -> Result<Self, DecodeError> {
        let mut r = Reader::new(octets);
        let commitment = Commitment(r.array("commitment")?);
        let announcement = Announcement::decode(&mut r)?;
        let flags = r.u8("flags")?;
        if flags & !(HAS_AUDIENCE | HAS_MOVES | HAS_SPLICES) != 0 {
            return Err(DecodeError::Value { what: "flags", value: flags.into() });
        }
        let degree = degree(r.u8("degree")?)?;
        let largest_knode = NodeId(r.u32("largest k-node")?);
        let count = r.u32("entries")?;
        let audience = match flags & HAS_AUDIENCE {
            0 => None,
            _ => Some(Audience { below: NodeId(r.u32("audience")?), except: entry::set(&mut r, degree)? }),
        };
        // Whatever is counted takes octets, so a lying count ends at the end of the message, not of memory.
        let mut moves: Vec<(NodeId, NodeId)> = Vec::new();
        for _ in 0..count_if(flags & HAS_MOVES, &mut r, "moves")? {
            let one = (NodeId(r.u32("moved from")?), NodeId(r.u32("moved to")?));
            ascending(moves.last().is_none_or(|last| last.0 < one.0), "moved from", one.0)?;
            moves.push(one);
        }
        let mut spliced: Vec<NodeId> = Vec::new();
        for _ in 0..count_if(flags & HAS_SPLICES, &mut r, "spliced k-nodes")? {
            let one = NodeId(r.u32("spliced k-node")?);
            ascending(spliced.last().is_none_or(|last| *last > one), "spliced k-node", one)?;
            spliced.push(one);
        }
        let mut entries: Vec<Entry> = Vec::new();
        let wrap = suite.secret_len();
        let mut due = 0;
        for _ in 0..count {
            let previous = entries.last().map(|entry| entry.node);
            let entry = Entry::decode(&mut r, degree, previous)?;
            due += wrap * entry.wraps().count();
            // An octet can announce 64 wraps: nothing is set aside for what cannot be there.
            if due > octets.len() {
                return Err(DecodeError::Truncated { what: "wraps", need: due, have: octets.len() });
            }
            entries.push(entry);
        }
        for wrapped in entries.iter_mut().flat_map(Entry::wraps_mut) {
            wrapped[..wrap].copy_from_slice(r.take(wrap, "wrap")?);
        }
        r.end("rekey message")?;
        match entries.last() {
            Some(last) if last.node.0 == 0 => {}
            _ => {
                return Err(DecodeError::Text { what: "end of the entries (the root must be last)" });
            }
        }
        Ok(Self { suite, commitment, announcement, degree, largest_knode, audience, moves, spliced, entries })
    }

    /// Wraps in the message.
    pub fn wraps(&self) -> usize {
        self.entries.iter().map(|entry| entry.wraps().count()).sum()
    }
}

impl Entry {
    /// All wraps in the order of the wire.
    pub fn wraps(&self) -> impl Iterator<Item = &Wrapped> {
        self.own.iter().chain(self.children.iter().map(|(_, wrapped)| wrapped)).chain(&self.again)
    }

    fn wraps_mut(&mut self) -> impl Iterator<Item = &mut Wrapped> {
        self.own.iter_mut().chain(self.children.iter_mut().map(|(_, wrapped)| wrapped)).chain(&mut self.again)
    }
}

/// A degree's octet.
pub(crate) fn degree(code: u8) -> Result<Degree, DecodeError> {
    Degree::from_code(code).map_err(|_| DecodeError::Value { what: "degree", value: code.into() })
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

/// A count that stands only if its flag does, and then is not 0: one encoding per message.
fn count_if(flag: u8, r: &mut Reader<'_>, what: &'static str) -> Result<u32, DecodeError> {
    match flag {
        0 => Ok(0),
        _ => match r.u32(what)? {
            0 => Err(DecodeError::Value { what, value: 0 }),
            count => Ok(count),
        },
    }
}

fn ascending(in_order: bool, what: &'static str, node: NodeId) -> Result<(), DecodeError> {
    if in_order { Ok(()) } else { Err(DecodeError::Value { what, value: node.0.into() }) }
}
