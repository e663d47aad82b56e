//! The epoch's header: equal in all messages and units of an epoch, and chained by hash.

use aws_lc_rs::digest::{SHA256, digest};

use crate::codec::{DecodeError, Reader};
use crate::schedule::EpochContext;
use crate::{GroupId, Suite};

/// Random name of a key server's reign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation(pub [u8; 16]);

/// Public check value of a root secret: a group key is installed only if it matches the signed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commitment(pub [u8; 32]);

/// SHA-256 over an epoch's header and commitment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderHash(pub [u8; 32]);

impl HeaderHash {
    /// What the first epoch of a group points back to.
    pub const NONE: Self = Self([0; 32]);
}

/// Names an epoch and the one before it. 69 octets on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochHeader {
    /// The group's suite.
    pub suite: Suite,
    /// The group.
    pub group: GroupId,
    /// The reign in which the epoch was made.
    pub incarnation: Incarnation,
    /// Number of that reign.
    pub term: u64,
    /// Number of the group's key.
    pub epoch: u64,
    /// Hash of the epoch before.
    pub previous: HeaderHash,
}

impl EpochHeader {
    /// Octets on the wire.
    pub const LEN: usize = 1 + 4 + 16 + 8 + 8 + 32;

    /// The context that all keys of this epoch are bound to.
    pub fn context(&self) -> EpochContext {
        EpochContext {
            suite: self.suite,
            group: self.group,
            incarnation: self.incarnation,
            term: self.term,
            epoch: self.epoch,
        }
    }

    /// Hash that the next epoch points back to.
    pub fn hash(&self, commitment: &Commitment) -> HeaderHash {
        let mut input = b"keystone/1 epoch\0".to_vec();
        self.encode(&mut input);
        input.extend_from_slice(&commitment.0);
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &input).as_ref());
        HeaderHash(out)
    }

    /// Appends the 69 octets.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.suite as u8);
        out.extend_from_slice(&self.group.0.to_be_bytes());
        out.extend_from_slice(&self.incarnation.0);
        out.extend_from_slice(&self.term.to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.previous.0);
    }

    /// Reads the 69 octets. An unknown suite is refused here, so the rest of the code never sees one.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            suite: Suite::try_from(r.u8("suite")?)?,
            group: GroupId(r.u32("group")?),
            incarnation: Incarnation(r.array("incarnation")?),
            term: r.u64("term")?,
            epoch: r.u64("epoch")?,
            previous: HeaderHash(r.array("previous header hash")?),
        })
    }
}
