//! One entry of a rekey message in as few octets as its form allows: one, for most entries of a chain.
//!
//! ```text
//! tag | k-node (4, if not the parent of the entry before) | child it is derived from | children wrapped for
//! ```

use keygraph::{Degree, NodeId, ids};
use smallvec::SmallVec;

use crate::codec::{DecodeError, Reader};

use super::{Entry, Origin};

const ORIGIN: u8 = 0b0000_0011;
const FRESH: u8 = 0;
const ADVANCE: u8 = 1;
/// Derived from the child that the entry before is, or stands below of.
const DERIVE_LAST: u8 = 2;
const DERIVE: u8 = 3;
const EXPLICIT_ID: u8 = 0b0000_0100;
const OWN: u8 = 0b0000_1000;
const CHILDREN: u8 = 0b0011_0000;
/// Every child but the one that the secret is derived from.
const ALL: u8 = 0b0001_0000;
const SOME: u8 = 0b0010_0000;
const ONE: u8 = 0b0011_0000;
const AGAIN: u8 = 0b0100_0000;

impl Entry {
    pub(super) fn encode(&self, degree: Degree, previous: Option<NodeId>, out: &mut Vec<u8>) {
        let (origin, derived) = match self.origin {
            Origin::Fresh => (FRESH, None),
            Origin::Advance => (ADVANCE, None),
            Origin::Derive { child } if last_child(self.node, previous, degree) == Some(child) => {
                (DERIVE_LAST, Some(child))
            }
            Origin::Derive { child } => (DERIVE, Some(child)),
        };
        let explicit = if implied(previous, degree) == Some(self.node) { 0 } else { EXPLICIT_ID };
        let own = if self.own.is_some() { OWN } else { 0 };
        let again = if self.again.is_some() { AGAIN } else { 0 };
        let children: SmallVec<[u32; 4]> = self.children.iter().map(|(child, _)| *child).collect();
        let form = match children.as_slice() {
            [] => 0,
            _ if is_all(&children, derived, degree) => ALL,
            [_] => ONE,
            _ => SOME,
        };
        out.push(origin | explicit | own | form | again);
        if explicit != 0 {
            out.extend_from_slice(&self.node.0.to_be_bytes());
        }
        if let (DERIVE, Some(child)) = (origin, derived) {
            put_index(out, degree, child);
        }
        match form {
            ONE => children.iter().for_each(|child| put_index(out, degree, *child)),
            SOME => put_set(out, degree, &children),
            _ => {}
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>, degree: Degree, previous: Option<NodeId>) -> Result<Self, DecodeError> {
        let tag = r.u8("entry")?;
        let bad_tag = DecodeError::Value { what: "entry", value: tag.into() };
        if tag & !(ORIGIN | EXPLICIT_ID | OWN | CHILDREN | AGAIN) != 0 {
            return Err(bad_tag);
        }
        let implied = implied(previous, degree);
        let node = if tag & EXPLICIT_ID == 0 {
            implied.ok_or_else(|| bad_tag.clone())?
        } else {
            let node = NodeId(r.u32("k-node")?);
            // Descending order, and never spelt out where it is implied: one encoding per message.
            if previous.is_some_and(|p| node >= p) || implied == Some(node) {
                return Err(DecodeError::Value { what: "k-node", value: node.0.into() });
            }
            node
        };
        let last = last_child(node, previous, degree);
        let derived = match tag & ORIGIN {
            DERIVE_LAST => Some(last.ok_or_else(|| bad_tag.clone())?),
            DERIVE => Some(index(r, degree)?),
            _ => None,
        };
        let origin = match (tag & ORIGIN, derived) {
            (ADVANCE, _) => Origin::Advance,
            (DERIVE, Some(child)) if Some(child) == last => return Err(bad_tag),
            (_, Some(child)) => Origin::Derive { child },
            _ => Origin::Fresh,
        };
        let children = match tag & CHILDREN {
            0 => Vec::new(),
            ALL if degree == Degree::STAR => return Err(bad_tag),
            ALL => (0..degree.get()).filter(|child| Some(*child) != derived).collect(),
            ONE => vec![index(r, degree)?],
            _ => set(r, degree)?,
        };
        let shortest = match tag & CHILDREN {
            ONE => !is_all(&children, derived, degree),
            SOME => children.len() > 1 && !is_all(&children, derived, degree),
            _ => true,
        };
        // In a star an octet names eight children: no room for their wraps before there are as many octets.
        if children.len() > r.left() {
            return Err(DecodeError::Truncated { what: "wraps", need: children.len(), have: r.left() });
        }
        if !shortest || children.iter().any(|child| Some(*child) == derived) {
            return Err(bad_tag);
        }
        Ok(Self {
            node,
            origin,
            own: (tag & OWN != 0).then_some([0; 32]),
            children: children.into_iter().map(|child| (child, [0; 32])).collect(),
            again: (tag & AGAIN != 0).then_some([0; 32]),
        })
    }
}

fn implied(previous: Option<NodeId>, degree: Degree) -> Option<NodeId> {
    previous.and_then(|previous| ids::parent(previous, degree))
}

/// Index of the child of `node` that the entry before is, or stands below of.
fn last_child(node: NodeId, previous: Option<NodeId>, degree: Degree) -> Option<u32> {
    ids::child_index(ids::child_towards(node, previous?, degree)?, degree)
}

fn is_all(children: &[u32], derived: Option<u32>, degree: Degree) -> bool {
    degree != Degree::STAR && (0..degree.get()).filter(|child| Some(*child) != derived).eq(children.iter().copied())
}

/// An index among children: one octet in a tree, four in a star.
fn put_index(out: &mut Vec<u8>, degree: Degree, child: u32) {
    match u8::try_from(child) {
        Ok(child) if degree != Degree::STAR => out.push(child),
        _ => out.extend_from_slice(&child.to_be_bytes()),
    }
}

fn index(r: &mut Reader<'_>, degree: Degree) -> Result<u32, DecodeError> {
    let child = if degree == Degree::STAR { r.u32("child")? } else { r.u8("child")?.into() };
    if child < degree.get() { Ok(child) } else { Err(DecodeError::Value { what: "child", value: child.into() }) }
}

/// A set of children as bits, lowest first: ⌈degree / 8⌉ octets in a tree; in a star, where only as many as are needed
/// stand, their number (4 octets) before them.
pub(super) fn put_set(out: &mut Vec<u8>, degree: Degree, children: &[u32]) {
    let octet = |child: u32| usize::try_from(child / 8).unwrap_or(usize::MAX);
    let octets = match degree {
        Degree::STAR => children.last().map_or(0, |last| octet(*last) + 1),
        _ => octet(degree.get() - 1) + 1,
    };
    if degree == Degree::STAR {
        out.extend_from_slice(&u32::try_from(octets).unwrap_or(u32::MAX).to_be_bytes());
    }
    let first = out.len();
    out.resize(first + octets, 0);
    for child in children {
        out[first + octet(*child)] |= 1 << (child % 8);
    }
}

pub(super) fn set(r: &mut Reader<'_>, degree: Degree) -> Result<Vec<u32>, DecodeError> {
    let octets = match degree {
        Degree::STAR => r.u32("children")?,
        _ => degree.get().div_ceil(8),
    };
    let bits = r.take(usize::try_from(octets).unwrap_or(usize::MAX), "children")?;
    let mut children = Vec::new();
    for (octet, first) in bits.iter().zip((0u32..).step_by(8)) {
        children.extend((0..8).filter(|bit| octet & (1 << bit) != 0).map(|bit| first + bit));
    }
    match children.last() {
        Some(last) if *last >= degree.get() => Err(DecodeError::Value { what: "child", value: (*last).into() }),
        _ if degree == Degree::STAR && bits.last() == Some(&0) => {
            Err(DecodeError::Value { what: "children", value: octets.into() })
        }
        _ => Ok(children),
    }
}
