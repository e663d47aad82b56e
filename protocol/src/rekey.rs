//! The rekey message: what a change makes new, and how each member learns it.

use keygraph::{Degree, NodeId, ids};

use crate::codec::{DecodeError, Reader};
use crate::header::Commitment;

/// Octets of one wrap under suite `aes256`.
pub const WRAP: usize = 32;

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
    /// The new secret of the child with this index (0 to degree - 1).
    Derive(u8),
}

/// One k-node with a new secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The k-node.
    pub node: NodeId,
    /// Where its secret comes from.
    pub origin: Origin,
    /// The new secret under the k-node's own old one.
    pub own: Option<[u8; WRAP]>,
    /// The new secret under the newest secret of the child with this index; by ascending index.
    pub children: Vec<(u8, [u8; WRAP])>,
}

/// The part of a rekey message that is cut into 512-octet units. Header and signature stand beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RekeyMessage {
    /// Check value of the epoch's root secret.
    pub commitment: Commitment,
    /// What data processors are told.
    pub announcement: Announcement,
    /// Degree of the tree.
    pub degree: Degree,
    /// Largest k-node id after the change; a member finds its leaf from it.
    pub largest_knode: NodeId,
    /// The k-nodes with new secrets, by descending id: children before parents, the root last.
    pub entries: Vec<Entry>,
}

const ORIGIN: u8 = 0b0000_0011;
const EXPLICIT_ID: u8 = 0b0000_0100;
const OWN: u8 = 0b0000_1000;
const CHILDREN: u8 = 0b0001_0000;

impl RekeyMessage {
    /// Entries first, then all wraps in the order of the entries (own before children).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&self.commitment.0);
        self.announcement.encode(&mut out);
        out.push(self.degree.get());
        out.extend_from_slice(&self.largest_knode.0.to_be_bytes());
        out.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
        let mut wraps = Vec::new();
        let mut expected = None;
        for entry in &self.entries {
            entry.encode(self.degree, expected, &mut out, &mut wraps);
            expected = ids::parent(entry.node, self.degree);
        }
        out.extend_from_slice(&wraps);
        out
    }

    /// Reads a whole message; refuses every order, id and flag that [`RekeyMessage::encode`] does not write.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(octets);
        let commitment = Commitment(r.array("commitment")?);
        let announcement = Announcement::decode(&mut r)?;
        let degree = r.u8("degree")?;
        let degree = Degree::new(degree).map_err(|_| DecodeError::Value { what: "degree", value: degree.into() })?;
        let largest_knode = NodeId(r.u32("largest k-node")?);
        let count = r.u32("entries")?;
        let mut entries: Vec<Entry> = Vec::new();
        // Each entry takes at least one octet, so a lying count ends at the end of the message, not of memory.
        for _ in 0..count {
            let previous = entries.last().map(|e| e.node);
            entries.push(Entry::decode(&mut r, degree, previous)?);
        }
        for entry in &mut entries {
            if let Some(own) = &mut entry.own {
                *own = r.array("wrap")?;
            }
            for (_, wrap) in &mut entry.children {
                *wrap = r.array("wrap")?;
            }
        }
        r.end("rekey message")?;
        match entries.last() {
            Some(last) if last.node.0 == 0 => {}
            _ => {
                return Err(DecodeError::Text { what: "end of the entries (the root must be last)" });
            }
        }
        Ok(Self { commitment, announcement, degree, largest_knode, entries })
    }
}

impl Entry {
    fn encode(&self, degree: Degree, expected: Option<NodeId>, out: &mut Vec<u8>, wraps: &mut Vec<u8>) {
        let origin = match self.origin {
            Origin::Fresh => 0,
            Origin::Advance => 1,
            Origin::Derive(_) => 2,
        };
        let explicit = if expected == Some(self.node) { 0 } else { EXPLICIT_ID };
        let own = if self.own.is_some() { OWN } else { 0 };
        let children = if self.children.is_empty() { 0 } else { CHILDREN };
        out.push(origin | explicit | own | children);
        if explicit != 0 {
            out.extend_from_slice(&self.node.0.to_be_bytes());
        }
        if let Origin::Derive(child) = self.origin {
            out.push(child);
        }
        if children != 0 {
            let mut bits = vec![0u8; usize::from(degree.get()).div_ceil(8)];
            for (child, _) in &self.children {
                bits[usize::from(child / 8)] |= 1 << (child % 8);
            }
            out.extend_from_slice(&bits);
        }
        self.own.iter().for_each(|wrap| wraps.extend_from_slice(wrap));
        self.children.iter().for_each(|(_, wrap)| wraps.extend_from_slice(wrap));
    }

    fn decode(r: &mut Reader<'_>, degree: Degree, previous: Option<NodeId>) -> Result<Self, DecodeError> {
        let tag = r.u8("entry")?;
        let bad_tag = DecodeError::Value { what: "entry", value: tag.into() };
        if tag & !(ORIGIN | EXPLICIT_ID | OWN | CHILDREN) != 0 {
            return Err(bad_tag);
        }
        let implied = previous.and_then(|p| ids::parent(p, degree));
        let node = if tag & EXPLICIT_ID == 0 {
            implied.ok_or(bad_tag.clone())?
        } else {
            let node = NodeId(r.u32("k-node")?);
            // Descending order, and never spelt out where it is implied: one encoding per message.
            if previous.is_some_and(|p| node >= p) || implied == Some(node) {
                return Err(DecodeError::Value { what: "k-node", value: node.0.into() });
            }
            node
        };
        let child_index = |child: u8| match child < degree.get() {
            true => Ok(child),
            false => Err(DecodeError::Value { what: "child index", value: child.into() }),
        };
        let origin = match tag & ORIGIN {
            0 => Origin::Fresh,
            1 => Origin::Advance,
            2 => Origin::Derive(child_index(r.u8("child")?)?),
            _ => return Err(bad_tag),
        };
        let mut children = Vec::new();
        if tag & CHILDREN != 0 {
            let bits = r.take(usize::from(degree.get()).div_ceil(8), "children")?;
            for (byte, first) in bits.iter().zip((0u8..).step_by(8)) {
                for bit in (0..8u8).filter(|bit| byte & (1 << bit) != 0) {
                    children.push((child_index(first + bit)?, [0; WRAP]));
                }
            }
            if children.is_empty() {
                return Err(bad_tag);
            }
        }
        let own = (tag & OWN != 0).then_some([0; WRAP]);
        if origin == Origin::Advance && (own.is_some() || !children.is_empty()) {
            return Err(bad_tag);
        }
        Ok(Self { node, origin, own, children })
    }
}
