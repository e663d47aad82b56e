//! The beacon: a small signed datagram, every few seconds, that says which epoch is the newest. Without it a
//! member that missed the last message before a quiet time would never know.

use crate::codec::{DecodeError, Reader};
use crate::header::{Commitment, HeaderHash, Incarnation};
use crate::schedule::EpochContext;
use crate::sign::{RSA_SIGNATURE, SignatureError, SigningKey, VerifyingKey, verify_any};
use crate::tag::{TAG, TagKey};
use crate::unit::{Kind, TYPE_BEACON, kind, prefix};
use crate::{GroupId, Suite};

/// The newest epoch of a group, and what members need to know to be sure of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// Suite, group, reign and epoch.
    pub context: EpochContext,
    /// Check value of the epoch's root secret.
    pub commitment: Commitment,
    /// Hash of the epoch's header.
    pub header_hash: HeaderHash,
    /// Rises with every beacon of a reign.
    pub counter: u64,
    /// Milliseconds until the next beacon; three times without one is silence.
    pub interval_ms: u32,
    /// A member waits a random time below this, in milliseconds, before it asks to re-synchronize.
    pub resync_wait_ms: u32,
    /// Members whose ID number this divides report what they lose; nobody, if it is 0.
    pub report_one_in: u32,
}

impl Beacon {
    const UNSIGNED: usize = 4 + 37 + 32 + 32 + 8 + 4 + 4 + 4;
    /// Octets of a signed beacon at the most.
    pub const MAX_LEN: usize = Self::UNSIGNED + RSA_SIGNATURE + TAG;

    /// Encodes and signs. `tag` is of the beacon's epoch.
    ///
    /// Errors: the key does not sign for the group's suite.
    pub fn sign(&self, key: &SigningKey, tag: &TagKey) -> Result<Vec<u8>, SignatureError> {
        let mut out = Vec::with_capacity(Self::MAX_LEN);
        out.extend_from_slice(&prefix(TYPE_BEACON));
        out.push(self.context.suite as u8);
        out.extend_from_slice(&self.context.group.0.to_be_bytes());
        out.extend_from_slice(&self.context.incarnation.0);
        out.extend_from_slice(&self.context.term.to_be_bytes());
        out.extend_from_slice(&self.context.epoch.to_be_bytes());
        out.extend_from_slice(&self.commitment.0);
        out.extend_from_slice(&self.header_hash.0);
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&self.interval_ms.to_be_bytes());
        out.extend_from_slice(&self.resync_wait_ms.to_be_bytes());
        out.extend_from_slice(&self.report_one_in.to_be_bytes());
        let signature = key.sign(self.context.suite, &signed(&out))?;
        out.extend_from_slice(&signature);
        tag.append(&mut out);
        Ok(out)
    }

    /// Reads without verifying, to tell which group is meant.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        if kind(datagram)? != Kind::Beacon {
            return Err(DecodeError::Value { what: "type", value: 1 });
        }
        let mut r = Reader::new(&datagram[4..]);
        let context = EpochContext {
            suite: Suite::try_from(r.u8("suite")?)?,
            group: GroupId(r.u32("group")?),
            incarnation: Incarnation(r.array("incarnation")?),
            term: r.u64("term")?,
            epoch: r.u64("epoch")?,
        };
        let beacon = Self {
            context,
            commitment: Commitment(r.array("commitment")?),
            header_hash: HeaderHash(r.array("header hash")?),
            counter: r.u64("counter")?,
            interval_ms: r.u32("interval")?,
            resync_wait_ms: r.u32("re-synchronization wait")?,
            report_one_in: r.u32("sample")?,
        };
        r.take(context.suite.signature_len(), "signature")?;
        r.take(TAG, "tag")?;
        r.end("beacon")?;
        Ok(beacon)
    }

    /// Verifies the signature of a datagram that [`Beacon::decode`] has read.
    pub fn verify(datagram: &[u8], keys: &[VerifyingKey]) -> Result<(), SignatureError> {
        let suite = Self::decode(datagram).map_err(|_| SignatureError::Invalid)?.context.suite;
        let (body, rest) = datagram.split_at(Self::UNSIGNED);
        let (signature, _) = rest.split_at(rest.len() - TAG);
        verify_any(keys, suite, &signed(body), signature)
    }
}

fn signed(body: &[u8]) -> Vec<u8> {
    [b"keystone/1 beacon\0", body].concat()
}
