//! What must hold of a sealed reply before it is believed. The session proves who speaks; only the beacon's signature
//! proves what is true.

use protocol::codec::DecodeError;
use protocol::request::Membership;
use protocol::{Beacon, GroupId, VerifyingKey};
use thiserror::Error;

use super::fence::{Conflict, Fence};
use super::member::Member;

/// Why a sealed reply is not believed. The key server is to blame; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ReplyError {
    #[error("the outcome does not answer the operation")]
    Mismatch,
    #[error("the beacon is malformed: {0}")]
    Beacon(#[from] DecodeError),
    #[error("the beacon is not signed by a key of the site certificate; there may be a newer certificate")]
    Signature,
    #[error("the beacon is for group {got}, expected {expected}")]
    Group { expected: GroupId, got: GroupId },
    #[error("the root secret does not match the beacon's commitment")]
    Commitment,
    #[error("it is of (term, epoch) {got:?}, and {seen:?} was seen signed")]
    Older { seen: (u64, u64), got: (u64, u64) },
    #[error("{0}")]
    Conflict(Conflict),
    #[error("an earlier key of epoch {got}, expected {joined} to {present} without the last")]
    Earlier { got: u64, joined: u64, present: u64 },
}

/// The reply's beacon, if the reply can be believed in the light of everything seen before.
pub(super) fn check(
    membership: &Membership,
    fence: &Fence,
    former: Option<&Member>,
    keys: &[VerifyingKey],
) -> Result<Beacon, ReplyError> {
    let beacon = Beacon::decode(&membership.beacon)?;
    Beacon::verify(&membership.beacon, keys).map_err(|_| ReplyError::Signature)?;
    let context = beacon.context;
    if let Some(expected) = fence.id().filter(|id| *id != context.group) {
        return Err(ReplyError::Group { expected, got: context.group });
    }
    if membership.path.commitment(&context) != Some(beacon.commitment) {
        return Err(ReplyError::Commitment);
    }
    let (seen, got) = (fence.seen(), (context.term, context.epoch));
    if got < seen {
        return Err(ReplyError::Older { seen, got });
    }
    fence
        .same_reign(&context)
        .and_then(|()| fence.same_claim(got, &beacon.commitment, &beacon.header_hash))
        .and_then(|()| former.map_or(Ok(()), |member| member.agrees(&beacon)))
        .map_err(ReplyError::Conflict)?;
    let (joined, present) = (membership.joined_epoch, context.epoch);
    if let Some(key) = membership.earlier.iter().find(|key| !(joined..present).contains(&key.epoch)) {
        return Err(ReplyError::Earlier { got: key.epoch, joined, present });
    }
    if joined > present {
        return Err(ReplyError::Earlier { got: present, joined, present });
    }
    Ok(beacon)
}
