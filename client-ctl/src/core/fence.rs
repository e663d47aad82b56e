//! What a client remembers of everything signed that it has ever seen of a group, so that nothing older, and no
//! second truth, is believed later.

use protocol::{Beacon, Commitment, EpochContext, GroupId, HeaderHash, Incarnation};

/// Two signed statements that cannot both be true; in what they differ.
pub(super) type Conflict = &'static str;

#[derive(Debug, Default)]
pub(super) struct Fence {
    id: Option<GroupId>,
    /// Highest (term, epoch).
    seen: (u64, u64),
    /// The reign of that term.
    incarnation: Option<Incarnation>,
    /// Highest counter of a beacon of that reign.
    counter: u64,
    /// What the newest beacon says of its epoch.
    claim: Option<((u64, u64), Commitment, HeaderHash)>,
    /// That beacon, to be shown to a key server that has lost something.
    evidence: Vec<u8>,
}

impl Fence {
    pub(super) fn id(&self) -> Option<GroupId> {
        self.id
    }

    pub(super) fn seen(&self) -> (u64, u64) {
        self.seen
    }

    /// An earlier reign than one that was seen: its word counts no more.
    pub(super) fn is_past(&self, term: u64) -> bool {
        term < self.seen.0
    }

    /// One term has one incarnation.
    pub(super) fn same_reign(&self, context: &EpochContext) -> Result<(), Conflict> {
        match self.incarnation {
            Some(known) if context.term == self.seen.0 && known != context.incarnation => {
                Err("another incarnation under the same term")
            }
            _ => Ok(()),
        }
    }

    /// One epoch has one commitment and one header.
    pub(super) fn same_claim(
        &self,
        at: (u64, u64),
        commitment: &Commitment,
        hash: &HeaderHash,
    ) -> Result<(), Conflict> {
        match &self.claim {
            Some((claimed, ..)) if *claimed != at => Ok(()),
            Some((_, c, _)) if c != commitment => Err("another commitment for the same epoch"),
            Some((_, _, h)) if h != hash => Err("another header for the same epoch"),
            _ => Ok(()),
        }
    }

    /// Whether this beacon can be told to be old without looking at its signature.
    pub(super) fn is_replay(&self, beacon: &Beacon) -> bool {
        let same = Some(beacon.context.incarnation) == self.incarnation;
        self.is_past(beacon.context.term)
            || (beacon.context.term == self.seen.0 && same && beacon.counter <= self.counter)
    }

    /// Remembers a verified (term, epoch).
    pub(super) fn raise(&mut self, context: &EpochContext) {
        self.id = Some(context.group);
        if context.term > self.seen.0 || self.incarnation.is_none() {
            self.incarnation = Some(context.incarnation);
            self.counter = 0;
        }
        self.seen = self.seen.max((context.term, context.epoch));
    }

    /// The newest beacon, as it was signed; empty before the first.
    pub(super) fn evidence(&self) -> &[u8] {
        &self.evidence
    }

    /// Remembers a verified beacon that contradicts nothing, and the datagram that it is.
    pub(super) fn raise_by(&mut self, beacon: &Beacon, datagram: &[u8]) {
        let at = (beacon.context.term, beacon.context.epoch);
        self.raise(&beacon.context);
        self.counter = self.counter.max(beacon.counter);
        if self.claim.is_none_or(|(claimed, ..)| claimed <= at) {
            self.claim = Some((at, beacon.commitment, beacon.header_hash));
            self.evidence = datagram.to_vec();
        }
    }
}
